//! What the loop tells the endpoint after each turn, and what follows from it. Values and one channel; no I/O.

use crate::cluster::{Health, SourceState};
use crate::status::Status;
use prometheus_client::metrics::histogram::Histogram;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long a turn of the loop may take, and how late it may begin, before the agent counts as stuck. A pass over 10,000 nodes takes less
/// than a second; what holds one for minutes (a lock of iptables that nobody gives back) is mended by a new process at best, and one that
/// is started in vain costs the pods nothing.
const STUCK: Duration = Duration::from_mins(5);

/// The loop's side: it tells, the endpoint answers.
#[derive(Debug)]
pub struct Report {
    snapshot: watch::Sender<Snapshot>,
    durations: Histogram,
    problem: watch::Receiver<Option<String>>,
}

/// What was told last. Small however many nodes there are.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) source: Option<SourceState>,
    pub(super) nodes: Nodes,
    pub(super) passes: Passes,
    /// What an operator should look at: the number of lines `status` begins with.
    pub(super) problems: usize,
    /// When the current turn began; none: the loop waits.
    turn: Option<Instant>,
    /// By when the loop has to tell something.
    deadline: Instant,
    /// What the first whole pass lacks; none: it is done.
    missing: Option<String>,
}

/// Nodes of the list, this one among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Nodes {
    /// That are used.
    pub(super) known: usize,
    /// That are left out.
    pub(super) rejected: usize,
}

/// Passes since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Passes {
    /// All of them.
    pub(super) made: u64,
    /// Those that left something undone.
    pub(super) failed: u64,
    /// Things they changed.
    pub(super) actions: u64,
}

impl Report {
    pub(super) fn new(snapshot: watch::Sender<Snapshot>, durations: Histogram, problem: watch::Receiver<Option<String>>) -> Self {
        Self { snapshot, durations, problem }
    }

    /// A turn of the loop begins.
    pub fn turn_begins(&self) {
        let now = Instant::now();
        self.snapshot.send_modify(|snapshot| {
            snapshot.turn = Some(now);
            snapshot.deadline = now + STUCK;
        });
    }

    /// A turn ended. `complete`: whether its pass left nothing undone; none: there was no pass, for want of a list of nodes.
    /// `actions`: what all passes changed. `wait`: for how long the loop will wait at most.
    pub fn turn_ended(&self, status: &Status, complete: Option<bool>, actions: u64, wait: Duration) {
        let now = Instant::now();
        self.snapshot.send_modify(|snapshot| {
            let begun = snapshot.turn.take();
            if let (Some(begun), Some(_)) = (begun, complete) {
                self.durations.observe(now.duration_since(begun).as_secs_f64());
            }
            snapshot.take_in(status, complete);
            snapshot.passes.actions = actions;
            snapshot.deadline = now + wait + STUCK;
        });
    }

    /// The status was brought up to date without a pass.
    pub fn told(&self, status: &Status) {
        self.snapshot.send_modify(|snapshot| {
            snapshot.measure(status);
            // Before the first pass it is the source that has the news of what is missing.
            if snapshot.missing.is_some() && snapshot.passes.made == 0 {
                snapshot.missing = missing(status, None);
            }
        });
    }

    /// Why nothing can be asked, if so.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.problem.borrow().clone()
    }
}

impl Snapshot {
    /// Of an agent that has just begun.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            source: None,
            nodes: Nodes::default(),
            passes: Passes::default(),
            problems: 0,
            turn: None,
            deadline: now + STUCK,
            missing: Some("the agent has just begun".to_owned()),
        }
    }

    fn measure(&mut self, status: &Status) {
        self.source = Some(status.source.clone());
        self.problems = status.problems(true).len();
        self.nodes = Nodes { known: status.peers.len() + usize::from(status.node.is_some()), rejected: status.rejected.len() };
    }

    fn take_in(&mut self, status: &Status, complete: Option<bool>) {
        self.measure(status);
        self.passes.made += u64::from(complete.is_some());
        self.passes.failed += u64::from(complete == Some(false));
        if self.missing.is_some() {
            self.missing = missing(status, complete);
        }
    }

    /// Whether the loop turns. Nothing else: what a new process would not mend is no reason for one.
    pub(super) fn health(&self, now: Instant) -> Result<(), String> {
        match (now.checked_duration_since(self.deadline), self.turn) {
            (None, _) => Ok(()),
            (Some(_), Some(begun)) => Err(format!("a pass has been at work for {} s", now.duration_since(begun).as_secs())),
            (Some(late), None) => Err(format!("the next pass should have begun {} s ago", (late + STUCK).as_secs())),
        }
    }

    /// Whether one whole pass was made since the agent started. Stays: a later failure is for metrics and status to tell, and takes
    /// nothing from the pods.
    pub(super) fn readiness(&self) -> Result<(), String> {
        self.missing.clone().map_or(Ok(()), Err)
    }
}

/// What keeps this pass from being a whole one.
fn missing(status: &Status, complete: Option<bool>) -> Option<String> {
    let Some(complete) = complete else {
        let why = status.source.last_error.as_ref().filter(|_| status.source.health != Health::Healthy);
        return Some(why.map_or_else(|| "no list of nodes yet".to_owned(), |error| format!("no list of nodes yet: {}", error.message)));
    };
    if complete && status.node.is_some() {
        return None;
    }
    let errors = status.last_pass.as_ref().map(|pass| pass.errors.join("\n")).filter(|errors| !errors.is_empty());
    Some(errors.unwrap_or_else(|| format!("the list of nodes does not have this node, {}", status.node_name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(seconds: u64) -> (Snapshot, Instant) {
        let begun = Instant::now();
        (Snapshot::new(begun), begun + Duration::from_secs(seconds))
    }

    #[test]
    fn a_loop_that_turns_is_alive_whatever_fails() {
        let (mut snapshot, later) = after(299);
        assert_eq!(snapshot.health(later), Ok(()));
        snapshot.passes.failed = 1000;
        assert_eq!(snapshot.health(later), Ok(()));
    }

    #[test]
    fn a_loop_that_is_stuck_says_where() {
        let (mut snapshot, later) = after(301);
        let begun = Instant::now();
        assert_eq!(snapshot.health(later), Err("the next pass should have begun 301 s ago".to_owned()));
        snapshot.turn = Some(begun);
        assert!(snapshot.health(later).unwrap_err().starts_with("a pass has been at work for 30"));
    }
}
