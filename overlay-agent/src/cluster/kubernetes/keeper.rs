//! When the last good list is read from disk and written to it.

use super::Memory;
use crate::clock::now;
use crate::cluster::nodes::Candidate;
use crate::cluster::picture::Picture;
use crate::cluster::saved;
use jiff::Timestamp;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{info, warn};

/// Least time between two writes.
const PAUSE: Duration = Duration::from_secs(5);

/// Keeps the file.
pub(super) struct Keeper {
    memory: Memory,
    wanted: bool,
    /// When the file may be written next.
    next: Instant,
    /// Hash of what it holds.
    holds: Option<u64>,
    running: Option<JoinHandle<()>>,
}

impl Keeper {
    pub(super) fn new(memory: Memory) -> Self {
        Self { memory, wanted: false, next: Instant::now(), holds: None, running: None }
    }

    /// What the file has, and since when. One that cannot be used is named.
    pub(super) fn load(&mut self) -> Option<(Timestamp, Vec<Candidate>)> {
        let path = self.memory.file.as_ref()?;
        match saved::load(path, &self.memory.node_name) {
            Ok(found) => {
                let (saved_at, candidates) = found?;
                info!(file = %path.display(), %saved_at, nodes = candidates.len(), "begin with the nodes on disk until the API server answers");
                self.holds = Some(hash(&saved::text(&self.memory.node_name, Timestamp::UNIX_EPOCH, &candidates)));
                Some((saved_at, candidates))
            }
            Err(error) => {
                warn!(%error, "the nodes on disk are not used");
                None
            }
        }
    }

    /// There is something new.
    pub(super) const fn want(&mut self) {
        self.wanted = true;
    }

    /// When the file is to be written.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.wanted && self.memory.file.is_some()).then_some(self.next)
    }

    /// Writes the file if it is time and there is something new.
    pub(super) fn save(&mut self, picture: &Picture) {
        let Some(path) = self.memory.file.clone().filter(|_| self.due().is_some_and(|due| due <= Instant::now())) else { return };
        self.next = Instant::now() + PAUSE;
        // A disk that hangs does so once.
        if self.running.as_ref().is_some_and(|running| !running.is_finished()) {
            return;
        }
        self.wanted = false;
        let text = |at| saved::text(&self.memory.node_name, at, picture.live().chain(picture.kept()));
        let holds = hash(&text(Timestamp::UNIX_EPOCH));
        if self.holds.replace(holds) == Some(holds) {
            return;
        }
        let text = text(now());
        // What waits for a disk must not keep events waiting.
        self.running = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = saved::store(&path, &text) {
                warn!(%error, "the nodes are not on disk: a reboot without API server would begin with older ones");
            }
        }));
    }
}

fn hash(text: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
