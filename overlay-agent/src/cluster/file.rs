//! The file source: a `NodeList` in a file, followed as it changes.
//!
//! Reads the file and watches directories with inotify; writes nothing. Every way a file changes in practice is seen: written in place,
//! replaced by rename, deleted and made again, and the symlink swap (`..data`) a `ConfigMap` mount does. What cannot be a whole list (half
//! written, empty, gone) changes nothing: the last good snapshot stays and the problem is reported.
//!
//! A file is read when its writer has closed it (`IN_CLOSE_WRITE`) or it was put in place whole (`IN_MOVED_TO`), never while it is being
//! written (`IN_MODIFY` is not listened to). Where inotify does not tell of the file itself (a link leads elsewhere now, a network file
//! system, mmap, no watches left) it is compared with what it was, and read once it has held still for a while.

use super::conflicts::topology;
use super::list::{self, ListError};
use super::nodes::Candidate;
use super::{Publisher, SourceKind, Subscription, spawn};
use futures::{FutureExt as _, StreamExt as _};
use inotify::{Event, EventMask, EventStream, Inotify, WatchDescriptor, WatchMask};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

/// A replaced file shows as several events; one read after the last of them is enough.
const SETTLE: Duration = Duration::from_millis(100);
/// How often the file is looked at while its directory cannot be watched.
const POLL: Duration = Duration::from_secs(1);
/// How long a file must hold still that is found at the end of a changed link or in a directory made anew. It was most likely put there
/// whole.
const STILL: Duration = Duration::from_millis(200);
/// Larger than the list of the largest cluster (16,384 nodes of 16 kB).
const LARGEST_FILE: u64 = 256 << 20;

/// Follows the list of nodes in `path`. `recheck`: how often it is looked at even if no event told of a change.
#[must_use]
pub fn follow(path: PathBuf, recheck: Duration) -> Subscription {
    spawn(SourceKind::File, path.display().to_string(), move |publisher| Follower::new(path, publisher).run(recheck))
}

/// Why the file gives no list of nodes.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("cannot read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} is not a list of nodes: {source}", path.display())]
    NotAList { path: PathBuf, source: ListError },
}

struct Follower {
    path: PathBuf,
    publisher: Publisher,
    /// The file as it was at the last look, and since when it is so.
    seen: (Found, Instant),
    /// The file as it was when it was last read; `None`: it has to be read whatever it is.
    read: Option<Found>,
    /// Whether the path leads elsewhere than when the file was last read.
    relocated: bool,
}

/// What is found at the path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    File(Identity),
}

/// What differs between two states of a file, without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    /// Where a link at the path leads; `None`: it is no link.
    link: Option<PathBuf>,
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wake {
    /// The file was closed by its writer, put in place or removed: what is there now is whole.
    File,
    /// Time for another look, or something beside the file changed, perhaps a link on the way to it.
    Other,
}

impl Follower {
    fn new(path: PathBuf, publisher: Publisher) -> Self {
        Self { path, publisher, seen: (Found::Nothing, Instant::now()), read: None, relocated: false }
    }

    async fn run(mut self, recheck: Duration) {
        let mut watches = Watches::new();
        let mut wake = Wake::File;
        loop {
            // Watch first, then look: what changes in between is seen by one or the other.
            let watched = watches.update(&self.path);
            self.relocated |= watched == Watched::Elsewhere;
            let interval = if watched == Watched::No { POLL.min(recheck) } else { recheck };
            let longest = self.look(wake, interval).await;
            wake = watches.wait(&self.path, longest).await;
        }
    }

    /// Reads the file if it is new and whole. Returns how long to wait for the next look.
    async fn look(&mut self, wake: Wake, interval: Duration) -> Duration {
        let now = Found::at(&self.path);
        if self.seen.0 != now {
            self.seen = (now.clone(), Instant::now());
        }
        // After an event about the file its identity is not asked: a file written twice within one tick of its file system's clock has the
        // same before and after.
        if wake == Wake::Other {
            if self.read.as_ref() == Some(&now) {
                return interval;
            }
            self.relocated |= now.link().is_some() && now.link() != self.read.as_ref().and_then(Found::link);
            let enough = if self.relocated { STILL.min(interval) } else { interval };
            let missing = enough.saturating_sub(self.seen.1.elapsed());
            if !missing.is_zero() {
                return missing;
            }
        }
        self.relocated = false;
        self.read = self.read_and_publish().await.then_some(now);
        interval
    }

    /// Returns whether the file could be read, be it a list or not.
    async fn read_and_publish(&self) -> bool {
        let path = self.path.clone();
        // Reading and parsing the list of a large cluster takes longer than a task may keep its thread.
        match tokio::task::spawn_blocking(move || read(&path)).await {
            Ok(Ok(candidates)) => {
                self.publisher.publish(topology(&candidates));
                self.publisher.healthy();
                true
            }
            Ok(Err(error)) => {
                self.publisher.failed(&error);
                matches!(error, FileError::NotAList { .. })
            }
            Err(error) => {
                self.publisher.failed(&error);
                false
            }
        }
    }
}

