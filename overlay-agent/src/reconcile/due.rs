//! When the loop does what: a reason makes it sooner, a rest puts it off. Knows no reason by name, and does nothing.

use super::pass::Look;
use std::time::Duration;
use tokio::time::Instant;

/// How long events of the kernel are gathered before a pass: a burst of them is one reason. News of the cluster waits for nothing.
const SETTLE: Duration = Duration::from_millis(50);

/// Why there is something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// Look again.
    Look(Look),
    /// Only what the status says changed.
    Telling,
}

/// When to do what.
pub(super) struct Due {
    /// A pass over everything: there is always a next one.
    pub(super) everything: Instant,
    /// A pass for news of the cluster.
    pub(super) cluster: Option<Instant>,
    /// Writing the status.
    pub(super) telling: Option<Instant>,
}

/// Before which what is not to be done again.
pub(super) struct Rested {
    pub(super) everything: Instant,
    pub(super) cluster: Instant,
    pub(super) telling: Instant,
}

impl Due {
    /// Takes in a reason.
    pub(super) fn hasten(&mut self, reason: Reason, rested: &Rested) {
        let now = Instant::now();
        match reason {
            Reason::Look(Look::Everything) => self.everything = self.everything.min(rested.everything.max(now + SETTLE)),
            Reason::Look(Look::Cluster) => self.cluster = self.cluster.or(Some(rested.cluster.max(now))),
            Reason::Telling => self.telling = self.telling.or(Some(rested.telling.max(now))),
        }
    }

    pub(super) fn next(&self) -> Instant {
        [self.cluster, self.telling].into_iter().flatten().fold(self.everything, Instant::min)
    }

    /// The pass to make now; `None`: only the status is due.
    pub(super) fn look(&self, now: Instant) -> Option<Look> {
        let cluster = self.cluster.is_some_and(|due| due <= now);
        if self.everything <= now { Some(Look::Everything) } else { cluster.then_some(Look::Cluster) }
    }
}
