//! The headers as they stand on the wire: plain bytes, alignment 1, every bit pattern valid.
//!
//! Numbers are stored in network order and read and written in host order through `zerocopy`'s types: byte order is dealt with here
//! and nowhere else. Nothing here judges a packet; that is [`crate::parse`].

use crate::abi::{Ipv4, Mac};
use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Ethertype of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// Ethertype of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// Ethertype of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Ethertype of an 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// Ethertype of an 802.1ad service tag.
pub const ETHERTYPE_QINQ: u16 = 0x88a8;

/// IP protocol number of ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// IP protocol number of SCTP.
pub const PROTOCOL_SCTP: u8 = 132;

/// Length of an Ethernet header.
pub const ETHERNET_LEN: usize = size_of::<EthernetHeader>();
/// Length of an IPv4 header without options.
pub const IPV4_LEN: usize = size_of::<Ipv4Header>();
/// Length of a UDP header.
pub const UDP_LEN: usize = size_of::<UdpHeader>();
/// Length of a VXLAN header.
pub const VXLAN_LEN: usize = size_of::<VxlanHeader>();

/// Ethernet II.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct EthernetHeader {
    /// Destination MAC.
    pub destination: Mac,
    /// Source MAC.
    pub source: Mac,
    /// What follows.
    pub ethertype: U16,
}

/// IPv4 without options (RFC 791 section 3.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Ipv4Header {
    /// Version in the high, header length in 32-bit words in the low four bits.
    pub version_ihl: u8,
    /// DSCP in the high six, ECN in the low two bits.
    pub tos: u8,
    /// Header and payload in bytes.
    pub total_len: U16,
    /// Identification of a datagram's fragments.
    pub identification: U16,
    /// Flags in the high three bits, fragment offset in units of 8 bytes in the rest.
    pub flags_fragment: U16,
    /// Hops left.
    pub ttl: u8,
    /// What follows.
    pub protocol: u8,
    /// Ones' complement sum over the header.
    pub checksum: U16,
    /// Source address.
    pub source: Ipv4,
    /// Destination address.
    pub destination: Ipv4,
}

impl Ipv4Header {
    /// Bit of `flags_fragment`: do not fragment.
    pub const DONT_FRAGMENT: u16 = 0x4000;
    /// Bits of `flags_fragment` that a whole datagram has clear: more fragments, and the offset.
    pub const FRAGMENT_MASK: u16 = 0x3fff;
    /// Bits of `flags_fragment` that a first fragment has clear: the offset.
    pub const OFFSET_MASK: u16 = 0x1fff;

    /// IP version.
    #[must_use]
    #[inline(always)]
    pub const fn version(&self) -> u8 {
        self.version_ihl >> 4
    }

    /// Length of the header with its options, 0–60 bytes as claimed.
    #[must_use]
    #[inline(always)]
    pub const fn header_len(&self) -> usize {
        ((self.version_ihl & 0x0f) as usize) * 4
    }

    /// The two ECN bits (RFC 3168).
    #[must_use]
    #[inline(always)]
    pub const fn ecn(&self) -> u8 {
        self.tos & 3
    }

    /// Part of a fragmented datagram.
    #[must_use]
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        self.flags_fragment.get() & Self::FRAGMENT_MASK != 0
    }

    /// A fragment that does not carry the transport header.
    #[must_use]
    #[inline(always)]
    pub fn is_later_fragment(&self) -> bool {
        self.flags_fragment.get() & Self::OFFSET_MASK != 0
    }

    /// The header as ten 16-bit words, for checksums.
    #[must_use]
    #[inline(always)]
    pub fn words(&self) -> [u16; 10] {
        let words: [U16; 10] = zerocopy::transmute!(*self);
        words.map(U16::get)
    }
}

/// UDP (RFC 768).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct UdpHeader {
    /// Source port.
    pub source_port: U16,
    /// Destination port.
    pub destination_port: U16,
    /// Header and payload in bytes.
    pub len: U16,
    /// Zero: none.
    pub checksum: U16,
}

/// VXLAN (RFC 7348 section 5).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct VxlanHeader {
    /// Only the I bit is set: [`VxlanHeader::FLAGS`].
    pub flags: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// VXLAN network identifier, 24 bits.
    pub vni: [u8; 3],
    /// Zero.
    pub reserved2: u8,
}

impl VxlanHeader {
    /// The I flag: the VNI is valid.
    pub const FLAGS: u8 = 0x08;

    /// The header of a plain VXLAN packet. Bits of `vni` past the lower 24 are ignored.
    #[must_use]
    #[inline(always)]
    pub const fn new(vni: u32) -> Self {
        let [_, a, b, c] = vni.to_be_bytes();
        Self { flags: Self::FLAGS, reserved: [0; 3], vni: [a, b, c], reserved2: 0 }
    }

    /// The network identifier.
    #[must_use]
    #[inline(always)]
    pub const fn vni(&self) -> u32 {
        let [a, b, c] = self.vni;
        u32::from_be_bytes([0, a, b, c])
    }

    /// Nothing but the I flag is set anywhere.
    #[must_use]
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        self.flags == Self::FLAGS && self.reserved == [0; 3] && self.reserved2 == 0
    }
}

/// ARP for IPv4 over Ethernet (RFC 826).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct ArpPacket {
    /// Hardware type 1, protocol 0x0800, lengths 6 and 4: [`ArpPacket::ETHERNET_IPV4`].
    pub kind: [u8; 6],
    /// 1 request, 2 reply.
    pub operation: U16,
    /// Sender's MAC.
    pub sender_mac: Mac,
    /// Sender's address.
    pub sender: Ipv4,
    /// Target's MAC.
    pub target_mac: Mac,
    /// Target's address.
    pub target: Ipv4,
}

impl ArpPacket {
    /// `kind` of ARP for IPv4 over Ethernet.
    pub const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
    /// `operation` of a request.
    pub const REQUEST: u16 = 1;
    /// `operation` of a reply.
    pub const REPLY: u16 = 2;
}

/// Everything in front of the inner IP packet: what encapsulation puts there and decapsulation takes away, save the first Ethernet
/// header, which the packet has before and after.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct TunnelHeaders {
    /// Outer Ethernet.
    pub ethernet: EthernetHeader,
    /// Outer IPv4.
    pub ip: Ipv4Header,
    /// Outer UDP.
    pub udp: UdpHeader,
    /// VXLAN.
    pub vxlan: VxlanHeader,
    /// Inner Ethernet.
    pub inner_ethernet: EthernetHeader,
}

const _: () = {
    assert!(ETHERNET_LEN == 14 && IPV4_LEN == 20 && UDP_LEN == 8 && VXLAN_LEN == 8);
    assert!(size_of::<ArpPacket>() == 28);
    assert!(size_of::<TunnelHeaders>() == ETHERNET_LEN + crate::abi::ENCAP_OVERHEAD as usize);
};
