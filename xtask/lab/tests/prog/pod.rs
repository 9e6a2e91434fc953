//! Rows E1–E6 and E9: what a pod sends into its veth.

use overlay_common::counters::Flow;
use overlay_common::reason::DropReason::{
    self, EncapProhibited, Martian, NoNode, PodArpSpoof, PodHeader, PodL2Protocol, PodSourceAddress, PodSourceMac, Short, UnknownVeth,
    V6Disabled,
};

use crate::case::{Case, Expect};
use crate::kernel::Skb;
use crate::packet::{Addr, Arp, DONT_FRAGMENT, Eth, Ipv4, MORE_FRAGMENTS, Mac, ethertype, pattern, protocol};
use crate::world::{
    A, A_GATEWAY, B, B_GATEWAY, B_MAC, B_POD, B_VTEP, C, C_POD, C_VTEP, D, D_POD, E_POD, EXTERNAL, F_POD, MTU, NO_POD, POD, POD_NEXT_HOP,
    POD2, PORT, ROUTER, ROUTER_MAC, SERVICE, UNDERLAY_IFINDEX, at_pod, encapsulated, from_pod,
};

/// Every case of the rows above.
pub(crate) fn cases() -> Vec<Case> {
    [sources(), ethernet(), arp(), destinations(), tunnel_ports(), ip_header(), ttl(), sizes()].into_iter().flatten().collect()
}

/// A small datagram from the pod.
fn to(dst: Addr) -> Ipv4 {
    Ipv4::udp(POD.addr, dst, b"overlay!")
}

fn drops(row: &'static str, name: impl Into<String>, reason: DropReason, ip: &Ipv4) -> Case {
    Case::new(row, name, from_pod(ip), Expect::Drop(reason))
}

/// The pod's packet goes to the host's stack untouched, counted as `flow`.
fn to_stack(row: &'static str, name: impl Into<String>, flow: Flow, ip: &Ipv4) -> Case {
    Case::new(row, name, from_pod(ip), Expect::ToStack(flow))
}

/// The pod's packet goes to B in VXLAN, one hop further and otherwise byte for byte.
fn to_b(row: &'static str, name: impl Into<String>, ip: &Ipv4) -> Case {
    let expect = Expect::Encap(Flow::PodEncap, Box::new(encapsulated(&ip.clone().routed(), B, B_VTEP, B_MAC)));
    Case::new(row, name, from_pod(ip), expect)
}

/// The pod's packet goes to the second pod here, one hop further and otherwise byte for byte.
fn to_pod2(row: &'static str, name: impl Into<String>, ip: &Ipv4) -> Case {
    Case::new(row, name, from_pod(ip), Expect::Sent(Flow::PodLocal, at_pod(POD2, ip)))
}

fn sources() -> Vec<Case> {
    let from = |src| Ipv4::udp(src, B_POD, b"overlay!");
    let mut cases = Vec::new();
    let addresses = [
        ("another pod's", POD2.addr),
        ("a pod's of another node", B_POD),
        ("the gateway's", A_GATEWAY),
        ("the node's", A),
        ("another node's", B),
        ("an external one", EXTERNAL),
        ("0.0.0.0", [0; 4]),
        ("loopback", [127, 0, 0, 1]),
        ("link-local", [169, 254, 1, 1]),
        ("multicast", [224, 0, 0, 1]),
        ("broadcast", [255; 4]),
    ];
    for (name, src) in addresses {
        cases.push(drops("E1", format!("source address is {name}"), PodSourceAddress, &from(src)));
    }
    let macs = [
        ("another pod's", POD2.mac),
        ("the host's end", POD.host_mac),
        ("zero", [0; 6]),
        ("multicast", [0x01, 0, 0x5e, 0, 0, 1]),
        ("broadcast", [0xff; 6]),
    ];
    for (name, mac) in macs {
        let frame = Eth::ipv4(POD.host_mac, mac).frame(&to(B_POD).bytes());
        cases.push(Case::new("E1", format!("source MAC is {name}"), frame, Expect::Drop(PodSourceMac)));
    }
    let skb = Skb { ifindex: Some(UNDERLAY_IFINDEX), ..Skb::default() };
    cases.push(Case { skb, ..drops("E1", "from a link that is no pod's", UnknownVeth, &to(B_POD)) });
    let skb = Skb { ifindex: Some(POD2.ifindex), ..Skb::default() };
    let second = Ipv4::udp(POD2.addr, POD.addr, b"overlay!");
    let frame = Eth::ipv4(POD2.host_mac, POD2.mac).frame(&second.bytes());
    let expect = Expect::Sent(Flow::PodLocal, at_pod(POD, &second));
    cases.push(Case { skb, ..Case::new("E1", "the second pod by its own link", frame, expect) });
    let frame = Eth::ipv4(POD2.host_mac, POD2.mac).frame(&second.bytes());
    cases.push(Case::new("E1", "the second pod's packet by the first one's link", frame, Expect::Drop(PodSourceMac)));
    cases
}

