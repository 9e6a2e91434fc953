//! Counts verdicts and drops in this CPU's [`COUNTERS`]: one lookup, one or two additions, no atomics.

use crate::maps::COUNTERS;
use core::mem::offset_of;
use overlay_common::counters::{Counters, Flow};
use overlay_common::reason::DropReason;

/// Adds one packet of `bytes` to a flow.
#[inline(always)]
pub(crate) fn flow(flow: Flow, bytes: usize) {
    flows([flow], bytes);
}

/// Adds one packet of `bytes` to each of these flows.
#[inline(always)]
pub(crate) fn flows<const N: usize>(flows: [Flow; N], bytes: usize) {
    let Some(counters) = COUNTERS.get_ptr_mut(0) else { return };
    for flow in flows {
        add(counters, flow, bytes);
    }
}

#[inline(always)]
fn add(counters: *mut Counters, flow: Flow, bytes: usize) {
    let pair = counters.cast::<[u64; 2]>().wrapping_byte_add(offset_of!(Counters, flows)).wrapping_add(flow as usize);
    // SAFETY: `Flows` is one pair of `u64` per `Flow`, in the order of their numbers (the macro that makes both asserts it), and the
    // slot belongs to this CPU.
    unsafe {
        (*pair)[0] += 1;
        (*pair)[1] += bytes as u64;
    }
}

/// Adds one dropped packet.
#[inline(always)]
pub(crate) fn drop(reason: DropReason) {
    let Some(counters) = COUNTERS.get_ptr_mut(0) else { return };
    let index = reason as usize;
    // The verifier does not know that an enum has no other value.
    if index >= DropReason::ALL.len() {
        return;
    }
    let slot = counters.cast::<u64>().wrapping_byte_add(offset_of!(Counters, drops)).wrapping_add(index);
    // SAFETY: `Drops` is one `u64` per `DropReason`, in the order of their numbers, and the index was checked against their count.
    unsafe { *slot += 1 }
}
