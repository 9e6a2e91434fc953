//! The nodes file: a `NodeList` exactly as `kubectl get nodes -o yaml` prints it, with everything a real cluster's nodes carry.
//!
//! It is the agents' only source in the lab. Tests change it in every way an operator's tools would: replaced atomically, edited in place,
//! written half.

use anyhow::Context as _;
use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// When the lab's nodes were created, all at once.
const CREATED: &str = "2026-11-02T09:14:07Z";

/// One node of the list: what differs from node to node. A text and not a parsed type where a test wants to write nonsense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEntry {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.creationTimestamp`.
    pub created: String,
    /// `status.addresses`, type `InternalIP`; none: the node has only a host name.
    pub address: Option<Ipv4Addr>,
    /// `spec.podCIDR` and `spec.podCIDRs`; none: not assigned yet.
    pub pod_cidr: Option<String>,
    /// `metadata.annotations` beside those every node has, value as YAML.
    pub annotations: Vec<(String, String)>,
}

impl NodeEntry {
    /// A node without annotations of its own.
    #[must_use]
    pub fn new(name: &str, address: Ipv4Addr, pod_cidr: &dyn ToString) -> Self {
        Self {
            name: name.to_owned(),
            created: CREATED.to_owned(),
            address: Some(address),
            pod_cidr: Some(pod_cidr.to_string()),
            annotations: Vec::new(),
        }
    }

    /// The item as `kubectl` prints it in a list. `serial` makes uid, machine id and version differ from other items.
    fn render(&self, serial: usize) -> String {
        let mut annotations = String::new();
        for (key, value) in &self.annotations {
            let _ = writeln!(annotations, "      {key}: {value}");
        }
        let spec = match &self.pod_cidr {
            Some(cidr) => format!("    podCIDR: {cidr}\n    podCIDRs:\n    - {cidr}"),
            // What kubectl prints for an empty object.
            None => "    {}".to_owned(),
        };
        let address = self.address.map_or_else(String::new, |address| format!("    - address: {address}\n      type: InternalIP\n"));
        include_str!("node.yaml")
            .replace("{{annotations}}\n", &annotations)
            .replace("{{name}}", &self.name)
            .replace("{{created}}", &self.created)
            .replace("{{version}}", &(48_213 + serial).to_string())
            .replace("{{serial}}", &format!("{serial:012x}"))
            .replace("{{spec}}", &spec)
            .replace("{{addresses}}\n", &address)
            // An empty object stands on its key's line.
            .replace("spec:\n    {}", "spec: {}")
    }
}

/// The list as `kubectl get nodes -o yaml` prints it.
#[must_use]
pub fn render(entries: &[NodeEntry]) -> String {
    if entries.is_empty() {
        return "apiVersion: v1\nitems: []\nkind: List\nmetadata:\n  resourceVersion: \"\"\n".to_owned();
    }
    let items: String = entries.iter().enumerate().map(|(index, entry)| entry.render(index + 1)).collect();
    format!("apiVersion: v1\nitems:\n{items}kind: List\nmetadata:\n  resourceVersion: \"\"\n")
}

/// The file and what it should say.
#[derive(Debug)]
pub struct NodesFile {
    path: PathBuf,
    /// The nodes; a change reaches the file with one of the `write` functions.
    pub entries: Vec<NodeEntry>,
}

impl NodesFile {
    /// A file that does not exist yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, entries: Vec::new() }
    }

    /// A file that is there already, and what it says.
    #[must_use]
    pub fn at(path: PathBuf, entries: Vec<NodeEntry>) -> Self {
        Self { path, entries }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The entry of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn entry(&mut self, name: &str) -> anyhow::Result<&mut NodeEntry> {
        self.entries.iter_mut().find(|entry| entry.name == name).with_context(|| format!("no node {name} in the nodes file"))
    }

    /// Takes an entry out of the list; the file is not written.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn take(&mut self, name: &str) -> anyhow::Result<NodeEntry> {
        let position =
            self.entries.iter().position(|entry| entry.name == name).with_context(|| format!("no node {name} in the nodes file"))?;
        Ok(self.entries.remove(position))
    }

    /// Replaces the file in one step, as `kubectl … > new && mv new nodes.yaml` does.
    ///
    /// # Errors
    /// The file system says no.
    pub fn write_atomic(&self) -> anyhow::Result<()> {
        let new = self.path.with_extension("new");
        fs::write(&new, render(&self.entries)).with_context(|| format!("write {}", new.display()))?;
        fs::rename(&new, &self.path).with_context(|| format!("replace {}", self.path.display()))
    }

    /// Empties the file and writes it anew, as an editor or `kubectl … > nodes.yaml` does: a reader may see it empty or half.
    ///
    /// # Errors
    /// The file system says no.
    pub fn write_in_place(&self) -> anyhow::Result<()> {
        self.write_raw(&render(&self.entries))
    }

    /// Writes any text into the file, in place.
    ///
    /// # Errors
    /// The file system says no.
    pub fn write_raw(&self, text: &str) -> anyhow::Result<()> {
        fs::write(&self.path, text).with_context(|| format!("write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_placeholder_is_filled() {
        let mut flannel = NodeEntry::new("node-1", Ipv4Addr::new(192, 168, 50, 11), &"10.244.1.0/24");
        flannel.annotations.push(("flannel.alpha.coreos.com/backend-type".to_owned(), "vxlan".to_owned()));
        let bare = NodeEntry { address: None, pod_cidr: None, ..NodeEntry::new("node-2", Ipv4Addr::LOCALHOST, &"") };
        let text = render(&[flannel, bare]);
        assert!(!text.contains("{{"), "{text}");
        assert!(text.contains("\n      flannel.alpha.coreos.com/backend-type: vxlan\n      node.alpha"), "{text}");
        assert!(text.contains("\n    podCIDR: 10.244.1.0/24\n    podCIDRs:\n    - 10.244.1.0/24\n  status:\n"), "{text}");
        assert!(text.contains("\n    - address: 192.168.50.11\n      type: InternalIP\n    - address: node-1\n"), "{text}");
        assert!(text.contains("\n  spec: {}\n  status:\n    addresses:\n    - address: node-2\n      type: Hostname\n"), "{text}");
    }
}
