//! Which addresses there are to give, and in which order. Pure.

use ipnet::Ipv4Net;
use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// Addresses in a row, both ends included: `10.244.1.64/27` or `10.244.1.100-10.244.1.120`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressRange {
    first: Ipv4Addr,
    last: Ipv4Addr,
}

/// The text is no range of addresses.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("has {0:?}: a range is like 10.244.1.64/27 or 10.244.1.100-10.244.1.120")]
pub struct BadRange(String);

/// The ranges do not fit the node.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// A range has addresses that other nodes give.
    #[error("{range} is not within {network}, the network of this node's pods")]
    Outside {
        /// The range.
        range: AddressRange,
        /// The network.
        network: Ipv4Net,
    },
    /// Nothing but reserved addresses is left.
    #[error("no address is left to give: {network} has only its own, the gateway's and the broadcast address")]
    Empty {
        /// The network.
        network: Ipv4Net,
    },
}

impl FromStr for AddressRange {
    type Err = BadRange;

    fn from_str(text: &str) -> Result<Self, BadRange> {
        let bad = || BadRange(text.to_owned());
        if text.contains('/') {
            let network: Ipv4Net = text.parse().map_err(|_| bad())?;
            return Ok(Self { first: network.network(), last: network.broadcast() });
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last): (Ipv4Addr, Ipv4Addr) = (first.trim().parse().map_err(|_| bad())?, last.trim().parse().map_err(|_| bad())?);
        if first <= last { Ok(Self { first, last }) } else { Err(bad()) }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// The addresses this node may give its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// In order, none touching the next.
    ranges: Vec<AddressRange>,
    /// Never given: network, gateway, broadcast.
    reserved: [Ipv4Addr; 3],
}

impl Pool {
    /// The addresses of `ranges`, or of the whole `network` if there are none, but the reserved ones.
    ///
    /// # Errors
    /// [`PoolError`].
    pub fn new(network: Ipv4Net, gateway: Ipv4Addr, ranges: &[AddressRange]) -> Result<Self, PoolError> {
        let whole = AddressRange { first: network.network(), last: network.broadcast() };
        if let Some(range) = ranges.iter().find(|range| range.first < whole.first || range.last > whole.last) {
            return Err(PoolError::Outside { range: *range, network });
        }
        let mut sorted = if ranges.is_empty() { vec![whole] } else { ranges.to_vec() };
        sorted.sort();
        let mut ranges: Vec<AddressRange> = Vec::new();
        for range in sorted {
            match ranges.last_mut() {
                Some(before) if range.first.to_bits() <= before.last.to_bits().saturating_add(1) => {
                    before.last = before.last.max(range.last);
                }
                _ => ranges.push(range),
            }
        }
        let pool = Self { ranges, reserved: [whole.first, gateway, whole.last] };
        if pool.size() == 0 { Err(PoolError::Empty { network }) } else { Ok(pool) }
    }

    /// How many addresses there are to give.
    #[must_use]
    pub fn size(&self) -> usize {
        let reserved: BTreeSet<_> = self.reserved.into_iter().filter(|address| self.in_ranges(*address)).collect();
        let size = |range: &AddressRange| u64::from(range.last.to_bits() - range.first.to_bits()) + 1;
        usize::try_from(self.ranges.iter().map(size).sum::<u64>()).unwrap_or(usize::MAX) - reserved.len()
    }

    /// Whether the address is one of them.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.in_ranges(address) && !self.reserved.contains(&address)
    }

    /// Every address once, beginning behind `last`: what was given longest ago comes last.
    pub fn after(&self, last: Option<Ipv4Addr>) -> impl Iterator<Item = Ipv4Addr> + '_ {
        let last = last.map_or(0, Ipv4Addr::to_bits);
        let all = || self.ranges.iter().flat_map(|range| range.first.to_bits()..=range.last.to_bits());
        // Ranges are skipped as a whole where that is possible: a pool may be a /8.
        let behind = self.ranges.iter().flat_map(move |range| range.first.to_bits().max(last.saturating_add(1))..=range.last.to_bits());
        let until = all().take_while(move |address| *address <= last);
        behind.chain(until).map(Ipv4Addr::from_bits).filter(|address| !self.reserved.contains(address))
    }

    fn in_ranges(&self, address: Ipv4Addr) -> bool {
        self.ranges.iter().any(|range| (range.first..=range.last).contains(&address))
    }
}

#[cfg(test)]
#[path = "ranges_tests.rs"]
mod tests;
