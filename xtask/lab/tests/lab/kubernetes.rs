//! Agents that take the nodes from the Kubernetes API: nodes come, change and go, the server goes away and forgets. What the maps hold
//! after each, and that pods talk all the while.

use crate::check::{self, end, eventually};
use crate::harness::{Group, note};
use crate::kubernetes_server::Server;
use anyhow::{Context as _, ensure};
use ipnet::Ipv4Net;
use overlay_agent::datapath::{PinDir, Tables};
use overlay_lab::api_server::real;
use overlay_lab::lab::{Lab, LabConfig};
use overlay_lab::node::{Node, pod_cidr};
use overlay_lab::nodes::NodeEntry;
use overlay_lab::probe::flood::Flood;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long agents may take to follow; after the server was away they wait longer and longer before they try again.
const PATIENCE: Duration = Duration::from_secs(30);

/// Datagrams per second of a flood.
const RATE: u32 = 1000;

/// The server and what it should say.
#[derive(Debug)]
struct Cluster {
    server: Server,
    entries: Vec<NodeEntry>,
}

type Story = fn(&mut Lab, &mut Cluster) -> anyhow::Result<()>;

pub(crate) fn groups() -> Vec<Group> {
    let stories: [(&'static str, Story); 5] = [
        ("agents take the nodes from the API server", followed),
        ("a node joins, talks, and leaves", joined),
        ("nodes that get and change address and podCIDR are known as they are", changed),
        ("the second node with a podCIDR waits until the first has left", duplicate),
        ("nothing is lost while the API server is away, and what changed meanwhile is seen", away),
    ];
    let forgetful: (&'static str, Story) = ("a watch that is too old is begun anew, and nodes deleted unseen are forgotten", too_old);
    let development = group("nodes from the Kubernetes API", stories.into_iter().chain([forgetful]), Server::development);
    let real = group("nodes from a real kube-apiserver", stories, Server::real).skipped_for(real::assets().err());
    vec![development, real]
}

/// The stories on a server of that kind.
fn group(name: &'static str, stories: impl IntoIterator<Item = (&'static str, Story)>, start: fn(&Lab) -> anyhow::Result<Server>) -> Group {
    let cluster: Arc<Mutex<Option<Cluster>>> = Arc::default();
    let group = Group::new(name, LabConfig { nodes: 3, ..LabConfig::default() });
    stories.into_iter().fold(group, |group, (sentence, story)| {
        let cluster = Arc::clone(&cluster);
        group.case(sentence, move |lab| {
            let mut cluster = cluster.lock().unwrap_or_else(PoisonError::into_inner);
            // A new lab, as at the start and after a failure, has agents that follow the file.
            if lab.nodes[0].config.nodes_file.is_some() || cluster.is_none() {
                *cluster = None;
                *cluster = Some(Cluster::create(lab, start(lab)?)?);
            }
            story(lab, cluster.as_mut().context("there is no cluster")?)
        })
    })
}

impl Cluster {
    /// Tells a server of the lab's nodes, and has the agents follow it.
    fn create(lab: &mut Lab, server: Server) -> anyhow::Result<Self> {
        let mut cluster = Self { server, entries: Vec::new() };
        for entry in lab.nodes.iter().map(Node::entry) {
            cluster.put(entry)?;
        }
        for node in &mut lab.nodes {
            node.stop_agent()?;
            cluster.adopt(node)?;
        }
        for node in &mut lab.nodes {
            node.wait_ready()?;
        }
        Ok(cluster)
    }

    /// Starts a node's agent with this server as its source.
    fn adopt(&mut self, node: &mut Node) -> anyhow::Result<()> {
        self.server.aim(&mut node.config)?;
        node.spawn_agent()
    }

    /// Adds or changes a node.
    fn put(&mut self, entry: NodeEntry) -> anyhow::Result<()> {
        self.server.put(&entry)?;
        self.entries.retain(|known| known.name != entry.name);
        self.entries.push(entry);
        Ok(())
    }

    fn delete(&mut self, name: &str) -> anyhow::Result<()> {
        self.entries.retain(|known| known.name != name);
        self.server.delete(name)
    }

    /// The subnets of every node hold what the server says, and nothing else.
    fn settled(&self, lab: &Lab) -> anyhow::Result<()> {
        eventually(PATIENCE, || {
            for node in &lab.nodes {
                let others = self.entries.iter().filter(|entry| entry.name != node.name);
                let expected: BTreeMap<Ipv4Net, Ipv4Addr> =
                    others.filter_map(|entry| Some((entry.pod_cidr.as_ref()?.parse().ok()?, entry.address?))).collect();
                let subnets = Tables::open(&PinDir::new(&node.config.bpffs))?.subnets()?;
                let found: BTreeMap<Ipv4Net, Ipv4Addr> = subnets.into_iter().map(|(net, subnet)| (net, subnet.node.into())).collect();
                ensure!(found == expected, "{} has in SUBNETS {found:?}, not {expected:?}", node.name);
            }
            Ok(())
        })
    }
}

fn every_pod_reaches_every_other(lab: &Lab) -> anyhow::Result<()> {
    let pods = lab.pods();
    for from in &pods {
        for to in pods.iter().filter(|to| to.name != from.name) {
            check::reaches(from, to)?;
        }
    }
    Ok(())
}

fn followed(lab: &mut Lab, cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.settled(lab)?;
    for node in &lab.nodes {
        let source = node.status()?["source"].clone();
        let right = source["kind"] == "kubernetes" && source["health"] == "healthy";
        ensure!(right && source["place"].as_str().is_some_and(|place| place.starts_with(&cluster.server.url())), "{source}");
    }
    every_pod_reaches_every_other(lab)
}

fn joined(lab: &mut Lab, cluster: &mut Cluster) -> anyhow::Result<()> {
    let place = lab.underlay.place(4);
    let mut node = Node::create(&lab.underlay, place, 4, lab.nodes_file.path(), lab.nodes[0].config.receive_mode)?;
    cluster.put(node.entry())?;
    cluster.adopt(&mut node)?;
    node.wait_ready()?;
    node.add_pod()?;
    lab.nodes.push(node);
    cluster.settled(lab)?;
    every_pod_reaches_every_other(lab)?;
    cluster.delete("node-4")?;
    lab.nodes.pop();
    cluster.settled(lab)?;
    every_pod_reaches_every_other(lab)
}

/// A node that is in the list only.
fn absent(number: u8) -> NodeEntry {
    NodeEntry::new(&format!("node-{number}"), Ipv4Addr::new(192, 168, 50, number), &pod_cidr(number))
}

fn changed(lab: &mut Lab, cluster: &mut Cluster) -> anyhow::Result<()> {
    let whole = absent(20);
    let steps = [
        ("without a podCIDR", NodeEntry { pod_cidr: None, ..whole.clone() }),
        ("with one", whole.clone()),
        ("at another address", NodeEntry { address: Some(Ipv4Addr::new(192, 168, 50, 120)), ..whole.clone() }),
        ("with another podCIDR", NodeEntry { pod_cidr: Some("10.244.77.0/24".to_owned()), ..whole.clone() }),
        ("without an address", NodeEntry { address: None, ..whole.clone() }),
    ];
    for (what, entry) in steps {
        cluster.put(entry)?;
        let start = Instant::now();
        cluster.settled(lab).with_context(|| format!("node-20 {what}"))?;
        note(format!("Kubernetes API: node-20 {what}: in the maps of three nodes after {:.0?}", start.elapsed()));
    }
    eventually(PATIENCE, || {
        let rejected = lab.nodes[0].status()?["rejected"].clone();
        ensure!(rejected[0]["name"] == "node-20" && rejected[0]["reason"].to_string().contains("InternalIP"), "{rejected}");
        Ok(())
    })?;
    cluster.delete("node-20")?;
    cluster.settled(lab)?;
    every_pod_reaches_every_other(lab)
}

fn duplicate(lab: &mut Lab, cluster: &mut Cluster) -> anyhow::Result<()> {
    let first = absent(21);
    let second = NodeEntry { created: "2026-11-20T08:00:00Z".to_owned(), pod_cidr: first.pod_cidr.clone(), ..absent(22) };
    cluster.put(first.clone())?;
    cluster.settled(lab)?;
    cluster.server.put(&second)?;
    eventually(PATIENCE, || {
        for node in &lab.nodes {
            let rejected = node.status()?["rejected"].clone();
            ensure!(rejected[0]["name"] == "node-22" && rejected[0]["reason"].to_string().contains("node-21"), "{rejected}");
        }
        Ok(())
    })?;
    cluster.settled(lab).context("the second took something")?;
    cluster.delete(&first.name)?;
    cluster.entries.push(second.clone());
    cluster.settled(lab).context("the first has left")?;
    cluster.delete(&second.name)?;
    cluster.settled(lab)
}

fn away(lab: &mut Lab, cluster: &mut Cluster) -> anyhow::Result<()> {
    let (from, to) = (end(lab, "node-1-pod-1")?, end(lab, "node-2-pod-1")?);
    let flood = Flood::start(from.ns, from.address, to.ns, to.address, RATE)?;
    let result = gone_and_back(lab, cluster);
    let report = flood.stop()?;
    let (told, healthy) = result?;
    note(format!("API server away: in the status after {told:.1?}; back: followed again after {healthy:.1?}; meanwhile {report}"));
    // An agent that starts meanwhile exchanges programs under the flood: a datagram on its way just then may be lost.
    ensure!(report.lost() <= 2, "{report}");
    every_pod_reaches_every_other(lab)
}

/// How long until the status told of it, and until the agents followed again.
fn gone_and_back(lab: &mut Lab, cluster: &mut Cluster) -> anyhow::Result<(Duration, Duration)> {
    cluster.server.stop()?;
    let start = Instant::now();
    eventually(PATIENCE, || {
        for node in &lab.nodes {
            let problems = node.status()?["problems"].to_string();
            ensure!(problems.contains("the list of nodes cannot be followed"), "{}: {problems}", node.name);
        }
        Ok(())
    })?;
    let told = start.elapsed();
    // An agent that starts now has no list at all.
    let node = &mut lab.nodes[1];
    node.kill_agent()?;
    node.spawn_agent()?;
    thread::sleep(Duration::from_secs(1));
    cluster.settled(lab).context("while the server is away")?;
    cluster.put(absent(23))?;
    cluster.server.resume()?;
    let start = Instant::now();
    cluster.settled(lab)?;
    eventually(PATIENCE, || {
        for node in &lab.nodes {
            let problems = node.status()?["problems"].to_string();
            ensure!(!problems.contains("list of nodes"), "{}: {problems}", node.name);
        }
        Ok(())
    })?;
    let healthy = start.elapsed();
    lab.nodes[1].wait_ready()?;
    cluster.delete("node-23")?;
    cluster.settled(lab)?;
    Ok((told, healthy))
}

fn too_old(lab: &mut Lab, cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.put(absent(24))?;
    cluster.settled(lab)?;
    cluster.server.stop()?;
    cluster.delete("node-24")?;
    cluster.put(absent(25))?;
    cluster.server.forget_history()?;
    cluster.server.resume()?;
    cluster.settled(lab).context("changed while nobody watched")?;
    // And under a watch that goes on.
    cluster.server.forget_history()?;
    cluster.put(absent(26))?;
    cluster.settled(lab)?;
    for number in [25, 26] {
        cluster.delete(&format!("node-{number}"))?;
    }
    cluster.settled(lab)?;
    every_pod_reaches_every_other(lab)
}
