//! The list of nodes changes in every way a list can, good and bad: what the maps hold afterwards, and that nothing right is lost.

use crate::check::{self, end, eventually};
use crate::harness::Group;
use anyhow::{Context as _, bail, ensure};
use overlay_common::abi::map;
use overlay_lab::bpf;
use overlay_lab::lab::{Lab, LabConfig};
use overlay_lab::node::Node;
use overlay_lab::nodes::{self, NodeEntry};
use overlay_lab::probe::ping;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

/// `creationTimestamp` of a node that came after the lab's own.
const LATER: &str = "2026-11-20T08:00:00Z";

/// How long agents may take to follow.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long is waited to see that nothing happens: longer than agents need to follow a change.
const QUIET: Duration = Duration::from_millis(700);

pub(crate) fn groups() -> Vec<Group> {
    let config = LabConfig { nodes: 3, foreign: 1, ..LabConfig::default() };
    vec![
        Group::new("the list of nodes", config)
            .case("maps hold exactly the nodes of the list, with the MACs that lead there", |lab| {
                settled(lab).and_then(|()| check::all_pods(lab))
            })
            .case("bpftool prints the maps with names a person understands", named_fields)
            .case("a list that says the same in another order causes no pass", same_list)
            .case("a node that is taken out is forgotten, and reached again when it returns", removed)
            .case("a node that joins is reached", joined)
            .case("a node whose address changes is reached at the new one", address_changed)
            .case("a foreign node whose tunnel MAC changes is reached by the new one", vtep_changed)
            .case("a node whose pod network changes is known by the new one", network_changed)
            .case("many changes in a row end in the right state, whatever their order", shuffled)
            .case("a second node with the same podCIDR takes nothing from the first", duplicate)
            .case("a malformed node is left out with its reason, and the others work", malformed)
            .case("an empty, half-written or vanished file changes nothing", broken_file)
            .case("an edit in place is seen like a replacement", in_place),
    ]
}

/// What the maps of a node must hold: for each other usable entry of the file its network and its address.
fn expected(lab: &Lab, node: &Node) -> BTreeMap<String, Ipv4Addr> {
    let others = lab.nodes_file.entries.iter().filter(|entry| entry.name != node.name);
    others.filter_map(|entry| Some((entry.pod_cidr.clone()?, entry.address?))).collect()
}

fn subnets(node: &Node) -> anyhow::Result<BTreeMap<String, Ipv4Addr>> {
    let entry = |entry: Value| -> anyhow::Result<_> {
        let (key, value) = (&entry["key"], &entry["value"]);
        Ok((format!("{}/{}", bpf::address(&key["addr"])?, key["prefix_len"]), bpf::address(&value["node"])?))
    };
    bpf::dump(&node.pins(), map::SUBNETS)?.into_iter().map(entry).collect()
}

/// Every node's maps hold what the file says, and nothing else.
fn maps_match(lab: &Lab) -> anyhow::Result<()> {
    for node in &lab.nodes {
        let (expected, subnets) = (expected(lab, node), subnets(node)?);
        ensure!(subnets == expected, "{} has in SUBNETS {subnets:?}, not {expected:?}", node.name);
        let nodes: Vec<Ipv4Addr> =
            bpf::dump(&node.pins(), map::NODES)?.iter().map(|entry| bpf::address(&entry["key"])).collect::<Result<_, _>>()?;
        let known = expected.values().all(|address| nodes.contains(address)) && nodes.len() == expected.len();
        ensure!(known, "{} has in NODES {nodes:?}, not {expected:?}", node.name);
    }
    Ok(())
}

/// The maps match the file soon, and every pod answers every other.
fn settled(lab: &mut Lab) -> anyhow::Result<()> {
    eventually(PATIENCE, || settings_match(lab).and_then(|()| maps_match(lab)).and_then(|()| next_hops_resolved(lab)))?;
    check::all_pods_answer(lab)
}

/// Every node knows who it is itself.
fn settings_match(lab: &Lab) -> anyhow::Result<()> {
    for node in &lab.nodes {
        for entry in bpf::dump(&node.pins(), map::SETTINGS)? {
            let (address, gateway) = (bpf::address(&entry["value"]["address"])?, bpf::address(&entry["value"]["gateway"])?);
            ensure!(
                (address, gateway) == (node.address, node.gateway()),
                "{} takes itself for {address} with gateway {gateway}, not {} with {}",
                node.name,
                node.address,
                node.gateway()
            );
        }
    }
    Ok(())
}

