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

/// What the nodes of a topology take up in which nobody had to yield. A change that meets none of it changes nothing for the others, so the
/// whole need not be put together anew.
#[derive(Debug)]
pub struct Settled {
    addresses: BTreeSet<Ipv4Addr>,
    /// By first address; they do not overlap.
    networks: BTreeMap<Ipv4Addr, Ipv4Net>,
}

impl Settled {
    /// `None`: somebody is left out, and may come in with any change.
    #[must_use]
    pub fn of(topology: &Topology) -> Option<Self> {
        let nodes = || topology.nodes.values();
        topology.rejected.is_empty().then(|| Self {
            addresses: nodes().map(|node| node.address).collect(),
            networks: nodes().map(|node| (node.pod_cidr.network(), node.pod_cidr)).collect(),
        })
    }

    /// The topology after nodes were added or changed: what [`topology`] makes of all of them. `before`: the one it is settled for.
    ///
    /// `None`: a change meets what somebody else has, and all have to be looked at; this is of no use any more then.
    #[must_use]
    pub fn change(&mut self, before: &Topology, changed: &[&Candidate]) -> Option<Topology> {
        let nodes = changed.iter().map(|candidate| candidate.node.as_ref().ok()).collect::<Option<Vec<&ClusterNode>>>()?;
        for old in nodes.iter().filter_map(|node| before.nodes.get(&node.name)) {
            self.addresses.remove(&old.address);
            self.networks.remove(&old.pod_cidr.network());
        }
        let mut topology = before.clone();
        for node in nodes {
            if !self.add(node) {
                return None;
            }
            topology.nodes.insert(node.name.clone(), node.clone());
        }
        Some(topology)
    }

    /// Returns whether there is room for it.
    fn add(&mut self, node: &ClusterNode) -> bool {
        let (first, last) = (node.pod_cidr.network(), node.pod_cidr.broadcast());
        let below = |address: Ipv4Addr| self.networks.range(..=address).next_back().map(|(_, network)| *network);
        let met = below(last).is_some_and(|network| network.broadcast() >= first)
            || below(node.address).is_some_and(|network| network.contains(&node.address))
            || self.addresses.range(first..=last).next().is_some();
        !met && self.addresses.insert(node.address) && self.networks.insert(first, node.pod_cidr).is_none()
    }
}

#[cfg(test)]
#[path = "conflicts_tests.rs"]
mod tests;
