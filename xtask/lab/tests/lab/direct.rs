//! Backends: nodes go from VXLAN to packets as they are and back, one after the other, under floods; routes change; somebody forges.
//!
//! Reverse paths are checked strictly on every device, so that a packet that enters by the wrong one is a packet lost.

use crate::check::{self, end, eventually};
use crate::harness::{Group, counters, note};
use anyhow::{Context as _, ensure};
use overlay_agent::backend::{Backend, Way};
use overlay_lab::agent::ReceiveMode;
use overlay_lab::lab::{Lab, LabConfig};
use overlay_lab::node::Node;
use overlay_lab::probe::flood::Flood;
use overlay_lab::probe::ping::Ping;
use overlay_lab::underlay::Kind;
use std::fs;
use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

/// Datagrams per second of each flood.
const RATE: u32 = 1000;

/// The longest a node may take to follow.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long floods run before and after what is done.
const AROUND: Duration = Duration::from_millis(300);

pub(crate) fn groups() -> Vec<Group> {
    let flat = ReceiveMode::FORCED.map(|receive_mode| {
        // Frames that go straight into pods carry their checksums: a wire's.
        let offloads = receive_mode != ReceiveMode::XdpRedirect;
        let config = LabConfig { receive_mode, nodes: 3, offloads, ..LabConfig::default() };
        Group::new(format!("the way to nodes, received by {}", receive_mode.name()), config)
            .case("a change of the backend on a running cluster, node after node, loses nothing", every_backend)
            .case("a node asked for something else than its peers is reached all the same", mixed_wishes)
            .case("routes that change make peers change their way, and lose nothing", rerouted)
            .case("forged packets without a tunnel reach no pod", forged)
    });
    let tc = LabConfig { receive_mode: ReceiveMode::Tc, nodes: 2, ..LabConfig::default() };
    let routed = LabConfig { underlay: Kind::Routed, receive_mode: ReceiveMode::Tc, nodes: 3, ..LabConfig::default() };
    flat.into_iter()
        .chain([
            Group::new("the way to nodes, one by itself", tc)
                .case("pods of a node whose programs are gone reach neighbours through the stack, unmasqueraded", without_programs)
                .case("a neighbour is sent what the NIC carries, and no byte more", full_size)
                .case("a bad configuration is told and changes nothing", bad_configuration)
                .case("somebody else's route is left alone and named", foreign_route),
            Group::new("the way to nodes over a router", routed)
                .case("direct sends neighbours packets as they are and others VXLAN", crossing)
                .case("host-gw says which node it cannot reach, and drops and counts what is for it", host_gw_over_a_router),
        ])
        .collect()
}

/// Has every agent take its backend from a file, if it does not yet, and reverse paths be checked strictly.
fn prepare(lab: &mut Lab) -> anyhow::Result<()> {
    for router in ["all", "br0", "br1"] {
        // There may be one bridge only.
        let _absent = lab.underlay.router.set_sysctl(&format!("net.ipv4.conf.{router}.send_redirects"), "0");
    }
    for node in &mut lab.nodes {
        if !node.config.extra.contains(&"--config".to_owned()) {
            node.stop_agent()?;
            let file = node.config.state_dir.join("agent.yaml");
            node.config.extra.extend(["--config".to_owned(), file.display().to_string()]);
            write(node, Backend::Vxlan.name())?;
            node.start_agent()?;
        }
        let veths = node.pods.iter().map(|pod| pod.host_interface.clone());
        for interface in ["all", "default", "eth0", "ovl0"].map(str::to_owned).into_iter().chain(veths) {
            node.ns.set_sysctl(&format!("net.ipv4.conf.{interface}.rp_filter"), "1")?;
        }
    }
    Ok(())
}

/// Puts another configuration in the place of the one there is, whole.
fn write(node: &Node, backend: &str) -> anyhow::Result<()> {
    let file = node.config.state_dir.join("agent.yaml");
    let next = file.with_extension("next");
    fs::write(&next, format!("backend: {backend}\n"))?;
    fs::rename(&next, &file).context("replace the configuration")
}

/// Asks a node for a backend and waits until it says that this is its way to every peer.
fn change(node: &Node, backend: Backend, ways: &[(&str, Way)]) -> anyhow::Result<()> {
    write(node, backend.name())?;
    follows(node, backend, ways)
}

