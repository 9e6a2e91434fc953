//! What is believed of the cluster, from lists and events in whatever order and number they come: who is there, who is said to be gone.
//!
//! Pure; time is what the caller says it is. Three rules:
//! - Nothing is removed before a complete list was seen since the start.
//! - What is older never replaces what is newer: resource versions are compared where both are numbers (which Kubernetes promises since
//!   1.35, KEP-5504, and did before), uids where they are not: one that was deleted does not come back.
//! - A removal that looks like somebody's mistake is held until a second complete list, asked for after a pause, says the same.
//!
//! To hold a node costs little: one that is gone answers nothing, and whoever has taken over its address or pod network is believed
//! before it. To drop a node that is there costs its traffic. Hence the low bar: two nodes, if fewer than half are left.

use super::nodes::Candidate;
use crate::model::is_node_name;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// How long a deletion waits for others before it is judged: what deletes many does so within this, one after another.
const LINGER: Duration = Duration::from_secs(1);
/// Longest such wait while deletions go on.
const LONGEST_LINGER: Duration = Duration::from_mins(1);

/// A moment, as time since any fixed one.
pub type Moment = Duration;

/// A resource version that is a number; others cannot be compared.
pub type Version = Option<u64>;

/// One node as the server last told it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    candidate: Candidate,
    version: Version,
}

/// A node that is said to be gone, and is still believed in.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Leaving {
    known: Known,
    since: Moment,
    /// Version of the deletion, when it was an event that told of it and not a list without the node.
    deleted: Option<Version>,
    held: bool,
}

/// Why removals are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// There is no node at all.
    Empty,
    /// This node is missing.
    Own,
    /// Fewer than half are left.
    Few,
    /// An item of the list could not be read, and may be any of the missing.
    Unreadable,
}

/// Removals that wait to be confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hold {
    doubt: Doubt,
    /// When a complete list may confirm it.
    due: Moment,
}

/// A list that is being received.
#[derive(Clone, Debug, Default)]
struct Listing {
    nodes: BTreeMap<String, Known>,
    /// Items without a name that can be read.
    unnamed: usize,
    begun: Moment,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// Name of this node.
    own: String,
    nodes: BTreeMap<String, Known>,
    leaving: BTreeMap<String, Leaving>,
    /// The uids that were removed since the last complete list, with the version of their deletion.
    buried: BTreeMap<String, Version>,
    /// When nodes were removed, within [`WINDOW`].
    removed: VecDeque<Moment>,
    hold: Option<Hold>,
    listing: Option<Listing>,
    /// How long to wait before a doubtful answer is asked for again.
    pause: Duration,
    /// Version of the last complete list: what is older is in it already.
    floor: Version,
    /// The newest version that was seen.
    newest: Version,
    whole: bool,
}

impl Picture {
    /// Knows nothing but this node's name.
    #[must_use]
    pub fn new(own: String) -> Self {
        Self { own, ..Self::default() }
    }

    /// Begins with what was known at another time: all of it is believed until a complete list comes.
    pub fn restore(&mut self, candidates: impl IntoIterator<Item = Candidate>) {
        self.nodes = candidates.into_iter().map(|candidate| (candidate.name.clone(), Known { candidate, version: None })).collect();
    }

    /// Sets how long a doubtful answer is left alone before it is asked for again.
    pub const fn set_pause(&mut self, pause: Duration) {
        self.pause = pause;
    }

