//! What the running agent tells of itself: the status, its file, and whether it is well.
//!
//! The agent writes `status.json` below its state directory; `overlay-agent status` reads it. Touches nothing but that directory. Counters
//! are not in the file: they are read from the kernel when somebody asks.

mod address;
mod pods;
mod render;
mod state_dir;

pub use address::AddressStatus;
pub use pods::{PodStatus, RecordStatus, Wiring, pods};
pub use render::{Readings, Style, render_json, render_text};
pub(crate) use render::{drops, flows};
pub use state_dir::{LockError, StateDir, StatusError};

use crate::backend::{Backend, Way};
use crate::cluster::publish::PublishStatus;
use crate::cluster::{Health, SourceState};
use crate::firewall;
use crate::model::{ClusterNode, FIREWALL_TABLE, Mac, NeighbourState, RejectedNode, Topology, Underlay, UnderlayDevice};
use ipnet::Ipv4Net;
use jiff::Timestamp;
use overlay_common::abi;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Everything the agent tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    /// This node's name, as configured.
    pub node_name: String,
    /// This node; absent while the list of nodes does not have it or it is left out.
    pub node: Option<ThisNode>,
    /// How this node's address was chosen; absent until there was a list of nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<AddressStatus>,
    /// What became of writing to the Node object; absent if nothing is to be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish: Option<PublishStatus>,
    /// The source of the list of nodes.
    pub source: SourceState,
    /// The NIC that carries the tunnel; absent until it is found.
    pub underlay: Option<UnderlayStatus>,
    /// How tunnel packets are received; absent until programs are attached.
    pub receive: Option<ReceiveStatus>,
    /// How pods' packets leave the cluster; absent until it was looked at.
    #[serde(default)]
    pub firewall: Option<FirewallStatus>,
    /// How packets are to get to them. An older agent does not say.
    #[serde(default)]
    pub backend: Backend,
    /// Every other node that is used, by name.
    pub peers: Vec<Peer>,
    /// Nodes that are left out.
    pub rejected: Vec<RejectedNode>,
    /// What the container runtime finds; absent until the node was ready once, or if the agent is not to put anything there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<RuntimeFiles>,
    /// What another network left on this node, in a sentence: looked for when somebody asks for the status, never in the file.
    #[serde(skip)]
    pub leftovers: Option<String>,
    /// Pods with an address that is not of this node's network any more, in a sentence: looked for like `leftovers`.
    #[serde(skip)]
    pub stray_pods: Option<String>,
    /// Why health and metrics cannot be asked for, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_problem: Option<String>,
    /// Why the configuration files are not what is in use, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration_problem: Option<String>,
    /// The last pass that did something or could not.
    pub last_pass: Option<Pass>,
}

/// This node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThisNode {
    /// Its address on the underlay.
    pub address: Ipv4Addr,
    /// The network of its pods.
    pub pod_cidr: Ipv4Net,
    /// The host's address inside the overlay.
    pub gateway: Ipv4Addr,
    /// MAC of its tunnel end.
    pub vtep_mac: Mac,
    /// What an operator should look at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
}

/// The underlay NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnderlayStatus {
    /// Its name.
    pub device: String,
    /// Its index.
    pub ifindex: u32,
    /// Its MAC.
    pub mac: Mac,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// MTU inside the tunnel in bytes.
    pub overlay_mtu: u32,
    /// What outer UDP headers carry: always `zero` (docs/adr/0010). An older agent does not say.
    #[serde(default)]
    pub outer_checksum: String,
    /// The kernel's word for what it is; absent for a physical NIC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

/// How tunnel packets are received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiveStatus {
    /// The rung in use: `xdp`, `xdp-redirect`, `tc` or `kernel`.
    pub mode: String,
    /// Why this one, in a sentence.
    pub reason: String,
}

/// What the agent keeps in the container runtime's directories.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeFiles {
    /// The list of plugins.
    pub list: PathBuf,
    /// The plugin.
    pub plugin: PathBuf,
    /// What pods cannot have on this node, and why.
    pub notices: Vec<String>,
    /// What keeps the runtime from using them.
    pub problems: Vec<String>,
}

