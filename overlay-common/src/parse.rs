//! Reads and judges headers. Everything a verdict needs that is not in a map is decided here, for both sides of the tunnel.
//!
//! Each function reads in the order of the wire and stops at the first thing that is wrong. The verdicts are those of `docs/packets.md`.

use crate::abi::{ENCAP_OVERHEAD, Ipv4, Mac, Node, Settings, Subnet};
use crate::checksum;
use crate::packet::Packet;
use crate::reason::DropReason;
use crate::wire::{
    ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_VLAN, EthernetHeader, IPV4_LEN, Ipv4Header, PROTOCOL_ICMP,
    PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP, UDP_LEN, UdpHeader, VXLAN_LEN, VxlanHeader,
};
use zerocopy::{FromBytes, Unaligned};

/// Offset of the outer UDP header: outer options are not accepted.
const UDP_OFFSET: usize = ETHERNET_LEN + IPV4_LEN;
/// Offset of the VXLAN header.
const VXLAN_OFFSET: usize = UDP_OFFSET + UDP_LEN;
/// Offset of the inner Ethernet header.
pub const INNER_OFFSET: usize = VXLAN_OFFSET + VXLAN_LEN;

/// An outer header that was found to be ours and in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Outer source: the node that claims to have sent it.
    pub source: Ipv4,
    /// Outer ECN bits.
    pub ecn: u8,
    /// Offset where the UDP payload ends; what the frame has beyond it is padding.
    pub end: usize,
}

/// An IPv4 header that was found to be in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The header without its options.
    pub header: Ipv4Header,
    /// Offset of the header in the frame.
    pub offset: usize,
}

/// Why an IPv4 header is refused; each side of the tunnel has its own name for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The frame ends inside the header.
    Short,
    /// Version, a length or the checksum is wrong.
    Header,
    /// It asks for source routing.
    SourceRoute,
}

/// The outer headers. `None`: not VXLAN to us, the kernel's business.
///
/// # Errors
/// A packet that is ours and malformed.
#[inline(always)]
pub fn outer<P: Packet + ?Sized>(packet: &P, settings: &Settings) -> Result<Option<Tunnel>, DropReason> {
    // One bounds check for all four headers; what is shorter cannot be accepted and is looked at piece by piece.
    let Some(OuterHeaders { ethernet, ip, udp, vxlan }) = packet.read(0) else { return cut_short(packet, settings) };
    if ethernet.ethertype.get() != ETHERTYPE_IPV4 || !is_candidate(&ip, settings) {
        return Ok(None);
    }
    if ip.version_ihl != 0x45 {
        return odd_header(packet, settings, &ip);
    }
    if u32::from(udp.destination_port.get()) != settings.port {
        return Ok(None);
    }
    // Ours from here on: every doubt is a drop.
    if ip.is_fragment() {
        return Err(DropReason::OuterFragment);
    }
    let total_len = usize::from(ip.total_len.get());
    let end = ETHERNET_LEN + total_len;
    if total_len < ENCAP_OVERHEAD as usize || usize::from(udp.len.get()) != total_len - IPV4_LEN || packet.len(end) < end {
        return Err(DropReason::OuterLength);
    }
    if checksum::fold(checksum::sum(&ip)) != 0xffff {
        return Err(DropReason::OuterChecksum);
    }
    if ip.ttl == 0 {
        return Err(DropReason::OuterTtl);
    }
    if !vxlan.is_plain() {
        return Err(DropReason::VxlanFlags);
    }
    if vxlan.vni() != settings.vni {
        return Err(DropReason::Vni);
    }
    Ok(Some(Tunnel { source: ip.source, ecn: ip.ecn(), end }))
}

/// What a frame must begin with to be VXLAN without outer options.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, Unaligned)]
struct OuterHeaders {
    ethernet: EthernetHeader,
    ip: Ipv4Header,
    udp: UdpHeader,
    vxlan: VxlanHeader,
}

