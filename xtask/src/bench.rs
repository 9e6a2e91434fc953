//! `cargo xtask bench`: sets up, builds in release, and runs `overlay-lab bench` with the same flags.
//!
//! Measures nothing itself. What is its own is `--against`: another build to compare with, made ready before the lab starts.

mod against;
mod scale;

use crate::build_ebpf;
use crate::lab::{self, Output, name_of};
use crate::setup::{self, Purpose};
use crate::{build, place, refusal, step};
use against::{Against, Other};
use anyhow::{Context as _, Result};
use std::ffi::OsString;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  cargo xtask bench --list                           rows and contenders, without measuring
  cargo xtask bench                                  the standard rows; some minutes
  cargo xtask bench --rows receive --contenders tc,flannel,none
  cargo xtask bench --rows receive,send --against HEAD~1
  cargo xtask bench --against /tmp/before/overlay-agent --rounds 9
  cargo xtask bench --all --update-docs              what docs/performance.md shows
  cargo xtask bench scale --update-docs              what docs/scale.md shows";

/// Measure our data path and its rivals alternately, in one run: medians, spread and ratios.
///
/// Everything runs in namespaces of its own on this machine, as root, and is gone afterwards. What is asked for goes to standard output;
/// JSON, SVG charts and one HTML page go to the folder of --out. Leave the machine alone meanwhile: everything else that runs on it is
/// measured too, though it hits all contenders alike.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    other: Option<Kind>,
    /// Only rows whose id contains one of these [default: the standard set].
    #[arg(long, value_name = "SUBSTRING,…", value_delimiter = ',', value_parser = word)]
    rows: Vec<String>,
    /// The slow rows too: 5,000 nodes, 1,000 pods, memory.
    #[arg(long)]
    all: bool,
    /// Only these contenders, by id, and any of their kind, such as flannel-200 [default: all that a row has].
    #[arg(long, value_name = "ID,…", value_delimiter = ',', value_parser = word)]
    contenders: Vec<String>,
    /// How often each contender of a row is measured. They take turns.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Length of one sample in seconds.
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = seconds)]
    seconds: f64,
    /// Say which rows and contenders there are, with --all the slow ones too, and measure nothing.
    #[arg(long, conflicts_with_all = ["against", "update_docs"])]
    list: bool,
    /// Compare with another build of ours: a git revision, which is built first, or the path of an overlay-agent.
    ///
    /// A revision is checked out and built in target/bench/against, which is kept: the next one builds faster. Beside the overlay-agent of
    /// a path its overlay-lab is needed as well: it wires pods with the map layout of its own revision. A file or folder of that name
    /// wins over a revision.
    #[arg(long, value_name = "REVISION|PATH")]
    against: Option<String>,
    /// Folder for report.json, the charts and index.html [default: target/bench].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Rewrite the generated part of docs/performance.md with this run.
    #[arg(long)]
    update_docs: bool,
    /// How to print the result.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
    output: Output,
}

/// What is measured in the place of the packet path.
#[derive(clap::Subcommand)]
enum Kind {
    Scale(scale::Args),
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(Kind::Scale(args)) = &args.other {
        return scale::run(args);
    }
    if args.list {
        build::lab_in_release()?;
        return step::loud(lab::command(true)?.args(["bench", "--list"]).args(flags(args, &out(args)?, None)));
    }
    refusal::unless_root("the benchmarks make network namespaces and load eBPF programs", "cargo xtask bench")?;
    setup::ensure(&[Purpose::Ebpf, Purpose::Lab])?;
    // A revision that does not exist is told before anything is built.
    let against = args.against.as_deref().map(Against::find).transpose()?;
    let revision = build_to_measure()?;
    let other = against.as_ref().map(Against::prepare).transpose()?;
    // The lab finds the documentation from the working directory; what the user named is relative to the user's.
    let mut bench = lab::command(true)?;
    bench.current_dir(place::workspace()).arg("bench").args(flags(args, &out(args)?, other.as_ref()));
    bench.args(["--command", &typed(std::env::args().skip(1))]);
    if let Some(revision) = revision {
        bench.args(["--revision", &revision]);
    }
    step::loud(&mut bench)
}

/// Builds everything in release. Returns the revision; a tree without git, from an archive, has none to tell.
fn build_to_measure() -> Result<Option<String>> {
    let revision = against::revision_of(place::workspace());
    if revision.as_ref().is_ok_and(|revision| revision.has_changes) {
        eprintln!("bench: the tree has uncommitted changes; they are part of what is measured");
    }
    eprintln!("bench: building in release, because figures of a debug build would be wrong; the first time this takes minutes");
    build_ebpf::build_embedded()?;
    build::host(true)?;
    Ok(revision.ok().map(|revision| revision.to_string()))
}