/// How pods' packets leave the cluster, and what may stop them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallStatus {
    /// Whether the configuration asks for masquerade.
    pub masquerade: bool,
    /// The nftables table that does it; absent: nothing does.
    pub table: Option<String>,
    /// Chains that would drop pods' packets but for our rules.
    pub opened: Vec<String>,
    /// What stops pods' packets, or may.
    pub problems: Vec<String>,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// The network of its pods.
    pub pod_cidr: Ipv4Net,
    /// Its address on the underlay.
    pub address: Ipv4Addr,
    /// MAC of its tunnel end.
    pub vtep_mac: Mac,
    /// How packets get there.
    pub path: Way,
    /// The neighbour packets are handed to: a router or the node itself.
    pub next_hop: Option<Ipv4Addr>,
    /// State of the neighbour.
    pub next_hop_state: NeighbourState,
    /// MAC of the neighbour, when it is known.
    pub next_hop_mac: Option<Mac>,
    /// What an operator should look at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
}

/// A pass of the agent over everything it keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// When it ended.
    pub at: Timestamp,
    /// How many actions it carried out.
    pub actions: usize,
    /// What did not work.
    pub errors: Vec<String>,
}

impl Status {
    /// The status of an agent that has just begun.
    #[must_use]
    pub fn new(node_name: String, source: SourceState) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node_name,
            node: None,
            address: None,
            publish: None,
            source,
            underlay: None,
            receive: None,
            firewall: None,
            backend: Backend::default(),
            peers: Vec::new(),
            rejected: Vec::new(),
            runtime: None,
            leftovers: None,
            stray_pods: None,
            endpoint_problem: None,
            configuration_problem: None,
            last_pass: None,
        }
    }

    /// Takes in what is known of the cluster.
    pub fn set_cluster(&mut self, topology: &Topology, underlay: Option<&Underlay>) {
        self.node = topology.nodes.get(&self.node_name).map(ThisNode::from);
        self.peers = topology
            .nodes
            .values()
            .filter(|node| node.name != self.node_name)
            .map(|node| Peer::new(node, self.backend, underlay))
            .collect();
        self.rejected.clone_from(&topology.rejected);
    }

    /// Takes in what is known of the NIC. `overlay_mtu`: MTU inside the tunnel.
    pub fn set_underlay(&mut self, device: &UnderlayDevice, overlay_mtu: u32) {
        let UnderlayDevice { name, ifindex, mac, mtu, kind } = device.clone();
        self.underlay = Some(UnderlayStatus { device: name, ifindex, mac, mtu, overlay_mtu, outer_checksum: "zero".to_owned(), kind });
    }

    /// Takes in how tunnel packets are received: one of [`abi::receive`], and why.
    pub fn set_receive(&mut self, receive_mode: u32, reason: String) {
        let mode = match receive_mode {
            abi::receive::XDP => "xdp",
            abi::receive::XDP_REDIRECT => "xdp-redirect",
            abi::receive::TC => "tc",
            abi::receive::KERNEL => "kernel",
            _ => "unknown",
        };
        self.receive = Some(ReceiveStatus { mode: mode.to_owned(), reason });
    }

    /// Takes in what the packet filter does. `masquerade`: what it is asked to.
    pub fn set_firewall(&mut self, masquerade: bool, state: firewall::State) {
        let firewall::State { masquerading, opened, problems } = state;
        let table = masquerading.then(|| format!("ip {FIREWALL_TABLE}"));
        self.firewall = Some(FirewallStatus { masquerade, table, opened, problems: problems.into_iter().collect() });
    }

    /// Takes in a pass. One with nothing to do after one without errors is no news, and leaves the status as it was.
    pub fn record_pass(&mut self, pass: Pass) {
        let news = pass.actions > 0 || self.last_pass.as_ref().is_none_or(|last| last.errors != pass.errors);
        if news {
            self.last_pass = Some(pass);
        }
    }

    /// The networks of all pods of the cluster, this node's first.
    #[must_use]
    pub fn pod_networks(&self) -> Vec<Ipv4Net> {
        self.node.iter().map(|node| node.pod_cidr).chain(self.peers.iter().map(|peer| peer.pod_cidr)).collect()
    }

    /// Everything an operator should look at, most important first. Empty: healthy. `running`: whether the agent runs.
    #[must_use]
    pub fn problems(&self, running: bool) -> Vec<String> {
        let mut problems = Vec::new();
        if !running {
            problems.push("the agent is not running; what follows is what it last knew".to_owned());
        }
        problems.extend(self.source.problems());
        if self.node.is_none() && self.source.health == Health::Healthy && !self.rejected.iter().any(|node| node.name == self.node_name) {
            problems.push(format!("the list of nodes does not have this node, {}", self.node_name));
        }
        problems.extend(self.address.iter().filter_map(|address| address.problem.clone()));
        problems.extend(self.publish.iter().filter_map(|publish| publish.problem.clone()));
        if let Some(pass) = &self.last_pass {
            problems.extend(pass.errors.iter().cloned());
        } else if running {
            problems.push("no pass has been made yet".to_owned());
        }
        problems.extend(self.runtime.iter().flat_map(|runtime| runtime.problems.iter().cloned()));
        problems.extend(self.firewall.iter().flat_map(|firewall| firewall.problems.iter().cloned()));
        problems.extend(self.leftovers.clone());
        problems.extend(self.stray_pods.clone());
        problems.extend(self.configuration_problem.clone());
        problems.extend(self.endpoint_problem.clone());
        problems.extend(self.rejected.iter().map(|node| format!("node {} is left out: {}", node.name, node.reason)));
        problems.extend(self.peers.iter().filter_map(Peer::problem));
        problems
    }
}

