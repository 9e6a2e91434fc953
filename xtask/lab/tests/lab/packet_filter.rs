//! The packet filter of a node beside other people's: chains that drop what is forwarded, rules that are flushed, agents that begin and
//! end, and what is left behind.

use crate::check::{self, end, eventually};
use crate::harness::{Group, note};
use crate::service_rules::{self, Proxy, Service, VIP};
use anyhow::{Context as _, ensure};
use overlay_lab::agent::{ReceiveMode, binary};
use overlay_lab::command;
use overlay_lab::lab::{Endpoint, Lab, LabConfig};
use overlay_lab::netns::Ns;
use overlay_lab::node::Node;
use overlay_lab::probe::ping;
use overlay_lab::underlay::OUTSIDE;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt as _;
use std::thread;
use std::time::{Duration, Instant};

/// How long an agent may take to notice something it is not told of.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long until flushed rules have to be back.
const BACK_WITHIN: Duration = Duration::from_secs(1);

/// Rules as Docker leaves them.
const DOCKER: &str = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n:DOCKER-USER - [0:0]\n:DOCKER-FORWARD - [0:0]\n\
    -A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-FORWARD\n-A DOCKER-FORWARD -i docker0 -o docker0 -j DROP\nCOMMIT\n\
    *nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\nCOMMIT\n";

const CLIENT: &str = "node-1-pod-1";
const REMOTE: Service = Service { port: 8001, backend: "node-2-pod-1" };
const BACKEND_PORT: u16 = 8080;

pub(crate) fn groups() -> Vec<Group> {
    let config = LabConfig { receive_mode: ReceiveMode::Tc, nodes: 2, pods: 2, ..LabConfig::default() };
    vec![
        Group::new("packet filter", config)
            .case("rules that somebody flushes are back within a second", flushed)
            .case("an agent that is killed and started again leaves the rules as they are", restarted)
            .case("pods leave and are reached where Docker's policy drops what is forwarded", |lab| dropping(lab, "iptables-nft"))
            .case("the same with iptables of the older kind", |lab| dropping(lab, "iptables-legacy"))
            .case("Services work where the policy drops what is forwarded", services)
            .case("a chain that cannot be mended is named, until it is mended", named)
            .case("without nft the status names the package, and pods talk", without_nft)
            .case("cleanup leaves the rules byte for byte as they were", |lab| {
                cleaned_up(lab, "")?;
                cleaned_up(lab, DOCKER)
            }),
    ]
}

/// All rules of nftables with their numbers, without what they have counted.
fn ruleset(ns: &Ns) -> anyhow::Result<String> {
    ns.run("nft", "-s -a list ruleset")
}

/// Feeds a program in a node's namespace.
fn feed(ns: &Ns, program: &str, input: &str) -> anyhow::Result<()> {
    let mut words = program.split_whitespace();
    let mut command = ns.command(words.next().context("no program")?);
    command::run_with_input(command.args(words), input).map(drop)
}

/// One ping, answered or not.
fn answers(from: &Endpoint<'_>, to: Ipv4Addr) -> anyhow::Result<()> {
    ensure!(ping::once(from.ns, to)?.is_some(), "{} gets no answer from {to}", from.name);
    Ok(())
}

fn flushed(lab: &mut Lab) -> anyhow::Result<()> {
    let ns = &lab.nodes[0].ns;
    let right = ns.run("nft", "list table ip overlay")?;
    for what in ["flush ruleset", "delete table ip overlay", "flush table ip overlay", "flush chain ip overlay postrouting"] {
        ns.run("nft", what)?;
        let start = Instant::now();
        loop {
            let now = command::output(ns.command("nft").args(["list", "table", "ip", "overlay"]))?;
            if String::from_utf8_lossy(&now.stdout) == right {
                break;
            }
            ensure!(start.elapsed() < BACK_WITHIN, "`nft {what}`: not back after {BACK_WITHIN:?}: {now:?}");
            thread::sleep(Duration::from_millis(2));
        }
        note(format!("`nft {what}`: back after {:.0?}", start.elapsed()));
    }
    answers(&end(lab, CLIENT)?, OUTSIDE)
}

