//! Builds what goes in front of an inner IP packet.

use crate::abi::{ENCAP_OVERHEAD, Settings, Subnet};
use crate::checksum;
use crate::ecn;
use crate::wire::{ETHERNET_LEN, ETHERTYPE_IPV4, EthernetHeader, Ipv4Header, PROTOCOL_UDP, TunnelHeaders, UdpHeader, VxlanHeader};
use zerocopy::byteorder::network_endian::U16;

/// First outer source port. The sixteen thousand ports above it are RFC 7348's dynamic range (section 5), and never the VXLAN port.
pub const FIRST_SOURCE_PORT: u16 = 49_152;

/// What encapsulation adds to the length of an IP packet.
const ADDED_LEN: u16 = (ENCAP_OVERHEAD & 0xffff) as u16;

/// TTL of the outer header.
pub const OUTER_TTL: u8 = 64;

/// Outer source port of a flow: the same for all its packets, spread over the range so that the underlay balances flows.
#[must_use]
#[inline(always)]
pub const fn source_port(hash: u32) -> u16 {
    FIRST_SOURCE_PORT | ((hash ^ (hash >> 16)) & 0x3fff) as u16
}

/// The headers for an inner IP packet of `inner_len` bytes with the type-of-service byte `inner_tos`, to the node that has `subnet`.
///
/// `None` when the outer packet would be longer than 65,535 bytes.
///
/// The outer DSCP is zero and ECN is copied; DF is set, so that a path that shrank answers instead of fragmenting (RFC 7348 section
/// 4.3: a VTEP must not fragment), which also allows the identification to be zero (RFC 6864 section 4.1); the UDP checksum is zero
/// (RFC 7348 section 5).
#[must_use]
#[inline(always)]
pub fn headers(settings: &Settings, subnet: &Subnet, inner_len: u16, inner_tos: u8, hash: u32) -> Option<TunnelHeaders> {
    let total_len = inner_len.checked_add(ADDED_LEN)?;
    let mut ip = Ipv4Header {
        version_ihl: 0x45,
        tos: ecn::encapsulate(inner_tos),
        total_len: U16::new(total_len),
        identification: U16::ZERO,
        flags_fragment: U16::new(Ipv4Header::DONT_FRAGMENT),
        ttl: OUTER_TTL,
        protocol: PROTOCOL_UDP,
        checksum: U16::ZERO,
        source: subnet.source,
        destination: subnet.node,
    };
    ip.checksum = U16::new(checksum::of(&ip));
    Some(TunnelHeaders {
        ethernet: EthernetHeader { destination: subnet.next_hop_mac, source: subnet.local_mac, ethertype: U16::new(ETHERTYPE_IPV4) },
        ip,
        udp: UdpHeader {
            source_port: U16::new(source_port(hash)),
            destination_port: U16::new((settings.port & 0xffff) as u16),
            len: U16::new(total_len - 20),
            checksum: U16::ZERO,
        },
        vxlan: VxlanHeader::new(settings.vni),
        inner_ethernet: EthernetHeader { destination: subnet.vtep_mac, source: settings.vtep_mac, ethertype: U16::new(ETHERTYPE_IPV4) },
    })
}

const _: () = assert!(size_of::<TunnelHeaders>() == ETHERNET_LEN + ENCAP_OVERHEAD as usize);
