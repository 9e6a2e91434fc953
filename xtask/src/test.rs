//! `cargo xtask test`: runs the test suites and adds up what they say.
//!
//! The children's output passes through as it comes. The last line is always `N passed, N failed, N skipped`. A suite in which no test ran
//! counts as a failure: a suite that vanished must not look like one that passed.

use crate::build_ebpf;
use crate::refusal::ChildFailed;
use crate::setup::{self, Purpose};
use crate::{kernels, refusal, step};
use anyhow::{Context as _, Result};
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::AddAssign;
use std::process::{Command, Stdio};

/// Run the tests; without an argument all suites.
///
/// The last line is `N passed, N failed, N skipped`; the exit code is 0 only if nothing failed.
#[derive(Default, clap::Args)]
pub(crate) struct Args {
    /// Which suite.
    #[arg(value_enum)]
    suite: Option<Suite>,
    /// Given to the test programs: a part of a test's name, --nocapture, …
    #[arg(last = true, value_name = "ARGUMENT")]
    harness: Vec<String>,
}

/// A suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Suite {
    /// Packet code, agent logic, netlink, manifests, code layout. No eBPF tools; without root the netlink cases are skipped.
    Unit,
    /// The eBPF programs, one packet at a time in the running kernel (`BPF_PROG_TEST_RUN`). Root.
    Prog,
    /// Whole nodes as network namespaces: agent, programs and real traffic. Root.
    Lab,
    /// Load and attach the eBPF programs on Debian's 6.1 and 6.12 kernels in QEMU. Debian 12.
    Kernels,
}

/// What test runners said, added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tests that passed.
    pub(crate) passed: u32,
    /// Tests that failed, and suites that could not run.
    pub(crate) failed: u32,
    /// Tests that were not run, with a reason.
    pub(crate) skipped: u32,
    /// One line for each test of the last two kinds.
    pub(crate) remarks: Vec<String>,
}

impl Tally {
    /// Counts one test as not run and says why.
    pub(crate) fn skip(&mut self, remark: String) {
        self.skipped += 1;
        self.remarks.push(remark);
    }

    /// Counts one more failure and says why.
    pub(crate) fn fail(&mut self, remark: String) {
        self.failed += 1;
        self.remarks.push(remark);
    }

    fn ran(&self) -> u32 {
        self.passed + self.failed + self.skipped
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.remarks.extend(other.remarks);
    }
}

/// Every package that compiles for the host. Selecting all of them, where one has the test, keeps cargo from compiling their common
/// dependencies once more with the features that one package alone asks for.
const HOST: [&str; 3] = ["--workspace", "--exclude", "overlay-ebpf"];

/// Failed and skipped tests named again at the end. When there are more, the first ones have most likely the same cause.
const REMARKS: usize = 40;

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<()> {
    // kernels needs no compilation of its own and ends in seconds: before lab, which takes longest.
    let suites = args.suite.map_or_else(|| vec![Suite::Unit, Suite::Prog, Suite::Kernels, Suite::Lab], |suite| vec![suite]);
    if suites.contains(&Suite::Prog) || suites.contains(&Suite::Lab) {
        refusal::unless_root(
            "prog and lab load eBPF programs and make network namespaces",
            "cargo xtask test (cargo xtask test unit works without)",
        )?;
    }
    let mut total = Tally::default();
    for &suite in &suites {
        let tally = run_suite(suite, &args.harness, args.suite.is_none())?;
        total += tally;
    }
    // A filter may well match in one suite only, but it has to match somewhere.
    if total.ran() == 0 {
        total.fail("no test has that name".to_owned());
    }
    println!();
    for remark in total.remarks.iter().take(REMARKS) {
        println!("{remark}");
    }
    if let Some(more @ 1..) = total.remarks.len().checked_sub(REMARKS) {
        println!("and {more} more above");
    }
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    // The summary has said it all.
    if total.failed == 0 { Ok(()) } else { Err(ChildFailed(1).into()) }
}

