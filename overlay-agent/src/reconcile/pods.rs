//! The pods' part of a pass over everything: what they lost is put back, what is left of those that are gone is removed.

use super::pass::{Node, Outcome};
use super::receive::Rung;
use crate::cni::ipam::{PodRecord, Store};
use crate::netlink::{Link, Strays};
use crate::pod;
use anyhow::{Context as _, Result};
use overlay_common::abi::{program, receive as rung};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use tracing::info;

impl Node<'_> {
    /// The pods that get less than the rung offers, if any: wired before there was such a rung, or in a kernel that refused.
    pub(super) fn detained(&self, rung: &Rung) -> Result<String> {
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
    pub(super) async fn sweep(&mut self, overlay_ifindex: u32, strays: Strays, outcome: &mut Outcome) -> Result<Vec<(u32, String)>> {
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
        let Some((device, rung)) = self.receive.clone() else { return Ok(named) };
        let mut keep: Vec<(&'static str, u32)> = veths.keys().map(|ifindex| (program::FROM_POD, *ifindex)).collect();
        keep.push((program::UNDERLAY_TC, device.ifindex));
        keep.extend([(program::FROM_HOST, overlay_ifindex), (program::FROM_OVERLAY, overlay_ifindex)]);
        if rung::uses_xdp(rung.mode) {
            keep.push((program::UNDERLAY_XDP, device.ifindex));
        }
        keep.extend(self.egress_link(&device));
        for name in self.datapath.sweep_links(pinned, &keep)? {
            info!(link = name, "link removed: its device or its purpose is gone");
            outcome.actions += 1;
        }
        Ok(named)
    }

    /// Puts back what pods lost: their program, and the route to them, which the kernel removes with the address it names as its source
    /// whenever the overlay device goes.
    pub(super) async fn keep_pods(&mut self, veths: &[(u32, String)], gateway: Ipv4Addr, outcome: &mut Outcome) -> Result<()> {
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

fn index_and_name(link: &Link) -> (u32, String) {
    (link.ifindex, link.name.clone())
}
