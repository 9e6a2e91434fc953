//! Log lines of a debug build (`cargo xtask build-ebpf --log`); nothing at all in the released object, which bpftool has to load.
//!
//! One line per drop: program and the stable number of the reason (`overlay_common::reason`). The number and not the name, because a
//! table of strings would need relocations inside data that aya does not do.

use aya_ebpf::EbpfContext;
use overlay_common::reason::DropReason;

/// Tells of a drop.
#[cfg(feature = "log")]
#[inline(always)]
pub(crate) fn dropped<C: EbpfContext>(ctx: &C, program: &str, reason: DropReason) {
    aya_log_ebpf::info!(ctx, "{} dropped a packet, reason {}", program, reason as u32);
}

/// Tells nothing.
#[cfg(not(feature = "log"))]
#[inline(always)]
pub(crate) fn dropped<C: EbpfContext>(_ctx: &C, _program: &str, _reason: DropReason) {}
