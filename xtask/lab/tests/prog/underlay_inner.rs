//! Rows D19–D25 and D28–D30: what is wrong, or merely odd, about the packet inside the tunnel. Its addresses are in `underlay_inner_addresses`.

use overlay_common::reason::DropReason::{
    self, Ecn, InnerHeader, InnerIpOptions, InnerL2Protocol, InnerMac, InnerNotLocal, InnerTtl, InnerVlan, V6Disabled,
};

use crate::case::{Case, Expect};
use crate::packet::{Arp, DONT_FRAGMENT, Ipv4, MORE_FRAGMENTS, ethertype, pattern, protocol};
use crate::world::{A, A_VTEP, B, B_POD, B_VTEP, POD, at_pod, from_b, tunnel, tunnel_of};

/// Every case of the rows above.
pub(crate) fn cases() -> Vec<Case> {
    [ethernet(), ip_header(), options(), fragments(), ttl(), ipv6(), nested(), ecn()].into_iter().flatten().collect()
}

/// `inner` from B must be dropped for `reason`.
pub(crate) fn drops(row: &'static str, name: impl Into<String>, reason: DropReason, inner: &Ipv4) -> Case {
    Case::new(row, name, tunnel(inner).bytes(), Expect::Drop(reason))
}

/// `inner` from B must reach the pod, one hop further and otherwise byte for byte.
pub(crate) fn delivers(row: &'static str, name: impl Into<String>, inner: &Ipv4) -> Case {
    Case::new(row, name, tunnel(inner).bytes(), Expect::ToPod(at_pod(POD, inner)))
}

/// `inner` from B must reach this host's stack byte for byte.
pub(crate) fn to_stack(row: &'static str, name: impl Into<String>, inner: &Ipv4) -> Case {
    Case::new(row, name, tunnel(inner).bytes(), Expect::ToHost(inner.bytes()))
}

fn ethernet() -> Vec<Case> {
    let mut cases = Vec::new();
    let frame = |ethertype: u16, payload: Vec<u8>| tunnel_of(payload).edit(|t| t.inner_eth.ethertype = ethertype);
    let arp = |operation, sender_addr, target_addr| {
        let arp = Arp { operation, sender: (B_VTEP, sender_addr), target: ([0; 6], target_addr) };
        frame(ethertype::ARP, arp.bytes())
    };
    let others = [
        ("an ARP request", arp(1, B_POD, POD.addr)),
        ("an ARP reply", arp(2, B_POD, POD.addr)),
        ("a gratuitous ARP", arp(1, POD.addr, POD.addr)),
        ("RARP", frame(0x8035, pattern(46))),
        ("LLDP", frame(0x88cc, pattern(46))),
        ("EAPOL", frame(0x888e, pattern(46))),
        ("an 802.3 length instead of an ethertype", frame(46, pattern(46))),
        ("PPPoE discovery", frame(0x8863, pattern(46))),
        ("PPPoE", frame(0x8864, pattern(46))),
        ("MPLS", frame(0x8847, pattern(46))),
        ("transparent Ethernet bridging", frame(0x6558, pattern(46))),
        ("ethertype 0", frame(0, pattern(46))),
        ("ethertype 0xffff", frame(0xffff, pattern(46))),
        ("IPv4 with a swapped ethertype", frame(0x0008, from_b().bytes())),
        ("one byte of ARP", frame(ethertype::ARP, vec![0])),
    ];
    for (name, tunnel) in others {
        cases.push(Case::new("D19", format!("inner frame is {name}"), tunnel.bytes(), Expect::Drop(InnerL2Protocol)));
    }

    let tags: [(&str, &[(u16, u16)]); 4] = [
        ("802.1Q", &[(ethertype::VLAN, 1)]),
        ("a priority tag", &[(ethertype::VLAN, 0xe000)]),
        ("802.1ad", &[(ethertype::QINQ, 1)]),
        ("802.1ad and 802.1Q", &[(ethertype::QINQ, 1), (ethertype::VLAN, 2)]),
    ];
    for (name, tags) in tags {
        let packet = tunnel(&from_b()).edit(|t| t.inner_eth.tags = tags.to_vec());
        cases.push(Case::new("D20", format!("inner frame tagged with {name}"), packet.bytes(), Expect::Drop(InnerVlan)));
    }

    let destinations = [
        ("broadcast", [0xff; 6]),
        ("multicast", [0x01, 0, 0x5e, 0, 0, 1]),
        ("another node's", B_VTEP),
        ("zero", [0; 6]),
        ("the pod's own", POD.mac),
    ];
    for (name, mac) in destinations {
        let packet = tunnel(&from_b()).edit(|t| t.inner_eth.dst = mac);
        let name = format!("inner destination MAC is {name}: replaced, so it does not matter");
        cases.push(Case::new("D21", name, packet.bytes(), Expect::ToPod(at_pod(POD, &from_b()))));
    }
    for (name, mac) in [("zero", [0; 6]), ("the pod's", POD.mac), ("another node's", [0x0e, 0x4f, 1, 2, 3, 4])] {
        let packet = tunnel(&from_b()).edit(|t| t.inner_eth.src = mac);
        let name = format!("inner source MAC is {name}: replaced, so it does not matter");
        cases.push(Case::new("D21", name, packet.bytes(), Expect::ToPod(at_pod(POD, &from_b()))));
    }
    for (name, mac) in [("multicast", [0x01, 0, 0x5e, 0, 0, 1]), ("broadcast", [0xff; 6]), ("our own", A_VTEP)] {
        let packet = tunnel(&from_b()).edit(|t| t.inner_eth.src = mac);
        cases.push(Case::new("D21", format!("inner source MAC is {name}"), packet.bytes(), Expect::Drop(InnerMac)));
    }
    cases
}

