//! The frames the generator sends: 64 bytes of UDP in Ethernet, plain or inside VXLAN, valid in every header.
//!
//! Pure. The checksums are real, the UDP one too: connection tracking checks it.

use overlay_common::abi::{self, Mac};
use overlay_common::checksum;
use overlay_common::encap;
use overlay_common::wire::{ETHERNET_LEN, ETHERTYPE_IPV4, EthernetHeader, IPV4_LEN, Ipv4Header, PROTOCOL_UDP, UDP_LEN, UdpHeader};
use std::net::Ipv4Addr;
use zerocopy::IntoBytes as _;
use zerocopy::byteorder::network_endian::U16;

/// Bytes of a frame without a tunnel: the smallest Ethernet has, as the wire counts without its check sequence rounded up to 64.
pub const PLAIN_LEN: usize = 64;
/// Bytes of a frame inside VXLAN.
pub const TUNNELLED_LEN: usize = PLAIN_LEN + abi::ENCAP_OVERHEAD as usize;
/// First source port; flows count up from it.
const FIRST_PORT: u16 = 10_000;
/// Destination port of flows.
pub const DISCARD: u16 = 9;

const PAYLOAD_LEN: usize = PLAIN_LEN - ETHERNET_LEN - IPV4_LEN - UDP_LEN;

/// One datagram of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Who sends it.
    pub source: Ipv4Addr,
    /// Who gets it.
    pub destination: Ipv4Addr,
    /// Its port.
    pub source_port: u16,
    /// The other's.
    pub destination_port: u16,
}

impl Datagram {
    /// The datagram of a flow between the two: from port 10,000 and on to [`DISCARD`].
    #[must_use]
    pub const fn of_flow(source: Ipv4Addr, destination: Ipv4Addr, flow: u16) -> Self {
        Self { source, destination, source_port: FIRST_PORT.wrapping_add(flow), destination_port: DISCARD }
    }
}

/// The two ends of a cable or of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// MAC the frame comes from.
    pub source: Mac,
    /// MAC it goes to.
    pub destination: Mac,
}

/// A tunnel between two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The cable.
    pub underlay: Link,
    /// MACs of the tunnel's ends.
    pub overlay: Link,
    /// Node that sends.
    pub source: Ipv4Addr,
    /// Node that gets it.
    pub destination: Ipv4Addr,
    /// UDP port.
    pub port: u16,
    /// Network identifier.
    pub vni: u32,
}

/// The frame a datagram is on a link.
#[must_use]
pub fn plain(link: Link, datagram: &Datagram) -> [u8; PLAIN_LEN] {
    let total_len = length(IPV4_LEN + UDP_LEN + PAYLOAD_LEN);
    let mut ip = Ipv4Header {
        version_ihl: 0x45,
        tos: 0,
        total_len,
        identification: U16::ZERO,
        flags_fragment: U16::new(Ipv4Header::DONT_FRAGMENT),
        ttl: 64,
        protocol: PROTOCOL_UDP,
        checksum: U16::ZERO,
        source: datagram.source.octets(),
        destination: datagram.destination.octets(),
    };
    ip.checksum = U16::new(checksum::of(&ip));
    let mut udp = UdpHeader {
        source_port: U16::new(datagram.source_port),
        destination_port: U16::new(datagram.destination_port),
        len: length(UDP_LEN + PAYLOAD_LEN),
        checksum: U16::ZERO,
    };
    udp.checksum = U16::new(udp_checksum(&ip, udp));
    let ethernet = EthernetHeader { destination: link.destination, source: link.source, ethertype: U16::new(ETHERTYPE_IPV4) };
    let mut frame = [0; PLAIN_LEN];
    frame[..ETHERNET_LEN].copy_from_slice(ethernet.as_bytes());
    frame[ETHERNET_LEN..ETHERNET_LEN + IPV4_LEN].copy_from_slice(ip.as_bytes());
    frame[ETHERNET_LEN + IPV4_LEN..ETHERNET_LEN + IPV4_LEN + UDP_LEN].copy_from_slice(udp.as_bytes());
    frame
}

