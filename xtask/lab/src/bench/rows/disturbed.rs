//! Small packets while the cluster changes: the agent, the plugin's code and the packets share the machine, and the maps.

use super::{Contestant, Stage, packets};
use crate::bench::bed::far::FarNode;
use crate::bench::bed::{Pair, Side};
use crate::bench::generator::Stream;
use crate::bench::work::{Disturbance, Mix, Path};
use crate::node::Node;
use crate::nodes::{NodeEntry, NodesFile};
use crate::pod::{self, Pod};
use anyhow::bail;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What the packets are.
const MIX: Mix = Mix { flows: 1_000, pods: 1, nodes: 1 };
/// How often the list of nodes is written.
const WRITES_PER_SECOND: u32 = 4;
/// Pods that come and go in turn; the first one has a number no other pod has.
const POOL: usize = 8;
const FIRST_POD: usize = 200;

/// Packets per second while it is calm, right after that while it is not, and changes per second that were really made.
pub(super) fn measure(stage: &mut Stage<'_>, contestant: &Contestant, disturbance: Disturbance) -> anyhow::Result<Vec<f64>> {
    let calm = packets::stream(stage, contestant, (Path::Receive, MIX), stage.duration)?;
    let mut entries = Vec::new();
    let mut path = std::path::PathBuf::new();
    if let Disturbance::Nodes(_) = disturbance {
        let file = stage.bed.nodes_file(&contestant.pair)?;
        (entries, path) = (file.entries.clone(), file.path().to_owned());
    }
    let Stage { bed, generator, duration } = stage;
    let (bed, duration) = (&**bed, *duration);
    let pair = bed.pair(&contestant.pair)?;
    let over = AtomicBool::new(false);
    let (stream, changes) = thread::scope(|scope| {
        let disturber = scope.spawn(|| match disturbance {
            Disturbance::Nodes(rate) => change_nodes(&mut NodesFile::at(path, entries), rate, &over),
            Disturbance::Pods(rate) => change_pods(pair, rate, &over),
        });
        let stream = packets::stream_on(bed, generator, contestant, (Path::Receive, MIX), duration);
        over.store(true, Ordering::Relaxed);
        (stream, crate::probe::ended(disturber.join()))
    });
    Ok(vec![per_second(&calm), per_second(&stream?), changes?])
}

/// By the clock: the agent's own work on the other core is not the packets'.
#[expect(clippy::cast_precision_loss, reason = "a rate to be read by a person")]
fn per_second(stream: &Stream) -> f64 {
    stream.received as f64 / stream.time.wall.as_secs_f64()
}

/// Gives nodes that do not exist other pod networks, so many a second, until it is over; then all is as before.
fn change_nodes(file: &mut NodesFile, rate: u32, over: &AtomicBool) -> anyhow::Result<f64> {
    let original = file.entries.clone();
    let each = rate / WRITES_PER_SECOND;
    let far: Vec<FarNode> = FarNode::first(2 * rate).collect();
    let (these, those) = far.split_at(rate as usize);
    // The same names and addresses, now with these pod networks, now with those.
    let entry = |index: usize, moved: bool| -> NodeEntry {
        let network = if moved { those[index].pod_cidr() } else { these[index].pod_cidr() };
        NodeEntry { pod_cidr: Some(network.to_string()), ..these[index].entry() }
    };
    let mut moved = vec![false; rate as usize];
    let (start, mut changes, mut due) = (Instant::now(), 0, Instant::now());
    while !over.load(Ordering::Relaxed) {
        for offset in changes..changes + each as usize {
            let index = offset % moved.len();
            moved[index] = !moved[index];
        }
        changes += each as usize;
        file.entries = original.iter().cloned().chain((0..moved.len()).map(|index| entry(index, moved[index]))).collect();
        file.write_atomic()?;
        due += Duration::from_secs(1) / WRITES_PER_SECOND;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    let rate = rate_of(changes, start);
    file.entries = original;
    file.write_atomic()?;
    Ok(rate)
}

/// Wires pods to the second node and takes them away again, so many a second, until it is over.
fn change_pods(pair: &Pair, rate: u32, over: &AtomicBool) -> anyhow::Result<f64> {
    let Side::Ours(node) = &pair.b else { bail!("{} has no pods of ours", pair.id) };
    let pods = pod::create(&node.name, node.pod_cidr, FIRST_POD, POOL)?;
    let (start, mut changes, mut due) = (Instant::now(), 0, Instant::now());
    let mut wired: Vec<&Pod> = Vec::new();
    let result = loop {
        if over.load(Ordering::Relaxed) {
            break Ok(rate_of(changes, start));
        }
        if let Err(error) = one_change(node, &pods[changes % POOL], &mut wired) {
            break Err(error);
        }
        changes += 1;
        due += Duration::from_secs(1) / rate;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    };
    wired.into_iter().try_for_each(|pod| node.unwire_pod(pod))?;
    result
}

/// One pod comes; the one that has been there longest goes.
fn one_change<'pods>(node: &Node, pod: &'pods Pod, wired: &mut Vec<&'pods Pod>) -> anyhow::Result<()> {
    if wired.len() == POOL {
        node.unwire_pod(wired.remove(0))?;
    }
    node.wire_pod(pod)?;
    wired.push(pod);
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a count of changes")]
fn rate_of(changes: usize, since: Instant) -> f64 {
    changes as f64 / since.elapsed().as_secs_f64()
}
