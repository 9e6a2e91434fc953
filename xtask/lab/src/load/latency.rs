//! A distribution of times: every one of them is kept, to three digits.

use hdrhistogram::Histogram;
use std::time::Duration;

/// Times from one nanosecond to a minute.
#[derive(Clone, Debug, PartialEq)]
pub struct Latency(Histogram<u64>);

impl Latency {
    /// An empty one.
    pub(super) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds the crate allows"))
    }

    pub(super) fn record(&mut self, time: Duration) {
        // More than a minute counts as a minute; no run waits that long.
        self.0.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// The time that so many of a hundred stay at or below: `percentile(99.9)`. Zero when there is none at all.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Duration {
        Duration::from_nanos(self.0.value_at_percentile(percent))
    }

    /// The average.
    #[must_use]
    pub fn mean(&self) -> Duration {
        Duration::from_secs_f64(self.0.mean() / 1e9)
    }

    /// The longest.
    #[must_use]
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.0.max())
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }
}
