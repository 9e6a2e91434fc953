//! A pod's network as a container runtime asks for it: ADD and DEL of the CNI plugin of each system, timed from outside.
//!
//! Ours gives addresses itself. On a node with a bridge it is the reference plugin `bridge` with `host-local`, configured as flannel's
//! plugin configures the delegate it calls; flannel's own process before it is left out. On a node with routes it is `ptp` with
//! `host-local`. What they write down is on the same tmpfs for all. Nothing a sample made is there after it: that is checked.

use super::{Contestant, Stage, traffic};
use crate::bench::bed::{Pair, Side, far};
use crate::cni::{self, Container, Reply, Runtime};
use crate::netns::Ns;
use crate::probe::ping;
use crate::sandbox;
use anyhow::{Context as _, bail, ensure};
use ipnet::Ipv4Net;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Pods of a sample at least: their median is the sample.
const FEWEST: usize = 5;
/// Pods of a sample at most: their namespaces stay until its end.
const MOST: usize = 50;

/// Seconds of an ADD and of a DEL: medians of the sample's pods.
pub(super) fn add_del(stage: &mut Stage<'_>, contestant: &Contestant) -> anyhow::Result<Vec<f64>> {
    let site = Site::new(stage.bed.pair(&contestant.pair)?)?;
    let before = site.traces()?;
    let times = site.sample(stage.duration)?;
    let after = site.traces()?;
    let left: Vec<_> = after.symmetric_difference(&before).collect();
    ensure!(left.is_empty(), "after as many DEL as ADD these differ: {left:?}");
    let [add, del] = [0, 1].map(|verb| median(times.iter().map(|pair| pair[verb]).collect()));
    Ok(vec![add, del])
}

/// The node the plugin is called on.
struct Site<'bed> {
    pair: &'bed Pair,
    runtime: Runtime<'bed>,
    config: Value,
    /// Where the addresses given out are written down.
    leases: PathBuf,
}

impl<'bed> Site<'bed> {
    fn new(pair: &'bed Pair) -> anyhow::Result<Self> {
        let side = &pair.b;
        let mut runtime = Runtime::new(side.ns())?;
        let directory = Path::new(sandbox::ROOT).join(side.name()).join("leases");
        let (mut config, leases) = match side {
            Side::Ours(node) => {
                if let Some(build) = &node.config.binary {
                    build.parent().context("a program is in a directory")?.clone_into(&mut runtime.path[0]);
                }
                let mut config = cni::overlay(&node.config.bpffs, &directory);
                let (first, last) = free(node.pod_cidr);
                config["ipam"] = json!({ "ranges": [format!("{first}-{last}")] });
                (config, directory)
            }
            // kube-flannel.yml has hairpinMode and isDefaultGateway; flannel's plugin adds the rest, the route to the cluster too.
            Side::Flannel(node) => {
                let config = json!({
                    "type": "bridge", "bridge": "cni0", "mtu": side.ns().mtu("cni0")?, "isGateway": true, "isDefaultGateway": true,
                    "hairpinMode": true, "ipMasq": false, "ipam": host_local(node.pod_cidr, far::cluster(), &directory),
                });
                (config, directory.join(NETWORK))
            }
            Side::Routes(node) => {
                let ipam = host_local(node.pod_cidr, Ipv4Net::default(), &directory);
                (json!({ "type": "ptp", "mtu": side.ns().mtu(side.nic())?, "ipMasq": false, "ipam": ipam }), directory.join(NETWORK))
            }
            Side::Bare(_) => bail!("pods on the underlay have no plugin"),
        };
        config["cniVersion"] = "1.0.0".into();
        config["name"] = NETWORK.into();
        Ok(Self { pair, runtime, config, leases })
    }

