//! The agent as a program on a node: what it refuses and in which words, what it repairs, what it leaves behind.

use crate::check::{self, end, eventually};
use crate::harness::{Group, note};
use crate::trace::Trace;
use anyhow::{Context as _, bail, ensure};
use overlay_common::abi::map;
use overlay_lab::agent::{ReceiveMode, binary};
use overlay_lab::command;
use overlay_lab::lab::{Lab, LabConfig};
use overlay_lab::node::Node;
use overlay_lab::probe::flood::Flood;
use overlay_lab::sandbox;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

/// How long an agent may take to notice something.
const PATIENCE: Duration = Duration::from_secs(10);

/// Datagrams per second of a flood.
const RATE: u32 = 1000;

pub(crate) fn groups() -> Vec<Group> {
    let config = LabConfig { receive_mode: ReceiveMode::Xdp, nodes: 2, ..LabConfig::default() };
    vec![
        Group::new("the agent on a node", config)
            .case("cleanup removes every trace of agent and pods", cleanup)
            .case("cleanup refuses while an agent runs", |lab| refused_beside(lab, "cleanup", "stop the agent first"))
            .case("a second agent is refused and disturbs nothing", |lab| refused_beside(lab, "run", "another agent is running"))
            .case("the overlay device comes back with everything on it when somebody deletes it", device_deleted)
            .case("a device of ours that somebody changed is repaired", device_changed)
            .case("programs come back when somebody removes their links", links_removed)
            .case("somebody else's device of our name is named and left alone", foreign_device)
            .case("somebody else's vxlan on our port is named and left alone", foreign_vxlan)
            .case("a wrong setting is refused with the nearest name, as wrong usage", wrong_setting)
            .case("an agent without privileges or without bpffs says so in one sentence", not_possible)
            .case("a pinned map of another layout is refused, named and left alone", foreign_map),
    ]
}

/// A node with `number` in the list, without an agent.
fn fresh(lab: &mut Lab, number: u8) -> anyhow::Result<Node> {
    let place = lab.underlay.place(number);
    let node = Node::create(&lab.underlay, place, number, lab.nodes_file.path(), ReceiveMode::Xdp)?;
    lab.nodes_file.entries.push(node.entry());
    lab.nodes_file.write_atomic()?;
    Ok(node)
}

/// Undoes [`fresh`], and waits until the others have forgotten the node.
fn gone(lab: &mut Lab, node: Node) -> anyhow::Result<()> {
    lab.forget(&node.name)?;
    let entry = format!("{} ", node.address);
    drop(node);
    eventually(PATIENCE, || {
        for other in &lab.nodes {
            let neighbours = other.ns.ip("neighbour")?;
            let kept = neighbours.lines().find(|line| line.starts_with(&entry) && line.contains("managed"));
            ensure!(kept.is_none(), "{} still keeps {kept:?}", other.name);
        }
        Ok(())
    })
}

/// Runs `overlay-agent` in the node's namespace to its end. One that does not end is killed: its exit code is then none.
fn overlay_agent(node: &Node, arguments: &[&str]) -> anyhow::Result<Output> {
    let mut command = node.ns.command("timeout");
    command.args(["--signal=KILL", "5"]).arg(binary()?).args(arguments);
    command::output(&mut command)
}

/// The places of a node's agent, as arguments.
fn places(node: &Node) -> anyhow::Result<[&str; 4]> {
    let (bpffs, state_dir) = (node.config.bpffs.to_str(), node.config.state_dir.to_str());
    Ok(["--bpffs", bpffs.context("a path that is no text")?, "--state-dir", state_dir.context("a path that is no text")?])
}

/// It ended with this code, and said in one line what is to be read there.
fn said(output: &Output, code: i32, words: &[&str]) -> anyhow::Result<String> {
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    ensure!(output.status.code() == Some(code), "ended with {}, not {code}: {text}", output.status);
    for word in words {
        ensure!(text.contains(word), "does not say {word:?}: {text}");
    }
    ensure!(!text.contains("panicked"), "{text}");
    Ok(text)
}