/// UDP to this node that is not a later fragment, which has no port to tell by.
#[inline(always)]
fn is_candidate(ip: &Ipv4Header, settings: &Settings) -> bool {
    ip.destination == settings.address && ip.protocol == PROTOCOL_UDP && !ip.is_later_fragment()
}

/// A frame that ends before its VXLAN header does: ours if it has our port, and then never accepted.
#[inline(always)]
fn cut_short<P: Packet + ?Sized>(packet: &P, settings: &Settings) -> Result<Option<Tunnel>, DropReason> {
    let Some(ethernet) = packet.read::<EthernetHeader>(0) else { return Ok(None) };
    if ethernet.ethertype.get() != ETHERTYPE_IPV4 {
        return Ok(None);
    }
    let Some(ip) = packet.read::<Ipv4Header>(ETHERNET_LEN) else { return Ok(None) };
    if !is_candidate(&ip, settings) {
        return Ok(None);
    }
    if ip.version_ihl != 0x45 {
        return odd_header(packet, settings, &ip);
    }
    match packet.read::<UdpHeader>(UDP_OFFSET) {
        Some(udp) if u32::from(udp.destination_port.get()) == settings.port => {
            Err(if ip.is_fragment() { DropReason::OuterFragment } else { DropReason::Short })
        }
        _ => Ok(None),
    }
}

/// An outer header with options or a broken first byte: ours if the port says so, and then never accepted.
#[inline(always)]
fn odd_header<P: Packet + ?Sized>(packet: &P, settings: &Settings, ip: &Ipv4Header) -> Result<Option<Tunnel>, DropReason> {
    let broken = ip.version() != 4 || ip.header_len() < IPV4_LEN;
    let offset = if broken { UDP_OFFSET } else { ETHERNET_LEN + ip.header_len() };
    match packet.read::<UdpHeader>(offset) {
        Some(udp) if u32::from(udp.destination_port.get()) == settings.port => {
            Err(if broken { DropReason::OuterHeader } else { DropReason::OuterIpOptions })
        }
        _ => Ok(None),
    }
}

/// The inner frame: Ethernet at `offset`, then IPv4, ending at or before `end`.
///
/// # Errors
/// Anything but a well-formed IPv4 packet in an untagged frame from a MAC that is not ours.
#[inline(always)]
pub fn inner<P: Packet + ?Sized>(packet: &P, offset: usize, end: usize, own_mac: Mac) -> Result<Datagram, DropReason> {
    let Some(ethernet) = packet.read::<EthernetHeader>(offset) else { return Err(DropReason::Short) };
    match ethernet.ethertype.get() {
        ETHERTYPE_IPV4 => {}
        ETHERTYPE_VLAN | ETHERTYPE_QINQ => return Err(DropReason::InnerVlan),
        ETHERTYPE_IPV6 => return Err(DropReason::V6Disabled),
        _ => return Err(DropReason::InnerL2Protocol),
    }
    if ethernet.source[0] & 1 != 0 || ethernet.source == own_mac {
        return Err(DropReason::InnerMac);
    }
    of_peer(packet, offset + ETHERNET_LEN, end)
}

/// The IPv4 packet another node sent for one of our pods, at `offset`, in a tunnel or without.
#[inline(always)]
fn of_peer<P: Packet + ?Sized>(packet: &P, offset: usize, end: usize) -> Result<Datagram, DropReason> {
    let datagram = ipv4(packet, offset, end).map_err(|malformed| match malformed {
        Malformed::Short => DropReason::Short,
        Malformed::Header => DropReason::InnerHeader,
        Malformed::SourceRoute => DropReason::InnerIpOptions,
    })?;
    if datagram.header.ttl == 0 {
        return Err(DropReason::InnerTtl);
    }
    Ok(datagram)
}

