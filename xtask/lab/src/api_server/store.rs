//! What the server knows: objects as the text that is sent, and every change as the line a watch gets.
//!
//! Nothing is parsed or serialized on the way to a client, so that ten thousand changes cost ten thousand copies of a pointer each watch.
//! Pure state: no lock, no socket.

use hyper::body::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// What a version stands as in the text of every object, unescaped only there.
const VERSION: &str = "\"resourceVersion\":\"";

/// Bytes of changes that are remembered, unless a test says otherwise: a watch that needs older ones is told 410.
pub(super) const REMEMBERED: usize = 256 << 20;

/// One object.
#[derive(Clone, Debug)]
pub(super) struct Object {
    /// As JSON, on one line, with its version.
    pub(super) text: Bytes,
    /// New with every creation.
    pub(super) uid: Arc<str>,
}

/// A list as it was at a version.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) version: u64,
    /// By name.
    pub(super) items: Vec<(String, Bytes)>,
}

/// A line of a watch.
#[derive(Debug)]
struct Told {
    /// None: said by a test and not a change; it reaches the watches that run.
    version: Option<u64>,
    name: String,
    line: Bytes,
}

/// How far a watch has come.
#[derive(Clone, Debug)]
pub(super) struct Cursor {
    /// The version of the last change it was told, or that it began with.
    pub(super) version: u64,
    /// The number of the next line.
    next: u64,
    /// Lines of tests before this one are not for it.
    start: u64,
    /// What the version was when it began: changes up to it are not for it, whatever their place in the history.
    since: u64,
}

/// What a watch needs is not remembered any more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// The order in which changes that were held back are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As they happened.
    Kept,
    /// The last one first.
    Reversed,
    /// As they happened, each one twice.
    Doubled,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Store {
    objects: BTreeMap<String, Object>,
    version: u64,
    /// A watch from before this is told 410.
    forgotten: u64,
    history: VecDeque<Told>,
    /// The number of the first line in `history`.
    first: u64,
    /// Bytes of the lines in `history`.
    bytes: usize,
    /// How many bytes it may hold.
    pub(super) limit: usize,
    /// Changes that happened and are not told yet.
    held: Option<Vec<Told>>,
    /// Lists of which somebody has read the first page.
    paged: BTreeMap<u64, Arc<Listing>>,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            // As of a server that has been up for a while: nobody takes 1 for the beginning.
            version: 48_213,
            forgotten: 0,
            history: VecDeque::new(),
            first: 0,
            bytes: 0,
            limit: REMEMBERED,
            held: None,
            paged: BTreeMap::new(),
        }
    }
}

impl Store {
    /// The version of the last change.
    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn get(&self, name: &str) -> Option<&Object> {
        self.objects.get(name)
    }

