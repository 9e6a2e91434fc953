//! ADD that fails, at each step it can fail at, and STATUS that says so before.

use super::bed::{Guest, address, alone, refused, runtime, tables, traces, unchanged};
use crate::harness::Group;
use anyhow::{Context as _, ensure};
use nix::mount::{MsFlags, mount, umount};
use overlay_agent::cni::request::Key;
use overlay_common::abi;
use overlay_lab::lab::{Lab, LabConfig};
use overlay_lab::sandbox;
use serde_json::json;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

pub(crate) fn group() -> Group {
    Group::new("overlay-cni, failures", LabConfig { nodes: 1, pods: 0, ..LabConfig::default() })
        .case("ADD that fails at a device, an address or a route leaves nothing", failing_add)
        .case("ADD that fails at a map or at the program leaves nothing", failing_maps)
        .case("ADD on a node that is not ready says what is missing, and to try again", not_ready)
        .case("ADD that cannot keep the address leaves nothing", no_state)
        .case("exhaustion is told with numbers and passes", exhausted)
        .case("STATUS tells a node that was never ready from one whose pods are cut off", unprepared)
}

fn failing_add(lab: &mut Lab) -> anyhow::Result<()> {
    // An agent would repair what is broken here.
    lab.nodes[0].stop_agent()?;
    let node = &lab.nodes[0];
    let (runtime, before, list) = (runtime(node)?, traces(node)?, alone(node, "1.1.0"));
    let one = Guest::new("cni-a")?;
    let expect = |code, part: &str| {
        refused(&runtime, &list, &one, code, part).and_then(|()| unchanged(node, &before)).with_context(|| part.to_owned())
    };

    one.ns.ip("link add eth0 type bridge")?;
    expect(100, "a device eth0 exists already in the pod's network namespace")?;
    one.ns.ip("link delete eth0")?;

    let name = Key { container_id: one.container.id.clone(), ifname: "eth0".to_owned() }.host_interface();
    node.ns.ip(&format!("link add {name} type bridge"))?;
    expect(100, "exists already in this network namespace")?;
    ensure!(node.ns.ip("link show")?.contains(&name), "somebody else's device is gone");
    node.ns.ip(&format!("link delete {name}"))?;

    // A route in the pod that is in the way of the default route: fails behind the veth, its address and one route.
    one.ns.ip("route add default dev lo")?;
    expect(103, "add route default")?;
    one.ns.ip("route delete default dev lo")?;

    let gateway = node.gateway();
    node.ns.ip(&format!("address delete {gateway}/32 dev ovl0"))?;
    expect(103, "cannot add route 10.244.1.")?;
    node.ns.ip(&format!("address add {gateway}/32 dev ovl0"))?;

    lab.nodes[0].start_agent().map(drop)
}

/// Steps behind the devices: map entries and the program.
fn failing_maps(lab: &mut Lab) -> anyhow::Result<()> {
    // An agent would repair what is broken here.
    lab.nodes[0].stop_agent()?;
    let node = &lab.nodes[0];
    let (runtime, before, list) = (runtime(node)?, traces(node)?, alone(node, "1.1.0"));
    let one = Guest::new("cni-a")?;
    // The link cannot be pinned: the veth and its entry in VETHS are there by then.
    let (links, away) = (node.pins().join("links"), node.pins().join("away"));
    fs::rename(&links, &away)?;
    let failed = refused(&runtime, &list, &one, 103, "cannot attach from_pod");
    fs::rename(&away, &links)?;
    failed?;
    unchanged(node, &before)?;

    // The last step: no room in PODS.
    let mut tables = tables(node)?;
    let strangers = || (0..abi::MAX_PODS).map(|index| Ipv4Addr::from_bits(0x0a63_0000 + index));
    for address in strangers() {
        tables.put_pod(address, &abi::Pod { ifindex: 0xffff, mac: [0; 6], host_mac: [0; 6] })?;
    }
    let failed = refused(&runtime, &list, &one, 103, "map PODS");
    for address in strangers() {
        tables.remove_pod(address)?;
    }
    failed?;
    unchanged(node, &before)?;

    lab.nodes[0].start_agent().map(drop)
}

