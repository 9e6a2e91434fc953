//! One pass: look, compute what differs, change only that.
//!
//! What is looked at depends on the reason, and on nothing else: a pass without an error leaves the kernel in a known state, which is kept,
//! and news of the cluster alone is compared with that instead of reading it back. From there on both are the same line: desired, plan,
//! apply. Whatever could make what is kept wrong (an event of the kernel, an error, the timer, news of this very node) reads everything.

use super::apply::{self, Executor};
use super::plan::{plan, reached};
use super::receive::{self, Rung};
use crate::clock::now;
use crate::cni::ipam::{PodRecord, Store};
use crate::config::Config;
use crate::datapath::{self, Datapath, DatapathError, Direction, PinDir, Tables};
use crate::desired::{self, Inputs, desired};
use crate::firewall::{self, FirewallError};
use crate::measure::Record;
use crate::model::{ClusterNode, Desired, ManagedNeighbour, OVERLAY_DEVICE, Observed, Topology, Underlay, UnderlayDevice};
use crate::netlink::{Link, Netlink, OwnRoutes, Strays};
use crate::pod;
use crate::status::{Pass, StateDir, Status};
use anyhow::{Context as _, Result};
use overlay_common::abi::{program, receive as rung};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
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
    /// This node, as it was then: all but the peers hangs on it.
    this: ClusterNode,
    /// What the kernel holds for it.
    held: Observed,
}

