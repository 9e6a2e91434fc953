//! `cargo xtask demo`: sets up, builds, and runs `overlay-lab demo` with the same flags.
//!
//! The lab is a program of its own: xtask neither makes namespaces nor loads programs. Its flags are listed here once more, so that they are
//! checked and explained before anything is built.

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

fn flags(args: &Args) -> Vec<String> {
    let mut flags = vec![
        format!("--nodes={}", args.nodes),
        format!("--pods={}", args.pods),
        format!("--underlay={}", name_of(&args.underlay)),
        format!("--mtu={}", args.mtu),
        format!("--receive-mode={}", name_of(&args.receive_mode)),
        format!("--foreign={}", args.foreign),
        format!("--output={}", name_of(&args.output)),
    ];
    if args.keep {
        flags.push("--keep".to_owned());
    }
    flags
}

fn name_of(value: &impl clap::ValueEnum) -> String {
    value.to_possible_value().expect("no value of these is hidden").get_name().to_owned()
}
