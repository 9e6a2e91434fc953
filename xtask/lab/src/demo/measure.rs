//! The measurements of the demo, in the order they are shown.

use super::progress::Progress;
use super::report::{Cell, Departure, MapReport, NodeReport, PodReport, Report, TransferReport};
use crate::bpf;
use crate::lab::{Endpoint, Lab};
use crate::node::Node;
use crate::pod::Pod;
use crate::probe::ping::Ping;
use crate::probe::tcp;
use anyhow::Context as _;
use ipnet::Ipv4Net;
use overlay_common::abi::map;
use std::thread;
use std::time::{Duration, Instant};

/// Echo requests per cell: more than one, so that a first packet lost to a cold neighbour table shows.
const PINGS: u32 = 3;

/// Size of the bulk transfer, in bytes.
const BULK: u64 = 512 << 20;

/// How long the other nodes may take to follow a change of the list of nodes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Measures everything the demo shows.
pub(super) fn everything(lab: &mut Lab, progress: &mut Progress) -> anyhow::Result<Report> {
    let mut report = Report { underlay: lab.underlay.kind.name().to_owned(), mtu: lab.underlay.mtu, ..Report::default() };
    report.runtime = runtime(lab)?;
    report.source = source(lab);
    report.nodes = who_is_who(lab)?;
    progress.step("every pod pings every pod");
    report.pods = matrix(&lab.pods(), &lab.pods())?;
    progress.step("every node pings every pod");
    report.hosts = matrix(&lab.hosts(), &lab.pods())?;
    progress.step("bulk transfer");
    report.transfer = transfer(lab)?;
    report.maps = maps(lab)?;
    report.departure = departure(lab, progress)?;
    report.ok = report.ok();
    Ok(report)
}

/// What our nodes' pods are, in a sentence.
fn runtime(lab: &Lab) -> anyhow::Result<String> {
    let Some(containerd) = lab.nodes.first().and_then(|node| node.runtime.as_deref()) else {
        return Ok("network namespaces, wired by the lab".to_owned());
    };
    Ok(format!("containers of {}, one instance on each node, wired by overlay-cni", containerd.version()?))
}

/// Where the agents got the nodes from, in a sentence.
fn source(lab: &Lab) -> String {
    match &lab.api {
        None => format!("the file {}", lab.nodes_file.path().display()),
        Some(api) => format!("the Kubernetes API at {}: listed, then watched", api.server.url()),
    }
}

fn who_is_who(lab: &Lab) -> anyhow::Result<Vec<NodeReport>> {
    let mut nodes = Vec::new();
    for node in &lab.nodes {
        let receive = node.agent_status()?.receive.with_context(|| format!("{} does not say how it receives", node.name))?;
        nodes.push(NodeReport {
            name: node.name.clone(),
            kind: "overlay-agent",
            address: node.address.to_string(),
            pod_cidr: node.pod_cidr.to_string(),
            gateway: node.gateway().to_string(),
            vtep_mac: node.vtep_mac(),
            receive: receive.mode,
            receive_reason: receive.reason,
            pods: pods(&node.pods)?,
        });
    }
    for node in &lab.foreign {
        nodes.push(NodeReport {
            name: node.name.clone(),
            kind: "kernel vxlan",
            address: node.address.to_string(),
            pod_cidr: node.pod_cidr.to_string(),
            gateway: node.gateway().to_string(),
            vtep_mac: node.vtep_mac.clone(),
            receive: "kernel".to_owned(),
            receive_reason: "foreign node: the kernel's vxlan as flannel sets it up".to_owned(),
            pods: pods(&node.pods)?,
        });
    }
    Ok(nodes)
}

fn pods(pods: &[Pod]) -> anyhow::Result<Vec<PodReport>> {
    pods.iter().map(|pod| Ok(PodReport { name: pod.name.clone(), address: pod.address.to_string(), mtu: pod.ns.mtu("eth0")? })).collect()
}

fn matrix(from: &[Endpoint<'_>], to: &[Endpoint<'_>]) -> anyhow::Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for from in from {
        for to in to.iter().filter(|to| to.name != from.name) {
            cells.push(cell(from, to)?);
        }
    }
    Ok(cells)
}

