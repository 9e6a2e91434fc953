//! A watch: what happened since a version, and then what happens, line by line, until its time is up or the fault script ends it.

use super::answer::{Answer, broken, refusal, status, streamed};
use super::fault::{Fault, NONSENSE, strange_lines};
use super::query::Query;
use super::state::{Counters, Shared, State};
use super::store::{Cursor, Gone, line};
use futures::stream;
use http::StatusCode;
use hyper::body::{Bytes, Frame};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Lines taken out of the store at once.
const BATCH: usize = 256;

/// How long a watch lasts whose client does not say: the real one chooses between half an hour and an hour.
const DEFAULT: Duration = Duration::from_mins(30);

/// How often [`Fault::OnlyBookmarks`] has a bookmark sent.
const OFTEN: Duration = Duration::from_millis(200);

const TOO_OLD: &str = "too old resource version";

/// A watch that runs.
struct Watcher {
    shared: Arc<Shared>,
    changed: watch::Receiver<()>,
    cursor: Cursor,
    /// The era it began in.
    era: u64,
    /// The era whose fault it has met, where one is met once.
    met: u64,
    name: Option<String>,
    bookmarks: bool,
    /// When the last line was a bookmark, or it began.
    marked: Instant,
    end: Instant,
    queue: VecDeque<Bytes>,
    after: After,
}

/// What follows when everything in the queue is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    /// The watch goes on.
    More,
    /// It ends as it should.
    End,
    /// The connection breaks.
    Break,
    /// Nothing, ever.
    Silence,
    /// Nothing, and this was the break.
    Broken,
}