fn run_suite(suite: Suite, harness: &[String], skippable: bool) -> Result<Tally> {
    let cargo_test = |words: &[&str]| {
        let mut cargo = step::cargo();
        cargo.args(["test", "--no-fail-fast"]).args(words).arg("--").args(harness);
        cargo
    };
    let (name, mut command) = match suite {
        Suite::Unit => ("unit", cargo_test(&["--package", "overlay-common", "--package", "overlay-agent", "--package", "xtask"])),
        Suite::Prog => {
            setup::ensure(&[Purpose::Ebpf, Purpose::Lab])?;
            build_ebpf::build_embedded()?;
            ("prog", cargo_test(&[&HOST[..], &["--test", "prog"]].concat()))
        }
        Suite::Lab => {
            setup::ensure(&[Purpose::Ebpf, Purpose::Lab])?;
            build_ebpf::build_embedded()?;
            // The lab starts the agent as a program, which `cargo test` would not build.
            step::loud(step::cargo().arg("build").args(HOST).args(["--bins", "--test", "lab"]))?;
            ("lab", cargo_test(&[&HOST[..], &["--test", "lab"]].concat()))
        }
        // Named on the command line it fails where it cannot work; as one of all suites it is skipped there.
        Suite::Kernels if skippable && !setup::can_install() => {
            let mut tally = Tally::default();
            tally.skip("kernels: skipped: the kernels come from Debian 12 packages, and this is another system".to_owned());
            return Ok(tally);
        }
        Suite::Kernels => {
            setup::ensure(&[Purpose::Ebpf, Purpose::Kernels])?;
            build_ebpf::build_embedded()?;
            return kernels::run(harness.iter().find(|word| !word.starts_with('-')).map(String::as_str));
        }
    };
    println!("== {name}");
    let mut tally = stream(name, &mut command)?;
    if tally.ran() == 0 && harness.is_empty() {
        tally.fail(format!("{name}: no test ran"));
    }
    Ok(tally)
}

/// Runs a test command, passes its output through and reads the results out of it.
fn stream(name: &str, command: &mut Command) -> Result<Tally> {
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {}", step::describe(command)))?;
    let mut tally = Tally::default();
    let mut seen = BTreeSet::new();
    let mut out = std::io::stdout().lock();
    for line in BufReader::new(child.stdout.take().expect("stdout is piped")).split(b'\n') {
        let line = line.context("cannot read the tests' output")?;
        let line = String::from_utf8_lossy(&line);
        writeln!(out, "{line}").context("cannot write to stdout")?;
        if let Some(counts) = result_line(&line) {
            tally += counts;
        } else if let Some(remark) = remark(name, &line)
            && seen.insert(remark.clone())
        {
            tally.remarks.push(remark);
        }
    }
    let status = child.wait().with_context(|| format!("cannot wait for {}", step::describe(command)))?;
    if !status.success() && tally.failed == 0 {
        tally.fail(format!("{name}: {} ended with {status}, though no test failed", step::describe(command)));
    }
    Ok(tally)
}

/// `test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s`, as libtest and libtest-mimic print it.
fn result_line(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |word: &str| {
        let part = counts.split("; ").find_map(|part| part.strip_suffix(word))?;
        part.trim().parse().ok()
    };
    Some(Tally { passed: count("passed")?, failed: count("failed")?, skipped: count("ignored")?, remarks: Vec::new() })
}

/// `test NAME ... FAILED` and `test NAME ... ignored[, REASON]`, to be repeated at the end.
fn remark(suite: &str, line: &str) -> Option<String> {
    let (test, verdict) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let test = test.trim();
    if verdict == "FAILED" {
        return Some(format!("{suite}: FAILED {test}"));
    }
    let reason = verdict.strip_prefix("ignored")?.trim_start_matches(", ");
    Some(format!("{suite}: skipped {test}{}{reason}", if reason.is_empty() { "" } else { ": " }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_counts_of_a_result_line() {
        let line = "test result: FAILED. 12 passed; 2 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s";
        assert_eq!(result_line(line), Some(Tally { passed: 12, failed: 2, skipped: 1, remarks: Vec::new() }));
        assert_eq!(result_line("test a::b ... ok"), None);
        assert_eq!(result_line("test result: whatever"), None);
    }

    #[test]
    fn repeats_failures_and_skips_at_the_end() {
        assert_eq!(remark("unit", "test a::b ... FAILED").as_deref(), Some("unit: FAILED a::b"));
        assert_eq!(remark("lab", "test mtu ... ignored, no vxlan module").as_deref(), Some("lab: skipped mtu: no vxlan module"));
        assert_eq!(remark("lab", "test mtu ... ignored").as_deref(), Some("lab: skipped mtu"));
        assert_eq!(remark("lab", "test mtu ... ok"), None);
    }
}
