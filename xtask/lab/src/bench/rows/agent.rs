//! The agent itself as rows: how soon it has packets flowing, what a large cluster costs it.

use super::{Contestant, Stage, memory, start};
use crate::bench::bed::{Pair, Side};
use crate::node::Node;
use anyhow::{Context as _, bail};

/// Number of the node that follows a made-up cluster: one that no pair has.
const LONE_NODE: u8 = 239;

/// Start to first packet with nothing pinned, the programs' part of it; start to ready with everything pinned, the programs' part, and
/// datagrams lost meanwhile.
pub(super) fn start(stage: &mut Stage<'_>, contestant: &Contestant) -> anyhow::Result<Vec<f64>> {
    let pair = stage.bed.pair_mut(&contestant.pair)?;
    let pods = pair.b.pods().len();
    let measured = both(pair);
    // A cold start has taken all but one away.
    pair.b.add_pods(pods.saturating_sub(pair.b.pods().len()))?;
    measured
}

fn both(pair: &mut Pair) -> anyhow::Result<Vec<f64>> {
    let Pair { a: Side::Ours(prober), b: Side::Ours(node), .. } = pair else { bail!("{} has no agent", pair.id) };
    let cold = start::cold(prober, node)?;
    let warm = start::warm(prober, node)?;
    let load = |start: &start::Start, node: &Node| {
        start.load.with_context(|| format!("the agent does not say how long loading took: {}", node.log_tail()))
    };
    let (_, lost) = warm.silence.context("nobody looked for silence")?;
    #[expect(clippy::cast_precision_loss, reason = "a count of datagrams of one second")]
    let lost = lost as f64;
    Ok(vec![cold.first_packet.context("no first packet")?, load(&cold, node)?, warm.ready, load(&warm, node)?, lost])
}

/// Bytes of all maps, of the agent, and the seconds until so many nodes are in place.
pub(super) fn memory(stage: &mut Stage<'_>, nodes: usize) -> anyhow::Result<Vec<f64>> {
    if let Some(why) = memory::too_large(nodes) {
        bail!(why);
    }
    let footprint = memory::measure(&stage.bed.underlay, LONE_NODE, nodes)?;
    #[expect(clippy::cast_precision_loss, reason = "bytes of one process and one kernel")]
    let bytes = |bytes: u64| bytes as f64;
    Ok(vec![bytes(footprint.map_bytes()), bytes(footprint.agent_bytes), footprint.settle])
}
