//! Nothing is left: after a lab, after the demo, after a demo that was killed at any moment.
//!
//! These cases look from inside the tests' own sandbox, where the demo's sandbox is a guest: what the demo left would show here as it would
//! show on a machine.

use crate::check::eventually;
use crate::harness;
use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use overlay_common::abi::program;
use overlay_lab::command;
use overlay_lab::lab::{Lab, LabConfig};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// How long the kernel may take to clean up: network namespaces and BPF programs are freed in the background.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn trials() -> Vec<Trial> {
    let trial = |sentence: &str, check: fn() -> anyhow::Result<()>| {
        Trial::test(format!("traces: {sentence}"), move || {
            harness::without_lab(|| {
                let before = Snapshot::take()?;
                check()?;
                eventually(PATIENCE, || before.compare(&Snapshot::take()?))
            })
        })
    };
    vec![
        trial("a lab leaves nothing", || {
            drop(Lab::create(&LabConfig { foreign: 1, ..LabConfig::default() }, &mut |_| {})?);
            Ok(())
        }),
        trial("the demo works, says so, and leaves nothing", demo_works),
        trial("a demo killed while it stays up leaves nothing", || killed_when("The lab stays up", 0, false)),
        trial("a demo killed while it builds leaves nothing", || killed_when("nodes:", 20, true)),
        trial("a demo killed while packets fly leaves nothing", || killed_when("bulk transfer", 50, false)),
        trial("Ctrl-C ends a demo that stays up, and nothing is left", interrupted),
    ]
}

/// What could be left.
#[derive(Debug, PartialEq, Eq)]
struct Snapshot {
    processes: BTreeSet<String>,
    mounts: BTreeSet<String>,
    links: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    files: BTreeSet<String>,
}

impl Snapshot {
    fn take() -> anyhow::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
        // Fields 5 and 9: where, and of which type. The ids before them are given anew.
        let mounts = mounts.lines().map(|line| line.split_whitespace().skip(4).take(2).collect::<Vec<_>>().join(" ")).collect();
        let links: Vec<Value> = serde_json::from_str(&command::ip("-json link")?)?;
        let links = links.iter().map(|link| link["ifname"].to_string()).collect();
        let namespaces = command::ip("netns list")?.lines().map(str::to_owned).collect();
        let files = names("/run/overlay")?.into_iter().chain(names("/run")?).collect();
        Ok(Self { processes: processes()?, mounts, links, namespaces, files })
    }

    fn compare(&self, after: &Self) -> anyhow::Result<()> {
        let pairs = [
            ("processes", &self.processes, &after.processes),
            ("mounts", &self.mounts, &after.mounts),
            ("links", &self.links, &after.links),
            ("namespaces", &self.namespaces, &after.namespaces),
            ("files", &self.files, &after.files),
        ];
        for (what, before, after) in pairs {
            let left: Vec<&String> = after.difference(before).collect();
            ensure!(left.is_empty(), "{what} left: {left:?}");
        }
        Ok(())
    }
}

fn names(directory: &str) -> anyhow::Result<Vec<String>> {
    // The nodes file stays: it is a file on the sandbox's own tmpfs, written anew by the next lab.
    let entries = fs::read_dir(directory).with_context(|| format!("list {directory}"))?;
    entries
        .map(|entry| Ok(entry?.path().display().to_string()))
        .filter(|path| !matches!(path, Ok(path) if path.ends_with("/cluster")))
        .collect()
}

/// Every process of the sandbox but those that end by themselves: PID and command line.
fn processes() -> anyhow::Result<BTreeSet<String>> {
    let mut processes = BTreeSet::new();
    for name in names("/proc")? {
        let Some(pid) = name.strip_prefix("/proc/").filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit())) else { continue };
        // Ended meanwhile: not left.
        let Ok(command_line) = fs::read_to_string(format!("{name}/cmdline")) else { continue };
        processes.insert(format!("{pid} {}", command_line.replace('\0', " ")));
    }
    Ok(processes)
}

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_overlay-lab"));
    command.args(["demo", "--nodes", "2", "--pods", "1"]).args(arguments).stdin(Stdio::null());
    command
}

