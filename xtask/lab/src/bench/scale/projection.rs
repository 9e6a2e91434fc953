//! What a measured size says of a cluster of 50,000 nodes: what the API server would have to send, what a node would hold, what would help.
//!
//! Proportions only, of figures that were measured; every one of them is in the text.

use super::measure::Figures;
use crate::bench::report::unit::apart;
use overlay_agent::model::ROUTE_PROTOCOL;
use overlay_common::abi;

/// The size that is asked about.
const NODES: f64 = 50_000.0;
/// Nodes an object of our own would tell of, as an `EndpointSlice` has 100 endpoints.
const SLICE: f64 = 100.0;
/// Bytes in such an object for a node: name, address, network, MAC, as JSON.
const ENTRY: f64 = 140.0;
/// Bytes of an object beside its entries: names, versions, managed fields.
const ENVELOPE: f64 = 1_000.0;
/// Agents that would share one relay.
const SHARING: f64 = 500.0;
/// The chapter, from its heading on.
#[expect(clippy::cast_precision_loss, reason = "bytes and counts, to be read by a person")]
pub(super) fn markdown(measured: &Figures) -> String {
    let factor = NODES / measured.nodes as f64;
    let [calm, busy] = &measured.heartbeats;
    // What an event costs on the wire, as it was and not as it should be.
    let event = calm.bytes_per_minute / 60.0 / calm.rate;
    let rate = NODES / calm.interval;
    let here = measured.nodes as f64 / calm.interval;
    let each = rate * event;
    let (list, entries) = (NODES * measured.node_bytes as f64, NODES / f64::from(abi::MAX_NODES) * 100.0);
    let slice = SLICE.mul_add(ENTRY, ENVELOPE);
    let list_of_slices = NODES / SLICE * slice;
    let metadata = measured.metadata_bytes as f64 / measured.node_bytes as f64;
    let [_, memory] = measured.memory;
    let own = memory.anonymous as f64;
    let largest_busy = busy.core * factor * 100.0;
    format!(
        "
## At 50,000 nodes

Computed from the column of {nodes} nodes by proportion; the maps alone are the same at every size, because they are allocated whole.

| What | {nodes} nodes | 50,000 nodes |
|---|--:|--:|
| heartbeats of all nodes, one in {minutes} minutes each | {here}/s | {rate}/s |
| sent to one agent | {here_each}/s | {each}/s |
| sent by the API servers to all agents: agents × events × size | {here_all}/s | {all}/s |
| the list, once per agent that starts | {here_list} | {list} |
| the lists when all agents start within 10 minutes | {here_lists}/s | {lists}/s |
| start to full map | {here_start} s | {start} s |
| memory of an agent of its own | {here_own} | {own} |
| processor of an agent | {here_core} % | {core} % of a core; {busy} % with a heartbeat in {seconds} s |
| entries of NODES and SUBNETS, of {most} | {here_entries} % | {entries} % |
| kernel memory of all maps | {maps} | {maps} |

The agent is not what ends first: it is what the API servers send. Heartbeats say nothing to an agent, and with whole Nodes watched by all
nodes their cost grows with the square of the cluster. What would change it, in the order we would do it:

1. **Metadata-only watches** (`PartialObjectMetadata`): each node publishes what others need as annotations, as flannel does, and agents
   follow metadata. That leaves out images, conditions and addresses: some {metadata} % of each event remains, mostly managed fields:
   {metadata_all}/s for all agents. A heartbeat is still an event.
2. **A relay**: one follower of the Nodes for every {sharing} agents tells them what changed of the {entry} bytes per node that they use, and
   nothing of heartbeats. The API servers then send {relays} × {each}/s = {relayed}/s, and a joining node costs each agent {entry} bytes
   in the place of {node}.
3. **Slices**: one writer keeps objects of {slice_nodes} nodes each, like EndpointSlices: {slices} objects of {slice}, {list_of_slices} for
   the whole list ({times} times less), and no event at all from heartbeats. One joining node is one object, {slice} to each agent:
   {joined} in all. It needs a writer that must not be away for long, and rights to write; agents need neither more rights nor a relay.

We would take slices beyond some 10,000 nodes, where all agents together are sent {here_all}/s today, with Nodes as what is fallen back to. A
peer's entry on a node is a route of its own (protocol {protocol}): 50,000 of them are no trouble to the kernel, whose look-up is by
prefix, and could be one route for the cluster's network where that is one network.
",
        nodes = apart(&measured.nodes.to_string()),
        minutes = calm.interval / 60.0,
        here = number(here),
        rate = number(rate),
        here_each = bytes(here * event),
        each = bytes(each),
        here_all = bytes(here * event * measured.nodes as f64),
        all = bytes(each * NODES),
        here_list = bytes(measured.list_bytes as f64),
        list = bytes(list),
        here_lists = bytes(measured.list_bytes as f64 * measured.nodes as f64 / 600.0),
        lists = bytes(list * NODES / 600.0),
        here_start = number(measured.start),
        start = number(measured.start * factor),
        here_own = bytes(own),
        own = bytes(own * factor),
        here_core = number(calm.core * 100.0),
        core = number(calm.core * factor * 100.0),
        busy = number(largest_busy),
        seconds = busy.interval,
        most = apart(&abi::MAX_NODES.to_string()),
        here_entries = number(measured.nodes as f64 / f64::from(abi::MAX_NODES) * 100.0),
        entries = number(entries),
        maps = bytes(measured.map_bytes as f64),
        metadata = number(metadata * 100.0),
        metadata_all = bytes(each * NODES * metadata),
        sharing = number(SHARING),
        entry = number(ENTRY),
        relays = number(NODES / SHARING),
        relayed = bytes(each * NODES / SHARING),
        node = bytes(measured.node_bytes as f64),
        slice_nodes = number(SLICE),
        slices = number(NODES / SLICE),
        slice = bytes(slice),
        list_of_slices = bytes(list_of_slices),
        times = number(list / list_of_slices),
        joined = bytes(slice * NODES),
        protocol = ROUTE_PROTOCOL,
    )
}

/// Three digits that count.
fn number(value: f64) -> String {
    let decimals = if value >= 100.0 { 0 } else { usize::from(value < 100.0) + usize::from(value < 10.0) };
    let text = format!("{value:.decimals$}");
    apart(if decimals > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text })
}

fn bytes(value: f64) -> String {
    let units = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    let unit = units.into_iter().find(|(size, _)| value >= *size);
    unit.map_or_else(|| format!("{value:.0} B"), |(size, name)| format!("{} {name}", number(value / size)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_count() {
        let shown = [0.5, 9.999, 33.33, 167.0, 50_000.0].map(number);
        assert_eq!(shown, ["0.5", "10", "33.3", "167", "50,000"]);
        assert_eq!([12.0, 9_800.0, 81_700_000_000.0].map(bytes), ["12 B", "9.8 kB", "81.7 GB"]);
    }
}
