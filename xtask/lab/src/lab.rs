//! A whole lab: an underlay, nodes of ours, foreign nodes, the nodes file, pods on every node.
//!
//! There is one lab at a time in a sandbox: names of namespaces are fixed, so that a person finds them again.

use crate::agent::ReceiveMode;
use crate::api_server::{Access, ApiServer};
use crate::foreign::{ForeignNode, Peer};
use crate::netns::Ns;
use crate::node::Node;
use crate::nodes::{NodeEntry, NodesFile};
use crate::pod::Pod;
use crate::sandbox;
use crate::underlay::{Kind, OUTSIDE, Underlay};
use anyhow::Context as _;
use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

/// What to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabConfig {
    /// What lies between the nodes.
    pub underlay: Kind,
    /// MTU of the underlay, in bytes.
    pub mtu: u32,
    /// Nodes with our agent: `node-1` and on.
    pub nodes: u8,
    /// Nodes with the kernel's vxlan; numbered after ours.
    pub foreign: u8,
    /// Pods on each node.
    pub pods: usize,
    /// What makes the pods of our nodes.
    pub runtime: Runtime,
    /// Where our agents get the nodes from.
    pub source: Source,
    /// How our nodes receive.
    pub receive_mode: ReceiveMode,
    /// The underlay carries super-packets with checksums left to do, as virtual links do; else what a wire carries, see
    /// [`Underlay::set_offloads`].
    pub offloads: bool,
}

impl Default for LabConfig {
    fn default() -> Self {
        Self {
            underlay: Kind::L2,
            mtu: 1500,
            nodes: 2,
            foreign: 0,
            pods: 1,
            runtime: Runtime::Lab,
            source: Source::File,
            receive_mode: ReceiveMode::Auto,
            offloads: true,
        }
    }
}

/// What makes the pods of our nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Runtime {
    /// The lab: a network namespace each.
    #[default]
    Lab,
    /// A containerd on each node: a container each, wired by overlay-cni.
    Containerd,
}

/// Where our agents get the nodes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Source {
    /// A file every agent follows.
    #[default]
    File,
    /// The Kubernetes API, as a server on the router speaks it.
    Kubernetes,
}

/// The API server of a lab, and what its clients need.
#[derive(Debug)]
pub struct Api {
    /// It listens on the router, with TLS, for those who have its token.
    pub server: ApiServer,
    /// What the agents are started with.
    pub access: Access,
}

/// A running lab. Dropped, everything of it goes, agents first.
#[derive(Debug)]
pub struct Lab {
    /// Our nodes.
    pub nodes: Vec<Node>,
    /// Nodes with the kernel's vxlan.
    pub foreign: Vec<ForeignNode>,
    /// The nodes of the cluster, and the file that all agents follow unless there is an API server.
    pub nodes_file: NodesFile,
    /// What all agents follow instead, if there is one.
    pub api: Option<Api>,
    /// What connects the nodes.
    pub underlay: Underlay,
}

/// What an address of the lab belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A pod of one of our nodes or of a foreign one.
    Pod,
    /// A node itself.
    Host,
    /// The host beyond the router.
    Outside,
}

/// One end of a conversation.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint<'lab> {
    /// What to call it.
    pub name: &'lab str,
    /// What it is.
    pub role: Role,
    /// Where its processes run.
    pub ns: &'lab Ns,
    /// Its address: a pod's own, a node's on the underlay.
    pub address: Ipv4Addr,
    /// A node's address inside the overlay; for others the same as `address`.
    pub overlay_address: Ipv4Addr,
    /// The node it is or is on; the outside is on none.
    pub node: &'lab str,
}

impl Lab {
    /// Builds a lab and waits until every agent is ready. `progress` is told each step before it begins.
    ///
    /// # Errors
    /// Anything fails: what was built is gone again.
    pub fn create(config: &LabConfig, progress: &mut dyn FnMut(&str)) -> anyhow::Result<Self> {
        progress(&format!("underlay ({}, MTU {})", config.underlay.name(), config.mtu));
        let directory = Path::new(sandbox::ROOT).join("cluster");
        fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        let nodes_file = NodesFile::new(directory.join("nodes.yaml"));
        let underlay = Underlay::create(config.underlay, config.mtu)?;
        let mut lab = Self { nodes: Vec::new(), foreign: Vec::new(), nodes_file, api: None, underlay };
        if config.source == Source::Kubernetes {
            progress("API server on the router");
            let server = ApiServer::start_secure(&lab.underlay.router, lab.underlay.place(1).router)?;
            lab.api = Some(Api { access: server.access(&directory)?, server });
        }

        progress("nodes: network namespaces with a NIC each");
        for number in 1..=config.nodes {
            let place = lab.underlay.place(number);
            lab.nodes.push(Node::create(&lab.underlay, place, number, lab.nodes_file.path(), config.receive_mode)?);
        }
        for number in config.nodes + 1..=config.nodes + config.foreign {
            lab.foreign.push(ForeignNode::create(&lab.underlay, lab.underlay.place(number), number)?);
        }
        if !config.offloads {
            for host in lab.hosts() {
                lab.underlay.set_offloads(host.ns, false)?;
            }
        }
        if config.runtime == Runtime::Containerd {
            progress("containerd on every node");
            lab.nodes.iter_mut().try_for_each(Node::start_runtime)?;
        }
        lab.nodes_file.entries = lab.nodes.iter().map(Node::entry).chain(lab.foreign.iter().map(ForeignNode::entry)).collect();
        for node in &mut lab.nodes {
            if let Some(Api { access, .. }) = &lab.api {
                access.aim(&mut node.config);
            }
        }
        lab.publish()?;

        progress(match config.source {
            Source::File => "agents: start, load the programs, follow the nodes file",
            Source::Kubernetes => "agents: start, load the programs, follow the API server",
        });
        // All at once, as on machines of their own.
        for node in &mut lab.nodes {
            node.spawn_agent()?;
        }
        for node in &mut lab.nodes {
            node.wait_ready()?;
        }
        lab.introduce()?;

        progress(match config.runtime {
            Runtime::Lab => "pods: network namespaces wired to their nodes",
            Runtime::Containerd => "pods: containers, started by containerd through overlay-cni",
        });
        for _ in 0..config.pods {
            for node in &mut lab.nodes {
                node.add_pod()?;
            }
            for node in &mut lab.foreign {
                node.add_pod()?;
            }
        }
        Ok(lab)
    }

