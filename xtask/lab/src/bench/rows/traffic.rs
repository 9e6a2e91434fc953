//! The frames of a mix and the device they are sent out of, for every path and every contender.

use super::service;
use crate::bench::bed::far::{self, FarNode};
use crate::bench::bed::{Pair, Side};
use crate::bench::generator::{Generator, Stream};
use crate::bench::work::{Mix, Path};
use crate::foreign::Peer;
use crate::netns::Ns;
use crate::pod::Pod;
use crate::probe::ping::Ping;
use crate::underlay::Underlay;
use anyhow::Context as _;
use overlay_agent::measure::frames::{self, Datagram, Link, Tunnel};
use overlay_common::abi::Mac;
use std::net::Ipv4Addr;
use std::time::Duration;

/// VXLAN port of every tunnel in the lab.
const PORT: u16 = 8472;
/// Network identifier of every tunnel in the lab.
const VNI: u32 = 1;

/// Frames of one length.
enum Frames {
    Plain(Vec<[u8; frames::PLAIN_LEN]>),
    Tunnelled(Vec<[u8; frames::TUNNELLED_LEN]>),
}

/// Frames, the device they leave by, and the device at its other end.
pub(super) struct Traffic<'bed> {
    from: (&'bed Ns, String),
    to: (&'bed Ns, String),
    frames: Frames,
}

impl<'bed> Traffic<'bed> {
    /// The frames of a mix: each is the next flow, pod and node.
    pub(super) fn new(underlay: &'bed Underlay, pair: &'bed Pair, (path, mix): (Path, Mix)) -> anyhow::Result<Self> {
        match path {
            Path::Receive => {
                let from = (&underlay.router, pair.b.router_port());
                Ok(Self { from, to: (pair.b.ns(), pair.b.nic().to_owned()), frames: arriving(pair, mix)? })
            }
            Path::Send => {
                let source = pod(&pair.a, 0)?;
                let there = peers(pair, mix.nodes).map(|peer| first_pod(&peer)).chain(pair.b.pods().iter().take(1).map(|pod| pod.address));
                let there: Vec<_> = there.collect();
                let answers = *there.last().context("nobody to send to")?;
                Self::from_pod(underlay, (&pair.a, source, answers), &there, mix)
            }
            Path::Service => {
                service::establish(pair, mix.flows)?;
                // A cluster IP answers no echo.
                let (source, answers) = (pod(&pair.a, 0)?, pod(&pair.b, 0)?.address);
                Self::from_pod(underlay, (&pair.a, source, answers), &[service::address(pair)?], mix)
            }
            Path::Answers => {
                service::establish(pair, mix.flows)?;
                let from = (&underlay.router, pair.a.router_port());
                Ok(Self { from, to: (pair.a.ns(), pair.a.nic().to_owned()), frames: answers(pair, mix)? })
            }
            Path::Local => {
                let (source, destination) = (pod(&pair.b, 0)?, pod(&pair.b, 1)?);
                Self::from_pod(underlay, (&pair.b, source, destination.address), &[destination.address], mix)
            }
        }
    }

    /// What a pod sends to these addresses in turn, through its own device, the same way as to one that answers.
    fn from_pod(
        underlay: &'bed Underlay,
        (end, source, answers): (&'bed Side, &'bed Pod, Ipv4Addr),
        destinations: &[Ipv4Addr],
        mix: Mix,
    ) -> anyhow::Result<Self> {
        let link = Link { source: mac(&source.ns.mac("eth0")?)?, destination: next_hop(&source.ns, answers)? };
        let frames = numbers(mix)
            .map(|(index, flow)| {
                let destination = destinations[index % destinations.len()];
                frames::plain(link, &Datagram::of_flow(source.address, destination, flow))
            })
            .collect();
        // The other end of a pod that is on the underlay itself is the router's.
        let far = if matches!(end, Side::Bare(_)) { &underlay.router } else { end.ns() };
        Ok(Self { from: (&source.ns, "eth0".to_owned()), to: (far, source.host_interface.clone()), frames: Frames::Plain(frames) })
    }

    /// Sends the frames for a while.
    pub(super) fn run(&self, generator: &mut Generator, duration: Duration) -> anyhow::Result<Stream> {
        let ((ns, interface), (far_ns, far_interface)) = (&self.from, &self.to);
        // A veth takes redirected frames only if its other end has NAPI.
        far_ns.run("ethtool", &format!("-K {far_interface} gro on"))?;
        match &self.frames {
            Frames::Plain(frames) => generator.run(ns, interface, frames, duration),
            Frames::Tunnelled(frames) => generator.run(ns, interface, frames, duration),
        }
    }
}

/// Index of each frame, and its flow. As many frames for every contender, however few nodes it knows: they take cache themselves.
fn numbers(mix: Mix) -> impl Iterator<Item = (usize, u16)> {
    let count = mix.flows.max(mix.pods).max(mix.nodes);
    (0..count).map(move |index| (index, u16::try_from(index % mix.flows).unwrap_or(u16::MAX)))
}

/// Frames as they arrive at the second node's NIC.
fn arriving(pair: &Pair, mix: Mix) -> anyhow::Result<Frames> {
    let cable = Link { source: mac(&pair.a.ns().mac(pair.a.nic())?)?, destination: mac(&pair.b.ns().mac(pair.b.nic())?)? };
    let source = pod(&pair.a, 0)?.address;
    let pods = pair.b.pods();
    let pods = &pods[..pods.len().min(mix.pods)];
    let Some(end) = pair.b.vtep_mac().filter(|_| pair.tunnel) else {
        let datagram = |(index, flow): (usize, u16)| Datagram::of_flow(source, pods[index % pods.len()].address, flow);
        return Ok(Frames::Plain(numbers(mix).map(|number| frames::plain(cable, &datagram(number))).collect()));
    };
    let own = (pair.a.address(), source, mac(&pair.a.vtep_mac().context("only one end has a tunnel")?)?);
    let others = peers(pair, mix.nodes).map(|peer| anyhow::Ok((peer.address, first_pod(&peer), mac(&peer.vtep_mac)?)));
    let senders = others.chain([Ok(own)]).collect::<Result<Vec<_>, _>>()?;
    let end = mac(&end)?;
    let frames = numbers(mix).map(|(index, flow)| {
        let (node, source, vtep) = senders[index % senders.len()];
        let overlay = Link { source: vtep, destination: end };
        let tunnel = Tunnel { underlay: cable, overlay, source: node, destination: pair.b.address(), port: PORT, vni: VNI };
        frames::tunnelled(&tunnel, &Datagram::of_flow(source, pods[index % pods.len()].address, flow))
    });
    Ok(Frames::Tunnelled(frames.collect()))
}

/// Answers of a Service's backend as they arrive at the first node's NIC.
fn answers(pair: &Pair, mix: Mix) -> anyhow::Result<Frames> {
    let Pair { a, b, .. } = pair;
    let vtep = |side: &Side| mac(&side.vtep_mac().with_context(|| format!("{} has no tunnel", side.name()))?);
    let tunnel = Tunnel {
        underlay: Link { source: mac(&b.ns().mac(b.nic())?)?, destination: mac(&a.ns().mac(a.nic())?)? },
        overlay: Link { source: vtep(b)?, destination: vtep(a)? },
        source: b.address(),
        destination: a.address(),
        port: PORT,
        vni: VNI,
    };
    let (source, destination) = (pod(b, 0)?.address, pod(a, 0)?.address);
    let frames = numbers(mix).map(|(_, flow)| {
        let asked = Datagram::of_flow(destination, source, flow);
        let answer = Datagram { source, destination, source_port: far::BACKEND_PORT, destination_port: asked.source_port };
        frames::tunnelled(&tunnel, &answer)
    });
    Ok(Frames::Tunnelled(frames.collect()))
}

/// Nodes beside the other node of the pair, so that there are `nodes` together, or as many as the pair knows.
fn peers(pair: &Pair, nodes: usize) -> impl Iterator<Item = Peer> {
    let known = usize::try_from(pair.id.scale.nodes).unwrap_or(usize::MAX).min(nodes);
    FarNode::first(u32::try_from(known.saturating_sub(1)).unwrap_or(u32::MAX)).map(FarNode::as_peer)
}

/// An address of a peer's pods.
fn first_pod(peer: &Peer) -> Ipv4Addr {
    Ipv4Addr::from_bits(peer.pod_cidr.network().to_bits() + 11)
}

/// A pod of a node.
pub(super) fn pod(end: &Side, index: usize) -> anyhow::Result<&Pod> {
    end.pods().get(index).with_context(|| format!("{} has no pod {}", end.name(), index + 1))
}

/// MAC a pod's frames to an address go to. One echo first, so that the neighbour is known.
fn next_hop(pod: &Ns, address: Ipv4Addr) -> anyhow::Result<Mac> {
    let pong = Ping::default().run(pod, address)?;
    anyhow::ensure!(pong.received > 0, "{address} does not answer {}", pod.name());
    let route: serde_json::Value = serde_json::from_str(&pod.ip(&format!("-json route get {address}"))?)?;
    let hop = route[0]["gateway"].as_str().map_or_else(|| address.to_string(), ToOwned::to_owned);
    let neighbours: serde_json::Value = serde_json::from_str(&pod.ip(&format!("-json neighbour show {hop}"))?)?;
    mac(neighbours[0]["lladdr"].as_str().with_context(|| format!("{} does not know the MAC of {hop}", pod.name()))?)
}

/// Reads a MAC as `ip` prints it.
fn mac(text: &str) -> anyhow::Result<Mac> {
    let mac: overlay_agent::model::Mac = text.parse().with_context(|| format!("{text} is not a MAC"))?;
    Ok(mac.0)
}