impl From<&ClusterNode> for ThisNode {
    fn from(node: &ClusterNode) -> Self {
        Self {
            address: node.address,
            pod_cidr: node.pod_cidr,
            gateway: node.gateway(),
            vtep_mac: node.vtep_mac,
            notice: node.notice.clone(),
        }
    }
}

impl Peer {
    fn new(node: &ClusterNode, backend: Backend, underlay: Option<&Underlay>) -> Self {
        let next_hop = underlay.and_then(|underlay| underlay.next_hops.get(&node.address));
        Self {
            name: node.name.clone(),
            pod_cidr: node.pod_cidr,
            address: node.address,
            vtep_mac: node.vtep_mac,
            path: underlay.map_or(Way::NoRoute, |underlay| Way::to(node, backend, next_hop, &underlay.device)),
            next_hop: next_hop.map(|next_hop| next_hop.address),
            next_hop_state: next_hop.map_or(NeighbourState::Absent, |next_hop| next_hop.state),
            next_hop_mac: next_hop.and_then(|next_hop| next_hop.mac),
            notice: node.notice.clone(),
        }
    }

    pub(crate) fn problem(&self) -> Option<String> {
        let Self { name, address, .. } = self;
        match (self.path, self.next_hop) {
            (Way::Encap | Way::Direct, Some(next_hop)) if self.next_hop_state == NeighbourState::Failed => {
                Some(format!("node {name} cannot be reached: next hop {next_hop} does not answer ARP"))
            }
            (Way::Encap | Way::Direct, _) => None,
            (Way::BehindRouter, Some(next_hop)) => {
                let by = if next_hop == *address { "by another NIC".to_owned() } else { format!("behind router {next_hop}") };
                Some(format!("node {name} cannot be reached without a tunnel, as host-gw wants: {address} is {by}; backend: direct can"))
            }
            (Way::NoRoute | Way::BehindRouter, _) => Some(format!("node {name} cannot be reached: this host has no route to {address}")),
        }
    }
}

#[cfg(test)]
#[path = "status/tests.rs"]
mod tests;
