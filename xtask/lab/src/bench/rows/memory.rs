//! What a large cluster costs one node: memory of the maps and of the agent, and the time until a new list is in place.
//!
//! A node of its own with a nodes file of its own follows a list of made-up nodes behind the router: one next hop for all of them, as in a
//! cluster whose nodes are routed. Nothing is ever sent to them.

use crate::agent::ReceiveMode;
use crate::bpf;
use crate::node::Node;
use crate::nodes::{NodeEntry, NodesFile};
use crate::probe::ping;
use crate::sandbox;
use crate::underlay::Underlay;
use anyhow::{Context as _, ensure};
use overlay_agent::datapath::{PinDir, Tables};
use overlay_agent::model::NeighbourState;
use overlay_agent::status::Status;
use overlay_common::abi;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Sizes of cluster that are asked about: a usual one, the largest that Kubernetes supports, and ten times that.
pub const SIZES: [usize; 3] = [100, 5_000, 50_000];
/// How long a list may take.
const PATIENCE: Duration = Duration::from_mins(5);
/// Pause between two looks at the status file's inode.
const LOOK: Duration = Duration::from_millis(5);

/// One size of cluster on one node.
#[derive(Clone, Debug, PartialEq)]
pub struct Footprint {
    /// Other nodes in the list.
    pub nodes: usize,
    /// Bytes of the list as a file.
    pub list_bytes: u64,
    /// Bytes of kernel memory each map takes, in the order of [`abi::map::ALL`].
    pub maps: Vec<(&'static str, u64)>,
    /// Resident memory of the agent afterwards, in bytes.
    pub agent_bytes: u64,
    /// The most it ever was, while the list was read for example, in bytes.
    pub agent_peak_bytes: u64,
    /// Seconds from the list's being in place until one pass had put every node, pod network and route into the kernel.
    pub settle: f64,
    /// Processor seconds the agent spent on that.
    pub processor: f64,
}

impl Footprint {
    /// Bytes of all maps.
    #[must_use]
    pub fn map_bytes(&self) -> u64 {
        self.maps.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// Why a cluster of this size cannot be measured, if it cannot.
#[must_use]
pub fn too_large(nodes: usize) -> Option<String> {
    (nodes > abi::MAX_NODES as usize)
        .then(|| format!("{nodes} nodes: not measured, the maps of this build hold {} (MAX_NODES)", abi::MAX_NODES))
}

/// Measures one size on a node made for it: `number` is one that no other node of the underlay has.
///
/// # Errors
/// A tool fails, or the agent cannot take the list: the message quotes its status and log.
pub fn measure(underlay: &Underlay, number: u8, nodes: usize) -> anyhow::Result<Footprint> {
    let directory = Path::new(sandbox::ROOT).join(format!("cluster-{number}"));
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    let mut file = NodesFile::new(directory.join("nodes.yaml"));
    let place = underlay.place(number);
    let mut node = Node::create(underlay, place, number, file.path(), ReceiveMode::Auto)?;
    file.entries.push(node.entry());
    file.write_atomic()?;
    // The next hop of all of them is known, so that no entry has to be written twice.
    ping::once(&node.ns, place.router)?;
    node.start_agent()?;
    let footprint = grow(&mut node, &mut file, nodes).with_context(|| format!("{nodes} nodes; {}'s log:\n{}", node.name, node.log_tail()));
    // Gone at once, and not when the kernel gets round to the namespace: the next node may have the same number.
    underlay.router.ip(&format!("link delete {}", Underlay::port(&node.name)))?;
    fs::remove_dir_all(&directory).with_context(|| format!("remove {}", directory.display()))?;
    footprint
}

fn grow(node: &mut Node, file: &mut NodesFile, nodes: usize) -> anyhow::Result<Footprint> {
    file.entries.extend((0..nodes).map(made_up));
    let process = Process(node.agent_pid()?);
    let before = process.processor_seconds()?;
    file.write_atomic()?;
    let settle = settled(node, nodes)?;
    let processor = process.processor_seconds()? - before;

    let tables = Tables::open(&PinDir::new(&node.config.bpffs))?;
    let held = (tables.nodes()?.len(), tables.subnets()?.len());
    ensure!(held == (nodes, nodes), "the agent is satisfied, but NODES and SUBNETS hold {held:?} entries");
    let pins = node.pins();
    Ok(Footprint {
        nodes,
        list_bytes: fs::metadata(file.path())?.len(),
        maps: abi::map::ALL.iter().map(|map| Ok((*map, bpf::bytes(&pins, map)?))).collect::<anyhow::Result<_>>()?,
        agent_bytes: process.status_bytes("VmRSS:")?,
        agent_peak_bytes: process.status_bytes("VmHWM:")?,
        settle: settle.as_secs_f64(),
        processor,
    })
}

/// The `index`th node that does not exist: an address from the network set aside for benchmarks (RFC 2544), a /24 from 10.0.0.0 on. The
/// lab's own nodes have theirs from 10.244.0.0 on.
fn made_up(index: usize) -> NodeEntry {
    let index = u32::try_from(index).expect("a list of nodes is not that long");
    assert!(index < 244 << 8, "the networks below 10.244.0.0 are used up");
    let address = Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 1).to_bits() + index);
    let network = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + (index << 8));
    NodeEntry::new(&format!("made-up-{index}"), address, &format!("{network}/24"))
}

