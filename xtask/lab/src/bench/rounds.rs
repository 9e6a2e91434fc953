//! Alternation: every contender of a row in turn, round after round, so that a machine that becomes slower or faster meanwhile does so for
//! all of them.

use super::plan::{REFERENCE, RowSpec};
use super::report::{Figure, Row, Series};
use super::rows::{self, Contestant, Memory, Stage};
use super::selection;
use indicatif::ProgressBar;
use std::collections::BTreeMap;

/// Measures a row. A contender that fails is left out from then on and the row says why: the others' figures are none the worse.
///
/// The order is turned by one from round to round: nobody always comes after the same other.
pub(super) fn run(stage: &mut Stage<'_>, spec: &RowSpec, contestants: &[Contestant], rounds: usize, progress: &ProgressBar) -> Row {
    let figures = spec.work.figures();
    let mut samples: BTreeMap<&str, Vec<Vec<f64>>> = BTreeMap::new();
    let mut failed: BTreeMap<&str, String> = BTreeMap::new();
    let mut memory = Memory::default();
    for round in 0..rounds {
        for index in 0..contestants.len() {
            let contestant = &contestants[(index + round) % contestants.len()];
            let name = contestant.name.as_str();
            progress.set_message(format!("{}: {name}, round {} of {rounds}", spec.id, round + 1));
            if !failed.contains_key(name) {
                match rows::measure(stage, spec.work, contestant, &mut memory) {
                    Ok(sample) => samples.entry(name).or_default().push(sample),
                    Err(error) => drop(failed.insert(name, format!("{name}: {error:#}"))),
                }
            }
            progress.inc(1);
        }
    }
    // Samples of a round that not all rounds have would not pair up with the others'.
    samples.retain(|name, _| !failed.contains_key(name));
    let reference = reference(spec, &samples);
    let figures = figures.iter().enumerate().map(|(index, figure)| Figure {
        id: figure.id.to_owned(),
        title: figure.title.to_owned(),
        unit: figure.unit,
        better: figure.better,
        reference: reference.clone(),
        series: contestants
            .iter()
            .filter_map(|contestant| Some((contestant, samples.get(contestant.name.as_str())?)))
            .map(|(contestant, rounds)| Series {
                contender: contestant.name.clone(),
                samples: rounds.iter().map(|sample| sample[index]).collect(),
            })
            .collect(),
        goals: selection::goals(spec, contestants, figure.id, figure.better),
    });
    Row {
        id: spec.id.to_owned(),
        group: spec.group.to_owned(),
        title: spec.title.to_owned(),
        what: spec.work.what().to_owned(),
        figures: figures.collect(),
        remarks: failed.into_values().collect(),
    }
}

/// Who the ratios are against: flannel where it takes part, else flannel with the fewest rules, else the first that was measured.
fn reference(spec: &RowSpec, samples: &BTreeMap<&str, Vec<Vec<f64>>>) -> Option<String> {
    let first = |fits: &dyn Fn(&str) -> bool| spec.contenders.iter().find(|name| fits(name) && samples.contains_key(**name));
    let of_its_kind = |name: &str| name.strip_prefix(REFERENCE).is_some_and(|rest| rest.starts_with('-'));
    let reference = first(&|name| name == REFERENCE).or_else(|| first(&of_its_kind)).or_else(|| first(&|_| true));
    reference.map(|name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::plan::ROWS;

    fn of(id: &str, measured: &[&'static str]) -> Option<String> {
        let spec = ROWS.iter().find(|row| row.id == id)?;
        reference(spec, &measured.iter().map(|name| (*name, Vec::new())).collect())
    }

    #[test]
    fn ratios_are_against_flannel_where_it_was_measured() {
        assert_eq!(of("requests-16", &["tc", "flannel", "flannel-100"]).as_deref(), Some("flannel"));
        assert_eq!(of("service-packets", &["tc-100", "flannel-100", "tc-5000", "flannel-5000"]).as_deref(), Some("flannel-100"));
        assert_eq!(of("service-packets", &["tc-100", "tc-5000"]).as_deref(), Some("tc-100"));
    }
}
