//! Starting `overlay-lab`, the lab as a program: xtask neither makes namespaces nor loads programs, and links none of the project's crates.
//!
//! The verbs that start it list its flags once more, so that they are checked and explained before anything is built.

use crate::place;
use anyhow::{Result, bail};
use std::path::PathBuf;
use std::process::Command;

/// How the lab prints what it found.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Output {
    /// Tables for a person.
    Text,
    /// One JSON document.
    Json,
}

/// `overlay-lab`, as cargo has just built it.
pub(crate) fn command(release: bool) -> Result<Command> {
    let lab = build_folder(release).join("overlay-lab");
    if !place::is_executable(&lab) {
        bail!("the build left no {}", lab.display());
    }
    Ok(Command::new(lab))
}

/// Where cargo leaves programs.
fn build_folder(release: bool) -> PathBuf {
    let folder = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| place::workspace().join("target"), PathBuf::from);
    place::workspace().join(folder).join(if release { "release" } else { "debug" })
}

/// The word of a flag's value.
pub(crate) fn name_of(value: &impl clap::ValueEnum) -> String {
    value.to_possible_value().expect("no value of these is hidden").get_name().to_owned()
}
