//! `cargo xtask demo`: sets up, builds, and runs `overlay-lab demo` with the same flags.

use crate::build_ebpf;
use crate::lab::{self, Output, name_of};
use crate::setup::{self, Purpose};
use crate::{build, refusal, step};
use anyhow::Result;

/// Show a small cluster at work: nodes, pods, and traffic between them through the eBPF programs.
///
/// Everything runs in namespaces of its own on this machine, as root, and is gone afterwards.
/// Exit code 0 only if every pod reached every other.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Nodes, each with an agent of its own.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=16))]
    nodes: u8,
    /// Pods on each node.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    pods: u8,
    /// What lies between the nodes.
    #[arg(long, value_enum, default_value_t = Underlay::L2)]
    underlay: Underlay,
    /// MTU of the underlay.
    #[arg(long, value_name = "BYTES", default_value_t = 1500, value_parser = clap::value_parser!(u32).range(626..=65_535))]
    mtu: u32,
    /// How the nodes receive tunnel packets.
    #[arg(long, value_enum, value_name = "MODE", default_value_t = ReceiveMode::Auto)]
    receive_mode: ReceiveMode,
    /// Further nodes that run the kernel's vxlan as flannel sets it up, instead of our agent.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=8))]
    foreign: u8,
    /// What makes the pods of our nodes.
    #[arg(long, value_enum, value_name = "RUNTIME", default_value_t = Runtime::Lab)]
    runtime: Runtime,
    /// Where the agents get the nodes from.
    #[arg(long, value_enum, value_name = "SOURCE", default_value_t = Source::File)]
    source: Source,
    /// Stay up afterwards, until Ctrl-C, and print commands to play with.
    #[arg(long)]
    keep: bool,
    /// How to print what was found.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
    output: Output,
}

/// What lies between the nodes.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Underlay {
    /// One subnet, a bridge.
    L2,
    /// Two subnets with a router between them.
    Routed,
}

/// What makes the pods of our nodes.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Runtime {
    /// The lab: a network namespace each.
    Lab,
    /// A containerd on each node: a container each, wired by overlay-cni.
    Containerd,
}

/// Where the agents get the nodes from.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Source {
    /// A file every agent follows.
    File,
    /// A Kubernetes API server: a development one, in the lab.
    Kubernetes,
}

/// How tunnel packets are received.
#[derive(Clone, Copy, clap::ValueEnum)]
enum ReceiveMode {
    /// The best that works, found by trying.
    Auto,
    /// XDP in the driver.
    Xdp,
    /// TC ingress.
    Tc,
    /// The kernel's vxlan device, checked afterwards.
    Kernel,
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<()> {
    refusal::unless_root("the demo makes network namespaces and loads eBPF programs", "cargo xtask demo")?;
    setup::ensure(&[Purpose::Ebpf, Purpose::Lab])?;
    build_ebpf::build_embedded()?;
    build::host(false)?;
    step::loud(lab::command(false)?.arg("demo").args(flags(args)))
}

fn flags(args: &Args) -> Vec<String> {
    let mut flags = vec![
        format!("--nodes={}", args.nodes),
        format!("--pods={}", args.pods),
        format!("--underlay={}", name_of(&args.underlay)),
        format!("--mtu={}", args.mtu),
        format!("--receive-mode={}", name_of(&args.receive_mode)),
        format!("--foreign={}", args.foreign),
        format!("--runtime={}", name_of(&args.runtime)),
        format!("--source={}", name_of(&args.source)),
        format!("--output={}", name_of(&args.output)),
    ];
    if args.keep {
        flags.push("--keep".to_owned());
    }
    flags
}