fn follows(node: &Node, backend: Backend, ways: &[(&str, Way)]) -> anyhow::Result<()> {
    eventually(PATIENCE, || {
        let status = node.agent_status()?;
        ensure!(status.backend == backend, "{} has the backend {:?}, not {backend:?}", node.name, status.backend);
        let done = status.last_pass.as_ref().is_some_and(|pass| pass.errors.is_empty());
        ensure!(done, "{}: {:?}", node.name, status.last_pass);
        for peer in &status.peers {
            let wanted = ways.iter().find(|(name, _)| *name == peer.name).map_or(ways[0].1, |(_, way)| *way);
            ensure!(peer.path == wanted, "{} sends to {} by {:?}, not {wanted:?}", node.name, peer.name, peer.path);
        }
        Ok(())
    })
}

/// On one link: the way a backend means for every peer.
fn flat(backend: Backend) -> [(&'static str, Way); 1] {
    [("", if backend == Backend::Vxlan { Way::Encap } else { Way::Direct })]
}

/// On one link: asks every node for a backend, one after the other.
pub(crate) fn change_all(lab: &mut Lab, backend: Backend) -> anyhow::Result<()> {
    prepare(lab)?;
    lab.nodes.iter().try_for_each(|node| change(node, backend, &flat(backend)))
}

/// The change, under floods between pods both ways and between hosts and pods; nothing may be lost.
fn flooded(lab: &mut Lab, what: &str, action: impl FnOnce(&mut Lab) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let last = lab.nodes.len();
    let mut floods = Vec::new();
    {
        let pod = |number: usize| end(lab, &format!("node-{number}-pod-1")).map(|pod| (pod.ns, pod.address));
        let host = |number: usize| (&lab.nodes[number - 1].ns, lab.nodes[number - 1].gateway());
        let pairs = [(pod(1)?, pod(2)?), (pod(last)?, pod(1)?), (host(1), pod(2)?), (pod(2)?, host(last))];
        for ((from, source), (to, address)) in pairs {
            floods.push(Flood::start(from, source, to, address, RATE)?);
        }
    }
    thread::sleep(AROUND);
    let done = action(lab);
    thread::sleep(AROUND);
    let reports = floods.into_iter().map(Flood::stop).collect::<anyhow::Result<Vec<_>>>()?;
    done.with_context(|| what.to_owned())?;
    let mode = lab.nodes[0].config.receive_mode.name();
    for (report, which) in reports.iter().zip(["pod to pod", "pod to pod, the other way", "host to pod", "pod to host"]) {
        note(format!("received by {mode}, {what}, {which}: {report}"));
    }
    ensure!(reports.iter().all(|report| report.lost() == 0 && report.sent > 0), "{what}: {reports:?}");
    Ok(())
}

fn every_backend(lab: &mut Lab) -> anyhow::Result<()> {
    prepare(lab)?;
    for (from, to) in [(Backend::Vxlan, Backend::Direct), (Backend::Direct, Backend::HostGw), (Backend::HostGw, Backend::Vxlan)] {
        let before = counters(lab);
        flooded(lab, &format!("{} to {}", from.name(), to.name()), |lab| {
            lab.nodes.iter().try_for_each(|node| change(node, to, &flat(to)))
        })?;
        check::all_pods(lab)?;
        let grown = |counter: &str| {
            let name = format!("node-1.flows.{counter}.packets");
            counters(lab)[&name] - before[&name]
        };
        let taken = if lab.nodes[0].config.receive_mode == ReceiveMode::XdpRedirect { "xdp_direct" } else { "tc_direct" };
        ensure!(grown("pod_direct") > 0 && grown(taken) > 0, "nothing went without a tunnel");
    }
    Ok(())
}

fn mixed_wishes(lab: &mut Lab) -> anyhow::Result<()> {
    prepare(lab)?;
    flooded(lab, "one node direct among vxlan", |lab| change(&lab.nodes[0], Backend::Direct, &flat(Backend::Direct)))?;
    check::all_pods(lab)?;
    flooded(lab, "and back", |lab| change(&lab.nodes[0], Backend::Vxlan, &flat(Backend::Vxlan)))
}

fn rerouted(lab: &mut Lab) -> anyhow::Result<()> {
    change_all(lab, Backend::Direct)?;
    let router = lab.underlay.place(1).router;
    let addresses = [lab.nodes[0].address, lab.nodes[1].address];
    for (verb, way) in [("add", Way::Encap), ("delete", Way::Direct)] {
        // One side after the other: for a while each sends its own way.
        for (own, peer) in [(0, 1), (1, 0)] {
            flooded(lab, &format!("node-{} {verb}s a route by the router", own + 1), |lab| {
                let node = &lab.nodes[own];
                node.ns.ip(&format!("route {verb} {}/32 via {router}", addresses[peer]))?;
                follows(node, Backend::Direct, &[("", Way::Direct), (&format!("node-{}", peer + 1), way)])
            })?;
        }
        check::all_pods(lab)?;
    }
    change_all(lab, Backend::Vxlan)
}

fn forged(lab: &mut Lab) -> anyhow::Result<()> {
    for backend in [Backend::Direct, Backend::Vxlan] {
        change_all(lab, backend)?;
        let victim = end(lab, "node-1-pod-1")?;
        let server = victim.ns.udp(victim.address, 0)?;
        server.set_read_timeout(Some(AROUND))?;
        let before = counters(lab)["node-1.drops.direct_src"];
        let (router, third) = (&lab.underlay.router, &lab.nodes[2].ns);
        let forgers = [
            ("a router, as a pod of node-2", router, Ipv4Addr::new(10, 244, 2, 99)),
            ("a router, as a pod of node-1", router, Ipv4Addr::new(10, 244, 1, 99)),
            ("node-3, as a pod of node-2", third, Ipv4Addr::new(10, 244, 2, 98)),
        ];
        // By the wire and not by a tunnel, whatever the node's own routes say.
        third.ip(&format!("route add {}/32 via {} dev eth0", victim.address, lab.nodes[0].address))?;
        for (who, ns, source) in forgers {
            ns.ip(&format!("address add {source}/32 dev lo"))?;
            let sent = ns.udp(source, 0).and_then(|socket| Ok(socket.send_to(b"forged", server.local_addr()?)?));
            ns.ip(&format!("address delete {source}/32 dev lo"))?;
            sent?;
            ensure!(server.recv(&mut [0; 16]).is_err(), "{who}: it was delivered");
        }
        third.ip(&format!("route delete {}/32", victim.address))?;
        let dropped = counters(lab)["node-1.drops.direct_src"] - before;
        ensure!(dropped == 3, "{dropped} of 3 forged packets were counted as direct_src");
    }
    Ok(())
}

fn without_programs(lab: &mut Lab) -> anyhow::Result<()> {
    change_all(lab, Backend::Direct)?;
    lab.nodes[0].stop_agent()?;
    // The last pin of a link takes the program off.
    fs::remove_dir_all(lab.nodes[0].pins().join("links")).context("remove the links")?;
    let attached = overlay_lab::command::run(lab.nodes[0].ns.command("bpftool").arg("net"))?;
    ensure!(!attached.contains("from_pod") && !attached.contains("underlay_"), "programs left:\n{attached}");
    flooded(lab, "a node without programs", |_| Ok(()))?;
    let (from, to) = (end(lab, "node-1-pod-1")?, end(lab, "node-2-pod-1")?);
    let (client, server) = (from.ns.udp(from.address, 0)?, to.ns.udp(to.address, 0)?);
    server.set_read_timeout(Some(PATIENCE))?;
    client.send_to(b"who am I?", server.local_addr()?)?;
    let (_, peer) = server.recv_from(&mut [0; 16])?;
    ensure!(peer.ip() == from.address, "the pod was seen as {peer}");
    lab.nodes[0].start_agent()?;
    check::all_pods(lab)
}

fn full_size(lab: &mut Lab) -> anyhow::Result<()> {
    change_all(lab, Backend::HostGw)?;
    for node in &mut lab.nodes {
        node.add_pod()?;
    }
    let (from, to) = (end(lab, "node-1-pod-2")?, end(lab, "node-2-pod-2")?);
    let mtu = lab.underlay.mtu;
    let link = from.ns.ip("link show eth0")?;
    ensure!(link.contains(&format!("mtu {mtu} ")), "a pod wired with host-gw: {link}");
    // 20 bytes of IPv4, 8 of ICMP.
    let ping = Ping { size: u16::try_from(mtu - 28)?, dont_fragment: true, ..Ping::default() };
    ensure!(ping.run(from.ns, to.address)?.received == 1, "a packet as large as the NIC's MTU was lost");
    // Back in the tunnel it is too large, and told so.
    change_all(lab, Backend::Vxlan)?;
    let (from, to) = (end(lab, "node-1-pod-2")?, end(lab, "node-2-pod-2")?);
    let pong = ping.run(from.ns, to.address)?;
    let told = pong.errors.first().cloned().unwrap_or_default();
    ensure!(pong.received == 0 && told.contains(&(mtu - 50).to_string()), "{pong:?}");
    check::all_pods(lab)
}

fn bad_configuration(lab: &mut Lab) -> anyhow::Result<()> {
    prepare(lab)?;
    let pid = |node: &Node| node.status().map(|status| status["backend"].clone());
    flooded(lab, "a bad configuration", |lab| {
        let node = &lab.nodes[0];
        write(node, "udp")?;
        eventually(PATIENCE, || {
            let problems = node.status()?["problems"].to_string();
            ensure!(problems.contains("backend") && problems.contains("last good one stays"), "{problems}");
            Ok(())
        })?;
        ensure!(pid(node)? == "vxlan", "the backend is {}", pid(node)?);
        change(node, Backend::Vxlan, &flat(Backend::Vxlan))?;
        eventually(PATIENCE, || {
            let problems = node.status()?["problems"].to_string();
            ensure!(problems == "[]", "{problems}");
            Ok(())
        })
    })
}

fn foreign_route(lab: &mut Lab) -> anyhow::Result<()> {
    prepare(lab)?;
    let (node, peer) = (&lab.nodes[0], &lab.nodes[1]);
    // As a flannel with host-gw leaves it, in the place of ours.
    let theirs = format!("{} via {} dev eth0 proto static", peer.pod_cidr, peer.address);
    node.ns.ip(&format!("route replace {theirs}"))?;
    write(node, Backend::Direct.name())?;
    let told = eventually(PATIENCE, || {
        let problems = node.status()?["problems"].to_string();
        ensure!(problems.contains(&peer.pod_cidr.to_string()) && problems.contains("proto 4"), "{problems}");
        Ok(())
    });
    let left = node.ns.ip(&format!("route show {}", peer.pod_cidr))?;
    node.ns.ip(&format!("route delete {theirs}"))?;
    told?;
    ensure!(left.contains("proto static"), "their route became {left}");
    follows(node, Backend::Direct, &flat(Backend::Direct))?;
    change(node, Backend::Vxlan, &flat(Backend::Vxlan))
}

fn crossing(lab: &mut Lab) -> anyhow::Result<()> {
    prepare(lab)?;
    // Nodes 1 and 3 are neighbours, node 2 is behind the router.
    let ways = |node: &Node| if node.name == "node-2" { vec![("", Way::Encap)] } else { vec![("", Way::Direct), ("node-2", Way::Encap)] };
    flooded(lab, "vxlan to direct over a router", |lab| lab.nodes.iter().try_for_each(|node| change(node, Backend::Direct, &ways(node))))?;
    check::all_pods(lab)?;
    flooded(lab, "direct to vxlan over a router", |lab| {
        lab.nodes.iter().try_for_each(|node| change(node, Backend::Vxlan, &[("", Way::Encap)]))
    })
}

fn host_gw_over_a_router(lab: &mut Lab) -> anyhow::Result<()> {
    prepare(lab)?;
    let node = &lab.nodes[0];
    change(node, Backend::HostGw, &[("node-3", Way::Direct), ("node-2", Way::BehindRouter)])?;
    let problems = node.status()?["problems"].to_string();
    ensure!(problems.contains("node-2") && problems.contains("behind router 192.168.50.1"), "{problems}");
    ensure!(node.log_tail().contains("behind router"), "not in the log:\n{}", node.log_tail());
    check::reaches(&end(lab, "node-1-pod-1")?, &end(lab, "node-3-pod-1")?)?;
    let before = counters(lab)["node-1.drops.no_node"];
    let (from, to) = (end(lab, "node-1-pod-1")?, end(lab, "node-2-pod-1")?);
    ensure!(overlay_lab::probe::ping::once(from.ns, to.address)?.is_none(), "a node behind a router was reached");
    ensure!(counters(lab)["node-1.drops.no_node"] > before, "what is for it is not counted");
    change(node, Backend::Vxlan, &[("", Way::Encap)])?;
    check::all_pods(lab)
}
