//! The services of the cases in `services`, as kube-proxy publishes them: one backend each, over TCP and over UDP.
//!
//! `--random-fully` of the masquerade is left out: a port chosen at random may be the VXLAN port, to which a pod may not send: one UDP
//! flow in 64,512, which a test must not meet.

use crate::check::end;
use overlay_lab::lab::Lab;
use overlay_lab::node::Node;
use overlay_lab::rules::{self, NodePort, Protocol, Rules};
use std::net::{Ipv4Addr, SocketAddrV4};

/// The virtual address of every service; told apart by port.
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// Where pods get their addresses from: kube-proxy's `--cluster-cidr`.
const CLUSTER: &str = "10.244.0.0/16";

/// How kube-proxy writes its rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proxy {
    /// By iptables.
    Iptables,
    /// By nftables.
    Nftables,
}

impl Proxy {
    /// What its mode is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }

    /// Puts these services in the place of all services of the node.
    pub(crate) fn write(self, node: &Node, services: Vec<rules::Service>) -> anyhow::Result<()> {
        let rules = Rules { cluster: CLUSTER.parse()?, services, pods: node.pod_cidr, flannel: false, random_fully: false };
        match self {
            Self::Iptables => rules.apply(&node.ns),
            Self::Nftables => rules.apply_nftables(&node.ns, node.address),
        }
    }
}

/// A service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Service {
    /// Its port at [`VIP`].
    pub(crate) port: u16,
    /// The pod it is.
    pub(crate) backend: &'static str,
}

impl Service {
    /// Its port at the node's address (`externalTrafficPolicy: Cluster`).
    pub(crate) fn node_port(self) -> u16 {
        22_000 + self.port
    }

    /// Its port at the node's address that leads to pods of the node only and keeps the client's address
    /// (`externalTrafficPolicy: Local`).
    pub(crate) fn local_node_port(self) -> u16 {
        23_000 + self.port
    }
}

/// Puts the rules for these services in the place of all rules of node 1.
pub(crate) fn publish(lab: &Lab, proxy: Proxy, services: &[Service], backend_port: u16) -> anyhow::Result<()> {
    let mut published = Vec::new();
    for service in services {
        let backends = vec![SocketAddrV4::new(end(lab, service.backend)?.address, backend_port)];
        // A service has one policy: the one with the other policy is a service of its own, at a port nobody asks for.
        let kinds =
            [(service.port, NodePort::Cluster(service.node_port())), (1000 + service.port, NodePort::Local(service.local_node_port()))];
        for (port, node_port) in kinds {
            for (protocol, name) in [(Protocol::Tcp, "tcp"), (Protocol::Udp, "udp")] {
                published.push(rules::Service {
                    name: format!("lab/service-{port}:{name}"),
                    protocol,
                    address: SocketAddrV4::new(VIP, port),
                    backends: backends.clone(),
                    node_port: Some(node_port),
                    affinity: false,
                });
            }
        }
    }
    proxy.write(&lab.nodes[0], published)
}
