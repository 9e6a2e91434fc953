//! The part of the cluster that changed, as an input of its own for `desired` and `plan`.
//!
//! Pure. A node that joins ten thousand others concerns no entry but its own, because no two nodes of a [`Topology`] share an address or
//! have overlapping pod networks. So the same functions compute what should be for the nodes that differ alone, and compare it with the
//! same few entries of what the kernel holds: cut out first, put back afterwards. The plan is the one that the whole would give; a
//! property test holds it to that.

use crate::desired::neighbours;
use crate::model::{ClusterNode, ManagedNeighbour, NextHop, Observed, Topology};
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// What differs between two snapshots of the cluster.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// This node, and the nodes that are new or other than before, as they are now.
    pub now: Topology,
    /// Every address the differing nodes have or had.
    addresses: BTreeSet<Ipv4Addr>,
    /// Every pod network they have or had, and this node's.
    networks: BTreeSet<Ipv4Net>,
}

impl Part {
    /// Compares two snapshots; `this` node is the same in both.
    #[must_use]
    pub fn between(before: &Topology, now: &Topology, this: &ClusterNode) -> Self {
        let mut part = Self::default();
        part.networks.insert(this.pod_cidr);
        part.now.nodes.insert(this.name.clone(), this.clone());
        for (gone, come) in before.differences(now) {
            part.addresses.extend([gone, come].into_iter().flatten().map(|node| node.address));
            part.networks.extend([gone, come].into_iter().flatten().map(|node| node.pod_cidr));
            part.now.nodes.extend(come.map(|node| (node.name.clone(), node.clone())));
        }
        part
    }

    /// Takes the ways to the differing nodes out of `next_hops`; they have to be asked for anew.
    pub fn forget(&self, next_hops: &mut BTreeMap<Ipv4Addr, NextHop>) {
        for address in &self.addresses {
            next_hops.remove(address);
        }
    }

    /// Takes what concerns the part out of `held`. `next_hops`: the ways to all nodes there are now.
    ///
    /// A neighbour serves many nodes: with the part go those the part needs, and those nobody needs any more.
    pub fn cut(&self, held: &mut Observed, next_hops: &BTreeMap<Ipv4Addr, NextHop>) -> Observed {
        let needed: BTreeSet<ManagedNeighbour> = next_hops.iter().flat_map(|(address, hop)| neighbours(*address, hop)).collect();
        let parts = self.addresses.iter().filter_map(|address| Some(neighbours(*address, next_hops.get(address)?)));
        let parts: BTreeSet<ManagedNeighbour> = parts.flatten().collect();
        Observed {
            link: held.link,
            settings: held.settings,
            subnets: self.networks.iter().filter_map(|network| held.subnets.remove_entry(network)).collect(),
            nodes: self.addresses.iter().filter_map(|address| held.nodes.remove_entry(address)).collect(),
            routes: held.routes.extract_if(.., |route| self.networks.contains(&route.destination())).collect(),
            neighbours: held.neighbours.extract_if(.., |place| parts.contains(place) || !needed.contains(place)).collect(),
        }
    }
}

/// Puts a part back.
pub fn put_back(held: &mut Observed, mut part: Observed) {
    held.link = part.link;
    held.settings = part.settings;
    held.subnets.append(&mut part.subnets);
    held.nodes.append(&mut part.nodes);
    held.routes.append(&mut part.routes);
    held.neighbours.append(&mut part.neighbours);
}

#[cfg(test)]
#[path = "part_tests.rs"]
mod tests;
