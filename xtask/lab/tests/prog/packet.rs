//! Packets as the tests mean them: named fields, with lengths and checksums that are right unless a row overrides them.
//!
//! Written from the RFCs and sharing no line with `overlay-common`: the bytes a program must put out are built here, so a mistake in the
//! project's own header code cannot hide in the expectation. Pure: bytes in, bytes out.

/// A MAC address.
pub(crate) type Mac = [u8; 6];
/// An IPv4 address.
pub(crate) type Addr = [u8; 4];

/// Ethertypes the rows use.
pub(crate) mod ethertype {
    pub(crate) const IPV4: u16 = 0x0800;
    pub(crate) const ARP: u16 = 0x0806;
    pub(crate) const VLAN: u16 = 0x8100;
    pub(crate) const IPV6: u16 = 0x86dd;
    pub(crate) const QINQ: u16 = 0x88a8;
}

/// IP protocol numbers the rows use.
pub(crate) mod protocol {
    pub(crate) const ICMP: u8 = 1;
    pub(crate) const IPIP: u8 = 4;
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    pub(crate) const SCTP: u8 = 132;
}

/// "More fragments" in [`Ipv4::fragment`].
pub(crate) const MORE_FRAGMENTS: u16 = 0x2000;
/// "Don't fragment" in [`Ipv4::fragment`].
pub(crate) const DONT_FRAGMENT: u16 = 0x4000;

/// The Internet checksum of RFC 1071: the one's complement sum of 16-bit words, complemented.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

/// `len` bytes that repeat only after 251: a shifted or cut copy does not look right by accident.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i % 251).expect("below 251")).collect()
}

fn length(len: usize) -> u16 {
    u16::try_from(len).expect("the rows build no packet of 64 KiB")
}

/// An Ethernet header.
#[derive(Clone)]
pub(crate) struct Eth {
    pub(crate) dst: Mac,
    pub(crate) src: Mac,
    /// VLAN tags between the addresses and the ethertype: (tag protocol, tag control information).
    pub(crate) tags: Vec<(u16, u16)>,
    pub(crate) ethertype: u16,
}

impl Eth {
    pub(crate) fn ipv4(dst: Mac, src: Mac) -> Self {
        Self { dst, src, tags: Vec::new(), ethertype: ethertype::IPV4 }
    }

    /// The header and `payload` behind it.
    pub(crate) fn frame(&self, payload: &[u8]) -> Vec<u8> {
        let mut out = [self.dst, self.src].concat();
        for (protocol, control) in &self.tags {
            out.extend(protocol.to_be_bytes());
            out.extend(control.to_be_bytes());
        }
        out.extend(self.ethertype.to_be_bytes());
        out.extend(payload);
        out
    }
}

