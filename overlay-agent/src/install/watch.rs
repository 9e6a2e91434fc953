//! Waits for what happens in the runtime's directories, with inotify. Where that does not work the agent's regular pass has to do.

use futures::StreamExt as _;
use inotify::{EventStream, Inotify, WatchMask};
use std::path::PathBuf;
use tracing::warn;

/// The watched directories.
#[derive(Debug)]
pub(super) struct Watcher {
    directories: [PathBuf; 2],
    events: Option<Events>,
}

/// Not printable.
struct Events(EventStream<[u8; 4096]>);

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}

impl Watcher {
    pub(super) fn new(directories: [PathBuf; 2]) -> Self {
        Self { directories, events: None }
    }

    /// Watches the directories that are there now: one that was made anew needs another watch.
    pub(super) fn renew(&mut self) {
        let mask = WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | WatchMask::MOVED_FROM | WatchMask::CREATE | WatchMask::DELETE;
        let mask = mask | WatchMask::ATTRIB | WatchMask::DELETE_SELF | WatchMask::MOVE_SELF | WatchMask::ONLYDIR;
        if self.events.is_none() {
            match Inotify::init().and_then(|inotify| inotify.into_event_stream([0; 4096])) {
                Ok(events) => self.events = Some(Events(events)),
                Err(error) => return warn!(%error, "inotify is not available: the runtime's directories are looked at once in a while"),
            }
        }
        let Some(Events(events)) = &mut self.events else { return };
        let mut watches = events.watches();
        for directory in &self.directories {
            // Adding a directory that is watched already gives its watch again.
            if let Err(error) = watches.add(directory, mask) {
                warn!(%error, directory = %directory.display(), "cannot be watched: looked at once in a while");
            }
        }
    }

    /// Waits for an event that is not about a file of ours on its way.
    pub(super) async fn changed(&mut self) {
        loop {
            let Some(Events(events)) = &mut self.events else { return std::future::pending().await };
            match events.next().await {
                Some(Ok(event)) if event.name.as_ref().is_some_and(|name| name.to_string_lossy().starts_with('.')) => {}
                Some(Ok(_)) => return,
                Some(Err(_)) | None => {
                    // Made anew by the next pass.
                    self.events = None;
                    return;
                }
            }
        }
    }
}
