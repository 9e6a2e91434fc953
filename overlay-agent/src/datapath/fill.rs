//! How full a map is: its keys counted, which is all the kernel offers. Reads, changes nothing.

use super::DatapathError;
use aya::maps::MapError;

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// The map's name.
    pub name: &'static str,
    /// Its entries.
    pub entries: u32,
    /// Entries it has room for.
    pub capacity: u32,
}

impl Fill {
    /// Counts keys, and not for ever: a key that goes while it is the current one has the kernel begin again.
    pub(super) fn count<K>(
        name: &'static str,
        capacity: u32,
        keys: impl Iterator<Item = Result<K, MapError>>,
    ) -> Result<Self, DatapathError> {
        let counted = keys.take(capacity as usize).try_fold(0, |count, key| key.map(|_| count + 1));
        counted.map(|entries| Self { name, entries, capacity }).map_err(|source| DatapathError::Map { name, source })
    }
}
