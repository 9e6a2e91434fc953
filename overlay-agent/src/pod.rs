//! Wires a pod to this node, and takes the wire away: what the CNI plugin does, and the lab.
//!
//! Joins the two halves: [`crate::netlink`] makes the veth pair, [`crate::datapath`] attaches `from_pod` and fills `PODS` and `VETHS`.
//! Needs what the agent left on this node (pinned maps and programs), not the agent itself. Blocking: its callers are short-lived
//! processes. The calling thread is to be in the node's network namespace.

mod check;

pub use check::Expected;

use crate::datapath::{self, DatapathError, PinDir, Tables};
use crate::model::Mac;
use crate::netlink::{self, Namespace, Netlink, PodVeth, ethtool, steering, sysctl};
use ipnet::Ipv4Net;
use overlay_common::abi;
use overlay_common::parse;
use std::collections::BTreeSet;
use std::error::Error as _;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use tokio::runtime::Runtime;
use tracing::warn;

/// A pod to be wired.
#[derive(Clone, Copy, Debug)]
pub struct PodRequest<'a> {
    /// Name of the veth's end on the node, at most 15 bytes.
    pub host_name: &'a str,
    /// What a person calls the pod: shown beside the veth's end on the node; may be empty.
    pub title: &'a str,
    /// File of the pod's network namespace.
    pub namespace: &'a Path,
    /// Name of the device in the pod.
    pub pod_name: &'a str,
    /// The pod's address, from this node's pod network.
    pub address: Ipv4Addr,
    /// MAC of the pod's device; none: one that is made from the address.
    pub mac: Option<Mac>,
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
    /// The agent has not prepared this node, or what it made is gone.
    #[error("the overlay is not ready on this node: {0}")]
    NotReady(&'static str),
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

/// This node as its agent has prepared it: where pods are wired. Needs no running agent.
pub struct Node {
    pins: PinDir,
    tables: Tables,
    settings: abi::Settings,
}

impl Node {
    /// Opens what the agent left below the BPF file system at `bpffs`.
    ///
    /// # Errors
    /// [`PodError::NotReady`] with what is missing, [`PodError::Datapath`].
    pub fn open(bpffs: &Path) -> Result<Self, PodError> {
        let pins = PinDir::new(bpffs);
        let missing = PodError::NotReady("its maps are not pinned, overlay-agent has not run here since the last boot or cleanup");
        let tables = Tables::open_existing(&pins)?.ok_or(missing)?;
        let settings = tables.settings()?;
        if settings.abi_version != abi::ABI_VERSION {
            return Err(PodError::NotReady("overlay-agent has not written its settings yet"));
        }
        if !pins.program(abi::program::FROM_POD).exists() {
            return Err(PodError::NotReady("the program for pods is not pinned, overlay-agent has not finished its start"));
        }
        Ok(Self { pins, tables, settings })
    }

    /// What the agent last said of this node.
    #[must_use]
    pub const fn settings(&self) -> &abi::Settings {
        &self.settings
    }

    /// The network of this node's pods.
    #[must_use]
    pub fn pod_network(&self) -> Ipv4Net {
        let prefix = u32::from_be_bytes(self.settings.pod_mask).leading_ones();
        // At most 32, by construction.
        Ipv4Net::new(self.settings.pod_net.into(), u8::try_from(prefix).unwrap_or(32)).unwrap_or_default()
    }

    /// The node's address inside the overlay.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        self.settings.gateway.into()
    }

    /// Whether a pod that is there has this address. An entry whose veth is gone is one the agent has not swept yet: it counts as none.
    ///
    /// # Errors
    /// [`PodError`].
    pub fn has_pod(&self, address: Ipv4Addr) -> Result<bool, PodError> {
        let Some(pod) = self.tables.pod(address)? else { return Ok(false) };
        Ok(runtime()?.block_on(async { Netlink::connect()?.link_by_index(pod.ifindex).await })?.is_some())
    }

    /// Says what would keep a pod from being wired, besides what the pod itself may bring.
    ///
    /// # Errors
    /// [`PodError::NotReady`], [`PodError::Netlink`].
    pub fn check_devices(&self) -> Result<(), PodError> {
        runtime()?.block_on(async { self.expect_devices(&Netlink::connect()?).await })
    }

    async fn expect_devices(&self, netlink: &Netlink) -> Result<(), PodError> {
        if netlink.link_by_index(self.settings.overlay_ifindex).await?.is_none() {
            return Err(PodError::NotReady("its overlay device is gone, overlay-agent will make it anew"));
        }
        Ok(())
    }

    /// Makes the wire, then lets packets through: checks on what the pod sends first, delivery to it last. A failure leaves nothing behind;
    /// what a killed process leaves, [`unwire`] takes away.
    ///
    /// # Errors
    /// [`PodError`].
    pub fn wire(&mut self, request: &PodRequest<'_>) -> Result<Wired, PodError> {
        let gateway = self.gateway();
        let address = request.address;
        if !parse::contains(self.settings.pod_net, self.settings.pod_mask, address.octets()) || address == gateway {
            return Err(PodError::ForeignAddress { address, gateway });
        }
        let (pod_mac, host_mac) = macs(address);
        let pod_mac = request.mac.unwrap_or(pod_mac);
        let namespace = Namespace::open(request.namespace)?;
        let veth = PodVeth {
            host_name: request.host_name,
            host_mac,
            alias: request.title,
            namespace: &namespace,
            pod_name: request.pod_name,
            pod_mac,
            pod_address: address,
            mtu: self.settings.mtu,
            source: gateway,
        };
        let ifindex = runtime()?.block_on(async {
            let netlink = Netlink::connect()?;
            self.expect_devices(&netlink).await?;
            self.expect_free(&netlink, address).await?;
            netlink.create_pod_veth(&veth).await.map_err(PodError::from)
        })?;
        for problem in sysctl::prepare_host_veth(request.host_name) {
            warn!(veth = request.host_name, %problem, "sysctl not set");
        }
        if request.steer_flows
            && let Err(error) = steering::spread_flows(request.host_name)
        {
            let reason = error.source().map(ToString::to_string);
            warn!(veth = request.host_name, %error, reason, "what the pod sends is not steered: its segments may overtake each other");
        }
        let wired = Wired { ifindex, host_mac, pod_mac, mtu: self.settings.mtu, gateway };
        match receive_by_napi(&namespace, request).and_then(|napi| self.admit(request, &wired, napi)) {
            Ok(()) => Ok(wired),
            Err(error) => {
                // The first error is the one to report.
                drop(take_away(&self.pins, Some(&mut self.tables), request.host_name, None));
                Err(error)
            }
        }
    }

    /// Sees to it that no pod has the address; an entry whose veth is gone is swept here and now.
    async fn expect_free(&mut self, netlink: &Netlink, address: Ipv4Addr) -> Result<(), PodError> {
        let Some(pod) = self.tables.pod(address)? else { return Ok(()) };
        if netlink.link_by_index(pod.ifindex).await?.is_some() {
            return Err(PodError::AddressInUse { address, ifindex: pod.ifindex });
        }
        self.tables.remove_pod(address)?;
        Ok(forget(&self.pins, &mut self.tables, pod.ifindex)?)
    }

    /// Fills the maps and attaches the program.
    fn admit(&mut self, request: &PodRequest<'_>, wired: &Wired, napi: bool) -> Result<(), PodError> {
        let Wired { ifindex, host_mac, pod_mac, .. } = *wired;
        let tables = &mut self.tables;
        tables.put_veth(ifindex, &abi::Veth { addr: request.address.octets(), mac: pod_mac.0, host_mac: host_mac.0 })?;
        datapath::attach_pinned_to_pod(&self.pins, request.host_name, ifindex)?;
        if napi {
            tables.put_xdp_veth(ifindex)?;
        }
        tables.put_pod(request.address, &abi::Pod { ifindex, mac: pod_mac.0, host_mac: host_mac.0 })?;
        Ok(())
    }
}

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Whether there is such an end of a wire on this node.
///
/// # Errors
/// [`PodError::Netlink`].
pub fn is_wired(host_name: &str) -> Result<bool, PodError> {
    Ok(runtime()?.block_on(async { Netlink::connect()?.link_by_name(host_name).await })?.is_some())
}

