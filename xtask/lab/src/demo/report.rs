//! What the demo found, as data: printed as JSON as it is, and as tables by [`super::render`].

use serde::Serialize;
use serde_json::Value;

/// Everything the demo found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Whether every cell worked.
    pub ok: bool,
    /// From start to end.
    pub seconds: f64,
    /// What lies between the nodes.
    pub underlay: String,
    /// MTU of the underlay, in bytes.
    pub mtu: u32,
    /// What our nodes' pods are.
    pub runtime: String,
    /// Where the agents got the nodes from.
    pub source: String,
    /// Who is who.
    pub nodes: Vec<NodeReport>,
    /// Every pod pings every other pod.
    pub pods: Vec<Cell>,
    /// Every node pings every pod.
    pub hosts: Vec<Cell>,
    /// A bulk transfer between pods of different nodes.
    pub transfer: TransferReport,
    /// Maps of the first node, as `bpftool` prints them.
    pub maps: Vec<MapReport>,
    /// A node leaves and returns.
    pub departure: Departure,
}

/// One node.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NodeReport {
    /// Its name.
    pub name: String,
    /// What runs there.
    pub kind: &'static str,
    /// Address on the underlay.
    pub address: String,
    /// Network of its pods.
    pub pod_cidr: String,
    /// Address of the host inside the overlay.
    pub gateway: String,
    /// MAC of its tunnel end.
    pub vtep_mac: String,
    /// The rung it receives by.
    pub receive: String,
    /// Why that one.
    pub receive_reason: String,
    /// Names and addresses of its pods.
    pub pods: Vec<PodReport>,
}

/// One pod.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PodReport {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// MTU of its interface, in bytes.
    pub mtu: u32,
}

/// One cell of a matrix: who pinged whom and what came back.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Cell {
    /// Who asked.
    pub from: String,
    /// Who was asked.
    pub to: String,
    /// Echo requests sent.
    pub sent: u32,
    /// Echo replies received.
    pub received: u32,
    /// Round trip of the last reply.
    pub rtt_ms: Option<f64>,
    /// What ping complained of.
    pub errors: Vec<String>,
}

impl Cell {
    /// Whether every request was answered.
    pub(super) fn ok(&self) -> bool {
        self.received == self.sent
    }
}

/// A bulk transfer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TransferReport {
    /// The pod that sent.
    pub from: String,
    /// The pod that received, and compared every byte.
    pub to: String,
    /// Bytes transferred.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// Payload per second.
    pub gbit_per_second: f64,
    /// Why it failed.
    pub error: Option<String>,
}

/// A map of a node.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MapReport {
    /// The node.
    pub node: String,
    /// The map.
    pub map: String,
    /// The command an operator would type.
    pub command: String,
    /// Its entries, with the field names the kernel knows.
    pub entries: Vec<Value>,
}

/// A node is taken out of the list of nodes and put back.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Departure {
    /// The node.
    pub node: String,
    /// Until no other node had it in its maps.
    pub forgotten_after_ms: Option<f64>,
    /// Pings to its pod while it was forgotten: none may be answered.
    pub while_away: Vec<Cell>,
    /// Until every other node had it again.
    pub returned_after_ms: Option<f64>,
    /// Pings to its pod afterwards.
    pub afterwards: Vec<Cell>,
}

impl Report {
    /// Whether every cell worked.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.failures() == 0
    }

    /// How many findings are bad.
    pub(super) fn failures(&self) -> usize {
        let cells = self.pods.iter().chain(&self.hosts).chain(&self.departure.afterwards).filter(|cell| !cell.ok()).count();
        let away = self.departure.while_away.iter().filter(|cell| cell.received > 0).count();
        let waits = [self.departure.forgotten_after_ms, self.departure.returned_after_ms].iter().filter(|wait| wait.is_none()).count();
        cells + away + waits + usize::from(self.transfer.error.is_some())
    }
}
