//! What the whole machine did meanwhile, from `/proc/stat`, and binding a thread to a CPU.
//!
//! Packets are handled wherever they happen to be: in the sender's system call, in a softirq on top of whoever runs, in a kernel thread. So
//! what work costs is what the machine was not idle, all of it, and the machine must have nothing else to do meanwhile.

use anyhow::{Context as _, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, SysconfVar, sysconf};
use std::fs;
use std::time::{Duration, Instant};

/// A running measurement.
#[derive(Debug)]
pub struct CpuClock {
    ticks: Ticks,
    start: Instant,
}

/// CPU time of the whole machine, all CPUs together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTime {
    /// How long was measured.
    pub wall: Duration,
    /// How many CPUs.
    pub cpus: u32,
    /// Time the CPUs were not idle: `wall * cpus` less idle time.
    ///
    /// Idle time is what a tickless kernel (`CONFIG_NO_HZ_IDLE`) clocks exactly, in nanoseconds, and prints in units of 10 ms: this is exact
    /// to ± 20 ms whatever was measured, 1 % of a second of two CPUs. Interrupts that end an idle time are not part of it.
    pub busy: Duration,
    /// Time in softirqs, where received packets are handled unless `ksoftirqd` does it.
    ///
    /// Not clocked but sampled, at each tick (4 ms with `CONFIG_HZ=250`), unless the kernel has `CONFIG_IRQ_TIME_ACCOUNTING`: a hint, not a
    /// figure to compare.
    pub softirq: Duration,
    /// Time a hypervisor gave to others; part of `busy`. Much of it spoils every other figure.
    pub steal: Duration,
}

/// Ticks since boot, of all CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticks {
    cpus: u32,
    /// Idle, and idle while a disk works.
    idle: u64,
    softirq: u64,
    steal: u64,
}

impl CpuClock {
    /// Starts measuring.
    ///
    /// # Errors
    /// `/proc/stat` cannot be read.
    pub fn start() -> anyhow::Result<Self> {
        Ok(Self { ticks: Ticks::read()?, start: Instant::now() })
    }

    /// What was used since.
    ///
    /// # Errors
    /// `/proc/stat` cannot be read.
    pub fn stop(self) -> anyhow::Result<CpuTime> {
        let wall = self.start.elapsed();
        let (before, after) = (self.ticks, Ticks::read()?);
        let per_second = sysconf(SysconfVar::CLK_TCK)?.and_then(|ticks| u32::try_from(ticks).ok()).context("no CLK_TCK")?;
        // A tick is 10 ms everywhere Linux runs today; asked for nevertheless.
        let time = |ticks: u64, since: u64| Duration::from_secs(ticks.saturating_sub(since)) / per_second;
        Ok(CpuTime {
            wall,
            cpus: after.cpus,
            busy: (wall * after.cpus).saturating_sub(time(after.idle, before.idle)),
            softirq: time(after.softirq, before.softirq),
            steal: time(after.steal, before.steal),
        })
    }
}

impl Ticks {
    fn read() -> anyhow::Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let all = text.strip_prefix("cpu ").and_then(|rest| rest.lines().next()).context("/proc/stat does not start with `cpu`")?;
        let ticks: Vec<u64> = all.split_whitespace().map(str::parse).collect::<Result<_, _>>().context("a number of /proc/stat")?;
        // proc_stat(5): user nice system idle iowait irq softirq steal, then guests, which user has counted already.
        ensure!(ticks.len() >= 8, "/proc/stat has only {} numbers for all CPUs", ticks.len());
        let cpus = text.lines().skip(1).take_while(|line| line.starts_with("cpu")).count();
        Ok(Self { cpus: u32::try_from(cpus)?, idle: ticks[3] + ticks[4], softirq: ticks[6], steal: ticks[7] })
    }
}

/// Binds the calling thread, and every thread it starts from now on, to one CPU, counted from 0.
///
/// # Errors
/// There is no such CPU, or this process may not use it.
pub fn pin(cpu: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set)).with_context(|| format!("bind to CPU {cpu}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_sum_and_counts_the_cpus() {
        let text = "cpu  100 1 50 900 20 0 30 4 7 0\ncpu0 50 1 25 450 10 0 15 2 7 0\ncpu1 50 0 25 450 10 0 15 2 0 0\nintr 5 6\n";
        assert_eq!(Ticks::parse(text).ok(), Some(Ticks { cpus: 2, idle: 920, softirq: 30, steal: 4 }));
    }

    #[test]
    fn a_second_of_work_is_a_second_of_cpu_time_at_least() -> anyhow::Result<()> {
        let clock = CpuClock::start()?;
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(200) {
            std::hint::spin_loop();
        }
        let used = clock.stop()?;
        // Other work on the machine only adds; preempted by it, the loop does less than its time.
        assert!(used.busy >= Duration::from_millis(180), "{used:?}");
        assert!(used.busy <= used.wall * used.cpus, "{used:?}");
        Ok(())
    }
}
