//! A pod: a namespace with one interface, or a container that has it. How our nodes connect theirs, only this file knows.

use crate::command;
use crate::containerd::{Container, Containerd};
use crate::netns::Ns;
use anyhow::{Context as _, ensure};
use ipnet::Ipv4Net;
use overlay_agent::pod::PodRequest;
use serde_json::Value;
use std::net::Ipv4Addr;
use std::num::NonZero;
use std::path::Path;
use std::thread;

/// How many addresses at the start of a pod network are left to gateways and other plugins.
const RESERVED: u32 = 10;

/// A pod, of one of our nodes or of another's.
#[derive(Debug)]
pub struct Pod {
    // Dropped first: a container that ends takes its network along while its namespace still has a name.
    /// The container it is; none: there is only the namespace.
    pub container: Option<Container>,
    /// `<node>-pod-<number>`; also the name of its namespace.
    pub name: String,
    /// Where its processes would run.
    pub ns: Ns,
    /// Its address.
    pub address: Ipv4Addr,
    /// The host's end of its veth pair.
    pub host_interface: String,
}

/// A container's process that does nothing until it is ended.
const FOREVER: [&str; 2] = ["sleep", "2147483647"];

/// What `ip` is told to wire a pod: lines for `ip -batch`.
#[derive(Debug)]
pub(crate) struct Wire {
    /// On the node, where the veth pair is made.
    pub(crate) node: String,
    /// In the pod.
    pub(crate) pod: String,
}

/// The address of the `index`th pod, counted from 1, of a node: past the gateway and what other plugins hand out first.
///
/// # Errors
/// The network has no room for so many: a /24 has for 240.
pub fn address(pod_cidr: Ipv4Net, index: usize) -> anyhow::Result<Ipv4Addr> {
    let offset = RESERVED + u32::try_from(index)?;
    // The last five addresses are left alone, the broadcast address among them.
    ensure!(u64::from(offset) + 5 < 1 << (32 - pod_cidr.prefix_len()), "{pod_cidr} has no room for pod {index}");
    Ok(Ipv4Addr::from_bits(pod_cidr.network().to_bits() + offset))
}

/// Makes the next `count` pods of a node that has `present` already: their namespaces, not yet connected.
///
/// # Errors
/// The network has no room, or a namespace cannot be made.
pub(crate) fn create(node: &str, pod_cidr: Ipv4Net, present: usize, count: usize) -> anyhow::Result<Vec<Pod>> {
    let pod = |index: usize| {
        let (name, address) = (format!("{node}-pod-{index}"), address(pod_cidr, index)?);
        Ok(Pod { container: None, ns: Ns::create(&name)?, name, address, host_interface: format!("veth{index}") })
    };
    (present + 1..=present + count).map(pod).collect()
}

/// Starts the next pod of a node as a container; its address is the plugin's choice.
///
/// # Errors
/// What `ctr` says, the plugin's words among it.
pub(crate) fn start(node: &Ns, containerd: &Containerd, present: usize) -> anyhow::Result<Pod> {
    let name = format!("{}-pod-{}", node.name(), present + 1);
    let container = containerd.run(&name, &FOREVER)?;
    let ns = Ns::of_process(&name, container.pid())?;
    let listing: Value = serde_json::from_str(&ns.ip("-json -4 address show dev eth0")?)?;
    let address = listing[0]["addr_info"][0]["local"].as_str().with_context(|| format!("{name} has no address: {listing}"))?.parse()?;
    let links: Value = serde_json::from_str(&node.ip("-json link show")?)?;
    let other_end = links.as_array().into_iter().flatten().find(|link| link["ifindex"] == listing[0]["link_index"]);
    let host_interface = other_end.and_then(|link| link["ifname"].as_str()).context("the veth has no other end on the node")?.to_owned();
    Ok(Pod { container: Some(container), name, ns, address, host_interface })
}

/// Connects pods with `ip`: all the veth pairs in one go, then each pod's inside.
///
/// # Errors
/// `ip` fails: the message names the line.
pub(crate) fn connect(node: &Ns, pods: &[Pod], wire: impl Fn(&Pod) -> Wire) -> anyhow::Result<()> {
    let wires: Vec<(&Pod, Wire)> = pods.iter().map(|pod| (pod, wire(pod))).collect();
    let lines: String = wires.iter().map(|(_, wire)| wire.node.as_str()).collect();
    node.batch("ip", &lines).context("wire pods")?;
    in_parallel(&wires, |(pod, wire)| pod.ns.batch("ip", &wire.pod).with_context(|| format!("wire pod {}", pod.name)))
}

/// Connects a pod to one of our nodes: with the code the CNI plugin uses, or with that of another build, `wirer`, which knows how its
/// own maps look.
///
/// # Errors
/// What `overlay_agent::pod` says.
pub(crate) fn wire(node: &Ns, bpffs: &Path, pod: &Pod, (wirer, steer_flows): (Option<&Path>, bool)) -> anyhow::Result<()> {
    let namespace = pod.ns.path();
    let wired = if let Some(wirer) = wirer {
        let mut command = node.command(wirer);
        command.args(["wire", "--host-name", &pod.host_interface, "--pod-name", "eth0", "--address", &pod.address.to_string()]);
        command.args(steer_flows.then_some("--steer-flows"));
        command::run(command.arg("--bpffs").arg(bpffs).arg("--netns").arg(&namespace)).map(drop)
    } else {
        let request = PodRequest {
            host_name: &pod.host_interface,
            title: &pod.name,
            namespace: &namespace,
            pod_name: "eth0",
            address: pod.address,
            mac: None,
            steer_flows,
        };
        node.enter(|| overlay_agent::pod::wire(bpffs, &request))?.map(drop).map_err(Into::into)
    };
    wired.with_context(|| format!("wire pod {}", pod.name))
}

/// Undoes [`wire`] with this build's code.
///
/// # Errors
/// What `overlay_agent::pod` says.
pub(crate) fn unwire(node: &Ns, bpffs: &Path, pod: &Pod) -> anyhow::Result<()> {
    node.enter(|| overlay_agent::pod::unwire(bpffs, &pod.host_interface, Some(pod.address)))?
        .with_context(|| format!("unwire pod {}", pod.name))
}

/// Does the same for each of many things, on as many threads as the machine has processors. The first error counts.
pub(crate) fn in_parallel<T: Sync>(things: &[T], work: impl Fn(&T) -> anyhow::Result<()> + Sync) -> anyhow::Result<()> {
    let share = things.len().div_ceil(thread::available_parallelism().map_or(1, NonZero::get)).max(1);
    thread::scope(|scope| {
        let shares: Vec<_> = things.chunks(share).map(|share| scope.spawn(|| share.iter().try_for_each(&work))).collect();
        shares.into_iter().try_for_each(|share| share.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}
