//! Packets nobody thought of: mutations of every row's packet, through XDP and TC, which must agree on each of them.
//!
//! The generator is fixed: the same packets on every run and machine.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use overlay_common::counters::Flow;

use crate::case::{Case, Shared, TC_NEXT, TC_REDIRECT, TC_SHOT, XDP_DROP, XDP_PASS, story};
use crate::kernel::{Kernel, Moved, Program, Skb, hex};
use crate::packet::checksum;

/// Mutated packets per run, about a second's worth.
const ROUNDS: usize = 20_000;
/// A test run at TC takes no IPv4 or IPv6 frame shorter than its headers.
const SHORTEST: usize = 14 + 40;
/// Offsets of the two IP headers in a packet without options.
const IP_HEADERS: [usize; 2] = [14, 64];

/// One test that runs them all.
pub(crate) fn trial(kernel: &Shared, cases: &[Arc<Case>]) -> Trial {
    let packets: Vec<Vec<u8>> =
        cases.iter().map(|case| case.packet.clone()).filter(|packet| (SHORTEST..1500).contains(&packet.len())).collect();
    let name = format!("D0 XDP and TC agree on {ROUNDS} mutated packets");
    story(kernel, "underlay", &name, move |kernel| {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for round in 0..ROUNDS {
            let mut packet = packets[random.below(packets.len())].clone();
            for _ in 0..=random.below(3) {
                mutate(&mut random, &mut packet);
            }
            agree(kernel, &packet).with_context(|| format!("round {round}; packet in:\n{}", hex(&packet)))?;
        }
        Ok(())
    })
}

/// xorshift64 (Marsaglia, "Xorshift RNGs", 2003).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 16).expect("48 bits") % end
    }
}

/// One change anywhere, mostly in the headers; then, three times out of four, right IP checksums, so that the checks behind them are met.
fn mutate(random: &mut Random, packet: &mut Vec<u8>) {
    let at = if random.below(8) == 0 { random.below(packet.len()) } else { random.below(packet.len().min(100)) };
    match random.below(8) {
        0 => packet.truncate(at.max(SHORTEST)),
        1 => packet.extend(std::iter::repeat_n(0xa5, random.below(40))),
        2 => packet[at] = [0, 1, 4, 5, 6, 0x45, 0x7f, 0xff][random.below(8)],
        3 | 4 => packet[at] = u8::try_from(random.below(256)).expect("a byte"),
        _ => packet[at] ^= 1 << random.below(8),
    }
    if random.below(4) != 0 {
        for start in IP_HEADERS {
            if let Some(header) = packet.get_mut(start..start + 20) {
                header[10..12].fill(0);
                let sum = checksum(header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
            }
        }
    }
}

/// The two programs let through, drop or deliver the same bytes, and count the same.
fn agree(kernel: &mut Kernel, packet: &[u8]) -> Result<()> {
    let xdp = kernel.run(Program::UnderlayXdp, packet, Skb::default())?;
    let tc = kernel.run(Program::UnderlayTc, packet, Skb::default())?;
    let as_tc = |flow| if flow == Flow::XdpDecap { Flow::TcDecap } else { flow };
    let expected = Moved {
        flows: xdp.moved.flows.iter().map(|(flow, packets, bytes)| (as_tc(*flow), *packets, *bytes)).collect(),
        drops: xdp.moved.drops.clone(),
    };
    ensure!(tc.moved == expected, "XDP: {}; TC: {}", xdp.moved, tc.moved);
    let verdicts = match (xdp.moved.drops.len(), xdp.moved.flows.len()) {
        (0, 0) => (XDP_PASS, TC_NEXT),
        (1, 0) => (XDP_DROP, TC_SHOT),
        (0, 2) => (XDP_PASS, TC_REDIRECT),
        _ => anyhow::bail!("counted as more than one thing: {}", xdp.moved),
    };
    ensure!((xdp.verdict, tc.verdict) == verdicts, "verdicts {} and {}, must be {verdicts:?}", xdp.verdict, tc.verdict);
    ensure!(xdp.moved.drops.len() == 1 || xdp.frame == tc.frame, "XDP:\n{}TC:\n{}", hex(&xdp.frame), hex(&tc.frame));
    Ok(())
}
