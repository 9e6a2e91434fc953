//! Whether those who are said to be gone are gone.
//!
//! Pure, as all of the picture. The only place where a node is removed that no other of its name has replaced.

use super::{Doubt, Hold, Leaving, Moment, Picture};
use std::time::Duration;

/// How long a removal counts when the next ones are judged.
pub(super) const WINDOW: Duration = Duration::from_mins(1);
/// Fewest removals within [`WINDOW`] that can look like a mistake.
const FEWEST: usize = 2;
/// How long an empty list is left alone before it is asked for again: no list without any node can be confirmed.
pub(super) const EMPTY_PAUSE: Duration = Duration::from_mins(1);

impl Picture {
    /// Removes what is leaving, or holds it.
    pub(super) fn judge(&mut self, doubt: Option<Doubt>, now: Moment) {
        while self.removed.front().is_some_and(|removed| *removed + WINDOW <= now) {
            self.removed.pop_front();
        }
        match doubt.or_else(|| self.doubt()) {
            // Before a complete list nothing is removed, however sure.
            None if self.whole => {
                let names: Vec<String> = self.leaving.iter().filter(|(_, leaving)| !leaving.held).map(|(name, _)| name.clone()).collect();
                for name in names {
                    self.remove(&name, now);
                }
            }
            None => {}
            Some(doubt) => {
                let pause = if doubt == Doubt::Empty && self.hold.is_some() { EMPTY_PAUSE } else { self.pause };
                let added = self.leaving.values_mut().filter(|leaving| !leaving.held).map(|leaving| leaving.held = true).count();
                // What is held already keeps its moment, unless more has come that nobody has confirmed since, or that moment is over.
                if added > 0 || self.hold.as_ref().is_none_or(|hold| hold.due <= now) {
                    self.hold = Some(Hold { doubt, due: now + pause });
                }
            }
        }
        self.release();
    }

    /// What speaks against believing that all who are leaving are gone.
    fn doubt(&self) -> Option<Doubt> {
        let gone = self.leaving.len() + self.removed.len();
        if self.leaving.is_empty() {
            None
        } else if self.nodes.is_empty() {
            Some(Doubt::Empty)
        } else if self.leaving.contains_key(&self.own) {
            Some(Doubt::Own)
        } else if gone >= FEWEST && gone > self.nodes.len() {
            Some(Doubt::Few)
        } else {
            None
        }
    }

    pub(super) fn remove(&mut self, name: &str, now: Moment) {
        if let Some(Leaving { known, deleted, .. }) = self.leaving.remove(name) {
            self.removed.push_back(now);
            self.buried.extend(known.candidate.uid.map(|uid| (uid, deleted.unwrap_or(self.floor))));
        }
    }

    /// Ends a hold when nothing is held any more.
    pub(super) fn release(&mut self) {
        if self.whole && self.hold.is_some() && !self.nodes.is_empty() && !self.leaving.values().any(|leaving| leaving.held) {
            self.hold = None;
        }
    }
}
