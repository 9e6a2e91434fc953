//! Where the list of nodes comes from: sources behind one small interface.
//!
//! A source runs as a task of its own and publishes whole [`Topology`] snapshots, never deltas: the latest wins, a reader that was away
//! misses nothing. It never ends: what goes wrong is reported in its [`SourceState`] and the last good snapshot stays.
//! The only module that imports kube. Touches no kernel state.

pub mod annotations;
pub mod conflicts;
pub mod file;
pub mod kubernetes;
pub mod list;
pub mod nodes;
pub mod object;
pub mod picture;
pub mod publish;
pub mod saved;
mod state;

pub use kubernetes::{Access, Memory};
pub use state::{Contact, Health, Held, SourceError, SourceKind, SourceState};

use crate::clock::now;
use crate::config::Source;
use crate::model::{RejectedNode, Topology};
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{debug, error, info, warn};

/// Starts the source. Needs a tokio runtime. `recheck`: how often a file is looked at even if no event told of a change. `memory`: what
/// the Kubernetes source begins with.
#[must_use]
pub fn start(source: &Source, recheck: Duration, memory: Memory) -> Subscription {
    match source {
        Source::File(path) => file::follow(path.clone(), recheck),
        Source::Kubernetes { kubeconfig, api_server } => {
            kubernetes::follow(Access::Files { kubeconfig: kubeconfig.clone(), api_server: api_server.clone() }, memory)
        }
    }
}

/// A running source. Dropping it ends the source.
#[derive(Debug)]
pub struct Subscription {
    /// The newest snapshot; `None` until there is a first one.
    pub topology: watch::Receiver<Option<Arc<Topology>>>,
    /// How the source is.
    pub state: watch::Receiver<SourceState>,
    /// When it last said anything.
    pub contact: Contact,
    task: JoinHandle<()>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The sending side of a [`Subscription`]: held by the source's task.
#[derive(Debug)]
struct Publisher {
    topology: watch::Sender<Option<Arc<Topology>>>,
    state: watch::Sender<SourceState>,
    contact: Contact,
}

/// Runs `source` as a task and returns the receiving side.
fn spawn<F>(kind: SourceKind, place: String, source: impl FnOnce(Publisher) -> F) -> Subscription
where
    F: Future<Output = ()> + Send + 'static,
{
    let (topology_sender, topology) = watch::channel(None);
    let (state_sender, state) = watch::channel(SourceState::new(kind, place));
    let contact = Contact::default();
    let task = tokio::spawn(source(Publisher { topology: topology_sender, state: state_sender, contact: contact.clone() }));
    Subscription { topology, state, contact, task }
}

impl Publisher {
    /// Publishes a snapshot. Receivers wake only if it differs from the last one; returns whether they did.
    fn publish(&self, topology: Topology) -> bool {
        self.topology.send_if_modified(|current| {
            if current.as_deref() == Some(&topology) {
                return false;
            }
            log_change(current.as_deref().unwrap_or(&Topology::default()), &topology);
            *current = Some(Arc::new(topology));
            true
        })
    }

    /// Says that what was published is current.
    fn healthy(&self) {
        self.contact.now();
        self.state.send_if_modified(|state| {
            if state.health == Health::Healthy {
                return false;
            }
            state.stale_since = None;
            state.waiting_for = None;
            info!(source = %state.kind, place = state.place, "the list of nodes is current");
            state.health = Health::Healthy;
            state.since = now();
            true
        });
    }

    /// Says what went wrong.
    fn failed(&self, problem: &dyn std::error::Error) {
        let message = with_causes(problem);
        let last = self.contact.last();
        self.state.send_if_modified(|state| {
            let failing = state.health == Health::Failing;
            if failing && state.last_error.as_ref().is_some_and(|last| last.message == message) {
                return false;
            }
            error!(source = %state.kind, place = state.place, problem = message, "the list of nodes cannot be followed; the last good one stays");
            if !failing {
                state.health = Health::Failing;
                state.since = now();
                state.stale_since = last.or(state.from_disk);
            }
            state.last_error = Some(SourceError { at: now(), message });
            true
        });
    }

    /// Says what would make it better.
    fn waits_for(&self, what: Option<String>) {
        self.state.send_if_modified(|state| {
            let news = state.waiting_for != what;
            state.waiting_for = what;
            news
        });
    }

