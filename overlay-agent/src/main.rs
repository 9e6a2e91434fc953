//! The agent's command line: says what to do, calls the library, turns the outcome into an exit code.

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use overlay_agent::cli::{CleanupArgs, Cli, Command, OutputFormat, RunArgs, StatusArgs};
use overlay_agent::config::Config;
use overlay_agent::status::{self, StateDir, Style};
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

/// Exit code of `status` for an agent that runs but not well.
const DEGRADED: u8 = 3;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run(*args),
        Command::Status(args) => show_status(args),
        Command::Cleanup(args) => cleanup(args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("overlay-agent: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(args: RunArgs) -> Result<ExitCode> {
    let config = Config::load(args.settings, args.config.as_deref())?;
    bail!("not wired yet: {config:?}")
}

fn show_status(args: StatusArgs) -> Result<ExitCode> {
    let (_bpffs, state_dir) = args.places.load(args.config.as_deref())?;
    let state_dir = StateDir::new(state_dir);
    let status = state_dir.read()?;
    let running = state_dir.is_locked()?;
    let counters = None;
    let mut stdout = std::io::stdout();
    let text = match args.output {
        OutputFormat::Json => status::render_json(&status, running, counters),
        OutputFormat::Text => {
            let colour = stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            status::render_text(&status, running, counters, Style { colour })
        }
    };
    stdout.write_all(text.as_bytes()).context("cannot print the status")?;
    Ok(if status.problems(running).is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DEGRADED) })
}

fn cleanup(args: CleanupArgs) -> Result<ExitCode> {
    let (bpffs, state_dir) = args.places.load(args.config.as_deref())?;
    bail!("not wired yet: {} {}", bpffs.display(), state_dir.display())
}