fn ip_header() -> Vec<Case> {
    let mut cases = Vec::new();
    for version in (0..16).filter(|&version| version != 4) {
        let inner = from_b().edit(|ip| ip.version = version);
        cases.push(drops("D22", format!("inner version {version} in an IPv4 frame"), InnerHeader, &inner));
    }
    for ihl in 0..5 {
        cases.push(drops("D22", format!("inner header length {}", ihl * 4), InnerHeader, &from_b().edit(|ip| ip.ihl = Some(ihl))));
    }
    cases.push(drops("D22", "inner header longer than the packet", InnerHeader, &from_b().edit(|ip| ip.ihl = Some(15))));
    let len = u16::try_from(from_b().bytes().len()).expect("a small packet");
    for total_len in [0, 1, 19, len + 1, len + 4, 0xffff] {
        let inner = from_b().edit(|ip| ip.total_len = Some(total_len));
        cases.push(drops("D22", format!("inner total length {total_len} instead of {len}"), InnerHeader, &inner));
    }
    let short = from_b().options(&[1; 8]).edit(|ip| ip.total_len = Some(27));
    cases.push(drops("D22", "inner total length inside the options", InnerHeader, &short));

    let right = u16::from_be_bytes(from_b().bytes()[10..12].try_into().expect("two bytes"));
    for (name, sum) in [("off by one", right.wrapping_add(1)), ("complemented", !right), ("zero", 0), ("all ones", 0xffff)] {
        cases.push(drops("D22", format!("inner checksum {name}"), InnerHeader, &from_b().edit(|ip| ip.checksum = Some(sum))));
    }

    for len in [1, 6, 18, 200] {
        let mut padded = from_b().bytes();
        padded.extend(pattern(len));
        let name = format!("{len} bytes behind the inner packet never reach the pod");
        cases.push(Case::new("D5", name, tunnel_of(padded).bytes(), Expect::ToPod(at_pod(POD, &from_b()))));
    }
    let header_alone = Ipv4::new(B_POD, POD.addr, protocol::UDP, Vec::new());
    cases.push(delivers("D22", "an inner header without payload arrives", &header_alone));
    for protocol in [0, protocol::ICMP, protocol::IPIP, protocol::TCP, 41, 47, 50, protocol::SCTP, 255] {
        let inner = Ipv4::new(B_POD, POD.addr, protocol, pattern(32));
        // An ICMP error is handed to the host's stack; these bytes begin with type 0, an echo reply.
        cases.push(delivers("D22", format!("inner protocol {protocol} is payload"), &inner));
    }
    for tos in [0x04, 0x28, 0xb8, 0xfc] {
        cases.push(delivers("D22", format!("inner DSCP {:#04x} stays", tos >> 2), &from_b().edit(|ip| ip.tos = tos)));
    }
    cases.push(delivers("D22", "inner DF and identification stay", &from_b().edit(|ip| (ip.fragment, ip.id) = (DONT_FRAGMENT, 0xffff))));
    // Every value of the checksum's two halves is passed through by counting the identification up: the update of RFC 1624 must carry right.
    for id in (0..=0xffff).step_by(0x0101) {
        cases.push(delivers("D25", format!("TTL and checksum are right for identification {id:#06x}"), &from_b().edit(|ip| ip.id = id)));
    }
    cases
}