fn cell(from: &Endpoint<'_>, to: &Endpoint<'_>) -> anyhow::Result<Cell> {
    let pong = Ping { count: PINGS, ..Ping::default() }.run(from.ns, to.address)?;
    Ok(Cell {
        from: from.name.to_owned(),
        to: to.name.to_owned(),
        sent: PINGS,
        received: pong.received,
        rtt_ms: pong.rtt_ms,
        errors: pong.errors,
    })
}

/// From the first pod to the first pod of another node.
fn transfer(lab: &Lab) -> anyhow::Result<TransferReport> {
    let pods = lab.pods();
    let from = pods.first().context("no pod")?;
    let to = pods.iter().find(|to| to.node != from.node).context("no pod on another node")?;
    let mut report = TransferReport { from: from.name.to_owned(), to: to.name.to_owned(), ..TransferReport::default() };
    match tcp::transfer(from.ns, to.ns, to.address, BULK) {
        Ok(done) => {
            (report.bytes, report.seconds, report.gbit_per_second) = (done.bytes, done.seconds, done.gbit_per_second());
        }
        Err(error) => report.error = Some(format!("{error:#}")),
    }
    Ok(report)
}

fn maps(lab: &Lab) -> anyhow::Result<Vec<MapReport>> {
    let Some(node) = lab.nodes.first() else { return Ok(Vec::new()) };
    [map::SUBNETS, map::NODES]
        .into_iter()
        .map(|map| {
            let pins = node.pins();
            let command = format!("bpftool map dump pinned {}", pins.join("maps").join(map).display());
            Ok(MapReport { node: node.name.clone(), map: map.to_owned(), command, entries: bpf::dump(&pins, map)? })
        })
        .collect()
}

/// Takes the last of our nodes out of the list, and puts it back.
fn departure(lab: &mut Lab, progress: &mut Progress) -> anyhow::Result<Departure> {
    let node = lab.nodes.last().context("no node")?.name.clone();
    let pod_cidr = lab.nodes.last().context("no node")?.pod_cidr;
    progress.step(&format!("{node} leaves the cluster"));
    let start = Instant::now();
    let entry = lab.forget(&node)?;
    let forgotten = wait_known(lab, &node, pod_cidr, false, start)?;
    let while_away = pings_to(lab, &node, 1)?;
    progress.step(&format!("{node} returns"));
    let start = Instant::now();
    lab.recall(entry)?;
    let returned = wait_known(lab, &node, pod_cidr, true, start)?;
    let afterwards = pings_to(lab, &node, PINGS)?;
    Ok(Departure { node, forgotten_after_ms: forgotten, while_away, returned_after_ms: returned, afterwards })
}

/// Waits until every other node of ours has, or has not, the network in its `SUBNETS`; the time that took since `start`, in milliseconds.
fn wait_known(lab: &Lab, node: &str, pod_cidr: Ipv4Net, known: bool, start: Instant) -> anyhow::Result<Option<f64>> {
    while start.elapsed() < PATIENCE {
        let mut settled = true;
        for other in lab.nodes.iter().filter(|other| other.name != node) {
            settled &= knows(other, pod_cidr)? == known;
        }
        if settled {
            return Ok(Some(start.elapsed().as_secs_f64() * 1e3));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(None)
}

fn knows(node: &Node, pod_cidr: Ipv4Net) -> anyhow::Result<bool> {
    for entry in bpf::dump(&node.pins(), map::SUBNETS)? {
        if bpf::address(&entry["key"]["addr"])? == pod_cidr.network() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The first pod of every other node of ours pings the first pod of `node`.
fn pings_to(lab: &Lab, node: &str, count: u32) -> anyhow::Result<Vec<Cell>> {
    let pods = lab.pods();
    let target = pods.iter().find(|pod| pod.node == node).context("no pod")?;
    let mut cells = Vec::new();
    for other in lab.nodes.iter().filter(|other| other.name != node) {
        let from = pods.iter().find(|pod| pod.node == other.name).context("no pod")?;
        let pong = Ping { count, ..Ping::default() }.run(from.ns, target.address)?;
        let (from, to) = (from.name.to_owned(), target.name.to_owned());
        cells.push(Cell { from, to, sent: count, received: pong.received, rtt_ms: pong.rtt_ms, errors: pong.errors });
    }
    Ok(cells)
}