fn ethernet() -> Vec<Case> {
    let frame = |dst: Mac, ethertype, payload: &[u8]| Eth { ethertype, ..Eth::ipv4(dst, POD.mac) }.frame(payload);
    let mut cases = Vec::new();
    let lldp = [0x01, 0x80, 0xc2, 0, 0, 0x0e];
    let l2 = [
        ("LLDP", frame(lldp, 0x88cc, &pattern(46))),
        ("EAPOL", frame([0x01, 0x80, 0xc2, 0, 0, 0x03], 0x888e, &pattern(46))),
        ("a spanning tree frame", frame([0x01, 0x80, 0xc2, 0, 0, 0], 38, &pattern(46))),
        ("RARP", frame([0xff; 6], 0x8035, &pattern(46))),
        ("PPPoE", frame([0xff; 6], 0x8863, &pattern(46))),
        ("MPLS", frame(POD.host_mac, 0x8847, &pattern(46))),
        ("ethertype 0xffff", frame(POD.host_mac, 0xffff, &pattern(46))),
        ("ethertype 0", frame(POD.host_mac, 0, &pattern(46))),
        ("an Ethernet header alone", frame(POD.host_mac, 0x88b5, &[])),
    ];
    for (name, frame) in l2 {
        cases.push(Case::new("E2", name, frame, Expect::Drop(PodL2Protocol)));
    }
    for (name, tags) in [
        ("802.1Q", vec![(ethertype::VLAN, 1)]),
        ("a priority tag", vec![(ethertype::VLAN, 0xe000)]),
        ("802.1ad", vec![(ethertype::QINQ, 1)]),
        ("802.1ad and 802.1Q", vec![(ethertype::QINQ, 1), (ethertype::VLAN, 2)]),
    ] {
        let eth = Eth { tags, ..Eth::ipv4(POD.host_mac, POD.mac) };
        cases.push(Case::new("E2", format!("tagged with {name}"), eth.frame(&to(B_POD).bytes()), Expect::Drop(PodL2Protocol)));
    }

    let v6 = |kind: u8| {
        let mut packet = vec![0x60, 0, 0, 0, 0, 8, 58, 255];
        packet.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        packet.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
        frame([0x33, 0x33, 0, 0, 0, 1], ethertype::IPV6, &packet)
    };
    for (name, kind) in [
        ("a router solicitation", 133),
        ("a router advertisement", 134),
        ("a neighbour solicitation", 135),
        ("a neighbour advertisement", 136),
        ("a redirect", 137),
    ] {
        cases.push(Case::new("E2", format!("{name} while IPv6 is off"), v6(kind), Expect::Drop(V6Disabled)));
    }

    let discover = Ipv4::udp_ports([0; 4], [255; 4], (68, 67), &pattern(240));
    let frame = Eth::ipv4([0xff; 6], POD.mac).frame(&discover.bytes());
    cases.push(Case::new("E2", "DHCP: the pod has its address", frame, Expect::Drop(PodSourceAddress)));
    cases
}