fn options() -> Vec<Case> {
    let harmless: [(&str, &[u8]); 7] = [
        ("no operation", &[1, 1, 1, 1]),
        ("record route", &[7, 7, 4, 0, 0, 0, 0]),
        ("timestamp", &[68, 8, 5, 0, 0, 0, 0, 0]),
        ("router alert", &[148, 4, 0, 0]),
        ("an unknown option", &[30, 4, 1, 2]),
        ("end of list in front of what looks like a source route", &[0, 131, 7, 4]),
        ("a source route type inside another option's data", &[68, 8, 5, 0, 131, 7, 4, 137]),
    ];
    let mut cases: Vec<Case> =
        harmless.iter().map(|(name, bytes)| delivers("D23", format!("{name} stays"), &from_b().options(bytes))).collect();
    cases.push(delivers("D23", "40 bytes of options stay", &from_b().options(&[1; 40])));

    let routes: [(&str, &[u8]); 5] = [
        ("loose source route", &[131, 7, 4, 10, 0, 0, 1]),
        ("strict source route", &[137, 7, 4, 10, 0, 0, 1]),
        ("loose source route behind 33 no-operations", &[1; 40]),
        ("strict source route behind record route", &[7, 7, 4, 0, 0, 0, 0, 137, 7, 4, 10, 0, 0, 1]),
        ("an exhausted source route", &[131, 7, 8, 10, 0, 0, 1]),
    ];
    for (name, bytes) in routes {
        let mut bytes = bytes.to_vec();
        if name.contains("33") {
            bytes[33..].copy_from_slice(&[131, 7, 4, 10, 0, 0, 1]);
        }
        cases.push(drops("D23", name, InnerIpOptions, &from_b().options(&bytes)));
    }
    let broken: [(&str, &[u8]); 3] = [
        ("an option of length 0", &[7, 0, 0, 0]),
        ("an option of length 1", &[7, 1, 0, 0]),
        ("an option longer than the header", &[7, 200, 4, 0]),
    ];
    for (name, bytes) in broken {
        cases.push(delivers("D23", format!("{name} is for the receiver's stack to judge"), &from_b().options(bytes)));
    }
    for (name, bytes) in [("of length 0", &[7, 0, 131, 3, 4, 0, 0, 0][..]), ("of length 1", &[7, 1, 137, 3, 4, 0, 0, 0])] {
        cases.push(drops("D23", format!("a source route behind an option {name}"), InnerIpOptions, &from_b().options(bytes)));
    }
    cases
}

fn fragments() -> Vec<Case> {
    let fragments = [
        ("the first fragment", MORE_FRAGMENTS, 64),
        ("a middle fragment", MORE_FRAGMENTS | 0x00b9, 64),
        ("the last fragment", 0x00b9, 13),
        ("a tiny first fragment", MORE_FRAGMENTS, 8),
        ("a fragment that overlaps the first", 0x0001, 64),
        ("a fragment that ends beyond 65535 bytes", 0x1fff, 64),
        ("a fragment without payload", MORE_FRAGMENTS | 0x0001, 0),
    ];
    let fragment = |protocol, fragment, len| Ipv4::new(B_POD, POD.addr, protocol, pattern(len)).edit(|ip| ip.fragment = fragment);
    let mut cases = Vec::new();
    for (name, bits, len) in fragments {
        for (proto, protocol) in [("UDP", protocol::UDP), ("TCP", protocol::TCP), ("ICMP", protocol::ICMP)] {
            cases.push(delivers("D24", format!("{name} of {proto} arrives unchanged"), &fragment(protocol, bits, len)));
        }
    }
    cases
}

fn ttl() -> Vec<Case> {
    let with = |ttl| from_b().edit(|ip| ip.ttl = ttl);
    let mut cases = vec![
        drops("D25", "inner TTL 0", InnerTtl, &with(0)),
        to_stack("D25", "inner TTL 1 goes to the stack, which answers time exceeded", &with(1)),
    ];
    cases.extend([2, 3, 64, 128, 255].map(|ttl| delivers("D25", format!("inner TTL {ttl} arrives one lower"), &with(ttl))));
    cases
}

