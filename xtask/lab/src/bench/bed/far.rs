//! What surrounds a pair: the other nodes of its cluster, which exist only as entries, and the services of its rules.
//!
//! ```text
//! 10.128.0.0/9                      the cluster's pods
//!   10.128.0.0/24 and on            pods of nodes that do not exist, one /24 each
//!   10.224.0.0/21 and on            pods of real nodes that have many
//!   10.244.1.0/24 and on            pods of real nodes that have few
//! 10.96.0.0/12                      services
//! 172.16.0.0/12                     nodes that do not exist, beyond the router
//! ```
//!
//! Every address of a node that does not exist is reached through the router, whose MAC is known: a node has to prepare for it exactly
//! what it prepares for a real one.

use crate::bench::contender::Scale;
use crate::foreign::Peer;
use crate::node;
use crate::nodes::NodeEntry;
use crate::rules::{Protocol, Rules, Service};
use ipnet::Ipv4Net;
use overlay_agent::measure::frames;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Pods per node that a /24 has room for.
const FEW_PODS: usize = 240;

/// Backends of each service.
const BACKENDS: u32 = 2;

/// Port of every backend.
pub const BACKEND_PORT: u16 = 8080;

/// Port of every service.
pub const SERVICE_PORT: u16 = 80;

/// Where all pods of the bench get their addresses from.
#[must_use]
pub fn cluster() -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(10, 128, 0, 0), 9)
}

/// The pod network of the `number`th real node, counted from 1.
#[must_use]
pub fn pod_cidr(number: u8, scale: Scale) -> Ipv4Net {
    if scale.pods <= FEW_PODS {
        return node::pod_cidr(number);
    }
    Ipv4Net::new_assert(Ipv4Addr::from_bits(Ipv4Addr::new(10, 224, 0, 0).to_bits() + (u32::from(number) << 11)), 21)
}

/// A node that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FarNode {
    index: u32,
}

impl FarNode {
    /// The first `count` of them.
    pub fn first(count: u32) -> impl Iterator<Item = Self> {
        (0..count).map(|index| Self { index })
    }

    /// Its address on the underlay.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(Ipv4Addr::new(172, 16, 0, 1).to_bits() + self.index)
    }

    /// The network of its pods.
    #[must_use]
    pub fn pod_cidr(self) -> Ipv4Net {
        Ipv4Net::new_assert(Ipv4Addr::from_bits(cluster().network().to_bits() + (self.index << 8)), 24)
    }

    /// The MAC of its tunnel end, as our agents derive it from the address.
    #[must_use]
    pub fn vtep_mac(self) -> String {
        let [a, b, c, d] = self.address().octets();
        format!("0e:4f:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
    }

    /// What the cluster's list says of it.
    #[must_use]
    pub fn entry(self) -> NodeEntry {
        NodeEntry::new(&format!("far-{}", self.index + 1), self.address(), &self.pod_cidr())
    }

    /// What a node with the kernel's vxlan has to know of it.
    #[must_use]
    pub fn as_peer(self) -> Peer {
        Peer { address: self.address(), pod_cidr: self.pod_cidr(), vtep_mac: self.vtep_mac() }
    }
}

/// Address of the one of so many services that leads to a pod of the pair, with TCP at [`SERVICE_PORT`] and UDP at the port the generator's
/// frames go to. It is in the middle of the rules: kube-proxy writes them in no order, so half of them is what a new flow walks.
#[must_use]
pub fn service_address(services: u32) -> Ipv4Addr {
    nth_address(services / 2)
}

fn nth_address(index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 1, 0).to_bits() + index)
}

/// kube-proxy's rules for so many services, and flannel's for a node with these pods. One service has `backend` and no other, see
/// [`service_address`]; backends of the others do not exist.
#[must_use]
pub fn rules(services: u32, flannel: Option<Ipv4Net>, backend: Ipv4Addr) -> Rules {
    let far = |index: u32| Ipv4Addr::from_bits(cluster().network().to_bits() + ((index / 200) << 8) + 11 + index % 200);
    let real = service_address(services);
    let service = |index: u32| {
        let address = nth_address(index);
        let port = |name: &str, protocol, port| Service {
            name: format!("bench/service-{index}:{name}"),
            protocol,
            address: SocketAddrV4::new(address, port),
            backends: if address == real {
                vec![SocketAddrV4::new(backend, BACKEND_PORT)]
            } else {
                (0..BACKENDS).map(|n| SocketAddrV4::new(far(index * BACKENDS + n), BACKEND_PORT)).collect()
            },
            node_port: None,
            affinity: false,
        };
        let datagrams = (address == real).then(|| port("discard", Protocol::Udp, frames::DISCARD));
        [Some(port("http", Protocol::Tcp, SERVICE_PORT)), datagrams]
    };
    let services = (0..services).flat_map(service).flatten().collect();
    Rules { cluster: cluster(), services, pods: flannel.unwrap_or_else(cluster), flannel: flannel.is_some(), random_fully: true }
}
