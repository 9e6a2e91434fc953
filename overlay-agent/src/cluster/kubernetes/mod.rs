//! The Kubernetes source: list and watch of Nodes.
//!
//! Talks to the API server, reads only (verbs get, list, watch on nodes); beside that it keeps one file (see [`saved`](super::saved)). It never ends: with
//! the API away, forbidden, silent or talking nonsense it keeps trying, the last good snapshot stays and the problem is reported.
//!
//! This is a loop of our own over kube's client and not kube's watcher: that one holds an answer in memory three times over, tells
//! nobody of bookmarks, goes on after an event it could not read, and asks for ever from a version whose watch the server refuses. What
//! the loop may believe is decided in [`picture`](super::picture). docs/adr/0011 has the reasons and the numbers.

mod access;
mod backoff;
mod event;
mod keeper;
mod listing;
mod request;
mod scan;
mod snapshots;

pub use access::Access;
pub(super) use access::AccessError;

use super::picture::{Doubt, Moment, Picture};
use super::{Publisher, SourceKind, Subscription, spawn};
use access::Door;
use backoff::Backoff;
use event::Event;
use keeper::Keeper;
use kube::Client;
use kube::api::WatchParams;
use request::{Lines, RequestError};
use snapshots::Snapshots;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

/// Where Nodes are.
const NODES: &str = "/api/v1/nodes";
/// Longest wait for a watch to be accepted, connection and handshake included.
const WATCH_ANSWER: Duration = Duration::from_secs(8);
/// Longest silence of a watch. With [`WATCH_ANSWER`] a connection that died silently is known as such after 43 s.
const SILENCE: Duration = Duration::from_secs(35);
/// How long the server is asked to let a watch last in a cluster that may be silent for long: it says something before it ends it.
const QUIET_WATCH: u32 = 30;
/// The same in a cluster of [`MANY`] nodes or more, whose heartbeats come all the time; up to twice as long, at random.
const BUSY_WATCH: u32 = 300;
/// With a heartbeat every five minutes of each of these, [`SILENCE`] passes without one once in 10^10 times.
const MANY: usize = 200;
/// A watch that lasted this long worked.
const WORKED: Duration = Duration::from_secs(5);
/// Watches in a row that the server may refuse, or that may end in nonsense, before the version they begin at is given up.
const PATIENCE: u32 = 3;
/// Most events taken before a snapshot is published, so that many joins make one.
const BATCH: usize = 1024;
/// What the source begins with, and keeps.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Name of this node: a list without it is doubtful.
    pub node_name: String,
    /// File of the last good list; `None`: there is none.
    pub file: Option<PathBuf>,
}

/// Follows the Nodes.
#[must_use]
pub fn follow(access: Access, memory: Memory) -> Subscription {
    spawn(SourceKind::Kubernetes, access.place(), |publisher| Follower::new(access, memory, publisher).run())
}

/// What is wrong although the API answers.
#[derive(Debug, thiserror::Error)]
#[error("the API server lists no node at all")]
struct NoNodes;

struct Follower {
    door: Door,
    publisher: Publisher,
    picture: Picture,
    backoff: Backoff,
    /// The version that was reached, as the server wrote it: where a watch goes on.
    reached: Option<String>,
    /// A list is needed before the next watch.
    list_first: bool,
    /// The next list has to be the newest there is, not what a server has in its cache.
    newest: bool,
    /// Watches in a row that came to nothing.
    refused: u32,
    /// What moments are counted from.
    epoch: Instant,
    keeper: Keeper,
    snapshots: Snapshots,
}

impl Follower {
    fn new(access: Access, memory: Memory, publisher: Publisher) -> Self {
        Self {
            door: Door::new(access),
            publisher,
            picture: Picture::new(memory.node_name.clone()),
            keeper: Keeper::new(memory),
            backoff: Backoff::default(),
            reached: None,
            list_first: true,
            newest: false,
            refused: 0,
            epoch: Instant::now(),
            snapshots: Snapshots::new(),
        }
    }

    async fn run(mut self) {
        self.restore();
        loop {
            if let Err(error) = self.go_on().await {
                self.trouble(&error).await;
            }
        }
    }

    fn moment(&self) -> Moment {
        self.epoch.elapsed()
    }

    /// Begins with what the file has.
    fn restore(&mut self) {
        if let Some((saved_at, candidates)) = self.keeper.load() {
            self.picture.restore(candidates);
            self.publisher.tell_disk(Some(saved_at));
            self.publisher.waits_for(Some("the first complete list".to_owned()));
            self.publish();
        }
    }

    async fn go_on(&mut self) -> Result<(), RequestError> {
        let (client, address) = self.door.client().await?;
        if let Some(address) = address {
            self.publisher.set_place(address);
        }
        match (self.list_first, self.reached.clone()) {
            (false, Some(version)) => self.watch(&client, &version).await,
            _ => self.list(&client).await,
        }
    }

    // === Watch ===

