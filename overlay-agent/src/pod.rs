//! Wires a pod to this node, and takes the wire away: what the CNI plugin does, and the lab.
//!
//! Joins the two halves: [`crate::netlink`] makes the veth pair, [`crate::datapath`] attaches `from_pod` and fills `PODS` and `VETHS`.
//! Needs what the agent left on this node (pinned maps and programs), not the agent itself. Blocking: its callers are short-lived
//! processes. The calling thread is to be in the node's network namespace.

use crate::datapath::{self, DatapathError, PinDir, Tables};
use crate::model::Mac;
use crate::netlink::{self, Namespace, Netlink, PodVeth, ethtool, steering, sysctl};
use overlay_common::abi;
use overlay_common::parse;
use std::error::Error as _;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use tracing::warn;

/// A pod to be wired.
#[derive(Clone, Copy, Debug)]
pub struct PodRequest<'a> {
    /// Name of the veth's end on the node, at most 15 bytes.
    pub host_name: &'a str,
    /// File of the pod's network namespace.
    pub namespace: &'a Path,
    /// Name of the device in the pod.
    pub pod_name: &'a str,
    /// The pod's address, from this node's pod network.
    pub address: Ipv4Addr,
    /// What the pod sends goes to the CPU its flow's hash names: never reordered, at the price of throughput and of packets per second
    /// (docs/adr/0007). Off, a TCP sender on several CPUs sees some of its segments overtake each other, as on any veth.
    pub steer_flows: bool,
}

/// A wired pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wired {
    /// Index of the veth's end on the node.
    pub ifindex: u32,
    /// Its MAC.
    pub host_mac: Mac,
    /// MAC of the pod's device.
    pub pod_mac: Mac,
    /// MTU of the pod's device.
    pub mtu: u32,
    /// The node's address inside the overlay.
    pub gateway: Ipv4Addr,
}

/// A pod could not be wired or unwired.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// The agent has not configured this node.
    #[error("the overlay is not ready on this node: overlay-agent has not written its settings yet")]
    NotReady,
    /// The address is not this node's to give.
    #[error("address {address} is not in this node's pod network, or is its gateway address {gateway}")]
    ForeignAddress {
        /// The address.
        address: Ipv4Addr,
        /// The gateway address.
        gateway: Ipv4Addr,
    },
    /// The address is another pod's.
    #[error("address {address} belongs to the pod behind ifindex {ifindex}")]
    AddressInUse {
        /// The address.
        address: Ipv4Addr,
        /// The veth that has it.
        ifindex: u32,
    },
    /// Maps, programs or links.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// Devices, routes or neighbours.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// No runtime for netlink.
    #[error("cannot start the netlink runtime: {0}")]
    Runtime(#[from] io::Error),
}

/// MAC of a pod's device and of the veth's end on the node: locally administered, told apart by the second byte, and the pod's address,
/// so that a capture says whose packet it is.
const fn macs(address: Ipv4Addr) -> (Mac, Mac) {
    let [a, b, c, d] = address.octets();
    (Mac([0x0a, 0x50, a, b, c, d]), Mac([0x0a, 0x48, a, b, c, d]))
}

