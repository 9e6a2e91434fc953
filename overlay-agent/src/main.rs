//! The agent's command line: says what to do, calls the library, turns the outcome into an exit code.

use anyhow::{Context as _, Result};
use clap::Parser as _;
use overlay_agent::cli::{CleanupArgs, Cli, Command, LogFormat, OutputFormat, RunArgs, StatusArgs};
use overlay_agent::config::{Config, ConfigError};
use overlay_agent::datapath::{Detours, PinDir, Tables};
use overlay_agent::reconcile;
use overlay_agent::status::{self, Readings, StateDir, Style};
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;

/// Exit code for what whoever started the command has to mend: clap's for a wrong flag, and ours for a wrong configuration.
const WRONG_USAGE: u8 = 2;
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
        if error.is::<ConfigError>() { ExitCode::from(WRONG_USAGE) } else { ExitCode::FAILURE }
    })
}

fn run(args: RunArgs) -> Result<ExitCode> {
    let config = Config::load(args.settings, args.config.as_deref())?;
    start_log(config.log_format);
    runtime()?.block_on(reconcile::run::run(&config))?;
    Ok(ExitCode::SUCCESS)
}

/// Starts the log on standard error. `RUST_LOG` chooses what is told, by default everything from `info` up.
fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().init(),
    }
}

fn runtime() -> Result<Runtime> {
    // One thread: the agent waits most of the time, and its netlink sockets belong to the namespace of the thread that opened them.
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

fn show_status(args: StatusArgs) -> Result<ExitCode> {
    let (bpffs, state_dir) = args.places.load(args.config.as_deref())?;
    let state_dir = StateDir::new(state_dir);
    let status = state_dir.read()?;
    let running = state_dir.is_locked()?;
    let pins = PinDir::new(&bpffs);
    let counters = Tables::open(&pins).and_then(|tables| tables.counters()).ok();
    let readings = Readings { counters, detours: Detours::read(&pins).ok() };
    let mut stdout = std::io::stdout();
    let text = match args.output {
        OutputFormat::Json => status::render_json(&status, running, &readings),
        OutputFormat::Text => {
            let colour = stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            status::render_text(&status, running, &readings, Style { colour })
        }
    };
    stdout.write_all(text.as_bytes()).context("cannot print the status")?;
    Ok(if status.problems(running).is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DEGRADED) })
}

fn cleanup(args: CleanupArgs) -> Result<ExitCode> {
    let (bpffs, state_dir) = args.places.load(args.config.as_deref())?;
    let removed = runtime()?.block_on(reconcile::cleanup::cleanup(&bpffs, &state_dir))?;
    for line in &removed {
        println!("removed {line}");
    }
    println!("{}", if removed.is_empty() { "nothing to remove" } else { "this node is clean" });
    Ok(ExitCode::SUCCESS)
}
