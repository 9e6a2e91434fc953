//! The report on disk: `report.json` for machines, a chart per figure, `index.html` for people. Writes only into the directory it is given.
//!
//! The JSON is the [`Report`] with a field `computed` behind it, so that a script needs no statistics of its own: the median and spread of
//! each series, the ratio to the reference, and each goal with its verdict. Reading it back ignores that field: the samples are the truth.

use super::stats::Summary;
use super::svg::{self, Placement};
use super::verdict::{Bound, Judged, Tally, Verdict};
use super::{Report, page};
use anyhow::{Context as _, Result};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// Name of the report for machines.
const JSON: &str = "report.json";

/// Name of the page.
const PAGE: &str = "index.html";

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The report for machines.
    pub json: PathBuf,
    /// The page.
    pub page: PathBuf,
    /// A chart per figure.
    pub charts: Vec<PathBuf>,
}

/// Writes everything into the directory, which is made if it does not exist. Charts that the run before left there and this one has no
/// figure for are removed; nothing else is.
pub fn write(report: &Report, directory: &Path) -> Result<Written> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let written = Written {
        json: directory.join(JSON),
        page: directory.join(PAGE),
        charts: charts(report).map(|(name, _)| directory.join(name)).collect(),
    };
    // A report that cannot be read is no reason not to write this one: there is only less to clean up.
    for (name, _) in read(&written.json).iter().flat_map(charts) {
        let stale = directory.join(name);
        if !written.charts.contains(&stale) && stale.exists() {
            fs::remove_file(&stale).with_context(|| format!("cannot remove {}", stale.display()))?;
        }
    }
    put(&written.json, &json(report)?)?;
    for ((_, chart), path) in charts(report).zip(&written.charts) {
        put(path, &chart())?;
    }
    put(&written.page, &page::html(report))?;
    Ok(written)
}

/// Reads a report that [`write()`] left.
pub fn read(path: &Path) -> Result<Report> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no report of the bench", path.display()))
}

/// Every chart with the name of its file.
fn charts(report: &Report) -> impl Iterator<Item = (String, impl Fn() -> String)> {
    report.rows.iter().flat_map(move |row| {
        row.figures
            .iter()
            .map(move |figure| (svg::file_name(row, figure), move || svg::chart(report, row, figure, Placement::File).into_string()))
    })
}

fn put(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The report and what follows from it, for machines.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    report: &'a Report,
    computed: Computed<'a>,
}

#[derive(Serialize)]
struct Computed<'a> {
    series: Vec<ComputedSeries<'a>>,
    goals: Vec<ComputedGoal<'a>>,
    tally: Tally,
}

#[derive(Serialize)]
struct ComputedSeries<'a> {
    row: &'a str,
    figure: &'a str,
    contender: &'a str,
    samples: Option<Summary>,
    ratio_to_reference: Option<Summary>,
}

#[derive(Serialize)]
struct ComputedGoal<'a> {
    row: &'a str,
    figure: &'a str,
    contender: &'a str,
    rival: &'a str,
    bound: Bound,
    verdict: Verdict,
}

impl<'a> ComputedGoal<'a> {
    fn of(judged: Judged<'a>) -> Self {
        Self {
            row: &judged.row.id,
            figure: &judged.figure.id,
            contender: &judged.goal.contender,
            rival: &judged.goal.rival,
            bound: judged.goal.bound,
            verdict: judged.verdict,
        }
    }
}

fn json(report: &Report) -> Result<String> {
    let mut series = Vec::new();
    for row in &report.rows {
        for figure in &row.figures {
            series.extend(figure.series.iter().map(|each| ComputedSeries {
                row: &row.id,
                figure: &figure.id,
                contender: &each.contender,
                samples: figure.summary(&each.contender),
                ratio_to_reference: figure.ratio_to_reference(&each.contender),
            }));
        }
    }
    let goals = report.verdicts().into_iter().map(ComputedGoal::of).collect();
    let document = Document { report, computed: Computed { series, goals, tally: report.tally() } };
    Ok(serde_json::to_string_pretty(&document).context("the report has no JSON form")? + "\n")
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn what_is_written_can_be_read_back_with_every_sample_and_every_hole() {
        let directory = tempfile::tempdir().unwrap();
        let report = fixture::report();
        let written = write(&report, directory.path()).unwrap();
        let back = read(&written.json).unwrap();
        assert!(back.rows[0].figures[1].series[1].samples[3].is_nan());
        // NaN is not equal to itself; its form in JSON is.
        assert!(json(&back).unwrap() == json(&report).unwrap());
        assert!(fs::read_to_string(&written.page).unwrap() == page::html(&back));
    }

    #[test]
    fn scripts_find_medians_and_verdicts_in_the_json() {
        let value: serde_json::Value = serde_json::from_str(&json(&fixture::report()).unwrap()).unwrap();
        let series = &value["computed"]["series"][0];
        assert_eq!((&series["row"], &series["contender"]), (&"receive-one-flow".into(), &"tc".into()));
        assert_eq!(series["samples"]["median"], 3.05e6);
        assert_eq!(value["computed"]["goals"][0]["bound"]["at-least"], 2.5);
        assert!(value["computed"]["goals"][0]["verdict"]["met"].as_f64() > Some(2.5));
        assert_eq!(value["computed"]["goals"][2]["verdict"], "not-measured");
    }

    #[test]
    fn charts_of_rows_that_are_gone_go_too_and_other_files_stay() {
        let directory = tempfile::tempdir().unwrap();
        let mut report = fixture::report();
        let before = write(&report, directory.path()).unwrap();
        let foreign = directory.path().join("mine.svg");
        fs::write(&foreign, "<svg/>").unwrap();
        report.rows.pop();
        let after = write(&report, directory.path()).unwrap();
        assert_eq!(before.charts.iter().filter(|chart| chart.exists()).count(), after.charts.len());
        assert!(foreign.exists());
    }

    #[test]
    fn names_from_a_report_cannot_leave_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let mut report = fixture::report();
        "../../row".clone_into(&mut report.rows[0].id);
        let written = write(&report, directory.path()).unwrap();
        assert!(written.charts.iter().all(|chart| chart.parent() == Some(directory.path())), "{:?}", written.charts);
    }
}