fn arp() -> Vec<Case> {
    let frame = |dst: Mac, src: Mac, arp: &Arp| Eth { ethertype: ethertype::ARP, ..Eth::ipv4(dst, src) }.frame(&arp.bytes());
    let request = |sender, target| Arp { operation: 1, sender, target: ([0; 6], target) };
    let own = (POD.mac, POD.addr);
    let broadcast = [0xff; 6];

    let reply = Arp { operation: 2, sender: (POD.host_mac, POD_NEXT_HOP), target: own };
    let answer = || frame(POD.mac, POD.host_mac, &reply);
    let mut cases = Vec::new();
    let mut answered = |name, frame| cases.push(Case::new("E2", name, frame, Expect::Sent(Flow::PodArp, answer())));
    answered("who has the gateway is answered", frame(broadcast, POD.mac, &request(own, POD_NEXT_HOP)));
    answered("a unicast probe of the gateway is answered", frame(POD.host_mac, POD.mac, &request(own, POD_NEXT_HOP)));
    let mut padded = frame(broadcast, POD.mac, &request(own, POD_NEXT_HOP));
    padded.resize(60, 0);
    // The answer may keep the padding: it is the Ethernet minimum, not part of ARP.
    let mut padded_answer = answer();
    padded_answer.resize(60, 0);
    cases.push(Case::new("E2", "a padded request is answered", padded, Expect::Sent(Flow::PodArp, padded_answer)));

    let probe = Arp { operation: 2, sender: own, target: (POD.host_mac, A_GATEWAY) };
    cases.push(Case::new(
        "E2",
        "the pod's reply to the host's probe reaches the stack",
        frame(POD.host_mac, POD.mac, &probe),
        Expect::ToStack(Flow::PodArp),
    ));

    let spoofs = [
        ("another pod's address", request((POD.mac, POD2.addr), POD_NEXT_HOP)),
        ("the gateway's address", request((POD.mac, POD_NEXT_HOP), POD_NEXT_HOP)),
        ("the host's gateway address", request((POD.mac, A_GATEWAY), A_GATEWAY)),
        ("no address", request((POD.mac, [0; 4]), POD_NEXT_HOP)),
        ("another pod's MAC", request((POD2.mac, POD.addr), POD_NEXT_HOP)),
        ("the host's MAC", request((POD.host_mac, POD.addr), POD_NEXT_HOP)),
        ("a reply with another pod's address", Arp { operation: 2, ..request((POD.mac, POD2.addr), A_GATEWAY) }),
        ("a reply with another pod's MAC", Arp { operation: 2, ..request((POD2.mac, POD.addr), A_GATEWAY) }),
    ];
    for (name, arp) in spoofs {
        cases.push(Case::new("E2", format!("ARP whose sender is {name}"), frame(broadcast, POD.mac, &arp), Expect::Drop(PodArpSpoof)));
    }
    let forged = frame(broadcast, POD2.mac, &request(own, POD_NEXT_HOP));
    cases.push(Case::new("E2", "ARP from another pod's MAC", forged, Expect::Drop(PodSourceMac)));

    let others = [
        ("ARP for another pod", request(own, POD2.addr)),
        ("ARP for an address outside", request(own, EXTERNAL)),
        ("a gratuitous ARP", request(own, POD.addr)),
        ("an ARP operation that is neither", Arp { operation: 3, ..request(own, POD_NEXT_HOP) }),
    ];
    for (name, arp) in others {
        cases.push(Case::new("E2", name, frame(broadcast, POD.mac, &arp), Expect::Drop(PodL2Protocol)));
    }
    let good = frame(broadcast, POD.mac, &request(own, POD_NEXT_HOP));
    for len in [15, 20, 28, 41] {
        cases.push(Case::new("E2", format!("ARP cut to {len} bytes"), good[..len].to_vec(), Expect::Drop(Short)));
    }
    for (name, at, value) in
        [("hardware type", 15, 6), ("protocol type", 16, 0x86), ("hardware length", 18, 8), ("protocol length", 19, 16)]
    {
        let mut odd = good.clone();
        odd[at] = value;
        cases.push(Case::new("E2", format!("ARP with another {name}"), odd, Expect::Drop(PodL2Protocol)));
    }
    cases
}

