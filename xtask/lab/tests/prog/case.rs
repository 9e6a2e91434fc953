//! A row of the table as a test: one packet, one expectation, checked to the last byte and the last counter.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, bail, ensure};
use libtest_mimic::Trial;
use overlay_common::abi::receive;
use overlay_common::counters::Flow;
use overlay_common::reason::DropReason;

use crate::kernel::{Kernel, Program, Ran, Skb, hex};
use crate::packet::Tunnel;
use crate::world;

/// The one object all rows share.
pub(crate) type Shared = Arc<Mutex<Kernel>>;

/// TC: on to the next program and the stack.
pub(crate) const TC_NEXT: i32 = -1;
/// TC: dropped.
pub(crate) const TC_SHOT: i32 = 2;
/// TC: sent to another link.
pub(crate) const TC_REDIRECT: i32 = 7;
/// XDP: dropped.
pub(crate) const XDP_DROP: i32 = 1;
/// XDP: on to the stack.
pub(crate) const XDP_PASS: i32 = 2;
/// XDP: sent to another link.
pub(crate) const XDP_REDIRECT: i32 = 4;

/// What must become of a packet.
pub(crate) enum Expect {
    /// On to the stack as it came, and no counter moves: not ours.
    NotOurs,
    /// Dropped, and this reason alone is counted.
    Drop(DropReason),
    /// From the tunnel: exactly this frame goes to the pod.
    ToPod(Vec<u8>),
    /// From the tunnel: exactly these IP bytes go to the host's stack, as arrived on the overlay device.
    ToHost(Vec<u8>),
    /// From a neighbour without a tunnel: exactly this frame goes to the pod.
    DirectToPod(Vec<u8>),
    /// From a neighbour without a tunnel: to the host's stack, with exactly these IP bytes.
    DirectToHost(Vec<u8>),
    /// From a neighbour without a tunnel: dropped, and this reason alone is counted.
    DirectDrop(DropReason),
    /// From a pod: on to the stack as it came, counted as this flow.
    ToStack(Flow),
    /// From a pod: exactly this frame is sent to another link, counted as this flow.
    Sent(Flow, Vec<u8>),
    /// As [`Expect::Sent`] to the underlay, but the kernel's neighbour table writes the Ethernet header; counted as `neigh_encap` too.
    SentByNeighbour(Flow, Vec<u8>),
    /// Exactly this packet is sent to the underlay, counted as this flow. Its UDP source port is the program's choice within 49152–65535.
    Encap(Flow, Box<Tunnel>),
    /// As [`Expect::Encap`], but the kernel's neighbour table writes the outer Ethernet header; counted as `neigh_encap` too.
    EncapByNeighbour(Flow, Box<Tunnel>),
}

/// One row, or one of the cases a row stands for.
pub(crate) struct Case {
    /// Number of the row in docs/packets.md.
    pub(crate) row: &'static str,
    /// What the packet is, as a sentence.
    pub(crate) name: String,
    pub(crate) packet: Vec<u8>,
    pub(crate) skb: Skb,
    pub(crate) expect: Expect,
}

impl Case {
    pub(crate) fn new(row: &'static str, name: impl Into<String>, packet: Vec<u8>, expect: Expect) -> Self {
        Self { row, name: name.into(), packet, skb: Skb::default(), expect }
    }
}

/// Cases of the underlay, each through XDP, which hands on or delivers, and through TC: all must agree.
///
/// A test run takes no frame of more than a page, and at TC none that ends inside an IPv4 header (`bpf_prog_test_run_skb`): those cases run
/// over links only (`wire`).
pub(crate) fn underlay_trials(kernel: &Shared, cases: &[Arc<Case>]) -> Vec<Trial> {
    let mut trials = Vec::new();
    for case in cases {
        for (mode, program, shortest) in [
            (receive::XDP, Program::UnderlayXdp, 14),
            (receive::XDP_REDIRECT, Program::UnderlayXdp, 14),
            (receive::TC, Program::UnderlayTc, 34),
        ] {
            if (shortest..3500).contains(&case.packet.len()) {
                trials.push(trial(kernel, program, mode, Arc::clone(case)));
            }
        }
    }
    trials
}

