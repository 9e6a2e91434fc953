//! `cargo xtask demo`: sets up, builds, and runs `overlay-lab demo` with the same flags.
//!
//! The lab is a program of its own: xtask neither makes namespaces nor loads programs.

use crate::build_ebpf::{self, Variant};
use crate::setup::{self, Purpose};
use crate::{build, place, refusal, step};
use anyhow::{Result, bail};
use std::path::PathBuf;
use std::process::Command;

/// Show a small cluster at work: nodes, pods, and traffic between them through the eBPF programs.
///
/// Everything runs in namespaces of its own on this machine, as root, and is gone afterwards.
/// Exit code 0 only if every pod reached every other.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many nodes.
    #[arg(long, value_name = "N")]
    nodes: Option<u32>,
    /// How many pods on each node.
    #[arg(long, value_name = "N")]
    pods: Option<u32>,
    /// What connects the nodes.
    #[arg(long, value_enum)]
    underlay: Option<Underlay>,
    /// Leave it running and print the commands to play with.
    #[arg(long)]
    keep: bool,
    /// Print the result as text or as JSON.
    #[arg(long, value_enum, value_name = "FORMAT")]
    output: Option<Output>,
}

/// What connects the nodes.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Underlay {
    /// One subnet, a bridge.
    L2,
    /// Two subnets with a router between them.
    Routed,
}

/// How the result is printed.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Output {
    /// Tables for a person.
    Text,
    /// One JSON document.
    Json,
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<()> {
    refusal::unless_root("the demo makes network namespaces and loads eBPF programs", "cargo xtask demo")?;
    setup::ensure(&[Purpose::Ebpf, Purpose::Lab])?;
    build_ebpf::build(Variant::Release)?;
    build::host(false)?;
    step::loud(Command::new(lab()?).arg("demo").args(flags(args)))
}

/// The lab's program, where cargo has just put it.
fn lab() -> Result<PathBuf> {
    let folder = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| place::workspace().join("target"), PathBuf::from);
    let lab = place::workspace().join(folder).join("debug/overlay-lab");
    if !place::is_executable(&lab) {
        bail!("the build left no {}", lab.display());
    }
    Ok(lab)
}

/// Only what was given: the defaults are the lab's.
fn flags(args: &Args) -> Vec<String> {
    let mut flags = Vec::new();
    let mut push = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            flags.extend([name.to_owned(), value]);
        }
    };
    push("--nodes", args.nodes.map(|number| number.to_string()));
    push("--pods", args.pods.map(|number| number.to_string()));
    push("--underlay", args.underlay.as_ref().map(name_of));
    push("--output", args.output.as_ref().map(name_of));
    if args.keep {
        flags.push("--keep".to_owned());
    }
    flags
}

fn name_of(value: &impl clap::ValueEnum) -> String {
    value.to_possible_value().expect("no value of these is hidden").get_name().to_owned()
}
