//! Candidates into one [`Topology`]: who may stay when two nodes claim the same thing.
//!
//! Pure. The outcome depends on the set of candidates alone, never on their order or on what was before: every node of the cluster, seeing
//! the same objects, decides the same. The node that came first keeps what it has (oldest `creationTimestamp`, then name); one that came
//! later, copied or misconfigured, can take nothing from it. When the first disappears, the next claimant comes in by itself.
//! One exception: a pod network that contains those of several nodes is somebody's mistake (the cluster's network, say) whatever its age;
//! that node is left out, not the several.

use super::nodes::Candidate;
use crate::model::{ClusterNode, RejectedNode, Topology};
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Puts candidates together.
#[must_use]
pub fn topology<'a>(candidates: impl IntoIterator<Item = &'a Candidate>) -> Topology {
    topology_with(candidates, [])
}

/// The same with nodes that are said to be gone and are still believed in: each stays unless one that is there claims what it had, in one
/// step. One that has to yield is no longer told of.
#[must_use]
pub fn topology_with<'a>(
    candidates: impl IntoIterator<Item = &'a Candidate>,
    leaving: impl IntoIterator<Item = &'a Candidate>,
) -> Topology {
    let mut rejected = Vec::new();
    let mut claims = Vec::new();
    for candidate in candidates {
        match &candidate.node {
            Ok(node) => claims.push((candidate, node)),
            Err(reason) => rejected.push(RejectedNode { name: candidate.name.clone(), reason: reason.clone() }),
        }
    }
    claims.sort_by_key(age);

    let networks: BTreeSet<(Ipv4Net, &str)> = claims.iter().map(|(_, node)| (node.pod_cidr, node.name.as_str())).collect();
    let mut accepted = Accepted::default();
    for (_, node) in claims {
        match contains_several(node.pod_cidr, &networks).or_else(|| accepted.conflict(node)) {
            None => accepted.add(node),
            Some(reason) => rejected.push(RejectedNode { name: node.name.clone(), reason }),
        }
    }
    let mut leaving: Vec<_> = leaving.into_iter().filter_map(|candidate| Some((candidate, candidate.node.as_ref().ok()?))).collect();
    leaving.sort_by_key(age);
    for (_, node) in leaving {
        if accepted.conflict(node).is_none() {
            accepted.add(node);
        }
    }
    rejected.sort_by(|a, b| (&a.name, &a.reason).cmp(&(&b.name, &b.reason)));
    Topology { nodes: accepted.nodes, rejected, unconfirmed: false }
}

/// Oldest first. A node without a creation time (a list made by hand) comes after those with one. All that can differ takes part, so that
/// no tie is left to order.
fn age<'a>((candidate, node): &(&'a Candidate, &'a ClusterNode)) -> impl Ord + use<'a> {
    (candidate.created.is_none(), candidate.created, &node.name, &candidate.uid, node.address, node.pod_cidr, node.vtep_mac)
}

/// Why a node with this pod network cannot stay beside the smaller networks of several others.
fn contains_several(pod_cidr: Ipv4Net, networks: &BTreeSet<(Ipv4Net, &str)>) -> Option<String> {
    // Ordered by first address, then length: what the network contains follows it, up to its last address.
    let inside = networks
        .range((pod_cidr, "")..)
        .take_while(|(network, _)| network.network() <= pod_cidr.broadcast())
        .filter(|(network, _)| network.prefix_len() > pod_cidr.prefix_len());
    let names: BTreeSet<&str> = inside.map(|(_, name)| *name).collect();
    let (count, first) = (names.len(), names.first()?);
    (count > 1).then(|| format!("its podCIDR {pod_cidr} contains those of {count} other nodes, {first} among them"))
}

/// The nodes that may stay, with what is needed to find a conflict without looking at each of them.
#[derive(Default)]
struct Accepted<'a> {
    nodes: BTreeMap<String, ClusterNode>,
    by_address: BTreeMap<Ipv4Addr, &'a str>,
    /// Pod networks by their first address. They do not overlap, so only the nearest one below can hold a given address.
    by_network: BTreeMap<Ipv4Addr, (Ipv4Net, &'a str)>,
}

impl<'a> Accepted<'a> {
    fn add(&mut self, node: &'a ClusterNode) {
        self.by_address.insert(node.address, &node.name);
        self.by_network.insert(node.pod_cidr.network(), (node.pod_cidr, &node.name));
        self.nodes.insert(node.name.clone(), node.clone());
    }

    /// Why `node` cannot be added.
    fn conflict(&self, node: &ClusterNode) -> Option<String> {
        let ClusterNode { name, address, pod_cidr, .. } = node;
        if self.nodes.contains_key(name) {
            return Some("it is listed more than once; the one that came first is used".to_owned());
        }
        if let Some(other) = self.by_address.get(address) {
            return Some(format!("its address {address} is the address of node {other}, which came first"));
        }
        if let Some((network, other)) =
            self.last_network_from(pod_cidr.broadcast()).filter(|(network, _)| network.broadcast() >= pod_cidr.network())
        {
            return Some(if network == pod_cidr {
                format!("its podCIDR {pod_cidr} is the podCIDR of node {other}, which came first")
            } else {
                format!("its podCIDR {pod_cidr} overlaps podCIDR {network} of node {other}, which came first")
            });
        }
        if let Some((held, other)) = self.by_address.range(pod_cidr.network()..=pod_cidr.broadcast()).next() {
            return Some(format!("its podCIDR {pod_cidr} contains the address {held} of node {other}, which came first"));
        }
        if let Some((network, other)) = self.last_network_from(*address).filter(|(network, _)| network.contains(address)) {
            return Some(format!("its address {address} lies in podCIDR {network} of node {other}, which came first"));
        }
        None
    }

    /// The accepted network with the highest first address that is not above `address`.
    fn last_network_from(&self, address: Ipv4Addr) -> Option<&(Ipv4Net, &'a str)> {
        self.by_network.range(..=address).next_back().map(|(_, entry)| entry)
    }
}

#[cfg(test)]
#[path = "conflicts_tests.rs"]
mod tests;
