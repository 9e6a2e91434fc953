//! Traffic of ordinary sockets: streams, datagrams, requests, connections.

use super::{Contestant, Stage, service, traffic};
use crate::bench::bed::{Pair, far};
use crate::bench::work::{Between, Wire};
use crate::load::bulk::{self, BulkLoad};
use crate::load::connections::{self, ConnectionLoad};
use crate::load::datagrams::{self, DatagramLoad};
use crate::load::requests::{self, RequestLoad};
use crate::load::{Conditions, Latency};
use crate::netns::Ns;
use crate::probe::tcp::ServerAddress;
use std::net::SocketAddrV4;

/// Bytes of a response; the request has 64.
const RESPONSE: usize = 512;
/// Bytes of a datagram behind UDP segmentation offload: what fits an MTU of 1,450 with its headers.
const SEGMENT: u16 = 1_400;

/// Client, server, and where it is.
fn ends(pair: &Pair, between: Between) -> anyhow::Result<(&Ns, &Ns, ServerAddress)> {
    let there = traffic::pod(&pair.b, 0)?;
    let client = match between {
        Between::Pods | Between::Service => &traffic::pod(&pair.a, 0)?.ns,
        Between::SameNode => &traffic::pod(&pair.b, 1)?.ns,
        Between::HostAndPod => pair.a.ns(),
    };
    let place = match between {
        Between::Service => {
            let service = SocketAddrV4::new(service::address(pair)?, far::SERVICE_PORT);
            ServerAddress { listen: SocketAddrV4::new(there.address, far::BACKEND_PORT), service: Some(service) }
        }
        _ => there.address.into(),
    };
    Ok((client, &there.ns, place))
}

fn conditions(stage: &Stage<'_>) -> Conditions {
    Conditions { duration: stage.duration, ..Conditions::default() }
}

/// Throughput, CPU seconds per Gbit, retransmits per Gbit, spurious ones per Gbit.
pub(super) fn bulk(
    stage: &mut Stage<'_>,
    contestant: &Contestant,
    (between, wire): (Between, Wire),
    flows: usize,
) -> anyhow::Result<Vec<f64>> {
    let conditions = conditions(stage);
    let pair = stage.bed.pair(&contestant.pair)?;
    pair.set_offloads(&stage.bed.underlay, wire == Wire::SuperPackets)?;
    let (client, server, place) = ends(pair, between)?;
    let result = bulk::run(client, server, place, &BulkLoad { flows, conditions });
    pair.set_offloads(&stage.bed.underlay, true)?;
    let result = result?;
    let gbit = result.bits_per_second * result.cpu.wall.as_secs_f64() / 1e9;
    Ok(vec![result.bits_per_second, result.cpu_seconds_per_gbit(), count(result.retransmitted) / gbit, count(result.spurious) / gbit])
}

/// Goodput, CPU seconds per Gbit, losses per thousand.
pub(super) fn datagrams(stage: &mut Stage<'_>, contestant: &Contestant, wire: Wire) -> anyhow::Result<Vec<f64>> {
    let conditions = conditions(stage);
    let pair = stage.bed.pair(&contestant.pair)?;
    pair.set_offloads(&stage.bed.underlay, wire == Wire::SuperPackets)?;
    let (client, server, place) = ends(pair, Between::Pods)?;
    let result = datagrams::run(client, server, *place.listen.ip(), &DatagramLoad { segment: SEGMENT, conditions });
    pair.set_offloads(&stage.bed.underlay, true)?;
    let result = result?;
    Ok(vec![result.bits_per_second, result.cpu_seconds_per_gbit(), result.loss() * 1e3])
}

/// Requests per second and three percentiles, in nanoseconds; as fast as it goes, or at a rate.
pub(super) fn requests(
    stage: &mut Stage<'_>,
    contestant: &Contestant,
    between: Between,
    (connections, rate): (usize, Option<u32>),
) -> anyhow::Result<Vec<f64>> {
    let load = RequestLoad { connections, response: RESPONSE, rate, conditions: conditions(stage) };
    let (client, server, place) = ends(stage.bed.pair(&contestant.pair)?, between)?;
    let result = requests::run(client, server, place, &load)?;
    let [p50, p99, p999] = percentiles(&result.latency);
    Ok(vec![result.per_second, p50, p99, p999])
}

/// Connections per second.
pub(super) fn connections(stage: &mut Stage<'_>, contestant: &Contestant, between: Between, in_flight: usize) -> anyhow::Result<Vec<f64>> {
    let load = ConnectionLoad { in_flight, conditions: conditions(stage) };
    let (client, server, place) = ends(stage.bed.pair(&contestant.pair)?, between)?;
    Ok(vec![connections::run(client, server, place, &load)?.per_second])
}

fn percentiles(latency: &Latency) -> [f64; 3] {
    [50.0, 99.0, 99.9].map(|percent| latency.percentile(percent).as_secs_f64() * 1e9)
}

#[expect(clippy::cast_precision_loss, reason = "a count of packets of one second")]
fn count(number: u64) -> f64 {
    number as f64
}