fn demo_works() -> anyhow::Result<()> {
    let output = command::output(&mut demo(&["--output", "json"]))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the demo ended with {}: {said}{}", output.status, String::from_utf8_lossy(&output.stdout));
    let report: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("the demo printed no JSON; it said {said}"))?;
    ensure!(report["ok"] == true && report["pods"].as_array().is_some_and(|cells| cells.len() == 2), "{report}");
    let seconds = report["seconds"].as_f64().context("no time")?;
    harness::note(format!("demo of 2 nodes: {seconds:.1} s"));
    Ok(())
}

/// A demo that has said `word` on standard error, and the rest of what it says: read or not, it has to stay open.
fn demo_at(word: &str) -> anyhow::Result<(Child, impl Sized)> {
    let mut child = demo(&["--keep"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().context("start the demo")?;
    let stderr = child.stderr.take().context("no standard error")?;
    let mut said = String::new();
    let mut stderr = BufReader::new(stderr);
    loop {
        let start = said.len();
        if stderr.read_line(&mut said)? == 0 {
            break;
        }
        if said[start..].contains(word) {
            return Ok((child, stderr));
        }
    }
    anyhow::bail!("the demo ended ({}) without {word:?}:\n{said}", child.wait()?)
}

/// Kills the demo (SIGKILL) some milliseconds after it has said `word`: while it is still `building`, or with programs loaded.
fn killed_when(word: &str, milliseconds: u64, building: bool) -> anyhow::Result<()> {
    let (mut child, _stderr) = demo_at(word)?;
    thread::sleep(Duration::from_millis(milliseconds));
    let programs = programs_of(&child)?;
    ensure!(programs.is_empty() == building, "the demo had the programs {programs:?}");
    child.kill().context("kill the demo")?;
    child.wait()?;
    eventually(PATIENCE, || no_program_of(&programs))
}

fn interrupted() -> anyhow::Result<()> {
    let (mut child, _stderr) = demo_at("The lab stays up")?;
    let programs = programs_of(&child)?;
    ensure!(!programs.is_empty(), "the demo runs without programs");
    kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGINT)?;
    let status = child.wait()?;
    ensure!(status.success(), "the demo ended with {status}");
    eventually(PATIENCE, || no_program_of(&programs))
}

/// Ids of the programs pinned in a demo's sandbox. Program ids are the machine's: other sandboxes have programs of the same names.
fn programs_of(demo: &Child) -> anyhow::Result<BTreeSet<u64>> {
    let parent = format!("PPid:\t{}", demo.id());
    let is_init = |pid: &String| fs::read_to_string(format!("{pid}/status")).is_ok_and(|status| status.lines().any(|line| line == parent));
    let Some(init) = names("/proc")?.into_iter().find(is_init) else { return Ok(BTreeSet::new()) };
    let mut ids = BTreeSet::new();
    for node in ["node-1", "node-2"] {
        for program in program::ALL {
            let pin = format!("/run/overlay/{node}/bpf/overlay/v1/progs/{program}");
            let mut show = Command::new("nsenter");
            // Into its PID namespace too: bpftool looks at its own descriptors in /proc, and the /proc of those mounts is that namespace's.
            show.arg(format!("--mount={init}/ns/mnt"))
                .arg(format!("--pid={init}/ns/pid"))
                .args(["--", "bpftool", "--json", "prog", "show", "pinned", &pin]);
            // Not pinned yet: nothing to look for.
            if let Ok(shown) = serde_json::from_slice::<Value>(&command::output(&mut show)?.stdout) {
                ids.extend(shown["id"].as_u64());
            }
        }
    }
    Ok(ids)
}

fn no_program_of(ids: &BTreeSet<u64>) -> anyhow::Result<()> {
    let programs: Vec<Value> = serde_json::from_str(&command::run(Command::new("bpftool").args(["--json", "prog", "list"]))?)?;
    let left: Vec<&Value> = programs.iter().filter(|program| program["id"].as_u64().is_some_and(|id| ids.contains(&id))).collect();
    ensure!(left.is_empty(), "programs left: {left:?}");
    Ok(())
}