/// On one link the next hop is the node itself: its MAC stands in SUBNETS.
fn next_hops_resolved(lab: &Lab) -> anyhow::Result<()> {
    for node in &lab.nodes {
        for entry in bpf::dump(&node.pins(), map::SUBNETS)? {
            let address = bpf::address(&entry["value"]["node"])?;
            let ours = lab.nodes.iter().map(|peer| (&peer.ns, peer.address, peer.vtep_mac()));
            let foreign = lab.foreign.iter().map(|peer| (&peer.ns, peer.address, peer.vtep_mac.clone()));
            let Some((ns, _, vtep_mac)) = ours.chain(foreign).find(|(_, of, _)| *of == address) else { continue };
            let (found, wanted) = (mac(&entry["value"]["next_hop_mac"])?, ns.mac("eth0")?);
            ensure!(found == wanted, "{} would send to {address} by {found}, not {wanted}", node.name);
            let found = mac(&entry["value"]["vtep_mac"])?;
            ensure!(found == vtep_mac, "{} has for {address} the VTEP MAC {found}, not {vtep_mac}", node.name);
        }
    }
    Ok(())
}

fn mac(value: &Value) -> anyhow::Result<String> {
    let bytes: Vec<u8> = serde_json::from_value(value.clone()).with_context(|| format!("{value} is no MAC"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"))
}

fn named_fields(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    let wanted: [(&str, &[&str]); 6] = [
        (map::SUBNETS, &["prefix_len", "addr", "node", "vtep_mac", "next_hop_mac", "source", "next_hop", "ifindex", "reach"]),
        (map::NODES, &["pod_net", "pod_mask"]),
        (map::PODS, &["ifindex", "mac", "host_mac"]),
        (map::VETHS, &["addr", "mac", "host_mac"]),
        (map::SETTINGS, &["vni", "port", "mtu", "receive_mode", "address", "gateway"]),
        (map::COUNTERS, &["pod_encap_packets", "deliver_pod_packets", "outer_src_unknown"]),
    ];
    for (map, fields) in wanted {
        let text = bpf::dump_text(&node.pins(), map)?;
        for field in fields {
            ensure!(text.contains(&format!("\"{field}\"")), "{map} has no field {field}:\n{text}");
        }
    }
    let pod = &node.pods[0];
    let entries = bpf::dump(&node.pins(), map::PODS)?;
    let entry = entries.first().context("PODS is empty")?;
    ensure!(bpf::address(&entry["key"])? == pod.address && mac(&entry["value"]["mac"])? == pod.ns.mac("eth0")?, "{entry}");
    Ok(())
}

fn last_passes(lab: &Lab) -> anyhow::Result<Vec<Value>> {
    lab.nodes.iter().map(|node| Ok(node.status()?["last_pass"].clone())).collect()
}

fn same_list(lab: &mut Lab) -> anyhow::Result<()> {
    thread::sleep(QUIET);
    let before = last_passes(lab)?;
    lab.nodes_file.entries.reverse();
    lab.nodes_file.write_atomic()?;
    thread::sleep(QUIET);
    let after = last_passes(lab)?;
    ensure!(before == after, "a pass did something: {before:?}, then {after:?}");
    Ok(())
}

fn removed(lab: &mut Lab) -> anyhow::Result<()> {
    let entry = lab.forget("node-3")?;
    // The node that left is told nothing it could act on: only the others are looked at.
    eventually(PATIENCE, || others_match(lab, "node-3"))?;
    let (from, to) = (end(lab, "node-1-pod-1")?, end(lab, "node-3-pod-1")?);
    ensure!(ping::once(from.ns, to.address)?.is_none(), "a pod of a node that left still answers");
    check::reaches(&from, &end(lab, "node-2-pod-1")?)?;
    lab.recall(entry)?;
    settled(lab)
}

/// As [`maps_match`], for every node but one.
fn others_match(lab: &Lab, but: &str) -> anyhow::Result<()> {
    for node in lab.nodes.iter().filter(|node| node.name != but) {
        let (expected, subnets) = (expected(lab, node), subnets(node)?);
        ensure!(subnets == expected, "{} has in SUBNETS {subnets:?}, not {expected:?}", node.name);
    }
    Ok(())
}

fn joined(lab: &mut Lab) -> anyhow::Result<()> {
    let place = lab.underlay.place(5);
    let node = Node::create(&lab.underlay, place, 5, lab.nodes_file.path(), lab.nodes[0].config.receive_mode)?;
    lab.nodes_file.entries.push(node.entry());
    lab.nodes_file.write_atomic()?;
    lab.nodes.push(node);
    let node = &mut lab.nodes[3];
    node.start_agent()?;
    node.add_pod()?;
    lab.introduce()?;
    settled(lab)?;
    lab.forget("node-5")?;
    lab.nodes.pop();
    lab.introduce()?;
    settled(lab)
}

fn address_changed(lab: &mut Lab) -> anyhow::Result<()> {
    let (old, new) = (lab.nodes[2].address, Ipv4Addr::new(192, 168, 50, 113));
    for address in [new, old] {
        move_to(lab, 2, address)?;
        settled(lab).with_context(|| format!("after the move to {address}"))?;
    }
    Ok(())
}

/// Gives a node another address and says so in the list.
fn move_to(lab: &mut Lab, index: usize, address: Ipv4Addr) -> anyhow::Result<()> {
    let router = lab.underlay.place(1).router;
    let node = &mut lab.nodes[index];
    node.ns.ip(&format!("address delete {}/24 dev eth0", node.address))?;
    node.ns.ip(&format!("address add {address}/24 dev eth0"))?;
    // Deleted with the address.
    node.ns.ip(&format!("route replace default via {router}"))?;
    node.address = address;
    let (name, pod_cidr) = (node.name.clone(), node.pod_cidr);
    lab.underlay.route_pods(pod_cidr, address)?;
    lab.introduce()?;
    lab.nodes_file.entry(&name)?.address = Some(address);
    lab.nodes_file.write_atomic()
}

fn vtep_changed(lab: &mut Lab) -> anyhow::Result<()> {
    let old = lab.foreign[0].vtep_mac.clone();
    for mac in ["02:00:5e:10:00:01", &old] {
        lab.foreign[0].set_vtep_mac(mac)?;
        *lab.nodes_file.entry("node-4")? = lab.foreign[0].entry();
        lab.nodes_file.write_atomic()?;
        settled(lab).with_context(|| format!("after the change to {mac}"))?;
    }
    Ok(())
}

fn network_changed(lab: &mut Lab) -> anyhow::Result<()> {
    let old = lab.nodes[2].pod_cidr.to_string();
    for cidr in ["10.244.77.0/24".to_owned(), old] {
        lab.nodes_file.entry("node-3")?.pod_cidr = Some(cidr.clone());
        lab.nodes_file.write_atomic()?;
        eventually(PATIENCE, || others_match(lab, "node-3")).with_context(|| format!("after the change to {cidr}"))?;
    }
    settled(lab)
}

fn shuffled(lab: &mut Lab) -> anyhow::Result<()> {
    let entries = lab.nodes_file.entries.clone();
    let absent: Vec<NodeEntry> = (20..40)
        .map(|number| NodeEntry::new(&format!("node-{number}"), Ipv4Addr::new(192, 168, 50, number), &overlay_lab::node::pod_cidr(number)))
        .collect();
    // Every state differs from the one before by additions, removals and order; the last is the one that counts.
    for step in 0..absent.len() {
        let mut list: Vec<NodeEntry> = absent.iter().cycle().skip(step * 7).take(step % 5 + 1).cloned().chain(entries.clone()).collect();
        list.rotate_left(step % entries.len());
        lab.nodes_file.entries = list;
        if step % 2 == 0 {
            lab.nodes_file.write_atomic()?;
        } else {
            lab.nodes_file.write_in_place()?;
        }
        thread::sleep(Duration::from_millis(u64::try_from(step)? * 13 % 40));
    }
    lab.nodes_file.entries = absent.iter().skip(3).take(8).cloned().chain(entries.clone()).collect();
    lab.nodes_file.write_atomic()?;
    eventually(PATIENCE, || maps_hold_all(lab))?;
    lab.nodes_file.entries = entries;
    lab.nodes_file.write_atomic()?;
    settled(lab)
}

/// `SUBNETS` of every node matches; `NODES` cannot be asked for nodes nobody answers for.
fn maps_hold_all(lab: &Lab) -> anyhow::Result<()> {
    others_match(lab, "")
}

/// Adds an entry, waits until every agent has it on its list of rejected nodes, checks that all else is as before, and takes it out.
fn rejected(lab: &mut Lab, entry: &NodeEntry, reason: &str) -> anyhow::Result<()> {
    let before: Vec<_> = lab.nodes.iter().map(subnets).collect::<Result<_, _>>()?;
    // In front of the others: being first in the list gives no right.
    lab.nodes_file.entries.insert(0, entry.clone());
    lab.nodes_file.write_atomic()?;
    eventually(PATIENCE, || {
        for node in &lab.nodes {
            let status = node.status()?;
            let told = status["rejected"].as_array().into_iter().flatten().find(|node| node["name"] == entry.name.as_str());
            let Some(told) = told else { bail!("{} does not reject {}", node.name, entry.name) };
            let text = told["reason"].as_str().unwrap_or_default();
            ensure!(text.contains(reason), "{} says of {}: {text}; no word of {reason}", node.name, entry.name);
        }
        Ok(())
    })?;
    for (node, before) in lab.nodes.iter().zip(&before) {
        ensure!(subnets(node)? == *before, "{} changed SUBNETS for {}", node.name, entry.name);
    }
    lab.nodes_file.take(&entry.name)?;
    lab.nodes_file.write_atomic()?;
    settled(lab)
}

fn duplicate(lab: &mut Lab) -> anyhow::Result<()> {
    let cidr = lab.nodes[1].pod_cidr;
    let second = NodeEntry::new("a-second-node", Ipv4Addr::new(192, 168, 50, 99), &cidr);
    rejected(lab, &NodeEntry { created: LATER.to_owned(), ..second }, "node-2")
}

fn malformed(lab: &mut Lab) -> anyhow::Result<()> {
    let address = Ipv4Addr::new(192, 168, 50, 99);
    // Younger than the others, or its network would be the one that counts.
    let bad = |pod_cidr: &str| NodeEntry { created: LATER.to_owned(), ..NodeEntry::new("bad-node", address, &pod_cidr) };
    rejected(lab, &bad("10.244.99.0"), "10.244.99.0")?;
    rejected(lab, &bad("10.244.99.7/24"), "host bits")?;
    rejected(lab, &bad("10.244.0.0/16"), "contains those of")?;
    rejected(lab, &NodeEntry { pod_cidr: None, ..bad("") }, "podCIDR")?;
    rejected(lab, &NodeEntry { address: None, ..bad("10.244.99.0/24") }, "InternalIP")
}

fn broken_file(lab: &mut Lab) -> anyhow::Result<()> {
    let whole = nodes::render(&lab.nodes_file.entries);
    let half = &whole[..whole.len() / 2];
    for (what, text) in [("empty", ""), ("half", half), ("not YAML", "\t- {"), ("another document", "kind: PodList\nitems: []\n")] {
        lab.nodes_file.write_raw(text)?;
        thread::sleep(QUIET);
        maps_match(lab).with_context(|| format!("the file is {what}"))?;
        check::reaches(&end(lab, "node-1-pod-1")?, &end(lab, "node-2-pod-1")?).with_context(|| format!("the file is {what}"))?;
    }
    std::fs::remove_file(lab.nodes_file.path())?;
    thread::sleep(QUIET);
    maps_match(lab).context("the file is gone")?;
    lab.nodes_file.write_in_place()?;
    settled(lab)
}

fn in_place(lab: &mut Lab) -> anyhow::Result<()> {
    let entry = lab.nodes_file.take("node-3")?;
    lab.nodes_file.write_in_place()?;
    eventually(PATIENCE, || others_match(lab, "node-3"))?;
    lab.nodes_file.entries.push(entry);
    lab.nodes_file.write_in_place()?;
    settled(lab)
}