fn restarted(lab: &mut Lab) -> anyhow::Result<()> {
    feed(&lab.nodes[0].ns, "iptables-nft-restore", DOCKER)?;
    eventually(PATIENCE, || answers(&end(lab, CLIENT)?, OUTSIDE))?;
    let before = ruleset(&lab.nodes[0].ns)?;
    for stop in [Node::kill_agent, Node::stop_agent] {
        let node = &mut lab.nodes[0];
        stop(node)?;
        ensure!(ruleset(&node.ns)? == before, "the rules went with the agent");
        answers(&end(lab, CLIENT)?, OUTSIDE)?;
        lab.nodes[0].start_agent()?;
        let after = ruleset(&lab.nodes[0].ns)?;
        ensure!(after == before, "before:\n{before}\nafter:\n{after}");
    }
    lab.nodes[0].ns.run("nft", "flush ruleset").map(drop)
}

/// Looks again by an event of any kind: legacy rules have none of their own.
fn nudge(ns: &Ns) -> anyhow::Result<()> {
    ns.ip("link set lo mtu 65000")?;
    ns.ip("link set lo mtu 65536").map(drop)
}

fn dropping(lab: &mut Lab, kind: &str) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    feed(&node.ns, &format!("{kind}-restore"), DOCKER)?;
    nudge(&node.ns)?;
    let (pod, outside) = (end(lab, CLIENT)?, lab.outside());
    eventually(PATIENCE, || answers(&pod, OUTSIDE))?;
    check::reaches(&pod, &outside)?;
    check::reaches(&outside, &pod)?;
    let other = end(lab, "node-2")?;
    check::reaches(&pod, &other)?;
    let status = node.status()?;
    ensure!(status["firewall"]["opened"][0] == format!("FORWARD of {kind}") && status["healthy"] == true, "{status}");
    // The rules are what it took.
    let rules = node.ns.run(kind, "-S FORWARD")?;
    ensure!(rules.matches("--comment overlay-agent").count() == 4, "{rules}");
    node.ns.run(kind, "-P FORWARD ACCEPT")?;
    nudge(&node.ns)?;
    eventually(PATIENCE, || {
        let rules = node.ns.run(kind, "-S FORWARD")?;
        ensure!(!rules.contains("overlay-agent"), "{rules}");
        Ok(())
    })?;
    node.ns.run(kind, "-F")?;
    node.ns.run(kind, "-t nat -F").map(drop)
}

/// By kube-proxy's rules and a policy that drops: what they let pass is only what was answered before, or marked.
fn services(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    service_rules::publish(lab, Proxy::Iptables, &[REMOTE], BACKEND_PORT)?;
    node.ns.run("iptables", "-P FORWARD DROP")?;
    let rules = || node.ns.run("iptables", "-S FORWARD");
    eventually(PATIENCE, || {
        let rules = rules()?;
        ensure!(rules.contains("overlay-agent"), "{rules}");
        Ok(())
    })?;
    let backend = end(lab, REMOTE.backend)?;
    let listener = backend.ns.tcp_listener(backend.address, BACKEND_PORT)?;
    let node_port = SocketAddrV4::new(node.address, REMOTE.node_port());
    for (client, target) in
        [(CLIENT, SocketAddrV4::new(VIP, REMOTE.port)), (CLIENT, node_port), ("outside", node_port), ("node-2-pod-2", node_port)]
    {
        let start = Instant::now();
        end(lab, client)?.ns.tcp_connect(target).with_context(|| client.to_owned())?;
        listener.accept()?;
        ensure!(start.elapsed() < Duration::from_millis(900), "{client} to {target} took {:?}", start.elapsed());
    }
    node.ns.run("nft", "flush ruleset").map(drop)
}

