//! MTU: pods get what the tunnel leaves of the underlay's, and whoever sends more is told the right number.

use crate::check::{self, end};
use crate::harness::Group;
use anyhow::{Context as _, ensure};
use overlay_lab::lab::{Lab, LabConfig};
use overlay_lab::probe::ping::Ping;
use overlay_lab::probe::tcp;

pub(crate) fn groups() -> Vec<Group> {
    [1400, 1500, 9000].map(group).into()
}

fn group(mtu: u32) -> Group {
    let config = LabConfig { mtu, nodes: 2, foreign: 1, ..LabConfig::default() };
    Group::new(format!("underlay MTU {mtu}"), config)
        .case("pods and the overlay device have 50 bytes less", |lab| {
            let left = lab.underlay.mtu - 50;
            for node in &lab.nodes {
                let (pod, device) = (node.pods[0].ns.mtu("eth0")?, node.ns.mtu("ovl0")?);
                ensure!((pod, device) == (left, left), "{}: pod {pod}, ovl0 {device}, not {left}", node.name);
            }
            Ok(())
        })
        .case("a packet of just that size crosses, and one byte more is refused with the right number", |lab| {
            for to in ["node-2-pod-1", "node-3-pod-1"] {
                refuses_one_byte_more(lab, to, &format!("mtu={}", lab.underlay.mtu - 50))?;
            }
            Ok(())
        })
        .case("a pod that believes in a larger MTU is told the right one, and its TCP adapts", |lab| {
            set_first_pod_mtu(lab, lab.underlay.mtu)?;
            refuses_one_byte_more(lab, "node-2-pod-1", &format!("(mtu = {})", lab.underlay.mtu - 50))?;
            // What may be fragmented is, and TCP finds the way.
            let pods = (end(lab, "node-1-pod-1")?, end(lab, "node-2-pod-1")?);
            let large = Ping { size: u16::try_from(lab.underlay.mtu)? - 28, ..Ping::default() };
            let pong = large.run(pods.0.ns, pods.1.address)?;
            ensure!(pong.received == 1, "a packet without DF was not fragmented: {pong:?}");
            tcp::transfer(pods.0.ns, pods.1.ns, pods.1.address, 16 << 20)?;
            tcp::transfer(pods.1.ns, pods.0.ns, pods.0.address, 16 << 20)?;
            set_first_pod_mtu(lab, lab.underlay.mtu - 50)
        })
        .case("datagrams around every edge and super-packets arrive unchanged", |lab| {
            for (from, to) in [("node-1-pod-1", "node-2-pod-1"), ("node-1-pod-1", "node-3-pod-1"), ("node-3-pod-1", "node-1-pod-1")] {
                let (from, to) = (end(lab, from)?, end(lab, to)?);
                check::around_edges(&from, &to, lab.underlay.mtu)?;
                check::udp_gso(&from, &to, lab.underlay.mtu)?;
                tcp::transfer(from.ns, to.ns, to.address, 64 << 20)?;
            }
            check::no_bad_checksum(lab)
        })
}

/// With DF set: what fits crosses, one byte more gets an error that holds `number`.
fn refuses_one_byte_more(lab: &Lab, to: &str, number: &str) -> anyhow::Result<()> {
    let (from, to) = (end(lab, "node-1-pod-1")?, end(lab, to)?);
    // 20 bytes of IPv4, 8 of ICMP.
    let ping = Ping { size: u16::try_from(lab.underlay.mtu - 50 - 28)?, dont_fragment: true, ..Ping::default() };
    let pong = ping.run(from.ns, to.address)?;
    ensure!(pong.received == 1, "a packet that fits was lost on the way to {}: {pong:?}", to.name);
    let pong = Ping { size: ping.size + 1, ..ping }.run(from.ns, to.address)?;
    let error = pong.errors.first().with_context(|| format!("no error for one byte too many to {}: {pong:?}", to.name))?;
    ensure!(pong.received == 0 && error.contains(number), "{error}: {number} is missing");
    Ok(())
}

/// Both ends: a veth drops what is larger than the MTU of the end that receives it.
fn set_first_pod_mtu(lab: &Lab, mtu: u32) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    let pod = &node.pods[0];
    node.ns.ip(&format!("link set {} mtu {mtu}", pod.host_interface))?;
    pod.ns.ip(&format!("link set eth0 mtu {mtu}"))?;
    // What was learnt about paths is not forgotten with the MTU.
    pod.ns.ip("route flush cache").map(drop)
}
