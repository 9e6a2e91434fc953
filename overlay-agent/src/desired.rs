//! What the kernel should hold for this node, from the cluster, the configuration and the underlay.
//!
//! Pure: no I/O, no clock; equal inputs give an equal result, so that a pass without news has nothing to do.

use crate::backend::{Backend, Way};
use crate::model::{ClusterNode, Desired, Firewall, ManagedNeighbour, NextHop, OverlayLink, Route, Topology, Underlay};
use ipnet::Ipv4Net;
use overlay_common::abi;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use zerocopy::FromZeros as _;

/// What [`desired`] is computed from.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// Name of this node.
    pub node_name: &'a str,
    /// VXLAN network identifier.
    pub vni: u32,
    /// VXLAN UDP port.
    pub port: u16,
    /// How packets are to get to other nodes.
    pub backend: Backend,
    /// Bytes the underlay carries, if less than the NIC's MTU. A larger value has no effect: the NIC could not send it.
    pub mtu: Option<u32>,
    /// The rung of the receive ladder in use: one of [`abi::receive`].
    pub receive_mode: u32,
    /// The cluster.
    pub topology: &'a Topology,
    /// The host's network.
    pub underlay: &'a Underlay,
}

/// There is nothing to aim at. What the kernel holds stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DesiredError {
    /// The list of nodes does not have this node.
    #[error("node {name} is not in the list of {known} nodes; set --node-name to its name there")]
    NotListed {
        /// This node.
        name: String,
        /// How many nodes the list has.
        known: usize,
    },
    /// This node was left out of the topology.
    #[error("node {name}, this node, is left out: {reason}")]
    Rejected {
        /// This node.
        name: String,
        /// Why.
        reason: String,
    },
    /// The underlay cannot carry a tunnel.
    #[error("the underlay NIC {device} has an MTU of {mtu} bytes; a tunnel needs {needed}")]
    MtuTooSmall {
        /// The NIC.
        device: String,
        /// Its MTU.
        mtu: u32,
        /// The least that works: the smallest IPv4 MTU and what the tunnel adds.
        needed: u32,
    },
}

/// The smallest MTU Linux lets an IPv4 device have (`IPV4_MIN_MTU`; RFC 791 section 3.2).
const IPV4_MIN_MTU: u32 = 68;

/// Computes what the kernel should hold.
///
/// A peer the host has no route to has no entry in `NODES`, and one in `SUBNETS` that says so: the programs drop and count what is sent to
/// it; so they do with one behind a router where packets may only be sent as they are. The entry and the route stay, so that its packets never leave by the default route instead. `overlay_ifindex` in the settings is 0: `plan` fills it in.
pub fn desired(inputs: &Inputs<'_>) -> Result<Desired, DesiredError> {
    let this = this_node(inputs.node_name, inputs.topology)?;
    let underlay_mtu = underlay_mtu(inputs)?;
    // An IPv4 packet has at most 65,535 bytes; loopback and its like have a larger MTU.
    let mtu = (underlay_mtu - abi::ENCAP_OVERHEAD).min(u16::MAX.into());
    let gateway = this.gateway();
    // A pod keeps the MTU it was wired with: where any peer may be sent VXLAN, now or after a change of routing, the tunnel's is what fits.
    let pod_mtu = if inputs.backend == Backend::HostGw { underlay_mtu.min(u16::MAX.into()) } else { mtu };

    let mut desired = Desired {
        link: OverlayLink { mac: this.vtep_mac, mtu, port: inputs.port, address: gateway },
        settings: settings(inputs, this, pod_mtu),
        subnets: BTreeMap::new(),
        nodes: BTreeMap::new(),
        routes: BTreeSet::from([Route::Unreachable { destination: this.pod_cidr }]),
        neighbours: BTreeSet::new(),
    };
    for peer in inputs.topology.nodes.values().filter(|node| node.name != this.name) {
        desired.settings.subnet_lens |= 1 << peer.pod_cidr.prefix_len();
        let next_hop = inputs.underlay.next_hops.get(&peer.address);
        let way = Way::to(peer, inputs.backend, next_hop, &inputs.underlay.device);
        let subnet = subnet(this, peer, (way, next_hop), underlay_mtu);
        desired.subnets.insert(peer.pod_cidr, subnet);
        desired.routes.insert(if way == Way::Direct {
            let mtu = Some(u32::from(subnet.mtu)).filter(|mtu| *mtu < inputs.underlay.device.mtu.min(u16::MAX.into()));
            Route::Direct { destination: peer.pod_cidr, gateway: peer.address, ifindex: subnet.ifindex, source: gateway, mtu }
        } else {
            Route::Overlay { destination: peer.pod_cidr, source: gateway }
        });
        if let Some(next_hop) = next_hop {
            let (pod_net, pod_mask) = network(peer.pod_cidr);
            desired.nodes.insert(peer.address, abi::Node { pod_net, pod_mask, reach: way.reach() });
            desired.neighbours.extend(neighbours(peer.address, next_hop));
        }
    }
    Ok(desired)
}

