//! Checks that several groups share.

use anyhow::{Context as _, ensure};
use overlay_lab::lab::{Endpoint, Lab};
use overlay_lab::probe::gso::{self, Burst};
use overlay_lab::probe::ping::Ping;
use overlay_lab::probe::snmp::Snmp;
use overlay_lab::probe::{tcp, udp};
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

/// `from` reaches `to` at `address`: ping, UDP with echo, TCP.
pub(crate) fn reaches_at(from: &Endpoint<'_>, to: &Endpoint<'_>, address: Ipv4Addr) -> anyhow::Result<()> {
    let conversation = || -> anyhow::Result<()> {
        let pong = Ping { count: 3, ..Ping::default() }.run(from.ns, address)?;
        ensure!(pong.received == 3 && pong.duplicates == 0, "ping: {pong:?}");
        // Bound to no address: the kernel's choice of the source is part of what must work.
        udp::echo_sizes(from.ns, Ipv4Addr::UNSPECIFIED, to.ns, address, [1, 100, 1400]).context("UDP")?;
        tcp::transfer(from.ns, to.ns, address, 1 << 20).context("TCP").map(drop)
    };
    conversation().with_context(|| format!("{} to {} at {address}", from.name, to.name))
}

/// `from` reaches `to` at its own address.
pub(crate) fn reaches(from: &Endpoint<'_>, to: &Endpoint<'_>) -> anyhow::Result<()> {
    reaches_at(from, to, to.address)
}

/// Every pod reaches every other.
pub(crate) fn all_pods(lab: &Lab) -> anyhow::Result<()> {
    let pods = lab.pods();
    let pairs = pods.iter().flat_map(|from| pods.iter().map(move |to| (from, to))).filter(|(from, to)| from.name != to.name);
    pairs.into_iter().try_for_each(|(from, to)| reaches(from, to))
}

/// Every pod gets an answer from every other to each of a few pings.
pub(crate) fn all_pods_answer(lab: &Lab) -> anyhow::Result<()> {
    let pods = lab.pods();
    for (from, to) in pods.iter().flat_map(|from| pods.iter().map(move |to| (from, to))).filter(|(from, to)| from.name != to.name) {
        let pong = Ping { count: 3, ..Ping::default() }.run(from.ns, to.address)?;
        ensure!(pong.received == 3, "{} to {}: {pong:?}", from.name, to.name);
    }
    Ok(())
}

/// A pod, a node or the outside, by name.
pub(crate) fn end<'lab>(lab: &'lab Lab, name: &str) -> anyhow::Result<Endpoint<'lab>> {
    let mut ends = lab.pods().into_iter().chain(lab.hosts()).chain([lab.outside()]);
    ends.find(|end| end.name == name).with_context(|| format!("there is no {name} in this lab"))
}

/// Tries again until it holds; the last failure when it never does.
pub(crate) fn eventually(patience: Duration, mut check: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        match check() {
            Ok(()) => return Ok(()),
            Err(error) if start.elapsed() > patience => return Err(error.context(format!("still after {patience:?}"))),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Datagrams of every size that fits one Ethernet frame, from 1 byte on.
pub(crate) fn every_size(from: &Endpoint<'_>, to: &Endpoint<'_>) -> anyhow::Result<()> {
    udp::echo_sizes(from.ns, from.address, to.ns, to.address, 1..=1472)
}

/// Datagrams around every length at which something changes: one packet of the tunnel, one of the underlay, each further fragment, the
/// longest there is.
pub(crate) fn around_edges(from: &Endpoint<'_>, to: &Endpoint<'_>, underlay_mtu: u32) -> anyhow::Result<()> {
    let underlay = usize::try_from(underlay_mtu)?;
    let inner = underlay - 50;
    // Payload of a fragment: what fits behind 20 bytes of IPv4, in units of eight (RFC 791 section 3.2).
    let fragment = (inner - 20) / 8 * 8;
    let edges = [inner - 28, underlay - 28, fragment - 8, 2 * fragment - 8, 3 * fragment - 8, 5 * fragment - 8];
    let sizes = edges.into_iter().flat_map(|edge| edge - 4..=edge + 4);
    udp::echo_sizes(from.ns, from.address, to.ns, to.address, sizes.chain([20_000, udp::LONGEST - 1, udp::LONGEST]))
}

/// UDP super-packets of several shapes.
pub(crate) fn udp_gso(from: &Endpoint<'_>, to: &Endpoint<'_>, underlay_mtu: u32) -> anyhow::Result<()> {
    let fits = u16::try_from(underlay_mtu - 50 - 28)?;
    let most = |segment: u16| (65_000 / usize::from(segment)).min(64);
    for segment in [fits, 1200, 100, 1] {
        let burst = Burst { segment, segments: most(segment), sends: 50 };
        gso::send(from.ns, from.address, to.ns, to.address, burst).with_context(|| format!("{burst:?}"))?;
    }
    Ok(())
}

/// No pod and no node has met a wrong checksum of TCP, UDP or ICMP.
pub(crate) fn no_bad_checksum(lab: &Lab) -> anyhow::Result<()> {
    for end in lab.pods().iter().chain(&lab.hosts()) {
        let errors = Snmp::read(end.ns)?.checksum_errors();
        ensure!(errors == 0, "{} dropped {errors} packets for a bad checksum", end.name);
    }
    Ok(())
}

/// Every link carries MTU-sized packets with their checksums filled in, as a wire does, pods' included; or not any more.
pub(crate) fn set_offloads(lab: &Lab, on: bool) -> anyhow::Result<()> {
    for host in lab.hosts() {
        lab.underlay.set_offloads(host.ns, on)?;
    }
    for pod in lab.pods() {
        overlay_lab::underlay::set_offloads(pod.ns, "eth0", on)?;
    }
    Ok(())
}
