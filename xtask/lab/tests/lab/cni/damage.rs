//! CHECK finds what is damaged, whatever it is.

use super::bed::{Guest, address, alone, host, ifindex, runtime, tables, traces, unchanged};
use crate::harness::Group;
use anyhow::{Context as _, ensure};
use overlay_common::abi;
use overlay_lab::lab::{Lab, LabConfig};
use overlay_lab::node::Node;
use overlay_lab::sandbox;
use serde_json::Value;
use std::fs;
use std::path::Path;

pub(crate) fn group() -> Group {
    Group::new("overlay-cni, damage", LabConfig { nodes: 1, pods: 0, ..LabConfig::default() })
        .case("CHECK finds each kind of damage", damaged)
        .case("CHECK takes a later plugin's word, and knows its containers", tolerated)
}

/// One kind of damage: what it is called, who does it, the words CHECK must have for it.
type Damage = (&'static str, fn(&Node, &Guest, &Value) -> anyhow::Result<()>, &'static str);

const DAMAGES: [Damage; 16] = [
    ("the node's end gone", |node, _, result| node.ns.ip(&format!("link delete {}", host(result))).map(drop), "is gone from the node"),
    ("the node's end down", |node, _, result| node.ns.ip(&format!("link set {} down", host(result))).map(drop), "is down"),
    (
        "the node's MAC",
        |node, _, result| node.ns.ip(&format!("link set {} address 0a:00:00:00:00:01", host(result))).map(drop),
        "has the MAC 0a:00:00:00:00:01",
    ),
    (
        "the route to the pod",
        |node, _, result| node.ns.ip(&format!("route delete {}/32", address(result)?)).map(drop),
        "the node has no route",
    ),
    (
        "the neighbour of the node",
        |node, _, result| node.ns.ip(&format!("neighbour delete {} dev {}", address(result)?, host(result))).map(drop),
        "no permanent neighbour 10.244.1.",
    ),
    (
        "the pod's device renamed",
        |_, one, _| one.ns.batch("ip", "link set eth0 down\nlink set eth0 name other\nlink set other up\n"),
        "in the pod, device eth0 is gone",
    ),
    ("the pod's device down", |_, one, _| one.ns.ip("link set eth0 down").map(drop), "in the pod, device eth0 is down"),
    ("the pod's MAC", |_, one, _| one.ns.ip("link set eth0 address 0a:00:00:00:00:01").map(drop), "in the pod, device eth0 has the MAC"),
    (
        "the pod's address",
        |_, one, result| one.ns.ip(&format!("address delete {}/32 dev eth0", address(result)?)).map(drop),
        "does not have the address",
    ),
    ("the pod's default route", |_, one, _| one.ns.ip("route delete default").map(drop), "no default route via 169.254.1.1"),
    ("the pod's gateway", |_, one, _| one.ns.ip("neighbour delete 169.254.1.1 dev eth0").map(drop), "no permanent neighbour 169.254.1.1"),
    ("the entry in PODS", |node, _, result| Ok(tables(node)?.remove_pod(address(result)?)?), "map PODS has no entry"),
    (
        "another entry in PODS",
        |node, _, result| Ok(tables(node)?.put_pod(address(result)?, &abi::Pod { ifindex: 1, mac: [2; 6], host_mac: [2; 6] })?),
        "map PODS has Pod",
    ),
    ("the entry in VETHS", |node, _, result| Ok(tables(node)?.remove_veth(ifindex(node, result)?)?), "map VETHS has no entry"),
    (
        "the pin of the link",
        |node, _, result| Ok(fs::remove_file(node.pins().join("links").join(format!("from_pod_{}", ifindex(node, result)?)))?),
        "the program is not attached",
    ),
    ("the program behind the pin", detached, "the program is not attached"),
];

/// The link stays pinned and belongs to another device: as after a device was made anew under a stale pin.
fn detached(node: &Node, _: &Guest, result: &Value) -> anyhow::Result<()> {
    let other = Guest::new("cni-other")?;
    let list = alone(node, "1.1.0");
    let elsewhere = runtime(node)?.add(&list, &other.container)?;
    let links = node.pins().join("links");
    let (mine, theirs) =
        (links.join(format!("from_pod_{}", ifindex(node, result)?)), links.join(format!("from_pod_{}", ifindex(node, &elsewhere)?)));
    fs::remove_file(&mine)?;
    fs::rename(&theirs, &mine)?;
    runtime(node)?.del(&list, &other.container, None)
}

fn damaged(lab: &mut Lab) -> anyhow::Result<()> {
    lab.nodes[0].stop_agent()?;
    let node = &lab.nodes[0];
    let (runtime, before, list) = (runtime(node)?, traces(node)?, alone(node, "1.1.0"));
    for (what, damage, words) in DAMAGES {
        let one = Guest::new("cni-a")?;
        let result = runtime.add(&list, &one.container)?;
        runtime.check(&list, &one.container, &result).with_context(|| format!("before {what}"))?;
        damage(node, &one, &result).with_context(|| what.to_owned())?;
        let error = runtime.check(&list, &one.container, &result).err().with_context(|| format!("CHECK does not see {what}"))?.to_string();
        ensure!(error.contains("\"code\":101") && error.contains(words), "{what}: {error}");
        runtime.del(&list, &one.container, Some(&result)).with_context(|| what.to_owned())?;
        unchanged(node, &before).with_context(|| what.to_owned())?;
    }
    lab.nodes[0].start_agent().map(drop)
}

/// What a later plugin changed and told is right; a container the address store does not know is one nobody knows.
fn tolerated(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    let (runtime, before, list) = (runtime(node)?, traces(node)?, alone(node, "1.1.0"));
    let one = Guest::new("cni-a")?;
    let mut result = runtime.add(&list, &one.container)?;
    one.ns.ip("route delete default")?;
    let routes = result["routes"].take();
    runtime.check(&list, &one.container, &result).context("a default route that prevResult does not list")?;
    result["routes"] = routes;
    let mut lost = list.clone();
    lost.plugins[0]["stateDir"] = Path::new(sandbox::ROOT).join("lost").display().to_string().into();
    let error = runtime.check(&lost, &one.container, &result).err().context("CHECK of an unknown container")?.to_string();
    ensure!(error.contains("\"code\":3,"), "{error}");
    runtime.del(&list, &one.container, None)?;
    unchanged(node, &before)
}
