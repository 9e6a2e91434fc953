//! Pods come and go, and processes are killed at any moment: afterwards nothing is left over.
//!
//! `OVERLAY_CNI_CYCLES` says how many pods come and go; the full run has 10,000.

use super::bed::{Guest, alone, runtime, traces, unchanged};
use crate::harness::{Group, note};
use anyhow::{Context as _, ensure};
use overlay_lab::cni::{Call, Conflist, Container, Runtime};
use overlay_lab::lab::{Lab, LabConfig};
use overlay_lab::probe::ping;
use std::io::Write as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Pods that come and go, unless `OVERLAY_CNI_CYCLES` says otherwise.
const CYCLES: u32 = 300;
/// Pods of the parallel case.
const PARALLEL: usize = 200;
/// Pods that come and go at the same time.
const WORKERS: u32 = 4;

pub(crate) fn group() -> Group {
    Group::new("overlay-cni, stress", LabConfig { nodes: 1, ..LabConfig::default() })
        .case("200 pods come at once and go at once", parallel)
        .case("pods come and go, processes are killed at any moment, and nothing stays", killed)
        .case("nor does anything stay when no agent sweeps and namespaces go in the middle of it", |lab| {
            lab.nodes[0].stop_agent()?;
            cycles(lab, CYCLES / 3, false)?;
            cycles(lab, CYCLES / 3, true)?;
            lab.nodes[0].start_agent().map(drop)
        })
}

fn parallel(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    let (runtime, before, list) = (&runtime(node)?, traces(node)?, &alone(node, "1.1.0"));
    let guests = (0..PARALLEL).map(|number| Guest::new(&format!("cni-{number}"))).collect::<anyhow::Result<Vec<_>>>()?;
    let start = Instant::now();
    all(&guests, |one| runtime.add(list, &one.container).map(drop))?;
    let added = start.elapsed();
    for one in guests.iter().step_by(20) {
        ensure!(ping::once(&one.ns, node.gateway())?.is_some(), "{} does not reach its node", one.container.id);
    }
    let start = Instant::now();
    all(&guests, |one| runtime.del(list, &one.container, None))?;
    note(format!("{PARALLEL} pods at once: added in {added:.1?}, deleted in {:.1?}", start.elapsed()));
    unchanged(node, &before)
}

/// The same for all at the same time.
fn all(guests: &[Guest], work: impl Fn(&Guest) -> anyhow::Result<()> + Sync) -> anyhow::Result<()> {
    thread::scope(|scope| {
        let running: Vec<_> = guests.iter().map(|one| scope.spawn(|| work(one))).collect();
        running.into_iter().try_for_each(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn killed(lab: &mut Lab) -> anyhow::Result<()> {
    let count = match std::env::var("OVERLAY_CNI_CYCLES") {
        Ok(text) => text.parse().with_context(|| format!("OVERLAY_CNI_CYCLES={text}"))?,
        Err(_) => CYCLES,
    };
    cycles(lab, count, false)
}

/// `count` pods come and go, `WORKERS` at a time. `vanish`: their namespace goes while something is done with them.
fn cycles(lab: &mut Lab, count: u32, vanish: bool) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    let (runtime, before, list) = (&runtime(node)?, traces(node)?, &alone(node, "1.1.0"));
    let seed = u64::from(SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos());
    let (next, kills) = (AtomicU32::new(0), AtomicU32::new(0));
    let start = Instant::now();
    thread::scope(|scope| {
        let work = |worker: u32| -> anyhow::Result<()> {
            let mut random = Random(seed ^ (u64::from(worker + 1) << 40));
            while next.fetch_add(1, Ordering::Relaxed) < count {
                kills.fetch_add(cycle(runtime, list, worker, &mut random, vanish)?, Ordering::Relaxed);
            }
            Ok(())
        };
        let running: Vec<_> = (0..WORKERS).map(|worker| scope.spawn(move || work(worker))).collect();
        running.into_iter().try_for_each(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
    .with_context(|| format!("seed {seed}"))?;
    let kills = kills.into_inner();
    note(format!("{count} pods came and went in {:.1?}, {kills} processes were killed (seed {seed})", start.elapsed()));
    ensure!(kills > count / 4, "only {kills} processes were killed in {count} rounds");
    unchanged(node, &before).with_context(|| format!("seed {seed}"))
}

/// One pod: ADD, perhaps killed; DEL, perhaps killed; DEL until it is done. Returns how many were killed.
fn cycle(runtime: &Runtime<'_>, list: &Conflist, worker: u32, random: &mut Random, vanish: bool) -> anyhow::Result<u32> {
    let one = Guest::new(&format!("cni-{worker}"))?;
    let mut container = one.container.clone();
    container.id = format!("{:016x}", random.next());
    let mut kills = u32::from(interrupted(runtime, list, "ADD", &container, random)?);
    if vanish {
        let doomed = one;
        if random.next().is_multiple_of(2) {
            // In the middle of the next call.
            let call = runtime.prepare("DEL", &container, &config(list));
            let mut child = start(runtime, &call)?;
            drop(doomed);
            ensure!(child.wait()?.success(), "DEL of a pod whose namespace goes failed");
        } else {
            drop(doomed);
        }
        container.netns = None;
    }
    for _ in 0..2 {
        kills += u32::from(interrupted(runtime, list, "DEL", &container, random)?);
    }
    runtime.del(list, &container, None)?;
    Ok(kills)
}

fn config(list: &Conflist) -> serde_json::Value {
    let mut config = list.plugins[0].clone();
    config["cniVersion"] = list.version.clone().into();
    config["name"] = list.name.clone().into();
    config
}

fn start(runtime: &Runtime<'_>, call: &Call) -> anyhow::Result<std::process::Child> {
    let mut child = runtime.command(call)?.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    // It may be killed before it reads.
    drop(child.stdin.take().map(|mut stdin| stdin.write_all(call.input.as_bytes())));
    Ok(child)
}

/// Makes a call and kills it somewhere on its way, most of the time. Returns whether it was killed.
fn interrupted(runtime: &Runtime<'_>, list: &Conflist, verb: &str, container: &Container, random: &mut Random) -> anyhow::Result<bool> {
    /// About as long as a call takes.
    const LONGEST: u64 = 60_000;
    let mut child = start(runtime, &runtime.prepare(verb, container, &config(list)))?;
    if random.next().is_multiple_of(4) {
        let status = child.wait()?;
        ensure!(status.success(), "{verb} ended with {status}");
        return Ok(false);
    }
    thread::sleep(Duration::from_micros(random.next() % LONGEST));
    child.kill()?;
    Ok(!child.wait()?.success())
}

/// Numbers that look random: xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
