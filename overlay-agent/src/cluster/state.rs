//! How a source is: what it tells beside the nodes, for the status, the log and whoever else asks.

use crate::clock::now;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

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
    /// Since when what it published may be out of date: when its source last said anything. Absent while it is current.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_since: Option<Timestamp>,
    /// What would make it better, in a few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// Nodes that are said to be gone and are used nevertheless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
    /// When what is published was written to disk by an agent before this one; absent once the source has confirmed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_disk: Option<Timestamp>,
    /// What last went wrong; stays after recovery.
    pub last_error: Option<SourceError>,
}

impl SourceState {
    /// A source that has just begun.
    #[must_use]
    pub fn new(kind: SourceKind, place: String) -> Self {
        Self {
            kind,
            place,
            health: Health::Starting,
            since: now(),
            stale_since: None,
            waiting_for: None,
            held: None,
            from_disk: None,
            last_error: None,
        }
    }

    /// Everything an operator should look at.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let stale = self.stale_since.map(|since| format!("; what is known is of {since}")).unwrap_or_default();
        match (self.health, &self.last_error) {
            (Health::Healthy, _) => {}
            (Health::Failing, Some(error)) => problems.push(format!("the list of nodes cannot be followed: {}{stale}", error.message)),
            (Health::Failing | Health::Starting, _) if self.from_disk.is_some() => {}
            (Health::Failing | Health::Starting, _) => problems.push("there is no list of nodes yet".to_owned()),
        }
        if let Some(saved) = self.from_disk {
            problems.push(format!("the nodes are from disk, saved at {saved}, not confirmed by the API server since the agent's start"));
        }
        problems.extend(self.held.as_ref().map(ToString::to_string));
        problems
    }
}

/// What went wrong with a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceError {
    /// When it was first seen.
    pub at: Timestamp,
    /// What it was.
    pub message: String,
}

/// Removals that are not believed until they are confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Since when.
    pub since: Timestamp,
    /// Why they are not believed.
    pub reason: String,
    /// How many nodes.
    pub count: usize,
    /// The first of them by name.
    pub names: Vec<String>,
}

impl Held {
    /// Most names told.
    pub const NAMES: usize = 10;
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { since, reason, count, names } = self;
        let more = if *count > names.len() { " and others" } else { "" };
        write!(f, "{count} nodes are said to be gone and are kept until a second list confirms it ({reason}, since {since})")?;
        if names.is_empty() { Ok(()) } else { write!(f, ": {}{more}", names.join(", ")) }
    }
}

/// When a source last said anything: the one figure that changes too often to be part of its state.
#[derive(Clone, Debug, Default)]
pub struct Contact(Arc<AtomicI64>);

impl Contact {
    /// When it was; `None`: never.
    #[must_use]
    pub fn last(&self) -> Option<Timestamp> {
        Some(self.0.load(Ordering::Relaxed)).filter(|second| *second != 0).and_then(|second| Timestamp::from_second(second).ok())
    }

    pub(super) fn now(&self) {
        self.0.store(now().as_second(), Ordering::Relaxed);
    }
}
