//! The demo: a cluster on one machine, shown to a person in under a minute. Measures first ([`Report`]), prints afterwards.

mod keep;
mod measure;
mod progress;
mod render;
mod report;

pub use report::Report;

use crate::agent::ReceiveMode;
use crate::lab::{Lab, LabConfig, Runtime, Source};
use crate::sandbox::Sandbox;
use crate::underlay::Kind;
use anyhow::{Context as _, ensure};
use progress::Progress;
use std::io::{Write as _, stdout};
use std::process::ExitCode;
use std::time::Instant;

/// What the demo shows.
#[derive(clap::Args, Clone, Debug)]
pub struct DemoArgs {
    /// Nodes, each with an agent of its own
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=16))]
    pub nodes: u8,
    /// Pods on each node
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    pub pods: u8,
    /// What lies between the nodes
    #[arg(long, default_value = "l2", value_name = "KIND")]
    pub underlay: Kind,
    /// MTU of the underlay, in bytes
    #[arg(long, default_value_t = 1500, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(626..=65_535))]
    pub mtu: u32,
    /// How the nodes receive tunnel packets
    #[arg(long, default_value = "auto", value_name = "MODE")]
    pub receive_mode: ReceiveMode,
    /// Further nodes that run the kernel's vxlan as flannel sets it up, instead of our agent
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=8))]
    pub foreign: u8,
    /// What makes the pods of our nodes
    #[arg(long, default_value = "lab", value_name = "RUNTIME")]
    pub runtime: Runtime,
    /// Where the agents get the nodes from
    #[arg(long, default_value = "file", value_name = "SOURCE")]
    pub source: Source,
    /// Stay up afterwards, until Ctrl-C, and print commands to play with
    #[arg(long)]
    pub keep: bool,
    /// How to print what was found
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    pub output: OutputFormat,
}

/// How to print the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    /// Tables for a person.
    Text,
    /// One JSON object.
    Json,
}

/// Runs the demo. The exit code is 0 only if every cell of every table worked.
///
/// # Errors
/// The lab cannot be built, or a tool fails; a packet that does not arrive is a finding and not an error.
pub fn run(args: &DemoArgs, sandbox: Sandbox) -> anyhow::Result<ExitCode> {
    ensure!(usize::from(args.nodes) + usize::from(args.foreign) <= 20, "at most 20 nodes");
    let start = Instant::now();
    let mut progress = Progress::new();
    let config = LabConfig {
        underlay: args.underlay,
        mtu: args.mtu,
        nodes: args.nodes,
        foreign: args.foreign,
        pods: usize::from(args.pods),
        receive_mode: args.receive_mode,
        runtime: args.runtime,
        source: args.source,
        ..LabConfig::default()
    };
    let mut lab = Lab::create(&config, &mut |step| progress.step(step))?;
    let mut report = measure::everything(&mut lab, &mut progress).with_context(|| format!("what the nodes say:\n{}", lab.evidence()))?;
    progress.finish();
    report.seconds = start.elapsed().as_secs_f64();
    let printed = match args.output {
        OutputFormat::Text => render::text(&report),
        OutputFormat::Json => format!("{report:#}", report = serde_json::to_value(&report)?) + "\n",
    };
    stdout().write_all(printed.as_bytes()).context("print the report")?;
    if args.keep {
        keep::wait(&lab, sandbox)?;
    }
    Ok(if report.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
