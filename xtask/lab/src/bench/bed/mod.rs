//! The bed: the pairs of all contenders of a run, alive at the same time on one underlay, node numbers 1 and 2, 3 and 4, and so on.
//!
//! Every pair has the same cables, NICs and router. The bed adds three things to what the systems themselves set up, for all alike: NICs
//! with NAPI, as real ones have (`ethtool -K eth0 gro on`; without it nothing can be redirected into a veth); MACs that are known for
//! good, so that a receiver that only counts packets stays reachable; and a switch that does not look into what it carries.

pub mod far;
mod pair;

pub use pair::{Bare, Pair, Side};

use crate::bench::contender::{ContenderId, Scale, System};
use crate::foreign::ForeignNode;
use crate::node::{Node, READY_TIMEOUT};
use crate::nodes::NodesFile;
use crate::routes::RoutesNode;
use crate::sandbox;
use crate::underlay::{Kind, Place, Underlay};
use anyhow::{Context as _, anyhow, ensure};
use far::FarNode;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// Whether iptables sees what a bridge carries.
const BRIDGE_NETFILTER: &str = "net.bridge.bridge-nf-call-iptables";

/// The agent of another revision.
#[derive(Clone, Debug)]
pub struct Build {
    /// What contenders call it: `old` in `old-tc`.
    pub name: String,
    /// Its `overlay-agent`.
    pub agent: PathBuf,
    /// Its `overlay-lab`, which wires pods. None: this build does; the maps' layout has to be the same.
    pub wirer: Option<PathBuf>,
}

impl Build {
    /// The build whose `overlay-agent` and `overlay-lab` are in a directory, as cargo leaves them.
    #[must_use]
    pub fn in_directory(name: &str, directory: &Path) -> Self {
        Self { name: name.to_owned(), agent: directory.join("overlay-agent"), wirer: Some(directory.join("overlay-lab")) }
    }
}

/// What all pairs have in common.
#[derive(Clone, Debug)]
pub struct BedConfig {
    /// MTU of the underlay, in bytes.
    pub mtu: u32,
    /// Builds beside this one.
    pub builds: Vec<Build>,
}

impl Default for BedConfig {
    fn default() -> Self {
        Self { mtu: 1500, builds: Vec::new() }
    }
}

/// All pairs. Dropped, everything of them goes, agents first.
#[derive(Debug)]
pub struct Bed {
    slots: Vec<Slot>,
    clusters: Vec<Cluster>,
    /// What connects the nodes.
    pub underlay: Underlay,
}

/// A contender that was asked for: its pair, or why there is none.
#[derive(Debug)]
struct Slot {
    id: ContenderId,
    pair: Result<Pair, String>,
}

/// All nodes of one build and scale: they follow one list.
#[derive(Debug)]
struct Cluster {
    build: Option<String>,
    scale: Scale,
    file: NodesFile,
}

impl Bed {
    /// Builds a pair for each contender and waits until its pods can talk. `progress` is told each step before it begins. A contender
    /// that cannot exist here does not keep the others from it: see [`Self::pair`].
    ///
    /// # Errors
    /// The underlay cannot be built, or a contender is asked for twice.
    pub fn create(wanted: &[ContenderId], config: &BedConfig, progress: &mut dyn FnMut(&str)) -> anyhow::Result<Self> {
        progress(&format!("underlay (MTU {})", config.mtu));
        let underlay = Underlay::create(Kind::L2, config.mtu)?;
        if let Err(error) = underlay.router.set_sysctl(BRIDGE_NETFILTER, "0") {
            // Without this sysctl there is nothing to turn off.
            progress(&format!("the switch carries everything unseen already: {error:#}"));
        }
        let mut bed = Self { slots: Vec::new(), clusters: Vec::new(), underlay };
        for (index, id) in wanted.iter().enumerate() {
            ensure!(wanted[..index].iter().all(|other| other != id), "contender {id} is asked for twice");
            let number = u8::try_from(2 * index + 1).ok().filter(|number| *number < 240).context("too many contenders for one underlay")?;
            progress(&format!("{id}: two nodes that know {}", id.scale.nodes));
            let pair = bed.lay(id, number, config).map_err(|error| format!("{error:#}"));
            bed.slots.push(Slot { id: id.clone(), pair });
        }
        bed.start_agents(progress)?;
        bed.advance(
            progress,
            "pods",
            |_| true,
            |pair| {
                for (side, pods) in [(&mut pair.a, 1), (&mut pair.b, pair.id.scale.pods)] {
                    // A pod on the underlay is there already, and is the only one at any scale.
                    let pods = if matches!(side, Side::Bare(_)) { 1 } else { pods };
                    side.add_pods(pods - side.pods().len())?;
                }
                Ok(())
            },
        );
        bed.advance(progress, "rules", |pair| pair.id.services().is_some(), lay_rules);
        if bed.pairs().any(is_ours) {
            // Agents look again at each new veth, and what they see changes under their eyes. By then the last of these passes has begun.
            thread::sleep(Duration::from_millis(500));
            bed.advance(progress, "agents come to rest", is_ours, wait_ready);
        }
        Ok(bed)
    }