    /// Whether a complete list was seen.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.whole
    }

    /// How many nodes are believed in.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len() + self.leaving.len()
    }

    /// Whether no node is believed in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The nodes that are there.
    pub fn live(&self) -> impl Iterator<Item = &Candidate> {
        self.nodes.values().map(|known| &known.candidate)
    }

    /// The nodes that are said to be gone and are still believed in.
    pub fn leaving(&self) -> impl Iterator<Item = &Candidate> {
        self.leaving.values().map(|leaving| &leaving.known.candidate)
    }

    /// Those of them that are held.
    pub fn kept(&self) -> impl Iterator<Item = &Candidate> {
        self.leaving.values().filter(|leaving| leaving.held).map(|leaving| &leaving.known.candidate)
    }

    /// What is held: why, and the names.
    #[must_use]
    pub fn held(&self) -> Option<(Doubt, Vec<&str>)> {
        let names = self.leaving.iter().filter(|(_, leaving)| leaving.held).map(|(name, _)| name.as_str()).collect();
        self.hold.as_ref().map(|hold| (hold.doubt, names))
    }

    /// When a complete list is wanted to confirm what is held.
    #[must_use]
    pub fn list_due(&self) -> Option<Moment> {
        self.hold.as_ref().map(|hold| hold.due)
    }

    /// When [`Self::tick`] has something to do.
    #[must_use]
    pub fn tick_due(&self) -> Option<Moment> {
        let waiting = || self.leaving.values().filter(|leaving| !leaving.held).map(|leaving| leaving.since);
        Some((waiting().max()? + LINGER).min(waiting().min()? + LONGEST_LINGER))
    }

    // === Lists ===

    /// A list begins.
    pub fn begin_list(&mut self, now: Moment) {
        self.listing = Some(Listing { begun: now, ..Listing::default() });
    }

    /// The list broke off: nothing of it counts.
    pub fn drop_list(&mut self) {
        self.listing = None;
    }

    /// The list has this item.
    pub fn listed(&mut self, candidate: Candidate, version: Version) {
        let known = self.sound(candidate, version);
        let Some(listing) = &mut self.listing else { return };
        // One without a name is told under its position.
        listing.unnamed += usize::from(!is_node_name(&known.candidate.name));
        // What cannot be read takes nothing from what was read under the same name.
        if known.candidate.is_unreadable() && listing.nodes.contains_key(&known.candidate.name) {
            return;
        }
        listing.nodes.insert(known.candidate.name.clone(), known);
    }

    /// Whether a list of this version is older than what was seen already: of a server that lags behind.
    #[must_use]
    pub fn is_outdated(&self, version: Version) -> bool {
        matches!((version, self.newest), (Some(list), Some(newest)) if list < newest)
    }

    /// The list is complete. What was known and is not in it is gone, or held.
    pub fn end_list(&mut self, version: Version, now: Moment) {
        let Some(Listing { nodes, unnamed, begun }) = self.listing.take() else { return };
        // Of a server restored from a backup they may be lower than before.
        (self.floor, self.newest) = (version, version);
        let before = std::mem::replace(&mut self.nodes, nodes);
        let confirming = self.hold.as_ref().is_some_and(|hold| begun >= hold.due && !self.nodes.is_empty());
        // Back, or another of that name has taken the place.
        let Self { nodes, leaving, .. } = self;
        leaving.retain(|name, _| !nodes.contains_key(name));
        for (name, known) in before {
            if is_node_name(&name) && !self.nodes.contains_key(&name) {
                self.leaving.insert(name, Leaving { known, since: now, deleted: None, held: false });
            }
        }
        if confirming {
            let confirmed: Vec<String> = self.leaving.iter().filter(|(_, leaving)| leaving.held).map(|(name, _)| name.clone()).collect();
            for name in confirmed {
                self.remove(&name, now);
            }
            // Confirmed: it is no reason to doubt what comes next.
            self.removed.clear();
            self.hold = None;
        }
        self.buried.clear();
        self.whole |= !self.nodes.is_empty();
        if self.is_empty() {
            // Nothing was known and nothing is: there is nothing to hold, but it is not believed either.
            let pause = if self.hold.is_some() { judgement::EMPTY_PAUSE } else { self.pause };
            self.hold = Some(Hold { doubt: Doubt::Empty, due: now + pause });
            return;
        }
        let doubt = (unnamed > 0 && !self.leaving.is_empty()).then_some(Doubt::Unreadable);
        self.judge(doubt, now);
    }

    // === Events ===

    /// A node was added or changed. Returns whether anything that is believed changed.
    pub fn applied(&mut self, candidate: Candidate, version: Version) -> bool {
        let death = candidate.uid.as_ref().and_then(|uid| self.buried.get(uid));
        if death.is_some_and(|death| !is_newer(version, *death))
            || matches!((version, self.floor), (Some(version), Some(floor)) if version < floor)
        {
            return false;
        }
        if let Some(known) = self.nodes.get(&candidate.name)
            && !follows(&candidate, version, known)
        {
            return false;
        }
        if let Some(leaving) = self.leaving.get(&candidate.name)
            && is_same(&candidate, &leaving.known.candidate)
            && let Some(deleted) = leaving.deleted
            && !is_newer(version, deleted)
        {
            return false;
        }
        let known = self.sound(candidate, version);
        self.seen(known.version);
        let name = known.candidate.name.clone();
        let was_leaving = self.leaving.remove(&name).is_some();
        self.release();
        match self.nodes.get_mut(&name) {
            Some(old) if old.candidate == known.candidate => {
                old.version = known.version;
                was_leaving
            }
            _ => {
                self.nodes.insert(name, known);
                true
            }
        }
    }

    /// A version was seen: of a bookmark, say.
    pub fn seen(&mut self, version: Version) {
        self.newest = self.newest.max(version);
    }

    /// A node was deleted. It is believed in until [`Self::tick`] has judged.
    pub fn deleted(&mut self, gone: &Candidate, version: Version, now: Moment) {
        self.seen(version);
        let Some(known) = self.nodes.get(&gone.name) else { return };
        // A deletion of an earlier node of that name, or one that came late: the node is there again.
        if !is_same(gone, &known.candidate) || matches!((version, known.version), (Some(new), Some(old)) if new < old) {
            return;
        }
        if let Some(known) = self.nodes.remove(&gone.name) {
            self.leaving.insert(gone.name.clone(), Leaving { known, since: now, deleted: Some(version), held: false });
        }
    }

    /// Judges deletions that have waited long enough. Returns whether anything that is believed changed.
    pub fn tick(&mut self, now: Moment) -> bool {
        if self.tick_due().is_none_or(|due| due > now) {
            return false;
        }
        let before = (self.leaving.len(), self.hold.clone());
        self.judge(None, now);
        before != (self.leaving.len(), self.hold.clone())
    }

    /// The candidate, or what was known before of a node whose object cannot be read.
    fn sound(&self, candidate: Candidate, version: Version) -> Known {
        if let Err(reason) = &candidate.node
            && candidate.is_unreadable()
            && let Some(Known { candidate: before, version }) = self.nodes.get(&candidate.name)
            && let Ok(node) = &before.node
        {
            let mut node = node.clone();
            node.notice = Some(format!("what was last told of it is not used: {reason}"));
            // Its version is no more to be trusted than the rest of it.
            return Known { candidate: Candidate { node: Ok(node), ..before.clone() }, version: *version };
        }
        Known { candidate, version }
    }
}

/// Whether both are the same node and not one and a later one of the same name. Without a uid there is no telling.
fn is_same(a: &Candidate, b: &Candidate) -> bool {
    a.uid.is_none() || b.uid.is_none() || a.uid == b.uid
}

/// Whether a version is known to be newer than another.
fn is_newer(new: Version, old: Version) -> bool {
    matches!((new, old), (Some(new), Some(old)) if new > old)
}

/// Whether `new` is to replace what is known.
fn follows(new: &Candidate, version: Version, known: &Known) -> bool {
    match (version, known.version) {
        (Some(new), Some(old)) => new >= old,
        // Another node of that name: the later one is there. Times are to the second; without them what comes later is later.
        _ if !is_same(new, &known.candidate) => new.created.is_none() || new.created >= known.candidate.created,
        _ => true,
    }
}

mod judgement;

#[cfg(test)]
#[path = "picture_tests.rs"]
mod tests;
