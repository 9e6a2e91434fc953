//! Rows D1–D18, D31, D33 and D34: what is wrong, or merely odd, about the outer packet.

use overlay_common::reason::DropReason::{
    OuterChecksum, OuterFragment, OuterHeader, OuterIpOptions, OuterLength, OuterSourceUnknown, OuterTtl, Short, Vni, VxlanFlags,
};

use crate::case::{Case, Expect};
use crate::packet::{Eth, Ipv4, MORE_FRAGMENTS, Tunnel, UdpSum, ethertype, pattern, protocol};
use crate::world::{A, A_MAC, B, B_MAC, POD, PORT, STRANGER, VNI, at_pod, from_b, tunnel};

/// Every case of the rows above.
pub(crate) fn cases() -> Vec<Case> {
    [lengths(), ip_header(), addresses(), fragments(), udp(), ethernet(), vxlan(), other_protocols()].into_iter().flatten().collect()
}

/// The good packet of most rows, changed by `edit`.
fn packet(edit: impl FnOnce(&mut Tunnel)) -> Vec<u8> {
    tunnel(&from_b()).edit(edit).bytes()
}

/// The good packet changed by `edit` must be dropped for `reason`.
fn drops(row: &'static str, name: impl Into<String>, reason: overlay_common::reason::DropReason, edit: impl FnOnce(&mut Tunnel)) -> Case {
    Case::new(row, name, packet(edit), Expect::Drop(reason))
}

/// The good packet changed by `edit` must reach the pod as if it had not been changed.
fn delivers(row: &'static str, name: impl Into<String>, edit: impl FnOnce(&mut Tunnel)) -> Case {
    Case::new(row, name, packet(edit), Expect::ToPod(at_pod(POD, &from_b())))
}

/// The good packet changed by `edit` is none of our business.
fn passes(row: &'static str, name: impl Into<String>, edit: impl FnOnce(&mut Tunnel)) -> Case {
    Case::new(row, name, packet(edit), Expect::NotOurs)
}

fn lengths() -> Vec<Case> {
    // Ends of the headers in an untagged packet without options.
    const UDP: usize = 14 + 20 + 8;
    const VXLAN: usize = UDP + 8;

    let good = packet(|_| ());
    let mut cases = vec![delivers("D0", "a good packet reaches the pod", |_| ())];
    for len in 14..good.len() {
        let (expect, what) = match len {
            ..UDP => (Expect::NotOurs, "whose UDP header is not whole passes"),
            UDP..VXLAN => (Expect::Drop(Short), "inside the VXLAN header is dropped"),
            _ => (Expect::Drop(OuterLength), "behind it is dropped"),
        };
        cases.push(Case::new("D1", format!("a frame cut to {len} bytes {what}"), good[..len].to_vec(), expect));
    }

    let ip_len = u16::try_from(good.len() - 14).expect("a small packet");
    for len in [0, 19, 20, 27, 28, 35, 36, 49, ip_len - 1, ip_len + 1, 0xffff] {
        cases.push(drops("D4", format!("total length {len} instead of {ip_len}"), OuterLength, |t| t.ip.total_len = Some(len)));
    }
    for len in [1, 2, 3, 4, 18, 46, 100, 1000] {
        cases.push(delivers("D5", format!("{len} bytes behind the packet never reach the pod"), |t| t.trailer = pattern(len)));
    }
    let udp_len = ip_len - 20;
    for len in [0, 1, 7, 8, 15, 16, 29, udp_len - 1, udp_len + 1, 0xffff] {
        cases.push(drops("D6", format!("UDP length {len} instead of {udp_len}"), OuterLength, |t| t.udp.len = Some(len)));
    }
    cases.push(drops("D6", "a trailer long enough for the UDP length is still no payload", OuterLength, |t| {
        t.udp.len = Some(udp_len + 4);
        t.trailer = vec![0; 4];
    }));

    let whole = tunnel(&from_b());
    let cuts = [
        (0, "not even a VXLAN header", Short),
        (7, "a cut VXLAN header", Short),
        (8, "VXLAN and nothing in it", OuterLength),
        (9, "one byte of an inner frame", OuterLength),
        (21, "a cut inner Ethernet header", OuterLength),
        (22, "an inner Ethernet header alone", Short),
        (23, "one byte of inner IP", Short),
        (41, "a cut inner IP header", Short),
    ];
    for (len, what, reason) in cuts {
        cases.push(Case::new("D31", what, whole.with_payload_cut_to(len), Expect::Drop(reason)));
        let padded = whole.clone().edit(|t| t.trailer = vec![0; 60]).with_payload_cut_to(len);
        // With padding behind it, a cut VXLAN header can be read and its length is what is wrong.
        let reason = if len < 8 { OuterLength } else { reason };
        cases.push(Case::new("D31", format!("{what}, padded"), padded, Expect::Drop(reason)));
    }
    for len in [1, 100, 1400, 1472, 3300, 5000, 8800] {
        let inner = Ipv4::udp(from_b().src, POD.addr, &pattern(len));
        let expect = Expect::ToPod(at_pod(POD, &inner));
        cases.push(Case::new("D31", format!("a payload of {len} bytes arrives whole"), tunnel(&inner).bytes(), expect));
    }
    cases
}

