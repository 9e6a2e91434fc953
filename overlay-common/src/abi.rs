//! The contract between the kernel programs and the agent: map names, keys, values.
//!
//! Every type is `repr(C)`, has no padding the compiler could leave unset (the `zerocopy` derives refuse to compile otherwise), holds
//! no enum and no `bool`, and is asserted to its exact size below. Addresses are byte arrays in network order, so that
//! `bpftool map dump` prints `[10,244,1,0]`; numbers are in host order unless the name ends in `_be`.
//! A changed layout raises [`ABI_VERSION`], which is part of the pin path: old and new maps never meet.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of every layout in this file. Part of the pin path (`<bpffs>/overlay/v1`) and of [`Settings`].
pub const ABI_VERSION: u32 = 1;

/// Names of the maps: at most 15 characters, the kernel cuts longer ones.
pub mod map {
    /// Hash, pod network → the node that has it and how to send there ([`super::SubnetKey`] → [`super::Subnet`]); asked for each length in
    /// [`super::Settings::subnet_lens`], the longest first.
    pub const SUBNETS: &str = "SUBNETS";
    /// Hash, node address → what may come from it ([`super::Ipv4`] → [`super::Node`]).
    pub const NODES: &str = "NODES";
    /// Hash, address of a pod on this node → where to deliver ([`super::Ipv4`] → [`super::Pod`]).
    pub const PODS: &str = "PODS";
    /// Hash, ifindex of a host-side veth → what its pod may send (`u32` → [`super::Veth`]).
    pub const VETHS: &str = "VETHS";
    /// Hash of devices, ifindex of a host-side veth → itself, for those XDP may send frames out of: the pod's end receives by NAPI (`u32` →
    /// `struct bpf_devmap_val`, include/uapi/linux/bpf.h). The kernel removes an entry with its device.
    pub const XDP_VETHS: &str = "XDP_VETHS";
    /// LRU hash, pod socket whose packets took the host stack → when ([`super::DetourKey`] → [`super::Detour`]).
    pub const DETOUR: &str = "DETOUR";
    /// Array of one [`super::Settings`].
    pub const SETTINGS: &str = "SETTINGS";
    /// Per-CPU array of one [`crate::counters::Counters`].
    pub const COUNTERS: &str = "COUNTERS";
    /// Every map, in the order a person wants to read them.
    pub const ALL: [&str; 8] = [SETTINGS, SUBNETS, NODES, PODS, VETHS, XDP_VETHS, DETOUR, COUNTERS];
}

/// Names of the programs in the object and, below `progs/`, of their pins.
pub mod program {
    /// TC ingress of a pod's host-side veth.
    pub const FROM_POD: &str = "from_pod";
    /// TC egress of the overlay device.
    pub const FROM_HOST: &str = "from_host";
    /// XDP of the underlay NIC.
    pub const UNDERLAY_XDP: &str = "underlay_xdp";
    /// TC ingress of the underlay NIC.
    pub const UNDERLAY_TC: &str = "underlay_tc";
    /// TC ingress of the overlay device.
    pub const FROM_OVERLAY: &str = "from_overlay";
    /// TC egress of the underlay NIC, while nodes are sent packets as they are.
    pub const TO_UNDERLAY: &str = "to_underlay";
    /// Every program.
    pub const ALL: [&str; 6] = [FROM_POD, FROM_HOST, UNDERLAY_XDP, UNDERLAY_TC, FROM_OVERLAY, TO_UNDERLAY];
}

/// Most prefixes, and so most nodes, a node can know: thirteen times the largest cluster Kubernetes supports. Entries take memory when they
/// are made; what is there from the start is 16 bytes for each.
pub const MAX_NODES: u32 = 65_536;
/// Most pods on one node.
pub const MAX_PODS: u32 = 4_096;
/// Pod sockets remembered in `DETOUR`; beyond it the least recently used is forgotten.
pub const MAX_DETOURS: u32 = 65_536;

/// Bytes VXLAN puts in front of an inner IP packet: outer IPv4 20 + UDP 8 + VXLAN 8 + inner Ethernet 14 (RFC 7348 section 5).
pub const ENCAP_OVERHEAD: u32 = 50;

/// An IPv4 address in network order.
pub type Ipv4 = [u8; 4];
/// A MAC address.
pub type Mac = [u8; 6];

/// Key of `SUBNETS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SubnetKey {
    /// Length of the prefix in bits, 0–32.
    pub prefix_len: u32,
    /// The network address; bits past the prefix are zero.
    pub addr: Ipv4,
}

/// Longest prefix of a pod network: one with a network address, a gateway, a pod and a broadcast address.
pub const MAX_SUBNET_LEN: u32 = 30;

impl SubnetKey {
    /// The network of so many bits, at most [`MAX_SUBNET_LEN`] and at least one, that has this address.
    #[inline(always)]
    #[must_use]
    pub const fn of(addr: Ipv4, prefix_len: u32) -> Self {
        let mask = u32::MAX << (32 - prefix_len);
        Self { prefix_len, addr: (u32::from_be_bytes(addr) & mask).to_be_bytes() }
    }
}

/// How a node is reached: [`Subnet::reach`].
pub mod reach {
    /// Not at all: this host has no route to it. What is sent to it is dropped and counted.
    pub const NONE: u32 = 0;
    /// By VXLAN.
    pub const ENCAP: u32 = 1;
    /// As it is: the node is a neighbour on the underlay.
    pub const DIRECT: u32 = 2;
}

