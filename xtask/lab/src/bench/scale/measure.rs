//! One size of cluster: the agent is started, told of single changes, of heartbeats, of everything at once.

use super::cluster::Cluster;
use super::process::{Memory, Process};
use anyhow::{Context as _, ensure};
use overlay_agent::datapath::Tables;
use serde::Serialize;
use std::thread;
use std::time::{Duration, Instant};

/// Single changes that are timed.
const EVENTS: usize = 300;
/// Pause before each; not a multiple of anything the agent does at intervals.
const BETWEEN: Duration = Duration::from_millis(37);
/// Changes that are timed while all nodes change.
const WATCHED: usize = 200;
/// Until the agent has written its status and gone to sleep.
const CALM: Duration = Duration::from_secs(3);
/// How often a kubelet posts a status that says nothing new (`nodeStatusReportFrequency`), and one that does (`nodeStatusUpdateFrequency`).
const HEARTBEATS: [Duration; 2] = [Duration::from_mins(5), Duration::from_secs(10)];

/// Everything measured of one size.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figures {
    /// Nodes beside the agent's own.
    pub(super) nodes: usize,
    /// Bytes of one Node as the API server sends it.
    pub(super) node_bytes: u64,
    /// Of that its metadata: what a metadata-only watch would send.
    pub(super) metadata_bytes: u64,
    /// Seconds from the agent's start to its map having every node.
    pub(super) start: f64,
    /// Processor seconds of the agent until then.
    pub(super) start_processor: f64,
    /// Bytes the API server had sent by then.
    pub(super) list_bytes: u64,
    /// From a single change to the map.
    pub(super) idle: Latency,
    /// From a change to the map while all nodes change at once.
    pub(super) burst: Latency,
    /// Seconds in which the API server took those changes.
    pub(super) burst_seconds: f64,
    /// Nodes whose kubelets have nothing new to say, and nodes that all have.
    pub(super) heartbeats: [Heartbeats; 2],
    /// Memory of the agent after the start and after all changes.
    pub(super) memory: [Memory; 2],
    /// Kernel memory of all maps.
    pub(super) map_bytes: u64,
}

/// Seconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) most: f64,
    pub(super) samples: usize,
}

impl Latency {
    fn of(mut samples: Vec<Duration>) -> anyhow::Result<Self> {
        samples.sort_unstable();
        let at = |percent: usize| {
            let rank = (samples.len() * percent).div_ceil(100).saturating_sub(1);
            samples.get(rank).map(Duration::as_secs_f64).context("nothing was timed")
        };
        Ok(Self { p50: at(50)?, p99: at(99)?, most: at(100)?, samples: samples.len() })
    }
}

/// A window in which nothing changes but the time the kubelets posted last.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Heartbeats {
    /// Seconds from one heartbeat of a node to its next.
    pub(super) interval: f64,
    /// Heartbeats a second, as they really were.
    pub(super) rate: f64,
    /// Share of one core the agent took.
    pub(super) core: f64,
    /// Bytes the API server sent this one agent, by minute.
    pub(super) bytes_per_minute: f64,
}

/// Measures one size; `progress` is told each step before it begins.
pub(super) fn measure(nodes: usize, window: Duration, progress: &mut dyn FnMut(&str)) -> anyhow::Result<Figures> {
    progress("the API server gets its nodes");
    let mut cluster = Cluster::create(nodes)?;
    let first = cluster.peers.first().context("no nodes")?.name();
    let node = cluster.server.node(&first);
    let (node_bytes, metadata_bytes) = (node.to_string().len() as u64, node["metadata"].to_string().len() as u64);

    progress("the agent starts");
    let begun = Instant::now();
    cluster.node.spawn_agent()?;
    let tables = cluster.tables()?;
    let full = cluster.wait_for_all(&tables)?;
    let process = Process(cluster.node.agent_pid()?);
    let start_processor = process.processor()?.as_secs_f64();
    let list_bytes = cluster.server.counts().bytes;
    cluster.node.wait_ready()?;
    thread::sleep(CALM);
    let started = process.memory()?;

    progress("single nodes change");
    let idle = single(&mut cluster, &tables)?;
    let mut windows = Vec::new();
    for interval in HEARTBEATS {
        progress(&format!("every node's kubelet posts every {} s", interval.as_secs()));
        windows.push(heartbeats(&cluster, process, interval, window)?);
    }
    let heartbeats = windows.try_into().ok().context("as many windows as intervals")?;
    progress("every node changes");
    let (burst, burst_seconds) = all(&mut cluster, &tables)?;
    thread::sleep(CALM);
    Ok(Figures {
        nodes,
        node_bytes,
        metadata_bytes,
        start: (full - begun).as_secs_f64(),
        start_processor,
        list_bytes,
        idle,
        burst,
        burst_seconds,
        heartbeats,
        memory: [started, process.memory()?],
        map_bytes: cluster.map_bytes()?,
    })
}

