//! Whether the rung that `overlay-agent measure` chooses is the right one: the fastest of the three over everything the run measured, or
//! nearly so. Pure.
//!
//! The mix is the geometric mean over the rows that all three rungs took part in, each row by its first figure and counted once.

use super::{Better, Report};

/// The rungs that are compared, by their ids as contenders. The others are beside the first.
const RUNGS: [&str; 3] = ["tc", "xdp", "kernel"];
/// A rung within so much of the fastest is as good as it.
const MARGIN: f64 = 0.95;

/// What was chosen, beside what would have been best.
#[derive(Clone, Debug, PartialEq)]
pub struct RungCheck {
    /// The rung that was chosen.
    pub chosen: String,
    /// Each rung beside the first, over the mix.
    pub mix: Vec<(&'static str, f64)>,
    /// How many rows are in the mix.
    pub rows: usize,
    /// The chosen rung beside the fastest one.
    pub share: f64,
}

impl RungCheck {
    /// The choice is the fastest rung or within a twentieth of it.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.share >= MARGIN
    }
}

impl std::fmt::Display for RungCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mix: Vec<String> = self.mix.iter().map(|(rung, speed)| format!("{rung} {speed:.2}")).collect();
        let word = if self.is_right() { "right" } else { "WRONG" };
        let Self { chosen, rows, share, .. } = self;
        write!(
            f,
            "measured on scratch nodes, the agent chooses {chosen}; over {rows} rows: {}; {share:.2} of the fastest: {word}",
            mix.join(", ")
        )
    }
}

impl Report {
    /// Compares the rung that was chosen with all that was measured. `None` when none was chosen, or no row has all three.
    #[must_use]
    pub fn rung_check(&self) -> Option<RungCheck> {
        let chosen = self.chosen_rung.clone()?;
        let ratios: Vec<[f64; 3]> = self.rows.iter().filter_map(|row| row.figures.first()).filter_map(ratios).collect();
        let rows = ratios.len();
        #[expect(clippy::cast_precision_loss, reason = "a number of rows")]
        let mean = |rung: usize| f64::exp(ratios.iter().map(|row| row[rung].ln()).sum::<f64>() / rows.max(1) as f64);
        let mix: Vec<_> = RUNGS.iter().enumerate().map(|(index, rung)| (*rung, mean(index))).collect();
        let fastest = mix.iter().map(|(_, speed)| *speed).fold(f64::MIN, f64::max);
        let (_, speed) = mix.iter().find(|(rung, _)| *rung == chosen)?;
        let share = speed / fastest;
        (rows > 0).then_some(RungCheck { chosen, mix, rows, share })
    }
}

/// How good each rung was at a figure, beside the first; more is better whatever the figure.
fn ratios(figure: &super::Figure) -> Option<[f64; 3]> {
    let [first, ..] = RUNGS;
    let mut ratios = [1.0; 3];
    for (ratio, rung) in ratios.iter_mut().zip(RUNGS).skip(1) {
        let median = figure.ratio(rung, first)?.median;
        *ratio = if figure.better == Better::Higher { median } else { 1.0 / median };
    }
    ratios.iter().all(|ratio| ratio.is_finite() && *ratio > 0.0).then_some(ratios)
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    fn report(chosen: &str, figures: &[(Better, [f64; 3])]) -> Report {
        let mut report = fixture::report();
        let mut rows = Vec::new();
        for (better, samples) in figures {
            let mut row = report.rows[0].clone();
            row.figures.truncate(1);
            row.figures[0].better = *better;
            row.figures[0].series = RUNGS
                .iter()
                .zip(samples)
                .map(|(rung, sample)| super::super::Series { contender: (*rung).to_owned(), samples: vec![*sample] })
                .collect();
            rows.push(row);
        }
        (report.rows, report.chosen_rung) = (rows, Some(chosen.to_owned()));
        report
    }

    #[test]
    fn less_time_counts_as_much_as_more_work() {
        let figures = [(Better::Higher, [100.0, 200.0, 50.0]), (Better::Lower, [10.0, 20.0, 20.0])];
        let check = report("tc", &figures).rung_check().unwrap();
        assert_eq!(check.rows, 2);
        let speeds: Vec<f64> = check.mix.iter().map(|(_, speed)| *speed).collect();
        assert!((speeds[1] - 1.0).abs() < 1e-9 && (speeds[2] - 0.5).abs() < 1e-9, "{check:?}");
        assert!(check.is_right());
    }

    #[test]
    fn a_choice_more_than_a_twentieth_behind_is_wrong() {
        let figures = [(Better::Higher, [100.0, 106.0, 50.0])];
        let check = report("tc", &figures).rung_check().unwrap();
        assert!(!check.is_right() && check.to_string().ends_with("0.94 of the fastest: WRONG"), "{check}");
        assert!(report("xdp", &figures).rung_check().unwrap().is_right());
    }

    #[test]
    fn nothing_is_said_where_a_rung_took_no_part() {
        assert_eq!(fixture::report().rung_check(), None);
        assert_eq!(report("tc", &[]).rung_check(), None);
        assert_eq!(report("tc", &[(Better::Higher, [100.0, f64::NAN, 50.0])]).rung_check(), None);
    }
}