/// Makes the wire, then lets packets through: checks on what the pod sends first, delivery to it last. A failure leaves nothing behind.
///
/// # Errors
/// [`PodError`].
pub fn wire(bpffs: &Path, request: &PodRequest<'_>) -> Result<Wired, PodError> {
    let pins = PinDir::new(bpffs);
    let mut tables = Tables::open(&pins)?;
    let settings = tables.settings()?;
    if settings.abi_version != abi::ABI_VERSION {
        return Err(PodError::NotReady);
    }
    let gateway = Ipv4Addr::from(settings.gateway);
    let address = request.address;
    if !parse::contains(settings.pod_net, settings.pod_mask, address.octets()) || address == gateway {
        return Err(PodError::ForeignAddress { address, gateway });
    }
    if let Some(pod) = tables.pods()?.get(&address) {
        return Err(PodError::AddressInUse { address, ifindex: pod.ifindex });
    }
    let (pod_mac, host_mac) = macs(address);
    let namespace = Namespace::open(request.namespace)?;
    let veth = PodVeth {
        host_name: request.host_name,
        host_mac,
        namespace: &namespace,
        pod_name: request.pod_name,
        pod_mac,
        pod_address: address,
        mtu: settings.mtu,
        source: gateway,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ifindex = runtime.block_on(async { Netlink::connect()?.create_pod_veth(&veth).await })?;
    for problem in sysctl::prepare_host_veth(request.host_name) {
        warn!(veth = request.host_name, %problem, "sysctl not set");
    }
    if request.steer_flows
        && let Err(error) = steering::spread_flows(request.host_name)
    {
        let reason = error.source().map(ToString::to_string);
        warn!(veth = request.host_name, %error, reason, "what the pod sends is not steered: its segments may overtake each other");
    }
    let wired = Wired { ifindex, host_mac, pod_mac, mtu: settings.mtu, gateway };
    match receive_by_napi(&namespace, request).and_then(|napi| admit(&pins, &mut tables, request, &wired, napi)) {
        Ok(()) => Ok(wired),
        Err(error) => {
            // The first error is the one to report.
            let _reported_already = unwire(bpffs, request.host_name);
            Err(error)
        }
    }
}

/// Has the pod's end receive by NAPI, which is what takes XDP frames; whether it does now. A pod without is reached the other way.
fn receive_by_napi(namespace: &Namespace, request: &PodRequest<'_>) -> Result<bool, PodError> {
    let napi = namespace.run(|| ethtool::set_gro(request.pod_name, true))?;
    Ok(napi.unwrap_or_else(|error| {
        warn!(veth = request.host_name, %error, "GRO of the pod's device not set: XDP sends it nothing");
        false
    }))
}

/// Fills the maps and attaches the program.
fn admit(pins: &PinDir, tables: &mut Tables, request: &PodRequest<'_>, wired: &Wired, napi: bool) -> Result<(), PodError> {
    let Wired { ifindex, host_mac, pod_mac, .. } = *wired;
    tables.put_veth(ifindex, &abi::Veth { addr: request.address.octets(), mac: pod_mac.0, host_mac: host_mac.0 })?;
    datapath::attach_pinned_to_pod(pins, request.host_name, ifindex)?;
    if napi {
        tables.put_xdp_veth(ifindex)?;
    }
    tables.put_pod(request.address, &abi::Pod { ifindex, mac: pod_mac.0, host_mac: host_mac.0 })?;
    Ok(())
}

/// Takes the wire away, in the reverse order. What is gone already is no error.
///
/// # Errors
/// [`PodError`]; what could be removed before the error is gone.
pub fn unwire(bpffs: &Path, host_name: &str) -> Result<(), PodError> {
    let pins = PinDir::new(bpffs);
    let mut tables = Tables::open(&pins)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let link = runtime.block_on(async { Netlink::connect()?.link_by_name(host_name).await })?;
    if let Some(link) = link {
        forget(&pins, &mut tables, link.ifindex)?;
    }
    runtime.block_on(async { Netlink::connect()?.delete_pod_veth(host_name).await })?;
    Ok(())
}

/// Removes a veth from the maps, and its link: also what the agent does for a veth that vanished by itself.
///
/// # Errors
/// [`DatapathError`].
pub fn forget(pins: &PinDir, tables: &mut Tables, ifindex: u32) -> Result<(), DatapathError> {
    let addresses = tables.pods()?.into_iter().filter(|(_, pod)| pod.ifindex == ifindex).map(|(address, _)| address);
    for address in addresses {
        tables.remove_pod(address)?;
    }
    tables.remove_xdp_veth(ifindex)?;
    datapath::detach_from_pod(pins, ifindex)?;
    tables.remove_veth(ifindex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_are_unicast_locally_administered_and_different() {
        let (pod, host) = macs(Ipv4Addr::new(10, 244, 1, 7));
        for mac in [pod, host] {
            assert_eq!(mac.0[0] & 3, 2, "{mac} is not a locally administered unicast address");
            assert_eq!(mac.0[2..], [10, 244, 1, 7]);
        }
        assert_ne!(pod, host);
    }
}
