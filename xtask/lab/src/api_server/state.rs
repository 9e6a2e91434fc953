//! What every connection of the server shares: the store, the fault script, who may ask, and what has been counted.

use super::fault::Fault;
use super::store::Store;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// How often a watch that asked for bookmarks gets one, unless a test says otherwise.
const BOOKMARKS: Duration = Duration::from_mins(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// Says that `state` is another; the value means nothing.
    pub(super) changed: watch::Sender<()>,
    pub(super) counters: Counters,
}

/// What is behind the lock.
#[derive(Debug)]
pub(super) struct State {
    pub(super) store: Store,
    pub(super) fault: Option<Fault>,
    /// Grows when a fault begins: a watch with a smaller number ran before.
    pub(super) era: u64,
    /// Watches of an era before this one have to end.
    pub(super) ended: u64,
    /// Bearer tokens that are let in; none: everybody is.
    pub(super) tokens: Option<BTreeSet<String>>,
    pub(super) bookmark_every: Duration,
    pub(super) connections: Vec<AbortHandle>,
}

/// What was asked and answered since the server was started.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) gets: AtomicU64,
    pub(super) lists: AtomicU64,
    pub(super) watches: AtomicU64,
    pub(super) patches: AtomicU64,
    pub(super) others: AtomicU64,
    pub(super) denied: AtomicU64,
    pub(super) struck: AtomicU64,
    pub(super) connections: AtomicU64,
    pub(super) bytes: AtomicU64,
}

/// A reading of the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests for one object.
    pub gets: u64,
    /// Requests for a list, each page one.
    pub lists: u64,
    /// Watches begun.
    pub watches: u64,
    /// Patches.
    pub patches: u64,
    /// Requests for anything else.
    pub others: u64,
    /// Requests without a token that is let in.
    pub denied: u64,
    /// Requests and running watches that met the fault of the moment.
    pub struck: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Bytes of bodies handed to the connections; headers and TLS are not counted.
    pub bytes: u64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, amount: usize) {
        counter.fetch_add(u64::try_from(amount).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            gets: get(&self.gets),
            lists: get(&self.lists),
            watches: get(&self.watches),
            patches: get(&self.patches),
            others: get(&self.others),
            denied: get(&self.denied),
            struck: get(&self.struck),
            connections: get(&self.connections),
            bytes: get(&self.bytes),
        }
    }
}

impl Default for Shared {
    fn default() -> Self {
        let state = State {
            store: Store::default(),
            fault: None,
            era: 0,
            ended: 0,
            tokens: None,
            bookmark_every: BOOKMARKS,
            connections: Vec::new(),
        };
        Self { state: Mutex::new(state), changed: watch::Sender::new(()), counters: Counters::default() }
    }
}

impl Shared {
    /// To look at the state.
    pub(super) fn look(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes every watch.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let done = change(&mut self.look());
        self.changed.send_replace(());
        done
    }

    /// Counts that a fault was met.
    pub(super) fn strike(&self) {
        Counters::add(&self.counters.struck, 1);
    }
}
