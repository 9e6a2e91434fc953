//! A pod: a namespace with one interface. [`wire`] is the only place that knows how our nodes connect theirs.

use crate::netns::Ns;
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

/// Connects a pod to one of our nodes, with the code the CNI plugin uses. Returns the name of the host's end.
///
/// # Errors
/// What `overlay_agent::pod` says.
pub(crate) fn wire(node: &Ns, bpffs: &Path, name: &str, pod: &Ns, address: Ipv4Addr) -> anyhow::Result<String> {
    let _ = (node, bpffs, name, pod, address);
    anyhow::bail!("overlay_agent::pod is not part of this build")
}

/// Undoes [`wire`].
///
/// # Errors
/// What `overlay_agent::pod` says.
pub(crate) fn unwire(node: &Ns, bpffs: &Path, host_interface: &str) -> anyhow::Result<()> {
    let _ = (node, bpffs, host_interface);
    anyhow::bail!("overlay_agent::pod is not part of this build")
}