/// What a frame says of itself that may have come from another node's pod without a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain {
    /// Who sent it on this link.
    pub mac: Mac,
    /// The pod that claims to have sent it.
    pub source: Ipv4,
    /// Offset where its IP packet claims to end.
    end: usize,
}

/// The frame is for our pod network as it stands. `None`: it is not, and no concern of ours.
#[must_use]
#[inline(always)]
pub fn plain<P: Packet + ?Sized>(packet: &P, settings: &Settings) -> Option<Plain> {
    let PlainHeaders { ethernet, ip } = packet.read(0)?;
    let ours = ethernet.ethertype.get() == ETHERTYPE_IPV4 && contains(settings.pod_net, settings.pod_mask, ip.destination);
    ours.then(|| Plain { mac: ethernet.source, source: ip.source, end: ETHERNET_LEN + usize::from(ip.total_len.get()) })
}

/// What a frame without a tunnel begins with.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, Unaligned)]
struct PlainHeaders {
    ethernet: EthernetHeader,
    ip: Ipv4Header,
}

impl Plain {
    /// The packet, if the node that has `subnet`, where its source is from, sent it itself.
    ///
    /// # Errors
    /// It was another's, or it is malformed.
    #[inline(always)]
    pub fn accept<P: Packet + ?Sized>(&self, packet: &P, subnet: &Subnet) -> Result<Datagram, DropReason> {
        if subnet.node_mac != self.mac || subnet.node_mac == [0; 6] {
            return Err(DropReason::DirectSource);
        }
        of_peer(packet, ETHERNET_LEN, packet.len(self.end))
    }
}

/// An IPv4 header at `offset` in a packet that ends at `end`.
///
/// # Errors
/// [`Malformed`], by RFC 1122 section 3.2.1 and RFC 1812 section 5.2.2; source routes by RFC 7126 section 4.
#[inline(always)]
pub fn ipv4<P: Packet + ?Sized>(packet: &P, offset: usize, end: usize) -> Result<Datagram, Malformed> {
    if end < offset + IPV4_LEN {
        return Err(Malformed::Short);
    }
    let Some(header) = packet.read::<Ipv4Header>(offset) else { return Err(Malformed::Short) };
    let total_len = usize::from(header.total_len.get());
    let header_len = header.header_len();
    if header.version() != 4 || header_len < IPV4_LEN || total_len < header_len || offset + total_len > end {
        return Err(Malformed::Header);
    }
    let mut sum = checksum::sum(&header);
    if header_len > IPV4_LEN {
        match options(packet, offset + IPV4_LEN, header_len - IPV4_LEN) {
            UNREADABLE => return Err(Malformed::Header),
            SOURCE_ROUTE => return Err(Malformed::SourceRoute),
            options => sum += options,
        }
    }
    if checksum::fold(sum) != 0xffff {
        return Err(Malformed::Header);
    }
    Ok(Datagram { header, offset })
}

/// What [`options`] says when the packet ends inside them.
const UNREADABLE: u32 = u32::MAX;
/// What [`options`] says when a loose or strict source route is among them.
const SOURCE_ROUTE: u32 = u32::MAX - 1;

/// Sum of the 16-bit words of the `len` bytes of options at `offset`, or one of the two constants above, which no sum reaches.
/// Malformed options are summed like any: the receiver's stack judges them.
///
/// A real call, and so one plain integer: options are rare, and inlined this loop would take the caller's whole stack of 512 bytes.
#[inline(never)]
fn options<P: Packet + ?Sized>(packet: &P, offset: usize, len: usize) -> u32 {
    const MAX_WORDS: usize = 10;
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    let mut sum = 0;
    let mut skip = 0_u8;
    let mut at_len = false;
    let mut ended = false;
    for word in 0..MAX_WORDS {
        if word * 4 >= len {
            break;
        }
        let Some(bytes) = packet.read::<[u8; 4]>(offset + word * 4) else { return UNREADABLE };
        sum += u32::from(u16::from_be_bytes([bytes[0], bytes[1]])) + u32::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        for byte in bytes {
            if ended {
                break;
            }
            if at_len {
                // The length counts the type and itself.
                skip = byte.saturating_sub(2);
                at_len = false;
            } else if skip > 0 {
                skip -= 1;
            } else {
                match byte {
                    END => ended = true,
                    NO_OPERATION => {}
                    LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return SOURCE_ROUTE,
                    _ => at_len = true,
                }
            }
        }
    }
    sum
}