fn not_ready(lab: &mut Lab) -> anyhow::Result<()> {
    // An agent would repair what is broken here.
    lab.nodes[0].stop_agent()?;
    let node = &lab.nodes[0];
    let (runtime, before, list) = (runtime(node)?, traces(node)?, alone(node, "1.1.0"));
    let one = Guest::new("cni-a")?;
    // Not ready, for each of its reasons.
    for pin in ["maps/VETHS", "maps/SETTINGS", "progs/from_pod"] {
        let (pin, away) = (node.pins().join(pin), node.pins().join("maps").join("AWAY"));
        fs::rename(&pin, &away)?;
        let failed = refused(&runtime, &list, &one, 11, "not ready");
        fs::rename(&away, &pin)?;
        failed.with_context(|| pin.display().to_string())?;
        unchanged(node, &before)?;
    }
    let mut tables = tables(node)?;
    let settings = tables.settings()?;
    tables.put_settings(&abi::Settings { abi_version: 0, ..settings })?;
    refused(&runtime, &list, &one, 11, "has not written its settings yet")?;
    tables.put_settings(&abi::Settings { overlay_ifindex: 0x7fff, ..settings })?;
    refused(&runtime, &list, &one, 11, "its overlay device is gone")?;
    tables.put_settings(&settings)?;

    unchanged(node, &before)?;
    lab.nodes[0].start_agent().map(drop)
}

/// The state cannot be kept: not a directory, no room on the disk.
fn no_state(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    let (runtime, before, mut list) = (runtime(node)?, traces(node)?, alone(node, "1.1.0"));
    let one = Guest::new("cni-a")?;
    list.plugins[0]["stateDir"] = "/proc/version".into();
    refused(&runtime, &list, &one, 5, "/proc/version")?;
    let small = Path::new(sandbox::ROOT).join("small");
    fs::create_dir_all(&small)?;
    mount(Some("tmpfs"), &small, Some("tmpfs"), MsFlags::empty(), Some("size=4k"))?;
    fs::write(small.join("filler"), [0; 4096])?;
    list.plugins[0]["stateDir"] = small.display().to_string().into();
    let failed = refused(&runtime, &list, &one, 5, "No space left");
    let left: Vec<_> =
        fs::read_dir(&small)?.flatten().map(|entry| entry.file_name()).filter(|name| name != "lock" && name != "filler").collect();
    umount(&small)?;
    failed?;
    ensure!(left.is_empty(), "left on the full disk: {left:?}");
    unchanged(node, &before)
}

fn exhausted(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    let (runtime, before) = (runtime(node)?, traces(node)?);
    let mut list = alone(node, "1.1.0");
    list.plugins[0]["ipam"] = json!({ "type": "overlay-cni", "ranges": ["10.244.1.20-10.244.1.21", "10.244.1.30"] });
    let guests = (0..4).map(|number| Guest::new(&format!("cni-{number}"))).collect::<anyhow::Result<Vec<_>>>()?;
    let mut last = Vec::new();
    for one in &guests[..3] {
        runtime.status(&list)?;
        last.push(address(&runtime.add(&list, &one.container)?)?.octets()[3]);
    }
    ensure!(last == [20, 21, 30], "{last:?}");
    refused(
        &runtime,
        &list,
        &guests[3],
        11,
        "no address is free: 3 there are to give, 3 of them are given to pods (3 pods on this node in all)",
    )?;
    let error = runtime.status(&list).err().context("STATUS of a node without a free address")?.to_string();
    ensure!(error.contains("\"code\":50") && error.contains("no address is free"), "{error}");
    runtime.del(&list, &guests[1].container, None)?;
    ensure!(address(&runtime.add(&list, &guests[3].container)?)?.octets()[3] == 21);
    guests.iter().try_for_each(|one| runtime.del(&list, &one.container, None))?;
    unchanged(node, &before)
}

fn unprepared(lab: &mut Lab) -> anyhow::Result<()> {
    lab.nodes[0].stop_agent()?;
    let node = &lab.nodes[0];
    let (list, one) = (alone(node, "1.1.0"), Guest::new("cni-a")?);
    runtime(node)?.add(&list, &one.container)?;
    let away = node.pins().with_file_name("away");
    fs::rename(node.pins(), &away)?;
    // Pods are there, and their data path is not.
    let error = runtime(node)?.status(&list).err().context("STATUS without pins")?.to_string();
    fs::rename(&away, node.pins())?;
    ensure!(error.contains("\"code\":51") && error.contains("its maps are not pinned"), "{error}");
    runtime(node)?.del(&list, &one.container, None)?;
    let mut elsewhere = list.clone();
    elsewhere.plugins[0]["bpffs"] = "/run/overlay/no-bpffs".into();
    let error = runtime(node)?.status(&elsewhere).err().context("STATUS without bpffs")?.to_string();
    ensure!(error.contains("\"code\":50") && error.contains("overlay-agent has not run here"), "{error}");
    refused(&runtime(node)?, &elsewhere, &one, 11, "overlay-agent has not run here")?;
    runtime(node)?.del(&elsewhere, &one.container, None)?;
    lab.nodes[0].start_agent().map(drop)
}