fn cleanup(lab: &mut Lab) -> anyhow::Result<()> {
    let mut node = fresh(lab, 9)?;
    let before = Trace::of(&lab.underlay, &node)?;
    node.start_agent()?;
    node.add_pod()?;
    node.add_pod()?;
    let running = Trace::of(&lab.underlay, &node)?;
    ensure!(before.compare(&running).is_err(), "an agent and two pods leave no trace that this test can see");
    node.stop_agent()?;
    let mut arguments = vec!["cleanup"];
    arguments.extend(places(&node)?);
    let output = overlay_agent(&node, &arguments)?;
    ensure!(output.status.success(), "{output:?}");
    // The kernel frees links and devices in the background.
    eventually(Duration::from_secs(3), || before.compare(&Trace::of(&lab.underlay, &node)?))?;
    let again = overlay_agent(&node, &arguments)?;
    ensure!(String::from_utf8_lossy(&again.stdout).trim() == "nothing to remove", "{again:?}");
    node.pods.clear();
    gone(lab, node)
}

/// A second `overlay-agent` with the state directory of a running one says why not, and nothing is lost meanwhile.
fn refused_beside(lab: &mut Lab, verb: &str, words: &str) -> anyhow::Result<()> {
    let node = &lab.nodes[1];
    let mut arguments = vec![verb];
    arguments.extend(places(node)?);
    let nodes_file = lab.nodes_file.path().to_str().context("no text")?;
    if verb == "run" {
        arguments.extend(["--node-name", &node.name, "--nodes-file", nodes_file]);
    }
    let before = (node.status()?, Trace::of(&lab.underlay, node)?);
    let (from, to) = (end(lab, "node-1-pod-1")?, end(lab, "node-2-pod-1")?);
    let flood = Flood::start(from.ns, from.address, to.ns, to.address, RATE)?;
    let output = overlay_agent(node, &arguments);
    let report = flood.stop()?;
    let text = said(&output?, 1, &[words, "another agent is running with the state directory"])?;
    ensure!(text.lines().count() == 1, "{text}");
    ensure!(report.lost() == 0, "{report}");
    before.1.compare(&Trace::of(&lab.underlay, node)?)?;
    let (before, after) = (before.0, node.status()?);
    ensure!(before["last_pass"] == after["last_pass"] && after["running"] == true, "{before}, then {after}");
    Ok(())
}

fn device_deleted(lab: &mut Lab) -> anyhow::Result<()> {
    let (one, other) = (end(lab, "node-1-pod-1")?, end(lab, "node-2-pod-1")?);
    let (host, gateway) = (&lab.nodes[0].ns, lab.nodes[0].gateway());
    let floods = [
        ("pod to pod", Flood::start(one.ns, one.address, other.ns, other.address, RATE)?),
        ("host to a pod elsewhere", Flood::start(host, gateway, other.ns, other.address, RATE)?),
        ("host to its own pod", Flood::start(host, gateway, one.ns, one.address, RATE)?),
    ];
    thread::sleep(Duration::from_millis(200));
    host.ip("link delete ovl0")?;
    thread::sleep(Duration::from_millis(800));
    for (what, flood) in floods {
        let report = flood.stop()?;
        note(format!("overlay device deleted, {what}: {report}"));
        ensure!(report.longest_gap < Duration::from_secs(3) && report.returned > RATE.into(), "{what}: {report}");
    }
    let host = end(lab, "node-1")?;
    for pod in lab.pods() {
        check::reaches(&host, &pod)?;
    }
    check::reaches_at(&other, &host, host.overlay_address)
}