/// An address that must not be routed: this-network, loopback, multicast, reserved, broadcast (RFC 6890). Link-local is judged by the
/// caller: a pod may use it to talk to its host, the tunnel may not carry it.
#[must_use]
#[inline(always)]
pub const fn is_martian(address: Ipv4) -> bool {
    matches!(address[0], 0 | 127 | 224..=255)
}

/// 169.254.0.0/16 (RFC 3927).
#[must_use]
#[inline(always)]
pub const fn is_link_local(address: Ipv4) -> bool {
    address[0] == 169 && address[1] == 254
}

/// The address lies in the network.
#[must_use]
#[inline(always)]
pub const fn contains(net: Ipv4, mask: Ipv4, address: Ipv4) -> bool {
    u32::from_ne_bytes(address) & u32::from_ne_bytes(mask) == u32::from_ne_bytes(net)
}

impl Datagram {
    /// Offset where the packet ends by its own account.
    #[must_use]
    #[inline(always)]
    pub fn end(&self) -> usize {
        self.offset + usize::from(self.header.total_len.get())
    }

    /// The node at `address` may have sent this: a pod of its own, or itself.
    ///
    /// # Errors
    /// [`DropReason::InnerSourceMismatch`].
    #[inline(always)]
    pub fn check_source(&self, address: Ipv4, node: &Node) -> Result<(), DropReason> {
        let source = self.header.source;
        if contains(node.pod_net, node.pod_mask, source) || source == address { Ok(()) } else { Err(DropReason::InnerSourceMismatch) }
    }

    /// Source and destination port in network order. `None` for protocols without ports and for fragments, first ones too: all
    /// fragments of a datagram have to be treated alike.
    #[must_use]
    #[inline(always)]
    pub fn ports<P: Packet + ?Sized>(&self, packet: &P) -> Option<[[u8; 2]; 2]> {
        if self.header.is_fragment() { None } else { self.leading_ports(packet) }
    }

    /// As [`Self::ports`], but of a first fragment too: what it says holds for the whole datagram.
    #[must_use]
    #[inline(always)]
    pub fn leading_ports<P: Packet + ?Sized>(&self, packet: &P) -> Option<[[u8; 2]; 2]> {
        let has_ports = matches!(self.header.protocol, PROTOCOL_TCP | PROTOCOL_UDP | PROTOCOL_SCTP);
        if !has_ports || self.header.is_later_fragment() { None } else { packet.read(self.offset + self.header.header_len()) }
    }

    /// A TCP segment of a connection that has been opened already; the first one, a SYN without ACK, is none, nor is what cannot be read.
    #[must_use]
    #[inline(always)]
    pub fn continues_tcp<P: Packet + ?Sized>(&self, packet: &P) -> bool {
        /// Offset of TCP's data offset, the flags behind it, and the two that count (RFC 9293 section 3.1).
        const DATA_OFFSET: usize = 12;
        const SYN: u8 = 0x02;
        const ACK: u8 = 0x10;
        self.header.protocol == PROTOCOL_TCP
            && !self.header.is_later_fragment()
            && matches!(packet.read::<[u8; 2]>(self.offset + self.header.header_len() + DATA_OFFSET), Some([_, flags]) if flags & (SYN | ACK) != SYN)
    }

