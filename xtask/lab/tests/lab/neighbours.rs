//! Next hops: not known yet, forgotten, moved to another MAC, gone, back. What is measured is how long pods do not talk.
//!
//! The kernel takes half a minute to doubt an address it knows (`base_reachable_time_ms`); where a case has to wait for that, the time is
//! set to a second first, as the notes say.

use crate::check::{end, eventually};
use crate::harness::{Group, counters, note};
use crate::outage::{PATIENCE, RATE, arrive, outage};
use anyhow::{Context as _, ensure};
use overlay_agent::datapath::{PinDir, Tables};
use overlay_lab::agent::ReceiveMode;
use overlay_lab::capture::Capture;
use overlay_lab::lab::{Lab, LabConfig};
use overlay_lab::netns::Ns;
use overlay_lab::node::Node;
use overlay_lab::probe::flood::Flood;
use overlay_lab::underlay::{Kind, Underlay};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) fn groups() -> Vec<Group> {
    let flat = LabConfig { receive_mode: ReceiveMode::Tc, nodes: 3, ..LabConfig::default() };
    let xdp = LabConfig { receive_mode: ReceiveMode::Xdp, nodes: 2, ..LabConfig::default() };
    let routed = LabConfig { underlay: Kind::Routed, nodes: 2, ..LabConfig::default() };
    vec![
        Group::new("next hops", flat)
            .case("packets to a next hop nobody has resolved wait in the kernel and arrive, the first one too", unresolved)
            .case("nothing is lost when the neighbour table is flushed under traffic", flushed)
            .case("a node that joins is reached, and no packet goes to the MAC of nobody", joined)
            .case("a peer that tells of its new MAC is reached again", |lab| peer_moves(lab, Announce::Told))
            .case("a peer that does not tell of its new MAC is reached again", |lab| peer_moves(lab, Announce::Untold))
            .case("a peer whose agent is away and that says nothing is reached again at its new MAC", silent_peer)
            .case("a peer that is down is told in the status, and reached when it is back", down),
        // XDP sees packets before the kernel looks at their MAC: the agent has to tell it of a new one.
        Group::new("next hops, received by xdp", xdp)
            .case("a peer that does not tell of its new MAC is reached again", |lab| peer_moves(lab, Announce::Untold)),
        Group::new("next hop is a router", routed)
            .case("a router that tells of its new MAC is found again", |lab| router_moves(lab, Announce::Told))
            .case("a router that does not tell of its new MAC is found again", |lab| router_moves(lab, Announce::Untold)),
    ]
}

/// Whether a host sends gratuitous ARP when its MAC changes (`arp_notify`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Announce {
    Told,
    Untold,
}

impl Announce {
    fn set(self, ns: &Ns, interface: &str) -> anyhow::Result<()> {
        ns.set_sysctl(&format!("net.ipv4.conf.{interface}.arp_notify"), if self == Self::Told { "1" } else { "0" })
    }
}

/// Runs `action` and records meanwhile what `node` sends to the MAC of nobody: there must be nothing.
fn nothing_to_nobody<T>(node: &Ns, action: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let capture = Capture::start(node, "eth0", "ether dst 00:00:00:00:00:00")?;
    let result = action()?;
    let packets = capture.decode(0, &["ip.src", "ip.dst"])?;
    ensure!(packets.is_empty(), "sent to 00:00:00:00:00:00: {packets:?}");
    Ok(result)
}

