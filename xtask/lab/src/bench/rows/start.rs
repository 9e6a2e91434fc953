//! How long a node takes from the start of its agent until packets flow.
//!
//! Cold: nothing of an agent is on the node, as after a boot. The pod waits, as a kubelet's does, and is wired as soon as the agent has left
//! what wiring needs. Warm: an earlier agent was stopped and left programs, maps and links, as in an upgrade; pods never stop talking then,
//! and what counts is how soon the new programs are in place and whether anybody noticed.

use crate::agent;
use crate::node::{Node, READY_TIMEOUT};
use crate::probe::flood::{self, Flood};
use crate::probe::ping;
use anyhow::{Context as _, ensure};
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(1);
/// Datagrams a second that ask whether packets flow: what is told of them is exact to a millisecond.
const RATE: u32 = 1000;

/// One start of an agent. Times are in seconds and counted from the moment before its process is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Start {
    /// Until one whole pass had succeeded: everything is attached, every node known.
    pub ready: f64,
    /// Part of it in which the programs were verified and loaded and the maps made or adopted, as the agent says; `None`: this build of
    /// the agent does not.
    pub load: Option<f64>,
    /// Until a pod of another node got its first answer from the pod here. Of a cold start only.
    pub first_packet: Option<f64>,
    /// The longest time without an answer, and how many requests had none. Of a warm start only.
    pub silence: Option<(f64, u64)>,
}

/// Removes everything of the agent from `node`, starts it, and wires a pod as soon as that is possible. `prober` is another node, running,
/// with a pod. The node has one pod afterwards.
///
/// # Errors
/// A tool fails, or the node does not come up within [`READY_TIMEOUT`]: the message quotes its agent's log.
pub fn cold(prober: &Node, node: &mut Node) -> anyhow::Result<Start> {
    while !node.pods.is_empty() {
        node.remove_pod()?;
    }
    if node.agent_pid().is_ok() {
        node.stop_agent()?;
    }
    node.cleanup()?;
    let pod = node.prepare_pod()?;
    // Its echo waits on the address before the pod has it.
    pod.ns.set_sysctl("net.ipv4.ip_nonlocal_bind", "1")?;
    // In the list from here on, so that whoever looks at the node after a failure finds it.
    node.pods.push(pod);
    let observed = observe(prober, node, false)?;
    let first = observed.report.first.context("a ping was answered, but none of the datagrams")?;
    let first_packet = first.checked_duration_since(observed.begun).context("an answer came before the start: the node was not cold")?;
    Ok(Start { first_packet: Some(first_packet.as_secs_f64()), silence: None, ..observed.start })
}

/// Stops the agent of `node`, which has a pod, and starts it again.
///
/// # Errors
/// As [`cold`].
pub fn warm(prober: &Node, node: &mut Node) -> anyhow::Result<Start> {
    node.stop_agent()?;
    let observed = observe(prober, node, true)?;
    let silence = (observed.report.longest_gap.as_secs_f64(), observed.report.lost());
    Ok(Start { first_packet: None, silence: Some(silence), ..observed.start })
}

/// A start that was seen to its end.
struct Observed {
    begun: Instant,
    start: Start,
    report: flood::Report,
}

/// Starts the agent under a flood of requests to the first pod, and does what has to be done until they are answered.
fn observe(prober: &Node, node: &mut Node, wired: bool) -> anyhow::Result<Observed> {
    let asking = prober.pods.first().with_context(|| format!("{} has no pod", prober.name))?;
    let asked = node.pods.first().with_context(|| format!("{} has no pod", node.name))?.address;
    let flood = Flood::start(&asking.ns, asking.address, &node.pods[0].ns, asked, RATE)?;
    let begun = Instant::now();
    node.spawn_agent()?;
    let ready = bring_up(node, begun, wired).with_context(|| format!("{}; its agent's log:\n{}", node.name, node.log_tail()))?;
    while ping::once(&asking.ns, asked)?.is_none() {
        ensure!(begun.elapsed() < READY_TIMEOUT, "{asked} does not answer {}; {}'s log:\n{}", prober.name, node.name, node.log_tail());
    }
    let start = Start { ready: ready.as_secs_f64(), load: load_seconds(node)?, first_packet: None, silence: None };
    Ok(Observed { begun, start, report: flood.stop()? })
}

/// Wires the first pod, unless it is, as soon as that works; returns when the agent was ready.
fn bring_up(node: &mut Node, clock: Instant, mut wired: bool) -> anyhow::Result<Duration> {
    let mut ready = None;
    loop {
        if !wired {
            match node.wire_pod(&node.pods[0]) {
                Ok(()) => wired = true,
                Err(error) if clock.elapsed() > READY_TIMEOUT => return Err(error),
                // Too early: the agent has not come that far.
                Err(_) => {}
            }
        }
        if ready.is_none() && node.agent_status().is_ok_and(|status| agent::is_ready(&status)) {
            ready = Some(clock.elapsed());
        }
        match ready {
            Some(ready) if wired => return Ok(ready),
            _ if clock.elapsed() > READY_TIMEOUT => return node.wait_ready().map(|_| clock.elapsed()),
            _ => thread::sleep(LOOK),
        }
    }
}

/// What the newest `agent started` line of the agent's log says of loading.
fn load_seconds(node: &Node) -> anyhow::Result<Option<f64>> {
    let log = node.config.state_dir.join("agent.log");
    let text = fs::read_to_string(&log).with_context(|| format!("read {}", log.display()))?;
    Ok(load_ms(&text).map(|milliseconds| milliseconds / 1e3))
}

fn load_ms(log: &str) -> Option<f64> {
    let line = log.lines().rev().find(|line| line.contains("agent started"))?;
    line.split_once("load_ms=")?.1.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_load_time_of_the_newest_start() {
        let old = "2026-11-23T10:00:00Z  INFO agent started node=\"node-1\" load_ms=80.5\n";
        let new = "2026-11-23T10:00:09Z  INFO agent started node=\"node-1\" load_ms=41.25\n2026-11-23T10:00:09Z  INFO node joined";
        assert_eq!(load_ms(&format!("{old}{new}")), Some(41.25));
        assert_eq!(load_ms("2026-11-23T10:00:09Z  INFO agent started node=\"node-1\"\n"), None);
    }
}