    /// What this packet says about another one, if it is an ICMP error (RFC 1122 section 3.2.2).
    #[must_use]
    #[inline(always)]
    pub fn quote<P: Packet + ?Sized>(&self, packet: &P) -> Quote {
        /// Length of an ICMP error's own header, in front of the quoted packet (RFC 792).
        const ICMP_LEN: usize = 8;
        let icmp = self.offset + self.header.header_len();
        if self.header.protocol != PROTOCOL_ICMP || self.header.is_later_fragment() {
            return Quote::NoError;
        }
        if !matches!(packet.read::<[u8; 2]>(icmp), Some([3 | 4 | 5 | 11 | 12, _])) {
            return Quote::NoError;
        }
        let Some(quoted) = packet.read::<Ipv4Header>(icmp + ICMP_LEN) else { return Quote::Unreadable };
        let mut quote = QuotedSocket { addr: quoted.source, protocol: quoted.protocol, port_be: [0; 2] };
        let has_ports = matches!(quoted.protocol, PROTOCOL_TCP | PROTOCOL_UDP | PROTOCOL_SCTP);
        if has_ports && quoted.version_ihl == 0x45 && !quoted.is_later_fragment() {
            let Some(port_be) = packet.read::<[u8; 2]>(icmp + ICMP_LEN + IPV4_LEN) else { return Quote::Unreadable };
            quote.port_be = port_be;
        }
        Quote::Socket(quote)
    }
}

/// What an ICMP error quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quote {
    /// The packet is no ICMP error.
    NoError,
    /// It is about a packet of this socket.
    Socket(QuotedSocket),
    /// It quotes less than it must.
    Unreadable,
}

/// The sender of a quoted packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotedSocket {
    /// Source address.
    pub addr: Ipv4,
    /// IP protocol number.
    pub protocol: u8,
    /// Source port in network order; zero where there is none, or where it is not at its usual place.
    pub port_be: [u8; 2],
}

/// The header with one hop less to go, checksum to match.
#[must_use]
#[inline(always)]
pub fn one_hop_less(header: &Ipv4Header) -> Ipv4Header {
    let mut next = *header;
    next.ttl = header.ttl.wrapping_sub(1);
    // TTL is the high byte of its word.
    next.checksum = checksum::update(header.checksum.get(), u16::from(header.ttl) << 8, u16::from(next.ttl) << 8).into();
    next
}

/// The header with other ECN bits, checksum to match.
#[must_use]
#[inline(always)]
pub fn with_ecn(header: &Ipv4Header, ecn: u8) -> Ipv4Header {
    let mut next = *header;
    next.tos = (header.tos & !3) | (ecn & 3);
    // The type of service is the low byte of its word.
    next.checksum = checksum::update(header.checksum.get(), u16::from(header.tos), u16::from(next.tos)).into();
    next
}

/// Rewrites the frame for a pod: MACs, one hop less, ECN bits. `header` is the IP header as it was read; the frame now starts with its
/// Ethernet header, directly followed by that IP header.
///
/// # Errors
/// [`DropReason::Short`]: the frame no longer has the header.
#[inline(always)]
pub fn forward<P: Packet + ?Sized>(packet: &mut P, header: &Ipv4Header, destination: Mac, source: Mac, ecn: u8) -> Result<(), DropReason> {
    readdress(packet, &one_hop_less(header), destination, source, ecn)
}

/// Rewrites the frame for a receiver on this node: MACs and ECN bits. As [`forward`], without the hop.
///
/// # Errors
/// [`DropReason::Short`]: the frame no longer has the header.
#[inline(always)]
pub fn readdress<P: Packet + ?Sized>(
    packet: &mut P,
    header: &Ipv4Header,
    destination: Mac,
    source: Mac,
    ecn: u8,
) -> Result<(), DropReason> {
    let ethernet = EthernetHeader { destination, source, ethertype: ETHERTYPE_IPV4.into() };
    packet.write(0, ethernet).and_then(|()| packet.write(ETHERNET_LEN, with_ecn(header, ecn))).ok_or(DropReason::Short)
}