fn unresolved(lab: &mut Lab) -> anyhow::Result<()> {
    // Nobody repairs anything meanwhile.
    lab.nodes[0].stop_agent()?;
    let (from, to) = (end(lab, "node-1-pod-1")?, end(lab, "node-2-pod-1")?);
    let (node, peer) = (&lab.nodes[0], lab.nodes[1].address);
    let mut tables = Tables::open(&PinDir::new(&node.config.bpffs))?;
    let net = lab.nodes[1].pod_cidr;
    let mut entry = *tables.subnets()?.get(&net).context("the peer's pods are not in SUBNETS")?;
    entry.next_hop_mac = [0; 6];
    tables.put_subnet(net, &entry)?;
    let before = counters(lab);
    for (count, state) in [(1, "forgotten"), (50, "forgotten"), (50, "known")] {
        if state == "forgotten" {
            node.ns.ip(&format!("neighbour delete {peer} dev eth0"))?;
        }
        let taken = nothing_to_nobody(&node.ns, || arrive(&from, &to, count, Duration::from_millis(900)))?;
        note(format!("next hop {state}, {count} datagrams at once: all there after {taken:.1?}"));
    }
    let grown = counters(lab)["node-1.flows.neigh_encap.packets"] - before["node-1.flows.neigh_encap.packets"];
    ensure!(grown >= 101, "{grown} packets were sent through the kernel's neighbour table");
    lab.nodes[0].start_agent()?;
    let start = Instant::now();
    eventually(PATIENCE, || {
        let found = tables.subnets()?.get(&net).map(|entry| entry.next_hop_mac);
        ensure!(found.is_some_and(|mac| mac != [0; 6]), "SUBNETS has {found:?}");
        Ok(())
    })?;
    note(format!("agent started: its MAC was in SUBNETS {:.0?} after the first pass", start.elapsed()));
    Ok(())
}

fn flushed(lab: &mut Lab) -> anyhow::Result<()> {
    let (from, to) = (end(lab, "node-1-pod-1")?, end(lab, "node-2-pod-1")?);
    let flood = Flood::start(from.ns, from.address, to.ns, to.address, RATE)?;
    let flush = || -> anyhow::Result<()> {
        for _ in 0..5 {
            for node in &lab.nodes {
                node.ns.ip("neighbour flush dev eth0")?;
            }
            thread::sleep(Duration::from_millis(150));
        }
        Ok(())
    };
    let done = nothing_to_nobody(&lab.nodes[0].ns, flush);
    let report = flood.stop()?;
    done?;
    note(format!("neighbour tables flushed five times: {report}"));
    ensure!(report.lost() == 0, "{report}");
    Ok(())
}

fn joined(lab: &mut Lab) -> anyhow::Result<()> {
    let entry = lab.forget("node-3")?;
    let peer = lab.nodes[2].address;
    eventually(PATIENCE, || {
        let tables = Tables::open(&PinDir::new(&lab.nodes[0].config.bpffs))?;
        ensure!(!tables.nodes()?.contains_key(&peer), "node-3 is still in NODES");
        Ok(())
    })?;
    // Not there when nobody has asked for it since.
    let _absent = lab.nodes[0].ns.ip(&format!("neighbour delete {peer} dev eth0"));
    let capture = Capture::start(&lab.nodes[0].ns, "eth0", "ether dst 00:00:00:00:00:00")?;
    // Not by `recall`: the router is not to know the node's pods, so that they are reached through the tunnel or not at all.
    lab.nodes_file.entries.push(entry);
    lab.nodes_file.write_atomic()?;
    let start = Instant::now();
    let (from, to) = (end(lab, "node-1-pod-1")?, end(lab, "node-3-pod-1")?);
    eventually(PATIENCE, || arrive(&from, &to, 1, Duration::from_millis(20)).map(drop))?;
    note(format!("a node joined: its pod was reached {:.0?} after the list was written", start.elapsed()));
    arrive(&from, &to, 20, Duration::from_millis(900)).context("reached once, and then not")?;
    let packets = capture.decode(0, &["ip.dst"])?;
    ensure!(packets.is_empty(), "sent to 00:00:00:00:00:00: {packets:?}");
    lab.underlay.route_pods(lab.nodes[2].pod_cidr, peer)
}

