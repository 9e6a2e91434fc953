//! `cargo xtask bench scale`: builds in release and runs `overlay-lab scale` with the same flags.

use crate::lab::{self, Output, name_of};
use crate::setup::{self, Purpose};
use crate::{place, refusal, step};
use anyhow::Result;

/// Measure what a large cluster costs one agent: start, single changes, everything at once, heartbeats, memory.
///
/// A real agent follows a development API server that has Nodes of real size, in namespaces of their own on this machine, as root. Takes
/// some minutes, most of them windows of heartbeats. What is asked for goes to standard output. Leave the machine alone meanwhile.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Sizes of cluster: how many other nodes there are.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1_000, 5_000, 10_000], value_parser = clap::value_parser!(u32).range(100..=62_464))]
    nodes: Vec<u32>,
    /// Length of a window of heartbeats in seconds; by itself the agent looks at everything every 30.
    #[arg(long, value_name = "S", default_value_t = 30.0, value_parser = super::seconds)]
    seconds: f64,
    /// Rewrite the generated part of docs/scale.md with this run.
    #[arg(long)]
    update_docs: bool,
    /// How to print the result.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
    output: Output,
}

/// Runs the verb.
pub(super) fn run(args: &Args) -> Result<()> {
    refusal::unless_root("the benchmarks make network namespaces and load eBPF programs", "cargo xtask bench scale")?;
    setup::ensure(&[Purpose::Ebpf, Purpose::Lab])?;
    let revision = super::build_to_measure()?;
    let nodes: Vec<String> = args.nodes.iter().map(ToString::to_string).collect();
    // The lab finds the documentation from the working directory.
    let mut scale = lab::command(true)?;
    scale.current_dir(place::workspace()).args(["scale", "--nodes", &nodes.join(",")]);
    scale.args([format!("--seconds={}", args.seconds), format!("--output={}", name_of(&args.output))]);
    if args.update_docs {
        scale.arg("--update-docs");
    }
    scale.args(["--command", &super::typed(std::env::args().skip(1))]);
    if let Some(revision) = revision {
        scale.args(["--revision", &revision]);
    }
    step::loud(&mut scale)
}
