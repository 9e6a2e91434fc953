//! The programs. Each entry calls its function, counts a drop and converts the verdict; everything else is in the modules.
//!
//! Runs in the kernel only. Reads maps and the packet at hand; writes `COUNTERS` and `DETOUR`, nothing else. Never logs a packet in a
//! release build.

#![no_std]
#![no_main]
#![expect(clippy::needless_pass_by_value, reason = "the entry macros hand contexts over by value")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "helpers take C's int, and no length of a packet or a structure comes near 2^31"
)]

mod count;
mod deliver;
mod direct;
mod host;
mod log;
mod maps;
mod pod;
mod receive;
mod transmit;
mod view;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use overlay_common::abi::program;
use overlay_common::reason::DropReason;

/// TC: go on with the next program and then the stack (`TCX_NEXT`), so that others at the hook still see the packet.
const PASS: i32 = TC_ACT_UNSPEC;
/// XDP: on to the stack.
const XDP_PASS: u32 = xdp_action::XDP_PASS;
/// XDP: out of the device named before.
const XDP_REDIRECT: u32 = xdp_action::XDP_REDIRECT;
/// XDP: gone.
const XDP_DROP: u32 = xdp_action::XDP_DROP;

/// XDP of the underlay NIC.
#[xdp(frags)]
fn underlay_xdp(ctx: XdpContext) -> u32 {
    receive::xdp(&ctx).unwrap_or_else(|reason| {
        count::drop(reason);
        log::dropped(&ctx, program::UNDERLAY_XDP, reason);
        XDP_DROP
    })
}

/// TC ingress of the underlay NIC.
#[classifier]
fn underlay_tc(ctx: TcContext) -> i32 {
    tc_verdict(&ctx, program::UNDERLAY_TC, receive::tc(&ctx))
}

/// TC ingress of the overlay device.
#[classifier]
fn from_overlay(ctx: TcContext) -> i32 {
    tc_verdict(&ctx, program::FROM_OVERLAY, receive::overlay(&ctx))
}

/// TC egress of the overlay device.
#[classifier]
fn from_host(ctx: TcContext) -> i32 {
    tc_verdict(&ctx, program::FROM_HOST, host::from_host(&ctx))
}

/// TC egress of the underlay NIC, while nodes are sent packets as they are.
#[classifier]
fn to_underlay(ctx: TcContext) -> i32 {
    direct::note(&ctx);
    PASS
}

/// TC ingress of a pod's host-side veth.
#[classifier]
fn from_pod(ctx: TcContext) -> i32 {
    tc_verdict(&ctx, program::FROM_POD, pod::from_pod(&ctx))
}

/// Counts a drop and turns it into TC's number for it.
#[inline(always)]
fn tc_verdict(ctx: &TcContext, program: &str, verdict: Result<i32, DropReason>) -> i32 {
    verdict.unwrap_or_else(|reason| {
        count::drop(reason);
        log::dropped(ctx, program, reason);
        TC_ACT_SHOT
    })
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // No code of ours panics: the verifier would refuse the endless loop if this were reachable.
    loop {}
}

/// The kernel offers `bpf_redirect_peer` and others to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