/// Gives an interface a MAC it never had.
fn new_mac(ns: &Ns, interface: &str) -> anyhow::Result<()> {
    let mac = ns.mac(interface)?;
    // Another last byte; the first stays locally administered and unicast.
    let (rest, last) = mac.rsplit_once(':').context("no MAC")?;
    let last = u8::from_str_radix(last, 16)?.wrapping_add(1);
    ns.ip(&format!("link set {interface} address {rest}:{last:02x}")).map(drop)
}

fn peer_moves(lab: &mut Lab, announce: Announce) -> anyhow::Result<()> {
    announce.set(&lab.nodes[1].ns, "eth0")?;
    outage(lab, &format!("the peer's MAC changes ({announce:?})"), |lab| new_mac(&lab.nodes[1].ns, "eth0")).map(drop)
}

/// Lets the kernel doubt what it knows of its neighbours after a second, not after half a minute.
fn doubt_soon(node: &Node) -> anyhow::Result<()> {
    for (key, value) in [("base_reachable_time_ms", "1000"), ("delay_first_probe_time", "1"), ("retrans_time_ms", "100")] {
        node.ns.set_sysctl(&format!("net.ipv4.neigh.eth0.{key}"), value)?;
    }
    Ok(())
}

fn silent_peer(lab: &mut Lab) -> anyhow::Result<()> {
    doubt_soon(&lab.nodes[0])?;
    Announce::Untold.set(&lab.nodes[1].ns, "eth0")?;
    lab.nodes[1].stop_agent()?;
    let (from, to) = (end(lab, "node-1-pod-1")?, end(lab, "node-2-pod-1")?);
    new_mac(&lab.nodes[1].ns, "eth0")?;
    let start = Instant::now();
    eventually(PATIENCE, || arrive(&from, &to, 1, Duration::from_millis(100)).map(drop))?;
    note(format!("the peer's MAC changes and it says nothing at all: reached after {:.1?} (doubted after 1 s)", start.elapsed()));
    lab.nodes[1].start_agent().map(drop)
}

fn down(lab: &mut Lab) -> anyhow::Result<()> {
    doubt_soon(&lab.nodes[0])?;
    let (from, to) = (end(lab, "node-1-pod-1")?, end(lab, "node-2-pod-1")?);
    let (node, port) = (&lab.nodes[0], Underlay::port("node-2"));
    lab.underlay.router.ip(&format!("link set {port} down"))?;
    let start = Instant::now();
    let told = eventually(PATIENCE, || {
        let status = node.status()?;
        let problems = status["problems"].to_string();
        ensure!(problems.contains("node-2") && problems.contains("does not answer ARP"), "problems: {problems}; {}", status["peers"]);
        Ok(())
    });
    let noticed = start.elapsed();
    // It stays told, whatever the kernel tries meanwhile.
    let steady = told.and_then(|()| {
        thread::sleep(Duration::from_secs(1));
        let problems = node.status()?["problems"].to_string();
        ensure!(problems.contains("node-2"), "told no more: {problems}");
        Ok(())
    });
    lab.underlay.router.ip(&format!("link set {port} up"))?;
    steady?;
    let start = Instant::now();
    eventually(PATIENCE, || arrive(&from, &to, 1, Duration::from_millis(100)).map(drop))?;
    let reached = start.elapsed();
    eventually(PATIENCE, || {
        let problems = node.status()?["problems"].to_string();
        ensure!(problems == "[]", "{problems}");
        Ok(())
    })?;
    let healthy = start.elapsed();
    note(format!(
        "a peer's cable cut: in the status after {noticed:.1?} (doubted after 1 s); plugged in: reached after {reached:.1?}, healthy after {healthy:.1?}"
    ));
    Ok(())
}

fn router_moves(lab: &mut Lab, announce: Announce) -> anyhow::Result<()> {
    announce.set(&lab.underlay.router, "br0")?;
    outage(lab, &format!("the router's MAC changes ({announce:?})"), |lab| new_mac(&lab.underlay.router, "br0")).map(drop)
}