    /// Pods come and go one after the other until the time is over; what each took. The first one is not counted: it has to be reached
    /// from the other node.
    fn sample(&self, duration: Duration) -> anyhow::Result<Vec<[Duration; 2]>> {
        let (start, mut times) = (Instant::now(), Vec::new());
        // All go at the end: the kernel takes a namespace apart behind one's back, holding the lock that the next ADD waits for.
        let mut namespaces = Vec::new();
        while times.len() <= FEWEST || (start.elapsed() < duration && times.len() <= MOST) {
            let number = times.len();
            let ns = Ns::create(format!("{}-cni-{number}", self.pair.b.name()))?;
            let container = Container::new(ns.name(), &ns);
            let added = self.add(&container, number == 0);
            let (reply, del) = self.call("DEL", &container, added.as_ref().ok().map(|(result, _)| result))?;
            // After a failure too a runtime deletes; but the first failure is the cause.
            let (_, add) = added?;
            reply.nothing().context("DEL")?;
            times.push([add, del]);
            namespaces.push(ns);
        }
        Ok(times.split_off(1))
    }

    fn add(&self, container: &Container, ask: bool) -> anyhow::Result<(Value, Duration)> {
        let (reply, time) = self.call("ADD", container, None)?;
        let result = reply.result().context("ADD")?;
        if ask {
            let address = result["ips"][0]["address"].as_str().and_then(|text| text.split('/').next()?.parse::<Ipv4Addr>().ok());
            let address = address.with_context(|| format!("ADD gave no address: {result}"))?;
            let client = traffic::pod(&self.pair.a, 0)?;
            ensure!(ping::once(&client.ns, address)?.is_some(), "the new pod does not answer {}", client.name);
        }
        Ok((result, time))
    }

    fn call(&self, verb: &str, container: &Container, result: Option<&Value>) -> anyhow::Result<(Reply, Duration)> {
        let mut config = self.config.clone();
        if let Some(result) = result {
            config["prevResult"] = result.clone();
        }
        self.runtime.timed(&self.runtime.prepare(verb, container, &config))
    }

    /// The node's devices, and the addresses that are given out.
    fn traces(&self) -> anyhow::Result<BTreeSet<String>> {
        let links: Value = serde_json::from_str(&self.runtime.node.ip("-json link show")?)?;
        let names = links.as_array().into_iter().flatten().map(|link| link["ifname"].to_string());
        let mut traces: BTreeSet<String> = names.collect();
        for entry in fs::read_dir(&self.leases).into_iter().flatten() {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.parse::<Ipv4Addr>().is_ok() {
                // One file for each address: host-local.
                traces.insert(name);
            } else if name.starts_with("pods-") {
                // One file for all: ours.
                let state: Value = serde_json::from_slice(&fs::read(entry.path())?).with_context(|| name.clone())?;
                let pods = state["pods"].as_array().with_context(|| format!("{name} lists no pods"))?;
                traces.extend(pods.iter().map(|pod| pod["address"].to_string()));
            }
        }
        Ok(traces)
    }
}

/// Name of the network.
const NETWORK: &str = "bench";

/// Addresses of a node that its pods on the bed do not have: the upper half.
fn free(pods: Ipv4Net) -> (Ipv4Addr, Ipv4Addr) {
    let [first, last] = [pods.network(), pods.broadcast()].map(Ipv4Addr::to_bits);
    (Ipv4Addr::from_bits(first + (last - first) / 2 + 1), Ipv4Addr::from_bits(last - 1))
}

/// Addresses from `pods`, which the pod uses to go `to`.
fn host_local(pods: Ipv4Net, to: Ipv4Net, directory: &Path) -> Value {
    let (first, last) = free(pods);
    let ranges = json!([[{ "subnet": pods, "rangeStart": first, "rangeEnd": last }]]);
    json!({ "type": "host-local", "dataDir": directory, "ranges": ranges, "routes": [{ "dst": to }] })
}

/// In seconds.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, Duration::as_secs_f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_half_of_a_network_is_free() {
        let pods = |network: [u8; 4], len: u8| Ipv4Net::new_assert(network.into(), len);
        assert_eq!(free(pods([10, 244, 1, 0], 24)), (Ipv4Addr::new(10, 244, 1, 128), Ipv4Addr::new(10, 244, 1, 254)));
        assert_eq!(free(pods([10, 224, 8, 0], 21)), (Ipv4Addr::new(10, 224, 12, 0), Ipv4Addr::new(10, 224, 15, 254)));
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median([9, 1, 3].map(Duration::from_secs).to_vec()) - 3.0).abs() < f64::EPSILON);
    }
}