/// Cases of one TC program; see [`underlay_trials`] for those too short.
pub(crate) fn tc_trials(kernel: &Shared, program: Program, cases: &[Arc<Case>]) -> Vec<Trial> {
    let runs = |case: &&Arc<Case>| case.packet.len() >= 34 || case.packet[12..14] != [8, 0];
    cases.iter().filter(runs).map(|case| trial(kernel, program, receive::XDP, Arc::clone(case))).collect()
}

fn trial(kernel: &Shared, program: Program, receive_mode: u32, case: Arc<Case>) -> Trial {
    let name = format!("{} {}", case.row, case.name);
    let kind = if receive_mode == receive::XDP_REDIRECT { "underlay_xdp, redirect" } else { program.name() };
    story(kernel, kind, &name, move |kernel| {
        kernel.settings(&overlay_common::abi::Settings { receive_mode, ..world::settings() })?;
        kernel.clear_detours()?;
        let ran = kernel.run(program, &case.packet, case.skb)?;
        check(program, &case, &ran).map_err(|error| anyhow::anyhow!("{error}\n  packet in:\n{}", hex(&case.packet)))
    })
}

/// A test that needs more than one packet or another world. It leaves the world as it found it.
pub(crate) fn story(kernel: &Shared, kind: &str, name: &str, run: impl FnOnce(&mut Kernel) -> Result<()> + Send + 'static) -> Trial {
    let kernel = Arc::clone(kernel);
    let run = move || run(&mut kernel.lock().unwrap_or_else(PoisonError::into_inner)).map_err(|error| format!("{error:#}").into());
    Trial::test(name, run).with_kind(kind)
}

/// Compares what happened with what must happen.
pub(crate) fn check(program: Program, case: &Case, ran: &Ran) -> Result<()> {
    let xdp = program == Program::UnderlayXdp;
    let (pass, drop) = if xdp { (XDP_PASS, XDP_DROP) } else { (TC_NEXT, TC_SHOT) };
    // What XDP strips goes on to TC, which redirects it; TC does both at once.
    let delivered = if xdp { XDP_PASS } else { TC_REDIRECT };
    // Or XDP does both too, for a pod whose veth takes its frames: in this world the first pod's.
    let straight = |frame: &[u8]| ran.receive_mode == receive::XDP_REDIRECT && frame[..6] == world::POD.mac;
    // Without a tunnel XDP has nothing to do but to send frames straight into pods; TC meets the rest.
    let left_to_tc = xdp
        && match &case.expect {
            Expect::DirectToPod(frame) => !straight(frame),
            Expect::DirectToHost(_) => true,
            Expect::DirectDrop(_) => ran.receive_mode != receive::XDP_REDIRECT,
            _ => false,
        };
    if left_to_tc {
        expect_verdict(ran, pass)?;
        ensure!(ran.moved.nothing() && ran.meta.is_empty(), "XDP must leave it to TC: {}", ran.moved);
        return expect_frame(&ran.frame, &case.packet);
    }
    let direct = if xdp { Flow::XdpDirect } else { Flow::TcDirect };
    let decap = if xdp { Flow::XdpDecap } else { Flow::TcDecap };
    match &case.expect {
        Expect::NotOurs => {
            expect_verdict(ran, pass)?;
            ensure!(ran.moved.nothing(), "must not be counted: {}", ran.moved);
            ensure!(ran.meta.is_empty(), "must carry no metadata");
            expect_frame(&ran.frame, &case.packet)
        }
        Expect::DirectToPod(frame) => {
            expect_flows(ran, &[Flow::DeliverPod, direct], frame.len())?;
            expect_verdict(ran, if xdp { XDP_REDIRECT } else { TC_REDIRECT })?;
            expect_frame(&ran.frame, frame)
        }
        Expect::DirectToHost(ip) => {
            expect_flows(ran, &[Flow::DeliverHost, direct], ip.len() + 14)?;
            // No route of this world leads back out of the NIC.
            expect_verdict(ran, TC_REDIRECT)?;
            ensure!(ran.frame[..6] == world::A_VTEP, "destination MAC must be the overlay device's:\n{}", hex(&ran.frame));
            expect_frame(&ran.frame[14..], ip)
        }
        Expect::Drop(reason) | Expect::DirectDrop(reason) => {
            ensure!(
                ran.moved.flows.is_empty() && ran.moved.drops == [(*reason, 1)],
                "must count one drop {}: {}",
                reason.name(),
                ran.moved
            );
            expect_verdict(ran, drop)
        }
        Expect::ToPod(frame) => {
            expect_flows(ran, &[decap, Flow::DeliverPod], frame.len())?;
            expect_verdict(ran, if straight(frame) { XDP_REDIRECT } else { delivered })?;
            ensure!(!straight(frame) || ran.meta.is_empty(), "must carry no metadata to the pod");
            expect_frame(&ran.frame, frame)
        }
        Expect::ToHost(ip) => {
            expect_flows(ran, &[decap, Flow::DeliverHost], ip.len() + 14)?;
            expect_verdict(ran, delivered)?;
            ensure!(ran.frame.len() >= 14, "no Ethernet header left:\n{}", hex(&ran.frame));
            ensure!(ran.frame[..6] == world::A_VTEP, "destination MAC must be the overlay device's:\n{}", hex(&ran.frame));
            ensure!(ran.frame[12..14] == [8, 0], "ethertype must be IPv4:\n{}", hex(&ran.frame));
            expect_frame(&ran.frame[14..], ip)
        }
        Expect::ToStack(flow) => {
            expect_flows(ran, &[*flow], case.packet.len())?;
            expect_verdict(ran, TC_NEXT)?;
            expect_frame(&ran.frame, &case.packet)
        }
        Expect::Sent(flow, frame) => {
            expect_flows(ran, &[*flow], case.packet.len())?;
            expect_verdict(ran, TC_REDIRECT)?;
            expect_frame(&ran.frame, frame)
        }
        Expect::SentByNeighbour(flow, frame) => {
            expect_flows(ran, &[Flow::NeighbourEncap, *flow], case.packet.len())?;
            expect_verdict(ran, TC_REDIRECT)?;
            expect_frame(&ran.frame[12..], &frame[12..])
        }
        Expect::Encap(flow, tunnel) => {
            expect_flows(ran, &[*flow], 14 + tunnel.inner.len())?;
            expect_verdict(ran, TC_REDIRECT)?;
            expect_frame(&ran.frame, &with_source_port(tunnel, &ran.frame)?)
        }
        Expect::EncapByNeighbour(flow, tunnel) => {
            expect_flows(ran, &[*flow, Flow::NeighbourEncap], 14 + tunnel.inner.len())?;
            expect_verdict(ran, TC_REDIRECT)?;
            let expected = with_source_port(tunnel, &ran.frame)?;
            expect_frame(&ran.frame[12..], &expected[12..])
        }
    }
}

