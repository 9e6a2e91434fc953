//! What our nodes put on the wire, decoded by tshark, which knows nothing of our code.

use crate::check::end;
use crate::harness::Group;
use anyhow::{Context as _, ensure};
use overlay_lab::agent::ReceiveMode;
use overlay_lab::capture::Capture;
use overlay_lab::lab::{Endpoint, Lab, LabConfig};
use overlay_lab::probe::ping::Ping;
use overlay_lab::probe::udp;
use std::collections::{BTreeMap, BTreeSet};

/// Source ports of tunnel packets: the dynamic ports of RFC 6335, as RFC 7348 section 5 recommends.
const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;

pub(crate) fn groups() -> Vec<Group> {
    let config = LabConfig { receive_mode: ReceiveMode::Tc, nodes: 2, foreign: 1, ..LabConfig::default() };
    vec![
        Group::new("on the wire", config)
            .case("a packet to a pod of our node has the outer headers of VXLAN", |lab| outer_headers(lab, "node-2"))
            .case("a packet to a pod of a foreign node has the outer headers of VXLAN", |lab| outer_headers(lab, "node-3"))
            .case("ECN is copied outwards as RFC 6040 says, and DSCP is not lost inside", ecn)
            .case("the source port is stable per flow, differs between flows and stays in its range", source_ports)
            .case("each node on the way takes one from the TTL, and answers when none is left", time_to_live),
    ]
}

/// Pings the first pod of `peer` and checks every field of what leaves node-1.
fn outer_headers(lab: &mut Lab, peer: &str) -> anyhow::Result<()> {
    const FIELDS: [&str; 12] = [
        "eth.src",
        "eth.dst",
        "ip.src",
        "ip.dst",
        "ip.ttl",
        "ip.flags.df",
        "ip.dsfield",
        "ip.checksum.status",
        "udp.dstport",
        "udp.checksum",
        "vxlan.flags",
        "vxlan.vni",
    ];
    let (node, host) = (&lab.nodes[0], end(lab, peer)?);
    let pods = (end(lab, "node-1-pod-1")?, end(lab, &format!("{peer}-pod-1"))?);
    let vtep = lab.foreign.iter().find(|node| node.name == peer).map_or_else(|| lab.nodes[1].vtep_mac(), |node| node.vtep_mac.clone());
    let capture = Capture::start(&node.ns, "eth0", &format!("udp port 8472 and src host {}", node.address))?;
    let pong = Ping { count: 3, dont_fragment: true, ..Ping::default() }.run(pods.0.ns, pods.1.address)?;
    ensure!(pong.received == 3, "{pong:?}");
    let packets = capture.decode(3, &FIELDS)?;
    let expected = [
        format!("{},{}", node.ns.mac("eth0")?, node.vtep_mac()),
        format!("{},{vtep}", host.ns.mac("eth0")?),
        format!("{},{}", node.address, pods.0.address),
        format!("{},{}", host.address, pods.1.address),
        "64,63".to_owned(),
        "1,1".to_owned(),
        "0x00,0x00".to_owned(),
        // 2: not verified. tshark does not check the IPv4 checksum unless told to.
        "2,2".to_owned(),
        "8472".to_owned(),
        "0x0000".to_owned(),
        "0x0800".to_owned(),
        "1".to_owned(),
    ];
    for packet in packets {
        for ((field, found), wanted) in FIELDS.iter().zip(&packet).zip(&expected) {
            ensure!(found == wanted, "{field} is {found}, not {wanted}: {packet:?}");
        }
    }
    Ok(())
}

fn ecn(lab: &mut Lab) -> anyhow::Result<()> {
    let pods = (end(lab, "node-1-pod-1")?, end(lab, "node-2-pod-1")?);
    // DSCP 46 (expedited forwarding) with each ECN codepoint.
    for ecn in 0..4 {
        let capture = Capture::start(&lab.nodes[0].ns, "eth0", &format!("udp port 8472 and src host {}", lab.nodes[0].address))?;
        let pong = Ping { tos: 46 << 2 | ecn, ..Ping::default() }.run(pods.0.ns, pods.1.address)?;
        ensure!(pong.received == 1, "ECN {ecn}: {pong:?}");
        let packets = capture.decode(1, &["ip.dsfield.ecn", "ip.dsfield.dscp"])?;
        let codepoints = format!("{ecn},{ecn}");
        ensure!(packets[0][0] == codepoints, "outer and inner ECN are {}, not {codepoints}", packets[0][0]);
        ensure!(packets[0][1].ends_with(",46"), "outer and inner DSCP are {}", packets[0][1]);
    }
    Ok(())
}

fn source_ports(lab: &mut Lab) -> anyhow::Result<()> {
    const FLOWS: usize = 64;
    let pods = (end(lab, "node-1-pod-1")?, end(lab, "node-2-pod-1")?);
    let capture = Capture::start(&lab.nodes[0].ns, "eth0", &format!("udp port 8472 and src host {}", lab.nodes[0].address))?;
    for _ in 0..FLOWS {
        echo(&pods.0, &pods.1)?;
    }
    let packets = capture.decode(FLOWS * 3, &["udp.srcport", "udp.dstport"])?;
    // By inner ports, the outer ones that were seen.
    let mut flows: BTreeMap<(u16, u16), BTreeSet<u16>> = BTreeMap::new();
    for packet in packets {
        let ports = |text: &str| text.split(',').map(str::parse).collect::<Result<Vec<u16>, _>>();
        let (sources, destinations) = (ports(&packet[0])?, ports(&packet[1])?);
        let ([outer, inner_source], [_, inner_destination]) = (sources[..].try_into()?, destinations[..].try_into()?);
        ensure!(SOURCE_PORTS.contains(&outer), "outer source port {outer}");
        flows.entry((inner_source, inner_destination)).or_default().insert(outer);
    }
    ensure!(flows.len() == FLOWS, "{} flows were seen", flows.len());
    let unstable = flows.iter().find(|(_, ports)| ports.len() != 1);
    ensure!(unstable.is_none(), "{unstable:?} has several source ports");
    let distinct = flows.values().flatten().collect::<BTreeSet<_>>().len();
    ensure!(distinct > FLOWS / 2, "{FLOWS} flows have only {distinct} source ports");
    Ok(())
}

fn echo(from: &Endpoint<'_>, to: &Endpoint<'_>) -> anyhow::Result<()> {
    udp::echo_sizes(from.ns, from.address, to.ns, to.address, [10, 500, 1400])
}

fn time_to_live(lab: &mut Lab) -> anyhow::Result<()> {
    let pods = (end(lab, "node-1-pod-1")?, end(lab, "node-2-pod-1")?);
    let pong = Ping::default().run(pods.0.ns, pods.1.address)?;
    ensure!(pong.ttl == Some(62), "a reply came with TTL {:?} after two hops", pong.ttl);
    for (ttl, node) in [(1, &lab.nodes[0]), (2, &lab.nodes[1])] {
        let pong = Ping { ttl, ..Ping::default() }.run(pods.0.ns, pods.1.address)?;
        let error = pong.errors.first().with_context(|| format!("TTL {ttl}: no answer but {pong:?}"))?;
        let wanted = format!("From {} ", node.gateway());
        ensure!(error.starts_with(&wanted) && error.contains("Time to live exceeded"), "TTL {ttl}: {error}");
    }
    let pong = Ping { ttl: 3, ..Ping::default() }.run(pods.0.ns, pods.1.address)?;
    ensure!(pong.received == 1, "TTL 3 is enough: {pong:?}");
    Ok(())
}