/// Answers a watch.
pub(super) fn watch(shared: &Arc<Shared>, query: &Query) -> Answer {
    let state = shared.look();
    if state.fault == Some(Fault::GoneWatch) {
        shared.strike();
        return refusal(410, TOO_OLD, None);
    }
    if query.initial_events && query.version_match.as_deref() != Some("NotOlderThan") {
        return refusal(422, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan", None);
    }
    // Without a version, or with 0, everything there is comes first, as if it were new.
    let initial = query.initial_events || query.version.is_none_or(|version| version == 0);
    let since = if initial { state.store.version() } else { query.version.unwrap_or(0) };
    // The real one says 200 here and 410 in the stream, from a version its cache does not reach back to.
    let (cursor, gone) = match state.store.begin(since) {
        Ok(cursor) => (cursor, false),
        Err(Gone) => match state.store.begin(state.store.version()) {
            Ok(cursor) => (cursor, true),
            Err(Gone) => return refusal(410, TOO_OLD, None),
        },
    };
    let mut queue = VecDeque::new();
    if gone {
        queue.push_back(expired());
    } else if initial {
        let listing = state.store.listing(query.name.as_deref());
        queue.extend(listing.items.iter().map(|(_, text)| line("ADDED", text)));
        if query.initial_events && query.bookmarks {
            queue.push_back(bookmark(since, true));
        }
    }
    let now = Instant::now();
    let watcher = Watcher {
        shared: Arc::clone(shared),
        changed: shared.changed.subscribe(),
        cursor,
        era: state.era,
        met: 0,
        name: query.name.clone(),
        bookmarks: query.bookmarks,
        marked: now,
        end: now + query.timeout.unwrap_or(DEFAULT),
        queue,
        after: if gone { After::End } else { After::More },
    };
    drop(state);
    let body = stream::unfold(watcher, async |mut watcher| watcher.next().await.map(|piece| (piece, watcher)));
    streamed(StatusCode::OK, Box::pin(body))
}

impl Watcher {
    /// The next piece of the body.
    async fn next(&mut self) -> Option<io::Result<Frame<Bytes>>> {
        loop {
            if let Some(line) = self.queue.pop_front() {
                Counters::add(&self.shared.counters.bytes, line.len());
                return Some(Ok(Frame::data(line)));
            }
            match self.after {
                After::More => {}
                After::End | After::Broken => return None,
                After::Break => {
                    self.after = After::Broken;
                    return Some(broken().await);
                }
                // Dropped with its connection, which the client closes.
                After::Silence => std::future::pending().await,
            }
            self.changed.mark_unchanged();
            let every = self.look();
            if !self.queue.is_empty() || self.after != After::More {
                continue;
            }
            let mark = if self.bookmarks { self.marked + every } else { self.end };
            tokio::select! {
                // Never an error: the sender is in `shared`.
                _ = self.changed.changed() => {}
                () = sleep_until(mark.min(self.end)) => self.ring(),
            }
        }
    }

    /// A bookmark is due, or the end is; the real one says how far it has come before it ends.
    fn ring(&mut self) {
        self.marked = Instant::now();
        if self.bookmarks {
            self.queue.push_back(bookmark(self.cursor.version, false));
        }
        if self.marked >= self.end {
            self.after = After::End;
        }
    }

    /// Takes what is new, or what the fault of the moment makes of it. Returns how often a bookmark is due.
    fn look(&mut self) -> Duration {
        let shared = Arc::clone(&self.shared);
        let state = shared.look();
        if self.era < state.ended {
            self.after = After::End;
        } else if !self.meet(&state) {
            match state.store.next(&mut self.cursor, BATCH, self.name.as_deref()) {
                Ok(lines) => self.queue.extend(lines),
                Err(Gone) => self.expire(),
            }
        }
        if state.fault == Some(Fault::OnlyBookmarks) { OFTEN } else { state.bookmark_every }
    }

    /// Does what the fault of the moment asks for; whether that is instead of telling what is new.
    fn meet(&mut self, state: &State) -> bool {
        let first = self.met < state.era;
        let mut strike = || {
            self.met = state.era;
            self.shared.strike();
        };
        match state.fault {
            Some(Fault::Silent) if self.era < state.era => {
                strike();
                self.after = After::Silence;
            }
            Some(Fault::GoneWatch) => {
                strike();
                self.expire();
            }
            Some(Fault::Cut) => {
                strike();
                let whole = some_node(state).map(|(_, text)| line("MODIFIED", &text)).unwrap_or_default();
                self.queue.push_back(whole.slice(..whole.len() / 2));
                self.after = After::Break;
            }
            Some(Fault::BadJson) => {
                strike();
                self.queue.push_back(Bytes::from_static(NONSENSE.as_bytes()));
                self.after = After::End;
            }
            Some(Fault::WrongType) if first => {
                strike();
                self.queue.extend(some_node(state).map(|(name, _)| strange_lines(&name)).unwrap_or_default());
                return false;
            }
            Some(Fault::OnlyBookmarks) => {
                if first {
                    strike();
                }
            }
            _ => return false,
        }
        true
    }

    fn expire(&mut self) {
        self.queue.push_back(expired());
        self.after = After::End;
    }
}

/// The first node by name.
fn some_node(state: &State) -> Option<(String, Bytes)> {
    state.store.listing(None).items.into_iter().next()
}

fn expired() -> Bytes {
    line("ERROR", status(410, TOO_OLD, None).to_string().as_bytes())
}

fn bookmark(version: u64, initial_end: bool) -> Bytes {
    let annotations = if initial_end { r#","annotations":{"k8s.io/initial-events-end":"true"}"# } else { "" };
    let object = format!(
        r#"{{"kind":"Node","apiVersion":"v1","metadata":{{"resourceVersion":"{version}","creationTimestamp":null{annotations}}},"spec":{{}},"status":{{"daemonEndpoints":{{"kubeletEndpoint":{{"Port":0}}}},"nodeInfo":{{"machineID":"","systemUUID":"","bootID":"","kernelVersion":"","osImage":"","containerRuntimeVersion":"","kubeletVersion":"","kubeProxyVersion":"","operatingSystem":"","architecture":""}}}}}}"#
    );
    line("BOOKMARK", object.as_bytes())
}
