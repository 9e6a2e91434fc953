//! Small packets as fast as one core can: the generator at one end, sinks at the other.

use super::traffic::{self, Traffic};
use super::{Contestant, Limit, Stage};
use crate::bench::bed::{Bed, Pair};
use crate::bench::generator::{Generator, Stream};
use crate::bench::work::{Mix, Path};
use crate::underlay::Underlay;
use anyhow::ensure;
use std::time::Duration;

/// Measures one contender: packets per second and core, nanoseconds per packet.
pub(super) fn measure(stage: &mut Stage<'_>, contestant: &Contestant, path: Path, mix: Mix) -> anyhow::Result<Vec<f64>> {
    let duration = stage.duration;
    let stream = stream(stage, contestant, (path, mix), duration)?;
    ensure!(stream.received > 0, "none of {} packets arrived", stream.sent);
    Ok(vec![stream.per_core(), stream.nanoseconds_per_packet()])
}

/// Sends one stream.
pub(super) fn stream(stage: &mut Stage<'_>, contestant: &Contestant, work: (Path, Mix), duration: Duration) -> anyhow::Result<Stream> {
    stream_on(stage.bed, stage.generator, contestant, work, duration)
}

/// As [`stream`], on a bed that others look at meanwhile. Sinks and limits are taken off again, whatever happens.
pub(super) fn stream_on(
    bed: &Bed,
    generator: &mut Generator,
    contestant: &Contestant,
    work: (Path, Mix),
    duration: Duration,
) -> anyhow::Result<Stream> {
    let pair = bed.pair(&contestant.pair)?;
    let traffic = Traffic::new(&bed.underlay, pair, work)?;
    let result = attach(generator, &bed.underlay, pair, (contestant.limit, work)).and_then(|()| traffic.run(generator, duration));
    generator.detach_all()?;
    result
}

/// Puts the sinks, or the limit, where the packets come to.
fn attach(
    generator: &mut Generator,
    underlay: &Underlay,
    pair: &Pair,
    (limit, (path, mix)): (Option<Limit>, (Path, Mix)),
) -> anyhow::Result<()> {
    let (node, nic) = (pair.b.ns(), pair.b.nic());
    match (limit, path) {
        (Some(Limit::XdpDrop), _) => generator.drop_at(node, nic),
        (Some(Limit::TcDrop), _) => generator.sink_at(node, nic),
        (Some(Limit::XdpRedirect), _) => {
            let pod = traffic::pod(&pair.b, 0)?;
            // Frames can be redirected out of a veth only if its other end has NAPI.
            pod.ns.run("ethtool", "-K eth0 gro on")?;
            generator.redirect_at(node, nic, &pod.host_interface)?;
            generator.sink_at(&pod.ns, "eth0")
        }
        (None, Path::Receive) => pair.b.pods().iter().take(mix.pods).try_for_each(|pod| generator.sink_at(&pod.ns, "eth0")),
        (None, Path::Send | Path::Service) => generator.sink_at(&underlay.router, &pair.a.router_port()),
        (None, Path::Answers) => generator.sink_at(&traffic::pod(&pair.a, 0)?.ns, "eth0"),
        (None, Path::Local) => generator.sink_at(&traffic::pod(&pair.b, 1)?.ns, "eth0"),
    }
}
