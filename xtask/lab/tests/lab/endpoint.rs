//! What the agent answers over HTTP, asked from within its node as the kubelet asks.

use crate::check::eventually;
use crate::harness::Group;
use anyhow::{Context as _, ensure};
use overlay_lab::lab::{Lab, LabConfig};
use overlay_lab::netns::Ns;
use overlay_lab::node::Node;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

/// Where the agent answers unless told otherwise.
pub(crate) const PLACE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8473);

/// How long an agent may take to notice something.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn groups() -> Vec<Group> {
    let group = Group::new("health and metrics", LabConfig { nodes: 2, ..LabConfig::default() })
        .case("a node is ready with its first whole pass and not before", ready)
        .case("metrics count what the maps hold and what the programs did", metrics)
        .case("a port that is taken is told, and taken when it is free", port_taken)
        .case("an agent that answers nowhere works", off);
    vec![group]
}

/// Code and body of an answer.
pub(crate) fn ask(ns: &Ns, path: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = ns.tcp_connect(PLACE)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("no answer")?;
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).with_context(|| format!("no code: {answer}"))?;
    Ok((code, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()))
}

/// The value of a sample, by all that stands before it.
fn sample(text: &str, name: &str) -> anyhow::Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).with_context(|| format!("no {name} in\n{text}"))?;
    line.parse().with_context(|| format!("{name} {line}"))
}

/// Starts the node's agent anew, with more flags than it had.
fn restart(node: &mut Node, flags: &[&str]) -> anyhow::Result<()> {
    node.config.extra.extend(flags.iter().map(|flag| (*flag).to_owned()));
    node.stop_agent()?;
    node.spawn_agent()
}

fn ready(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &mut lab.nodes[0];
    ensure!(ask(&node.ns, "/readyz")? == (200, "ok\n".to_owned()), "{:?}", ask(&node.ns, "/readyz"));
    let file = node.config.nodes_file.replace(node.config.state_dir.join("later.json")).context("it follows a file")?;
    restart(node, &[])?;
    eventually(PATIENCE, || {
        let (code, why) = ask(&node.ns, "/readyz")?;
        ensure!(code == 503 && why.contains("no list of nodes yet") && why.contains("later.json"), "{code}: {why}");
        Ok(())
    })?;
    ensure!(ask(&node.ns, "/healthz")? == (200, "ok\n".to_owned()), "no list is no reason to start anew");
    let (_, text) = ask(&node.ns, "/metrics")?;
    // The data path is the last agent's, and is counted.
    for line in ["overlay_ready 0", "overlay_passes_total 0", "overlay_map_entries{map=\"SUBNETS\"} 1"] {
        ensure!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }

    let place = node.config.nodes_file.replace(file.clone()).context("it follows a file")?;
    fs::copy(&file, &place)?;
    eventually(PATIENCE, || {
        let (code, why) = ask(&node.ns, "/readyz")?;
        ensure!(code == 200, "{code}: {why}");
        Ok(())
    })?;
    restart(node, &[])?;
    node.wait_ready().map(drop)
}

fn metrics(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    let encapsulated = "overlay_packets_total{flow=\"pod_encap\"}";
    let (_, before) = ask(&node.ns, "/metrics")?;
    crate::check::all_pods_answer(lab)?;
    let (code, after) = ask(&node.ns, "/metrics")?;
    ensure!(code == 200 && after.ends_with("# EOF\n"), "{code}: {after}");
    ensure!(sample(&after, encapsulated)? > sample(&before, encapsulated)?, "nothing was counted:\n{after}");
    for (name, value) in [
        ("overlay_ready", 1.0),
        ("overlay_nodes", 2.0),
        ("overlay_nodes_rejected", 0.0),
        ("overlay_passes_failed_total", 0.0),
        ("overlay_source_healthy{kind=\"file\"}", 1.0),
        ("overlay_map_entries{map=\"SUBNETS\"}", 1.0),
        ("overlay_map_entries{map=\"NODES\"}", 1.0),
        ("overlay_map_entries{map=\"PODS\"}", f64::from(u32::try_from(node.pods.len())?)),
    ] {
        ensure!((sample(&after, name)? - value).abs() < 0.1, "{name} is not {value}:\n{after}");
    }
    ensure!(sample(&after, "overlay_pass_duration_seconds_count")? >= 1.0, "{after}");
    Ok(())
}

fn port_taken(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &mut lab.nodes[0];
    node.stop_agent()?;
    let taken = node.ns.tcp_listener(*PLACE.ip(), PLACE.port())?;
    node.spawn_agent()?;
    // The rest goes on.
    node.wait_ready()?;
    let told = |node: &Node| -> anyhow::Result<bool> { Ok(node.status()?["problems"].to_string().contains("127.0.0.1:8473")) };
    ensure!(told(node)?, "the status does not tell: {}", node.status()?["problems"]);
    drop(taken);
    eventually(PATIENCE, || ask(&node.ns, "/healthz").map(drop))?;
    restart(node, &[])?;
    node.wait_ready()?;
    ensure!(!told(node)?, "{}", node.status()?["problems"]);
    Ok(())
}

fn off(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &mut lab.nodes[0];
    restart(node, &["--listen=off"])?;
    node.wait_ready()?;
    ensure!(node.ns.tcp_connect(PLACE).is_err(), "something answers");
    node.config.extra.retain(|flag| flag != "--listen=off");
    restart(node, &[])?;
    node.wait_ready().map(drop)
}
