//! docs/packets.md and the code name the same rows and the same counters.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use overlay_common::counters::Flow;
use overlay_common::reason::DropReason;

use crate::case::Case;

/// One test for each direction.
pub(crate) fn trials(cases: &[&[Arc<Case>]]) -> Vec<Trial> {
    let rows: BTreeSet<&'static str> = cases.iter().flat_map(|cases| cases.iter()).map(|case| case.row).collect();
    let test = |name: &str, run: Box<dyn FnOnce() -> Result<()> + Send>| {
        Trial::test(name, move || run().map_err(|error| format!("{error:#}").into())).with_kind("docs/packets.md")
    };
    vec![
        test("has every row that is tested", Box::new(move || names_all(rows.iter().map(|row| format!("| {row} |"))))),
        test("explains every drop counter", Box::new(|| names_all(DropReason::ALL.iter().map(|reason| format!("`{}`", reason.name()))))),
        test("names every flow counter", Box::new(|| names_all(Flow::ALL.iter().map(|flow| format!("`{}`", flow.name()))))),
    ]
}

/// The page contains each of `words`.
fn names_all(words: impl Iterator<Item = String>) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/packets.md");
    let page = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let missing: Vec<_> = words.filter(|word| !page.contains(word)).collect();
    ensure!(missing.is_empty(), "missing: {missing:?}");
    Ok(())
}
