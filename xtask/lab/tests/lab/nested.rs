//! Tunnels that pods make themselves (a cluster in a container, a VPN, an overlay of their own), carried by ours.
//!
//! The kernel marks such packets as tunnelled and leaves their segmentation and checksums to the NIC: a packet of another kind than those
//! of plain TCP and UDP, for our programs too.

use crate::check::{self, end};
use crate::harness::{Group, note};
use anyhow::{Context as _, ensure};
use overlay_lab::agent::ReceiveMode;
use overlay_lab::lab::{Endpoint, Lab, LabConfig};
use overlay_lab::probe::{ping, tcp, udp};
use std::net::Ipv4Addr;

pub(crate) fn groups() -> Vec<Group> {
    ReceiveMode::RUNGS.map(group).into()
}

fn group(receive_mode: ReceiveMode) -> Group {
    let config = LabConfig { receive_mode, nodes: 2, foreign: 1, pods: 2, ..LabConfig::default() };
    Group::new(format!("tunnels between pods, received by {}", receive_mode.name()), config)
        .case("VXLAN between pods of different nodes carries TCP and UDP", |lab| between(lab, "node-1-pod-1", "node-2-pod-1"))
        .case("VXLAN between pods of one node carries TCP and UDP", |lab| between(lab, "node-1-pod-1", "node-1-pod-2"))
        .case("VXLAN to a pod of a foreign node carries TCP and UDP", |lab| between(lab, "node-1-pod-1", "node-3-pod-1"))
        .case("and when the wire carries no super-packets", |lab| {
            check::set_offloads(lab, false)?;
            between(lab, "node-1-pod-1", "node-2-pod-1")?;
            check::set_offloads(lab, true)
        })
        .case("no checksum was wrong", |lab| check::no_bad_checksum(lab))
}

/// Makes a VXLAN between two pods and sends through it.
fn between(lab: &Lab, one: &str, other: &str) -> anyhow::Result<()> {
    let ends = [end(lab, one)?, end(lab, other)?];
    let inside = [Ipv4Addr::new(172, 20, 0, 1), Ipv4Addr::new(172, 20, 0, 2)];
    for (index, pod) in ends.iter().enumerate() {
        let (mtu, peer) = (pod.ns.mtu("eth0")? - 50, ends[1 - index].address);
        pod.ns.ip(&format!("link add tunnel mtu {mtu} type vxlan id 42 dstport 4789 local {} remote {peer}", pod.address))?;
        pod.ns.ip(&format!("address add {}/24 dev tunnel", inside[index]))?;
        pod.ns.ip("link set tunnel up")?;
    }
    let result = talk(&ends, inside).with_context(|| format!("{one} to {other}"));
    for pod in &ends {
        pod.ns.ip("link delete tunnel")?;
    }
    let rung = lab.nodes[0].config.receive_mode.name();
    note(format!("VXLAN of pods, received by {rung}: {one} to {other}: {:.1} Gbit/s of TCP", result?));
    Ok(())
}

/// TCP's speed in Gbit/s.
fn talk(ends: &[Endpoint<'_>; 2], inside: [Ipv4Addr; 2]) -> anyhow::Result<f64> {
    ensure!(ping::once(ends[0].ns, inside[1])?.is_some(), "no answer to a ping");
    udp::echo_sizes(ends[0].ns, inside[0], ends[1].ns, inside[1], [1, 100, 1300, 1400, 3000, 20_000]).context("UDP")?;
    let there = tcp::transfer(ends[0].ns, ends[1].ns, inside[1], 8 << 20).context("TCP")?;
    tcp::transfer(ends[1].ns, ends[0].ns, inside[0], 4 << 20).context("TCP, the other way")?;
    Ok(there.gbit_per_second())
}
