//! The small cluster every row lives in: who has which address, and how the maps say so.
//!
//! We are node A. Two pods run here. B is a neighbour on the underlay, C sits behind a router, D's MAC is not resolved yet, E has a subnet
//! but is not in the table of nodes, F is known but by a way that does not exist. G and H are neighbours as B and D are, and are sent
//! packets without a tunnel.

use overlay_common::abi::{Node, Pod, Settings, Subnet, SubnetKey, Veth, reach, receive};

use crate::packet::{Addr, Eth, Ipv4, Mac, Tunnel, Udp, Vxlan};

/// VNI of the overlay.
pub(crate) const VNI: u32 = 1;
/// VXLAN port: flannel's, not IANA's 4789.
pub(crate) const PORT: u16 = 8472;
/// Largest inner packet on an underlay of 1500 bytes.
pub(crate) const MTU: usize = 1450;
/// Largest packet on that underlay without a tunnel.
pub(crate) const DIRECT_MTU: usize = 1500;

/// ifindex of the overlay device.
pub(crate) const OVERLAY_IFINDEX: u32 = 20;
/// ifindex of the underlay NIC.
pub(crate) const UNDERLAY_IFINDEX: u32 = 30;

/// Underlay address of this node, A.
pub(crate) const A: Addr = [192, 168, 50, 1];
/// MAC of A's underlay NIC.
pub(crate) const A_MAC: Mac = [0x02, 0xaa, 0, 0, 0, 0x01];
/// MAC of A's overlay device.
pub(crate) const A_VTEP: Mac = [0x0e, 0x4f, 192, 168, 50, 1];
/// A's address inside the overlay.
pub(crate) const A_GATEWAY: Addr = [10, 244, 1, 1];

/// Underlay address of B, on the same underlay network.
pub(crate) const B: Addr = [192, 168, 50, 2];
/// MAC of B's underlay NIC.
pub(crate) const B_MAC: Mac = [0x02, 0xbb, 0, 0, 0, 0x02];
/// MAC of B's overlay device.
pub(crate) const B_VTEP: Mac = [0x0e, 0x4f, 192, 168, 50, 2];
/// B's address inside the overlay.
pub(crate) const B_GATEWAY: Addr = [10, 244, 2, 1];
/// A pod on B.
pub(crate) const B_POD: Addr = [10, 244, 2, 20];

/// Underlay address of C, behind a router.
pub(crate) const C: Addr = [192, 168, 60, 3];
/// MAC of C's overlay device.
pub(crate) const C_VTEP: Mac = [0x0e, 0x4f, 192, 168, 60, 3];
/// A pod on C.
pub(crate) const C_POD: Addr = [10, 244, 3, 30];
/// The router in front of C.
pub(crate) const ROUTER: Addr = [192, 168, 50, 254];
/// MAC of the router.
pub(crate) const ROUTER_MAC: Mac = [0x02, 0xcc, 0, 0, 0, 0xfe];

/// Underlay address of D, whose MAC nobody knows yet.
pub(crate) const D: Addr = [192, 168, 50, 4];
/// A pod on D.
pub(crate) const D_POD: Addr = [10, 244, 4, 40];
/// Underlay address of E: its subnet is known, the node is not.
pub(crate) const E: Addr = [192, 168, 50, 5];
/// A pod of E's subnet.
pub(crate) const E_POD: Addr = [10, 244, 5, 50];
/// Underlay address of F, reached by a way no program knows.
pub(crate) const F: Addr = [192, 168, 50, 6];
/// A pod on F.
pub(crate) const F_POD: Addr = [10, 244, 6, 60];
/// Underlay address of G, a neighbour that is sent packets as they are.
pub(crate) const G: Addr = [192, 168, 50, 7];
/// MAC of G's underlay NIC.
pub(crate) const G_MAC: Mac = [0x02, 0x66, 0, 0, 0, 0x07];
/// A pod on G.
pub(crate) const G_POD: Addr = [10, 244, 7, 70];
/// G's address inside the overlay.
pub(crate) const G_GATEWAY: Addr = [10, 244, 7, 1];
/// Underlay address of H, as G, but its MAC is not known yet.
pub(crate) const H: Addr = [192, 168, 50, 8];
/// A pod on H.
pub(crate) const H_POD: Addr = [10, 244, 8, 80];

