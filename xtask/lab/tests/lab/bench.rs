//! The bench as a program: does it run, measure everybody it was asked to, and leave what it promises. How fast anything is, is not judged.

use crate::harness;
use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use overlay_lab::agent;
use overlay_lab::command;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Rows that are run: one with the generator, one with sockets, one with neither.
const ROWS: &str = "receive-1-flow,requests-16,start";
/// Contenders that are asked for: ours, a rival, the ceiling.
const CONTENDERS: [&str; 3] = ["tc", "flannel", "none"];
/// The one that another build adds; here that build is this one again.
const OTHER: &str = "other-tc";
/// Rows that need kube-proxy's rules or the plugin, each with the contenders it is run on.
const WITH_MORE: [(&str, &[&str]); 5] = [
    ("service-packets", &["tc-100", "flannel-100"]),
    ("service-answers", &["tc-100", "flannel-100"]),
    ("service-connections", &["tc-100", "flannel-100"]),
    ("service-requests", &["tc-100", "flannel-100"]),
    ("pod-add-del", &["tc", "flannel", "routes"]),
];

pub(crate) fn trials() -> Vec<Trial> {
    let trial =
        |sentence: &str, check: fn() -> anyhow::Result<()>| Trial::test(format!("bench: {sentence}"), move || harness::without_lab(check));
    vec![
        trial("names its rows and contenders", lists),
        trial("measures every contender it is asked for and leaves JSON, charts and a page", measures),
        trial("measures Services and the plugin", measures_more),
    ]
}

fn lists() -> anyhow::Result<()> {
    let text = command::run(Command::new(agent::sibling("overlay-lab")?).args(["bench", "--list"]))?;
    let more = WITH_MORE.iter().flat_map(|(row, contenders)| [*row].into_iter().chain(contenders.iter().copied()));
    for name in ROWS.split(',').chain(CONTENDERS).chain(more) {
        ensure!(text.split_whitespace().any(|word| word == name), "--list does not name {name}:\n{text}");
    }
    Ok(())
}

fn measures() -> anyhow::Result<()> {
    let lab = agent::sibling("overlay-lab")?;
    let own_build = lab.parent().context("a program is in a folder")?;
    let out = Out::create(own_build, "bench-smoke")?;
    let mut bench = Command::new(&lab);
    bench.args(["bench", "--rounds=1", "--seconds=0.1", "--output=json", "--rows", ROWS, "--contenders", &CONTENDERS.join(",")]);
    bench.arg("--other").arg(own_build).args(["--other-name", "the same build"]).arg("--out").arg(&out.0);
    let report: Value = serde_json::from_str(&command::run(&mut bench)?).context("standard output is to be one JSON document")?;

    let sampled = sampled(rows(&report));
    for contender in CONTENDERS.into_iter().chain([OTHER]) {
        ensure!(sampled.contains(contender), "{contender} was not measured, only {sampled:?}: {report:#}");
    }
    for row in ROWS.split(',') {
        ensure!(rows(&report).any(|done| done["id"] == row), "no row {row}: {report:#}");
    }
    for extension in ["json", "svg", "html"] {
        ensure!(out.holds(extension)?, "no .{extension} in {}", out.0.display());
    }
    Ok(())
}

fn measures_more() -> anyhow::Result<()> {
    let lab = agent::sibling("overlay-lab")?;
    let out = Out::create(lab.parent().context("a program is in a folder")?, "bench-smoke-more")?;
    let contenders: BTreeSet<&str> = WITH_MORE.iter().flat_map(|(_, contenders)| contenders.iter().copied()).collect();
    let mut bench = Command::new(&lab);
    bench.args(["bench", "--rounds=1", "--seconds=0.1", "--output=json", "--rows", &WITH_MORE.map(|(row, _)| row).join(",")]);
    bench.args(["--contenders", &contenders.into_iter().collect::<Vec<_>>().join(",")]).arg("--out").arg(&out.0);
    let report: Value = serde_json::from_str(&command::run(&mut bench)?).context("standard output is to be one JSON document")?;
    for (id, contenders) in WITH_MORE {
        let sampled = sampled(rows(&report).filter(|row| row["id"] == id));
        ensure!(contenders.iter().all(|name| sampled.contains(name)), "{id}: only {sampled:?} were measured: {report:#}");
    }
    Ok(())
}

fn rows(report: &Value) -> impl Iterator<Item = &Value> {
    report["rows"].as_array().into_iter().flatten()
}

/// Every contender that has a sample that is a number above zero.
fn sampled<'a>(rows: impl Iterator<Item = &'a Value>) -> BTreeSet<&'a str> {
    let figures = rows.flat_map(|row| row["figures"].as_array().into_iter().flatten());
    let series = figures.flat_map(|figure| figure["series"].as_array().into_iter().flatten());
    let measured = series.filter(|series| {
        let samples = series["samples"].as_array();
        samples.is_some_and(|samples| samples.iter().any(|sample| sample.as_f64().is_some_and(|sample| sample > 0.0)))
    });
    measured.filter_map(|series| series["contender"].as_str()).collect()
}

/// A folder for one run, where the sandbox of the program that is run does not hide it; dropped, it is gone.
struct Out(PathBuf);

impl Out {
    fn create(own_build: &Path, name: &str) -> anyhow::Result<Self> {
        let path = own_build.join(name);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }

    fn holds(&self, extension: &str) -> anyhow::Result<bool> {
        let files = fs::read_dir(&self.0).with_context(|| format!("read {}", self.0.display()))?;
        Ok(files.flatten().any(|file| file.path().extension().is_some_and(|found| found == extension)))
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        // What stays is replaced by the next run.
        let _ = fs::remove_dir_all(&self.0);
    }
}
