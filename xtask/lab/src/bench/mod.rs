//! The bench: our data path and its rivals, measured in turn in one run.
//!
//! [`plan`] lists the rows, [`work`] the kinds of work; [`bed`] builds a pair of nodes for every [`contender`], all at once on one underlay;
//! `rounds` has each do the work of a row in turn, again and again; [`report`] shows what came out. Adding a row is adding an entry to
//! [`plan::ROWS`].
//!
//! Everything happens in the sandbox. Written are the report's files, below `--out`.

pub mod bed;
pub mod contender;
pub mod generator;
pub mod plan;
pub mod report;
mod rounds;
pub mod rows;
pub mod scale;
mod selection;
pub mod work;

use crate::agent::ReceiveMode;
use crate::bench::bed::{Bed, BedConfig, Build, Pair, Side};
use crate::bench::contender::ContenderId;
use anyhow::Context as _;
use generator::Generator;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use overlay_agent::measure::{Class, measure};
use report::{Machine, Report, table};
use rows::Stage;
use selection::Selection;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchArgs {
    /// Rows whose name contains one of these; without it all that are not slow
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub rows: Vec<String>,
    /// The slow rows too: 5,000 nodes, 1,000 pods
    #[arg(long)]
    pub all: bool,
    /// Only these contenders (see --list), and any of their kind: `flannel-200`, `tc@1000x10`
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub contenders: Vec<String>,
    /// How often each contender is measured in each row
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds: u16,
    /// How long one sample takes
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    pub seconds: f64,
    /// Only say what there is to measure
    #[arg(long)]
    pub list: bool,
    /// Directory with `overlay-agent` and `overlay-lab` of another build, to compare with
    #[arg(long, value_name = "DIR")]
    pub other: Option<PathBuf>,
    /// What that build is, in the report
    #[arg(long, value_name = "TEXT", default_value = "other", requires = "other")]
    pub other_name: String,
    /// Where report.json, index.html and the charts go
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    pub out: PathBuf,
    /// Also rewrite the generated part of docs/performance.md, found from the working directory
    #[arg(long)]
    pub update_docs: bool,
    /// The command to repeat the run with, for the report
    #[arg(long, value_name = "TEXT", default_value = "overlay-lab bench")]
    pub command: String,
    /// Revision of this build, for the report
    #[arg(long, value_name = "TEXT", default_value = "unknown")]
    pub revision: String,
    /// How to print what was found
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
    pub output: Output,
}

/// How the result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Tables for a person
    Text,
    /// One JSON document: the report
    Json,
}

/// Says what there is to measure.
///
/// # Errors
/// A name that is no row or contender.
pub fn list(args: &BenchArgs) -> anyhow::Result<ExitCode> {
    print!("{}", Selection::new(args)?.listing());
    Ok(ExitCode::SUCCESS)
}

/// Measures, in a sandbox that has been entered.
///
/// # Errors
/// A name that is no row or contender, or a bed that cannot be built. What fails in a single row is a remark of the report.
pub fn run(args: &BenchArgs) -> anyhow::Result<ExitCode> {
    let selection = Selection::new(args)?;
    let duration = Duration::try_from_secs_f64(args.seconds).context("--seconds")?;
    let progress = progress(args.output);
    let started = now();

    let mut generator = Generator::load()?;
    let other = args.other.as_deref().map(|directory| Build::in_directory(selection::OTHER, directory));
    let config = BedConfig { builds: other.into_iter().collect::<Vec<_>>(), ..BedConfig::default() };
    let rounds = usize::from(args.rounds);
    let samples: usize = selection.rows.iter().map(|row| row.contestants.len() * rounds).sum();
    progress.set_length(samples as u64);
    let mut report = Report {
        command: args.command.clone(),
        started,
        revision: args.revision.clone(),
        machine: machine()?,
        rounds,
        seconds: args.seconds,
        contenders: selection.contenders(&args.other_name),
        rows: Vec::new(),
        chosen_rung: None,
    };
    // A large cluster on the bed, idle as it is, would be felt by the rows of small ones: each has a bed of its own.
    for slow in [false, true] {
        let rows = selection.rows.iter().filter(|row| row.spec.slow == slow).collect::<Vec<_>>();
        if rows.is_empty() {
            continue;
        }
        let mut bed = Bed::create(&selection::pairs(&rows), &config, &mut |step| progress.set_message(step.to_owned()))?;
        for row in rows {
            let mut stage = Stage { bed: &mut bed, generator: &mut generator, duration };
            let row = rounds::run(&mut stage, &row.spec, &row.contestants, rounds, &progress);
            if args.output == Output::Text {
                progress.suspend(|| print!("{}", table::row(&report, &row, table::Style::of_stdout())));
            }
            report.rows.push(row);
            // A run that is cut short leaves what it has.
            report::write(&report, &args.out)?;
        }
        if !slow {
            report.chosen_rung = chosen_rung(&bed, &progress)?;
        }
    }
    progress.finish_and_clear();

    let written = report::write(&report, &args.out)?;
    if args.update_docs {
        report::summary::update(Path::new("docs/performance.md"), &report)?;
    }
    match args.output {
        Output::Text => {
            print!("{}", table::goals(&report, table::Style::of_stdout()));
            println!("{}", written.page.display());
        }
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(ExitCode::SUCCESS)
}

/// The rung the agent's own measurement chooses for a NIC like the bed's. `None` unless the run has all of them to compare it with.
fn chosen_rung(bed: &Bed, progress: &ProgressBar) -> anyhow::Result<Option<String>> {
    let rungs = [ReceiveMode::Tc, ReceiveMode::Xdp, ReceiveMode::Kernel];
    let pairs: Vec<&Pair> = rungs.iter().filter_map(|mode| bed.pair(&ContenderId::ours(*mode)).ok()).collect();
    let [Pair { a: Side::Ours(node), .. }, _, _] = pairs.as_slice() else { return Ok(None) };
    let measurement = measure(&node.config.bpffs, &mut |step| progress.set_message(format!("choosing a rung: {step}")))?;
    Ok(Some(measurement.best(Class::Virtual).rung.name().to_owned()))
}

/// Progress on standard error, and only on a terminal.
fn progress(output: Output) -> ProgressBar {
    let target = if output == Output::Json { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(None, target);
    let style = ProgressStyle::with_template("{spinner} {elapsed_precise} {bar:30} {pos}/{len} {eta} {msg}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// The machine a run is made on.
pub(crate) fn machine() -> anyhow::Result<Machine> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
    let meminfo = std::fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let field = |text: &str, name: &str| {
        text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    let memory = field(&meminfo, "MemTotal").context("/proc/meminfo has no MemTotal")?;
    let kib: u64 = memory.trim_end_matches(" kB").parse().context("MemTotal")?;
    Ok(Machine {
        cpu: field(&cpuinfo, "model name").unwrap_or_else(|| "unknown processor".to_owned()),
        cores: std::thread::available_parallelism()?.get(),
        memory_mib: kib >> 10,
        kernel: nix::sys::utsname::uname()?.release().to_string_lossy().into_owned(),
    })
}

/// The time now, as RFC 3339.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().round(jiff::Unit::Second).unwrap_or_default().to_string()
}