fn ip_header() -> Vec<Case> {
    let mut cases = Vec::new();
    for version in (0..16).filter(|&version| version != 4) {
        cases.push(drops("D2", format!("version {version}"), OuterHeader, |t| t.ip.version = version));
    }
    for ihl in 0..5 {
        cases.push(drops("D2", format!("header length {} bytes", ihl * 4), OuterHeader, |t| t.ip.ihl = Some(ihl)));
    }
    let cut = packet(|t| t.ip.ihl = Some(15))[..60].to_vec();
    cases.push(Case::new("D2", "a header longer than the frame passes: its port cannot be read", cut, Expect::NotOurs));

    for words in 1..=10u8 {
        let options = vec![1; usize::from(words) * 4];
        cases.push(drops("D3", format!("{} bytes of no-operation options", words * 4), OuterIpOptions, |t| t.ip.options = options));
    }
    let options: [(&str, &[u8]); 5] = [
        ("record route", &[7, 7, 4, 0, 0, 0, 0]),
        ("timestamp", &[68, 8, 5, 0, 0, 0, 0, 0]),
        ("loose source route", &[131, 7, 4, 10, 0, 0, 1]),
        ("strict source route", &[137, 7, 4, 10, 0, 0, 1]),
        ("router alert", &[148, 4, 0, 0]),
    ];
    for (name, bytes) in options {
        cases.push(drops("D3", name, OuterIpOptions, |t| t.ip.options = bytes.to_vec()));
    }

    let right = u16::from_be_bytes(packet(|_| ())[24..26].try_into().expect("two bytes"));
    for (name, sum) in [("off by one", right.wrapping_add(1)), ("complemented", !right), ("zero", 0), ("all ones", 0xffff)] {
        cases.push(drops("D7", format!("outer checksum {name}"), OuterChecksum, |t| t.ip.checksum = Some(sum)));
    }

    cases.push(drops("D14", "outer TTL 0", OuterTtl, |t| t.ip.ttl = 0));
    cases.push(delivers("D14", "outer TTL 1: we are the destination", |t| t.ip.ttl = 1));
    cases.push(delivers("D14", "outer TTL 255", |t| t.ip.ttl = 255));
    cases.push(delivers("D14", "outer DSCP does not reach the pod", |t| t.ip.tos = 0xb8));
    cases.push(delivers("D14", "an outer packet that may be fragmented but is not", |t| t.ip.fragment = 0));
    cases
}