/// Value of `SUBNETS`: which node has the prefix, and all it takes to send there. One lookup finds it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Subnet {
    /// Underlay address of the node: the outer destination.
    pub node: Ipv4,
    /// Inner destination MAC of what we send by VXLAN.
    pub vtep_mac: Mac,
    /// Outer destination MAC: the node's own or a router's. All zero: not resolved yet, the kernel's neighbour table is asked.
    pub next_hop_mac: Mac,
    /// Outer source MAC: the NIC the packet leaves by.
    pub local_mac: Mac,
    /// Largest IP packet of a pod that can be sent this way.
    pub mtu: u16,
    /// Outer source address.
    pub source: Ipv4,
    /// Address whose neighbour entry gives `next_hop_mac`: the node itself or a router.
    pub next_hop: Ipv4,
    /// ifindex of the NIC the packet leaves by.
    pub ifindex: u32,
    /// One of [`reach`].
    pub reach: u32,
    /// MAC of the node itself: what sends its pods' packets if they come without a tunnel. All zero: the node is no neighbour, or not
    /// resolved yet, and no such packet is accepted.
    pub node_mac: Mac,
    /// Explicit padding, zero.
    pub pad: [u8; 2],
}

/// Value of `NODES`: what may come from a node.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Node {
    /// Network of the pods this node may send from.
    pub pod_net: Ipv4,
    /// Mask of `pod_net`.
    pub pod_mask: Ipv4,
    /// One of [`reach`]: where it is [`reach::DIRECT`], the host's route to the node's pods may lead out of the NIC, and what comes from them
    /// to the host has to enter there.
    pub reach: u32,
}

/// Value of `PODS`: where a packet to a pod on this node goes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Pod {
    /// ifindex of the host side of the pod's veth pair.
    pub ifindex: u32,
    /// MAC of the pod's end.
    pub mac: Mac,
    /// MAC of the host's end.
    pub host_mac: Mac,
}

/// Value of `VETHS`: what the pod behind a host-side veth may send from.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Veth {
    /// The pod's only source address.
    pub addr: Ipv4,
    /// The pod's only source MAC.
    pub mac: Mac,
    /// MAC of the host's end, the answer to the pod's ARP for its gateway.
    pub host_mac: Mac,
}

/// Key of `DETOUR`: a pod's socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DetourKey {
    /// Address of the pod.
    pub addr: Ipv4,
    /// Port of the pod in network order; zero for what carries no port (a fragment).
    pub port_be: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// Explicit padding, zero.
    pub pad: u8,
}

/// Value of `DETOUR`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Detour {
    /// When a packet of this socket last took the host stack: `CLOCK_MONOTONIC`, seconds.
    pub last_seen: u64,
}

/// How VXLAN packets are received: [`Settings::receive_mode`].
pub mod receive {
    /// `underlay_xdp` strips, `underlay_tc` delivers and takes what XDP left.
    pub const XDP: u32 = 1;
    /// `underlay_tc` strips and delivers.
    pub const TC: u32 = 2;
    /// The kernel's vxlan device strips, `from_overlay` validates and delivers.
    pub const KERNEL: u32 = 3;
    /// As [`XDP`], but `underlay_xdp` itself sends what is for a pod out of the pod's veth, if that is in `XDP_VETHS`.
    pub const XDP_REDIRECT: u32 = 4;

    /// `underlay_xdp` is attached in this mode.
    #[must_use]
    pub const fn uses_xdp(mode: u32) -> bool {
        matches!(mode, XDP | XDP_REDIRECT)
    }
}

/// The one value of `SETTINGS`: this node.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Settings {
    /// [`ABI_VERSION`] of the agent that wrote this. Zero: not written yet, every program passes everything.
    pub abi_version: u32,
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// VXLAN UDP port.
    pub port: u32,
    /// One of [`receive`].
    pub receive_mode: u32,
    /// MTU of pods that are wired from now on. What may be sent to a node's pods is in [`Subnet::mtu`].
    pub mtu: u32,
    /// ifindex of the overlay device.
    pub overlay_ifindex: u32,
    /// ifindex of the underlay NIC.
    pub underlay_ifindex: u32,
    /// This node's underlay address.
    pub address: Ipv4,
    /// Network of this node's pods.
    pub pod_net: Ipv4,
    /// Mask of `pod_net`.
    pub pod_mask: Ipv4,
    /// Address the host has inside the overlay: the first host address of `pod_net`.
    pub gateway: Ipv4,
    /// MAC of the overlay device; also the inner source MAC of what we send.
    pub vtep_mac: Mac,
    /// MAC of the underlay NIC.
    pub underlay_mac: Mac,
    /// Lengths that prefixes in `SUBNETS` have: bit n stands for n bits.
    pub subnet_lens: u32,
}

const _: () = {
    assert!(size_of::<SubnetKey>() == 8);
    assert!(size_of::<Subnet>() == 48 && align_of::<Subnet>() == 4);
    assert!(size_of::<Node>() == 12);
    assert!(size_of::<Pod>() == 16);
    assert!(size_of::<Veth>() == 16);
    assert!(size_of::<DetourKey>() == 8);
    assert!(size_of::<Detour>() == 8);
    assert!(size_of::<Settings>() == 60);
    assert!(align_of::<Settings>() == 4);
};