/// Makes a wire; see [`Node::wire`].
///
/// # Errors
/// [`PodError`].
pub fn wire(bpffs: &Path, request: &PodRequest<'_>) -> Result<Wired, PodError> {
    Node::open(bpffs)?.wire(request)
}

/// Has the pod's end receive by NAPI, which is what takes XDP frames; whether it does now. A pod without is reached the other way.
fn receive_by_napi(namespace: &Namespace, request: &PodRequest<'_>) -> Result<bool, PodError> {
    let napi = namespace.run(|| ethtool::set_gro(request.pod_name, true))?;
    Ok(napi.unwrap_or_else(|error| {
        warn!(veth = request.host_name, %error, "GRO of the pod's device not set: XDP sends it nothing");
        false
    }))
}

/// Takes the wire away: delivery first, then the device, then what checked it, so that nothing unchecked comes through meanwhile. What is gone
/// already is no error, were it everything: device, maps, the pod's namespace. `address` is the pod's, if it is known: it finds the pod's map
/// entries when the device is gone.
///
/// # Errors
/// [`PodError`]; what could be removed before the error is gone.
pub fn unwire(bpffs: &Path, host_name: &str, address: Option<Ipv4Addr>) -> Result<(), PodError> {
    let pins = PinDir::new(bpffs);
    let mut tables = Tables::open_existing(&pins)?;
    take_away(&pins, tables.as_mut(), host_name, address)
}