/// An underlay address no node has.
pub(crate) const STRANGER: Addr = [192, 168, 50, 99];

/// The pod most rows speak of.
pub(crate) const POD: PodEnd =
    PodEnd { addr: [10, 244, 1, 10], mac: [0x02, 0x10, 0, 0, 0, 0x0a], host_mac: [0x02, 0x20, 0, 0, 0, 0x0a], ifindex: 11 };
/// A second pod on this node.
pub(crate) const POD2: PodEnd =
    PodEnd { addr: [10, 244, 1, 11], mac: [0x02, 0x10, 0, 0, 0, 0x0b], host_mac: [0x02, 0x20, 0, 0, 0, 0x0b], ifindex: 12 };
/// An address of our pod network that no pod has.
pub(crate) const NO_POD: Addr = [10, 244, 1, 200];
/// A service address: no pod network holds it.
pub(crate) const SERVICE: Addr = [10, 96, 0, 10];
/// An address outside the cluster.
pub(crate) const EXTERNAL: Addr = [203, 0, 113, 7];
/// The next hop of every pod.
pub(crate) const POD_NEXT_HOP: Addr = [169, 254, 1, 1];

/// A pod on this node and its veth pair.
#[derive(Clone, Copy)]
pub(crate) struct PodEnd {
    pub(crate) addr: Addr,
    pub(crate) mac: Mac,
    pub(crate) host_mac: Mac,
    pub(crate) ifindex: u32,
}

/// The one value of `SETTINGS`.
pub(crate) fn settings() -> Settings {
    Settings {
        abi_version: overlay_common::abi::ABI_VERSION,
        vni: VNI,
        port: u32::from(PORT),
        receive_mode: receive::XDP,
        mtu: u32::try_from(MTU).expect("an MTU"),
        overlay_ifindex: OVERLAY_IFINDEX,
        underlay_ifindex: UNDERLAY_IFINDEX,
        address: A,
        pod_net: [10, 244, 1, 0],
        pod_mask: [255, 255, 255, 0],
        gateway: A_GATEWAY,
        vtep_mac: A_VTEP,
        underlay_mac: A_MAC,
        subnet_lens: 1 << 24,
    }
}

/// The peers: third byte of 10.244.x.0/24, and the node that has it. E is one this host has no route to.
const PEERS: [(u8, Addr); 7] = [(2, B), (3, C), (4, D), (5, E), (6, F), (7, G), (8, H)];

/// `SUBNETS`.
pub(crate) fn subnets() -> Vec<(SubnetKey, Subnet)> {
    let key = |third_byte| SubnetKey { prefix_len: 24, addr: [10, 244, third_byte, 0] };
    PEERS.map(|(third_byte, node)| (key(third_byte), subnet(node))).to_vec()
}

/// How a peer is reached.
pub(crate) fn subnet(node: Addr) -> Subnet {
    let by = |vtep_mac, next_hop, next_hop_mac| Subnet {
        node,
        vtep_mac,
        next_hop_mac,
        local_mac: A_MAC,
        mtu: u16::try_from(MTU).expect("an MTU"),
        source: A,
        next_hop,
        ifindex: UNDERLAY_IFINDEX,
        reach: reach::ENCAP,
        // Behind a router there is no MAC of the node's own.
        node_mac: if next_hop == node { next_hop_mac } else { [0; 6] },
        pad: [0; 2],
    };
    let direct = |subnet| Subnet { reach: reach::DIRECT, mtu: u16::try_from(DIRECT_MTU).expect("an MTU"), ..subnet };
    match node {
        B => by(B_VTEP, B, B_MAC),
        C => by(C_VTEP, ROUTER, ROUTER_MAC),
        D => by([0x0e, 0x4f, 192, 168, 50, 4], D, [0; 6]),
        G => direct(by([0x0e, 0x4f, 192, 168, 50, 7], G, G_MAC)),
        H => direct(by([0x0e, 0x4f, 192, 168, 50, 8], H, [0; 6])),
        F => Subnet { reach: 0xff, ..by([0x0e, 0x4f, 192, 168, 50, 6], F, [0x02, 0xff, 0, 0, 0, 6]) },
        _ => Subnet { reach: reach::NONE, ..by([0; 6], node, [0; 6]) },
    }
}

