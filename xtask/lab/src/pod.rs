//! A pod: a namespace with one interface. How our nodes connect theirs, only this file knows.

use crate::netns::Ns;
use anyhow::Context as _;
use overlay_agent::pod::PodRequest;
use std::net::Ipv4Addr;
use std::path::Path;

/// A pod, of one of our nodes or of a foreign one.
#[derive(Debug)]
pub struct Pod {
    /// `<node>-pod-<number>`; also the name of its namespace.
    pub name: String,
    /// Where its processes would run.
    pub ns: Ns,
    /// Its address.
    pub address: Ipv4Addr,
    /// The host's end of its veth pair.
    pub host_interface: String,
}

/// Connects a pod to one of our nodes, with the code the CNI plugin uses.
///
/// # Errors
/// What `overlay_agent::pod` says.
pub(crate) fn wire(node: &Ns, bpffs: &Path, pod: &Pod) -> anyhow::Result<()> {
    let namespace = pod.ns.path();
    let request = PodRequest { host_name: &pod.host_interface, namespace: &namespace, pod_name: "eth0", address: pod.address };
    node.enter(|| overlay_agent::pod::wire(bpffs, &request))?.with_context(|| format!("wire pod {}", pod.name)).map(drop)
}

/// Undoes [`wire`].
///
/// # Errors
/// What `overlay_agent::pod` says.
pub(crate) fn unwire(node: &Ns, bpffs: &Path, pod: &Pod) -> anyhow::Result<()> {
    node.enter(|| overlay_agent::pod::unwire(bpffs, &pod.host_interface))?.with_context(|| format!("unwire pod {}", pod.name))
}
