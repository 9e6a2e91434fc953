//! How full `DETOUR` is: the sockets of pods that talk through the host's stack. Reads the pinned map, for the status, and changes nothing.

use super::{DatapathError, Fill, PinDir};
use aya::maps::{HashMap, Map, MapData, MapError};
use nix::time::{ClockId, clock_gettime};
use overlay_common::abi::{self, map};
use std::time::Duration;
use zerocopy::transmute;

type KeyBytes = [u8; size_of::<abi::DetourKey>()];
type ValueBytes = [u8; size_of::<abi::Detour>()];

fn open(pins: &PinDir) -> Result<HashMap<MapData, KeyBytes, ValueBytes>, MapError> {
    Map::from_map_data(MapData::from_pin(pins.map(map::DETOUR))?)?.try_into()
}

/// What `DETOUR` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detours {
    /// Sockets noted, those of pods that are gone among them.
    pub sockets: u32,
    /// Sockets it has room for.
    pub capacity: u32,
    /// How long ago the one that has been silent longest sent something. In a full map this is what a socket may be silent for without
    /// being forgotten.
    pub longest_silence: Duration,
}

impl Detours {
    /// Reads the whole map; a lookup from user space does not count as use.
    ///
    /// # Errors
    /// [`DatapathError::Map`] when the pin is missing or cannot be read, [`DatapathError::Incompatible`] when its layout is another.
    pub fn read(pins: &PinDir) -> Result<Self, DatapathError> {
        super::tables::check_pins(pins)?;
        Self::from_pin(pins).map_err(|source| DatapathError::Map { name: map::DETOUR, source })
    }

    /// How full the map is, and nothing more: half the work of [`Self::read`].
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn fill(pins: &PinDir) -> Result<Fill, DatapathError> {
        super::tables::check_pins(pins)?;
        let map = open(pins).map_err(|source| DatapathError::Map { name: map::DETOUR, source })?;
        Fill::count(map::DETOUR, abi::MAX_DETOURS, map.keys())
    }

    fn from_pin(pins: &PinDir) -> Result<Self, MapError> {
        let map = open(pins)?;
        let (mut sockets, mut oldest) = (0, None);
        for entry in &map {
            let detour: abi::Detour = transmute!(entry?.1);
            sockets += 1;
            oldest = Some(oldest.map_or(detour.last_seen, |oldest: u64| oldest.min(detour.last_seen)));
        }
        // The programs' clock. Linux has it: the error is theory.
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| u64::try_from(now.tv_sec()).unwrap_or_default());
        let longest_silence = Duration::from_secs(oldest.map_or(0, |oldest| now.saturating_sub(oldest)));
        Ok(Self { sockets, capacity: abi::MAX_DETOURS, longest_silence })
    }

    /// A new socket pushes out an old one. The kernel sets some room aside for each CPU, so that the map is never full to the last entry.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.sockets >= self.capacity / 16 * 15
    }
}