fn take_away(pins: &PinDir, mut tables: Option<&mut Tables>, host_name: &str, address: Option<Ipv4Addr>) -> Result<(), PodError> {
    let runtime = runtime()?;
    let netlink = runtime.block_on(async { Netlink::connect() })?;
    let link = runtime.block_on(netlink.link_by_name(host_name))?;
    let mut ifindexes = BTreeSet::from_iter(link.as_ref().map(|link| link.ifindex));
    if let Some(tables) = &mut tables {
        if let Some(address) = address {
            tables.remove_pod(address)?;
            if link.is_none() {
                let of_pod = tables.veths()?.into_iter().filter(|(_, veth)| veth.addr == address.octets());
                ifindexes.extend(of_pod.map(|(ifindex, _)| ifindex));
            }
        }
        for ifindex in &ifindexes {
            stop_delivery(tables, *ifindex)?;
        }
    }
    if link.is_some() {
        runtime.block_on(netlink.delete_pod_veth(host_name))?;
    }
    if let Some(tables) = tables {
        for ifindex in ifindexes {
            forget(pins, tables, ifindex)?;
        }
    }
    Ok(())
}

/// Removes a veth from the maps, and its link: also what the agent does for a veth that vanished by itself.
///
/// # Errors
/// [`DatapathError`].
pub fn forget(pins: &PinDir, tables: &mut Tables, ifindex: u32) -> Result<(), DatapathError> {
    stop_delivery(tables, ifindex)?;
    datapath::detach_from_pod(pins, ifindex)?;
    // Last: as long as it is there, whoever looks at `VETHS` finds the rest.
    tables.remove_veth(ifindex)
}

fn stop_delivery(tables: &mut Tables, ifindex: u32) -> Result<(), DatapathError> {
    if let Some(veth) = tables.veth(ifindex)? {
        let address = veth.addr.into();
        // The address may be another pod's by now.
        if tables.pod(address)?.is_some_and(|pod| pod.ifindex == ifindex) {
            tables.remove_pod(address)?;
        }
    }
    tables.remove_xdp_veth(ifindex)
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