/// One change, wait until it is in the map, a pause, the next.
fn single(cluster: &mut Cluster, tables: &Tables) -> anyhow::Result<Latency> {
    let mut samples = Vec::new();
    for event in 0..EVENTS {
        thread::sleep(BETWEEN);
        let peer = cluster.turn(event * cluster.peers.len() / EVENTS)?;
        let told = Instant::now();
        cluster.server.put(&peer.entry());
        samples.push(cluster.wait_for(tables, peer)? - told);
    }
    Latency::of(samples)
}

/// Every node changes, as fast as the server takes it. Some of them, from the first to the last, are waited for.
fn all(cluster: &mut Cluster, tables: &Tables) -> anyhow::Result<(Latency, f64)> {
    let count = cluster.peers.len();
    let step = count.div_ceil(WATCHED);
    let moved = (0..count).map(|index| cluster.turn(index)).collect::<anyhow::Result<Vec<_>>>()?;
    let (sender, receiver) = std::sync::mpsc::channel();
    let begun = Instant::now();
    let took = thread::scope(|scope| -> anyhow::Result<(Vec<Duration>, f64)> {
        let shared = &*cluster;
        let writer = scope.spawn(move || {
            for (index, peer) in moved.iter().enumerate() {
                let told = Instant::now();
                shared.server.put(&peer.entry());
                if (index % step == 0 || index + 1 == count) && sender.send((told, *peer)).is_err() {
                    break;
                }
            }
            begun.elapsed().as_secs_f64()
        });
        let mut samples = Vec::new();
        while let Ok((told, peer)) = receiver.recv() {
            samples.push(shared.wait_for(tables, peer)?.saturating_duration_since(told));
        }
        Ok((samples, crate::probe::ended(writer.join())))
    });
    let (samples, seconds) = took?;
    cluster.wait_for_all(tables)?;
    Ok((Latency::of(samples)?, seconds))
}

/// Nodes post in turn, evenly over their interval, for as long as the window.
#[expect(clippy::cast_precision_loss, reason = "bytes of some seconds")]
fn heartbeats(cluster: &Cluster, process: Process, interval: Duration, window: Duration) -> anyhow::Result<Heartbeats> {
    let pause = interval / u32::try_from(cluster.peers.len())?;
    let (processor, bytes) = (process.processor()?, cluster.server.counts().bytes);
    let begun = Instant::now();
    let mut posted = 0_u32;
    while begun.elapsed() < window {
        let peer = cluster.peers.get(posted as usize % cluster.peers.len()).context("no nodes")?;
        // No two posts of a node are the same.
        let post = format!("2026-11-24T{:02}:{:02}:{:02}Z", posted / 3600 % 24, posted / 60 % 60, posted % 60);
        cluster.server.put_with_heartbeat(&peer.entry(), &post);
        posted += 1;
        thread::sleep((pause * posted).saturating_sub(begun.elapsed()));
    }
    // What was posted last is still on its way.
    thread::sleep(Duration::from_millis(200));
    let seconds = begun.elapsed().as_secs_f64();
    let sent = cluster.server.counts().bytes - bytes;
    ensure!(sent > 0, "the API server sent nothing: nobody watches");
    Ok(Heartbeats {
        interval: interval.as_secs_f64(),
        rate: f64::from(posted) / seconds,
        core: process.processor()?.saturating_sub(processor).as_secs_f64() / seconds,
        bytes_per_minute: sent as f64 / seconds * 60.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() -> anyhow::Result<()> {
        let latency = Latency::of((1..=200).rev().map(Duration::from_secs).collect())?;
        assert_eq!((latency.p50, latency.p99, latency.most, latency.samples), (100.0, 198.0, 200.0, 200));
        assert!(Latency::of(Vec::new()).is_err());
        Ok(())
    }
}
