//! Bytes that tell their own place in a stream: pseudo-random, with a period no buffer size divides, so that a lost, doubled or swapped
//! piece of any usual size is seen, as is a changed bit. Stronger than a checksum, and comparing costs no more than `memcmp`.

use std::sync::LazyLock;

/// A prime.
const PERIOD: usize = 1_048_573;

/// Most bytes that can be compared at once.
const LONGEST: usize = 1 << 18;

/// One period, and enough of the next that any slice up to `LONGEST` is contiguous.
static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    // xorshift64 (Marsaglia 2003); any fixed seed but zero.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .take(PERIOD / 8 + 1)
    .flatten()
    .take(PERIOD)
    .collect();
    bytes.extend_from_within(..LONGEST);
    bytes
});

/// The `len` bytes at `offset` of the endless stream; `len` is at most 256 KiB.
#[must_use]
pub fn slice(offset: u64, len: usize) -> &'static [u8] {
    #[expect(clippy::cast_possible_truncation, reason = "less than PERIOD")]
    let start = (offset % PERIOD as u64) as usize;
    &BYTES[start..start + len]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_repeats_after_its_period_only() {
        assert_eq!(slice(0, LONGEST), slice(PERIOD as u64, LONGEST));
        assert_eq!(slice(PERIOD as u64 - 3, 6)[3..], *slice(0, 3));
        assert_ne!(slice(0, 16), slice(65_536, 16));
        assert_ne!(slice(0, 16), slice(1_448, 16));
    }
}
