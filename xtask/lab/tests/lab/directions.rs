//! Who reaches whom: pods, hosts, the outside, ours and foreign, on both underlays, received by each rung of the ladder.

use crate::bytes;
use crate::check::{self, end, eventually, reaches, reaches_at};
use crate::harness::{Group, counters};
use anyhow::{Context as _, ensure};
use overlay_agent::datapath::{PinDir, Tables};
use overlay_lab::agent::ReceiveMode;
use overlay_lab::lab::{Lab, LabConfig};
use overlay_lab::underlay::Kind;
use std::time::Duration;

pub(crate) fn groups() -> Vec<Group> {
    let underlays = [Kind::L2, Kind::Routed];
    underlays.into_iter().flat_map(|underlay| ReceiveMode::RUNGS.map(|rung| group(underlay, rung))).chain([straight()]).collect()
}

/// XDP frames into pods need an underlay that fills in checksums, as a wire has it.
fn straight() -> Group {
    let receive_mode = ReceiveMode::XdpRedirect;
    let config = LabConfig { receive_mode, nodes: 2, foreign: 1, pods: 2, offloads: false, ..LabConfig::default() };
    let group = Group::new(format!("{}, received by {}", config.underlay.name(), receive_mode.name()), config);
    let group = ours(group, receive_mode)
        .case("frames go from XDP straight into the pod", |lab| {
            let sent = redirected(lab, || both_ways(lab, "node-1-pod-1", "node-2-pod-1"))?;
            ensure!(sent >= 10, "XDP sent {sent} frames out of the pod's veth");
            Ok(())
        })
        .case("a pod whose veth takes no XDP frames is reached all the same, and the status says so", by_the_other_way)
        .case("the status says what may be wrong on a NIC that is none", |lab| {
            let reason = lab.nodes[1].status()?["receive"]["reason"].to_string();
            ensure!(reason.contains("no physical NIC (veth)"), "{reason}");
            Ok(())
        });
    bytes::cases_of_a_wire(foreign(group)).case("nothing of all that was dropped", nothing_dropped)
}

/// Frames that XDP sent out of the veth of node-2's first pod while `action` ran.
fn redirected(lab: &Lab, action: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<u64> {
    let node = &lab.nodes[1];
    let count = || -> anyhow::Result<u64> {
        let listing = node.ns.run("ethtool", &format!("-S {}", node.pods[0].host_interface))?;
        let counts = listing.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| name.ends_with("xdp_xmit"));
        counts.map(|(_, count)| count.trim().parse::<u64>().context("a count")).sum()
    };
    let before = count()?;
    action()?;
    Ok(count()? - before)
}

/// As a pod that an earlier version has wired.
fn by_the_other_way(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.nodes[1];
    let mut tables = Tables::open(&PinDir::new(&node.config.bpffs))?;
    let pod = tables.pods()?.get(&node.pods[0].address).copied().context("the pod is not in PODS")?;
    ensure!(tables.xdp_veths()?.contains(&pod.ifindex), "the pod's veth is not in XDP_VETHS");
    tables.remove_xdp_veth(pod.ifindex)?;
    node.pods[0].ns.run("ethtool", "-K eth0 gro off")?;
    let sent = redirected(lab, || both_ways(lab, "node-1-pod-1", "node-2-pod-1"))?;
    ensure!(sent == 0, "XDP sent {sent} frames to it");
    // Any device that changes has the agent look again.
    node.ns.ip("link set dev lo mtu 65000")?;
    eventually(Duration::from_secs(10), || {
        let reason = node.status()?["receive"]["reason"].to_string();
        ensure!(reason.contains("1 of 2 pods through TC"), "{reason}");
        Ok(())
    })?;
    node.pods[0].ns.run("ethtool", "-K eth0 gro on")?;
    node.ns.enter(|| tables.put_xdp_veth(pod.ifindex))??;
    Ok(())
}

/// Nodes 1 and 2 are ours, on different subnets if there are two; node 3 is foreign, on the subnet of node 1.
fn group(underlay: Kind, receive_mode: ReceiveMode) -> Group {
    let config = LabConfig { underlay, receive_mode, nodes: 2, foreign: 1, pods: 2, ..LabConfig::default() };
    let group = Group::new(format!("{}, received by {}", underlay.name(), receive_mode.name()), config);
    let group = ours(group, receive_mode);
    let group = foreign(group);
    // What happens to the bytes does not depend on what lies between the nodes.
    let group = if underlay == Kind::L2 { bytes::cases(group) } else { group };
    group.case("nothing of all that was dropped", nothing_dropped)
}

