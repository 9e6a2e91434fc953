//! Bytes arrive as they were sent: every size, every edge, super-packets, bulk, many flows; between our nodes and to and from a foreign one.

use crate::check::{self, end};
use crate::harness::{Group, note};
use overlay_lab::lab::{Endpoint, Lab};
use overlay_lab::probe::tcp;

/// Our node to ours, ours to foreign, foreign to ours.
const PAIRS: [(&str, &str); 3] = [("node-1-pod-1", "node-2-pod-1"), ("node-1-pod-1", "node-3-pod-1"), ("node-3-pod-1", "node-2-pod-1")];

pub(crate) fn cases(group: Group) -> Group {
    group
        .case("datagrams of 1 to 1472 bytes arrive unchanged", |lab| pairs(lab, check::every_size))
        .case("datagrams around every MTU edge arrive unchanged, fragments included", |lab| {
            let mtu = lab.underlay.mtu;
            pairs(lab, |from, to| check::around_edges(from, to, mtu))
        })
        .case("UDP super-packets arrive as the datagrams they stand for", |lab| {
            let mtu = lab.underlay.mtu;
            pairs(lab, |from, to| check::udp_gso(from, to, mtu))
        })
        .case("64 flows at once arrive unchanged", |lab| {
            pairs(lab, |from, to| tcp::flows(from.ns, to.ns, to.address, 64, 1 << 20).map(drop))
        })
        .case("a gigabyte of TCP arrives unchanged", |lab| {
            let how = receive_mode(lab);
            pairs(lab, |from, to| {
                let done = tcp::transfer(from.ns, to.ns, to.address, 1_000_000_000)?;
                note(format!("{how}: {} to {}: {:.1} Gbit/s of TCP, super-packets", from.name, to.name, done.gbit_per_second()));
                Ok(())
            })
        })
        .case("the same when the wire carries MTU-sized packets with real checksums", |lab| {
            check::set_offloads(lab, false)?;
            arrive_from_a_wire(lab)?;
            check::set_offloads(lab, true)
        })
}

/// For a lab whose underlay is a wire all the time.
pub(crate) fn cases_of_a_wire(group: Group) -> Group {
    group.case("datagrams of every size, super-packets and streams arrive unchanged", arrive_from_a_wire)
}

fn arrive_from_a_wire(lab: &mut Lab) -> anyhow::Result<()> {
    let (mtu, how) = (lab.underlay.mtu, receive_mode(lab));
    pairs(lab, |from, to| {
        check::every_size(from, to)?;
        check::around_edges(from, to, mtu)?;
        check::udp_gso(from, to, mtu)?;
        let done = tcp::flows(from.ns, to.ns, to.address, 8, 16 << 20)?;
        note(format!("{how}: {} to {}: {:.1} Gbit/s of TCP, MTU-sized packets", from.name, to.name, done.gbit_per_second()));
        Ok(())
    })?;
    check::no_bad_checksum(lab)
}

fn pairs(lab: &Lab, check: impl Fn(&Endpoint<'_>, &Endpoint<'_>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    for (from, to) in PAIRS {
        check(&end(lab, from)?, &end(lab, to)?).map_err(|error| error.context(format!("{from} to {to}")))?;
    }
    Ok(())
}

fn receive_mode(lab: &Lab) -> String {
    lab.nodes.first().map_or_else(String::new, |node| node.config.receive_mode.name().to_owned())
}
