//! Rows F1–F6: packets between neighbouring nodes without a tunnel, as they come in and as they leave.

use overlay_common::counters::Flow;
use overlay_common::reason::DropReason::{self, DirectSource, InnerHeader, InnerIpOptions, InnerNoPod, InnerTtl, PodSourceAddress};

use crate::case::{Case, Expect};
use crate::packet::{Addr, Eth, Ipv4, MORE_FRAGMENTS, Mac, pattern, protocol};
use crate::world::{
    A, A_GATEWAY, A_MAC, B, B_GATEWAY, B_MAC, B_POD, C_POD, D_POD, DIRECT_MTU, E_POD, EXTERNAL, G_GATEWAY, G_MAC, G_POD, H_POD, NO_POD,
    POD, POD2, ROUTER_MAC, SERVICE, STRANGER, at_pod, from_pod,
};

/// A frame to this node's NIC.
fn frame(src: Mac, ip: &Ipv4) -> Vec<u8> {
    Eth::ipv4(A_MAC, src).frame(&ip.bytes())
}

fn received_as(row: &'static str, name: impl Into<String>, src: Mac, ip: &Ipv4, expect: Expect) -> Case {
    Case::new(row, name, frame(src, ip), expect)
}

/// From a pod of G's to the first pod here, in a frame of G's: delivered one hop further and otherwise byte for byte.
fn good(row: &'static str, name: impl Into<String>, ip: &Ipv4) -> Case {
    received_as(row, name, G_MAC, ip, Expect::DirectToPod(at_pod(POD, ip)))
}

fn dropped(row: &'static str, name: impl Into<String>, src: Mac, ip: &Ipv4, reason: DropReason) -> Case {
    received_as(row, name, src, ip, Expect::DirectDrop(reason))
}

/// What comes in by the NIC.
pub(crate) fn received() -> Vec<Case> {
    [delivered(), forged(), foreign(), malformed(), to_the_host()].into_iter().flatten().collect()
}

fn udp(src: Addr, dst: Addr) -> Ipv4 {
    Ipv4::udp(src, dst, b"overlay!")
}

fn delivered() -> Vec<Case> {
    let ip = udp(G_POD, POD.addr);
    let second = udp(G_POD, POD2.addr);
    let mut cases = vec![
        good("F1", "from a pod of a neighbour that is sent packets the same way", &ip),
        received_as("F1", "to the second pod", G_MAC, &second, Expect::DirectToPod(at_pod(POD2, &second))),
        good("F1", "from the gateway address of a neighbour", &udp(G_GATEWAY, POD.addr)),
        good("F1", "the largest packet", &Ipv4::new(G_POD, POD.addr, protocol::UDP, pattern(DIRECT_MTU - 20))),
        good("F1", "one without payload", &Ipv4::new(G_POD, POD.addr, protocol::UDP, Vec::new())),
        good("F1", "a first fragment", &ip.clone().edit(|ip| ip.fragment = MORE_FRAGMENTS)),
        good("F1", "a later fragment", &ip.clone().edit(|ip| ip.fragment = 9)),
        good("F1", "router alert", &ip.clone().options(&[148, 4, 0, 0])),
    ];
    for source in [B_POD, B_GATEWAY] {
        let ip = udp(source, POD.addr);
        let name = format!("from {source:?} of a neighbour that is itself sent VXLAN");
        cases.push(received_as("F1", name, B_MAC, &ip, Expect::DirectToPod(at_pod(POD, &ip))));
    }
    for tos in [1, 2, 3, 0xbb] {
        cases.push(good("F1", format!("TOS {tos:#04x} stays"), &ip.clone().edit(|ip| ip.tos = tos)));
    }
    cases
}

fn forged() -> Vec<Case> {
    let ip = udp(G_POD, POD.addr);
    let mut cases = Vec::new();
    for (name, mac) in [
        ("a stranger's", [0x02, 0xee, 0, 0, 0, 1]),
        ("another node's", B_MAC),
        ("a router's", ROUTER_MAC),
        ("our own", A_MAC),
        ("zero", [0; 6]),
    ] {
        cases.push(dropped("F2", format!("the Ethernet source is {name}"), mac, &ip, DirectSource));
    }
    for (name, source, mac) in [
        ("another neighbour's pod", B_POD, G_MAC),
        ("a pod of a node behind a router, by the router", C_POD, ROUTER_MAC),
        ("a pod of a node whose MAC is not known", D_POD, [0x02, 0xdd, 0, 0, 0, 4]),
        ("the same, and no MAC at all", D_POD, [0; 6]),
        ("a pod of a node there is no route to", E_POD, G_MAC),
        ("a pod of our own", POD2.addr, G_MAC),
        ("the pod itself", POD.addr, G_MAC),
        ("our gateway address", A_GATEWAY, G_MAC),
        ("an address of our pod network no pod has", NO_POD, ROUTER_MAC),
    ] {
        cases.push(dropped("F2", format!("the source is {name}"), mac, &udp(source, POD.addr), DirectSource));
    }
    cases
}

