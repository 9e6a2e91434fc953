//! The rows once more, over real links and with the programs attached: what a test run cannot show.
//!
//! Here XDP's metadata reaches TC, redirects are carried out, frames are shorter or longer than a test run takes, and the third way of
//! receiving is covered, where the kernel's vxlan device opens the packet and `from_overlay` judges what is in it.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, bail, ensure};
use libtest_mimic::Trial;
use overlay_agent::netlink::ethtool;
use overlay_common::abi::{Settings, receive};
use overlay_common::counters::Flow;
use overlay_common::reason::DropReason;

use crate::case::{Case, Expect, Shared, expect_frame, with_source_port};
use crate::kernel::{Kernel, Moved, Program, Skb, hex};
use crate::links::{Arrived, Entry, FarEnds, Namespace, ip, mac, node_links};
use crate::packet::{Eth, Mac, Tunnel};
use crate::world::{self, A_VTEP, OVERLAY_IFINDEX, PORT};

/// MAC of node D, which is in the kernel's neighbour table only.
const D_MAC: Mac = [0x02, 0xdd, 0, 0, 0, 0x04];
/// MAC of node H, the same.
const H_MAC: Mac = [0x02, 0x77, 0, 0, 0, 0x08];

/// Which programs a packet meets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rung {
    /// From the underlay: `underlay_xdp` strips, `underlay_tc` delivers.
    Xdp,
    /// From the underlay: `underlay_xdp` does both for the first pod, and strips for the second, whose veth is not in `XDP_VETHS`.
    XdpRedirect,
    /// From the underlay: `underlay_tc` does both.
    Tc,
    /// From the underlay: the kernel's vxlan device strips, `from_overlay` delivers.
    Kernel,
    /// From a pod: `from_pod`.
    Pod,
}

impl Rung {
    const UNDERLAY: [Self; 4] = [Self::Xdp, Self::XdpRedirect, Self::Tc, Self::Kernel];

    fn name(self) -> &'static str {
        match self {
            Self::Xdp => "link, xdp",
            Self::XdpRedirect => "link, xdp-redirect",
            Self::Tc => "link, tc",
            Self::Kernel => "link, kernel",
            Self::Pod => "link, pod",
        }
    }

    fn entry(self) -> Entry {
        if self == Self::Pod { Entry::Pod } else { Entry::Underlay }
    }

    fn receive_mode(self) -> u32 {
        match self {
            Self::Xdp | Self::Pod => receive::XDP,
            Self::XdpRedirect => receive::XDP_REDIRECT,
            Self::Tc => receive::TC,
            Self::Kernel => receive::KERNEL,
        }
    }

    /// What a packet from the underlay that is delivered counts first.
    fn decap(self) -> Flow {
        match self {
            Self::Xdp | Self::XdpRedirect | Self::Pod => Flow::XdpDecap,
            Self::Tc => Flow::TcDecap,
            Self::Kernel => Flow::KernelDecap,
        }
    }

    /// What the good packet behind each case counts.
    fn sentinel(self) -> Vec<Flow> {
        if self == Self::Pod { vec![Flow::PodLocal] } else { vec![self.decap(), Flow::DeliverPod] }
    }
}

/// The node under test, with its links.
pub(crate) struct Wire {
    far: FarEnds,
    attached: Option<Rung>,
}

/// Where the kernel receives, some cases end in its vxlan device before `from_overlay` could judge them: row, start of the name, why.
const KERNEL_FIRST: [(&str, &str, &str); 8] = [
    ("D9", "a wrong UDP checksum", "its socket verifies a checksum that is there"),
    ("D21", "inner source MAC is our own", "it ignores what looks like its own frame come back"),
    ("D28", "inner IPv6 with one byte", "it wants a whole inner IP header"),
    ("D28", "inner IPv6 with a version 4 header", "it wants a whole inner IPv6 header"),
    ("D30", "inner not-ECT with outer CE", "it applies RFC 6040 itself"),
    ("D31", "an inner Ethernet header alone", "it wants a whole inner IP header"),
    ("D31", "one byte of inner IP", "it wants a whole inner IP header"),
    ("D31", "a cut inner IP header", "it wants a whole inner IP header"),
];

