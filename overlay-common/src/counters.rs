//! What the programs count: verdicts with packets and bytes, hand-overs to the kernel, drops.
//!
//! One value per CPU, written by the programs without atomics, summed by the reader. Every field is a `u64` so that `bpftool map dump`
//! prints a name for each number.

use crate::reason::Drops;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $packets:ident, $bytes:ident;)*) => {
        /// What became of a packet that was not dropped. The number is the index of its pair of fields in [`Flows`].
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Flow { $($(#[$doc])* $variant = $number,)* }

        impl Flow {
            /// Every flow, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name: in `status`, in metrics and, with `_packets` or `_bytes`, as the field `bpftool map dump` prints.
            #[must_use]
            pub const fn name(self) -> &'static str { match self { $(Self::$variant => {
                let name = stringify!($packets);
                name.split_at(name.len() - "_packets".len()).0
            })* } }
        }

        /// Packets and bytes, one pair per [`Flow`] in the order of their numbers.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        pub struct Flows { $($(#[$doc])* pub $packets: u64, $(#[$doc])* pub $bytes: u64,)* }

        const _: () = {
            let mut number = 0;
            while number < Flow::ALL.len() {
                assert!(Flow::ALL[number] as usize == number, "flows are numbered without a gap");
                number += 1;
            }
        };
    };
}

counters! {
    /// From a pod to a pod of another node: encapsulated.
    PodEncap = 0, pod_encap_packets, pod_encap_bytes;
    /// From the host to a pod of another node: encapsulated.
    HostEncap = 1, host_encap_packets, host_encap_bytes;
    /// Sent to another node while the next hop's MAC was unknown: through the kernel's neighbour table, which resolves it.
    NeighbourEncap = 2, neigh_encap_packets, neigh_encap_bytes;
    /// From a pod to a pod of the same node.
    PodLocal = 3, pod_local_packets, pod_local_bytes;
    /// From a pod to the host or beyond: handed to the host's stack.
    PodStack = 4, pod_stack_packets, pod_stack_bytes;
    /// From a pod, TTL at its end: handed to the stack, which answers time exceeded.
    PodTtl = 5, pod_ttl_packets, pod_ttl_bytes;
    /// From a pod, larger than the tunnel: handed to the stack, which answers fragmentation needed, or fragments.
    PodTooBig = 6, pod_too_big_packets, pod_too_big_bytes;
    /// From a pod to an address of the pod network no pod has: handed to the stack, which answers host unreachable.
    PodNoPod = 7, pod_no_pod_packets, pod_no_pod_bytes;
    /// ARP requests of pods for their gateway, answered.
    PodArp = 8, pod_arp_packets, pod_arp_bytes;
    /// VXLAN stripped by XDP.
    XdpDecap = 9, xdp_decap_packets, xdp_decap_bytes;
    /// VXLAN stripped by TC.
    TcDecap = 10, tc_decap_packets, tc_decap_bytes;
    /// VXLAN stripped by the kernel's vxlan device.
    KernelDecap = 11, kernel_decap_packets, kernel_decap_bytes;
    /// From another node, delivered to a pod.
    DeliverPod = 12, deliver_pod_packets, deliver_pod_bytes;
    /// From another node, delivered to the host's stack: to the gateway address, TTL at its end, or a pod's packet whose flow takes the stack.
    DeliverHost = 13, deliver_host_packets, deliver_host_bytes;
    /// From a pod to a pod of another node: without a tunnel.
    PodDirect = 14, pod_direct_packets, pod_direct_bytes;
    /// From the host to a pod of another node, by way of the overlay device: without a tunnel.
    HostDirect = 15, host_direct_packets, host_direct_bytes;
    /// Without a tunnel from another node's pod, taken by XDP.
    XdpDirect = 16, xdp_direct_packets, xdp_direct_bytes;
    /// Without a tunnel from another node's pod, taken by TC.
    TcDirect = 17, tc_direct_packets, tc_direct_bytes;
}

/// The value of `COUNTERS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Counters {
    /// Packets that went on.
    pub flows: Flows,
    /// Packets that were dropped.
    pub drops: Drops,
}
