//! Where the list of nodes comes from: sources behind one small interface.
//!
//! A source runs as a task of its own and publishes whole [`Topology`] snapshots, never deltas: the latest wins, a reader that was away
//! misses nothing. It never ends: what goes wrong is reported in its [`SourceState`] and the last good snapshot stays.
//! The only module that imports kube. Touches no kernel state.

pub mod conflicts;
pub mod file;
pub mod kubernetes;
pub mod list;
pub mod nodes;
pub mod object;

use crate::clock::now;
use crate::config::Source;
use crate::model::Topology;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

/// Starts the source. Needs a tokio runtime. `recheck`: how often a file is looked at even if no event told of a change.
#[must_use]
pub fn start(source: &Source, recheck: Duration) -> Subscription {
    match source {
        Source::File(path) => file::follow(path.clone(), recheck),
        Source::Kubernetes { kubeconfig, api_server } => kubernetes::connect_and_follow(kubeconfig.clone(), api_server.clone()),
    }
}

/// A running source. Dropping it ends the source.
#[derive(Debug)]
pub struct Subscription {
    /// The newest snapshot; `None` until there is a first one.
    pub topology: watch::Receiver<Option<Arc<Topology>>>,
    /// How the source is.
    pub state: watch::Receiver<SourceState>,
    task: JoinHandle<()>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What kind of source it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// A `NodeList` in a file.
    File,
    /// The Kubernetes API.
    Kubernetes,
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::Kubernetes => "kubernetes",
        })
    }
}

/// Whether a source works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Nothing was heard yet, good or bad.
    Starting,
    /// What it published is current.
    Healthy,
    /// What it published, if anything, is the last that was good.
    Failing,
}

/// How a source is. Changes only when there is something to tell, so it may be written to disk on every change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceState {
    /// What it is.
    pub kind: SourceKind,
    /// Path of the file or address of the API server.
    pub place: String,
    /// Whether it works.
    pub health: Health,
    /// Since when `health` is what it is.
    pub since: Timestamp,
    /// What last went wrong; stays after recovery.
    pub last_error: Option<SourceError>,
}

/// What went wrong with a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceError {
    /// When it was first seen.
    pub at: Timestamp,
    /// What it was.
    pub message: String,
}

/// The sending side of a [`Subscription`]: held by the source's task.
#[derive(Debug)]
struct Publisher {
    topology: watch::Sender<Option<Arc<Topology>>>,
    state: watch::Sender<SourceState>,
}

/// Runs `source` as a task and returns the receiving side.
fn spawn<F>(kind: SourceKind, place: String, source: impl FnOnce(Publisher) -> F) -> Subscription
where
    F: Future<Output = ()> + Send + 'static,
{
    let (topology_sender, topology) = watch::channel(None);
    let (state_sender, state) = watch::channel(SourceState { kind, place, health: Health::Starting, since: now(), last_error: None });
    let task = tokio::spawn(source(Publisher { topology: topology_sender, state: state_sender }));
    Subscription { topology, state, task }
}

impl Publisher {
    /// Publishes a snapshot. Receivers wake only if it differs from the last one.
    fn publish(&self, topology: Topology) {
        self.topology.send_if_modified(|current| {
            if current.as_deref() == Some(&topology) {
                return false;
            }
            log_change(current.as_deref().unwrap_or(&Topology::default()), &topology);
            *current = Some(Arc::new(topology));
            true
        });
    }

    /// Says that what was published is current.
    fn healthy(&self) {
        self.state.send_if_modified(|state| {
            if state.health == Health::Healthy {
                return false;
            }
            info!(source = %state.kind, place = state.place, "the list of nodes is current");
            state.health = Health::Healthy;
            state.since = now();
            true
        });
    }

    /// Says what went wrong.
    fn failed(&self, problem: &dyn std::error::Error) {
        let message = with_causes(problem);
        self.state.send_if_modified(|state| {
            let failing = state.health == Health::Failing;
            if failing && state.last_error.as_ref().is_some_and(|last| last.message == message) {
                return false;
            }
            error!(source = %state.kind, place = state.place, problem = message, "the list of nodes cannot be followed; the last good one stays");
            if !failing {
                state.health = Health::Failing;
                state.since = now();
            }
            state.last_error = Some(SourceError { at: now(), message });
            true
        });
    }

    /// Replaces the place told by the state, once it is known better.
    fn set_place(&self, place: String) {
        self.state.send_modify(|state| state.place = place);
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

fn log_change(before: &Topology, after: &Topology) {
    for (name, node) in &after.nodes {
        match before.nodes.get(name) {
            None => info!(node = name, address = %node.address, pod_cidr = %node.pod_cidr, "node joined"),
            Some(old) if old != node => info!(node = name, address = %node.address, pod_cidr = %node.pod_cidr, "node changed"),
            Some(_) => {}
        }
        if let Some(notice) = &node.notice
            && before.nodes.get(name).is_none_or(|old| old.notice.as_ref() != Some(notice))
        {
            warn!(node = name, notice, "node used, but look at it");
        }
    }
    for name in before.nodes.keys().filter(|name| !after.nodes.contains_key(*name)) {
        info!(node = name, "node gone");
    }
    for rejected in after.rejected.iter().filter(|rejected| !before.rejected.contains(rejected)) {
        warn!(node = rejected.name, reason = rejected.reason, "node left out");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publisher() -> (Publisher, watch::Receiver<Option<Arc<Topology>>>, watch::Receiver<SourceState>) {
        let (topology, topology_receiver) = watch::channel(None);
        let (state, state_receiver) = watch::channel(SourceState {
            kind: SourceKind::File,
            place: "/nodes.yaml".to_owned(),
            health: Health::Starting,
            since: Timestamp::UNIX_EPOCH,
            last_error: None,
        });
        (Publisher { topology, state }, topology_receiver, state_receiver)
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