    /// The pair of a contender.
    ///
    /// # Errors
    /// It was not asked for, or cannot exist here: the message says why.
    pub fn pair(&self, id: &ContenderId) -> anyhow::Result<&Pair> {
        let slot = self.slots.iter().find(|slot| slot.id == *id).with_context(|| format!("{id} is not on the bed"))?;
        slot.pair.as_ref().map_err(|why| anyhow!("{id}: {why}"))
    }

    /// The pair of a contender, to be changed.
    ///
    /// # Errors
    /// As [`Self::pair`].
    pub fn pair_mut(&mut self, id: &ContenderId) -> anyhow::Result<&mut Pair> {
        let slot = self.slots.iter_mut().find(|slot| slot.id == *id).with_context(|| format!("{id} is not on the bed"))?;
        slot.pair.as_mut().map_err(|why| anyhow!("{id}: {why}"))
    }

    /// Every pair there is.
    pub fn pairs(&self) -> impl Iterator<Item = &Pair> {
        self.slots.iter().filter_map(|slot| slot.pair.as_ref().ok())
    }

    /// The contenders that cannot exist here, and why.
    pub fn absent(&self) -> impl Iterator<Item = (&ContenderId, &str)> {
        self.slots.iter().filter_map(|slot| Some((&slot.id, slot.pair.as_ref().err()?.as_str())))
    }

    /// The list that the nodes of a contender of ours follow, together with all others of its build and scale.
    ///
    /// # Errors
    /// It is not one of ours.
    pub fn nodes_file(&mut self, id: &ContenderId) -> anyhow::Result<&mut NodesFile> {
        let cluster = self.clusters.iter_mut().find(|cluster| cluster.has(id));
        cluster.map(|cluster| &mut cluster.file).with_context(|| format!("{id} follows no list of nodes"))
    }

    /// Makes the two nodes of a pair, connects them and tells them of the others. Those of ours learn that from their agents.
    fn lay(&mut self, id: &ContenderId, number: u8, config: &BedConfig) -> anyhow::Result<Pair> {
        ensure!(
            id.system != System::None || id.scale == Scale::SMALL,
            "pods on the underlay know no nodes and share none: there is no larger scale"
        );
        let places = [number, number + 1].map(|number| {
            let mut place = self.underlay.place(number);
            place.pod_cidr = far::pod_cidr(number, id.scale);
            (number, place)
        });
        let [a, b] = places;
        let (a, b) = (self.side(id, a, config)?, self.side(id, b, config)?);
        for side in [&a, &b] {
            let nic = side.nic();
            side.ns().run("ethtool", &format!("-K {nic} gro on"))?;
        }
        let [(_, place_a), (_, place_b)] = places;
        self.underlay.settle(&[(a.ns(), place_a), (b.ns(), place_b)])?;
        let mut pair = Pair { id: id.clone(), tunnel: id.is_tunnel(), a, b };
        introduce(&mut pair, place_a.router)?;
        Ok(pair)
    }

    fn side(&mut self, id: &ContenderId, (number, place): (u8, Place), config: &BedConfig) -> anyhow::Result<Side> {
        let underlay = &self.underlay;
        Ok(match id.system {
            System::Ours { receive_mode, steered, direct, .. } => {
                let build = id.build.as_ref().map(|name| config.build(name)).transpose()?;
                let file = cluster_of(&mut self.clusters, id)?;
                let mut node = Node::create(underlay, place, number, file.path(), receive_mode)?;
                node.config.binary = build.map(|build| build.agent.clone());
                node.wirer = build.and_then(|build| build.wirer.clone());
                node.steer_flows = steered;
                if direct {
                    node.config.extra.push("--backend=host-gw".to_owned());
                }
                Side::Ours(Box::new(node))
            }
            System::Flannel { .. } => {
                let mut node = ForeignNode::create(underlay, place, number)?;
                // kubeadm does not start without it. Bridged packets between pods of the node meet the rules then, as routed ones do.
                node.ns.set_sysctl(BRIDGE_NETFILTER, "1").context("the kernel's module br_netfilter is needed")?;
                node.settled = true;
                Side::Flannel(node)
            }
            System::Routes => Side::Routes(RoutesNode::create(underlay, place, number)?),
            System::None => Side::Bare(Bare::create(underlay, place, number)?),
        })
    }

