//! `cargo xtask build`: the eBPF object, then everything that runs on the host, with the object embedded in the agent.

use crate::build_ebpf;
use crate::setup::{self, Purpose};
use crate::step;
use anyhow::Result;
use std::process::Command;

/// Build everything: the eBPF object and, with it embedded, the agent, the CNI plugin and the lab.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Optimised, as it is deployed; takes several times as long to compile.
    #[arg(long)]
    release: bool,
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(&[Purpose::Ebpf])?;
    print!("{}", build_ebpf::build_embedded()?);
    host(args.release)
}

/// Compiles the host's crates. The agent's build script finds the object in `target/ebpf`.
pub(crate) fn host(release: bool) -> Result<()> {
    step::loud(&mut cargo_build(release))
}

/// Compiles the lab and nothing that it does not need. What it shares with the other crates is what [`host`] makes of it.
pub(crate) fn lab_in_release() -> Result<()> {
    step::loud(cargo_build(true).args(["--bin", "overlay-lab"]))
}

fn cargo_build(release: bool) -> Command {
    let mut cargo = step::cargo();
    cargo.args(["build", "--workspace", "--exclude", "overlay-ebpf"]);
    if release {
        cargo.arg("--release");
    }
    cargo
}