/// What passes work on, and the little they remember: what this process has attached already, and what the last one left.
pub struct Node<'a> {
    config: &'a Config,
    netlink: Netlink,
    datapath: Datapath,
    tables: Tables,
    pins: PinDir,
    /// The NIC and the rung chosen for it.
    receive: Option<(UnderlayDevice, Rung)>,
    /// The overlay device that has our programs.
    overlay_ifindex: Option<u32>,
    /// The pods' veths that have this process's `from_pod`, or got it from `overlay-cni` since.
    pods_replaced: bool,
    /// What the rungs did when they were measured here; asked for when a rung is chosen.
    measured: Option<Record>,
    firewall: firewall::Keeper,
    /// The host's network as it was last seen.
    underlay: Option<Underlay>,
    kept: Option<Kept>,
    /// Veths that the last pass found without a program: being wired at that moment, or robbed of it.
    unattached: BTreeSet<u32>,
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
        })
    }

    /// The loaded programs, for the log reader of a debug build.
    pub fn datapath_mut(&mut self) -> &mut Datapath {
        &mut self.datapath
    }

    /// Makes a pass and records it. Returns whether everything is as it should be.
    ///
    /// It looks at no less than `look`, and at more if what would have to be known without looking is not.
    pub async fn pass(&mut self, topology: &Topology, look: Look, status: &mut Status) -> bool {
        let this = topology.nodes.get(&self.config.node_name);
        // Taken, not borrowed: what is kept is true until something goes wrong.
        let kept = self.kept.take().filter(|kept| look == Look::Cluster && this == Some(&kept.this) && self.underlay.is_some());
        let everything = kept.is_none();
        let mut outcome = Outcome::default();
        let held = match self.try_pass(topology, kept, status, &mut outcome).await {
            Ok(held) => held,
            Err(error) => {
                outcome.errors.push(format!("{error:#}"));
                None
            }
        };
        // Whatever kept the rest from being done: pods that talk go on talking to the outside.
        if everything
            && let Some(this) = this
            && let Err(error) = self.keep_firewall(this, status, &mut outcome).await
        {
            outcome.errors.push(format!("packet filter: {error}"));
        }
        for error in &outcome.errors {
            warn!(error, "pass incomplete");
        }
        let complete = outcome.errors.is_empty();
        self.kept = held.zip(this).filter(|_| complete).map(|(held, this)| Kept { this: this.clone(), held });
        status.record_pass(Pass { at: now(), actions: outcome.actions, errors: outcome.errors });
        complete
    }

    /// Puts what is known of the cluster into the status.
    pub fn tell(&self, topology: &Topology, status: &mut Status) {
        status.set_cluster(topology, self.underlay.as_ref());
    }

    /// Returns what the kernel holds afterwards, if nothing went wrong; `None` without an error: there is nothing to aim at.
    async fn try_pass(
        &mut self,
        topology: &Topology,
        kept: Option<Kept>,
        status: &mut Status,
        outcome: &mut Outcome,
    ) -> Result<Option<Observed>> {
        let Some(this) = topology.nodes.get(&self.config.node_name) else {
            // `desired` has the words for it; the kernel stays as it is.
            self.underlay = None;
            self.explain_absence(topology)?;
            return Ok(None);
        };
        let everything = kept.is_none();
        let underlay = match self.underlay.take() {
            Some(underlay) if !everything => self.catch_up(underlay, this, topology).await?,
            _ => {
                self.netlink
                    .underlay(this.address, self.config.underlay_interface.as_deref(), &peers(this, topology).collect::<Vec<_>>())
                    .await?
            }
        };
        let mode = self.receive_mode(&underlay)?;
        let desired = desired(&self.inputs(topology, &underlay, mode));
        let device = self.underlay.insert(underlay).device.clone();
        let desired = desired?;
        status.set_underlay(&device, desired.link.mtu);

        let (observed, strays) = match kept {
            Some(Kept { held, .. }) => (held, Strays::default()),
            None => self.observe(&desired).await?,
        };
        let actions = plan(&desired, &observed);
        let overlay_ifindex = observed.link.as_ref().map_or(0, |link| link.ifindex);
        drop(observed);
        let Self { netlink, tables, datapath, .. } = self;
        let mut executor = Executor { netlink, tables, datapath, overlay_ifindex };
        let errors = executor.apply(&actions).await;
        let overlay_ifindex = executor.overlay_ifindex;
        outcome.actions += actions.len();
        outcome.errors.extend(errors);
        if everything {
            self.attach(&device, overlay_ifindex, status, outcome)?;
            let veths = self.sweep(overlay_ifindex, strays, outcome).await?;
            self.keep_pods(&veths, desired.link.address, outcome).await?;
        }
        Ok(Some(reached(desired, self.tables.settings()?)))
    }

    /// The underlay as it was last seen, with the way to the peers there are now: only those that are new are asked for.
    async fn catch_up(&self, mut underlay: Underlay, this: &ClusterNode, topology: &Topology) -> Result<Underlay> {
        let addresses: BTreeSet<Ipv4Addr> = peers(this, topology).collect();
        underlay.next_hops.retain(|address, _| addresses.contains(address));
        let new: Vec<Ipv4Addr> = addresses.into_iter().filter(|address| !underlay.next_hops.contains_key(address)).collect();
        if !new.is_empty() {
            underlay.next_hops.extend(self.netlink.next_hops(&new).await?);
        }
        Ok(underlay)
    }

    /// Looks at the packet filter and changes what differs.
    async fn keep_firewall(&mut self, this: &ClusterNode, status: &mut Status, outcome: &mut Outcome) -> Result<(), FirewallError> {
        let Config { masquerade, direct, port, .. } = self.config;
        let look = self.firewall.keep(&desired::firewall(this, *masquerade, direct, *port)).await?;
        for change in &look.changes {
            info!(action = %change, "apply");
        }
        outcome.actions += look.changes.len();
        status.set_firewall(*masquerade, look.state);
        Ok(())
    }

    /// Why there is nothing to aim at.
    fn explain_absence(&self, topology: &Topology) -> Result<()> {
        let device = UnderlayDevice { name: String::new(), ifindex: 0, mac: crate::model::Mac::default(), mtu: 0, kind: None };
        let underlay = Underlay { device, next_hops: std::collections::BTreeMap::new() };
        desired(&self.inputs(topology, &underlay, rung::TC)).map(drop).map_err(Into::into)
    }

    fn inputs<'b>(&'b self, topology: &'b Topology, underlay: &'b Underlay, receive_mode: u32) -> Inputs<'b> {
        let Config { node_name, vni, port, mtu, .. } = self.config;
        Inputs { node_name, vni: *vni, port: *port, mtu: *mtu, receive_mode, topology, underlay }
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
                datapath::detach_filter(&old.name, Direction::Ingress);
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

    /// The pods that get less than the rung offers, if any: wired before there was such a rung, or in a kernel that refused.
    fn detained(&self, rung: &Rung) -> Result<String> {
        if rung.mode != rung::XDP_REDIRECT {
            return Ok(String::new());
        }
        let (veths, straight) = (self.tables.veths()?, self.tables.xdp_veths()?);
        let detained = veths.keys().filter(|ifindex| !straight.contains(ifindex)).count();
        Ok(match detained {
            0 => String::new(),
            _ => format!("; {detained} of {} pods through TC, until they are wired anew: their device receives without NAPI", veths.len()),
        })
    }

    /// Gives the pods' veths this process's program, forgets veths that are gone, and removes links nobody needs.
    ///
    /// `overlay-cni` may wire a pod meanwhile: first the device, then the entry in `VETHS`, then the link's pin. All three are read in the
    /// opposite order, so that whatever is found has its foundation found too, and a pod just being wired is not taken for one that is gone.
    ///
    /// Returns the veths that are there, by index, with their names.
    async fn sweep(&mut self, overlay_ifindex: u32, strays: Strays, outcome: &mut Outcome) -> Result<Vec<(u32, String)>> {
        for route in self.netlink.remove_strays(strays).await? {
            info!(route, "route removed: it has our protocol number and is none of ours");
            outcome.actions += 1;
        }
        let pinned = self.pins.links()?;
        let mut veths = self.tables.veths()?;
        let links = self.netlink.links().await?;
        let alive: BTreeSet<u32> = links.iter().map(|link| link.ifindex).collect();
        for ifindex in veths.keys().filter(|ifindex| !alive.contains(ifindex)) {
            info!(ifindex, "forget a pod whose veth is gone");
            pod::forget(&self.pins, &mut self.tables, *ifindex)?;
            outcome.actions += 1;
        }
        veths.retain(|ifindex, _| alive.contains(ifindex));
        // The list may be older than the record: a device that is not in it is asked for by itself.
        let listed: BTreeSet<&str> = links.iter().map(|link| link.name.as_str()).collect();
        let is_gone = |pod: &PodRecord| !listed.contains(pod.host_interface.as_str()) && !is_there(&pod.host_interface);
        for pod in Store::new(&self.config.directories.pods_dir).sweep(is_gone)? {
            info!(pod = pod.title(), address = %pod.address, device = pod.host_interface, "forget a pod whose veth is gone: its address is free");
            outcome.actions += 1;
        }
        let named: Vec<(u32, String)> = links.iter().filter(|link| veths.contains_key(&link.ifindex)).map(index_and_name).collect();
        if !self.pods_replaced {
            self.datapath.replace_on_pods(&named).context("cannot renew the program of a pod")?;
            self.pods_replaced = true;
        }
        let Some((device, rung)) = &self.receive else { return Ok(named) };
        let mut keep: Vec<(&'static str, u32)> = veths.keys().map(|ifindex| (program::FROM_POD, *ifindex)).collect();
        keep.push((program::UNDERLAY_TC, device.ifindex));
        keep.extend([(program::FROM_HOST, overlay_ifindex), (program::FROM_OVERLAY, overlay_ifindex)]);
        if rung::uses_xdp(rung.mode) {
            keep.push((program::UNDERLAY_XDP, device.ifindex));
        }
        for name in self.datapath.sweep_links(pinned, &keep)? {
            info!(link = name, "link removed: its device or its purpose is gone");
            outcome.actions += 1;
        }
        Ok(named)
    }

    /// Puts back what pods lost: their program, and the route to them, which the kernel removes with the address it names as its source
    /// whenever the overlay device goes.
    async fn keep_pods(&mut self, veths: &[(u32, String)], gateway: Ipv4Addr, outcome: &mut Outcome) -> Result<()> {
        let unattached: BTreeSet<u32> =
            veths.iter().map(|(ifindex, _)| *ifindex).filter(|ifindex| !self.datapath.is_attached(program::FROM_POD, *ifindex)).collect();
        // One that is just being wired gets its program from `overlay-cni`; two would run twice.
        let robbed: Vec<(u32, String)> =
            veths.iter().filter(|(ifindex, _)| unattached.contains(ifindex) && self.unattached.contains(ifindex)).cloned().collect();
        if !robbed.is_empty() {
            self.datapath.replace_on_pods(&robbed).context("cannot give a pod its program back")?;
            outcome.actions += robbed.len();
        }
        self.unattached = unattached;

        let routes = self.netlink.pod_routes().await?;
        for (address, pod) in self.tables.pods()? {
            let there = veths.iter().any(|(ifindex, _)| *ifindex == pod.ifindex);
            if there && routes.get(&address) != Some(&(pod.ifindex, gateway)) {
                self.netlink.put_pod_route(pod.ifindex, address, gateway).await?;
                info!(%address, "route to a pod put back");
                outcome.actions += 1;
            }
        }
        Ok(())
    }
}

/// The addresses of all nodes but this one.
fn peers(this: &ClusterNode, topology: &Topology) -> impl Iterator<Item = Ipv4Addr> {
    topology.nodes.values().filter(|node| node.name != this.name).map(|node| node.address)
}

/// Whether there is such a device, at this moment.
fn is_there(device: &str) -> bool {
    nix::net::if_::if_nametoindex(device).is_ok()
}

/// What a pass did.
#[derive(Default)]
struct Outcome {
    actions: usize,
    errors: Vec<String>,
}

fn index_and_name(link: &Link) -> (u32, String) {
    (link.ifindex, link.name.clone())
}
