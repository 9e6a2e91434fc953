//! How long to wait before the API server is asked again.
//!
//! Pure; the caller brings the random number. The numbers, for the case that counts, a server of 5,000 nodes that comes back: half a wait
//! is at random, so agents that lost it in the same moment spread over the first second, and from the fifth attempt on each one asks
//! every 5 to 10 seconds, together 670 times a second. That is what the same 5,000 kubelets ask for their leases in 8 seconds, and most
//! of it is refused or a watch from a known version, the cheapest request there is. A server that is back is noticed within 10 s, on
//! average within 4.

use std::time::Duration;

/// Longest wait that is our own idea.
const LONGEST: Duration = Duration::from_secs(10);
/// Longest wait a server can ask for: one that says an hour most likely means something else.
const LONGEST_ASKED: Duration = Duration::from_mins(2);
/// How much later than asked for is still polite, as a part: a server that tells thousands the same time should not get them all at once.
const SPREAD: f64 = 0.5;

/// Counts failures in a row.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after a failure. `asked`: what the server asked for (`Retry-After`). `random`: from 0 to below 1.
    pub(super) fn next(&mut self, asked: Option<Duration>, random: f64) -> Duration {
        let ceiling = Duration::from_secs(1 << self.failures.min(4)).min(LONGEST);
        // The first one may come at any time from now on: what everybody loses at once everybody asks for at once.
        let least = if self.failures == 0 { 0.0 } else { 0.5 };
        self.failures = self.failures.saturating_add(1);
        let ours = ceiling.mul_f64(least + (1.0 - least) * random);
        match asked {
            Some(asked) => asked.min(LONGEST_ASKED).mul_f64(1.0 + SPREAD * random).max(ours),
            None => ours,
        }
    }

    /// It works again.
    pub(super) const fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_ten_seconds_and_no_further() {
        let (mut shortest, mut longest) = (Backoff::default(), Backoff::default());
        let shortest: Vec<_> = (0..7).map(|_| shortest.next(None, 0.0).as_secs_f64()).collect();
        let longest: Vec<_> = (0..7).map(|_| longest.next(None, 1.0).as_secs_f64()).collect();
        assert_eq!(shortest, [0.0, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0]);
        assert_eq!(longest, [1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]);
    }

    #[test]
    fn what_the_server_asks_for_is_waited_for() {
        let asked = |seconds, random| Backoff::default().next(Some(Duration::from_secs(seconds)), random);
        assert_eq!(asked(30, 0.0), Duration::from_secs(30));
        assert_eq!(asked(30, 1.0), Duration::from_secs(45));
        assert_eq!(asked(0, 1.0), Duration::from_secs(1), "our own wait stays");
        assert_eq!(asked(u64::MAX, 0.0), LONGEST_ASKED);
    }

    #[test]
    fn after_success_it_begins_anew() {
        let mut backoff = Backoff { failures: u32::MAX };
        assert_eq!(backoff.next(None, 1.0), LONGEST);
        backoff.reset();
        assert_eq!(backoff.next(None, 1.0), Duration::from_secs(1));
    }
}
