//! The wall clock, for what people read. Nothing is timed by it: waits and retries use the monotonic clock.

use jiff::Timestamp;

/// Now, to the second.
#[must_use]
pub fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}
