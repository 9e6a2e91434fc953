//! `cargo xtask ci`: all that has to hold before a change is merged, in one command.

use crate::{lint, test};
use anyhow::Result;

/// Run lint and every test suite: what has to pass before a change is merged.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Runs the verb.
pub(crate) fn run(_args: &Args) -> Result<()> {
    lint::run(&lint::Args::default())?;
    test::run(&test::Args::default())
}
