//! Finds the items of a list in the text of an answer, piece by piece as it arrives.
//!
//! Pure. The list of 10,000 Nodes is 160 MB of text (the API server sends all of it in one answer when it is asked for what its cache
//! has, whatever page size is asked for), so it is never held as a whole: each item is handed on as soon as its last byte is there. Only
//! brackets and strings are looked at; whoever gets an item parses it, and one that is no JSON costs nothing but itself. What is not
//! inside an item is kept and parsed at the end: a text that stops anywhere before its last bracket is no list.

use serde::Deserialize;

/// Largest item taken. etcd takes objects of up to 1.5 MB.
const LARGEST_ITEM: usize = 8 << 20;
/// Most of everything around the items.
const LARGEST_REST: usize = 1 << 20;

/// The text is not a list.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum ScanError {
    /// It ends early.
    #[error("the list is cut off after {0} bytes")]
    CutOff(u64),
    /// Something is too large to be what it should be.
    #[error("the list has an item, or something else, of more than {0} bytes")]
    TooLarge(usize),
    /// What is around the items is no JSON.
    #[error("the list is not JSON: {0}")]
    NotJson(String),
    /// It is another object.
    #[error("a list of nodes was asked for, and a {0:?} came")]
    Kind(String),
}

/// What is around the items.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Envelope {
    /// `metadata.resourceVersion`.
    pub(super) version: Option<String>,
    /// `metadata.continue`: there are more pages.
    pub(super) next: Option<String>,
}

/// Where the scan is with regard to the items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Before,
    Inside,
    After,
}

/// A scan of one answer.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the place in the text")]
pub(super) struct Scan {
    place: Place,
    depth: u32,
    in_string: bool,
    escaped: bool,
    /// Whether an item has begun.
    in_item: bool,
    ended: bool,
    item: Vec<u8>,
    rest: Vec<u8>,
    length: u64,
}

impl Scan {
    pub(super) const fn new() -> Self {
        Self {
            place: Place::Before,
            depth: 0,
            in_string: false,
            escaped: false,
            in_item: false,
            ended: false,
            item: Vec::new(),
            rest: Vec::new(),
            length: 0,
        }
    }

    /// Takes the next piece in; hands every item that is whole to `take`.
    pub(super) fn push(&mut self, bytes: &[u8], take: &mut dyn FnMut(&[u8])) -> Result<(), ScanError> {
        self.length += bytes.len() as u64;
        // Where the bytes begin that have not been put anywhere yet.
        let mut start = 0;
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if self.in_string {
                at += self.string(&bytes[at..]);
                continue;
            }
            let between = self.place == Place::Inside && self.depth == 2;
            match byte {
                b',' | b']' if between && self.in_item => {
                    // An item that is no object ends with what follows it.
                    self.keep(&bytes[start..at])?;
                    self.hand_on(take);
                    start = at;
                    continue;
                }
                b',' | b' ' | b'\n' | b'\r' | b'\t' if between => {
                    at += 1;
                    if !self.in_item {
                        start = at;
                    }
                    continue;
                }
                b']' => {}
                _ => self.in_item |= between,
            }
            match byte {
                b'"' => self.in_string = true,
                b'[' if self.depth == 1 && self.place == Place::Before => {
                    self.keep(&bytes[start..at])?;
                    start = at;
                    if names_items(&self.rest) {
                        self.place = Place::Inside;
                        self.keep(b"[")?;
                        start = at + 1;
                    }
                    self.depth += 1;
                }
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth =
                        self.depth.checked_sub(1).ok_or_else(|| ScanError::NotJson("it begins with a closing bracket".to_owned()))?;
                    if self.place == Place::Inside && self.depth == 1 {
                        self.place = Place::After;
                    }
                    self.ended |= self.depth == 0;
                }
                _ => {}
            }
            at += 1;
            if self.in_item && self.depth == 2 && matches!(byte, b'}' | b']') {
                self.keep(&bytes[start..at])?;
                self.hand_on(take);
                start = at;
            }
        }
        self.keep(&bytes[start..])
    }

    /// Ends the scan: what was around the items, if all of it came.
    pub(super) fn finish(self) -> Result<Envelope, ScanError> {
        #[derive(Deserialize)]
        struct Whole {
            kind: Option<String>,
            #[serde(default)]
            metadata: Metadata,
        }
        #[derive(Deserialize, Default)]
        #[serde(rename_all = "camelCase")]
        struct Metadata {
            resource_version: Option<String>,
            #[serde(rename = "continue")]
            next: Option<String>,
        }
        if !self.ended {
            return Err(ScanError::CutOff(self.length));
        }
        let Whole { kind, metadata } = serde_json::from_slice(&self.rest).map_err(|error| ScanError::NotJson(error.to_string()))?;
        match kind.as_deref() {
            Some("NodeList" | "List") => {}
            other => return Err(ScanError::Kind(other.unwrap_or_default().chars().take(80).collect())),
        }
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        Ok(Envelope { version: filled(metadata.resource_version), next: filled(metadata.next) })
    }

    /// Goes through a string; returns how many bytes of it there are.
    fn string(&mut self, bytes: &[u8]) -> usize {
        if std::mem::take(&mut self.escaped) {
            return 1;
        }
        let Some(length) = bytes.iter().position(|byte| matches!(byte, b'"' | b'\\')) else { return bytes.len() };
        match bytes[length] {
            b'"' => self.in_string = false,
            _ => self.escaped = true,
        }
        length + 1
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), ScanError> {
        let (kept, largest) = if self.in_item { (&mut self.item, LARGEST_ITEM) } else { (&mut self.rest, LARGEST_REST) };
        if kept.len() + bytes.len() > largest {
            return Err(ScanError::TooLarge(largest));
        }
        kept.extend_from_slice(bytes);
        Ok(())
    }

    fn hand_on(&mut self, take: &mut dyn FnMut(&[u8])) {
        take(&self.item);
        self.item.clear();
        self.in_item = false;
    }
}

/// Whether the text ends with the key `items`.
fn names_items(text: &[u8]) -> bool {
    text.trim_ascii_end().strip_suffix(b":").is_some_and(|text| text.trim_ascii_end().ends_with(b"\"items\""))
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