    /// All of them, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Object> {
        self.objects.values()
    }

    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    /// Adds or replaces an object. `render` gets its uid; the version in its text is filled in here.
    pub(super) fn put(&mut self, name: &str, render: impl FnOnce(&str) -> String) {
        self.version += 1;
        let known = self.objects.get(name).map(|object| Arc::clone(&object.uid));
        let kind = if known.is_some() { "MODIFIED" } else { "ADDED" };
        let uid = known.unwrap_or_else(|| format!("5d3c9c1e-7a52-4f0e-9b1a-{:012x}", self.version).into());
        let text = Bytes::from(stamped(&render(&uid), self.version));
        self.tell(kind, name, &text);
        self.objects.insert(name.to_owned(), Object { text, uid });
    }

    /// Removes an object.
    pub(super) fn delete(&mut self, name: &str) -> Option<Object> {
        let object = self.objects.remove(name)?;
        self.version += 1;
        let text = stamped(&String::from_utf8_lossy(&object.text), self.version).into();
        self.tell("DELETED", name, &text);
        Some(object)
    }

    fn tell(&mut self, kind: &str, name: &str, text: &Bytes) {
        let told = Told { version: Some(self.version), name: name.to_owned(), line: line(kind, text) };
        match &mut self.held {
            Some(held) => held.push(told),
            None => self.remember(told),
        }
    }

    fn remember(&mut self, told: Told) {
        self.bytes += told.line.len();
        self.history.push_back(told);
        while self.bytes > self.limit
            && let Some(oldest) = self.history.pop_front()
        {
            self.first += 1;
            self.bytes -= oldest.line.len();
            self.forgotten = self.forgotten.max(oldest.version.unwrap_or(0));
        }
    }

    /// Has every watch that runs told a line, which need not be true.
    pub(super) fn say(&mut self, line: Bytes) {
        self.remember(Told { version: None, name: String::new(), line });
    }

    /// From now on changes happen, and no watch is told.
    pub(super) fn hold(&mut self) {
        self.held.get_or_insert_default();
    }

    /// Tells what was held back.
    pub(super) fn release(&mut self, order: Order) {
        let mut held = self.held.take().unwrap_or_default();
        if order == Order::Reversed {
            held.reverse();
        }
        for told in held {
            if order == Order::Doubled {
                self.remember(Told { version: told.version, name: told.name.clone(), line: told.line.clone() });
            }
            self.remember(told);
        }
    }

    /// Forgets every change told so far, and every list somebody is in the middle of.
    pub(super) fn forget(&mut self) {
        self.version += 1;
        self.forgotten = self.version;
        self.first += u64::try_from(self.history.len()).unwrap_or(0);
        self.history.clear();
        self.bytes = 0;
        self.forget_pages();
    }

    /// Forgets the lists somebody is in the middle of.
    pub(super) fn forget_pages(&mut self) {
        self.paged.clear();
    }

    /// Every object as of now, or the one of that name only.
    pub(super) fn listing(&self, name: Option<&str>) -> Listing {
        let all = self.objects.iter().filter(|(known, _)| name.is_none_or(|name| name == known.as_str()));
        Listing { version: self.version, items: all.map(|(name, object)| (name.clone(), object.text.clone())).collect() }
    }

    /// Keeps a list for whoever asks for its next page.
    pub(super) fn keep(&mut self, listing: &Arc<Listing>) {
        self.paged.insert(listing.version, Arc::clone(listing));
    }

    /// The list of that version, if somebody has read its first page.
    pub(super) fn kept(&self, version: u64) -> Option<Arc<Listing>> {
        self.paged.get(&version).cloned()
    }

    /// Where a watch begins that knows everything up to a version.
    pub(super) fn begin(&self, version: u64) -> Result<Cursor, Gone> {
        let end = self.first + u64::try_from(self.history.len()).unwrap_or(0);
        if version < self.forgotten { Err(Gone) } else { Ok(Cursor { version, next: self.first, start: end, since: version }) }
    }

    /// The next lines for a watch, at most `most`, of the object of that name only if one is named.
    pub(super) fn next(&self, cursor: &mut Cursor, most: usize, name: Option<&str>) -> Result<Vec<Bytes>, Gone> {
        if cursor.version < self.forgotten || cursor.next < self.first {
            return Err(Gone);
        }
        let mut lines = Vec::new();
        let skip = usize::try_from(cursor.next - self.first).unwrap_or(usize::MAX);
        for told in self.history.iter().skip(skip) {
            if lines.len() == most {
                break;
            }
            let number = cursor.next;
            cursor.next += 1;
            let new = told.version.map_or(number >= cursor.start, |version| version > cursor.since);
            if new {
                cursor.version = cursor.version.max(told.version.unwrap_or(0));
                if told.version.is_none() || name.is_none_or(|name| name == told.name) {
                    lines.push(told.line.clone());
                }
            }
        }
        Ok(lines)
    }
}

/// An object's text with another version.
fn stamped(text: &str, version: u64) -> String {
    let Some((before, after)) = text.split_once(VERSION) else { return text.to_owned() };
    let after = after.trim_start_matches(|digit: char| digit.is_ascii_digit());
    format!("{before}{VERSION}{version}{after}")
}

/// A line of a watch.
pub(super) fn line(kind: &str, object: &[u8]) -> Bytes {
    let parts: [&[u8]; 5] = [b"{\"type\":\"", kind.as_bytes(), b"\",\"object\":", object, b"}\n"];
    parts.concat().into()
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