/// The command line as it was typed, for the report.
fn typed(words: impl Iterator<Item = String>) -> String {
    let plain = |word: &str| word.chars().all(|c| c.is_ascii_alphanumeric() || "-_=./,@~^:+".contains(c)) && !word.is_empty();
    let quoted = |word: String| if plain(&word) { word } else { format!("'{}'", word.replace('\'', r"'\''")) };
    ["cargo".to_owned(), "xtask".to_owned()].into_iter().chain(words.map(quoted)).collect::<Vec<_>>().join(" ")
}

fn out(args: &Args) -> Result<PathBuf> {
    match &args.out {
        Some(out) => std::path::absolute(out).with_context(|| format!("--out {}", out.display())),
        None => Ok(place::bench()),
    }
}

/// The lab's flags. `other`: what `--against` became.
fn flags(args: &Args, out: &std::path::Path, other: Option<&Other>) -> Vec<OsString> {
    let mut flags: Vec<OsString> = Vec::new();
    for (name, words) in [("rows", &args.rows), ("contenders", &args.contenders)] {
        if !words.is_empty() {
            flags.push(format!("--{name}={}", words.join(",")).into());
        }
    }
    flags.push(format!("--rounds={}", args.rounds).into());
    flags.push(format!("--seconds={}", args.seconds).into());
    flags.push(format!("--output={}", name_of(&args.output)).into());
    flags.extend(["--out".into(), out.into()]);
    for (name, set) in [("--all", args.all), ("--update-docs", args.update_docs)] {
        if set {
            flags.push(name.into());
        }
    }
    if let Some(other) = other {
        flags.extend(["--other".into(), other.folder.clone().into(), "--other-name".into(), other.name.clone().into()]);
    }
    flags
}

fn word(text: &str) -> Result<String, &'static str> {
    if text.trim().is_empty() { Err("an empty word would match everything") } else { Ok(text.trim().to_owned()) }
}

fn seconds(text: &str) -> Result<f64, &'static str> {
    text.parse().ok().filter(|seconds| (0.05..=600.0).contains(seconds)).ok_or("give 0.05 to 600 seconds")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn passed_on(words: &[&str], other: Option<&Other>) -> Vec<String> {
        let line = Line::parse_from([&["bench"], words].concat());
        let flags = flags(&line.args, std::path::Path::new("/out"), other);
        flags.into_iter().map(|flag| flag.into_string().unwrap()).collect()
    }

    #[test]
    fn passes_only_what_was_said_and_the_defaults() {
        assert_eq!(passed_on(&[], None), ["--rounds=5", "--seconds=1", "--output=text", "--out", "/out"]);
    }

    #[test]
    fn passes_every_flag_on() {
        let other = Other { folder: "/a/target/release".into(), name: "main (0123456)".to_owned() };
        let words = ["--rows=receive,send", "--contenders", "tc, none", "--rounds=1", "--seconds=0.1", "--all", "--update-docs", "-ojson"];
        assert_eq!(
            passed_on(&words, Some(&other)),
            [
                "--rows=receive,send",
                "--contenders=tc,none",
                "--rounds=1",
                "--seconds=0.1",
                "--output=json",
                "--out",
                "/out",
                "--all",
                "--update-docs",
                "--other",
                "/a/target/release",
                "--other-name",
                "main (0123456)"
            ]
        );
    }

    #[test]
    fn tells_the_command_as_a_shell_wants_it() {
        let typed = |words: &[&str]| typed(words.iter().map(|word| (*word).to_owned()));
        assert_eq!(
            typed(&["bench", "--rows=receive,send", "--against", "HEAD~1"]),
            "cargo xtask bench --rows=receive,send --against HEAD~1"
        );
        assert_eq!(typed(&["bench", "--out", "it's here"]), r"cargo xtask bench --out 'it'\''s here'");
    }

    #[test]
    fn refuses_what_cannot_be_measured() {
        for words in ["--rounds=0", "--seconds=0", "--seconds=NaN", "--seconds=-1", "--rows=receive,,send", "--list --update-docs"] {
            assert!(Line::try_parse_from(["bench"].into_iter().chain(words.split(' '))).is_err(), "{words} was accepted");
        }
    }
}