fn destinations() -> Vec<Case> {
    let mut cases = vec![
        to_pod2("E3", "to the pod next door", &to(POD2.addr)),
        to_b("E3", "to a pod on a neighbouring node", &to(B_POD)),
        to_b("E3", "to the gateway address of a neighbouring node", &to(B_GATEWAY)),
    ];
    let c = encapsulated(&to(C_POD).routed(), C, C_VTEP, ROUTER_MAC);
    cases.push(Case::new("E3", "to a pod behind a router", from_pod(&to(C_POD)), Expect::Encap(Flow::PodEncap, Box::new(c))));
    let d = encapsulated(&to(D_POD).routed(), D, [0x0e, 0x4f, 192, 168, 50, 4], [0; 6]);
    let name = "to a node whose MAC is not known yet: the kernel resolves it";
    cases.push(Case::new("E9", name, from_pod(&to(D_POD)), Expect::EncapByNeighbour(Flow::PodEncap, Box::new(d))));
    cases.push(drops("E3", "to a subnet whose node is gone", NoNode, &to(E_POD)));
    cases.push(drops("E3", "to a node reached by a way not known", NoNode, &to(F_POD)));

    let stack = [
        ("our node", A),
        ("our gateway address", A_GATEWAY),
        ("another node", B),
        ("a router", ROUTER),
        ("a service", SERVICE),
        ("an external address", EXTERNAL),
        ("a network of the cluster range no node has", [10, 244, 77, 1]),
        ("its next hop", POD_NEXT_HOP),
        ("a link-local service such as cloud metadata", [169, 254, 169, 254]),
    ];
    for (name, dst) in stack {
        cases.push(to_stack("E3", format!("to {name}"), Flow::PodStack, &to(dst)));
    }
    for (name, dst) in
        [("an address no pod has", NO_POD), ("the network address", [10, 244, 1, 0]), ("the last address", [10, 244, 1, 255])]
    {
        cases.push(to_stack("E3", format!("to {name} of our network"), Flow::PodNoPod, &to(dst)));
    }
    let martians = [
        ("0.0.0.0", [0; 4]),
        ("loopback", [127, 0, 0, 1]),
        ("a multicast group", [224, 0, 0, 251]),
        ("240/4", [240, 0, 0, 1]),
        ("the broadcast address", [255; 4]),
        ("itself", POD.addr),
    ];
    for (name, dst) in martians {
        cases.push(drops("E3", format!("to {name}"), Martian, &to(dst)));
    }
    for (name, dst) in [("broadcast", [0xff; 6]), ("multicast", [0x01, 0, 0x5e, 0, 0, 1]), ("anything", [0x02, 9, 9, 9, 9, 9])] {
        let frame = Eth::ipv4(dst, POD.mac).frame(&to(B_POD).bytes());
        let expect = Expect::Encap(Flow::PodEncap, Box::new(encapsulated(&to(B_POD).routed(), B, B_VTEP, B_MAC)));
        cases.push(Case::new("E3", format!("destination MAC is {name}: only the address decides"), frame, expect));
    }
    cases
}

