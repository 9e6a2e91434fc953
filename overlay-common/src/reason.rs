//! Why a packet was dropped: every drop has one of these, with a stable number, a name and a counter.
//!
//! The number is the index into [`crate::counters::Counters::drops`]; numbers are never reused. Names are those of `docs/packets.md`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:ident;)*) => {
        /// Why a packet was dropped.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum DropReason { $($(#[$doc])* $variant = $number,)* }

        impl DropReason {
            /// Every reason, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name: in `status`, in metrics and as the field `bpftool map dump` prints.
            #[must_use]
            pub const fn name(self) -> &'static str { match self { $(Self::$variant => stringify!($name),)* } }
        }

        /// Dropped packets, one field per [`DropReason`] in the order of their numbers.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        pub struct Drops { $($(#[$doc])* pub $name: u64,)* }

        const _: () = {
            let mut number = 0;
            while number < DropReason::ALL.len() {
                assert!(DropReason::ALL[number] as usize == number, "drop reasons are numbered without a gap");
                number += 1;
            }
        };
    };
}

drop_reasons! {
    /// Underlay: the frame ends before a header that must be there.
    Short = 0, short;
    /// Underlay: outer IP version is not 4 or the header length is below 20 bytes.
    OuterHeader = 1, outer_hdr;
    /// Underlay: the outer IP header has options.
    OuterIpOptions = 2, outer_ipopt;
    /// Underlay: outer IP or UDP length contradicts the frame or each other.
    OuterLength = 3, outer_len;
    /// Underlay: outer IP header checksum is wrong.
    OuterChecksum = 4, outer_csum;
    /// Underlay: outer source is no node we know.
    OuterSourceUnknown = 5, outer_src_unknown;
    /// Underlay: outer packet is a fragment (RFC 7348 section 4.3).
    OuterFragment = 6, outer_frag;
    /// Underlay: outer TTL is 0.
    OuterTtl = 7, outer_ttl;
    /// Underlay: VXLAN flags or reserved bits other than a plain VNI.
    VxlanFlags = 8, vxlan_flags;
    /// Underlay: not our VNI.
    Vni = 9, vni;
    /// Underlay: inner frame is neither IPv4 nor IPv6.
    InnerL2Protocol = 10, inner_l2proto;
    /// Underlay: inner frame has a VLAN tag (RFC 7348 section 6.1).
    InnerVlan = 11, inner_vlan;
    /// Underlay: inner source MAC is multicast or our own.
    InnerMac = 12, inner_mac;
    /// Underlay: inner IP header is malformed or its checksum is wrong.
    InnerHeader = 13, inner_hdr;
    /// Underlay: inner IP header asks for source routing.
    InnerIpOptions = 14, inner_ipopt;
    /// Underlay: inner TTL is 0.
    InnerTtl = 15, inner_ttl;
    /// Underlay: inner source does not belong to the node that sent it.
    InnerSourceMismatch = 16, inner_src_mismatch;
    /// Underlay: inner destination lies in our pod network but no pod has it.
    InnerNoPod = 17, inner_no_pod;
    /// Underlay: inner destination is neither a pod of ours nor our gateway address.
    InnerNotLocal = 18, inner_not_local;
    /// Either side: an address that must never be routed.
    Martian = 19, martian;
    /// Either side: IPv6 while it is off.
    V6Disabled = 20, v6_disabled;
    /// Underlay: outer CE on an inner packet that does not speak ECN (RFC 6040 section 4.2).
    Ecn = 21, ecn;
    /// Either side: too big to be handled whole.
    TooBig = 22, too_big;
    /// Overlay device: decapsulated by the kernel although that is not how this node receives, or not from the underlay NIC.
    KernelDecapOff = 23, kernel_decap_off;
    /// Pod: source address is not the pod's.
    PodSourceAddress = 24, pod_src_ip;
    /// Pod: source MAC is not the pod's.
    PodSourceMac = 25, pod_src_mac;
    /// Pod: a frame that is neither IP nor ARP for the gateway.
    PodL2Protocol = 26, pod_l2proto;
    /// Pod: ARP with a sender that is not the pod.
    PodArpSpoof = 27, pod_arp_spoof;
    /// Pod: IP header is malformed or its checksum is wrong.
    PodHeader = 28, pod_hdr;
    /// Pod: VXLAN to a node, or a fragment to a node that could hide it.
    EncapProhibited = 29, encap_prohibited;
    /// Pod or host: destination node is known but cannot be reached from here.
    NoNode = 30, no_node;
    /// Pod: the veth it came by is not registered.
    UnknownVeth = 31, unknown_veth;
    /// Any: a helper of the kernel refused (out of memory, packet not writable).
    Helper = 32, helper;
    /// Underlay: without a tunnel from a pod's address, but not from the node that has the pod; or from an address of our own pods.
    DirectSource = 33, direct_src;
}
