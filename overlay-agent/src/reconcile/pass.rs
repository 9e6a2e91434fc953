//! One pass: look at everything, compute what differs, change only that.

use super::apply::{self, Executor};
use super::plan::plan;
use super::receive::{self, Rung};
use crate::clock::now;
use crate::cni::ipam::{PodRecord, Store};
use crate::config::Config;
use crate::datapath::{self, Datapath, DatapathError, Direction, PinDir, Tables};
use crate::desired::{self, Inputs, desired};
use crate::firewall::{self, FirewallError};
use crate::measure::Record;
use crate::model::{Action, ClusterNode, Desired, ManagedNeighbour, OVERLAY_DEVICE, Observed, Topology, Underlay, UnderlayDevice};
use crate::netlink::{Link, Netlink};
use crate::pod;
use crate::status::{Pass, Peer, StateDir, Status};
use anyhow::{Context as _, Result};
use ipnet::Ipv4Net;
use overlay_common::abi::{program, receive as rung};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use tracing::{info, warn};

/// What passes work on, and the little they remember: what this process has attached already.
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
    /// Pod networks that a route may lead to past the overlay device.
    direct: BTreeSet<Ipv4Net>,
    /// What was logged of peers that cannot be reached.
    told: BTreeSet<String>,
    /// Veths that the last pass found without a program: being wired at that moment, or robbed of it.
    unattached: BTreeSet<u32>,
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
            direct: desired::direct_networks(&subnets),
            told: BTreeSet::new(),
            unattached: BTreeSet::new(),
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
    pub async fn pass(&mut self, topology: &Topology, status: &mut Status) -> bool {
        let mut outcome = Outcome::default();
        if let Err(error) = self.try_pass(topology, status, &mut outcome).await {
            outcome.errors.push(format!("{error:#}"));
        }
        // Whatever kept the rest from being done: pods that talk go on talking to the outside.
        if let Some(this) = topology.nodes.get(&self.config.node_name)
            && let Err(error) = self.keep_firewall(this, status, &mut outcome).await
        {
            outcome.errors.push(format!("packet filter: {error}"));
        }
        for error in &outcome.errors {
            warn!(error, "pass incomplete");
        }
        let complete = outcome.errors.is_empty();
        self.actions += outcome.actions as u64;
        status.record_pass(Pass { at: now(), actions: outcome.actions, errors: outcome.errors });
        complete
    }

    async fn try_pass(&mut self, topology: &Topology, status: &mut Status, outcome: &mut Outcome) -> Result<()> {
        status.set_cluster(topology, None);
        let Some(this) = topology.nodes.get(&self.config.node_name) else {
            // `desired` has the words for it; the kernel stays as it is.
            self.explain_absence(topology)?;
            return Ok(());
        };
        let peers: Vec<Ipv4Addr> = topology.nodes.values().filter(|node| node.name != this.name).map(|node| node.address).collect();
        let underlay = self.netlink.underlay(this.address, self.config.underlay_interface.as_deref(), &peers).await?;
        status.set_cluster(topology, Some(&underlay));
        let mode = self.receive_mode(&underlay)?;
        let desired = desired(&self.inputs(topology, &underlay, mode))?;
        status.set_underlay(&underlay.device, desired.settings.mtu);
        self.tell_problems(status);
        let direct = desired::direct_networks(&desired.subnets);
        if !direct.is_subset(&self.direct) {
            // Before the first route leads past the overlay device.
            self.direct.extend(&direct);
            if let Err(error) = self.keep_firewall(this, status, outcome).await {
                outcome.errors.push(format!("packet filter: {error}"));
            }
        }

        let observed = self.observe(&desired).await?;
        let mut actions = plan(&desired, &observed);
        if topology.unconfirmed {
            // What is not known yet may be there nevertheless.
            actions.retain(Action::puts);
        }
        let overlay_ifindex = observed.link.as_ref().map_or(0, |link| link.ifindex);
        let Self { netlink, tables, datapath, .. } = self;
        let mut executor = Executor { netlink, tables, datapath, overlay_ifindex };
        let errors = executor.apply(&actions).await;
        let overlay_ifindex = executor.overlay_ifindex;
        outcome.actions += actions.len();
        outcome.errors.extend(errors);
        self.direct = direct;

        self.attach(&underlay.device, overlay_ifindex, status, outcome)?;
        let veths = self.sweep(overlay_ifindex, outcome).await?;
        self.keep_pods(&veths, desired.link.address, outcome).await
    }

    /// Logs what keeps a peer from being reached, once.
    fn tell_problems(&mut self, status: &Status) {
        let problems: BTreeSet<String> = status.peers.iter().filter_map(Peer::problem).collect();
        for problem in problems.difference(&self.told) {
            warn!(problem, "a node cannot be reached");
        }
        self.told = problems;
    }

    /// Looks at the packet filter and changes what differs.
    async fn keep_firewall(&mut self, this: &ClusterNode, status: &mut Status, outcome: &mut Outcome) -> Result<(), FirewallError> {
        let Config { masquerade, port, .. } = self.config;
        let direct: Vec<_> = self.direct.iter().chain(&self.config.direct).copied().collect();
        let look = self.firewall.keep(&desired::firewall(this, *masquerade, &direct, *port)).await?;
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
    async fn observe(&self, desired: &Desired) -> Result<Observed> {
        let mut neighbours = self.netlink.managed_neighbours().await?;
        // A permanent entry, somebody's word for what the MAC is, needs no keeping and is left as it is.
        let permanent = self.netlink.neighbours().await?.into_iter().filter(|(_, neighbour)| neighbour.permanent);
        let permanent: BTreeSet<_> = permanent.map(|((ifindex, address), _)| ManagedNeighbour { address, ifindex }).collect();
        neighbours.extend(desired.neighbours.intersection(&permanent));
        Ok(Observed {
            link: self.netlink.overlay_link(OVERLAY_DEVICE).await?,
            settings: self.tables.settings()?,
            subnets: self.tables.subnets()?,
            nodes: self.tables.nodes()?,
            routes: self.netlink.routes().await?,
            neighbours,
        })
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
    async fn sweep(&mut self, overlay_ifindex: u32, outcome: &mut Outcome) -> Result<Vec<(u32, String)>> {
        for route in self.netlink.remove_stray_routes().await? {
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
