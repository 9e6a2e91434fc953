//! Our words: nodes, pods, the underlay, and what the kernel should hold.
//!
//! Plain data, shared by every other module. Imports no kube, no aya, no rtnetlink, no tokio; performs no I/O.

mod topology;

use ipnet::Ipv4Net;
use overlay_common::abi;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A MAC address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub abi::Mac);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ":" };
            write!(f, "{separator}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not six hexadecimal bytes with colons between them.
#[derive(Debug, thiserror::Error)]
#[error("\"{0}\" is not a MAC address like 0a:1b:2c:3d:4e:5f")]
pub struct BadMac(String);

impl FromStr for Mac {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let bad = || BadMac(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(Self(bytes)) }
    }
}

impl Mac {
    /// The VTEP MAC of a node that publishes none: `0e:4f` (locally administered, unicast) and the node's address, so that every node
    /// knows it without being told.
    #[must_use]
    pub const fn derived_from(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x0e, 0x4f, a, b, c, d])
    }

    /// Whether it is one that [`Self::derived_from`] gives some address: nobody chose it.
    #[must_use]
    pub const fn is_derived(self) -> bool {
        self.0[0] == 0x0e && self.0[1] == 0x4f
    }

    /// Whether it can be the address of one device: neither zero nor a group address.
    #[must_use]
    pub fn is_unicast(self) -> bool {
        self.0 != [0; 6] && self.0[0] & 1 == 0
    }
}

impl serde::Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Mac {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What of a Node object gives the node's address; docs/nodes.md has the order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressOrigin {
    /// The first usable `InternalIP` of `status.addresses`.
    #[default]
    InternalIp,
    /// flannel's annotation `public-ip`, which a flannel or an agent with `publish` wrote.
    FlannelPublicIp,
    /// flannel's annotation `public-ip-overwrite`, an operator's word.
    FlannelPublicIpOverwrite,
    /// Our annotation `overlay/public-ip`, an operator's word.
    OverlayPublicIp,
}

impl AddressOrigin {
    /// Whether a person said so, for this one node: nothing this node finds out by itself counts against it.
    #[must_use]
    pub const fn is_operators(self) -> bool {
        matches!(self, Self::FlannelPublicIpOverwrite | Self::OverlayPublicIp)
    }
}

impl fmt::Display for AddressOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InternalIp => "InternalIP of the Node",
            Self::FlannelPublicIp => "annotation flannel.alpha.coreos.com/public-ip of the Node",
            Self::FlannelPublicIpOverwrite => "annotation flannel.alpha.coreos.com/public-ip-overwrite of the Node",
            Self::OverlayPublicIp => "annotation overlay/public-ip of the Node",
        })
    }
}

/// A node of the cluster that is fit to talk to.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ClusterNode {
    /// `metadata.name`.
    pub name: String,
    /// Its address on the underlay.
    pub address: Ipv4Addr,
    /// What of the Node object gives `address`.
    pub given_by: AddressOrigin,
    /// The first usable address of type `InternalIP`, whether or not it is the one that counts.
    pub internal_ip: Option<Ipv4Addr>,
    /// The network its pods live in; host bits are zero.
    pub pod_cidr: Ipv4Net,
    /// MAC of its tunnel end: by annotation, ours or flannel's, else derived from `address`.
    pub vtep_mac: Mac,
    /// It runs flannel's host-gw backend: there is no tunnel end.
    pub no_tunnel: bool,
    /// Something an operator should look at; the node is used nevertheless.
    pub notice: Option<String>,
}

impl ClusterNode {
    /// Address the node's host has inside the overlay: the first host address of its pod network.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        // A pod network has at most 30 bits of prefix, so there is a next address.
        Ipv4Addr::from_bits(self.pod_cidr.network().to_bits() | 1)
    }
}

/// Whether this can be a node's name: 1 to 253 ASCII letters, digits, `-`, `.` and `_`. Kubernetes allows less (RFC 1123, small letters);
/// bare hosts have the rest. Nothing that passes can disturb a terminal or a path.
#[must_use]
pub fn is_node_name(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && !matches!(text, "." | "..")
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

/// A node of the cluster that is left out, and why.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RejectedNode {
    /// `metadata.name`, or its position in the list when it has none.
    pub name: String,
    /// One sentence an operator can act on.
    pub reason: String,
}

