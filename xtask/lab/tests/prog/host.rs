//! What the host sends into the overlay device (`from_host`): the same rules as for a pod's packet to a remote node, without the pod's checks.

use overlay_common::counters::Flow;
use overlay_common::reason::DropReason::NoNode;

use crate::case::{Case, Expect};
use crate::packet::{Addr, Eth, Ipv4, pattern, protocol};
use crate::world::{
    A_GATEWAY, A_MAC, A_VTEP, B, B_GATEWAY, B_MAC, B_POD, B_VTEP, C, C_POD, C_VTEP, D, D_POD, E_POD, F_POD, G_MAC, G_POD, H_POD, MTU, POD,
    ROUTER_MAC, encapsulated,
};

/// Cases of `from_host`.
pub(crate) fn cases() -> Vec<Case> {
    let to = |dst| Ipv4::udp(A_GATEWAY, dst, b"overlay!");
    let mut cases = vec![
        to_b("host to a pod on a neighbouring node; the stack has counted the hop", &to(B_POD)),
        to_b("host to the gateway address of a neighbouring node", &to(B_GATEWAY)),
        to_b("a packet the host forwards for a pod keeps its source", &Ipv4::udp(POD.addr, B_POD, b"overlay!")),
        to_b("TTL 1 is sent: the host is its origin", &to(B_POD).edit(|ip| ip.ttl = 1)),
        to_b("the largest packet", &Ipv4::new(A_GATEWAY, B_POD, protocol::UDP, pattern(MTU - 20))),
        to_b("router alert", &to(B_POD).options(&[148, 4, 0, 0])),
    ];
    for tos in [0, 1, 2, 3, 0xb8, 0xbb] {
        cases.push(to_b(format!("inner TOS {tos:#04x}: ECN alone is copied"), &to(B_POD).edit(|ip| ip.tos = tos)));
    }
    let c = encapsulated(&to(C_POD), C, C_VTEP, ROUTER_MAC);
    cases.push(case("host to a pod behind a router", &to(C_POD), Expect::Encap(Flow::HostEncap, Box::new(c))));
    let d = encapsulated(&to(D_POD), D, [0x0e, 0x4f, 192, 168, 50, 4], [0; 6]);
    cases.push(case("host to a node whose MAC is not known yet", &to(D_POD), Expect::EncapByNeighbour(Flow::HostEncap, Box::new(d))));
    let direct = |ip: &Ipv4, mac| Eth::ipv4(mac, A_MAC).frame(&ip.bytes());
    let sent = Expect::Sent(Flow::HostDirect, direct(&to(G_POD), G_MAC));
    cases.push(case("host to a pod of a neighbour without a tunnel", &to(G_POD), sent));
    let sent = Expect::SentByNeighbour(Flow::HostDirect, direct(&to(H_POD), [0; 6]));
    cases.push(case("host to such a neighbour whose MAC is not known yet", &to(H_POD), sent));
    for (name, dst) in
        [("a subnet whose node is gone", E_POD), ("a node reached by a way not known", F_POD), ("a network no node has", stranger())]
    {
        cases.push(case(&format!("host to {name}"), &to(dst), Expect::Drop(NoNode)));
    }
    cases
}

fn stranger() -> Addr {
    [10, 244, 77, 1]
}

fn case(name: &str, ip: &Ipv4, expect: Expect) -> Case {
    // The overlay device has no neighbours: the stack writes its own MAC twice.
    Case::new("E3", name, Eth::ipv4(A_VTEP, A_VTEP).frame(&ip.bytes()), expect)
}

fn to_b(name: impl AsRef<str>, ip: &Ipv4) -> Case {
    let expect = Expect::Encap(Flow::HostEncap, Box::new(encapsulated(ip, B, B_VTEP, B_MAC)));
    case(name.as_ref(), ip, expect)
}
