//! The underlay rows at the kernel's own vxlan device, set up as flannel sets it up: whom it lets through, and with which bytes.
//!
//! Where it does what a row says, the row is common practice. Every other case is on the list below with the reason why we differ, and an
//! entry nothing needs any more fails as well.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, bail, ensure};
use libtest_mimic::{Completion, Trial};

use Differs::{Changes, Delivers, Refuses};

use crate::case::{Case, Expect, expect_frame};
use crate::kernel::hex;
use crate::links::{Entry, FarEnds, Namespace, ip, mac, node_links};
use crate::world::{A_VTEP, POD, POD2, PORT, VNI};

/// How the kernel differs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Differs {
    /// It delivers what we drop, or hand to the host.
    Delivers,
    /// It does not deliver what we deliver.
    Refuses,
    /// Both deliver, but not the same bytes.
    Changes,
}

/// Row, what the name of the case contains, how the kernel differs, why we do what we do.
const DIFFERENCES: &[(&str, &str, Differs, &str)] = &[
    ("D3", "no-operation options", Delivers, "no VTEP sends options; a packet with them is probing"),
    ("D3", "record route", Delivers, "no VTEP sends options; a packet with them is probing"),
    ("D3", "timestamp", Delivers, "no VTEP sends options; a packet with them is probing"),
    ("D3", "router alert", Delivers, "no VTEP sends options; a packet with them is probing"),
    ("D9", "a wrong UDP checksum", Refuses, "RFC 7348 lets the receiver choose; the inner packet has its own checksums"),
    (
        "D10",
        "to the broadcast address",
        Delivers,
        "a tunnel packet is sent to one node; left to the kernel, whose device is not trusted here",
    ),
    ("D10", "to the subnet's broadcast address", Delivers, "as above"),
    ("D10", "to the gateway address", Delivers, "nodes know each other by their underlay address alone"),
    ("D10", "to a pod", Delivers, "routed, not opened: the kernel does that here too"),
    (
        "D10",
        "to our address by the broadcast MAC",
        Delivers,
        "RFC 1122 section 3.3.6: discard; left to the kernel, whose device is not trusted here",
    ),
    ("D10", "to our address by a multicast MAC", Delivers, "as above"),
    ("D12", "from a stranger", Delivers, "only nodes may send into the tunnel"),
    ("D12", "from 0/8", Delivers, "only nodes may send into the tunnel"),
    ("D12", "from a pod of the node", Delivers, "only nodes may send into the tunnel"),
    ("D12", "from a node with a subnet but no entry", Delivers, "only nodes may send into the tunnel"),
    ("D14", "outer TTL 0", Delivers, "no router lets it through and no VTEP sends it"),
    (
        "D15",
        "tagged with a priority tag",
        Delivers,
        "tags are the NIC's affair: the kernel takes it off and the packet meets the programs only without it",
    ),
    ("D20", "inner frame tagged with a priority tag", Delivers, "RFC 7348 section 6.1: discard"),
    ("D21", "inner destination MAC", Refuses, "the address decides; both MACs are replaced"),
    ("D21", "inner source MAC is multicast", Delivers, "no station has such an address"),
    ("D21", "inner source MAC is broadcast", Delivers, "no station has such an address"),
    ("D23", "record route", Changes, "options are carried, not acted on"),
    ("D23", "timestamp", Changes, "options are carried, not acted on"),
    ("D23", "end of list in front of", Changes, "the kernel clears what follows the end of the list"),
    ("D23", "inside another option's data", Changes, "options are carried, not acted on"),
    ("D23", "is for the receiver's stack to judge", Refuses, "the pod's stack answers its peer just as well"),
    ("D26", "inner source is", Delivers, "a node speaks for its own pods only"),
    ("D26", "a pod of B from C", Delivers, "a node speaks for its own pods only"),
    ("D29", "VXLAN inside to our node", Delivers, "a packet is opened once: the kernel opens it again, with whatever sources are in it"),
    ("D34", "an inner ICMP error", Delivers, "delivered as well, by way of the host's stack, which may have to translate what it quotes"),
];

/// The kernel's node and what has been needed of the list.
pub(crate) struct Oracle {
    /// Nothing else keeps the namespace alive.
    _node: Namespace,
    far: FarEnds,
    /// Entries of the list that were needed.
    needed: HashSet<usize>,
    /// Cases that ran.
    ran: usize,
}