/// The cluster as one whole snapshot, never a delta.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Every usable node by name, this one included.
    pub nodes: BTreeMap<String, ClusterNode>,
    /// Every other node.
    pub rejected: Vec<RejectedNode>,
    /// No complete list stands behind it yet: it is what was known at another time, so what is not in it may be there nevertheless.
    pub unconfirmed: bool,
}

/// The NIC the tunnel uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnderlayDevice {
    /// Its name, e.g. `eth0`.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// Its MAC.
    pub mac: Mac,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// The kernel's word for what it is (`veth`, `bond`, …); `None` for a physical NIC.
    pub kind: Option<String>,
}

/// What the kernel's neighbour table says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NeighbourState {
    /// Known and confirmed (REACHABLE, PERMANENT, NOARP).
    Reachable,
    /// Known, not confirmed lately (STALE, DELAY, PROBE): still usable.
    Stale,
    /// Being asked for.
    Incomplete,
    /// Asked for, no answer.
    Failed,
    /// Not in the table.
    Absent,
}

/// How the kernel would send to a node's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The router, or the node itself when it is on the link.
    pub address: Ipv4Addr,
    /// The NIC.
    pub ifindex: u32,
    /// MAC of that NIC.
    pub local_mac: Mac,
    /// The source address the kernel would choose.
    pub source: Ipv4Addr,
    /// MAC of the next hop, when it is known and usable.
    pub mac: Option<Mac>,
    /// State of the neighbour entry.
    pub state: NeighbourState,
    /// Bytes the route says its way carries, if it says so.
    pub mtu: Option<u32>,
    /// The node's address is in a network of the NIC, whatever the route to it: it may send here as a neighbour.
    pub on_link: bool,
    /// MAC of the node itself, when the neighbour table has it.
    pub node_mac: Option<Mac>,
}

/// What the host's network says about the world outside: read from netlink, input to `desired`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// The NIC that has this node's address.
    pub device: UnderlayDevice,
    /// By node address; a node without a route to it is absent.
    pub next_hops: BTreeMap<Ipv4Addr, NextHop>,
}

/// A route the agent owns, recognised by its protocol number ([`ROUTE_PROTOCOL`]) in the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Route {
    /// `<destination> dev ovl0 src <source>`: a peer's pods.
    Overlay {
        /// The peer's pod network.
        destination: Ipv4Net,
        /// This node's gateway address.
        source: Ipv4Addr,
    },
    /// `<destination> via <gateway> dev <NIC> src <source>`: the pods of a peer that is sent packets as they are.
    Direct {
        /// The peer's pod network.
        destination: Ipv4Net,
        /// The peer.
        gateway: Ipv4Addr,
        /// The NIC.
        ifindex: u32,
        /// This node's gateway address.
        source: Ipv4Addr,
        /// Bytes the way carries, if less than the NIC's MTU.
        mtu: Option<u32>,
    },
    /// `unreachable <destination>`: this node's pod network, so that an address without a pod is answered and never routed out.
    Unreachable {
        /// This node's pod network.
        destination: Ipv4Net,
    },
}

impl Route {
    /// Where it leads.
    #[must_use]
    pub const fn destination(&self) -> Ipv4Net {
        match *self {
            Self::Overlay { destination, .. } | Self::Direct { destination, .. } | Self::Unreachable { destination } => destination,
        }
    }
}

/// `rtm_protocol` of our routes and `proto` of our neighbours: a number no routing daemon of iproute2's `rt_protos` has.
pub const ROUTE_PROTOCOL: u8 = 79;

/// `rtm_protocol` of the routes to this node's own pods: another number, so that the agent's sweep of its own routes never meets them.
pub const POD_ROUTE_PROTOCOL: u8 = 80;

/// Name of the overlay device.
pub const OVERLAY_DEVICE: &str = "ovl0";

/// Name of our nftables table, of family `ip`.
pub const FIREWALL_TABLE: &str = "overlay";

