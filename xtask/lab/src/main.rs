//! `overlay-lab`: the lab as a program. `cargo xtask demo` builds everything and starts it.

use clap::{Parser, Subcommand};
use overlay_lab::demo::{self, DemoArgs};
use overlay_lab::sandbox;
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
    let sandbox = sandbox::enter()?;
    match &cli.command {
        Command::Demo(args) => demo::run(args, sandbox),
    }
}
