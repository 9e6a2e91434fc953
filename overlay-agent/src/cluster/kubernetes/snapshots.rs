//! Makes snapshots of what is believed: for the nodes that changed alone where that is the same, and not one after the other.
//!
//! Putting ten thousand nodes together takes milliseconds. A lone change is published at once; while they keep coming, as much time is
//! left for taking them in as publishing took.

use super::{Follower, Picture};
use crate::cluster::conflicts::{Settled, topology_with};
use crate::model::Topology;
use std::collections::BTreeSet;
use tokio::time::Instant;

/// See the module.
#[derive(Debug)]
pub(super) struct Snapshots {
    /// The nodes that changed since the last snapshot; `None`: anything may have.
    changed: Option<BTreeSet<String>>,
    wanted: bool,
    /// Before which none is made.
    rested: Instant,
    /// What the last one takes up, if no two nodes of it quarrelled.
    settled: Option<Settled>,
}

impl Snapshots {
    pub(super) fn new() -> Self {
        Self { changed: None, wanted: false, rested: Instant::now(), settled: None }
    }

    /// A node was added or changed.
    pub(super) fn want(&mut self, name: String) {
        self.wanted = true;
        if let Some(changed) = &mut self.changed {
            changed.insert(name);
        }
    }

    /// Anything may have changed.
    pub(super) fn want_all(&mut self) {
        (self.wanted, self.changed) = (true, None);
    }

    /// When the next one is to be made, if one is wanted.
    pub(super) fn due(&self) -> Option<Instant> {
        self.wanted.then_some(self.rested)
    }

    /// Makes one. `before`: the last.
    fn make(&mut self, picture: &Picture, before: Option<&Topology>) -> Topology {
        let changed = self.changed.replace(BTreeSet::new());
        self.wanted = false;
        let unconfirmed = !picture.is_whole();
        let mut part = || {
            let before = before.filter(|before| before.unconfirmed == unconfirmed)?;
            let quiet = picture.leaving().next().is_none();
            let candidates = changed.iter().flatten().map(|name| picture.candidate(name)).collect::<Option<Vec<_>>>()?;
            self.settled.as_mut().filter(|_| quiet && changed.is_some())?.change(before, &candidates)
        };
        if let Some(topology) = part() {
            return topology;
        }
        let mut topology = topology_with(picture.live(), picture.leaving());
        topology.unconfirmed = unconfirmed;
        self.settled = if picture.leaving().next().is_none() { Settled::of(&topology) } else { None };
        topology
    }

    /// There is nothing to make one of.
    fn drop_wish(&mut self) {
        (self.wanted, self.changed) = (false, None);
    }

    /// Publishing began then and is over now.
    fn rest(&mut self, begun: Instant) {
        self.rested = Instant::now() + begun.elapsed();
    }
}

impl Follower {
    /// Publishes what is believed.
    pub(super) fn publish(&mut self) {
        if self.picture.is_empty() {
            self.snapshots.drop_wish();
            return;
        }
        let begun = Instant::now();
        let topology = self.snapshots.make(&self.picture, self.publisher.topology.borrow().as_deref());
        let confirmed = !topology.unconfirmed;
        if self.publisher.publish(topology) && confirmed {
            self.keeper.want();
        }
        // After the nodes themselves: whoever sees that they are confirmed sees those that are.
        if confirmed {
            self.publisher.tell_disk(None);
        }
        self.snapshots.rest(begun);
        self.keeper.save(&self.picture);
    }
}