    /// Tells every foreign node of every other node.
    ///
    /// # Errors
    /// `ip` or `bridge` fails.
    pub fn introduce(&mut self) -> anyhow::Result<()> {
        let ours = self.nodes.iter().map(|node| Peer { address: node.address, pod_cidr: node.pod_cidr, vtep_mac: node.vtep_mac() });
        let peers: Vec<Peer> = ours.chain(self.foreign.iter().map(ForeignNode::as_peer)).collect();
        for node in &mut self.foreign {
            node.set_peers(peers.iter().filter(|peer| peer.address != node.address).cloned().collect())?;
        }
        Ok(())
    }

    /// Tells the agents what the list of nodes says now: by the file, or each node to the API server. What was taken out of the list is
    /// not taken from the server: see [`Self::forget`].
    ///
    /// # Errors
    /// The file system says no.
    pub fn publish(&self) -> anyhow::Result<()> {
        let Some(Api { server, .. }) = &self.api else { return self.nodes_file.write_atomic() };
        self.nodes_file.entries.iter().for_each(|entry| server.put(entry));
        Ok(())
    }

    /// Takes a node out of the cluster: its entry out of the list, its pod network out of the router's table, as a cloud's route
    /// controller does. The node itself runs on.
    ///
    /// # Errors
    /// There is no such node.
    pub fn forget(&mut self, name: &str) -> anyhow::Result<NodeEntry> {
        let entry = self.nodes_file.take(name)?;
        if let Some(pod_cidr) = &entry.pod_cidr {
            self.underlay.router.ip(&format!("route delete {pod_cidr}"))?;
        }
        match &self.api {
            None => self.nodes_file.write_atomic()?,
            Some(Api { server, .. }) => server.delete(name)?,
        }
        Ok(entry)
    }

    /// Undoes [`Self::forget`].
    ///
    /// # Errors
    /// `ip` or the file system fails.
    pub fn recall(&mut self, entry: NodeEntry) -> anyhow::Result<()> {
        if let (Some(pod_cidr), Some(address)) = (&entry.pod_cidr, entry.address) {
            self.underlay.route_pods(pod_cidr.parse()?, address)?;
        }
        if let Some(Api { server, .. }) = &self.api {
            server.put(&entry);
        }
        self.nodes_file.entries.push(entry);
        if self.api.is_none() { self.nodes_file.write_atomic() } else { Ok(()) }
    }

    /// Every pod, node by node.
    #[must_use]
    pub fn pods(&self) -> Vec<Endpoint<'_>> {
        let ours = self.nodes.iter().map(|node| (node.name.as_str(), &node.pods));
        let foreign = self.foreign.iter().map(|node| (node.name.as_str(), &node.pods));
        ours.chain(foreign).flat_map(|(node, pods)| pods.iter().map(move |pod| pod_endpoint(node, pod))).collect()
    }

    /// Every node.
    #[must_use]
    pub fn hosts(&self) -> Vec<Endpoint<'_>> {
        let ours = self.nodes.iter().map(|node| (node.name.as_str(), &node.ns, node.address, node.gateway()));
        let foreign = self.foreign.iter().map(|node| (node.name.as_str(), &node.ns, node.address, node.gateway()));
        ours.chain(foreign)
            .map(|(name, ns, address, overlay_address)| Endpoint { name, role: Role::Host, ns, address, overlay_address, node: name })
            .collect()
    }

    /// The host beyond the router.
    #[must_use]
    pub fn outside(&self) -> Endpoint<'_> {
        let ns = &self.underlay.outside;
        Endpoint { name: "outside", role: Role::Outside, ns, address: OUTSIDE, overlay_address: OUTSIDE, node: "-" }
    }

    /// For a failure's report: the status and the end of the log of every agent.
    #[must_use]
    pub fn evidence(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            // The agent's own words; counters that moved say more than all of them.
            let status = node.agent_status().map_or_else(|error| format!("{error:#}"), |status| format!("{status:?}"));
            let _ = writeln!(text, "  {}: status: {status}\n  {}: log:\n{}", node.name, node.name, node.log_tail());
        }
        text
    }
}

fn pod_endpoint<'lab>(node: &'lab str, pod: &'lab Pod) -> Endpoint<'lab> {
    Endpoint { name: &pod.name, role: Role::Pod, ns: &pod.ns, address: pod.address, overlay_address: pod.address, node }
}
