//! One pass: look, compute what differs, change only that.
//!
//! What is looked at depends on the reason, and on nothing else: a pass without an error leaves the kernel in a known state, which is kept,
//! and news of the cluster alone is compared with that instead of reading it back. From there on both are the same line: desired, plan,
//! apply. Whatever could make what is kept wrong (an event of the kernel, an error, the timer, news of this very node) reads everything.

use super::apply::{self, Executor};
use super::part::{Part, put_back};
use super::plan::{plan, reached};
use super::receive::{self, Rung};
use crate::clock::now;
use crate::config::Config;
use crate::datapath::{self, Datapath, DatapathError, Direction, PinDir, Tables};
use crate::desired::{self, Inputs, desired};
use crate::firewall;
use crate::measure::Record;
use crate::model::{Action, ClusterNode, Desired, ManagedNeighbour, OVERLAY_DEVICE, Observed, Topology, Underlay, UnderlayDevice};
use crate::netlink::{Netlink, OwnRoutes, Strays};
use crate::status::{Pass, Peer, StateDir, Status, ThisNode};
use anyhow::{Context as _, Result};
use ipnet::Ipv4Net;
use overlay_common::abi::{program, receive as rung};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use tracing::{info, warn};

/// How much is looked at, from less to more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Look {
    /// The list of nodes. The kernel holds what the last pass left.
    Cluster,
    /// The kernel too.
    Everything,
}

/// What the last pass left, if it had no error.
struct Kept {
    /// The cluster, as it was then.
    topology: Arc<Topology>,
    /// What the kernel holds for it.
    held: Observed,
}

/// What passes work on, and the little they remember: what this process has attached already, and what the last one left.
pub struct Node<'a> {
    pub(super) config: &'a Config,
    pub(super) netlink: Netlink,
    pub(super) datapath: Datapath,
    pub(super) tables: Tables,
    pub(super) pins: PinDir,
    /// The NIC and the rung chosen for it.
    pub(super) receive: Option<(UnderlayDevice, Rung)>,
    /// The overlay device that has our programs.
    overlay_ifindex: Option<u32>,
    /// The pods' veths that have this process's `from_pod`, or got it from `overlay-cni` since.
    pub(super) pods_replaced: bool,
    /// What the rungs did when they were measured here; asked for when a rung is chosen.
    measured: Option<Record>,
    pub(super) firewall: firewall::Keeper,
    /// The host's network as it was last seen.
    underlay: Option<Underlay>,
    kept: Option<Kept>,
    /// Veths that the last pass found without a program: being wired at that moment, or robbed of it.
    pub(super) unattached: BTreeSet<u32>,
    /// Pod networks that a route may lead to past the overlay device.
    pub(super) direct: BTreeSet<Ipv4Net>,
    /// The NIC whose egress has our program.
    pub(super) egress: Option<u32>,
    /// What was logged of peers that cannot be reached.
    told: BTreeSet<String>,
    /// How many actions all passes carried out.
    actions: u64,
}

impl<'a> Node<'a> {
    /// Takes over the node: programs are loaded, nothing is attached yet.
    ///
    /// # Errors
    /// When the programs cannot be loaded or the maps not be opened.
    pub fn new(config: &'a Config, netlink: Netlink) -> Result<Self, DatapathError> {
        let pins = PinDir::new(&config.directories.bpffs);
        let datapath = Datapath::load(&pins, config.ebpf_object.as_deref())?;
        let tables = datapath.tables()?;
        let subnets = tables.subnets()?;
        Ok(Self {
            config,
            netlink,
            datapath,
            tables,
            pins,
            receive: None,
            overlay_ifindex: None,
            pods_replaced: false,
            measured: Record::load(&StateDir::new(config.directories.state_dir.clone())),
            firewall: firewall::Keeper::default(),
            underlay: None,
            kept: None,
            unattached: BTreeSet::new(),
            direct: desired::direct_networks(&subnets),
            egress: None,
            told: BTreeSet::new(),
            actions: 0,
        })
    }

    /// The loaded programs, for the log reader of a debug build.
    pub fn datapath_mut(&mut self) -> &mut Datapath {
        &mut self.datapath
    }

    /// How many actions all passes carried out.
    #[must_use]
    pub fn actions(&self) -> u64 {
        self.actions
    }