/// Settings of the device changed by hand, each seen and undone.
fn device_changed(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    let (host, pod) = (end(lab, "node-1")?, end(lab, "node-2-pod-1")?);
    let address = format!("address delete {}/32 dev ovl0", node.gateway());
    for change in ["link set ovl0 mtu 1000", "link set ovl0 address 02:00:00:00:00:01", "link set ovl0 down", &address] {
        node.ns.ip(change)?;
        let start = Instant::now();
        let repaired = || -> anyhow::Result<()> {
            ensure!(node.ns.mtu("ovl0")? == 1450 && node.ns.mac("ovl0")? == node.vtep_mac(), "MTU or MAC is not right");
            ensure!(node.ns.ip("-4 address show dev ovl0 up")?.contains(&format!("{}/32", node.gateway())), "not up with its address");
            check::reaches_at(&pod, &host, host.overlay_address)
        };
        eventually(PATIENCE, repaired).with_context(|| change.to_owned())?;
        note(format!("`ip {change}`: undone after {:.0?}", start.elapsed()));
    }
    check::reaches(&host, &pod)
}

/// Every link of a node removed by hand, which takes its programs off all hooks.
fn links_removed(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    let folder = node.pins().join("links");
    let pinned = || -> anyhow::Result<BTreeSet<OsString>> {
        Ok(fs::read_dir(&folder)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>()?)
    };
    let before = pinned()?;
    ensure!(before.len() >= 4, "too few links to begin with: {before:?}");
    for name in &before {
        fs::remove_file(folder.join(name))?;
    }
    let start = Instant::now();
    eventually(PATIENCE, || {
        // No event tells of a link that is gone: this one is a reason to look. A pod gets its program back by the second look.
        node.ns.ip("link set ovl0 mtu 1000")?;
        let now = pinned()?;
        ensure!(now == before, "links are {now:?}, not {before:?}");
        Ok(())
    })?;
    note(format!("links removed: attached anew after {:.0?}", start.elapsed()));
    eventually(PATIENCE, || check::all_pods(lab))
}

/// Waits until the node's status names a problem with all these words.
fn problem(node: &Node, words: &[&str]) -> anyhow::Result<()> {
    eventually(PATIENCE, || {
        let status = node.status()?;
        let problems: Vec<&str> = status["problems"].as_array().into_iter().flatten().filter_map(|problem| problem.as_str()).collect();
        ensure!(problems.iter().any(|problem| words.iter().all(|word| problem.contains(word))), "no problem with {words:?}: {problems:?}");
        Ok(())
    })
}

/// A device as `ip -d link` shows it, without what runs by itself: the timers of a bridge.
fn device(node: &Node, name: &str) -> anyhow::Result<String> {
    let shown = node.ns.ip(&format!("-d link show {name}"))?;
    Ok(shown.lines().filter(|line| !line.contains("_timer")).collect::<Vec<_>>().join("\n"))
}

fn same_device(node: &Node, name: &str, before: &str) -> anyhow::Result<()> {
    let after = device(node, name)?;
    ensure!(before == after, "it was touched, before:\n{before}\nafter:\n{after}");
    Ok(())
}

fn foreign_device(lab: &mut Lab) -> anyhow::Result<()> {
    for (number, kind) in [(10, "bridge"), (11, "vxlan id 77 dstport 4790")] {
        let mut node = fresh(lab, number)?;
        node.ns.ip(&format!("link add ovl0 type {kind}"))?;
        let theirs = device(&node, "ovl0")?;
        node.spawn_agent()?;
        problem(&node, &["ovl0", kind.split_whitespace().next().unwrap_or(kind)])?;
        thread::sleep(Duration::from_millis(300));
        same_device(&node, "ovl0", &theirs)?;
        node.stop_agent()?;
        let mut arguments = vec!["cleanup"];
        arguments.extend(places(&node)?);
        let output = overlay_agent(&node, &arguments)?;
        ensure!(output.status.success(), "{output:?}");
        same_device(&node, "ovl0", &theirs)?;
        node.spawn_agent()?;
        problem(&node, &["ovl0"])?;
        node.ns.ip("link delete ovl0")?;
        node.wait_ready()?;
        gone(lab, node)?;
    }
    Ok(())
}