fn tunnel_ports() -> Vec<Case> {
    let vxlan = |dst| Ipv4::udp_ports(POD.addr, dst, (50_000, PORT), &pattern(50));
    let fragment = |ip: Ipv4, bits| ip.edit(|ip| ip.fragment = bits);
    let mut cases = Vec::new();
    for (name, dst) in [("our node", A), ("another node", B), ("our gateway address", A_GATEWAY)] {
        cases.push(drops("E4", format!("VXLAN to {name}"), EncapProhibited, &vxlan(dst)));
        let first = fragment(vxlan(dst), MORE_FRAGMENTS);
        cases.push(drops("E4", format!("the first fragment of VXLAN to {name}"), EncapProhibited, &first));
        for (which, bits) in [("a middle", MORE_FRAGMENTS | 8), ("the last", 8)] {
            let later = fragment(Ipv4::new(POD.addr, dst, protocol::UDP, pattern(40)), bits);
            cases.push(to_stack("E4", format!("{which} fragment of UDP to {name}, whose port is in the first"), Flow::PodStack, &later));
        }
        let tiny = fragment(Ipv4::new(POD.addr, dst, protocol::UDP, pattern(3)), MORE_FRAGMENTS);
        cases.push(drops("E4", format!("a UDP fragment to {name} too small for a port"), EncapProhibited, &tiny));
        let later = fragment(Ipv4::new(POD.addr, dst, protocol::TCP, pattern(40)), 8);
        cases.push(to_stack("E4", format!("a TCP fragment to {name} is no VXLAN"), Flow::PodStack, &later));
        let tcp = Ipv4::udp_ports(POD.addr, dst, (50_000, PORT), &pattern(50)).edit(|ip| ip.protocol = protocol::TCP);
        cases.push(to_stack("E4", format!("TCP to the same port of {name}"), Flow::PodStack, &tcp));
        let optional = vxlan(dst).options(&[1; 8]);
        cases.push(drops("E4", format!("VXLAN behind IP options to {name}"), EncapProhibited, &optional));
    }
    for port in [53, 4789, PORT - 1, PORT + 1] {
        let ip = Ipv4::udp_ports(POD.addr, B, (50_000, port), &pattern(50));
        cases.push(to_stack("E4", format!("UDP port {port} of a node is a port like any other"), Flow::PodStack, &ip));
    }
    cases.push(to_stack("E4", "VXLAN to an external address", Flow::PodStack, &vxlan(EXTERNAL)));
    cases.push(to_pod2("E4", "VXLAN to a pod next door is the pods' own affair", &vxlan(POD2.addr)));
    cases.push(to_b("E4", "VXLAN to a remote pod is the pods' own affair", &vxlan(B_POD)));
    cases
}

fn ip_header() -> Vec<Case> {
    let good = to(B_POD);
    let mut cases = Vec::new();
    for version in (0..16).filter(|&version| version != 4) {
        cases.push(drops("E5", format!("version {version} in an IPv4 frame"), PodHeader, &good.clone().edit(|ip| ip.version = version)));
    }
    for ihl in 0..5 {
        cases.push(drops("E5", format!("header length {}", ihl * 4), PodHeader, &good.clone().edit(|ip| ip.ihl = Some(ihl))));
    }
    cases.push(drops("E5", "header longer than the packet", PodHeader, &good.clone().edit(|ip| ip.ihl = Some(15))));
    let len = u16::try_from(good.bytes().len()).expect("a small packet");
    for total_len in [0, 1, 19, len + 1, len + 4, 0xffff] {
        let ip = good.clone().edit(|ip| ip.total_len = Some(total_len));
        cases.push(drops("E5", format!("total length {total_len} instead of {len}"), PodHeader, &ip));
    }
    let right = u16::from_be_bytes(good.bytes()[10..12].try_into().expect("two bytes"));
    for (name, sum) in [("off by one", right.wrapping_add(1)), ("complemented", !right), ("zero", 0), ("all ones", 0xffff)] {
        cases.push(drops("E5", format!("checksum {name}"), PodHeader, &good.clone().edit(|ip| ip.checksum = Some(sum))));
    }
    let frame = from_pod(&good);
    for len in [14, 15, 33] {
        cases.push(Case::new("E5", format!("a frame cut to {len} bytes"), frame[..len].to_vec(), Expect::Drop(Short)));
    }

    let mut padded = frame.clone();
    padded.extend(pattern(18));
    let expect = Expect::Encap(Flow::PodEncap, Box::new(encapsulated(&good.clone().routed(), B, B_VTEP, B_MAC)));
    cases.push(Case::new("E5", "bytes behind the packet do not cross the tunnel", padded, expect));

    for (name, bytes) in [
        ("no operation", &[1u8, 1, 1, 1][..]),
        ("record route", &[7, 7, 4, 0, 0, 0, 0]),
        ("timestamp", &[68, 8, 5, 0, 0, 0, 0, 0]),
        ("router alert", &[148, 4, 0, 0]),
    ] {
        cases.push(to_b("E5", format!("option {name} crosses the tunnel"), &good.clone().options(bytes)));
        cases.push(to_pod2("E5", format!("option {name} reaches the pod next door"), &to(POD2.addr).options(bytes)));
    }
    for protocol in [protocol::ICMP, protocol::IPIP, protocol::TCP, 41, 47, 50, protocol::SCTP, 255] {
        let ip = Ipv4::new(POD.addr, B_POD, protocol, pattern(32));
        cases.push(to_b("E7", format!("protocol {protocol} crosses the tunnel"), &ip));
    }
    for (name, bits) in [("the first", MORE_FRAGMENTS), ("a middle", MORE_FRAGMENTS | 8), ("the last", 8)] {
        let ip = Ipv4::new(POD.addr, B_POD, protocol::UDP, pattern(64)).edit(|ip| ip.fragment = bits);
        cases.push(to_b("E7", format!("{name} fragment crosses the tunnel"), &ip));
        let ip = Ipv4::new(POD.addr, POD2.addr, protocol::UDP, pattern(64)).edit(|ip| ip.fragment = bits);
        cases.push(to_pod2("E7", format!("{name} fragment reaches the pod next door"), &ip));
    }
    for tos in 0..=255u8 {
        let ip = to(B_POD).edit(|ip| ip.tos = tos);
        cases.push(to_b("E8", format!("inner TOS {tos:#04x}: the outer header takes its ECN bits and nothing else"), &ip));
    }
    for bits in [0, DONT_FRAGMENT] {
        let ip = to(B_POD).edit(|ip| ip.fragment = bits);
        cases.push(to_b("E8", format!("the outer packet has DF set, inner flags {bits:#06x}"), &ip));
    }
    cases
}

