//! This node itself: which address it takes, and what is written to its Node object.
//!
//! Gathers the facts for the pure choice in [`crate::address`], from netlink, the Node and, for `can-reach`, the resolver and a socket that
//! sends nothing. Writes nothing itself: [`Publisher`] does, if it is asked for. What goes wrong here never stops a pass: as long as the
//! address that other nodes send to is one of this host's, it stays in use.

use crate::address::{Choice, Facts, Given, LocalAddress, Method, Target, choose};
use crate::cluster::Access;
use crate::cluster::publish::{Publisher, Wanted};
use crate::config::{Config, Source};
use crate::model::{ClusterNode, Topology};
use crate::netlink::{Error, Netlink};
use crate::status::{AddressStatus, Status};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tracing::{info, warn};

/// How long a name server may keep a pass waiting; the next pass asks again.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(2);

/// What is remembered of this node between passes.
pub struct OwnNode {
    node_name: String,
    method: Method,
    vni: u32,
    netlink: Netlink,
    publisher: Option<Publisher>,
    /// What `can-reach` was found to mean.
    target: Option<Ipv4Addr>,
    choice: Option<Choice>,
    listed: Option<ClusterNode>,
    /// Whether a whole pass has succeeded.
    ready: bool,
    /// What was last said in the log.
    told: Option<AddressStatus>,
}

impl OwnNode {
    /// Needs a tokio runtime. Writing begins with the first call of [`Self::publish`].
    #[must_use]
    pub fn new(config: &Config, netlink: Netlink) -> Self {
        let publisher = match &config.source {
            Source::Kubernetes { kubeconfig, api_server } if config.publish => {
                let access = Access::Files { kubeconfig: kubeconfig.clone(), api_server: api_server.clone() };
                Some(Publisher::start(config.node_name.clone(), access))
            }
            _ => None,
        };
        Self {
            node_name: config.node_name.clone(),
            method: config.address.clone(),
            vni: config.vni,
            netlink,
            publisher,
            target: None,
            choice: None,
            listed: None,
            ready: false,
            told: None,
        }
    }

    /// Chooses this node's address. Returns the topology as passes shall see it: with the address that is in use.
    pub async fn settle(&mut self, topology: Arc<Topology>, status: &mut Status) -> Arc<Topology> {
        self.listed = topology.nodes.get(&self.node_name).cloned();
        let given = self.listed.as_ref().map(|node| Given { address: node.address, by: node.given_by, internal_ip: node.internal_ip });
        // The pass asks for the same, and has the words for what goes wrong.
        let Ok(local) = local_addresses(&self.netlink).await else { return topology };
        let facts = Facts { local: &local, given, route: self.route().await, publishing: self.publisher.is_some() };
        let chosen = choose(&self.method, &facts);
        let is_local = |address: Ipv4Addr| local.iter().any(|entry| entry.address == address);
        let in_use = match (given, &chosen) {
            // Other nodes send to it and take nothing from another one.
            (Some(given), _) if is_local(given.address) => Some(given.address),
            (_, Ok(choice)) => Some(choice.address),
            (given, Err(_)) => given.map(|given| given.address),
        };
        let address = match &chosen {
            Ok(choice) => AddressStatus::of_choice(choice, given, in_use, (&self.node_name, self.publisher.is_some())),
            Err(error) => AddressStatus {
                chosen: None,
                how: given.map_or_else(|| "none".to_owned(), |given| given.by.to_string()),
                given: given.map(|given| given.address),
                given_by: given.map(|given| given.by),
                // A Node without an address is told of as what it is: a node that is left out.
                problem: given.is_some().then(|| format!("the address of this node: {error}")),
            },
        };
        self.tell(&address);
        status.address = Some(address);
        self.choice = chosen.ok();
        match (in_use, &self.listed) {
            (Some(address), Some(listed)) if listed.address != address => with_address(&topology, listed, address),
            _ => topology,
        }
    }

    /// Has written what other nodes need to know, if it is asked for. `complete`: a pass has just succeeded.
    pub fn publish(&mut self, complete: bool, status: &mut Status) {
        let Some(publisher) = &self.publisher else { return };
        self.ready |= complete && status.node.is_some() && status.receive.is_some();
        if let Some(choice) = &self.choice {
            let listed = self.listed.as_ref().map(|node| (node.address, node.given_by, node.vtep_mac));
            publisher.want(Wanted { address: choice.address, vni: self.vni, ready: self.ready, listed });
        }
        status.publish = Some(publisher.status());
    }

    /// Waits until there is news of what is written.
    pub async fn changed(&mut self) {
        match &mut self.publisher {
            Some(publisher) => publisher.changed().await,
            None => std::future::pending().await,
        }
    }

    /// For `can-reach`: the target's address, and what the kernel would send to it from.
    async fn route(&mut self) -> Option<(Ipv4Addr, Option<Ipv4Addr>)> {
        let Method::CanReach(target) = &self.method else { return None };
        let address = match (target, self.target) {
            (Target::Address(address), _) => *address,
            (Target::Name(_), Some(address)) => address,
            (Target::Name(name), None) => resolve(name).await?,
        };
        self.target = Some(address);
        Some((address, source_towards(address)))
    }

    fn tell(&mut self, address: &AddressStatus) {
        if self.told.as_ref() == Some(address) {
            return;
        }
        match (&address.problem, address.chosen) {
            (Some(problem), _) => warn!(problem, "this node's address"),
            (None, Some(chosen)) => info!(address = %chosen, how = address.how, "this node's address"),
            (None, None) => {}
        }
        self.told = Some(address.clone());
    }
}

/// This host's addresses with their devices.
async fn local_addresses(netlink: &Netlink) -> Result<Vec<LocalAddress>, Error> {
    let links = netlink.links().await?;
    let mut local = Vec::new();
    for entry in netlink.addresses().await? {
        // A device that has just come or gone has an event of its own.
        if let Some(link) = links.iter().find(|link| link.ifindex == entry.ifindex) {
            local.push(LocalAddress { nic: link.name.clone(), address: entry.address, up: link.up, loopback: link.loopback });
        }
    }
    Ok(local)
}

async fn resolve(name: &str) -> Option<Ipv4Addr> {
    let found = timeout(RESOLVE_PATIENCE, tokio::net::lookup_host((name, 0))).await.ok()?.ok()?;
    found.into_iter().find_map(|address| if let IpAddr::V4(address) = address.ip() { Some(address) } else { None })
}

/// What the kernel would send to `target` from: policy rules and all. Connecting a UDP socket sends nothing.
fn source_towards(target: Ipv4Addr) -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // The discard protocol's port (RFC 863): any would do.
    socket.connect((target, 9)).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(source) => Some(source),
        IpAddr::V6(_) => None,
    }
}

/// The topology with another address for this node. Rare: while NIC and Node object do not say the same.
fn with_address(topology: &Topology, listed: &ClusterNode, address: Ipv4Addr) -> Arc<Topology> {
    let mut topology = topology.clone();
    topology.nodes.insert(listed.name.clone(), ClusterNode { address, ..listed.clone() });
    Arc::new(topology)
}