/// `tunnel` with the UDP source port found in `frame`, which must be one of 49152–65535 (RFC 7348 section 5).
pub(crate) fn with_source_port(tunnel: &Tunnel, frame: &[u8]) -> Result<Vec<u8>> {
    let Some(port) = source_port(frame) else { bail!("too short to be VXLAN:\n{}", hex(frame)) };
    ensure!(port >= 49_152, "source port {port} is not in 49152-65535");
    Ok(tunnel.clone().edit(|tunnel| tunnel.udp.src = port).bytes())
}

/// The UDP source port of an untagged frame whose IP header has no options.
pub(crate) fn source_port(frame: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(frame.get(34..36)?.try_into().ok()?))
}

fn expect_verdict(ran: &Ran, verdict: i32) -> Result<()> {
    ensure!(ran.verdict == verdict, "verdict {}, must be {verdict}; {}", ran.verdict, ran.moved);
    Ok(())
}

fn expect_flows(ran: &Ran, flows: &[Flow], bytes: usize) -> Result<()> {
    let bytes = u64::try_from(bytes)?;
    let expected: Vec<_> = flows.iter().map(|flow| (*flow, 1, bytes)).collect();
    let names = || flows.iter().map(|flow| flow.name()).collect::<Vec<_>>().join(" and ");
    ensure!(ran.moved.drops.is_empty() && ran.moved.flows == expected, "must count {} with {bytes} bytes: {}", names(), ran.moved);
    Ok(())
}

/// The two must be the same to the last byte.
pub(crate) fn expect_frame(found: &[u8], expected: &[u8]) -> Result<()> {
    let Some(at) = (0..found.len().max(expected.len())).find(|&at| found.get(at) != expected.get(at)) else { return Ok(()) };
    bail!("wrong from byte {at:#x} on; {} bytes out:\n{}  must be {}:\n{}", found.len(), hex(found), expected.len(), hex(expected))
}