    /// Makes a pass and records it. Returns whether everything is as it should be.
    ///
    /// It looks at no less than `look`, and at more if what would have to be known without looking is not.
    pub async fn pass(&mut self, topology: &Arc<Topology>, look: Look, status: &mut Status) -> bool {
        let this = topology.nodes.get(&self.config.node_name);
        status.node = this.map(ThisNode::from);
        // Taken, not borrowed: what is kept is true until something goes wrong.
        let is_same = |kept: &Kept| this == kept.topology.nodes.get(&self.config.node_name) && !topology.unconfirmed;
        let kept = self.kept.take().filter(|kept| look == Look::Cluster && is_same(kept));
        let mut outcome = Outcome { everything: kept.is_none(), ..Outcome::default() };
        let held = match (this, kept) {
            (Some(this), Some(kept)) => self.pass_over_changes(this, topology, kept, (status, &mut outcome)).await.map(Some),
            (Some(this), None) => self.pass_over_everything(this, topology, status, &mut outcome).await.map(Some),
            // `desired` has the words for it; the kernel stays as it is.
            (None, _) => self.explain_absence(topology).map(|()| None),
        };
        let held = held.unwrap_or_else(|error| {
            outcome.errors.push(format!("{error:#}"));
            None
        });
        // Whatever kept the rest from being done: pods that talk go on talking to the outside.
        if outcome.everything
            && let Some(this) = this
        {
            self.keep_firewall(this, status, &mut outcome).await;
        }
        for error in &outcome.errors {
            warn!(error, "pass incomplete");
        }
        let complete = outcome.errors.is_empty();
        // Before a complete list nothing is removed, so that the kernel may hold more than it should.
        self.kept = held.filter(|_| complete && !topology.unconfirmed).map(|held| Kept { topology: Arc::clone(topology), held });
        self.actions += outcome.actions as u64;
        status.record_pass(Pass { at: now(), actions: outcome.actions, errors: outcome.errors });
        complete
    }

    /// Puts what is known of the cluster into the status, and logs what keeps a peer from being reached, once.
    pub fn tell(&mut self, topology: &Topology, status: &mut Status) {
        status.set_cluster(topology, self.underlay.as_ref());
        let problems: BTreeSet<String> = status.peers.iter().filter_map(Peer::problem).collect();
        for problem in problems.difference(&self.told) {
            warn!(problem, "a node cannot be reached");
        }
        self.told = problems;
    }

    /// Reads everything back and mends it. Returns what the kernel holds afterwards.
    async fn pass_over_everything(
        &mut self,
        this: &ClusterNode,
        topology: &Topology,
        status: &mut Status,
        outcome: &mut Outcome,
    ) -> Result<Observed> {
        let interface = self.config.underlay_interface.as_deref();
        self.underlay = None;
        let underlay = self.netlink.underlay(this.address, interface, &peers(this, topology)).await?;
        let desired = self.aim(topology, &underlay);
        let device = self.underlay.insert(underlay).device.clone();
        let desired = desired?;
        status.set_underlay(&device, desired.settings.mtu);
        let direct = desired::direct_networks(&desired.subnets);
        self.let_past(this, &direct, &device, (status, outcome)).await;
        let (observed, strays) = self.observe(&desired).await?;
        let mut actions = plan(&desired, &observed);
        if topology.unconfirmed {
            // What is not known yet may be there nevertheless.
            actions.retain(Action::puts);
        }
        let overlay_ifindex = self.carry_out(&actions, &observed, outcome).await;
        self.direct = direct;
        self.attach(&device, overlay_ifindex, status, outcome)?;
        let veths = self.sweep(overlay_ifindex, strays, outcome).await?;
        self.keep_pods(&veths, desired.link.address, outcome).await?;
        Ok(reached(desired, self.tables.settings()?))
    }

    /// The same line for the nodes that changed since the last pass, in the place of reading back what that left. Returns what the kernel
    /// holds afterwards.
    async fn pass_over_changes(
        &mut self,
        this: &ClusterNode,
        topology: &Topology,
        kept: Kept,
        (status, outcome): (&mut Status, &mut Outcome),
    ) -> Result<Observed> {
        let Kept { topology: before, mut held } = kept;
        let part = Part::between(&before, topology, this);
        let mut underlay = self.underlay.take().context("the underlay was never looked at")?;
        part.forget(&mut underlay.next_hops);
        underlay.next_hops.extend(self.netlink.next_hops(&peers(this, &part.now)).await?);
        let desired = self.aim(&part.now, &underlay);
        let observed = part.cut(&mut held, &underlay.next_hops);
        let device = self.underlay.insert(underlay).device.clone();
        let desired = desired?;
        let [before, direct] = [&observed.subnets, &desired.subnets].map(desired::direct_networks);
        self.let_past(this, &direct, &device, (status, outcome)).await;
        self.carry_out(&plan(&desired, &observed), &observed, outcome).await;
        // What is not direct any more is translated again.
        if !before.is_subset(&direct) {
            self.direct.retain(|network| direct.contains(network) || !before.contains(network));
            self.keep_firewall(this, status, outcome).await;
        }
        put_back(&mut held, reached(desired, self.tables.settings()?));
        Ok(held)
    }

    /// What the kernel should hold for these nodes.
    fn aim(&self, topology: &Topology, underlay: &Underlay) -> Result<Desired> {
        Ok(desired(&self.inputs(topology, underlay, self.receive_mode(underlay)?))?)
    }

    /// Does what is to be done. Returns the index of the overlay device.
    async fn carry_out(&mut self, actions: &[Action], observed: &Observed, outcome: &mut Outcome) -> u32 {
        let overlay_ifindex = observed.link.as_ref().map_or(0, |link| link.ifindex);
        let Self { netlink, tables, datapath, .. } = self;
        let mut executor = Executor { netlink, tables, datapath, overlay_ifindex };
        outcome.errors.extend(executor.apply(actions).await);
        outcome.actions += actions.len();
        executor.overlay_ifindex
    }