/// Makes the node's links in the namespace the thread is in, their far ends in `far`, and returns to this one.
pub(crate) fn connect(here: &Namespace, far: &Namespace) -> Result<Wire> {
    node_links(far, "t-", true)?;
    let (index, address, port) = (OVERLAY_IFINDEX.to_string(), mac(A_VTEP), PORT.to_string());
    ip(&["link", "add", "name", "ovl0", "index", &index, "address", &address, "type", "vxlan", "external", "dstport", &port])?;
    ip(&["link", "set", "ovl0", "up"])?;
    ip(&["address", "add", "192.168.50.1/24", "dev", "eth0"])?;
    // The nodes whose MAC the agent has not learnt yet: the kernel has.
    for (address, node_mac) in [("192.168.50.4", D_MAC), ("192.168.50.8", H_MAC)] {
        ip(&["neighbour", "add", address, "lladdr", &mac(node_mac), "dev", "eth0", "nud", "permanent"])?;
    }
    far.enter()?;
    let far_ends = FarEnds::open("t-");
    // Without NAPI there, the veth takes no XDP frames.
    ensure!(ethtool::set_gro("t-pod", true)?, "GRO of the pod's end stays off");
    here.enter()?;
    Ok(Wire { far: far_ends?, attached: None })
}

/// Every underlay case by every way of receiving, and every pod case, over the links.
pub(crate) fn trials(kernel: &Shared, wire: Wire, underlay: &[Arc<Case>], pod: &[Arc<Case>]) -> Vec<Trial> {
    let wire = Arc::new(Mutex::new(wire));
    let trial = |rung: Rung, case: &Arc<Case>| {
        let (kernel, wire, case) = (Arc::clone(kernel), Arc::clone(&wire), Arc::clone(case));
        let name = format!("{} {}", case.row, case.name);
        let run = move || {
            let mut kernel = kernel.lock().unwrap_or_else(PoisonError::into_inner);
            let mut wire = wire.lock().unwrap_or_else(PoisonError::into_inner);
            wire.run(&mut kernel, rung, &case).map_err(|error| format!("{error:#}\n  packet in:\n{}", hex(&case.packet)).into())
        };
        Trial::test(name, run).with_kind(rung.name())
    };
    let underlay = Rung::UNDERLAY.iter().flat_map(|&rung| underlay.iter().map(move |case| (rung, case)));
    // What only a test run can feign, a foreign link or a super-packet, stays there.
    let pod = pod.iter().filter(|case| case.skb == Skb::default()).map(|case| (Rung::Pod, case));
    underlay.chain(pod).map(|(rung, case)| trial(rung, case)).collect()
}

impl Wire {
    fn run(&mut self, kernel: &mut Kernel, rung: Rung, case: &Case) -> Result<()> {
        if self.attached != Some(rung) {
            kernel.detach_all()?;
            kernel.attach(Program::UnderlayTc, "eth0")?;
            kernel.attach(Program::FromOverlay, "ovl0")?;
            match rung {
                Rung::Xdp | Rung::XdpRedirect => kernel.attach(Program::UnderlayXdp, "eth0")?,
                Rung::Pod => kernel.attach(Program::FromPod, "pod")?,
                Rung::Tc | Rung::Kernel => {}
            }
            self.attached = Some(rung);
        }
        kernel.settings(&Settings { receive_mode: rung.receive_mode(), ..world::settings() })?;
        kernel.clear_detours()?;
        let before = kernel.counters()?;
        let arrived = self.far.exchange(rung.entry(), &case.packet)?;
        let mut moved = Moved::between(&before, &kernel.counters()?);
        moved.without(&rung.sentinel(), FarEnds::SENTINEL_LEN)?;
        check(rung, case, &moved, &arrived)
    }
}

