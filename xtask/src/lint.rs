//! `cargo xtask lint`: everything that can be judged without running the code.
//!
//! Every check runs even if an earlier one failed, so that one call shows all there is to mend.

pub(crate) mod layout;

use crate::setup::{self, Purpose};
use crate::toolchain::{self, Toolchain};
use crate::{build_ebpf, manifests, place, refusal, step};
use anyhow::{Context as _, Result, bail};
use std::process::Command;

/// Check formatting, lints, documentation, import rules, shell scripts and the Helm chart; warnings are errors.
#[derive(Default, clap::Args)]
pub(crate) struct Args {
    /// Also check licences, duplicates and sources of the dependencies with cargo-deny, whose first installation compiles for minutes.
    #[arg(long)]
    deny: bool,
}

/// A check: what it is, and how it is done.
type Check = (&'static str, fn() -> Result<()>);

const CHECKS: [Check; 7] = [
    ("formatting", formatting),
    ("layout and import rules", layout::check),
    ("shell scripts", shell_scripts),
    ("Helm chart", manifests::check),
    ("clippy, host crates", clippy_host),
    ("clippy, overlay-ebpf for BPF", clippy_ebpf),
    ("documentation", documentation),
];

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(&[Purpose::Ebpf, Purpose::Lint])?;
    let mut checks = CHECKS.to_vec();
    if args.deny {
        setup::ensure(&[Purpose::Deny])?;
        checks.push(("dependencies", dependencies));
    }
    let mut failed = Vec::new();
    for (name, check) in checks {
        eprintln!("== {name}");
        if let Err(error) = check() {
            refusal::report(&error);
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("lint failed: {}", failed.join("; "));
    }
    println!("lint: nothing to mend");
    Ok(())
}

/// rustfmt on every crate; it does not compile, so overlay-ebpf is among them.
pub(crate) fn formatting() -> Result<()> {
    let status = step::cargo().args(["fmt", "--all", "--check"]).status().context("cannot start cargo fmt")?;
    if !status.success() {
        bail!("not formatted, or rustfmt is missing: run cargo fmt --all (and rustup component add rustfmt)");
    }
    Ok(())
}

fn shell_scripts() -> Result<()> {
    let root = place::workspace();
    let mut scripts = vec![root.join(".ci/run")];
    scripts.extend(layout::files(root, "sh")?);
    for script in scripts {
        let text = std::fs::read_to_string(&script).with_context(|| format!("cannot read {}", script.display()))?;
        let shell = if text.lines().next().is_some_and(|line| line.contains("bash")) { "bash" } else { "sh" };
        step::output(Command::new(shell).arg("-n").arg(&script))?;
    }
    Ok(())
}

fn clippy_host() -> Result<()> {
    let words = ["clippy", "--workspace", "--exclude", "overlay-ebpf", "--all-targets", "--", "--deny", "warnings"];
    step::loud(step::cargo().args(words))
}

/// Clippy of the toolchain that compiles the object: rustup's stable has no core for BPF to check against.
fn clippy_ebpf() -> Result<()> {
    let (Some(toolchain), Some(linker)) = (Toolchain::find(), toolchain::linker()) else {
        bail!("no toolchain for BPF or no bpf-linker: run cargo xtask setup ebpf");
    };
    let host = toolchain.version()?.host;
    for features in [&[][..], &["--features", "log"], &["--features", "generator"]] {
        let mut cargo = build_ebpf::command(&toolchain, &linker, &host, "clippy");
        cargo.arg("--release").args(features).args(["--", "--deny", "warnings"]);
        step::loud(&mut cargo)?;
    }
    Ok(())
}

/// Private items too, so that links to them are checked; a link from public to private documentation is fine in a project read as source.
fn documentation() -> Result<()> {
    let words = ["doc", "--workspace", "--exclude", "overlay-ebpf", "--no-deps", "--document-private-items"];
    step::loud(step::cargo().args(words).env("RUSTDOCFLAGS", "--deny warnings --allow rustdoc::private_intra_doc_links"))
}

/// Not the advisories: they need a database from the network and change without the code changing.
fn dependencies() -> Result<()> {
    let deny = place::program("cargo-deny").context("cargo-deny is missing: run cargo xtask setup deny")?;
    step::loud(Command::new(deny).args(["check", "--hide-inclusion-graph", "licenses", "bans", "sources"]).current_dir(place::workspace()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error's own words, without the backtrace that `unwrap` would print.
    fn holds(check: fn() -> Result<()>) {
        if let Err(error) = check() {
            panic!("{error:#}");
        }
    }

    #[test]
    fn code_is_formatted() {
        holds(formatting);
    }

    #[test]
    fn shell_scripts_parse() {
        holds(shell_scripts);
    }

    #[test]
    fn layout_and_import_rules_hold() {
        holds(layout::check);
    }
}
