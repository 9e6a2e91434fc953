//! What a large cluster costs one agent that follows the Kubernetes API: `overlay-lab scale`.
//!
//! [`cluster`] is a node with a real agent and a development API server full of Nodes of real size; [`measure`] times it, [`report`] says
//! what came out beside what was aimed at, and [`projection`] what follows for clusters larger than any measured. Everything happens in
//! the sandbox; written is `docs/scale.md`, where it is asked for.

mod cluster;
mod measure;
mod process;
mod projection;
mod report;

use super::Output;
use super::report::summary;
use anyhow::{Context as _, ensure};
use overlay_common::abi;
use report::Report;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct ScaleArgs {
    /// Sizes of cluster: how many other nodes there are
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1_000, 5_000, 10_000])]
    pub nodes: Vec<usize>,
    /// Length of a window of heartbeats in seconds; by itself the agent looks at everything every 30
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0)]
    pub seconds: f64,
    /// Also rewrite the generated part of docs/scale.md, found from the working directory
    #[arg(long)]
    pub update_docs: bool,
    /// The command to repeat the run with, for the report
    #[arg(long, value_name = "TEXT", default_value = "overlay-lab scale")]
    pub command: String,
    /// Revision of this build, for the report
    #[arg(long, value_name = "TEXT", default_value = "unknown")]
    pub revision: String,
    /// How to print what was found
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
    pub output: Output,
}

/// Measures, in a sandbox that has been entered.
///
/// # Errors
/// A size the maps cannot hold, or an agent that does not follow.
pub fn run(args: &ScaleArgs) -> anyhow::Result<ExitCode> {
    let most = abi::MAX_NODES as usize;
    ensure!(
        args.nodes.iter().all(|nodes| (100..=cluster::MOST.min(most)).contains(nodes)),
        "--nodes: give 100 to {}",
        cluster::MOST.min(most)
    );
    let window = Duration::try_from_secs_f64(args.seconds).context("--seconds")?;
    let mut report = Report {
        command: args.command.clone(),
        revision: args.revision.clone(),
        started: super::now(),
        machine: super::machine()?,
        window: args.seconds,
        sizes: Vec::new(),
    };
    for nodes in &args.nodes {
        let figures = measure::measure(*nodes, window, &mut |step| eprintln!("scale: {nodes} nodes: {step}"));
        report.sizes.push(figures.with_context(|| format!("{nodes} nodes"))?);
    }
    if args.update_docs {
        summary::replace_part(Path::new("docs/scale.md"), &report.markdown())?;
    }
    match args.output {
        Output::Text => print!("{}", report.text()),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(ExitCode::SUCCESS)
}
