//! A pair: two nodes of one contender and their pods, whatever the system is.

use crate::bench::contender::ContenderId;
use crate::foreign::ForeignNode;
use crate::netns::Ns;
use crate::node::Node;
use crate::nodes::NodeEntry;
use crate::pod::Pod;
use crate::routes::RoutesNode;
use crate::underlay::{Place, Underlay};
use anyhow::{Context as _, bail};
use std::net::Ipv4Addr;

/// Two nodes of a contender.
#[derive(Debug)]
pub struct Pair {
    /// Whose.
    pub id: ContenderId,
    /// Packets between the nodes are encapsulated.
    pub tunnel: bool,
    /// Where clients and senders are: a node with one pod.
    pub a: Side,
    /// Where servers and receivers are: a node with as many pods as the scale says.
    pub b: Side,
}

impl Pair {
    /// Makes the underlay links of both nodes carry packets as a wire would, see [`Underlay::set_offloads`]; with `on` they hand over
    /// super-packets.
    ///
    /// # Errors
    /// `ethtool` fails.
    pub fn set_offloads(&self, underlay: &Underlay, on: bool) -> anyhow::Result<()> {
        [&self.a, &self.b].into_iter().try_for_each(|side| underlay.set_offloads(side.ns(), on))
    }
}

/// One node of a pair.
#[derive(Debug)]
pub enum Side {
    /// With our agent.
    Ours(Node),
    /// With the kernel's vxlan.
    Flannel(ForeignNode),
    /// With routes.
    Routes(RoutesNode),
    /// A pod on the underlay.
    Bare(Bare),
}

/// A pod that is plugged into the underlay itself: node and pod are one.
#[derive(Debug)]
pub struct Bare {
    /// The one pod.
    pod: [Pod; 1],
}

impl Bare {
    /// Makes the pod and plugs it in.
    ///
    /// # Errors
    /// `ip` fails.
    pub(super) fn create(underlay: &Underlay, place: Place, number: u8) -> anyhow::Result<Self> {
        let name = format!("node-{number}");
        let ns = Ns::create(&name)?;
        underlay.plug(&ns, place)?;
        let host_interface = Underlay::port(&name);
        Ok(Self { pod: [Pod { container: None, name, ns, address: place.address, host_interface }] })
    }
}

impl Side {
    /// The node's network.
    #[must_use]
    pub fn ns(&self) -> &Ns {
        match self {
            Self::Ours(node) => &node.ns,
            Self::Flannel(node) => &node.ns,
            Self::Routes(node) => &node.ns,
            Self::Bare(Bare { pod: [pod] }) => &pod.ns,
        }
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.ns().name()
    }

    /// The node's address on the underlay.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        match self {
            Self::Ours(node) => node.address,
            Self::Flannel(node) => node.address,
            Self::Routes(node) => node.address,
            Self::Bare(Bare { pod: [pod] }) => pod.address,
        }
    }

    /// The node's NIC: its end of the cable to the underlay.
    #[must_use]
    pub fn nic(&self) -> &'static str {
        "eth0"
    }

    /// The router's end of the node's cable, in [`Underlay::router`].
    #[must_use]
    pub fn router_port(&self) -> String {
        Underlay::port(self.name())
    }

    /// The node's pods; for a pod on the underlay, itself.
    #[must_use]
    pub fn pods(&self) -> &[Pod] {
        match self {
            Self::Ours(node) => &node.pods,
            Self::Flannel(node) => &node.pods,
            Self::Routes(node) => &node.pods,
            Self::Bare(Bare { pod }) => pod,
        }
    }

    /// The first pod.
    ///
    /// # Errors
    /// There is none.
    pub fn pod(&self) -> anyhow::Result<&Pod> {
        self.pods().first().with_context(|| format!("{} has no pod", self.name()))
    }

    /// The MAC of the node's tunnel end: what the inner Ethernet header of a packet to it says. None without a tunnel.
    #[must_use]
    pub fn vtep_mac(&self) -> Option<String> {
        match self {
            Self::Ours(node) => Some(node.vtep_mac()),
            Self::Flannel(node) => Some(node.vtep_mac.clone()),
            Self::Routes(_) | Self::Bare(_) => None,
        }
    }

    /// Adds the next `count` pods.
    ///
    /// # Errors
    /// The wiring of one fails: then none of them is there.
    pub fn add_pods(&mut self, count: usize) -> anyhow::Result<()> {
        match self {
            Self::Ours(node) => node.add_pods(count),
            Self::Flannel(node) => node.add_pods(count),
            Self::Routes(node) => node.add_pods(count),
            Self::Bare(_) if count == 0 => Ok(()),
            Self::Bare(_) => bail!("without an overlay a node is one pod"),
        }
    }

    /// Removes the last pod.
    ///
    /// # Errors
    /// There is none, or the unwiring fails.
    pub fn remove_pod(&mut self) -> anyhow::Result<()> {
        let (ns, pods) = match self {
            Self::Ours(node) => return node.remove_pod(),
            Self::Flannel(node) => (&node.ns, &mut node.pods),
            Self::Routes(node) => (&node.ns, &mut node.pods),
            Self::Bare(_) => bail!("without an overlay a node is one pod"),
        };
        let pod = pods.pop().with_context(|| format!("{} has no pod", ns.name()))?;
        // With the veth go the bridge's port, or the route and the neighbour.
        ns.ip(&format!("link delete {}", pod.host_interface)).map(drop)
    }

    /// What the list of nodes says of one of ours.
    pub(super) fn entry(&self) -> Option<NodeEntry> {
        match self {
            Self::Ours(node) => Some(node.entry()),
            _ => None,
        }
    }
}
