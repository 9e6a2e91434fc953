//! What each kind of work does. One function per kind, from a contender to one sample.

mod agent;
mod disturbed;
pub mod memory;
mod packets;
mod pods;
mod service;
mod sockets;
pub mod start;
mod traffic;

use super::bed::Bed;
use super::contender::{ContenderId, System};
use super::generator::Generator;
use super::work::Work;
use std::time::Duration;

/// What every row works with.
pub(super) struct Stage<'run> {
    /// The nodes.
    pub(super) bed: &'run mut Bed,
    /// Frames and sinks.
    pub(super) generator: &'run mut Generator,
    /// How long one sample takes.
    pub(super) duration: Duration,
}

/// Who is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contestant {
    /// What the report calls it.
    pub(super) name: String,
    /// The pair it runs on.
    pub(super) pair: ContenderId,
    /// Something smaller than a system, on that pair's second node.
    pub(super) limit: Option<Limit>,
}

/// The least that can be done with a packet: what no system can beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// Dropped by XDP at the NIC.
    XdpDrop,
    /// Dropped by TC at the NIC.
    TcDrop,
    /// Redirected by XDP into a pod, unchanged.
    XdpRedirect,
}

impl Limit {
    fn named(name: &str) -> Option<Self> {
        match name {
            "limit-xdp-drop" => Some(Self::XdpDrop),
            "limit-tc-drop" => Some(Self::TcDrop),
            "limit-xdp-redirect" => Some(Self::XdpRedirect),
            _ => None,
        }
    }
}

impl Contestant {
    /// By its name: a limit, or a contender.
    ///
    /// # Errors
    /// There is none of that name.
    pub(super) fn new(name: &str) -> anyhow::Result<Self> {
        let limit = Limit::named(name);
        // Limits are measured where there is nothing but veths and routes.
        let pair = if limit.is_some() { ContenderId::new(System::Routes) } else { name.parse()? };
        Ok(Self { name: name.to_owned(), pair, limit })
    }
}

/// What a row remembers from sample to sample.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Requests per second at half load.
    half_load: Option<u32>,
}

/// One sample: a value for each figure of the work, in their order.
///
/// # Errors
/// The contender cannot do the work, or does it wrong.
pub(super) fn measure(stage: &mut Stage<'_>, work: Work, contestant: &Contestant, memory: &mut Memory) -> anyhow::Result<Vec<f64>> {
    match work {
        Work::Packets(path, mix) => packets::measure(stage, contestant, path, mix),
        Work::Disturbed(disturbance) => disturbed::measure(stage, contestant, disturbance),
        Work::Bulk(between, wire, flows) => sockets::bulk(stage, contestant, (between, wire), flows),
        Work::Datagrams(wire) => sockets::datagrams(stage, contestant, wire),
        Work::Requests(between, connections) => sockets::requests(stage, contestant, between, (connections, None)),
        Work::HalfLoad(connections) => {
            let rate = half_load(stage, connections, memory)?;
            sockets::requests(stage, contestant, super::work::Between::Pods, (connections, Some(rate)))
        }
        Work::Connections(between, in_flight) => sockets::connections(stage, contestant, between, in_flight),
        Work::AddDel => pods::add_del(stage, contestant),
        Work::Start => agent::start(stage, contestant),
        Work::Memory(nodes) => agent::memory(stage, nodes),
    }
}

/// Half of what the reference can, measured once in the row and asked of everybody.
fn half_load(stage: &mut Stage<'_>, connections: usize, memory: &mut Memory) -> anyhow::Result<u32> {
    if let Some(rate) = memory.half_load {
        return Ok(rate);
    }
    let reference = Contestant::new(super::plan::REFERENCE)?;
    let sample = sockets::requests(stage, &reference, super::work::Between::Pods, (connections, None))?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is positive and far below four thousand million")]
    let rate = (sample[0] / 2.0) as u32;
    memory.half_load = Some(rate);
    Ok(rate)
}
