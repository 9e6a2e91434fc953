//! What is kept of a pod.

use crate::cni::request::{Key, PodIdentity};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A pod that has an address of this node: from the moment the address is chosen, before anything is wired, until nothing of it is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRecord {
    /// Its address.
    pub address: Ipv4Addr,
    /// Id of its container.
    pub container_id: String,
    /// Name of the device in it.
    pub ifname: String,
    /// Name of the network it was added to.
    pub network: String,
    /// File of its network namespace.
    pub netns: PathBuf,
    /// Inode of that file when the pod was added: another one there now, and the namespace is gone. Zero: not known.
    pub netns_inode: u64,
    /// Name of the veth's end on the node.
    pub host_interface: String,
    /// Namespace of the pod in Kubernetes; empty if the runtime did not say.
    pub pod_namespace: String,
    /// Name of the pod in Kubernetes.
    pub pod_name: String,
    /// UID of the pod in Kubernetes.
    pub pod_uid: String,
    /// The plugin that gave the address.
    pub ipam: String,
    /// When it was added.
    pub since: Timestamp,
}

impl PodRecord {
    /// Which container and device it is.
    #[must_use]
    pub fn key(&self) -> Key {
        Key { container_id: self.container_id.clone(), ifname: self.ifname.clone() }
    }

    /// What a person calls the pod: `namespace/name`, or its container's id.
    #[must_use]
    pub fn title(&self) -> String {
        title(&self.container_id, &self.pod_namespace, &self.pod_name)
    }

    /// Whether its network namespace still is where it was when the pod was added.
    #[must_use]
    pub fn has_namespace(&self) -> bool {
        inode(&self.netns).is_some_and(|inode| self.netns_inode == 0 || inode == self.netns_inode)
    }
}

/// What a person calls a pod.
pub(crate) fn title(container_id: &str, namespace: &str, name: &str) -> String {
    if name.is_empty() { container_id.to_owned() } else { format!("{namespace}/{name}") }
}

impl PodIdentity {
    /// What a person calls the pod.
    #[must_use]
    pub fn title(&self, container_id: &str) -> String {
        title(container_id, &self.namespace, &self.name)
    }
}

/// Inode of the file of a namespace; none if there is no file.
pub(crate) fn inode(netns: &Path) -> Option<u64> {
    fs::metadata(netns).ok().map(|metadata| metadata.ino())
}