fn ttl() -> Vec<Case> {
    let with = |dst, ttl| to(dst).edit(|ip| ip.ttl = ttl);
    let mut cases = Vec::new();
    for ttl in [0, 1] {
        for (name, dst) in [("a remote pod", B_POD), ("the pod next door", POD2.addr)] {
            let name = format!("TTL {ttl} to {name}: the stack answers time exceeded");
            cases.push(to_stack("E5", name, Flow::PodTtl, &with(dst, ttl)));
        }
    }
    for ttl in [2, 3, 128, 255] {
        cases.push(to_b("E5", format!("TTL {ttl} crosses the tunnel one lower"), &with(B_POD, ttl)));
        cases.push(to_pod2("E5", format!("TTL {ttl} reaches the pod next door one lower"), &with(POD2.addr, ttl)));
    }
    cases.push(to_stack("E5", "TTL 1 to the node itself is at its end and arrives", Flow::PodStack, &with(A, 1)));
    cases
}

fn sizes() -> Vec<Case> {
    let mut cases = Vec::new();
    let edges = [MTU - 1, MTU, MTU + 1, MTU + 2, MTU + 50, MTU + 100];
    for len in (20..MTU).step_by(13).chain(edges) {
        for (flag, bits) in [("may be fragmented", 0), ("must not be fragmented", DONT_FRAGMENT)] {
            let ip = Ipv4::new(POD.addr, B_POD, protocol::UDP, pattern(len - 20)).edit(|ip| ip.fragment = bits);
            if len <= MTU {
                cases.push(to_b("E6", format!("{len} bytes that {flag} cross the tunnel"), &ip));
            } else {
                let name = format!("{len} bytes that {flag} go to the stack, which knows the MTU");
                cases.push(to_stack("E6", name, Flow::PodTooBig, &ip));
            }
        }
    }
    let local = Ipv4::new(POD.addr, POD2.addr, protocol::UDP, pattern(MTU + 30));
    cases.push(to_pod2("E6", "the tunnel's MTU does not bind the pod next door", &local));
    cases
}