/// An IPv4 packet (RFC 791).
#[derive(Clone)]
pub(crate) struct Ipv4 {
    pub(crate) version: u8,
    /// Header length in 32-bit words, where it is not that of the options.
    pub(crate) ihl: Option<u8>,
    pub(crate) tos: u8,
    /// Total length, where it is not that of header and payload.
    pub(crate) total_len: Option<u16>,
    pub(crate) id: u16,
    /// Flags and fragment offset as on the wire: offset in units of 8 bytes.
    pub(crate) fragment: u16,
    pub(crate) ttl: u8,
    pub(crate) protocol: u8,
    /// Header checksum, where it is not the right one.
    pub(crate) checksum: Option<u16>,
    pub(crate) src: Addr,
    pub(crate) dst: Addr,
    /// Options, padded to a multiple of four bytes by [`Ipv4::bytes`] with end-of-list zeros.
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Ipv4 {
    pub(crate) fn new(src: Addr, dst: Addr, protocol: u8, payload: Vec<u8>) -> Self {
        Self {
            version: 4,
            ihl: None,
            tos: 0,
            total_len: None,
            id: 0x1234,
            fragment: 0,
            ttl: 64,
            protocol,
            checksum: None,
            src,
            dst,
            options: Vec::new(),
            payload,
        }
    }

    /// A UDP datagram from port 40000 to port 53 with a right checksum.
    pub(crate) fn udp(src: Addr, dst: Addr, payload: &[u8]) -> Self {
        Self::udp_ports(src, dst, (40_000, 53), payload)
    }

    /// A UDP datagram between `ports` (source, destination) with a right checksum.
    pub(crate) fn udp_ports(src: Addr, dst: Addr, ports: (u16, u16), payload: &[u8]) -> Self {
        let udp = Udp { sum: UdpSum::Right, ..Udp::new(ports.0, ports.1) };
        Self::new(src, dst, protocol::UDP, udp.datagram(src, dst, payload))
    }

    /// The same packet after `change`.
    pub(crate) fn edit(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The same packet with other options.
    pub(crate) fn options(self, options: &[u8]) -> Self {
        self.edit(|ip| ip.options = options.to_vec())
    }

    /// The same packet as a router sends it on: TTL one lower.
    pub(crate) fn routed(self) -> Self {
        self.edit(|ip| ip.ttl -= 1)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        let header_len = 20 + options.len();
        let ihl = self.ihl.unwrap_or_else(|| u8::try_from(header_len / 4).expect("a header of rows has at most 60 bytes"));
        let total_len = self.total_len.unwrap_or_else(|| length(header_len + self.payload.len()));

        let mut header = vec![self.version << 4 | ihl & 0x0f, self.tos];
        header.extend(total_len.to_be_bytes());
        header.extend(self.id.to_be_bytes());
        header.extend(self.fragment.to_be_bytes());
        header.extend([self.ttl, self.protocol, 0, 0]);
        header.extend(self.src);
        header.extend(self.dst);
        header.extend(&options);
        let sum = self.checksum.unwrap_or_else(|| checksum(&header));
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header.extend(&self.payload);
        header
    }
}

/// What the UDP checksum field holds.
#[derive(Clone, Copy)]
pub(crate) enum UdpSum {
    /// Zero: the sender did not compute one.
    Absent,
    /// The right one over pseudo header, header and payload.
    Right,
    /// This value.
    Fixed(u16),
}

/// A UDP header (RFC 768).
#[derive(Clone)]
pub(crate) struct Udp {
    pub(crate) src: u16,
    pub(crate) dst: u16,
    /// Length, where it is not that of header and payload.
    pub(crate) len: Option<u16>,
    pub(crate) sum: UdpSum,
}

impl Udp {
    pub(crate) fn new(src: u16, dst: u16) -> Self {
        Self { src, dst, len: None, sum: UdpSum::Absent }
    }

    /// Header and payload; the addresses are those of the pseudo header.
    pub(crate) fn datagram(&self, src: Addr, dst: Addr, payload: &[u8]) -> Vec<u8> {
        let len = self.len.unwrap_or_else(|| length(8 + payload.len()));
        let mut out = self.src.to_be_bytes().to_vec();
        out.extend(self.dst.to_be_bytes());
        out.extend(len.to_be_bytes());
        out.extend([0, 0]);
        out.extend(payload);
        let sum = match self.sum {
            UdpSum::Absent => 0,
            UdpSum::Fixed(sum) => sum,
            UdpSum::Right => {
                let pseudo = [&src[..], &dst, &[0, protocol::UDP], &len.to_be_bytes(), &out].concat();
                match checksum(&pseudo) {
                    0 => 0xffff,
                    sum => sum,
                }
            }
        };
        out[6..8].copy_from_slice(&sum.to_be_bytes());
        out
    }
}

/// A VXLAN header (RFC 7348 section 5).
#[derive(Clone)]
pub(crate) struct Vxlan {
    pub(crate) flags: u8,
    /// The 24 reserved bits between flags and VNI.
    pub(crate) reserved: [u8; 3],
    pub(crate) vni: [u8; 3],
    /// The 8 reserved bits behind the VNI.
    pub(crate) reserved_last: u8,
}

impl Vxlan {
    pub(crate) fn new(vni: u32) -> Self {
        let [_, vni @ ..] = vni.to_be_bytes();
        Self { flags: 0x08, reserved: [0; 3], vni, reserved_last: 0 }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        [&[self.flags][..], &self.reserved, &self.vni, &[self.reserved_last]].concat()
    }
}

/// A whole VXLAN packet as it arrives on the underlay.
#[derive(Clone)]
pub(crate) struct Tunnel {
    pub(crate) eth: Eth,
    /// Outer IP; its payload is built from the layers below.
    pub(crate) ip: Ipv4,
    pub(crate) udp: Udp,
    pub(crate) vxlan: Vxlan,
    pub(crate) inner_eth: Eth,
    /// What follows the inner Ethernet header.
    pub(crate) inner: Vec<u8>,
    /// Bytes behind the end of the outer IP packet, as Ethernet padding leaves them.
    pub(crate) trailer: Vec<u8>,
}

impl Tunnel {
    /// The same packet after `change`.
    pub(crate) fn edit(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// UDP payload: the VXLAN header and the inner frame.
    fn vxlan_payload(&self) -> Vec<u8> {
        [self.vxlan.bytes(), self.inner_eth.frame(&self.inner)].concat()
    }

    /// The frame, cut after `len` bytes of UDP payload; every length field agrees with the cut.
    pub(crate) fn with_payload_cut_to(&self, len: usize) -> Vec<u8> {
        self.frame_with(&self.vxlan_payload()[..len])
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.frame_with(&self.vxlan_payload())
    }

    fn frame_with(&self, udp_payload: &[u8]) -> Vec<u8> {
        let payload = self.udp.datagram(self.ip.src, self.ip.dst, udp_payload);
        let mut frame = self.eth.frame(&Ipv4 { payload, ..self.ip.clone() }.bytes());
        frame.extend(&self.trailer);
        frame
    }
}

/// An ARP packet for IPv4 over Ethernet (RFC 826), without its Ethernet header.
pub(crate) struct Arp {
    /// 1 request, 2 reply.
    pub(crate) operation: u16,
    pub(crate) sender: (Mac, Addr),
    pub(crate) target: (Mac, Addr),
}

impl Arp {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = vec![0, 1, 8, 0, 6, 4];
        out.extend(self.operation.to_be_bytes());
        for (mac, addr) in [self.sender, self.target] {
            out.extend(mac);
            out.extend(addr);
        }
        out
    }
}