fn addresses() -> Vec<Case> {
    let mut cases = Vec::new();
    let others = [
        ("another host", B),
        ("the broadcast address", [255; 4]),
        ("the subnet's broadcast address", [192, 168, 50, 255]),
        ("a multicast group", [239, 1, 1, 1]),
        ("the gateway address", crate::world::A_GATEWAY),
        ("a pod", POD.addr),
        ("loopback", [127, 0, 0, 1]),
    ];
    for (name, dst) in others {
        cases.push(passes("D10", format!("to {name}"), |t| t.ip.dst = dst));
    }
    for (name, mac) in [("another host's", B_MAC), ("the broadcast", [0xff; 6]), ("a multicast", [0x01, 0, 0x5e, 0, 0, 1])] {
        cases.push(passes("D10", format!("to our address by {name} MAC"), |t| t.eth.dst = mac));
    }
    let sources = [
        ("a stranger", STRANGER),
        ("ourselves", A),
        ("0.0.0.0", [0; 4]),
        ("0/8", [0, 1, 2, 3]),
        ("loopback", [127, 0, 0, 1]),
        ("a multicast group", [224, 0, 0, 1]),
        ("the broadcast address", [255; 4]),
        ("a pod of the node", from_b().src),
        ("our gateway address", crate::world::A_GATEWAY),
        ("a node with a subnet but no entry", crate::world::E),
    ];
    for (name, src) in sources {
        cases.push(drops("D12", format!("from {name}"), OuterSourceUnknown, |t| t.ip.src = src));
    }
    cases
}

fn fragments() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, fragment) in [("the first fragment", MORE_FRAGMENTS), ("the first fragment although DF is set", MORE_FRAGMENTS | 0x4000)] {
        cases.push(drops("D13", name, OuterFragment, |t| t.ip.fragment = fragment));
    }
    let tiny = Tunnel { ip: Ipv4 { fragment: MORE_FRAGMENTS, ..tunnel(&from_b()).ip }, ..tunnel(&from_b()) }.with_payload_cut_to(0);
    cases.push(Case::new("D13", "a first fragment of the UDP header alone", tiny, Expect::Drop(OuterFragment)));
    let later = [
        ("a middle fragment", MORE_FRAGMENTS | 0x00b9),
        ("the last fragment", 0x00b9),
        ("a fragment that overlaps the first", 0x0001),
        ("a fragment that ends beyond 65535 bytes", 0x1fff),
    ];
    for (name, fragment) in later {
        cases.push(passes("D13", format!("{name} passes: it has no port"), |t| t.ip.fragment = fragment));
    }
    cases.push(delivers("D13", "the reserved flag does not make a fragment", |t| t.ip.fragment = 0x8000));
    cases
}

fn udp() -> Vec<Case> {
    let mut cases = vec![
        delivers("D8", "UDP checksum zero", |t| t.udp.sum = UdpSum::Absent),
        delivers("D9", "a right UDP checksum", |t| t.udp.sum = UdpSum::Right),
        delivers("D9", "a wrong UDP checksum: not looked at, the inner packet has its own", |t| t.udp.sum = UdpSum::Fixed(0xdead)),
    ];
    for port in [0, 53, 4789, 6081, PORT - 1, PORT + 1, PORT.swap_bytes(), 0xffff] {
        cases.push(passes("D11", format!("to UDP port {port}"), |t| t.udp.dst = port));
    }
    cases.push(passes("D11", "from our port to another one", |t| (t.udp.src, t.udp.dst) = (PORT, 40_000)));
    for port in [0, 1, PORT, 49_151, 65_535] {
        cases.push(delivers("D11", format!("UDP source port {port} does not matter"), |t| t.udp.src = port));
    }
    cases
}

fn ethernet() -> Vec<Case> {
    let tags: [(&str, &[(u16, u16)]); 5] = [
        ("802.1Q", &[(ethertype::VLAN, 100)]),
        ("a priority tag", &[(ethertype::VLAN, 0xe000)]),
        ("802.1ad", &[(ethertype::QINQ, 100)]),
        ("802.1ad and 802.1Q", &[(ethertype::QINQ, 100), (ethertype::VLAN, 200)]),
        ("802.1Q twice", &[(ethertype::VLAN, 100), (ethertype::VLAN, 200)]),
    ];
    tags.into_iter().map(|(name, tags)| passes("D15", format!("tagged with {name}"), |t| t.eth.tags = tags.to_vec())).collect()
}