fn named(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    eventually(PATIENCE, || answers(&end(lab, CLIENT)?, OUTSIDE))?;
    let chain = |rules: &str| {
        format!(
            "table inet firewalld {{ chain filter_FORWARD {{ type filter hook forward priority filter + 10; policy accept; \
             ct state established,related accept; {rules} reject with icmpx admin-prohibited; }}; }}"
        )
    };
    feed(&node.ns, "nft -f -", &chain(""))?;
    let healthy = |wanted: bool| {
        eventually(PATIENCE, || {
            let status = node.status()?;
            let problems = status["problems"].to_string();
            let names = problems.contains("chain inet firewalld filter_FORWARD") && problems.contains("--add-source=10.244.1.0/24");
            ensure!(status["healthy"] == wanted && names != wanted, "{problems}");
            Ok(())
        })
    };
    healthy(false)?;
    let pod = end(lab, CLIENT)?;
    ensure!(answers(&pod, OUTSIDE).is_err(), "the chain stops nothing: this test shows nothing");
    // The fast path does not meet it.
    answers(&pod, end(lab, "node-2-pod-1")?.address)?;
    // As firewall-cmd replaces its table.
    feed(
        &node.ns,
        "nft -f -",
        &format!("delete table inet firewalld\n{}", chain("ip saddr 10.244.1.0/24 accept; ip daddr 10.244.1.0/24 accept;")),
    )?;
    healthy(true)?;
    answers(&pod, OUTSIDE)?;
    node.ns.run("nft", "delete table inet firewalld").map(drop)
}

fn without_nft(lab: &mut Lab) -> anyhow::Result<()> {
    // Nothing below /run may be executed.
    let directory = tempfile::tempdir()?;
    let program = directory.path().join("agent-without-programs");
    fs::write(&program, format!("#!/bin/sh\nPATH=/nowhere exec {} \"$@\"\n", binary()?.display()))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let node = &mut lab.nodes[0];
    node.stop_agent()?;
    node.cleanup()?;
    node.pods.clear();
    node.config.binary = Some(program);
    node.start_agent()?;
    node.add_pods(2)?;
    let problems = node.status()?["problems"].to_string();
    ensure!(problems.contains("nft is not installed; install the package nftables"), "{problems}");
    check::all_pods(lab)?;
    let node = &mut lab.nodes[0];
    node.stop_agent()?;
    node.config.binary = None;
    node.start_agent()?;
    let status = node.status()?;
    ensure!(status["healthy"] == true && status["firewall"]["table"] == "ip overlay", "{status}");
    Ok(())
}

fn cleaned_up(lab: &mut Lab, rules: &str) -> anyhow::Result<()> {
    let node = &mut lab.nodes[0];
    node.stop_agent()?;
    node.cleanup()?;
    node.pods.clear();
    node.ns.run("nft", "flush ruleset")?;
    for kind in ["iptables-nft", "iptables-legacy"] {
        if !rules.is_empty() {
            feed(&node.ns, &format!("{kind}-restore"), rules)?;
        }
    }
    let all = |ns: &Ns| -> anyhow::Result<Vec<String>> {
        let text = format!("{}{}", ns.run("nft", "-s list ruleset")?, ns.run("iptables-legacy-save", "")?);
        // The comments tell the time, and the counters who was there.
        Ok(text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(" [").next().unwrap_or(line).to_owned()).collect())
    };
    let before = all(&node.ns)?;
    node.start_agent()?;
    node.add_pods(2)?;
    ensure!(all(&node.ns)? != before, "no rule was written");
    answers(&end(lab, CLIENT)?, OUTSIDE)?;
    let node = &mut lab.nodes[0];
    node.stop_agent()?;
    let said = node.cleanup()?;
    node.pods.clear();
    ensure!(said.contains("removed nftables table ip overlay"), "{said}");
    ensure!(said.matches("removed rules in FORWARD of iptables").count() == if rules.is_empty() { 0 } else { 2 }, "{said}");
    let after = all(&node.ns)?;
    ensure!(after == before, "before:\n{}\nafter:\n{}", before.join("\n"), after.join("\n"));
    node.ns.run("nft", "flush ruleset")?;
    node.ns.run("iptables-legacy", "-P FORWARD ACCEPT")?;
    node.start_agent()?;
    node.add_pods(2)
}