fn read(path: &Path) -> Result<Vec<Candidate>, FileError> {
    let text = read_text(path).map_err(|source| FileError::Unreadable { path: path.to_owned(), source })?;
    list::parse(&text).map_err(|source| FileError::NotAList { path: path.to_owned(), source })
}

fn read_text(path: &Path) -> io::Result<String> {
    // A FIFO would block the open until somebody writes to it.
    let file = std::fs::File::options().read(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits()).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if metadata.len() > LARGEST_FILE {
        return Err(io::Error::other(format!("it has {} bytes, more than {LARGEST_FILE}", metadata.len())));
    }
    let mut text = String::new();
    file.take(LARGEST_FILE).read_to_string(&mut text)?;
    Ok(text)
}

impl Found {
    fn at(path: &Path) -> Self {
        let Ok(metadata) = std::fs::metadata(path) else { return Self::Nothing };
        let is_link = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
        Self::File(Identity {
            link: if is_link { std::fs::canonicalize(path).ok() } else { None },
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    fn link(&self) -> Option<&Path> {
        match self {
            Self::Nothing => None,
            Self::File(identity) => identity.link.as_deref(),
        }
    }
}

// === inotify ===

/// The watched directories: the one the path names, and the one the file really is in when links lead to it.
struct Watches {
    events: Option<EventStream<[u8; 4096]>>,
    descriptors: Vec<WatchDescriptor>,
    warned: bool,
}

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watched {
    /// The same directories as before.
    Same,
    /// Others, or one made anew.
    Elsewhere,
    /// Not all that should be.
    No,
}

impl Watches {
    fn new() -> Self {
        let events = Inotify::init().and_then(|inotify| inotify.into_event_stream([0; 4096]));
        if let Err(error) = &events {
            warn!(%error, "inotify is not available; the list of nodes is looked at every second");
        }
        Self { events: events.ok(), descriptors: Vec::new(), warned: false }
    }

    /// Watches what has to be watched now: links may lead elsewhere than before, and a directory may have been made anew.
    fn update(&mut self, path: &Path) -> Watched {
        let Some(events) = &self.events else { return Watched::No };
        let mut watches = events.watches();
        // Adding a directory that is watched already gives its descriptor again.
        let result: io::Result<Vec<_>> = directories(path).iter().map(|directory| watches.add(directory, mask())).collect();
        match result {
            Ok(descriptors) => {
                self.warned = false;
                if descriptors == self.descriptors {
                    return Watched::Same;
                }
                for old in std::mem::replace(&mut self.descriptors, descriptors) {
                    if !self.descriptors.contains(&old) {
                        // Fails if the directory is gone, and its watch with it.
                        watches.remove(old).ok();
                    }
                }
                Watched::Elsewhere
            }
            Err(error) => {
                if !std::mem::replace(&mut self.warned, true) {
                    warn!(%error, path = %path.display(), "cannot watch the directory of the list of nodes; it is looked at every second");
                }
                Watched::No
            }
        }
    }

    async fn wait(&mut self, path: &Path, longest: Duration) -> Wake {
        let Some(events) = &mut self.events else {
            sleep(longest).await;
            return Wake::Other;
        };
        let names = names(path);
        let Ok(first) = timeout(longest, events.next()).await else { return Wake::Other };
        sleep(SETTLE).await;
        let mut wake = Wake::Other;
        let mut next = Some(first);
        while let Some(event) = next {
            match event {
                Some(Ok(event)) if is_about_the_file(&event, &names) => wake = Wake::File,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => {
                    warn!("inotify failed; the list of nodes is looked at every second");
                    self.events = None;
                    return Wake::Other;
                }
            }
            next = events.next().now_or_never();
        }
        wake
    }
}

fn mask() -> WatchMask {
    WatchMask::CLOSE_WRITE
        | WatchMask::CREATE
        | WatchMask::MOVED_TO
        | WatchMask::MOVED_FROM
        | WatchMask::DELETE
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
        | WatchMask::ONLYDIR
}

fn directories(path: &Path) -> BTreeSet<PathBuf> {
    let real = std::fs::canonicalize(path).ok();
    [Some(path), real.as_deref()].into_iter().flatten().map(directory).collect()
}

fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) => PathBuf::from("."),
        None => PathBuf::from("/"),
    }
}

/// The names the file goes by: the one in the path and its real one.
fn names(path: &Path) -> BTreeSet<OsString> {
    let real = std::fs::canonicalize(path).ok();
    [Some(path), real.as_deref()].into_iter().flatten().filter_map(Path::file_name).map(ToOwned::to_owned).collect()
}

/// Whether the event says that the file is whole now. One that was just made is not: its writer will close it, and a link made is seen by
/// comparing what it leads to.
fn is_about_the_file(event: &Event<OsString>, names: &BTreeSet<OsString>) -> bool {
    let lost = event.mask.contains(EventMask::Q_OVERFLOW);
    let named = event.name.as_ref().is_some_and(|name| names.contains(name));
    lost || (named && !event.mask.contains(EventMask::CREATE))
}
