//! Load: as much real traffic as the path takes, or as much as it is told to, between two namespaces for a given time, and what that cost.
//!
//! [`bulk`], [`datagrams`], [`requests`] and [`connections`] each have a `run` that takes the client's and the server's namespace. They use
//! ordinary sockets, made inside the namespaces, and event loops: what real servers are, and few threads, so that the path is measured and
//! not the scheduler. Contents are not checked here: [`crate::probe`] does that.
//!
//! Every run has the same course: [`Phase`] goes from warm-up to counted to over; only what completes while it is counted is counted, and
//! for exactly that time [`cpu`] looks at what the machine did. Then the client finishes what it began, and the server ends after it.
//!
//! Nothing here configures an interface or a namespace, and nothing waits without a limit.

pub mod bulk;
pub mod connections;
pub mod cpu;
pub mod datagrams;
mod latency;
mod poller;
pub mod requests;

pub use latency::Latency;

use crate::probe::ended;
use anyhow::{Context as _, anyhow, bail};
use cpu::{CpuClock, CpuTime};
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How long nothing may happen before a run fails.
const STALL: Duration = Duration::from_secs(5);

/// How often a loop with nothing to do looks whether it should end.
const TICK: Duration = Duration::from_millis(50);

/// How long a run takes, and where its threads run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// Traffic before the count begins: windows open, caches fill, neighbours are found.
    pub warm_up: Duration,
    /// How long is counted.
    pub duration: Duration,
    /// Which CPUs the two sides are bound to; `None` leaves it to the scheduler.
    pub cpus: Option<Cpus>,
}

impl Default for Conditions {
    fn default() -> Self {
        Self { warm_up: Duration::from_millis(300), duration: Duration::from_secs(1), cpus: None }
    }
}

/// The CPU of each side, counted from 0. On a machine with few CPUs binding takes the scheduler's luck out of a comparison: woken by the
/// packet, a server may land on the client's CPU or not, and a round differs from the next by that alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpus {
    /// Of the client.
    pub client: usize,
    /// Of the server.
    pub server: usize,
}

/// How far a run is. Set by the thread that conducts it, read by the sides at every turn of their loops.
#[derive(Debug)]
struct Phase {
    now: AtomicU8,
    /// Woken when a side ends before its time.
    conductor: Thread,
}

impl Phase {
    const WARM_UP: u8 = 0;
    const COUNTED: u8 = 1;
    const OVER: u8 = 2;
    const GONE: u8 = 3;

    fn new() -> Self {
        Self { now: AtomicU8::new(Self::WARM_UP), conductor: thread::current() }
    }

    /// Phases only go forwards: a side that fails during the warm-up ends the run for good.
    fn reach(&self, phase: u8) {
        self.now.fetch_max(phase, Ordering::Relaxed);
        self.conductor.unpark();
    }

    fn reached(&self, phase: u8) -> bool {
        self.now.load(Ordering::Relaxed) >= phase
    }

    /// Whether what completes now counts.
    fn counts(&self) -> bool {
        self.now.load(Ordering::Relaxed) == Self::COUNTED
    }

    /// Whether the client begins nothing more.
    fn over(&self) -> bool {
        self.reached(Self::OVER)
    }

    /// Whether the client has ended: nobody will ask the server any more.
    fn gone(&self) -> bool {
        self.reached(Self::GONE)
    }

    /// Waits until that much time has passed; an error when a side ended meanwhile.
    fn pass(&self, time: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if self.over() {
                bail!("a side of the load ended {left:?} early");
            }
            if left.is_zero() {
                return Ok(());
            }
            thread::park_timeout(left);
        }
    }

    /// Leads through warm-up and counted time, with a snapshot before and after the latter.
    fn conduct<K>(&self, conditions: &Conditions, snapshot: impl Fn() -> anyhow::Result<K>) -> anyhow::Result<(CpuTime, K, K)> {
        self.pass(conditions.warm_up)?;
        let before = snapshot()?;
        let clock = CpuClock::start()?;
        self.reach(Self::COUNTED);
        self.pass(conditions.duration)?;
        self.reach(Self::OVER);
        Ok((clock.stop()?, before, snapshot()?))
    }
}

/// Ends the run when a side leaves it, by whatever way.
struct Presence<'a>(&'a Phase);

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        self.0.reach(Phase::OVER);
    }
}

/// What came out of a run.
struct Outcome<C, S, K> {
    client: C,
    server: S,
    cpu: CpuTime,
    before: K,
    after: K,
}

/// Runs both sides, each on a thread of its own, through the phases. `snapshot` is taken before and after the counted time.
///
/// # Errors
/// What the sides say, both of them if both failed: one is often the other's cause.
fn run<C: Send, S: Send, K>(
    conditions: &Conditions,
    client: impl FnOnce(&Phase) -> anyhow::Result<C> + Send,
    server: impl FnOnce(&Phase) -> anyhow::Result<S> + Send,
    snapshot: impl Fn() -> anyhow::Result<K>,
) -> anyhow::Result<Outcome<C, S, K>> {
    let phase = Phase::new();
    let cpus = conditions.cpus;
    let (client, server, conducted) = thread::scope(|scope| {
        let server = scope.spawn(|| side(&phase, cpus.map(|cpus| cpus.server), server));
        let client = scope.spawn(|| side(&phase, cpus.map(|cpus| cpus.client), client));
        let conducted = phase.conduct(conditions, snapshot);
        // Also when the snapshot failed.
        phase.reach(Phase::OVER);
        let client = ended(client.join());
        phase.reach(Phase::GONE);
        (client, ended(server.join()), conducted)
    });
    let (client, server) = match (client, server) {
        (Ok(client), Ok(server)) => (client, server),
        (Err(client), Ok(_)) => return Err(client.context("client")),
        (Ok(_), Err(server)) => return Err(server.context("server")),
        (Err(client), Err(server)) => return Err(anyhow!("client: {client:#}; server: {server:#}")),
    };
    let (cpu, before, after) = conducted?;
    Ok(Outcome { client, server, cpu, before, after })
}

fn side<T>(phase: &Phase, cpu: Option<usize>, work: impl FnOnce(&Phase) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let _presence = Presence(phase);
    if let Some(cpu) = cpu {
        cpu::pin(cpu).context("bind a side of the load to its CPU")?;
    }
    work(phase)
}

/// So many per second.
#[expect(clippy::cast_precision_loss, reason = "a rate to be compared and read, not added up")]
fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// Seconds of CPU time for each of so many.
fn cost(busy: Duration, count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a cost to be compared and read, not added up")]
    let count = count as f64;
    busy.as_secs_f64() / count
}