/// `NODES`: the peers this host has a route to.
pub(crate) fn nodes() -> Vec<(Addr, Node)> {
    let node = |third_byte, reach| Node { pod_net: [10, 244, third_byte, 0], pod_mask: [255, 255, 255, 0], reach };
    let peers = PEERS.into_iter().filter(|(_, address)| *address != E);
    peers.map(|(third_byte, address)| (address, node(third_byte, subnet(address).reach))).collect()
}

/// `PODS`.
pub(crate) fn pods() -> Vec<(Addr, Pod)> {
    [POD, POD2].map(|pod| (pod.addr, Pod { ifindex: pod.ifindex, mac: pod.mac, host_mac: pod.host_mac })).to_vec()
}

/// `VETHS`.
pub(crate) fn veths() -> Vec<(u32, Veth)> {
    [POD, POD2].map(|pod| (pod.ifindex, Veth { addr: pod.addr, mac: pod.mac, host_mac: pod.host_mac })).to_vec()
}

/// A small datagram from a pod on B to the pod here.
pub(crate) fn from_b() -> Ipv4 {
    Ipv4::udp(B_POD, POD.addr, b"overlay!")
}

/// `inner` in a VXLAN packet from B, as B's agent or a flannel on B would send it.
pub(crate) fn tunnel(inner: &Ipv4) -> Tunnel {
    tunnel_of(inner.bytes())
}

/// Any bytes behind the inner Ethernet header, in a VXLAN packet from B.
pub(crate) fn tunnel_of(inner: Vec<u8>) -> Tunnel {
    Tunnel {
        eth: Eth::ipv4(A_MAC, B_MAC),
        ip: Ipv4::new(B, A, crate::packet::protocol::UDP, Vec::new()).edit(|ip| ip.fragment = crate::packet::DONT_FRAGMENT),
        udp: Udp::new(51_515, PORT),
        vxlan: Vxlan::new(VNI),
        inner_eth: Eth::ipv4(A_VTEP, B_VTEP),
        inner,
        trailer: Vec::new(),
    }
}

/// `ip` as the pod sends it into its veth.
pub(crate) fn from_pod(ip: &Ipv4) -> Vec<u8> {
    Eth::ipv4(POD.host_mac, POD.mac).frame(&ip.bytes())
}

/// `ip` as this node hands it to a pod: one hop further.
pub(crate) fn at_pod(pod: PodEnd, ip: &Ipv4) -> Vec<u8> {
    Eth::ipv4(pod.mac, pod.host_mac).frame(&ip.clone().routed().bytes())
}

/// The outer packet this node must send: `ip` in VXLAN to the node `to` by the next hop `mac`. The UDP source port is not decided here.
pub(crate) fn encapsulated(ip: &Ipv4, to: Addr, vtep: Mac, mac: Mac) -> Tunnel {
    Tunnel {
        eth: Eth::ipv4(mac, A_MAC),
        ip: Ipv4 {
            tos: ip.tos & 0x03,
            id: 0,
            fragment: crate::packet::DONT_FRAGMENT,
            ..Ipv4::new(A, to, crate::packet::protocol::UDP, Vec::new())
        },
        udp: Udp::new(0, PORT),
        vxlan: Vxlan::new(VNI),
        inner_eth: Eth::ipv4(vtep, A_VTEP),
        inner: ip.bytes(),
        trailer: Vec::new(),
    }
}
