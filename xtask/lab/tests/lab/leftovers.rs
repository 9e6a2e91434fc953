//! What flannel leaves on a node, made as flannel makes it: named in the status, removed on demand, and nothing else with it.

use crate::check::{end, eventually, reaches};
use crate::harness::Group;
use anyhow::{Context as _, ensure};
use ipnet::Ipv4Net;
use overlay_lab::agent;
use overlay_lab::command;
use overlay_lab::lab::{Lab, LabConfig};
use overlay_lab::netns::Ns;
use overlay_lab::rules::{Protocol, Rules, Service};
use overlay_lab::sandbox;
use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// Where flannel's daemon tells its plugin of the node's network.
const SUBNET_FILE: &str = "/run/flannel/subnet.env";

pub(crate) fn groups() -> Vec<Group> {
    let config = LabConfig { nodes: 2, foreign: 1, ..LabConfig::default() };
    let group = Group::new("leftovers of flannel", config)
        .case("a node whose tunnel port flannel's device has says so, and works once it is removed", in_the_way)
        .case("nothing is removed unasked", unasked)
        .case("exactly what is flannel's is removed, and nothing of others", exactly);
    vec![group]
}

/// Files of a node that ran flannel. Dropped, they go.
struct Files {
    lists: PathBuf,
}

impl Files {
    fn write(pod_cidr: Ipv4Net) -> anyhow::Result<Self> {
        let lists = Path::new(sandbox::ROOT).join("flannel-lists");
        fs::create_dir_all(&lists)?;
        fs::create_dir_all("/run/flannel")?;
        let gateway = Ipv4Addr::from_bits(pod_cidr.network().to_bits() + 1);
        fs::write(
            SUBNET_FILE,
            format!(
                "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET={gateway}/{}\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
                pod_cidr.prefix_len()
            ),
        )?;
        let flannel =
            r#"{"name":"cbr0","cniVersion":"0.3.1","plugins":[{"type":"flannel","delegate":{"hairpinMode":true}},{"type":"portmap"}]}"#;
        fs::write(lists.join("10-flannel.conflist"), flannel)?;
        fs::write(
            lists.join("20-other.conflist"),
            r#"{"name":"other","cniVersion":"1.0.0","plugins":[{"type":"bridge","bridge":"cni0"}]}"#,
        )?;
        Ok(Self { lists })
    }

    fn are_there(&self) -> bool {
        Path::new(SUBNET_FILE).exists() && self.lists.join("10-flannel.conflist").exists()
    }

    fn command(&self, ns: &Ns, verb: &str) -> anyhow::Result<Command> {
        let mut command = ns.command(agent::binary()?);
        command.arg(verb).arg("--cni-conf-dir").arg(&self.lists);
        Ok(command)
    }

    /// `overlay-agent cleanup --foreign flannel`.
    fn cleanup(&self, ns: &Ns, flags: &[&str]) -> anyhow::Result<Output> {
        command::output(self.command(ns, "cleanup")?.args(["--foreign", "flannel"]).args(flags))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all("/run/flannel");
        let _ = fs::remove_dir_all(&self.lists);
    }
}

/// The rules of a node with kube-proxy and flannel.
fn rules(pod_cidr: Ipv4Net) -> anyhow::Result<Rules> {
    let backend = SocketAddrV4::new(Ipv4Addr::new(10, 244, 1, 11), 8080);
    let address = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 10), 80);
    let service = Service {
        name: "default/web:http".to_owned(),
        protocol: Protocol::Tcp,
        address,
        backends: vec![backend],
        node_port: None,
        affinity: false,
    };
    Ok(Rules { cluster: "10.244.0.0/16".parse()?, services: vec![service], pods: pod_cidr, flannel: true, random_fully: true })
}

fn in_the_way(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &mut lab.nodes[1];
    node.remove_pod()?;
    node.stop_agent()?;
    node.cleanup()?;
    // Before our agent came, flannel was here, for another subnet.
    node.ns.ip("link add flannel.1 mtu 1450 type vxlan id 1 dev eth0 dstport 8472 nolearning")?;
    node.ns.ip("address add 10.244.9.0/32 dev flannel.1")?;
    node.ns.ip("link set flannel.1 up")?;
    node.ns.ip("link add cni0 type bridge")?;
    node.ns.ip("address add 10.244.9.1/24 dev cni0")?;
    node.ns.ip("link set cni0 up")?;
    rules("10.244.9.0/24".parse()?)?.apply(&node.ns)?;
    let files = Files::write("10.244.9.0/24".parse()?)?;
    node.spawn_agent()?;
    let ready = node.wait_ready_within(Duration::from_secs(1));
    ensure!(ready.is_err(), "the agent works beside flannel's device: {ready:?}");
    let status = command::output(node.config.aim(&mut files.command(&node.ns, "status")?))?;
    let text = String::from_utf8(status.stdout)?;
    ensure!(status.status.code() == Some(3), "{:?}: {text}", status.status);
    let names = ["flannel.1", "cni0 (10.244.9.1/24)", SUBNET_FILE, "10-flannel.conflist", "FLANNEL-POSTRTG", "FLANNEL-FWD"];
    let missing: Vec<_> = names.iter().filter(|name| !text.contains(**name)).collect();
    ensure!(missing.is_empty() && text.contains("cleanup --foreign flannel"), "{missing:?} not named:\n{text}");

    let removed = files.cleanup(&node.ns, &["--yes"])?;
    ensure!(removed.status.success(), "{removed:?}");
    node.wait_ready()?;
    node.add_pod()?;
    reaches(&end(lab, "node-2-pod-1")?, &end(lab, "node-1-pod-1")?)
}