/// Makes the kernel's node in a namespace of its own, its far ends in `far`, and returns to `here`.
pub(crate) fn connect(here: &Namespace, far: &Namespace) -> Result<Oracle> {
    let node = Namespace::new()?;
    for (setting, value) in [("ip_forward", "1"), ("conf/all/rp_filter", "0"), ("conf/default/rp_filter", "0")] {
        std::fs::write(format!("/proc/sys/net/ipv4/{setting}"), value)?;
    }
    node_links(far, "o-", false)?;
    let (vni, vtep, port) = (VNI.to_string(), mac(A_VTEP), PORT.to_string());
    let vxlan = ["type", "vxlan", "id", &vni, "local", "192.168.50.1", "dev", "eth0", "dstport", &port, "nolearning"];
    ip(&[&["link", "add", "name", "flannel.1", "address", &vtep][..], &vxlan].concat())?;
    ip(&["link", "set", "flannel.1", "up"])?;
    ip(&["address", "add", "192.168.50.1/24", "dev", "eth0"])?;
    ip(&["address", "add", "10.244.1.1/32", "dev", "flannel.1"])?;
    ip(&["route", "add", "10.244.2.0/24", "via", "10.244.2.0", "dev", "flannel.1", "onlink"])?;
    for (name, pod) in [("pod", POD), ("pod2", POD2)] {
        let addr = std::net::Ipv4Addr::from(pod.addr).to_string();
        ip(&["route", "add", &addr, "dev", name])?;
        ip(&["neighbour", "add", &addr, "lladdr", &mac(pod.mac), "dev", name, "nud", "permanent"])?;
    }
    far.enter()?;
    let far_ends = FarEnds::open("o-");
    here.enter()?;
    Ok(Oracle { _node: node, far: far_ends?, needed: HashSet::new(), ran: 0 })
}

/// Every underlay case at the kernel's device, and a last one that wants the list to have no idle entry.
pub(crate) fn trials(oracle: Oracle, cases: &[Arc<Case>]) -> Vec<Trial> {
    let oracle = Arc::new(Mutex::new(oracle));
    let mut trials: Vec<Trial> = cases
        .iter()
        .map(|case| {
            let (oracle, case) = (Arc::clone(&oracle), Arc::clone(case));
            let name = format!("{} {}", case.row, case.name);
            let run = move || {
                let mut oracle = oracle.lock().unwrap_or_else(PoisonError::into_inner);
                oracle.run(&case).map_err(|error| format!("{error:#}\n  packet in:\n{}", hex(&case.packet)).into())
            };
            Trial::test(name, run).with_kind("kernel vxlan")
        })
        .collect();
    let all = cases.len();
    let run = move || {
        let oracle = oracle.lock().unwrap_or_else(PoisonError::into_inner);
        oracle.idle_entries(all).map_err(|error| error.to_string().into())
    };
    trials.push(Trial::ignorable_test("every listed difference was seen", run).with_kind("kernel vxlan"));
    trials
}

impl Oracle {
    fn run(&mut self, case: &Case) -> Result<()> {
        self.ran += 1;
        let arrived = self.far.exchange(Entry::Underlay, &case.packet)?;
        let delivered: Vec<_> = arrived.pod.iter().chain(&arrived.pod2).collect();
        let (differs, what) = match (&case.expect, &delivered[..]) {
            (Expect::ToPod(frame), [found]) => match expect_frame(found, frame) {
                Ok(()) => return Ok(()),
                Err(error) => (Changes, format!("delivers other bytes: {error}")),
            },
            (Expect::ToPod(_), []) => (Refuses, "does not deliver it".to_owned()),
            (_, []) => return Ok(()),
            (_, [found]) => (Delivers, format!("delivers it:\n{}", hex(found))),
            (_, frames) => bail!("{} frames", frames.len()),
        };
        let listed = |(row, part, how, _): &(&str, &str, Differs, &str)| case.row == *row && case.name.contains(part) && *how == differs;
        let Some(entry) = DIFFERENCES.iter().position(listed) else { bail!("not listed: the kernel {what}") };
        self.needed.insert(entry);
        Ok(())
    }

    /// Complains of entries that none of `all` cases needed. With a filter only some of them ran, and nothing can be said.
    fn idle_entries(&self, all: usize) -> Result<Completion> {
        if self.ran < all {
            return Ok(Completion::ignored_with(format!("{} of {all} cases ran", self.ran)));
        }
        let idle: Vec<_> = (0..DIFFERENCES.len()).filter(|entry| !self.needed.contains(entry)).map(|entry| DIFFERENCES[entry].1).collect();
        ensure!(idle.is_empty(), "listed but not seen: {idle:?}");
        Ok(Completion::Completed)
    }
}