fn ours(group: Group, rung: ReceiveMode) -> Group {
    group
        .case("the agents say which rung they receive by", move |lab| {
            for node in &lab.nodes {
                let status = node.status()?;
                ensure!(status["receive"]["mode"] == rung.name(), "{}: {}", node.name, status["receive"]);
            }
            Ok(())
        })
        .case("pods of one node reach each other", |lab| both_ways(lab, "node-1-pod-1", "node-1-pod-2"))
        .case("pods of different nodes reach each other", |lab| both_ways(lab, "node-1-pod-1", "node-2-pod-1"))
        .case("and it is that rung that takes them out of the tunnel", move |lab| {
            // What XDP took out counts the same, wherever it went from there.
            let rung = if rung == ReceiveMode::XdpRedirect { ReceiveMode::Xdp } else { rung };
            let name = format!("node-2.flows.{}_decap.packets", rung.name());
            let before = counters(lab);
            let pods = (end(lab, "node-1-pod-2")?, end(lab, "node-2-pod-2")?);
            overlay_lab::probe::ping::Ping { count: 10, ..Default::default() }.run(pods.0.ns, pods.1.address)?;
            let (before, after) = (before.get(&name), counters(lab).get(&name).copied());
            let taken = after.with_context(|| format!("status has no {name}"))? - before.copied().unwrap_or(0);
            ensure!(taken >= 10, "{name} counted {taken} of 10 packets");
            Ok(())
        })
        .case("a pod reaches its own host", |lab| to_host(lab, "node-1-pod-1", "node-1"))
        .case("a pod reaches another host", |lab| to_host(lab, "node-1-pod-1", "node-2"))
        .case("a host reaches its own pod", |lab| reaches(&end(lab, "node-1")?, &end(lab, "node-1-pod-1")?))
        .case("a host reaches a pod of another host", |lab| reaches(&end(lab, "node-1")?, &end(lab, "node-2-pod-1")?))
        .case("a host reaches another host at its overlay address", |lab| {
            let host = end(lab, "node-2")?;
            reaches_at(&end(lab, "node-1")?, &host, host.overlay_address)
        })
        .case("a pod reaches the outside", |lab| reaches(&end(lab, "node-2-pod-1")?, &lab.outside()))
        .case("the outside reaches a pod through the cloud's route", |lab| reaches(&lab.outside(), &end(lab, "node-2-pod-1")?))
}

fn foreign(group: Group) -> Group {
    group
        .case("a pod and a pod of a foreign node reach each other", |lab| both_ways(lab, "node-1-pod-1", "node-3-pod-1"))
        .case("a pod and a pod of a foreign node reach each other, from the other subnet", |lab| {
            both_ways(lab, "node-2-pod-1", "node-3-pod-1")
        })
        .case("a pod reaches a foreign host", |lab| {
            to_host(lab, "node-1-pod-1", "node-3")?;
            to_host(lab, "node-2-pod-1", "node-3")
        })
        .case("a foreign pod reaches our host", |lab| {
            to_host(lab, "node-3-pod-1", "node-1")?;
            to_host(lab, "node-3-pod-1", "node-2")
        })
        .case("our host reaches a foreign pod", |lab| {
            reaches(&end(lab, "node-1")?, &end(lab, "node-3-pod-1")?)?;
            reaches(&end(lab, "node-2")?, &end(lab, "node-3-pod-1")?)
        })
        .case("a foreign host reaches our pod", |lab| {
            reaches(&end(lab, "node-3")?, &end(lab, "node-1-pod-1")?)?;
            reaches(&end(lab, "node-3")?, &end(lab, "node-2-pod-1")?)
        })
        .case("our host and a foreign host reach each other at their overlay addresses", |lab| {
            let (ours, foreign) = (end(lab, "node-1")?, end(lab, "node-3")?);
            reaches_at(&ours, &foreign, foreign.overlay_address)?;
            reaches_at(&foreign, &ours, ours.overlay_address)
        })
}

fn both_ways(lab: &Lab, one: &str, other: &str) -> anyhow::Result<()> {
    let (one, other) = (end(lab, one)?, end(lab, other)?);
    reaches(&one, &other)?;
    reaches(&other, &one)
}

/// At its address inside the overlay and at the one on the underlay.
fn to_host(lab: &Lab, from: &str, host: &str) -> anyhow::Result<()> {
    let (from, host) = (end(lab, from)?, end(lab, host)?);
    reaches_at(&from, &host, host.overlay_address)?;
    reaches(&from, &host)
}

/// Every drop counter of every node is zero, but for the IPv6 every Linux tries on a new interface.
fn nothing_dropped(lab: &mut Lab) -> anyhow::Result<()> {
    let dropped: Vec<(String, u64)> = counters(lab)
        .into_iter()
        .filter(|(name, count)| name.contains(".drops.") && !name.ends_with(".v6_disabled") && *count > 0)
        .collect();
    ensure!(dropped.is_empty(), "{dropped:?}");
    check::no_bad_checksum(lab)
}
