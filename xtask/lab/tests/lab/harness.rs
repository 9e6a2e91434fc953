//! Groups of cases that share a lab. A failed case tells what the agents logged and which counters moved, and the next case gets a new lab.

use anyhow::Context as _;
use libtest_mimic::{Completion, Failed, Trial};
use overlay_lab::lab::{Lab, LabConfig};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

type Check = Box<dyn FnOnce(&mut Lab) -> anyhow::Result<()> + Send>;

/// Cases that share a lab.
pub(crate) struct Group {
    name: String,
    config: LabConfig,
    cases: Vec<(&'static str, Check)>,
    skip: Option<String>,
}

/// The lab of the group whose turn it is.
static CURRENT: Mutex<Option<(Arc<str>, Lab)>> = Mutex::new(None);

/// What was measured.
static NOTES: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl Group {
    /// A group of that name, its lab as `config` says.
    pub(crate) fn new(name: impl Into<String>, config: LabConfig) -> Self {
        Self { name: name.into(), config, cases: Vec::new(), skip: None }
    }

    /// Adds a case. `sentence` says what must hold.
    pub(crate) fn case(mut self, sentence: &'static str, check: impl FnOnce(&mut Lab) -> anyhow::Result<()> + Send + 'static) -> Self {
        self.cases.push((sentence, Box::new(check)));
        self
    }

    /// Skips every case, each by its name, for that reason.
    pub(crate) fn skipped_for(mut self, reason: Option<String>) -> Self {
        self.skip = reason;
        self
    }

    /// The cases for the test runner.
    pub(crate) fn into_trials(self) -> Vec<Trial> {
        let (group, config): (Arc<str>, LabConfig) = (self.name.into(), self.config);
        let trial = |(sentence, check): (&'static str, Check)| {
            let (group, skip) = (Arc::clone(&group), self.skip.clone());
            Trial::ignorable_test(format!("{group}: {sentence}"), move || match skip {
                Some(reason) => Ok(Completion::ignored_with(reason)),
                None => run(&group, &config, check).map(|()| Completion::Completed),
            })
        };
        self.cases.into_iter().map(trial).collect()
    }
}

fn run(group: &Arc<str>, config: &LabConfig, check: Check) -> Result<(), Failed> {
    // Poisoned by a case that panicked: its lab is taken down like that of any failed case.
    let mut current = CURRENT.lock().unwrap_or_else(|poisoned| {
        let mut current = PoisonError::into_inner(poisoned);
        *current = None;
        CURRENT.clear_poison();
        current
    });
    // The old lab has to be gone before the new one takes its names.
    let kept = current.take().filter(|(of, _)| of == group);
    let mut lab = match kept {
        Some((_, lab)) => lab,
        None => Lab::create(config, &mut |_| {}).context("build the lab").map_err(|error| format!("{error:#}"))?,
    };
    let before = counters(&lab);
    if let Err(error) = check(&mut lab) {
        let moved = moved(&before, &counters(&lab));
        return Err(format!("{error:#}\n\n{moved}\n{}", lab.evidence()).into());
    }
    *current = Some((Arc::clone(group), lab));
    Ok(())
}

/// Runs a check while no lab is up.
pub(crate) fn without_lab(check: impl FnOnce() -> anyhow::Result<()>) -> Result<(), Failed> {
    drop(CURRENT.lock().unwrap_or_else(PoisonError::into_inner).take());
    check().map_err(|error| format!("{error:#}").into())
}

/// Keeps a measurement for the end of the run.
pub(crate) fn note(text: String) {
    NOTES.lock().unwrap_or_else(PoisonError::into_inner).push(text);
}

/// Prints what was measured.
pub(crate) fn print_notes() {
    let notes = NOTES.lock().unwrap_or_else(PoisonError::into_inner);
    if !notes.is_empty() {
        println!("measured:");
    }
    for note in notes.iter() {
        println!("  {note}");
    }
}

/// Every number of every node's status below `counters`, by node and path.
pub(crate) fn counters(lab: &Lab) -> BTreeMap<String, u64> {
    let mut numbers = BTreeMap::new();
    for node in &lab.nodes {
        if let Ok(status) = node.status() {
            collect(&node.name, &status["counters"], &mut numbers);
        }
    }
    numbers
}

fn collect(path: &str, value: &Value, numbers: &mut BTreeMap<String, u64>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| collect(&format!("{path}.{name}"), value, numbers)),
        Value::Number(number) => drop(number.as_u64().map(|number| numbers.insert(path.to_owned(), number))),
        _ => {}
    }
}

/// The counters that differ, as text.
fn moved(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> String {
    let mut text = "counters that moved:\n".to_owned();
    for (name, after) in after {
        let before = before.get(name).copied().unwrap_or(0);
        if before != *after {
            let _ = writeln!(text, "  {name}: {before} to {after}");
        }
    }
    text
}