fn vxlan() -> Vec<Case> {
    let mut cases = vec![drops("D16", "no I flag", VxlanFlags, |t| t.vxlan.flags = 0)];
    for bit in (0..8).filter(|&bit| bit != 3) {
        cases.push(drops("D16", format!("flag {:#04x} set", 1 << bit), VxlanFlags, |t| t.vxlan.flags |= 1 << bit));
    }
    for bit in 0..24usize {
        cases.push(drops("D16", format!("bit {bit} of the first reserved field set"), VxlanFlags, |t| {
            t.vxlan.reserved[bit / 8] |= 0x80 >> (bit % 8);
        }));
    }
    for bit in 0..8 {
        cases.push(drops("D16", format!("bit {bit} of the last reserved field set"), VxlanFlags, |t| t.vxlan.reserved_last = 0x80 >> bit));
    }
    let swapped = VNI.swap_bytes() >> 8;
    for vni in [VNI - 1, VNI + 1, 0x00_0100, 0xff_ffff, swapped] {
        let [_, bytes @ ..] = vni.to_be_bytes();
        cases.push(drops("D17", format!("VNI {vni:#08x}"), Vni, |t| t.vxlan.vni = bytes));
    }
    cases.extend([
        drops("D18", "a group policy header", VxlanFlags, |t| {
            t.vxlan.flags = 0x88;
            t.vxlan.reserved = [0, 0x01, 0x23];
        }),
        drops("D18", "a generic protocol extension header", VxlanFlags, |t| {
            t.vxlan.flags = 0x0c;
            t.vxlan.reserved[2] = 3;
        }),
        drops("D18", "remote checksum offload", VxlanFlags, |t| {
            t.vxlan.flags = 0x08;
            t.vxlan.reserved[0] = 0x20;
            t.vxlan.reserved_last = 0x86;
        }),
        drops("D18", "Geneve on our port", VxlanFlags, |t| {
            t.vxlan.flags = 0;
            t.vxlan.reserved = [0, 0x65, 0x58];
        }),
    ]);
    cases
}

fn other_protocols() -> Vec<Case> {
    let good = packet(|_| ());
    let mut cases = Vec::new();
    for (name, protocol) in [("TCP", protocol::TCP), ("SCTP", protocol::SCTP), ("IP in IP", protocol::IPIP), ("UDP-Lite", 136)] {
        cases.push(passes("D11", format!("the same bytes as {name}"), |t| t.ip.protocol = protocol));
    }

    // A minimal IPv6 header in front of the same UDP datagram: next header UDP, hop limit 64, to fd00::1.
    let udp = &good[34..];
    let mut v6 = vec![0x60, 0, 0, 0];
    v6.extend(u16::try_from(udp.len()).expect("a small packet").to_be_bytes());
    v6.extend([protocol::UDP, 64]);
    v6.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    v6.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    v6.extend(udp);
    let eth = Eth { ethertype: ethertype::IPV6, ..Eth::ipv4(A_MAC, B_MAC) };
    cases.push(Case::new("D33", "VXLAN over IPv6 passes: the underlay is IPv4", eth.frame(&v6), Expect::NotOurs));
    cases.push(Case::new("D33", "IPv4 in a frame that says IPv6 passes", eth.frame(&good[14..]), Expect::NotOurs));
    for ethertype in [ethertype::ARP, 0x88cc, 0x888e, 0x0026, 0xffff] {
        cases.push(passes("D33", format!("ethertype {ethertype:#06x} passes"), |t| t.eth.ethertype = ethertype));
    }

    let quoted = &tunnel(&from_b()).edit(|t| (t.ip.src, t.ip.dst) = (A, B)).bytes()[14..14 + 28];
    for (name, kind, code) in [("fragmentation needed", 3, 4), ("port unreachable", 3, 3), ("time exceeded", 11, 0)] {
        let icmp = icmp_error(kind, code, quoted);
        for (who, src) in [("the router", crate::world::ROUTER), ("the peer", B), ("a stranger", STRANGER)] {
            let ip = Ipv4::new(src, A, protocol::ICMP, icmp.clone());
            let frame = Eth::ipv4(A_MAC, B_MAC).frame(&ip.bytes());
            cases.push(Case::new("D34", format!("{name} from {who} about our tunnel goes to the stack"), frame, Expect::NotOurs));
        }
    }
    cases
}

/// An ICMP error (RFC 792) that quotes `packet`.
pub(crate) fn icmp_error(kind: u8, code: u8, packet: &[u8]) -> Vec<u8> {
    let mut icmp = vec![kind, code, 0, 0, 0, 0, 0x05, 0x78];
    icmp.extend(packet);
    let sum = crate::packet::checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    icmp
}
