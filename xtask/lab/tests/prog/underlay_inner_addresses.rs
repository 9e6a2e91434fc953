//! Rows D26, D27, E10 and the inner half of D34: who may send through the tunnel, and to whom.

use overlay_common::reason::DropReason::{InnerNoPod, InnerNotLocal, InnerSourceMismatch, Martian};

use crate::case::{Case, Expect};
use crate::packet::{Ipv4, MORE_FRAGMENTS, pattern, protocol};
use crate::underlay_inner::{delivers, drops, to_stack};
use crate::underlay_outer::icmp_error;
use crate::world::{A, A_GATEWAY, B, B_GATEWAY, B_POD, C, C_POD, EXTERNAL, NO_POD, POD, POD2, SERVICE, STRANGER, at_pod, from_b, tunnel};

/// Every case of the rows above.
pub(crate) fn cases() -> Vec<Case> {
    [sources(), destinations(), to_host()].into_iter().flatten().collect()
}

fn sources() -> Vec<Case> {
    let from = |src| Ipv4::udp(src, POD.addr, b"overlay!");
    let mut cases = Vec::new();
    let foreign = [
        ("a pod of another node", C_POD),
        ("a pod of ours", POD2.addr),
        ("its own destination", POD.addr),
        ("our gateway", A_GATEWAY),
        ("our node", A),
        ("another node", C),
        ("a stranger", STRANGER),
        ("an external address", EXTERNAL),
        ("a service", SERVICE),
        ("one below the node's network", [10, 244, 1, 255]),
        ("one above the node's network", [10, 244, 3, 0]),
    ];
    for (name, src) in foreign {
        cases.push(drops("D26", format!("inner source is {name}"), InnerSourceMismatch, &from(src)));
    }
    let martians = [
        ("0.0.0.0", [0; 4]),
        ("loopback", [127, 0, 0, 1]),
        ("multicast", [224, 0, 0, 1]),
        ("240/4", [240, 0, 0, 1]),
        ("broadcast", [255; 4]),
    ];
    for (name, src) in martians {
        cases.push(drops("D26", format!("inner source is {name}"), InnerSourceMismatch, &from(src)));
    }
    let good = [("its gateway", B_GATEWAY), ("the last pod of its network", [10, 244, 2, 254])];
    cases.extend(good.map(|(name, src)| delivers("D26", format!("inner source is {name}"), &from(src))));

    cases.push(to_stack("D26", "inner source is the node itself: the stack has to know what the pod will answer", &from(B)));

    let from_c = from(C_POD);
    let expect = Expect::ToPod(at_pod(POD, &from_c));
    cases.push(Case::new("D26", "a pod of C from C", tunnel(&from_c).edit(|t| t.ip.src = C).bytes(), expect));
    let expect = Expect::Drop(InnerSourceMismatch);
    cases.push(Case::new("D26", "a pod of B from C", tunnel(&from_b()).edit(|t| t.ip.src = C).bytes(), expect));
    cases
}

fn destinations() -> Vec<Case> {
    let to = |dst| Ipv4::udp(B_POD, dst, b"overlay!");
    let second = to(POD2.addr);
    let mut cases = vec![Case::new("D27", "to the second pod", tunnel(&second).bytes(), Expect::ToPod(at_pod(POD2, &second)))];
    for (name, dst) in
        [("an address no pod has", NO_POD), ("the network address", [10, 244, 1, 0]), ("the last address", [10, 244, 1, 255])]
    {
        cases.push(drops("D27", format!("to {name} of our network"), InnerNoPod, &to(dst)));
    }
    let elsewhere = [
        ("a pod of its own node", B_GATEWAY),
        ("a pod of another node", C_POD),
        ("our node", A),
        ("its node", B),
        ("another node", C),
        ("a service", SERVICE),
        ("an external address", EXTERNAL),
        ("a stranger", STRANGER),
        ("one below our network", [10, 244, 0, 255]),
    ];
    for (name, dst) in elsewhere {
        cases.push(drops("D27", format!("to {name}"), InnerNotLocal, &to(dst)));
    }
    cases.push(drops("E10", "a loop between two nodes' tables ends here", InnerNotLocal, &to([10, 244, 3, 31])));
    let martians = [
        ("0.0.0.0", [0; 4]),
        ("loopback", [127, 0, 0, 1]),
        ("a link-local address", [169, 254, 1, 1]),
        ("a multicast group", [224, 0, 0, 251]),
        ("240/4", [240, 0, 0, 1]),
        ("the broadcast address", [255; 4]),
    ];
    for (name, dst) in martians {
        cases.push(drops("D27", format!("to {name}"), Martian, &to(dst)));
    }
    cases
}

fn to_host() -> Vec<Case> {
    let to_gateway = |src| Ipv4::udp(src, A_GATEWAY, b"overlay!");
    let mut cases = vec![
        to_stack("D27", "to our gateway address", &to_gateway(B_POD)),
        to_stack("D27", "from a gateway to ours", &to_gateway(B_GATEWAY)),
        to_stack("D27", "from a node to our gateway", &to_gateway(B)),
        to_stack("D25", "inner TTL 1 to our gateway is at its end and arrives", &to_gateway(B_POD).edit(|ip| ip.ttl = 1)),
        to_stack("D24", "a fragment to our gateway", &to_gateway(B_POD).edit(|ip| ip.fragment = MORE_FRAGMENTS)),
        to_stack("D23", "router alert to our gateway", &to_gateway(B_POD).options(&[148, 4, 0, 0])),
    ];
    let quoted = Ipv4::udp(POD.addr, B_POD, b"overlay!").bytes();
    for (name, kind, code) in [
        ("destination unreachable", 3, 1),
        ("fragmentation needed", 3, 4),
        ("source quench", 4, 0),
        ("redirect", 5, 1),
        ("time exceeded", 11, 0),
        ("parameter problem", 12, 0),
    ] {
        let error = Ipv4::new(B_POD, POD.addr, protocol::ICMP, icmp_error(kind, code, &quoted));
        cases.push(delivers("D34", format!("an inner ICMP {name} about a packet the pod sent directly goes straight to it"), &error));
    }
    let error = Ipv4::new(B, POD.addr, protocol::ICMP, icmp_error(3, 1, &quoted));
    cases.push(delivers("D34", "an inner ICMP error of the node itself about a packet the pod sent directly goes straight to it", &error));
    let others = Ipv4::udp(B_POD, POD.addr, b"overlay!").bytes();
    for (name, quoted) in [
        ("about another's packet", &others[..]),
        ("that is cut in the quoted header", &quoted[..12]),
        ("that quotes no port", &quoted[..20]),
    ] {
        let error = Ipv4::new(B_POD, POD.addr, protocol::ICMP, icmp_error(3, 1, quoted));
        cases.push(to_stack("D34", format!("an inner ICMP error {name} goes by the stack, which may know what it is about"), &error));
    }
    for (name, kind) in [("echo request", 8), ("echo reply", 0), ("timestamp", 13), ("timestamp reply", 14)] {
        let echo = Ipv4::new(B_POD, POD.addr, protocol::ICMP, icmp_error(kind, 0, &pattern(32)));
        cases.push(delivers("D34", format!("an inner ICMP {name} goes straight to the pod"), &echo));
    }
    cases
}
