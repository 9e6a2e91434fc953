//! `overlay-lab`: the lab as a program. `cargo xtask demo` builds everything and starts it.

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use overlay_agent::pod::{self, PodRequest};
use overlay_lab::bench::scale::{self, ScaleArgs};
use overlay_lab::bench::{self, BenchArgs};
use overlay_lab::demo::{self, DemoArgs};
use overlay_lab::sandbox;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;

/// A cluster of network namespaces on this machine, in a sandbox that leaves nothing behind.
#[derive(Debug, Parser)]
#[command(name = "overlay-lab", version, about, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring up nodes and pods and show that they talk
    ///
    /// Exit codes: 0 every pair talks, 1 not so, 2 wrong usage.
    Demo(DemoArgs),
    /// Measure our data path and its rivals in turn, in one run
    Bench(BenchArgs),
    /// Measure what a large cluster costs one agent that follows the Kubernetes API
    Scale(ScaleArgs),
    /// Wire a pod to the node whose network namespace this runs in, inside somebody else's sandbox
    ///
    /// For a bench that compares builds: each one's pods are wired by its own code, which knows its maps.
    #[command(hide = true)]
    Wire(WireArgs),
}

#[derive(clap::Args, Debug)]
struct WireArgs {
    /// The node's BPF file system
    #[arg(long, value_name = "PATH")]
    bpffs: PathBuf,
    /// Name of the veth's end on the node
    #[arg(long, value_name = "NAME")]
    host_name: String,
    /// File of the pod's network namespace
    #[arg(long, value_name = "PATH")]
    netns: PathBuf,
    /// Name of the device in the pod
    #[arg(long, value_name = "NAME")]
    pod_name: String,
    /// The pod's address
    #[arg(long, value_name = "IP")]
    address: Ipv4Addr,
    /// Every flow the pod sends stays on one CPU
    #[arg(long)]
    steer_flows: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("overlay-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    match &cli.command {
        Command::Demo(args) => demo::run(args, sandbox::enter()?),
        Command::Bench(args) if args.list => bench::list(args),
        Command::Bench(args) => {
            sandbox::enter()?;
            bench::run(args)
        }
        Command::Scale(args) => {
            sandbox::enter()?;
            scale::run(args)
        }
        Command::Wire(args) => wire(args),
    }
}

fn wire(args: &WireArgs) -> anyhow::Result<ExitCode> {
    let WireArgs { bpffs, host_name, netns, pod_name, address, steer_flows } = args;
    let request = PodRequest { host_name, title: "", namespace: netns, pod_name, address: *address, mac: None, steer_flows: *steer_flows };
    pod::wire(bpffs, &request).with_context(|| format!("wire {host_name}"))?;
    Ok(ExitCode::SUCCESS)
}