/// The frame a datagram is in a tunnel. The outer source port follows the flow, as every VTEP has it.
///
/// # Panics
/// Never: the frame is shorter than the longest.
#[must_use]
pub fn tunnelled(tunnel: &Tunnel, datagram: &Datagram) -> [u8; TUNNELLED_LEN] {
    let inner = plain(tunnel.overlay, datagram);
    let settings = abi::Settings { vni: tunnel.vni, port: u32::from(tunnel.port), vtep_mac: tunnel.overlay.source, ..zeroed() };
    let subnet = abi::Subnet {
        node: tunnel.destination.octets(),
        vtep_mac: tunnel.overlay.destination,
        next_hop_mac: tunnel.underlay.destination,
        local_mac: tunnel.underlay.source,
        source: tunnel.source.octets(),
        ..zeroed()
    };
    // Any spread of the flows over the ports will do.
    let ports = u32::from(datagram.source_port) + u32::from(datagram.destination_port);
    let hash = ports.wrapping_mul(0x9e37_79b1) ^ datagram.source.to_bits() ^ datagram.destination.to_bits();
    let inner_len = length(PLAIN_LEN - ETHERNET_LEN).get();
    let headers = encap::headers(&settings, &subnet, inner_len, 0, hash).expect("a frame of 114 bytes is not too long");
    let mut frame = [0; TUNNELLED_LEN];
    let (outer, rest) = frame.split_at_mut(headers.as_bytes().len());
    outer.copy_from_slice(headers.as_bytes());
    rest.copy_from_slice(&inner[ETHERNET_LEN..]);
    frame
}

fn zeroed<T: zerocopy::FromZeros>() -> T {
    T::new_zeroed()
}

fn length(bytes: usize) -> U16 {
    U16::new(u16::try_from(bytes).expect("a frame is short"))
}

/// RFC 768: over the pseudo header, the UDP header and the payload, which is zero.
fn udp_checksum(ip: &Ipv4Header, udp: UdpHeader) -> u16 {
    let words = |bytes: &[u8]| bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
    let pseudo = words(&ip.source) + words(&ip.destination) + u32::from(ip.protocol) + u32::from(udp.len.get());
    !checksum::fold(pseudo + words(udp.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use overlay_common::parse;

    const LINK: Link = Link { source: [2, 0, 0, 0, 0, 1], destination: [2, 0, 0, 0, 0, 2] };
    const DATAGRAM: Datagram = Datagram::of_flow(Ipv4Addr::new(10, 244, 1, 11), Ipv4Addr::new(10, 244, 2, 11), 3);

    #[test]
    fn a_tunnelled_frame_is_one_our_parser_accepts() {
        let (source, destination) = (Ipv4Addr::new(192, 168, 50, 11), Ipv4Addr::new(192, 168, 50, 12));
        let tunnel = Tunnel { underlay: LINK, overlay: LINK, source, destination, port: 8472, vni: 1 };
        let frame = tunnelled(&tunnel, &DATAGRAM);
        let settings = abi::Settings { vni: 1, port: 8472, address: destination.octets(), ..zeroed() };
        let outer = parse::outer(&frame[..], &settings).expect("no drop").expect("ours");
        assert_eq!(outer.end, TUNNELLED_LEN);
        let inner = parse::inner(&frame[..], parse::INNER_OFFSET, outer.end, [9; 6]).expect("no drop");
        assert_eq!(Ipv4Addr::from(inner.header.destination), DATAGRAM.destination);
    }

    #[test]
    fn the_udp_checksum_verifies() {
        let frame = plain(LINK, &DATAGRAM);
        let mut sum = 17 + u32::try_from(PLAIN_LEN - ETHERNET_LEN - IPV4_LEN).expect("short");
        // Addresses, then the whole UDP datagram.
        for pair in frame[ETHERNET_LEN + 12..].chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
        }
        assert_eq!(checksum::fold(sum), 0xffff);
    }
}