/// What the host's packet filter has to do for the pods of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firewall {
    /// Whether what pods send out of the cluster gets the node's address.
    pub masquerade: bool,
    /// This node's pod network.
    pub pod_cidr: Ipv4Net,
    /// Destinations that see a pod's own address: ascending, none inside another.
    pub direct: Vec<Ipv4Net>,
    /// VXLAN UDP port.
    pub port: u16,
}

/// The overlay device as it should be: vxlan in external mode, ARP off, up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlayLink {
    /// Its MAC: this node's VTEP MAC.
    pub mac: Mac,
    /// Its MTU.
    pub mtu: u32,
    /// VXLAN UDP port.
    pub port: u16,
    /// Its one address, as a /32.
    pub address: Ipv4Addr,
}

/// The overlay device as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlayLinkState {
    /// Its index.
    pub ifindex: u32,
    /// What it is set to; compare with the desired [`OverlayLink`]. `None` when somebody changed what cannot be set back (learning, ARP on,
    /// down, other or several addresses): it is made anew.
    pub link: Option<OverlayLink>,
}

/// A next hop the kernel is asked to keep resolved (`NTF_EXT_MANAGED`, since Linux 5.16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ManagedNeighbour {
    /// The address to keep resolved.
    pub address: Ipv4Addr,
    /// The NIC it is on.
    pub ifindex: u32,
}

/// Everything the kernel should hold for this node, computed by `desired` from topology, configuration and underlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The overlay device.
    pub link: OverlayLink,
    /// Value of `SETTINGS`; `overlay_ifindex` is filled in once the device exists.
    pub settings: abi::Settings,
    /// Contents of `SUBNETS`.
    pub subnets: BTreeMap<Ipv4Net, abi::Subnet>,
    /// Contents of `NODES`.
    pub nodes: BTreeMap<Ipv4Addr, abi::Node>,
    /// Our routes.
    pub routes: BTreeSet<Route>,
    /// Our managed neighbours.
    pub neighbours: BTreeSet<ManagedNeighbour>,
}

/// What the kernel holds now, read back at the start of every pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The overlay device, if there is one.
    pub link: Option<OverlayLinkState>,
    /// Value of `SETTINGS`.
    pub settings: abi::Settings,
    /// Contents of `SUBNETS`.
    pub subnets: BTreeMap<Ipv4Net, abi::Subnet>,
    /// Contents of `NODES`.
    pub nodes: BTreeMap<Ipv4Addr, abi::Node>,
    /// Routes with our protocol number.
    pub routes: BTreeSet<Route>,
    /// Managed neighbours with our protocol number.
    pub neighbours: BTreeSet<ManagedNeighbour>,
}

/// One step from observed to desired: what to do, never how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Create the overlay device, or delete and create it where `replace` says so.
    CreateLink {
        /// What to make.
        link: OverlayLink,
        /// A device of that name has to go first.
        replace: bool,
    },
    /// Set MTU and MAC of the existing overlay device.
    UpdateLink(OverlayLink),
    /// Write `SETTINGS`.
    PutSettings(abi::Settings),
    /// Write one entry of `NODES`.
    PutNode(Ipv4Addr, abi::Node),
    /// Write one entry of `SUBNETS`.
    PutSubnet(Ipv4Net, abi::Subnet),
    /// Remove one entry of `SUBNETS`.
    RemoveSubnet(Ipv4Net),
    /// Remove one entry of `NODES`.
    RemoveNode(Ipv4Addr),
    /// Add or replace a route.
    PutRoute(Route),
    /// Remove a route.
    RemoveRoute(Route),
    /// Ask the kernel to keep a next hop resolved.
    PutNeighbour(ManagedNeighbour),
    /// Stop asking.
    RemoveNeighbour(ManagedNeighbour),
}

impl Action {
    /// Whether it only adds or sets something: nothing is gone after it.
    #[must_use]
    pub const fn puts(&self) -> bool {
        !matches!(self, Self::RemoveSubnet(_) | Self::RemoveNode(_) | Self::RemoveRoute(_) | Self::RemoveNeighbour(_))
    }
}
