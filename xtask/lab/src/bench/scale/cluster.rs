//! A node with an agent, and an API server that knows thousands of nodes beside it.
//!
//! The nodes do not exist: they are behind the router, which is the next hop to all of them, as in a cluster whose nodes are routed.

use crate::agent::ReceiveMode;
use crate::api_server::ApiServer;
use crate::bpf;
use crate::node::Node;
use crate::nodes::NodeEntry;
use crate::probe::ping;
use crate::sandbox;
use crate::underlay::{Kind, Underlay};
use anyhow::{Context as _, ensure};
use ipnet::Ipv4Net;
use overlay_agent::datapath::{PinDir, Tables};
use overlay_common::abi;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(5);
/// Pause between two looks at the map: a look-up of one entry.
const LOOK: Duration = Duration::from_micros(200);
/// As many /24 as there are between 10.0.0.0 and the lab's own, which begin at 10.244.0.0.
pub(super) const MOST: usize = 244 << 8;

/// See the module. Dropped, it is gone: agent first.
pub(super) struct Cluster {
    pub(super) node: Node,
    pub(super) server: ApiServer,
    pub(super) peers: Vec<Peer>,
    pins: PathBuf,
    _underlay: Underlay,
}

/// A node that does not exist. It has one of two addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    index: u32,
    moved: bool,
}

impl Peer {
    pub(super) fn name(self) -> String {
        // As long as names of real nodes are.
        format!("node-{:05}.north-1.example.org", self.index)
    }

    /// From the networks set aside for benchmarks (RFC 2544): the second half for those that have moved.
    pub(super) fn address(self) -> Ipv4Addr {
        let half = if self.moved { Ipv4Addr::new(198, 19, 0, 1) } else { Ipv4Addr::new(198, 18, 0, 1) };
        Ipv4Addr::from_bits(half.to_bits() + self.index)
    }

    pub(super) fn pod_cidr(self) -> Ipv4Net {
        Ipv4Net::new_assert(Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + (self.index << 8)), 24)
    }

    pub(super) fn entry(self) -> NodeEntry {
        NodeEntry::new(&self.name(), self.address(), &self.pod_cidr())
    }
}

impl Cluster {
    /// A server that knows `nodes` nodes and one node on which no agent has ever run.
    pub(super) fn create(nodes: usize) -> anyhow::Result<Self> {
        let underlay = Underlay::create(Kind::L2, 1500)?;
        let place = underlay.place(1);
        let directory = Path::new(sandbox::ROOT).join("scale");
        let mut node = Node::create(&underlay, place, 1, Path::new("unused"), ReceiveMode::Auto)?;
        // With TLS, as a real one: reading ten thousand Nodes is deciphering them too.
        let server = ApiServer::start_secure(&underlay.router, place.router)?;
        server.access(&directory)?.aim(&mut node.config);
        server.put(&node.entry());
        let peers: Vec<Peer> = (0..u32::try_from(nodes)?).map(|index| Peer { index, moved: false }).collect();
        for peer in &peers {
            server.put(&peer.entry());
        }
        // Their next hop is known, so that no entry has to be written twice.
        ping::once(&node.ns, place.router)?;
        let pins = node.config.bpffs.clone();
        Ok(Self { node, server, peers, pins, _underlay: underlay })
    }

    /// The maps, once the agent has made them.
    pub(super) fn tables(&self) -> anyhow::Result<Tables> {
        let start = Instant::now();
        loop {
            match Tables::open_existing(&PinDir::new(&self.pins)) {
                Ok(Some(tables)) => return Ok(tables),
                // Pins are made one after the other.
                _ if start.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(1)),
                Ok(None) => anyhow::bail!("the agent made no maps; its log:\n{}", self.node.log_tail()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Gives a peer its other address; returns it as it is now. The API server is still to be told.
    pub(super) fn turn(&mut self, index: usize) -> anyhow::Result<Peer> {
        let peer = self.peers.get_mut(index).context("there is no such peer")?;
        peer.moved = !peer.moved;
        Ok(*peer)
    }

    /// Waits until the map says where a peer is; returns when it did.
    pub(super) fn wait_for(&self, tables: &Tables, peer: Peer) -> anyhow::Result<Instant> {
        let start = Instant::now();
        loop {
            if is_there(tables, peer)? {
                return Ok(Instant::now());
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "{} is not at {} in the map after {PATIENCE:?}; the agent's log:\n{}",
                peer.pod_cidr(),
                peer.address(),
                self.node.log_tail()
            );
            thread::sleep(LOOK);
        }
    }

    /// Waits until the map has all of them, checked one by one; returns when the last one was there.
    pub(super) fn wait_for_all(&self, tables: &Tables) -> anyhow::Result<Instant> {
        // They are written in the order of their networks.
        let last = self.peers.last().context("there are no peers")?;
        let done = self.wait_for(tables, *last)?;
        for peer in &self.peers {
            self.wait_for(tables, *peer)?;
        }
        ensure!(tables.subnets()?.len() == self.peers.len(), "the map has other entries too");
        Ok(done)
    }

    /// Kernel memory of all maps, in bytes.
    pub(super) fn map_bytes(&self) -> anyhow::Result<u64> {
        abi::map::ALL.iter().map(|map| bpf::bytes(&self.node.pins(), map)).sum()
    }
}

fn is_there(tables: &Tables, peer: Peer) -> anyhow::Result<bool> {
    let subnet = tables.subnet(peer.pod_cidr())?;
    Ok(subnet.is_some_and(|subnet| subnet.node == peer.address().octets() && subnet.reach != abi::reach::NONE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_peers_share_an_address_or_a_network_wherever_they_are() {
        let most = u32::try_from(MOST).unwrap();
        let peers: Vec<Peer> = (0..most).flat_map(|index| [false, true].map(|moved| Peer { index, moved })).collect();
        assert_eq!(peers.iter().map(|peer| peer.address()).collect::<BTreeSet<_>>().len(), 2 * MOST);
        assert_eq!(peers.iter().map(|peer| peer.pod_cidr()).collect::<BTreeSet<_>>().len(), MOST);
        assert!(peers.iter().all(|peer| peer.pod_cidr().network() < Ipv4Addr::new(10, 244, 0, 0)));
    }
}