/// Whom the kernel is asked to keep resolved for a node at `address`.
pub fn neighbours(address: Ipv4Addr, next_hop: &NextHop) -> impl Iterator<Item = ManagedNeighbour> + use<> {
    let NextHop { ifindex, on_link, .. } = *next_hop;
    // Its own route to us may be another than ours to it: what it sends as a neighbour is known by its MAC.
    let addresses = [Some(next_hop.address), on_link.then_some(address)];
    addresses.into_iter().flatten().map(move |address| ManagedNeighbour { address, ifindex })
}

/// The networks that are sent packets as they are.
#[must_use]
pub fn direct_networks(subnets: &BTreeMap<Ipv4Net, abi::Subnet>) -> BTreeSet<Ipv4Net> {
    subnets.iter().filter(|(_, subnet)| subnet.reach == abi::reach::DIRECT).map(|(net, _)| *net).collect()
}

/// Multicast (RFC 5771): never routed through a translation, and a group is no destination that answers the node.
const MULTICAST: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4);

/// Computes what the packet filter should do for the pods of `this` node.
///
/// Whatever leaves by the overlay device stays in the cluster, so the pod networks of nodes that are sent VXLAN need not be listed. `direct`:
/// those of the others, and what the configuration adds, in any order, overlapping or not.
#[must_use]
pub fn firewall(this: &ClusterNode, masquerade: bool, direct: &[Ipv4Net], port: u16) -> Firewall {
    let all: Vec<Ipv4Net> = direct.iter().copied().chain([this.pod_cidr, MULTICAST]).collect();
    // nft refuses a set whose elements overlap.
    let mut direct = Ipv4Net::aggregate(&all);
    direct.sort();
    Firewall { masquerade, pod_cidr: this.pod_cidr, direct, port }
}

fn this_node<'a>(name: &str, topology: &'a Topology) -> Result<&'a ClusterNode, DesiredError> {
    if let Some(node) = topology.nodes.get(name) {
        return Ok(node);
    }
    Err(match topology.rejected.iter().find(|rejected| rejected.name == name) {
        Some(rejected) => DesiredError::Rejected { name: name.to_owned(), reason: rejected.reason.clone() },
        None => DesiredError::NotListed { name: name.to_owned(), known: topology.nodes.len() + topology.rejected.len() },
    })
}

/// Largest IP packet the underlay carries.
fn underlay_mtu(inputs: &Inputs<'_>) -> Result<u32, DesiredError> {
    let device = &inputs.underlay.device;
    let mtu = inputs.mtu.map_or(device.mtu, |mtu| mtu.min(device.mtu));
    let needed = IPV4_MIN_MTU + abi::ENCAP_OVERHEAD;
    if mtu < needed {
        return Err(DesiredError::MtuTooSmall { device: device.name.clone(), mtu, needed });
    }
    Ok(mtu)
}

fn settings(inputs: &Inputs<'_>, this: &ClusterNode, pod_mtu: u32) -> abi::Settings {
    let device = &inputs.underlay.device;
    let (pod_net, pod_mask) = network(this.pod_cidr);
    abi::Settings {
        abi_version: abi::ABI_VERSION,
        vni: inputs.vni,
        port: inputs.port.into(),
        receive_mode: inputs.receive_mode,
        mtu: pod_mtu,
        overlay_ifindex: 0,
        underlay_ifindex: device.ifindex,
        address: this.address.octets(),
        pod_net,
        pod_mask,
        gateway: this.gateway().octets(),
        vtep_mac: this.vtep_mac.0,
        underlay_mac: device.mac.0,
        subnet_lens: 0,
    }
}

fn subnet(this: &ClusterNode, peer: &ClusterNode, (way, next_hop): (Way, Option<&NextHop>), underlay_mtu: u32) -> abi::Subnet {
    let node = peer.address.octets();
    // Nothing is too big to be dropped.
    let unreachable = abi::Subnet { node, reach: abi::reach::NONE, mtu: u16::MAX, ..abi::Subnet::new_zeroed() };
    let Some(next_hop) = next_hop else { return unreachable };
    let mtu = match way {
        Way::Direct => next_hop.mtu.map_or(underlay_mtu, |mtu| mtu.min(underlay_mtu)),
        // The device that the stack sends it by has no other MTU for this peer.
        Way::Encap => underlay_mtu - abi::ENCAP_OVERHEAD,
        Way::NoRoute | Way::BehindRouter => u16::MAX.into(),
    };
    abi::Subnet {
        node,
        vtep_mac: peer.vtep_mac.0,
        next_hop_mac: next_hop.mac.unwrap_or_default().0,
        local_mac: next_hop.local_mac.0,
        mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
        // The peer accepts packets from the address the list gives this node, whatever address the kernel would choose.
        source: this.address.octets(),
        next_hop: next_hop.address.octets(),
        ifindex: next_hop.ifindex,
        reach: way.reach(),
        node_mac: next_hop.node_mac.unwrap_or_default().0,
        pad: [0; 2],
    }
}

fn network(net: Ipv4Net) -> (abi::Ipv4, abi::Ipv4) {
    (net.network().octets(), net.netmask().octets())
}

#[cfg(test)]
#[path = "desired_tests.rs"]
mod tests;