fn foreign() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut left = |name: &str, frame: Vec<u8>| cases.push(Case::new("F3", name, frame, Expect::NotOurs));
    for (name, source) in [
        ("a node's own address", B),
        ("a stranger on the underlay", STRANGER),
        ("an address outside", EXTERNAL),
        ("a service", SERVICE),
        ("a network of the cluster range no node has", [10, 244, 77, 1]),
    ] {
        left(&format!("to a pod, from {name}"), frame(G_MAC, &udp(source, POD.addr)));
    }
    for (name, destination) in [("this node", A), ("an address outside", EXTERNAL), ("another node's pod", B_POD)] {
        left(&format!("from a neighbour's pod to {name}"), frame(G_MAC, &udp(G_POD, destination)));
    }
    let ip = udp(G_POD, POD.addr).bytes();
    left("to another host's MAC", Eth::ipv4(B_MAC, G_MAC).frame(&ip));
    left("tagged", Eth { tags: vec![(0x8100, 5)], ..Eth::ipv4(A_MAC, G_MAC) }.frame(&ip));
    left("behind another ethertype", Eth { ethertype: 0x88b5, ..Eth::ipv4(A_MAC, G_MAC) }.frame(&ip));
    cases
}

fn malformed() -> Vec<Case> {
    let ip = || udp(G_POD, POD.addr);
    let mut cases = Vec::new();
    for (name, ip, reason) in [
        ("version 5", ip().edit(|ip| ip.version = 5), InnerHeader),
        ("a header of 16 bytes", ip().edit(|ip| ip.ihl = Some(4)), InnerHeader),
        ("a length beyond the frame", ip().edit(|ip| ip.total_len = Some(2000)), InnerHeader),
        ("a length below the header", ip().edit(|ip| ip.total_len = Some(19)), InnerHeader),
        ("a wrong checksum", ip().edit(|ip| ip.checksum = Some(0xdead)), InnerHeader),
        ("a loose source route", ip().options(&[131, 7, 4, 10, 0, 0, 1]), InnerIpOptions),
        ("TTL 0", ip().edit(|ip| ip.ttl = 0), InnerTtl),
        ("an address of our network no pod has", udp(G_POD, NO_POD), InnerNoPod),
    ] {
        cases.push(dropped("F4", name, G_MAC, &ip, reason));
    }
    cases
}

fn to_the_host() -> Vec<Case> {
    [("to our gateway address", udp(G_POD, A_GATEWAY)), ("TTL 1 to a pod", udp(G_POD, POD.addr).edit(|ip| ip.ttl = 1))]
        .map(|(name, ip)| received_as("F5", name, G_MAC, &ip, Expect::DirectToHost(ip.bytes())))
        .into()
}

/// What a pod sends to a neighbour without a tunnel.
pub(crate) fn sent() -> Vec<Case> {
    let to = |dst| udp(POD.addr, dst);
    let on_the_wire = |mac: Mac, ip: &Ipv4| Eth::ipv4(mac, A_MAC).frame(&ip.clone().routed().bytes());
    let sent = |name: &str, ip: &Ipv4| Case::new("F6", name, from_pod(ip), Expect::Sent(Flow::PodDirect, on_the_wire(G_MAC, ip)));
    let sized = |len: usize| Ipv4::new(POD.addr, G_POD, protocol::UDP, pattern(len - 20));
    let mut cases = vec![
        sent("to a pod of a neighbour", &to(G_POD)),
        sent("to a neighbour's gateway address", &to(G_GATEWAY)),
        sent("the largest packet", &sized(DIRECT_MTU)),
        sent("a later fragment", &to(G_POD).edit(|ip| ip.fragment = 9)),
        sent("router alert", &to(G_POD).options(&[148, 4, 0, 0])),
        sent("ECN and DSCP stay", &to(G_POD).edit(|ip| ip.tos = 0xbb)),
    ];
    let ip = to(H_POD);
    let by_neighbour = Expect::SentByNeighbour(Flow::PodDirect, on_the_wire([0; 6], &ip));
    cases.push(Case::new("F6", "to a neighbour whose MAC is not known yet: the kernel resolves it", from_pod(&ip), by_neighbour));
    for (name, flow, ip) in [
        ("one byte more goes to the stack", Flow::PodTooBig, sized(DIRECT_MTU + 1)),
        ("TTL 1 goes to the stack", Flow::PodTtl, to(G_POD).edit(|ip| ip.ttl = 1)),
    ] {
        cases.push(Case::new("F6", name, from_pod(&ip), Expect::ToStack(flow)));
    }
    let forged = udp(POD2.addr, G_POD);
    cases.push(Case::new("F6", "another pod's source address", from_pod(&forged), Expect::Drop(PodSourceAddress)));
    cases
}