    /// Writes the list of each cluster of ours, starts every agent at once, as on machines of their own, and waits for all of them.
    fn start_agents(&mut self, progress: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
        for cluster in &mut self.clusters {
            let pairs = self.slots.iter().filter(|slot| cluster.has(&slot.id)).filter_map(|slot| slot.pair.as_ref().ok());
            let real: Vec<_> = pairs.flat_map(|pair| [pair.a.entry(), pair.b.entry()]).flatten().collect();
            let others = u32::try_from(real.len().saturating_sub(1))?;
            let far = FarNode::first(cluster.scale.nodes.saturating_sub(others)).map(FarNode::entry);
            cluster.file.entries = real.into_iter().chain(far).collect();
            progress(&format!("{}: {} nodes", cluster.file.path().display(), cluster.file.entries.len()));
            cluster.file.write_atomic()?;
        }
        self.advance(progress, "agents start", is_ours, |pair| each_of_ours(pair, Node::spawn_agent));
        self.advance(progress, "agents become ready", is_ours, wait_ready);
        Ok(())
    }

    /// Takes every pair that the step is for further; the pair of a step that fails is taken down, and its contender is absent.
    fn advance(
        &mut self,
        progress: &mut dyn FnMut(&str),
        what: &str,
        concerns: impl Fn(&Pair) -> bool,
        step: impl Fn(&mut Pair) -> anyhow::Result<()>,
    ) {
        for Slot { id, pair: slot } in &mut self.slots {
            if let Some(pair) = slot.as_mut().ok().filter(|pair| concerns(pair)) {
                progress(&format!("{id}: {what}"));
                if let Err(error) = step(pair) {
                    *slot = Err(format!("{what}: {error:#}"));
                }
            }
        }
    }
}

impl BedConfig {
    fn build(&self, name: &str) -> anyhow::Result<&Build> {
        self.builds.iter().find(|build| build.name == name).with_context(|| format!("there is no build {name}"))
    }
}

impl Cluster {
    fn has(&self, id: &ContenderId) -> bool {
        matches!(id.system, System::Ours { .. }) && self.build == id.build && self.scale == id.scale
    }
}

/// The list of the cluster that a contender belongs to, which its first contender founds.
fn cluster_of<'a>(clusters: &'a mut Vec<Cluster>, id: &ContenderId) -> anyhow::Result<&'a NodesFile> {
    let known = clusters.iter().position(|cluster| cluster.has(id));
    let index = if let Some(index) = known {
        index
    } else {
        let directory = Path::new(sandbox::ROOT).join("clusters");
        fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        let file = NodesFile::new(directory.join(format!("nodes-{}.yaml", clusters.len() + 1)));
        clusters.push(Cluster { build: id.build.clone(), scale: id.scale, file });
        clusters.len() - 1
    };
    Ok(&clusters[index].file)
}

fn is_ours(pair: &Pair) -> bool {
    matches!(pair.id.system, System::Ours { .. })
}

/// Waits for both agents: the more nodes they know, the longer they may take.
fn wait_ready(pair: &mut Pair) -> anyhow::Result<()> {
    let timeout = READY_TIMEOUT + Duration::from_millis(20) * pair.id.scale.nodes;
    each_of_ours(pair, |node| node.wait_ready_within(timeout).map(drop))
}

fn each_of_ours(pair: &mut Pair, step: impl Fn(&mut Node) -> anyhow::Result<()>) -> anyhow::Result<()> {
    for side in [&mut pair.a, &mut pair.b] {
        if let Side::Ours(node) = side {
            step(node)?;
        }
    }
    Ok(())
}

/// Tells the nodes of a rival of each other and of the nodes that do not exist, which are beyond the router.
fn introduce(pair: &mut Pair, router: Ipv4Addr) -> anyhow::Result<()> {
    let far = || FarNode::first(pair.id.scale.nodes - 1);
    match (&mut pair.a, &mut pair.b) {
        (Side::Flannel(a), Side::Flannel(b)) => {
            let peers = |peer: &ForeignNode| [peer.as_peer()].into_iter().chain(far().map(FarNode::as_peer)).collect();
            a.set_peers(peers(b))?;
            b.set_peers(peers(a))
        }
        (Side::Routes(a), Side::Routes(b)) => {
            let routes = |peer: &RoutesNode| {
                let far = far().map(|node| (node.pod_cidr(), router));
                [(peer.pod_cidr, peer.address)].into_iter().chain(far).collect::<Vec<_>>()
            };
            a.set_routes(&routes(b))?;
            b.set_routes(&routes(a))
        }
        _ => Ok(()),
    }
}

/// Writes the iptables rules on both nodes.
fn lay_rules(pair: &mut Pair) -> anyhow::Result<()> {
    let Some(services) = pair.id.services() else { return Ok(()) };
    let backend = pair.b.pod()?.address;
    for side in [&pair.a, &pair.b] {
        let flannel = if let Side::Flannel(node) = side { Some(node.pod_cidr) } else { None };
        far::rules(services, flannel, backend).apply(side.ns())?;
    }
    Ok(())
}