    /// Why there is nothing to aim at.
    fn explain_absence(&self, topology: &Topology) -> Result<()> {
        let device = UnderlayDevice { name: String::new(), ifindex: 0, mac: crate::model::Mac::default(), mtu: 0, kind: None };
        let underlay = Underlay { device, next_hops: std::collections::BTreeMap::new() };
        desired(&self.inputs(topology, &underlay, rung::TC)).map(drop).map_err(Into::into)
    }

    fn inputs<'b>(&'b self, topology: &'b Topology, underlay: &'b Underlay, receive_mode: u32) -> Inputs<'b> {
        let Config { node_name, backend, vni, port, mtu, .. } = self.config;
        Inputs { node_name, backend: *backend, vni: *vni, port: *port, mtu: *mtu, receive_mode, topology, underlay }
    }

    /// The rung in use; before one is chosen, an earlier agent's, or the one that works everywhere.
    fn receive_mode(&self, underlay: &Underlay) -> Result<u32> {
        Ok(match &self.receive {
            Some((device, rung)) if device.ifindex == underlay.device.ifindex => rung.mode,
            _ => match self.tables.settings()?.receive_mode {
                0 => rung::TC,
                mode => mode,
            },
        })
    }

    /// Reads back what the kernel holds.
    async fn observe(&self, desired: &Desired) -> Result<(Observed, Strays)> {
        let mut neighbours = BTreeSet::new();
        for ((ifindex, address), entry) in self.netlink.neighbours().await? {
            let neighbour = ManagedNeighbour { address, ifindex };
            // A permanent entry, somebody's word for what the MAC is, needs no keeping and is left as it is.
            if entry.ours || (entry.permanent && desired.neighbours.contains(&neighbour)) {
                neighbours.insert(neighbour);
            }
        }
        let OwnRoutes { routes, strays } = self.netlink.own_routes().await?;
        let observed = Observed {
            link: self.netlink.overlay_link(OVERLAY_DEVICE).await?,
            settings: self.tables.settings()?,
            subnets: self.tables.subnets()?,
            nodes: self.tables.nodes()?,
            routes,
            neighbours,
        };
        Ok((observed, strays))
    }

    /// Attaches programs to devices this process has not attached them to yet, or whose links somebody removed. Maps are filled by now,
    /// so that no packet meets a program that knows nobody.
    fn attach(&mut self, device: &UnderlayDevice, overlay_ifindex: u32, status: &mut Status, outcome: &mut Outcome) -> Result<()> {
        let has = |name: &str, ifindex| self.datapath.is_attached(name, ifindex);
        let overlay_attached = has(program::FROM_HOST, overlay_ifindex) && has(program::FROM_OVERLAY, overlay_ifindex);
        let underlay_attached = self.receive.as_ref().is_some_and(|(known, rung)| {
            known.ifindex == device.ifindex
                && known.mac == device.mac
                && has(program::UNDERLAY_TC, device.ifindex)
                && (!rung::uses_xdp(rung.mode) || has(program::UNDERLAY_XDP, device.ifindex))
        });
        if overlay_ifindex != 0 && (self.overlay_ifindex != Some(overlay_ifindex) || !overlay_attached) {
            apply::attach_overlay(&mut self.datapath, overlay_ifindex)?;
            self.overlay_ifindex = Some(overlay_ifindex);
        }
        if !underlay_attached {
            if let Some((old, _)) = self.receive.as_ref().filter(|(old, _)| old.ifindex != device.ifindex) {
                for direction in [Direction::Ingress, Direction::Egress] {
                    datapath::detach_filter(&old.name, direction);
                }
            }
            let measured = self.measured.as_ref().map(|record| &record.measurement);
            let rung = receive::choose(&mut self.datapath, device, self.config.receive_mode, measured)?;
            info!(device = device.name, mode = rung.mode, reason = rung.reason, "receive rung chosen");
            let mut settings = self.tables.settings()?;
            if settings.receive_mode != rung.mode {
                settings.receive_mode = rung.mode;
                self.tables.put_settings(&settings)?;
                outcome.actions += 1;
            }
            self.receive = Some((device.clone(), rung));
        }
        if let Some((_, rung)) = &self.receive {
            status.set_receive(rung.mode, format!("{}{}", rung.reason, self.detained(rung)?));
            outcome.errors.extend(rung.problem.clone());
        }
        Ok(())
    }
}

/// The addresses of all nodes but this one.
fn peers(this: &ClusterNode, topology: &Topology) -> Vec<Ipv4Addr> {
    topology.nodes.values().filter(|node| node.name != this.name).map(|node| node.address).collect()
}

/// What a pass did.
#[derive(Default)]
pub(super) struct Outcome {
    /// Everything was looked at.
    everything: bool,
    pub(super) actions: usize,
    pub(super) errors: Vec<String>,
}
