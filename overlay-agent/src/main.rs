//! The agent's command line: says what to do, calls the library, turns the outcome into an exit code.

use anyhow::{Context as _, Result};
use clap::Parser as _;
use ipnet::Ipv4Net;
use overlay_agent::cli::{CleanupArgs, Cli, Command, Foreign, LogFormat, MeasureArgs, OutputFormat, RunArgs, StatusArgs};
use overlay_agent::cluster::publish;
use overlay_agent::cni::ipam::Store;
use overlay_agent::config::{Config, ConfigError, Directories, Watch};
use overlay_agent::datapath::{Detours, PinDir, Tables};
use overlay_agent::leftovers::{self, Leftovers};
use overlay_agent::measure::{self, Record};
use overlay_agent::netlink::Netlink;
use overlay_agent::reconcile::{self, run::Ended};
use overlay_agent::status::{self, Readings, StateDir, Style};
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
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
        Command::Measure(args) => measure_rungs(args),
        Command::Status(args) => show_status(args),
        Command::Cleanup(args) => cleanup(args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("overlay-agent: {error:#}");
        if error.is::<ConfigError>() { ExitCode::from(WRONG_USAGE) } else { ExitCode::FAILURE }
    })
}

fn run(args: RunArgs) -> Result<ExitCode> {
    let mut watch = Watch::new(args.settings, args.config)?;
    start_log(watch.config().log_format);
    let mut good: Option<Config> = None;
    loop {
        let config = watch.config().clone();
        // A runtime for each configuration: whatever ran with the old one ends with it. Programs, maps and pods do not notice.
        match (runtime()?.block_on(reconcile::run::run(&config, &mut watch)), good.take()) {
            (Ok(Ended::Stopped), _) => return Ok(ExitCode::SUCCESS),
            (Ok(Ended::Reconfigured), _) => good = Some(config),
            (Err(error), Some(last)) => {
                tracing::error!(error = format!("{error:#}"), "the new configuration does not work; back to the last good one");
                watch.go_back(last);
            }
            (Err(error), None) => return Err(error),
        }
    }
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

fn measure_rungs(args: MeasureArgs) -> Result<ExitCode> {
    let Directories { bpffs, state_dir, .. } = args.places.load(args.config.as_deref())?;
    let state_dir = StateDir::new(state_dir);
    let known = if args.again { None } else { Record::load(&state_dir) };
    let record = match known.map_or_else(|| measure_anew(&bpffs, &state_dir), Ok) {
        Err(error) if args.optional => {
            eprintln!("overlay-agent: not measured: {error:#}");
            return Ok(ExitCode::SUCCESS);
        }
        result => result?,
    };
    let text = match args.output {
        OutputFormat::Json => format!("{:#}\n", serde_json::to_value(&record)?),
        OutputFormat::Text => measure::render_text(&record),
    };
    std::io::stdout().write_all(text.as_bytes()).context("cannot print the figures")?;
    Ok(ExitCode::SUCCESS)
}

fn measure_anew(bpffs: &Path, state_dir: &StateDir) -> Result<Record> {
    // An agent at work would be measured with it, and would lose time to it.
    let _lock = state_dir.lock().context("stop the agent first")?;
    let measurement = measure::measure(bpffs, &mut |what| eprintln!("measuring: {what}"))?;
    Ok(Record::store(state_dir, measurement)?)
}

fn show_status(args: StatusArgs) -> Result<ExitCode> {
    let Directories { bpffs, state_dir, pods_dir } = args.places.load(args.config.as_deref())?;
    let lists = args.runtime.lists(args.config.as_deref())?;
    let state_dir = StateDir::new(state_dir);
    let mut status = state_dir.read()?;
    status.leftovers = find_leftovers(&lists, &status.pod_networks())?.problem();
    let running = state_dir.is_locked()?;
    let pins = PinDir::new(&bpffs);
    let tables = Tables::open(&pins).ok();
    let wired = tables.as_ref().and_then(|tables| tables.pods().ok()).unwrap_or_default();
    // Records that cannot be read are a problem of the agent's last pass already.
    let records = Store::new(&pods_dir).pods().unwrap_or_default();
    let pods = status::pods(&wired, &records);
    status.stray_pods = status.find_stray_pods(&pods);
    let readings = Readings { counters: tables.and_then(|tables| tables.counters().ok()), detours: Detours::read(&pins).ok(), pods };
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

fn find_leftovers(lists: &Path, pod_networks: &[Ipv4Net]) -> Result<Leftovers> {
    runtime()?.block_on(async { leftovers::find(&Netlink::connect()?, lists, pod_networks).await }).context("cannot look for leftovers")
}

fn cleanup(args: CleanupArgs) -> Result<ExitCode> {
    if args.foreign == Some(Foreign::Flannel) {
        return cleanup_foreign(args);
    }
    let directories = args.places.load(args.config.as_deref())?;
    let places = args.runtime.load(args.config.as_deref())?;
    // The status goes with everything else.
    let published = StateDir::new(directories.state_dir.clone()).read().ok().filter(|status| status.publish.is_some());
    let removed = runtime()?.block_on(reconcile::cleanup::cleanup(&directories, places.as_ref()))?;
    for line in &removed {
        println!("removed {line}");
    }
    println!("{}", if removed.is_empty() { "nothing to remove" } else { "this node is clean" });
    if let Some(status) = published {
        println!("left: what was published on the Node object; unless another network takes its place there, remove it with");
        println!("  {}", publish::how_to_remove(&status.node_name));
    }
    Ok(ExitCode::SUCCESS)
}

/// Names what flannel left, asks, and removes it.
fn cleanup_foreign(args: CleanupArgs) -> Result<ExitCode> {
    let Directories { state_dir, .. } = args.places.load(args.config.as_deref())?;
    let lists = args.runtime.lists(args.config.as_deref())?;
    // A node that never had an agent has leftovers as well.
    let pod_networks = StateDir::new(state_dir).read().map(|status| status.pod_networks()).unwrap_or_default();
    let leftovers = find_leftovers(&lists, &pod_networks)?;
    for unseen in &leftovers.unseen {
        println!("not looked at: {unseen}");
    }
    if leftovers.found.is_empty() {
        println!("nothing of flannel's is left on this node");
        return Ok(ExitCode::SUCCESS);
    }
    println!("left over from flannel:");
    for leftover in &leftovers.found {
        println!("  {leftover}");
    }
    if !args.yes {
        if !std::io::stdin().is_terminal() {
            eprintln!("overlay-agent: nothing is removed unasked, and there is no terminal to ask on; say --yes");
            return Ok(ExitCode::from(WRONG_USAGE));
        }
        print!("Remove all of this from this node? [y/N] ");
        std::io::stdout().flush().context("cannot ask")?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).context("cannot read the answer")?;
        if !["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
            println!("nothing was removed");
            return Ok(ExitCode::FAILURE);
        }
    }
    let removed = runtime()?.block_on(async { leftovers::remove(&Netlink::connect()?, &leftovers).await })?;
    for line in removed {
        println!("removed {line}");
    }
    Ok(ExitCode::SUCCESS)
}