fn foreign_vxlan(lab: &mut Lab) -> anyhow::Result<()> {
    let mut node = fresh(lab, 12)?;
    node.ns.ip(&format!("link add flannel.1 type vxlan id 1 dev eth0 local {} dstport 8472 nolearning", node.address))?;
    node.ns.ip("link set flannel.1 up")?;
    let theirs = device(&node, "flannel.1")?;
    node.spawn_agent()?;
    problem(&node, &["ovl0", "8472", "flannel.1"])?;
    thread::sleep(Duration::from_millis(700));
    same_device(&node, "flannel.1", &theirs)?;
    node.ns.ip("link delete flannel.1")?;
    node.wait_ready()?;
    gone(lab, node)
}

fn wrong_setting(lab: &mut Lab) -> anyhow::Result<()> {
    let (node, file) = (&lab.nodes[0], scratch("wrong.yaml"));
    let name = file.to_str().context("no text")?;
    let lines: [(&str, &[&str]); 3] = [
        ("vni: 1\nreceiveMode: tc\n", &["wrong.yaml:2:", "\"receiveMode\"", "did you mean \"receive-mode\"?"]),
        ("receive-mode: skb\n", &["wrong.yaml:1:", "receive-mode", "xdp"]),
        ("node_name: a\nmtu: 10\n", &["did you mean \"node-name\"?", "wrong.yaml:2:", "mtu"]),
    ];
    for (text, words) in lines {
        fs::write(&file, text)?;
        said(&overlay_agent(node, &["run", "--config", name])?, 2, words)?;
    }
    said(&overlay_agent(node, &["run", "--config", "/run/overlay/absent.yaml"])?, 2, &["absent.yaml"])?;
    said(&overlay_agent(node, &["run", "--recieve-mode", "tc"])?, 2, &["--receive-mode"])?;
    Ok(())
}

/// A file or directory of this test's own.
fn scratch(name: &str) -> PathBuf {
    Path::new(sandbox::ROOT).join(name)
}

fn not_possible(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    let (state, nodes_file) = (scratch("no-state"), lab.nodes_file.path());
    let run = |before: &[&str], bpffs: &Path| -> anyhow::Result<Output> {
        let mut command: Command = node.ns.command("timeout");
        command.args(["--signal=KILL", "5"]).args(before).arg(binary()?).args(["run", "--node-name", "node-1"]);
        command.arg("--nodes-file").arg(nodes_file).arg("--bpffs").arg(bpffs).arg("--state-dir").arg(&state);
        command::output(&mut command)
    };
    let ordinary = scratch("no-bpffs");
    fs::create_dir_all(&ordinary)?;
    let text = said(&run(&[], &ordinary)?, 1, &["no-bpffs", "mount -t bpf"])?;
    note(format!("without bpffs the agent says: {}", last_line(&text)));
    let text = said(&run(&[], Path::new("/run/overlay/nowhere"))?, 1, &["nowhere", "mount -t bpf"])?;
    note(format!("without a directory there: {}", last_line(&text)));
    let unprivileged = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    let text = said(&run(&unprivileged, &node.config.bpffs)?, 1, &["CAP_"])?;
    note(format!("without privileges the agent says: {}", last_line(&text)));
    Ok(())
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or_default()
}

fn foreign_map(lab: &mut Lab) -> anyhow::Result<()> {
    let mut node = fresh(lab, 13)?;
    let maps = node.pins().join("maps");
    fs::create_dir_all(&maps)?;
    let pin = maps.join(map::PODS);
    let mut command = Command::new("bpftool");
    command.args(["map", "create"]).arg(&pin).args(["type", "hash", "key", "4", "value", "8", "entries", "16", "name", "PODS"]);
    command::run(&mut command)?;
    let show = || command::run(Command::new("bpftool").args(["map", "show", "pinned"]).arg(&pin));
    let theirs = show()?;
    node.spawn_agent()?;
    let Err(error) = node.wait_ready() else { bail!("the agent took a map of another layout") };
    let text = format!("{error:#}");
    for word in ["maps/PODS", "value", "overlay-agent cleanup"] {
        ensure!(text.contains(word), "does not say {word:?}: {text}");
    }
    ensure!(show()? == theirs, "the map was touched");
    note(format!("a map of another layout: {}", last_line(&text).trim()));
    node.kill_agent()?;
    fs::remove_file(&pin)?;
    node.start_agent()?;
    gone(lab, node)
}