    /// Says since when what is published is from disk, or that it is not any more.
    fn tell_disk(&self, saved: Option<Timestamp>) {
        self.state.send_if_modified(|state| std::mem::replace(&mut state.from_disk, saved) != saved);
    }

    /// Says what is held. `names`: all of them.
    fn holds(&self, reason: &str, names: &[&str]) {
        self.state.send_if_modified(|state| {
            if state.held.as_ref().is_some_and(|held| held.reason == reason && held.count == names.len()) {
                return false;
            }
            let since = state.held.as_ref().map_or_else(now, |held| held.since);
            let told = names.iter().take(Held::NAMES).map(|name| (*name).to_owned()).collect();
            let held = Held { since, reason: reason.to_owned(), count: names.len(), names: told };
            warn!(source = %state.kind, place = state.place, nodes = names.join(","), reason, "removals held until a second list confirms them");
            state.held = Some(held);
            true
        });
    }

    /// Says that nothing is held.
    fn holds_nothing(&self) {
        self.state.send_if_modified(|state| {
            let held = state.held.take();
            if let Some(held) = &held {
                info!(source = %state.kind, place = state.place, nodes = held.count, since = %held.since, "nothing is held any more");
            }
            held.is_some()
        });
    }

    /// Replaces the place told by the state, once it is known better.
    fn set_place(&self, place: String) {
        self.state.send_if_modified(|state| {
            let news = state.place != place;
            state.place = place;
            news
        });
    }
}

/// The message of an error and of what caused it, each said once: many errors repeat their cause in their own text.
fn with_causes(problem: &dyn std::error::Error) -> String {
    let mut text = problem.to_string();
    let mut cause = problem.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}

/// Nodes that join or change at once and get a line each in the log at its usual level.
const LOGGED: usize = 32;

fn log_change(before: &Topology, after: &Topology) {
    let differences = before.differences(after);
    for (index, (old, new)) in differences.iter().enumerate() {
        let Some(node) = new else {
            info!(node = old.map(|node| node.name.as_str()), "node gone");
            continue;
        };
        let what = if old.is_some() { "node changed" } else { "node joined" };
        if index < LOGGED {
            info!(node = node.name, address = %node.address, pod_cidr = %node.pod_cidr, "{what}");
        } else {
            debug!(node = node.name, address = %node.address, pod_cidr = %node.pod_cidr, "{what}");
        }
        if let Some(notice) = &node.notice
            && old.is_none_or(|old| old.notice.as_ref() != Some(notice))
        {
            warn!(node = node.name, notice, "node used, but look at it");
        }
    }
    if differences.len() > LOGGED {
        info!(more = differences.len() - LOGGED, nodes = after.nodes.len(), "nodes joined or changed");
    }
    // Both are sorted by name and reason.
    let is_known = |rejected: &RejectedNode| {
        before.rejected.binary_search_by(|old| (&old.name, &old.reason).cmp(&(&rejected.name, &rejected.reason))).is_ok()
    };
    for rejected in after.rejected.iter().filter(|rejected| !is_known(rejected)) {
        warn!(node = rejected.name, reason = rejected.reason, "node left out");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publisher() -> (Publisher, watch::Receiver<Option<Arc<Topology>>>, watch::Receiver<SourceState>) {
        let (topology, topology_receiver) = watch::channel(None);
        let (state, state_receiver) = watch::channel(SourceState::new(SourceKind::File, "/nodes.yaml".to_owned()));
        (Publisher { topology, state, contact: Contact::default() }, topology_receiver, state_receiver)
    }

    #[test]
    fn an_equal_snapshot_wakes_nobody() {
        let (publisher, mut topology, _state) = publisher();
        publisher.publish(Topology::default());
        assert!(topology.has_changed().unwrap());
        topology.mark_unchanged();
        publisher.publish(Topology::default());
        assert!(!topology.has_changed().unwrap());
    }

    #[test]
    fn a_repeated_error_wakes_nobody_and_stays_after_recovery() {
        let (publisher, _topology, mut state) = publisher();
        publisher.failed(&std::io::Error::other("away"));
        assert_eq!(state.borrow_and_update().health, Health::Failing);
        publisher.failed(&std::io::Error::other("away"));
        assert!(!state.has_changed().unwrap());
        publisher.failed(&std::io::Error::other("still away"));
        assert!(state.has_changed().unwrap());
        publisher.healthy();
        let state = state.borrow_and_update().clone();
        assert_eq!(state.health, Health::Healthy);
        assert_eq!(state.last_error.unwrap().message, "still away");
    }
}
