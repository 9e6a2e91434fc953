//! Explicit congestion notification across the tunnel (RFC 6040).

use crate::reason::DropReason;

/// Not ECN capable.
pub const NOT_ECT: u8 = 0;
/// ECN capable, code point 1.
pub const ECT_1: u8 = 1;
/// ECN capable, code point 0.
pub const ECT_0: u8 = 2;
/// Congestion experienced.
pub const CE: u8 = 3;

/// Outer bits for an inner packet: normal mode, they are copied (RFC 6040 section 4.1).
#[must_use]
#[inline(always)]
pub const fn encapsulate(inner: u8) -> u8 {
    inner & 3
}

/// Inner bits after decapsulation (RFC 6040 section 4.2, figure 4).
///
/// # Errors
/// [`DropReason::Ecn`]: congestion was marked on a packet whose sender would not understand; the RFC and the kernel drop it.
#[inline(always)]
pub const fn decapsulate(outer: u8, inner: u8) -> Result<u8, DropReason> {
    match (outer & 3, inner & 3) {
        (CE, NOT_ECT) => Err(DropReason::Ecn),
        (CE, _) => Ok(CE),
        (ECT_1, ECT_0) => Ok(ECT_1),
        (_, inner) => Ok(inner),
    }
}
