//! The last good picture of the cluster on disk: what an agent begins with when a reboot finds no API server.
//!
//! One file, replaced as a whole, mode 0600, in the directory of the records of pods, which survives a reboot. Written when the nodes
//! have changed, at once and then at most once in five seconds; 10,000 nodes are 1.7 MB. A file that is damaged, of another layout or of
//! another node is named and left unread: it is replaced by the next one. The file source has no use for this: its file is its memory.

use super::nodes::Candidate;
use crate::model::ClusterNode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Name of the file.
pub const FILE: &str = "last-nodes.json";
/// Name of the next file, until it takes the place of the old one.
const NEXT: &str = ".last-nodes.new";
/// Layout of the file.
const LAYOUT: u32 = 1;
/// Larger than the file of the largest cluster.
const LARGEST: u64 = 64 << 20;

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// It cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is damaged, or no such file at all.
    #[error("{} cannot be read: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Another version of the agent wrote it.
    #[error("{} has layout {layout}, not {LAYOUT}", path.display())]
    Layout {
        /// The file.
        path: PathBuf,
        /// Its layout.
        layout: u32,
    },
    /// Another node's agent wrote it.
    #[error("{} is of node {node:?}", path.display())]
    OtherNode {
        /// The file.
        path: PathBuf,
        /// That node.
        node: String,
    },
}

/// What the file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Saved {
    layout: u32,
    node_name: String,
    at: Timestamp,
    nodes: Vec<SavedNode>,
}

/// One node that can be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedNode {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created: Option<Timestamp>,
    #[serde(flatten)]
    node: ClusterNode,
}

/// The file as text: `candidates` that can be used, known at `at`.
#[must_use]
pub fn text<'a>(node_name: &str, at: Timestamp, candidates: impl IntoIterator<Item = &'a Candidate>) -> Vec<u8> {
    let saved = |candidate: &Candidate| {
        let node = candidate.node.clone().ok()?;
        Some(SavedNode { uid: candidate.uid.clone(), created: candidate.created, node })
    };
    let nodes = candidates.into_iter().filter_map(saved).collect();
    // A struct with string keys.
    serde_json::to_vec(&Saved { layout: LAYOUT, node_name: node_name.to_owned(), at, nodes }).unwrap_or_default()
}

/// Reads the file: when it was written, and the nodes. `None`: there is none.
pub fn load(path: &Path, node_name: &str) -> Result<Option<(Timestamp, Vec<Candidate>)>, SavedError> {
    /// What every layout has.
    #[derive(Deserialize)]
    struct Head {
        layout: u32,
    }
    let io = |source| SavedError::Io { path: path.to_owned(), source };
    let damaged = |reason: String| SavedError::Damaged { path: path.to_owned(), reason };
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => return Err(damaged("it is no file".to_owned())),
        Ok(metadata) if metadata.len() > LARGEST => return Err(damaged(format!("it has {} bytes", metadata.len()))),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    }
    let text = fs::read(path).map_err(io)?;
    let Head { layout } = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    if layout != LAYOUT {
        return Err(SavedError::Layout { path: path.to_owned(), layout });
    }
    let saved: Saved = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    if saved.node_name != node_name {
        return Err(SavedError::OtherNode { path: path.to_owned(), node: saved.node_name });
    }
    let candidate = |SavedNode { uid, created, node }| Candidate { name: ClusterNode::clone(&node).name, uid, created, node: Ok(node) };
    Ok(Some((saved.at, saved.nodes.into_iter().map(candidate).collect())))
}

/// Puts a new file in the place of the old one. It is on the disk when this returns: a reboot is what it is for.
pub fn store(path: &Path, text: &[u8]) -> Result<(), SavedError> {
    let replace = || {
        let directory = path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let next = path.with_file_name(NEXT);
        // What is left of an agent that was killed here would keep its own mode.
        remove_if_there(&next)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&next, path)
    };
    replace().map_err(|source| SavedError::Io { path: path.to_owned(), source })
}

/// Removes the file from `directory`; whether there was one.
pub fn remove(directory: &Path) -> Result<bool, SavedError> {
    let mut removed = false;
    for name in [NEXT, FILE] {
        let path = directory.join(name);
        removed = remove_if_there(&path).map_err(|source| SavedError::Io { path, source })?;
    }
    Ok(removed)
}

fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[path = "saved_tests.rs"]
mod tests;
