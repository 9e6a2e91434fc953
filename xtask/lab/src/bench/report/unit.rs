//! Numbers for people: units scaled so that a column has one unit and few digits. Pure.

use serde::{Deserialize, Serialize};

/// What a sample is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Packets per second.
    PacketsPerSecond,
    /// Bits per second.
    BitsPerSecond,
    /// Events (round trips, connections) per second.
    PerSecond,
    /// A time, in nanoseconds.
    Nanoseconds,
    /// A time, in seconds.
    Seconds,
    /// Processor time per packet, in nanoseconds.
    NanosecondsPerPacket,
    /// Processor time per 10⁹ bits carried, in seconds.
    SecondsPerGbit,
    /// Bytes.
    Bytes,
    /// A number of things.
    Count,
}

/// How large one step of a unit is, and what it is called.
type Step = (f64, &'static str);

impl Unit {
    /// From the smallest step to the largest.
    fn steps(self) -> &'static [Step] {
        match self {
            Self::PacketsPerSecond => &[(1.0, "packets/s"), (1e3, "kpps"), (1e6, "Mpps")],
            Self::BitsPerSecond => &[(1.0, "bit/s"), (1e3, "kbit/s"), (1e6, "Mbit/s"), (1e9, "Gbit/s")],
            Self::PerSecond => &[(1.0, "/s")],
            Self::Nanoseconds => &[(1.0, "ns"), (1e3, "µs"), (1e6, "ms"), (1e9, "s")],
            Self::Seconds => &[(1e-9, "ns"), (1e-6, "µs"), (1e-3, "ms"), (1.0, "s")],
            Self::NanosecondsPerPacket => &[(1.0, "ns/packet")],
            Self::SecondsPerGbit => &[(1e-3, "ms/Gbit"), (1.0, "s/Gbit")],
            Self::Bytes => &[(1.0, "bytes"), (1024.0, "KiB"), (1_048_576.0, "MiB"), (1_073_741_824.0, "GiB")],
            Self::Count => &[(1.0, "")],
        }
    }
}

/// The unit and the decimals that all numbers of one figure are shown in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    factor: f64,
    decimals: usize,
    /// Name of the unit; empty for a mere number.
    pub name: &'static str,
}

impl Scale {
    /// For numbers of about these sizes: the largest has no more than three digits before the point if the unit has such a step, the
    /// smallest has three digits in all if two decimals are enough for that.
    #[must_use]
    pub fn of(unit: Unit, sizes: impl IntoIterator<Item = f64>) -> Self {
        let sizes = sizes.into_iter().map(f64::abs).filter(|size| size.is_finite() && *size > 0.0);
        let (smallest, largest) = sizes.fold((f64::INFINITY, 0.0_f64), |(low, high), size| (low.min(size), high.max(size)));
        let steps = unit.steps();
        let (factor, name) = steps.iter().rev().find(|(factor, _)| *factor <= largest).copied().unwrap_or(steps[0]);
        let decimals = match smallest / factor {
            _ if unit == Unit::Count => 0,
            small if small >= 100.0 => 0,
            small if small >= 10.0 => 1,
            _ => 2,
        };
        Self { factor, decimals, name }
    }

    /// A number without its unit, thousands apart.
    #[must_use]
    pub fn number(&self, value: f64) -> String {
        let decimals = self.decimals;
        let text = format!("{:.decimals$}", value / self.factor);
        let whole = text.split('.').next().unwrap_or_default().trim_start_matches('-').len();
        let start = text.len() - text.trim_start_matches('-').len();
        let mut apart = String::with_capacity(text.len() + whole / 3);
        for (place, digit) in text.char_indices() {
            if place > start && place < start + whole && (start + whole - place).is_multiple_of(3) {
                apart.push(',');
            }
            apart.push(digit);
        }
        apart
    }

    /// A number with its unit.
    #[must_use]
    pub fn with_unit(&self, value: f64) -> String {
        format!("{} {}", self.number(value), self.name).trim_end().to_owned()
    }

    /// How much of the unit is one of its base, for a scale that a drawing needs.
    #[must_use]
    pub fn factor(&self) -> f64 {
        self.factor
    }
}

/// A ratio: `2.56`, and `0.013` where two decimals would say nothing.
#[must_use]
pub fn ratio(value: f64) -> String {
    let decimals = if value.abs() < 0.1 { 3 } else { 2 };
    format!("{value:.decimals$}")
}

/// A fraction as percent: `4.2 %`.
#[must_use]
pub fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{:.1} %", value * 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_scaled_for_a_reader() {
        for (unit, sizes, value, shown) in [
            (Unit::PacketsPerSecond, vec![1.19e6, 17.5e6], 17.5e6, "17.50 Mpps"),
            (Unit::PacketsPerSecond, vec![870e3, 950e3], 870e3, "870 kpps"),
            (Unit::BitsPerSecond, vec![13.5e9, 16.8e9], 15.24e9, "15.2 Gbit/s"),
            (Unit::PerSecond, vec![45_210.0], 45_210.4, "45,210 /s"),
            (Unit::Nanoseconds, vec![41_300.0], 41_300.0, "41.3 µs"),
            (Unit::Seconds, vec![0.00214], 0.00214, "2.14 ms"),
            (Unit::Seconds, vec![3.2e-9], 3.2e-9, "3.20 ns"),
            (Unit::NanosecondsPerPacket, vec![327.0], 327.4, "327 ns/packet"),
            (Unit::SecondsPerGbit, vec![0.133], 0.133, "133 ms/Gbit"),
            (Unit::Bytes, vec![5_452_595.0], 5_452_595.0, "5.20 MiB"),
            (Unit::Count, vec![25_000.0, 3.0], 1_234_567.0, "1,234,567"),
            (Unit::Count, vec![0.0], 0.0, "0"),
        ] {
            assert_eq!(Scale::of(unit, sizes).with_unit(value), shown, "{unit:?}");
        }
        assert_eq!(Scale::of(Unit::Count, []).number(-123_456.0), "-123,456");
        assert_eq!((ratio(2.5649), ratio(0.0131)), ("2.56".to_owned(), "0.013".to_owned()));
    }
}