    async fn watch(&mut self, client: &Client, version: &str) -> Result<(), RequestError> {
        let seconds = if self.picture.len() < MANY { QUIET_WATCH } else { fastrand::u32(BUSY_WATCH..=2 * BUSY_WATCH) };
        let params = WatchParams { timeout: Some(seconds), bookmarks: true, ..WatchParams::default() };
        let request = kube::core::Request::new(NODES).watch(&params, version).map_err(kube::Error::BuildRequest)?;
        let body = request::get(client, request, WATCH_ANSWER).await?;
        self.tell();
        let begun = Instant::now();
        let ended = self.events(Lines::new(body, SILENCE)).await;
        if self.snapshots.due().is_some() {
            self.publish();
        }
        let worked = begun.elapsed() >= WORKED;
        if worked {
            self.backoff.reset();
        }
        match ended {
            // The server has ended it when it was asked to.
            Ok(()) if worked => Ok(()),
            Ok(()) => {
                self.back_off().await;
                Ok(())
            }
            // In a busy cluster silence means that the connection is dead; if the next one is too, that is told.
            Err(RequestError::Silent(silence)) => {
                warn!(seconds = silence.as_secs(), "the watch of nodes was silent; it is begun anew");
                self.door.close();
                Ok(())
            }
            // What everybody loses at once everybody asks for at once: not in the same moment.
            Err(RequestError::Transport(error)) => {
                info!(%error, "the watch of nodes broke; it is begun anew");
                self.door.close();
                self.back_off().await;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Takes events in until the watch ends or a list is wanted.
    async fn events(&mut self, mut lines: Lines) -> Result<(), RequestError> {
        loop {
            let taken = self.take(&mut lines);
            if !self.list_first && self.picture.list_due().is_some_and(|due| due <= self.moment()) {
                (self.list_first, self.newest) = (true, true);
            }
            if taken? {
                continue;
            }
            if self.list_first {
                return Ok(());
            }
            let due = [self.picture.tick_due(), self.picture.list_due()].into_iter().flatten().min().map(|due| self.epoch + due);
            let due = [due, self.keeper.due(), self.snapshots.due()].into_iter().flatten().min();
            tokio::select! {
                more = lines.more() => {
                    if !more? {
                        return Ok(());
                    }
                    self.publisher.contact.now();
                }
                () = sleep_until(due.unwrap_or(self.epoch)), if due.is_some() => {}
            }
        }
    }

    /// Takes in what has arrived, publishes at most once. Returns whether there may be more.
    fn take(&mut self, lines: &mut Lines) -> Result<bool, RequestError> {
        let mut count = 0;
        let result = loop {
            if count == BATCH {
                break Ok(true);
            }
            let Some(line) = lines.ready() else { break Ok(false) };
            count += 1;
            match event::read(&line) {
                Ok((event, reached)) => {
                    self.take_event(event);
                    self.reached = reached.or(self.reached.take());
                    self.refused = 0;
                }
                Err(error) => break Err(error),
            }
        };
        if self.picture.tick(self.moment()) {
            self.snapshots.want_all();
        }
        if self.snapshots.due().is_some_and(|due| due <= Instant::now()) {
            self.publish();
            self.tell_of_held();
        }
        self.keeper.save(&self.picture);
        result
    }

    fn take_event(&mut self, event: Event) {
        match event {
            Event::Applied(candidate, version) => {
                let name = candidate.name.clone();
                if self.picture.applied(candidate, version) {
                    self.snapshots.want(name);
                }
            }
            Event::Deleted(candidate, version) => {
                self.picture.deleted(&candidate, version, self.moment());
                // What somebody else claims already moves at once; the rest waits for the judgement.
                self.snapshots.want_all();
            }
            Event::Bookmark(version) => self.picture.seen(version),
        }
    }

    // === Trouble ===

    /// Reports what went wrong and waits before the next attempt.
    async fn trouble(&mut self, error: &RequestError) {
        self.refused += 1;
        match (error.code(), error) {
            // Away for longer than the server remembers: nothing is wrong.
            (Some(410), _) => {
                info!("the API server does not remember what came after the last event; the nodes are listed anew");
                self.list_first = true;
            }
            // The same event again, most likely whole this time; else everything again.
            (_, RequestError::NoEvent(_)) | (Some(400 | 404 | 422 | 504), _) if self.refused >= PATIENCE => self.list_first = true,
            _ => {}
        }
        if error.code() != Some(410) {
            self.publisher.failed(error);
        }
        // Another client would ask an overloaded server for a handshake as well. Whom it does not know it may know by a new token.
        if error.code().is_none_or(|code| matches!(code, 401 | 403)) {
            self.door.close();
        }
        let wait = self.backoff.next(error.retry_after(), fastrand::f64());
        if error.code() != Some(410) {
            self.publisher.waits_for(Some(match error.retry_after() {
                Some(asked) => format!("the {} s the API server asked for to be over", asked.as_secs()),
                None => "the API server to answer; it is asked again within 10 s".to_owned(),
            }));
        }
        self.rest(wait).await;
    }

    /// Waits before what is no failure is tried again.
    async fn back_off(&mut self) {
        let wait = self.backoff.next(None, fastrand::f64());
        self.rest(wait).await;
    }

    /// Waits, and goes on with what does not need the API server.
    async fn rest(&mut self, wait: Duration) {
        let end = Instant::now() + wait;
        while let Some(due) = self.keeper.due().filter(|due| *due < end) {
            sleep_until(due).await;
            self.keeper.save(&self.picture);
        }
        sleep_until(end).await;
    }

    // === Telling ===

    /// Tells how things are after the server has answered.
    fn tell(&mut self) {
        self.publisher.contact.now();
        match self.picture.held() {
            Some((Doubt::Empty, _)) => self.publisher.failed(&NoNodes),
            _ => self.publisher.healthy(),
        }
        self.tell_of_held();
    }

    fn tell_of_held(&self) {
        let Some((doubt, names)) = self.picture.held() else {
            self.publisher.holds_nothing();
            self.publisher.waits_for(None);
            return;
        };
        let reason = match doubt {
            Doubt::Empty => "the API server lists no node at all",
            Doubt::Own => "this node is among them",
            Doubt::Few => "fewer than half would be left",
            Doubt::Unreadable => "an item of the list cannot be read",
        };
        if !names.is_empty() {
            self.publisher.holds(reason, &names);
        }
        self.publisher.waits_for(Some("a second list that says the same, or another".to_owned()));
    }
}