/// Waits until the agent says that all of the list is in the kernel.
fn settled(node: &mut Node, nodes: usize) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let path = node.config.state_dir.join("status.json");
    let mut seen = 0;
    loop {
        // A new status is a new file; read only then, because reading thousands of peers costs the agent the processor.
        let inode = fs::metadata(&path).map_or(0, |metadata| metadata.ino());
        if inode != seen {
            seen = inode;
            let written = start.elapsed();
            if node.agent_status().is_ok_and(|status| is_settled(&status, nodes)) {
                return Ok(written);
            }
        }
        ensure!(start.elapsed() < PATIENCE, "not in place after {PATIENCE:?}: {}", summary(node));
        thread::sleep(LOOK);
    }
}

fn is_settled(status: &Status, nodes: usize) -> bool {
    let known = |peer: &overlay_agent::status::Peer| peer.next_hop_mac.is_some() && peer.next_hop_state != NeighbourState::Failed;
    status.peers.len() == nodes && status.peers.iter().all(known) && status.last_pass.as_ref().is_some_and(|pass| pass.errors.is_empty())
}

/// A status of thousands of peers in a line.
fn summary(node: &Node) -> String {
    node.agent_status().map_or_else(
        |error| format!("{error:#}"),
        |status| {
            let errors = status.last_pass.map(|pass| pass.errors).unwrap_or_default();
            let source = status.source.last_error.map(|error| error.message);
            format!("{} peers, {} errors, the first {:?}, source {source:?}", status.peers.len(), errors.len(), errors.first())
        },
    )
}

/// What `/proc` says of a process.
struct Process(u32);

impl Process {
    /// A line of `status` that ends in kB, in bytes.
    fn status_bytes(&self, field: &str) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/status", self.0);
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(field)).with_context(|| format!("{path} has no {field}"))?;
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().with_context(|| format!("{path}: {field}{line}"))?;
        Ok(kilobytes * 1024)
    }

    /// User and system time of all of its threads, to a hundredth of a second.
    fn processor_seconds(&self) -> anyhow::Result<f64> {
        // Ticks of /proc are hundredths on every architecture this runs on (USER_HZ).
        const TICKS: f64 = 100.0;
        let path = format!("/proc/{}/stat", self.0);
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        // The name in parentheses may hold anything; the state, field 3, follows it.
        let fields: Vec<&str> = text.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
        let ticks = |number: usize| fields.get(number - 3).and_then(|field| field.parse::<f64>().ok());
        Ok((ticks(14).zip(ticks(15)).map(|(user, system)| user + system).with_context(|| format!("{path} is {text:?}"))?) / TICKS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn made_up_nodes_differ_and_stay_out_of_the_labs_networks() {
        let entries: Vec<NodeEntry> = (0..50_000).map(made_up).collect();
        let addresses: BTreeSet<_> = entries.iter().filter_map(|entry| entry.address).collect();
        let networks: BTreeSet<_> = entries.iter().filter_map(|entry| entry.pod_cidr.clone()).collect();
        assert_eq!((addresses.len(), networks.len()), (50_000, 50_000));
        assert!(networks.iter().all(|network| !network.starts_with("10.244.")));
        assert!(addresses.iter().all(|address| ipnet::Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 15).contains(address)));
    }

    #[test]
    fn reads_its_own_process() {
        let process = Process(std::process::id());
        assert!(process.status_bytes("VmRSS:").unwrap() > 1 << 20);
        assert!(process.processor_seconds().unwrap() >= 0.0);
    }
}
