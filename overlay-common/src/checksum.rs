//! The Internet checksum (RFC 1071) of an IPv4 header, and its update when a field changes (RFC 1624).

use crate::wire::Ipv4Header;

/// Folds a sum of 16-bit words to 16 bits. Exact for sums of up to 65,536 words.
#[must_use]
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    // The first fold leaves at most 0x1fffe, the second at most 0xffff.
    (sum & 0xffff) as u16
}

/// Sum of a header's twenty fixed bytes, not folded, not complemented.
#[must_use]
#[inline(always)]
pub fn sum(header: &Ipv4Header) -> u32 {
    header.words().into_iter().map(u32::from).sum()
}

/// The checksum a header without options must carry; its own `checksum` field must be zero.
#[must_use]
#[inline(always)]
pub fn of(header: &Ipv4Header) -> u16 {
    !fold(sum(header))
}

/// The checksum after one 16-bit word of the header changed: equation 3 of RFC 1624.
#[must_use]
#[inline(always)]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !fold((!checksum) as u32 + (!old) as u32 + new as u32)
}
