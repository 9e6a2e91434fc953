//! What a run of the bench found: the samples as data, and their ways to people.
//!
//! A [`Report`] holds every sample of every round and nothing computed from them: medians, spreads, ratios and verdicts are worked out
//! ([`stats`], [`verdict`]) each time they are shown, so a figure can never disagree with its samples. [`table`] shows it in a terminal,
//! [`svg`] as charts, [`page`] as one HTML page, [`summary`] as the generated part of docs/performance.md; [`write()`](files::write) leaves
//! JSON, charts and page in a directory. Only [`files`] and [`summary::update`] touch files; nothing here measures or decides what is measured.

pub mod files;
#[cfg(test)]
mod fixture;
mod look;
pub mod page;
mod rung;
pub mod stats;
pub mod summary;
pub mod svg;
pub mod table;
pub mod unit;
pub mod verdict;

pub use files::{Written, json, read, write};
pub use rung::RungCheck;
pub use unit::Unit;
pub use verdict::{Bound, Goal, Judged, Verdict};

use serde::{Deserialize, Deserializer, Serialize};
use stats::Summary;

/// A whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The command that repeats the run.
    pub command: String,
    /// When it started, as RFC 3339.
    pub started: String,
    /// What was built: a git revision, with a mark if the tree had changes.
    pub revision: String,
    /// Where it ran.
    pub machine: Machine,
    /// How often each contender was measured in each row.
    pub rounds: usize,
    /// How long one sample took, in seconds.
    pub seconds: f64,
    /// Everyone who took part, in the order they are shown in.
    pub contenders: Vec<ContenderInfo>,
    /// The work measured, in the order it is shown in.
    pub rows: Vec<Row>,
    /// The rung the agent chooses for a NIC like the bed's, by its own measurement, if it made one in this run.
    #[serde(default)]
    pub chosen_rung: Option<String>,
}

/// The machine a run was made on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the processor, as /proc/cpuinfo has it.
    pub cpu: String,
    /// Processors the run could use.
    pub cores: usize,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// Release of the kernel, as `uname -r` prints it.
    pub kernel: String,
}

/// A system that forwards between two nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContenderInfo {
    /// What series and goals call it. The [`Side`] follows from it.
    pub id: String,
    /// What people call it, in a few words.
    pub title: String,
    /// What it consists of, in a sentence.
    pub what: String,
}

/// On which side a contender stands: the colour of its bars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// This build of the project.
    Ours,
    /// Another build of the project.
    OtherBuild,
    /// What others run.
    Rival,
    /// Not an overlay: what the machine can do at best.
    Limit,
}

impl Side {
    /// All of them, in the order a legend has them.
    pub const ALL: [Self; 4] = [Self::Ours, Self::OtherBuild, Self::Rival, Self::Limit];

    /// The side of a contender: `other-…` is another build, `flannel…` and `routes…` are rivals, `limit-…` and `none…` limits. All else is ours.
    #[must_use]
    pub fn of(contender: &str) -> Self {
        match contender.split('-').next().unwrap_or_default() {
            "other" => Self::OtherBuild,
            "flannel" | "routes" => Self::Rival,
            "limit" | "none" => Self::Limit,
            _ => Self::Ours,
        }
    }
}

/// One kind of work, measured for several contenders in turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Unique in the run; part of the charts' names.
    pub id: String,
    /// Title of the group it is shown in.
    pub group: String,
    /// The work, in one line.
    pub title: String,
    /// How it is done and what it shows, in a sentence or two.
    pub what: String,
    /// What was read off.
    pub figures: Vec<Figure>,
    /// What a reader has to know about this run. One that begins with a contender's id and a colon is about that contender, and says why
    /// it has no samples if it has none.
    pub remarks: Vec<String>,
}

/// One quantity of a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Unique in the row; part of the chart's name.
    pub id: String,
    /// The quantity.
    pub title: String,
    /// What the samples are counted in.
    pub unit: Unit,
    /// Which way is good.
    pub better: Better,
    /// The contender that ratios are against.
    pub reference: Option<String>,
    /// One series per contender, in the order they are shown in.
    pub series: Vec<Series>,
    /// What is asked of the ratios.
    pub goals: Vec<Goal>,
}

/// The direction in which a figure is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
}

impl Better {
    /// For a caption.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Higher => "higher is better",
            Self::Lower => "lower is better",
        }
    }
}

/// The samples of one contender.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Its id.
    pub contender: String,
    /// One sample per round, in the figure's unit, so sample i of two series was taken in the same round. A round that gave no sample is
    /// NaN, in JSON `null`. Empty: the contender was not measured.
    #[serde(deserialize_with = "with_holes")]
    pub samples: Vec<f64>,
}

fn with_holes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    let samples = Vec::<Option<f64>>::deserialize(deserializer)?;
    Ok(samples.into_iter().map(|sample| sample.unwrap_or(f64::NAN)).collect())
}

impl Report {
    /// What people call a contender; one that is not in the list goes by its id.
    #[must_use]
    pub fn title<'a>(&'a self, contender: &'a str) -> &'a str {
        self.contenders.iter().find(|info| info.id == contender).map_or(contender, |info| &info.title)
    }

    /// A remark with the title of the contender it is about in place of its id.
    #[must_use]
    pub fn remark_for_people(&self, remark: &str) -> String {
        let about = self.contenders.iter().find_map(|info| Some((info, remark.strip_prefix(&info.id)?.strip_prefix(':')?)));
        about.map_or_else(|| remark.to_owned(), |(info, rest)| format!("{}:{rest}", info.title))
    }

    /// The rows by group; groups in the order they first occur.
    #[must_use]
    pub fn groups(&self) -> Vec<(&str, Vec<&Row>)> {
        let mut groups: Vec<(&str, Vec<&Row>)> = Vec::new();
        for row in &self.rows {
            match groups.iter_mut().find(|(title, _)| *title == row.group) {
                Some((_, rows)) => rows.push(row),
                None => groups.push((&row.group, vec![row])),
            }
        }
        groups
    }
}

impl Row {
    /// The first remark about a contender, without its id.
    #[must_use]
    pub fn remark(&self, contender: &str) -> Option<&str> {
        self.remarks.iter().find_map(|remark| Some(remark.strip_prefix(contender)?.strip_prefix(':')?.trim_start()))
    }
}

impl Figure {
    /// Median and spread of a contender; `None` if it was not measured.
    #[must_use]
    pub fn summary(&self, contender: &str) -> Option<Summary> {
        Summary::of(self.samples(contender))
    }

    /// Median and spread of the ratios of two contenders, round by round; `None` unless both were measured in one round at least.
    #[must_use]
    pub fn ratio(&self, contender: &str, rival: &str) -> Option<Summary> {
        Summary::of(&stats::ratios(self.samples(contender), self.samples(rival)))
    }

    /// The ratio to the figure's reference. The reference itself has none.
    #[must_use]
    pub fn ratio_to_reference(&self, contender: &str) -> Option<Summary> {
        self.ratio(contender, self.reference.as_deref().filter(|reference| *reference != contender)?)
    }

    fn samples(&self, contender: &str) -> &[f64] {
        self.series.iter().find(|series| series.contender == contender).map_or(&[], |series| &series.samples)
    }
}