fn ipv6() -> Vec<Case> {
    let v6 = |next_header: u8, hop_limit: u8, src: [u8; 16], payload: &[u8]| {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(u16::try_from(payload.len()).expect("a small packet").to_be_bytes());
        packet.extend([next_header, hop_limit]);
        packet.extend(src);
        packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend(payload);
        packet
    };
    let pod = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    let link_local = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 244, 2, 20];
    let rows = [
        ("UDP", v6(17, 64, pod, &pattern(32))),
        ("a hop-by-hop header", v6(0, 64, pod, &[17, 0, 1, 4, 0, 0, 0, 0])),
        ("a jumbogram", v6(0, 64, pod, &[17, 0, 0xc2, 4, 0, 1, 0, 0])),
        ("routing header 0", v6(43, 64, pod, &[17, 2, 0, 1, 0, 0, 0, 0])),
        ("hop limit 0", v6(17, 0, pod, &pattern(32))),
        ("hop limit 1", v6(17, 1, pod, &pattern(32))),
        ("a mapped IPv4 source", v6(17, 64, mapped, &pattern(32))),
        ("a link-local source", v6(17, 64, link_local, &pattern(32))),
        ("a router advertisement", v6(58, 255, link_local, &[134, 0, 0, 0, 64, 0, 7, 8])),
        ("a neighbour solicitation", v6(58, 255, link_local, &[135, 0, 0, 0, 0, 0, 0, 0])),
        ("a neighbour advertisement", v6(58, 255, link_local, &[136, 0, 0, 0, 0, 0, 0, 0])),
        ("one byte", vec![0x60]),
        ("a version 4 header", from_b().bytes()),
    ];
    let packet = |bytes| tunnel_of(bytes).edit(|t| t.inner_eth.ethertype = ethertype::IPV6).bytes();
    rows.into_iter()
        .map(|(name, bytes)| Case::new("D28", format!("inner IPv6 with {name}"), packet(bytes), Expect::Drop(V6Disabled)))
        .collect()
}

fn nested() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut core = from_b();
    for depth in 1..=10 {
        // What the pod gets is VXLAN again: its payload, opened by nobody here.
        let outer = tunnel(&core);
        let datagram = outer.udp.datagram(B_POD, POD.addr, &outer.bytes()[42..]);
        core = Ipv4::new(B_POD, POD.addr, protocol::UDP, datagram);
        cases.push(delivers("D29", format!("VXLAN {depth} deep inside is the pod's payload"), &core));
    }
    let to = |dst| Ipv4::udp_ports(B_POD, dst, (50_000, crate::world::PORT), &tunnel(&from_b()).bytes()[42..]);
    cases.push(drops("D29", "VXLAN inside to our node", InnerNotLocal, &to(A)));
    cases.push(drops("D29", "VXLAN inside to its own node", InnerNotLocal, &to(B)));
    cases
}

fn ecn() -> Vec<Case> {
    const NAMES: [&str; 4] = ["not-ECT", "ECT(1)", "ECT(0)", "CE"];
    // RFC 6040 figure 4: rows inner, columns outer; `None` is a drop.
    const NOT: Option<u8> = Some(0);
    const ECT1: Option<u8> = Some(1);
    const ECT0: Option<u8> = Some(2);
    const CE: Option<u8> = Some(3);
    const DECAPSULATED: [[Option<u8>; 4]; 4] = [[NOT, NOT, NOT, None], [ECT1, ECT1, ECT1, CE], [ECT0, ECT1, ECT0, CE], [CE, CE, CE, CE]];

    let mut cases = Vec::new();
    for (inner, row) in (0..4).zip(DECAPSULATED) {
        for (outer, result) in (0..4).zip(row) {
            let names = format!("inner {} with outer {}", NAMES[usize::from(inner)], NAMES[usize::from(outer)]);
            // DSCP of both headers must not leak into each other.
            let packet = from_b().edit(|ip| ip.tos = 0x28 | inner);
            let bytes = tunnel(&packet).edit(|t| t.ip.tos = 0xb8 | outer).bytes();
            cases.push(match result {
                None => Case::new("D30", names, bytes, Expect::Drop(Ecn)),
                Some(ecn) => {
                    let expected = packet.edit(|ip| ip.tos = 0x28 | ecn);
                    Case::new(
                        "D30",
                        format!("{names} arrives as {}", NAMES[usize::from(ecn)]),
                        bytes,
                        Expect::ToPod(at_pod(POD, &expected)),
                    )
                }
            });
        }
    }
    cases
}
