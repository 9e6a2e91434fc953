//! Goals on ratios, and whether they were reached. Pure; a goal is judged by the samples and never rounded into being met.

use super::stats::Summary;
use super::{Figure, Report, Row};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What is asked of a contender beside another one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Goal {
    /// Who is asked. May be absent from the run.
    pub contender: String,
    /// Beside whom. May be absent from the run.
    pub rival: String,
    /// For the median of the ratios contender / rival, round by round.
    pub bound: Bound,
}

/// A limit for a ratio.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl Bound {
    /// The ratio that just meets it.
    #[must_use]
    pub fn ratio(self) -> f64 {
        match self {
            Self::AtLeast(bound) | Self::AtMost(bound) => bound,
        }
    }

    /// Whether a ratio meets it.
    #[must_use]
    pub fn holds(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(bound) => ratio >= bound,
            Self::AtMost(bound) => ratio <= bound,
        }
    }
}

/// As the table of goals has it: `≥ 2.5`.
impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, "≥ {bound}"),
            Self::AtMost(bound) => write!(f, "≤ {bound}"),
        }
    }
}

/// What became of a goal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Reached, with this ratio.
    Met(f64),
    /// Not reached, with this ratio.
    Missed(f64),
    /// One of the two has no samples.
    NotMeasured,
}

impl Verdict {
    /// In a word or two. What is missed stands out without colour too.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Met(_) => "met",
            Self::Missed(_) => "MISSED",
            Self::NotMeasured => "not measured",
        }
    }

    /// One character, for where there is no room for more.
    #[must_use]
    pub fn mark(self) -> char {
        match self {
            Self::Met(_) => '✓',
            Self::Missed(_) => '✗',
            Self::NotMeasured => '–',
        }
    }
}

/// A goal with its place and what became of it.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'a> {
    /// The row it is in.
    pub row: &'a Row,
    /// The figure it is on.
    pub figure: &'a Figure,
    /// What was asked.
    pub goal: &'a Goal,
    /// What became of it.
    pub verdict: Verdict,
    /// The ratio with its range, if both were measured.
    pub ratio: Option<Summary>,
}

impl Judged<'_> {
    /// The ratio as people read it, with as many digits as it takes to see on which side of the bound it lies.
    #[must_use]
    pub fn measured(&self) -> String {
        let Some(ratio) = self.ratio else { return "–".to_owned() };
        let bound = self.goal.bound;
        let shown = |decimals| format!("{:.decimals$}", ratio.median);
        let truthful = |text: &String| text.parse().is_ok_and(|shown| bound.holds(shown) == bound.holds(ratio.median));
        (2..=9).map(shown).find(truthful).unwrap_or_else(|| ratio.median.to_string())
    }
}

/// How many goals were met, missed and not measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Reached.
    pub met: usize,
    /// Not reached.
    pub missed: usize,
    /// Without samples.
    pub not_measured: usize,
}

/// `9 met, 2 missed, 1 not measured`; what is zero is left out, except what was met.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} met", self.met)?;
        if self.missed > 0 {
            write!(f, ", {} missed", self.missed)?;
        }
        if self.not_measured > 0 {
            write!(f, ", {} not measured", self.not_measured)?;
        }
        Ok(())
    }
}

impl Figure {
    /// What became of one of the figure's goals.
    #[must_use]
    pub fn verdict(&self, goal: &Goal) -> Verdict {
        match self.ratio(&goal.contender, &goal.rival) {
            Some(ratio) if goal.bound.holds(ratio.median) => Verdict::Met(ratio.median),
            Some(ratio) => Verdict::Missed(ratio.median),
            None => Verdict::NotMeasured,
        }
    }
}

impl Row {
    /// Every goal of one of the row's figures.
    #[must_use]
    pub fn judge<'a>(&'a self, figure: &'a Figure) -> Vec<Judged<'a>> {
        let judge = |goal: &'a Goal| Judged {
            row: self,
            figure,
            goal,
            verdict: figure.verdict(goal),
            ratio: figure.ratio(&goal.contender, &goal.rival),
        };
        figure.goals.iter().map(judge).collect()
    }
}

impl Report {
    /// Every goal of the run, in the order of the rows.
    #[must_use]
    pub fn verdicts(&self) -> Vec<Judged<'_>> {
        self.rows.iter().flat_map(|row| row.figures.iter().flat_map(|figure| row.judge(figure))).collect()
    }

    /// The goals of the run, counted.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.verdicts().iter().fold(Tally::default(), |mut tally, judged| {
            match judged.verdict {
                Verdict::Met(_) => tally.met += 1,
                Verdict::Missed(_) => tally.missed += 1,
                Verdict::NotMeasured => tally.not_measured += 1,
            }
            tally
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn a_goal_is_met_missed_or_not_measured() {
        let report = fixture::report();
        let words: Vec<_> = report.rows[0].judge(&report.rows[0].figures[0]).iter().map(|judged| judged.verdict).collect();
        assert!(matches!(words[..], [Verdict::Met(_), Verdict::Missed(_), Verdict::NotMeasured, ..]), "{words:?}");
        let tally = report.tally();
        assert_eq!(tally.met + tally.missed + tally.not_measured, report.verdicts().len());
    }

    #[test]
    fn a_goal_missed_by_a_hair_is_not_rounded_into_being_met() {
        let report = fixture::report();
        let mut figure = report.rows[0].figures[0].clone();
        figure.series = vec![fixture::series("tc", &[2.4999]), fixture::series("flannel", &[1.0])];
        figure.goals = vec![
            Goal { contender: "tc".to_owned(), rival: "flannel".to_owned(), bound: Bound::AtLeast(2.5) },
            Goal { contender: "tc".to_owned(), rival: "flannel".to_owned(), bound: Bound::AtMost(2.5) },
        ];
        let judged = report.rows[0].judge(&figure);
        assert_eq!((judged[0].verdict.word(), judged[0].measured().as_str()), ("MISSED", "2.4999"));
        // On this side of the bound 2.50 is as true as 2.4999.
        assert_eq!((judged[1].verdict.word(), judged[1].measured().as_str()), ("met", "2.50"));
    }
}
