//! What the cases share: pods that only have a namespace, the plugin's configuration on a node, and a look at everything it may leave.

use anyhow::{Context as _, bail, ensure};
use overlay_agent::datapath::{PinDir, Tables};
use overlay_lab::bpf;
use overlay_lab::cni::{Conflist, Container, Runtime, overlay};
use overlay_lab::lab::{Endpoint, Role};
use overlay_lab::netns::Ns;
use overlay_lab::node::Node;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Name of the network.
pub(crate) const NETWORK: &str = "pods";

/// A container with a namespace of its own.
pub(crate) struct Guest {
    pub(crate) ns: Ns,
    pub(crate) container: Container,
}

impl Guest {
    /// A container on a node, wired to nothing yet.
    pub(crate) fn new(name: &str) -> anyhow::Result<Self> {
        let ns = Ns::create(name)?;
        let container = Container::new(format!("{name}-0123456789abcdef"), &ns);
        Ok(Self { ns, container })
    }

    /// This end of a conversation, with the address of an ADD's result.
    pub(crate) fn end<'a>(&'a self, node: &'a Node, result: &Value) -> anyhow::Result<Endpoint<'a>> {
        let address = address(result)?;
        Ok(Endpoint { name: self.ns.name(), role: Role::Pod, ns: &self.ns, address, overlay_address: address, node: &node.name })
    }
}

/// Where the plugin keeps the addresses of a node.
pub(crate) fn state_dir(node: &Node) -> PathBuf {
    node.runtime.as_ref().map_or_else(|| node.config.state_dir.join("ipam"), |containerd| containerd.place().addresses())
}

/// The plugin's own configuration on a node.
pub(crate) fn plugin(node: &Node) -> Value {
    overlay(&node.config.bpffs, &state_dir(node))
}

/// The plugin alone in a list.
pub(crate) fn alone(node: &Node, version: &str) -> Conflist {
    Conflist::new(version, NETWORK, &[plugin(node)])
}

pub(crate) fn runtime(node: &Node) -> anyhow::Result<Runtime<'_>> {
    Runtime::new(&node.ns)
}

/// The last address of a result.
pub(crate) fn address(result: &Value) -> anyhow::Result<Ipv4Addr> {
    let ips = result["ips"].as_array().with_context(|| format!("no addresses: {result}"))?;
    let text = ips.last().and_then(|ip| ip["address"].as_str()).with_context(|| format!("no address: {result}"))?;
    text.split('/').next().unwrap_or_default().parse().with_context(|| text.to_owned())
}

/// Everything on a node that may be left of a pod, as lines.
pub(crate) fn traces(node: &Node) -> anyhow::Result<BTreeSet<String>> {
    let mut traces = BTreeSet::new();
    for map in ["PODS", "VETHS", "XDP_VETHS"] {
        for line in bpf::dump_text(&node.pins(), map)?.lines().filter(|line| line.contains("\"key\"") || line.contains("key:")) {
            traces.insert(format!("{map} {}", line.trim()));
        }
    }
    let links = node.ns.ip("-brief link show type veth")?;
    traces.extend(
        links.lines().filter_map(|line| line.split('@').next()).filter(|name| name.starts_with("pod")).map(|name| format!("device {name}")),
    );
    let pins = fs::read_dir(node.pins().join("links"))?;
    traces.extend(pins.flatten().map(|pin| pin.file_name().to_string_lossy().into_owned()).filter(|name| name.starts_with("from_pod")));
    traces.extend(node.ns.ip("route show proto 80")?.lines().map(|line| format!("route {line}")));
    for entry in fs::read_dir(state_dir(node)).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(boot) = name.strip_prefix("pods-") {
            ensure!(boot.len() > 30, "{name}");
            let state: Value = serde_json::from_slice(&fs::read(entry.path())?)?;
            let pods = state["pods"].as_array().context("no list of pods")?;
            traces.extend(pods.iter().map(|pod| format!("address {} of {}", pod["address"], pod["containerId"])));
        } else if name != "lock" {
            traces.insert(format!("file {name}"));
        }
    }
    Ok(traces)
}

/// Nothing is there now that was not there before, and the other way round.
pub(crate) fn unchanged(node: &Node, before: &BTreeSet<String>) -> anyhow::Result<()> {
    let after = traces(node)?;
    let (new, gone): (Vec<_>, Vec<_>) = (after.difference(before).collect(), before.difference(&after).collect());
    ensure!(new.is_empty() && gone.is_empty(), "left on {}: {new:?}; gone from it: {gone:?}", node.name);
    Ok(())
}

/// The error object an ADD must end with.
pub(crate) fn refused(runtime: &Runtime<'_>, list: &Conflist, one: &Guest, code: u64, part: &str) -> anyhow::Result<()> {
    let Err(error) = runtime.add(list, &one.container) else { bail!("ADD succeeded, and had to fail with {code}: {part}") };
    let text = error.to_string();
    ensure!(text.contains(&format!("\"code\":{code},")) && text.contains(part), "expected {code} with {part:?}: {text}");
    Ok(())
}

/// The maps of a node, to be damaged.
pub(crate) fn tables(node: &Node) -> anyhow::Result<Tables> {
    Ok(Tables::open(&PinDir::new(&node.config.bpffs))?)
}

/// Name of the node's end of a wire, by the result that made it.
pub(crate) fn host(result: &Value) -> &str {
    result["interfaces"][0]["name"].as_str().unwrap_or_default()
}

/// Its index.
pub(crate) fn ifindex(node: &Node, result: &Value) -> anyhow::Result<u32> {
    let link: Value = serde_json::from_str(&node.ns.ip(&format!("-json link show dev {}", host(result)))?)?;
    link[0]["ifindex"].as_u64().and_then(|index| u32::try_from(index).ok()).context("no index")
}
