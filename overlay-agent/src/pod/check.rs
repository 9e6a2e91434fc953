//! Whether a pod's wire is as it was made: devices, addresses, routes, neighbours, map entries, the program. Changes nothing.

use super::{Node, PodError, runtime};
use crate::datapath;
use crate::model::Mac;
use crate::netlink::{Namespace, Netlink, PodVeth};
use overlay_common::abi;
use std::net::Ipv4Addr;
use std::path::Path;

/// A wire as it should be.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// Name of the veth's end on the node.
    pub host_name: &'a str,
    /// File of the pod's network namespace.
    pub namespace: &'a Path,
    /// Name of the device in the pod.
    pub pod_name: &'a str,
    /// The pod's address.
    pub address: Ipv4Addr,
    /// MAC of the pod's device, if there is another word for it than the maps'.
    pub mac: Option<Mac>,
    /// Whether the pod's default route is to be there: a later plugin may have put another in its place.
    pub default_route: bool,
}

impl Node {
    /// Compares a wire with what it should be; returns what differs, a sentence each.
    ///
    /// # Errors
    /// [`PodError`] when something cannot be looked at.
    pub fn inspect(&self, expected: &Expected<'_>) -> Result<Vec<String>, PodError> {
        let Expected { host_name, address, .. } = *expected;
        let namespace = Namespace::open(expected.namespace)?;
        let runtime = runtime()?;
        let netlink = runtime.block_on(async { Netlink::connect() })?;
        let Some(link) = runtime.block_on(netlink.link_by_name(host_name))? else {
            return Ok(vec![format!("device {host_name} is gone from the node")]);
        };
        let mut damage = Vec::new();
        let Some(veth) = self.tables.veth(link.ifindex)? else {
            return Ok(vec![format!("map VETHS has no entry for device {host_name}: what the pod sends is dropped")]);
        };
        if veth.addr != address.octets() {
            damage.push(format!("map VETHS lets device {host_name} send from {}, not {address}", Ipv4Addr::from(veth.addr)));
        }
        let pod = abi::Pod { ifindex: link.ifindex, mac: veth.mac, host_mac: veth.host_mac };
        match self.tables.pod(address)? {
            None => damage.push(format!("map PODS has no entry for {address}: what is sent to the pod is dropped")),
            Some(found) if found != pod => damage.push(format!("map PODS has {found:?} for {address}, not {pod:?}")),
            Some(_) => {}
        }
        if !datapath::is_attached_to_pod(&self.pins, host_name, link.ifindex)? && !has_filter(link.ifindex)? {
            damage.push(format!("the program is not attached to device {host_name}: what the pod sends is not checked"));
        }
        let pod_mac = Mac(veth.mac);
        if let Some(mac) = expected.mac.filter(|mac| *mac != pod_mac) {
            damage.push(format!("the pod's MAC was told as {mac}, and map VETHS lets it send from {pod_mac} only"));
        }
        let wire = PodVeth {
            host_name,
            host_mac: Mac(veth.host_mac),
            alias: "",
            namespace: &namespace,
            pod_name: expected.pod_name,
            pod_mac,
            pod_address: address,
            mtu: self.settings.mtu,
            source: self.gateway(),
        };
        damage.extend(runtime.block_on(netlink.pod_veth_damage(&wire, expected.default_route))?);
        Ok(damage)
    }
}

/// Whether the program is a filter of the device, where the kernel has no TC links.
fn has_filter(ifindex: u32) -> Result<bool, PodError> {
    let Some((priority, handle)) = datapath::filter() else { return Ok(false) };
    Ok(runtime()?.block_on(async { Netlink::connect()?.has_ingress_filter(ifindex, priority, handle).await })?)
}