fn unasked(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.foreign[0];
    rules(node.pod_cidr)?.apply(&node.ns)?;
    let files = Files::write(node.pod_cidr)?;
    let before = everything(&node.ns)?;
    let refused = files.cleanup(&node.ns, &[])?;
    ensure!(refused.status.code() == Some(2), "without a terminal and without --yes: {refused:?}");
    // On a terminal that script(1) makes.
    let program = command::line(files.command(&node.ns, "cleanup")?.args(["--foreign", "flannel"]));
    let no = command::run_with_input(Command::new("script").args(["--quiet", "--return", "--command", &program, "/dev/null"]), "n\n");
    let no = format!("{:#}", no.err().context("no is no success")?);
    ensure!(no.contains("[y/N]") && no.contains("nothing was removed") && no.contains("exit status: 1"), "{no}");
    let after = everything(&node.ns)?;
    ensure!(files.are_there() && after == before, "changed: {:?}", before.symmetric_difference(&after));
    Ok(())
}

fn exactly(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.foreign[0];
    let files = Files::write(node.pod_cidr)?;
    // Things of others that look like it.
    for words in [
        "link add flannel.x type bridge",
        "link add vxlan7 type vxlan id 7 dstport 4789 dev eth0",
        "link add br-other type bridge",
        "address add 10.88.0.1/16 dev br-other",
        "link set br-other up",
        "route add 10.99.0.0/16 via 192.168.50.1",
    ] {
        node.ns.ip(words)?;
    }
    command::run_with_input(node.ns.command("nft").args(["-f", "-"]), "table ip flannel-other {\n chain a {\n counter\n }\n}\n")?;
    let before = everything(&node.ns)?;
    let removed = files.cleanup(&node.ns, &["--yes"])?;
    ensure!(removed.status.success(), "{removed:?}");
    let said = String::from_utf8(removed.stdout)?;
    ensure!(said.contains("routes to 10.244.1.0/24, 10.244.2.0/24") && said.contains("1 pod that is still on it"), "{said}");
    let after = everything(&node.ns)?;
    let new: Vec<_> = after.difference(&before).collect();
    ensure!(new.is_empty(), "came up: {new:?}");
    let flannels = |line: &&String| ["flannel.1", "cni0", "FLANNEL-"].iter().any(|name| line.contains(name));
    let wrong: Vec<_> = before.difference(&after).filter(|line| !flannels(line)).collect();
    ensure!(wrong.is_empty(), "removed as well: {wrong:?}");
    let left: Vec<_> = after.iter().filter(flannels).collect();
    ensure!(left.is_empty(), "left: {left:?}");
    ensure!(!files.are_there() && files.lists.join("20-other.conflist").exists(), "the wrong files were removed");
    let again = files.cleanup(&node.ns, &[])?;
    ensure!(again.status.success() && String::from_utf8(again.stdout)?.contains("nothing of flannel's"), "there is nothing to ask about");
    eventually(Duration::from_secs(1), || lab.nodes[0].status().map(drop))
}

/// Devices, routes, neighbours and rules of a node, as lines.
fn everything(ns: &Ns) -> anyhow::Result<BTreeSet<String>> {
    let mut lines = BTreeSet::new();
    for words in ["-brief link show", "-4 -oneline address show", "-4 route show table all", "neighbour show nud permanent"] {
        lines.extend(ns.ip(words)?.lines().map(|line| format!("{words}: {}", line.trim())));
    }
    for program in ["iptables-save", "nft list tables"] {
        let (program, arguments) = program.split_once(' ').unwrap_or((program, ""));
        let text = ns.run(program, arguments)?;
        lines.extend(text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{program}: {}", without_counters(line))));
    }
    Ok(lines)
}

/// Counters move by themselves.
fn without_counters(line: &str) -> String {
    let words = line.split_whitespace().filter(|word| !word.starts_with('[') && word.parse::<u64>().is_err());
    words.collect::<Vec<_>>().join(" ")
}