/// Compares what happened with what must happen.
fn check(rung: Rung, case: &Case, moved: &Moved, arrived: &Arrived) -> Result<()> {
    let listed = |(row, start, _): &(&str, &str, &str)| case.row == *row && case.name.starts_with(start);
    if rung == Rung::Kernel && KERNEL_FIRST.iter().any(listed) {
        ensure!(moved.nothing(), "listed as dropped by the kernel, but: {moved}");
        return nothing_arrived(arrived);
    }
    let counted = |flows: &[Flow], bytes: usize| -> Result<()> {
        let bytes = u64::try_from(bytes)?;
        let expected = Moved { flows: flows.iter().map(|flow| (*flow, 1, bytes)).collect(), drops: Vec::new() };
        ensure!(*moved == expected, "must count {expected}: {moved}");
        Ok(())
    };
    match &case.expect {
        Expect::NotOurs => {
            // What the programs do not take, the kernel may: its vxlan device opens it, and from_overlay throws it away.
            let thrown_away = moved.flows.is_empty() && moved.drops == [(DropReason::KernelDecapOff, 1)];
            ensure!(moved.nothing() || thrown_away, "must not be counted: {moved}");
            // The stack may answer on the underlay.
            nothing_at_pods(arrived)
        }
        Expect::DirectToHost(ip) => {
            counted(&[Flow::DeliverHost, Flow::TcDirect], ip.len() + 14)?;
            nothing_arrived(arrived)
        }
        Expect::DirectToPod(frame) => {
            let straight = rung == Rung::XdpRedirect && frame[..6] == world::POD.mac;
            counted(&[Flow::DeliverPod, if straight { Flow::XdpDirect } else { Flow::TcDirect }], frame.len())?;
            only(pod_end(arrived, frame), arrived, frame)
        }
        Expect::Drop(reason) | Expect::DirectDrop(reason) => {
            ensure!(moved.flows.is_empty() && moved.drops == [(*reason, 1)], "must count one drop {}: {moved}", reason.name());
            nothing_arrived(arrived)
        }
        Expect::ToHost(ip) => {
            counted(&[rung.decap(), Flow::DeliverHost], ip.len() + 14)?;
            nothing_arrived(arrived)
        }
        Expect::ToPod(frame) => {
            counted(&[rung.decap(), Flow::DeliverPod], frame.len())?;
            only(pod_end(arrived, frame), arrived, frame)
        }
        // The stack may answer the pod; that is not the program's doing.
        Expect::ToStack(flow) => {
            counted(&[*flow], case.packet.len())?;
            ensure!(arrived.pod2.is_empty(), "reached another pod:\n{}", hex(&arrived.pod2[0]));
            Ok(())
        }
        Expect::Sent(flow, frame) => {
            counted(&[*flow], case.packet.len())?;
            only(pod_end(arrived, frame), arrived, frame)
        }
        Expect::SentByNeighbour(flow, frame) => {
            counted(&[Flow::NeighbourEncap, *flow], case.packet.len())?;
            let mut frame = frame.clone();
            frame[..6].copy_from_slice(&H_MAC);
            only(&arrived.underlay, arrived, &frame)
        }
        Expect::Encap(flow, tunnel) => {
            counted(&[*flow], 14 + tunnel.inner.len())?;
            only_tunnelled(arrived, tunnel)
        }
        Expect::EncapByNeighbour(flow, tunnel) => {
            counted(&[*flow, Flow::NeighbourEncap], 14 + tunnel.inner.len())?;
            only_tunnelled(arrived, &Tunnel { eth: Eth::ipv4(D_MAC, world::A_MAC), ..Tunnel::clone(tunnel) })
        }
    }
}

/// The far end that `frame` is addressed to: a pod's, or the underlay's.
fn pod_end<'a>(arrived: &'a Arrived, frame: &[u8]) -> &'a [Vec<u8>] {
    match &frame[..6] {
        mac if mac == world::POD2.mac => &arrived.pod2,
        mac if mac == world::POD.mac => &arrived.pod,
        _ => &arrived.underlay,
    }
}

/// `frame` and no other came out of the node, and it came out at `end`.
fn only(end: &[Vec<u8>], arrived: &Arrived, frame: &[u8]) -> Result<()> {
    let [found] = end else { bail!("{} frames where one must arrive", end.len()) };
    ensure!(arrived.all().count() == 1, "{} more frames elsewhere", arrived.all().count() - 1);
    expect_frame(found, frame)
}

fn only_tunnelled(arrived: &Arrived, tunnel: &Tunnel) -> Result<()> {
    let [found] = &arrived.underlay[..] else { bail!("{} frames on the underlay where one must be", arrived.underlay.len()) };
    only(&arrived.underlay, arrived, &with_source_port(tunnel, found)?)
}

fn nothing_at_pods(arrived: &Arrived) -> Result<()> {
    match arrived.pod.iter().chain(&arrived.pod2).next() {
        Some(frame) => bail!("reached a pod:\n{}", hex(frame)),
        None => Ok(()),
    }
}

fn nothing_arrived(arrived: &Arrived) -> Result<()> {
    match arrived.all().next() {
        Some(frame) => bail!("came out of the node:\n{}", hex(frame)),
        None => Ok(()),
    }
}
