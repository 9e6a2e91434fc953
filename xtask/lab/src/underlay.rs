//! The network below the overlay: a router namespace with one bridge per subnet, the nodes plugged into the bridges, and a host outside.
//!
//! ```text
//!   L2                                            Routed
//!   node-1  node-2  node-3                        node-1  node-3     node-2  node-4
//!      \      |      /                                \    /             \    /
//!     br0 192.168.50.1/24                        br0 192.168.50.1/24  br1 192.168.60.1/24
//!           router                                             router
//!     out0 203.0.113.1/24                                out0 203.0.113.1/24
//!              |                                                |
//!     outside 203.0.113.10                              outside 203.0.113.10
//! ```
//!
//! The router forwards, and has a route to each node's pod network through the node, as a cloud's route table has: that is how the outside
//! answers a pod whose address nobody translated.

use crate::netns::Ns;
use crate::node::pod_cidr;
use anyhow::Context as _;
use ipnet::Ipv4Net;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// What lies between the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// One subnet: every node is the other's neighbour.
    L2,
    /// Two subnets, nodes taking turns, a router between: the next hop to the other subnet is the router.
    Routed,
}

impl Kind {
    /// The word the command line knows it by.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::L2 => "l2",
            Self::Routed => "routed",
        }
    }

    fn subnets(self) -> &'static [u8] {
        match self {
            Self::L2 => &[50],
            Self::Routed => &[50, 60],
        }
    }
}

/// Address of the host outside.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

/// Where a node is plugged in, and what is routed to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The node's address.
    pub address: Ipv4Addr,
    /// Its subnet's router.
    pub router: Ipv4Addr,
    /// Where its pods get their addresses from.
    pub pod_cidr: Ipv4Net,
    /// Which bridge of the router.
    bridge: usize,
}

/// The router, the host outside, and the cables.
#[derive(Debug)]
pub struct Underlay {
    /// What lies between the nodes.
    pub kind: Kind,
    /// MTU of every link, in bytes.
    pub mtu: u32,
    /// The router: the default gateway of every node.
    pub router: Ns,
    /// A host beyond the router.
    pub outside: Ns,
}

impl Underlay {
    /// Builds router and outside.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn create(kind: Kind, mtu: u32) -> anyhow::Result<Self> {
        let router = Ns::create("router")?;
        let outside = Ns::create("outside")?;
        for (index, subnet) in kind.subnets().iter().enumerate() {
            // An address of its own: else it is the lowest of the nodes' ports, another one when that node leaves, and the others send to
            // the old one for most of a minute.
            router.ip(&format!("link add br{index} address 02:00:c0:a8:{subnet:02x}:01 mtu {mtu} type bridge"))?;
            router.ip(&format!("address add 192.168.{subnet}.1/24 dev br{index}"))?;
            router.ip(&format!("link set br{index} up"))?;
        }
        router.ip(&format!("link add out0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns outside"))?;
        router.ip("address add 203.0.113.1/24 dev out0")?;
        router.ip("link set out0 up")?;
        outside.ip(&format!("address add {OUTSIDE}/24 dev eth0"))?;
        outside.ip("link set eth0 up")?;
        outside.ip("route add default via 203.0.113.1")?;
        router.set_sysctl("net.ipv4.ip_forward", "1")?;
        Ok(Self { kind, mtu, router, outside })
    }

    /// Where the `number`th node, counted from 1, belongs.
    #[must_use]
    pub fn place(&self, number: u8) -> Place {
        let subnets = self.kind.subnets();
        let bridge = usize::from(number - 1) % subnets.len();
        let subnet = subnets[bridge];
        Place {
            address: Ipv4Addr::new(192, 168, subnet, 10 + number),
            router: Ipv4Addr::new(192, 168, subnet, 1),
            pod_cidr: pod_cidr(number),
            bridge,
        }
    }

    /// Name of the router's end of a node's cable.
    #[must_use]
    pub fn port(node: &str) -> String {
        format!("p-{node}")
    }

    /// Plugs a node in: gives it `eth0` with its address and default route.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn plug(&self, node: &Ns, place: Place) -> anyhow::Result<()> {
        let (mtu, port) = (self.mtu, Self::port(node.name()));
        self.router.ip(&format!("link add {port} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}", node.name()))?;
        self.router.ip(&format!("link set {port} master br{} up", place.bridge))?;
        node.ip(&format!("address add {}/24 dev eth0", place.address))?;
        node.ip("link set eth0 up")?;
        node.ip(&format!("route add default via {}", place.router)).map(drop)
    }

    /// Settles who is where on the wire between nodes, for good: none of them asks by ARP any more, and the bridge floods nothing. A
    /// receiver that only counts packets answers no ARP, and what it is sent would be flooded or lost after a while.
    ///
    /// # Errors
    /// `ip` or `bridge` fails.
    pub fn settle(&self, nodes: &[(&Ns, Place)]) -> anyhow::Result<()> {
        let mut known = Vec::new();
        for (ns, place) in nodes {
            let mac = ns.mac("eth0")?;
            self.router.run("bridge", &format!("fdb replace {mac} dev {} master static", Self::port(ns.name())))?;
            self.router.ip(&format!("neighbour replace {} lladdr {mac} dev br{} nud permanent", place.address, place.bridge))?;
            known.push((ns.name(), place.address, place.bridge, mac));
        }
        for (ns, place) in nodes {
            let router_mac = self.router.mac(&format!("br{}", place.bridge))?;
            let mut lines = format!("neighbour replace {} lladdr {router_mac} dev eth0 nud permanent\n", place.router);
            for (_, address, _, mac) in known.iter().filter(|(name, _, bridge, _)| *name != ns.name() && *bridge == place.bridge) {
                let _ = writeln!(lines, "neighbour replace {address} lladdr {mac} dev eth0 nud permanent");
            }
            ns.batch("ip", &lines)?;
        }
        Ok(())
    }

    /// Routes a pod network to the node that has it.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn route_pods(&self, pod_cidr: Ipv4Net, node: Ipv4Addr) -> anyhow::Result<()> {
        self.router.ip(&format!("route replace {pod_cidr} via {node}")).map(drop)
    }

    /// Makes a node's underlay link carry packets as a wire would: at most MTU-sized, their checksums filled in. With `on` it goes back to
    /// handing over super-packets with the checksum left to do.
    ///
    /// # Errors
    /// `ethtool` fails.
    pub fn set_offloads(&self, node: &Ns, on: bool) -> anyhow::Result<()> {
        let port = Self::port(node.name());
        for (ns, interface) in [(node, "eth0"), (&self.router, port.as_str())] {
            set_offloads(ns, interface, on).with_context(|| format!("set offloads of {interface}"))?;
        }
        Ok(())
    }
}

/// Sets checksum and segmentation offload of one end of a veth pair, encapsulated packets included. GSO itself stays on: that is the
/// kernel cutting super-packets to the MTU at the last moment.
///
/// # Errors
/// `ethtool` fails.
pub fn set_offloads(ns: &Ns, interface: &str, on: bool) -> anyhow::Result<()> {
    let state = if on { "on" } else { "off" };
    let mut arguments = format!("-K {interface}");
    for feature in ["tx", "tso", "tx-udp-segmentation", "tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation"] {
        let _ = write!(arguments, " {feature} {state}");
    }
    ns.run("ethtool", &arguments).map(drop)
}
