//! What goes wrong: ADD that fails at each step, CHECK of what is damaged, DEL of what is half gone, GC, STATUS, a reboot.

use super::bed::{Box, NETWORK, address, alone, plugin, runtime, state_dir, traces, unchanged};
use crate::harness::Group;
use anyhow::{Context as _, bail, ensure};
use nix::mount::{MsFlags, mount, umount};
use overlay_agent::datapath::{PinDir, Tables};
use overlay_common::abi;
use overlay_lab::cni::{Conflist, Runtime};
use overlay_lab::lab::{Lab, LabConfig};
use overlay_lab::node::Node;
use overlay_lab::sandbox;
use serde_json::{Value, json};
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

pub(crate) fn group() -> Group {
    Group::new("overlay-cni, damage", LabConfig { nodes: 2, pods: 0, ..LabConfig::default() })
        .case("ADD that fails at any step leaves nothing", failing_add)
        .case("CHECK finds each kind of damage", damaged)
        .case("DEL takes away whatever is left, as often as it is asked", half_gone)
        .case("an ADD that was cut short is made good by the next one", cut_short)
        .case("GC takes away what is not to stay, and nothing else", garbage)
        .case("exhaustion is told with numbers and passes", exhausted)
        .case("no agent is needed while the node is ready", without_agent)
        .case("after a reboot every address is free and old pods can be deleted", rebooted)
        .case("a node that no agent has prepared says so", unprepared)
}

/// The error object an ADD must end with.
fn refused(runtime: &Runtime<'_>, list: &Conflist, one: &Box, code: u64, part: &str) -> anyhow::Result<()> {
    let Err(error) = runtime.add(list, &one.container) else { bail!("ADD succeeded, and had to fail with {code}: {part}") };
    let text = error.to_string();
    ensure!(text.contains(&format!("\"code\":{code},")) && text.contains(part), "expected {code} with {part:?}: {text}");
    Ok(())
}

fn failing_add(lab: &mut Lab) -> anyhow::Result<()> {
    // An agent would repair what is broken here.
    lab.nodes[0].stop_agent()?;
    let node = &lab.nodes[0];
    let (runtime, before, list) = (runtime(node)?, traces(node)?, alone(node, "1.1.0"));
    let one = Box::new("cni-a")?;
    let expect = |code, part: &str| {
        refused(&runtime, &list, &one, code, part).and_then(|()| unchanged(node, &before)).with_context(|| part.to_owned())
    };

    one.ns.ip("link add eth0 type bridge")?;
    expect(100, "a device eth0 exists already in the pod's network namespace")?;
    one.ns.ip("link delete eth0")?;

    let name = overlay_agent::cni::request::Key { container_id: one.container.id.clone(), ifname: "eth0".to_owned() }.host_interface();
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

    // The link cannot be pinned: the veth and its entry in VETHS are there by then.
    let (links, away) = (node.pins().join("links"), node.pins().join("away"));
    fs::rename(&links, &away)?;
    let failed = refused(&runtime, &list, &one, 103, "cannot attach from_pod");
    fs::rename(&away, &links)?;
    failed?;
    unchanged(node, &before)?;

    // The last step: no room in PODS.
    let mut tables = Tables::open(&PinDir::new(&node.config.bpffs))?;
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

    // Not ready, for each of its reasons.
    for pin in ["maps/VETHS", "maps/SETTINGS", "progs/from_pod"] {
        let (pin, away) = (node.pins().join(pin), node.pins().join("maps").join("AWAY"));
        fs::rename(&pin, &away)?;
        let failed = refused(&runtime, &list, &one, 11, "not ready");
        fs::rename(&away, &pin)?;
        failed.with_context(|| pin.display().to_string())?;
        unchanged(node, &before)?;
    }
    let settings = tables.settings()?;
    tables.put_settings(&abi::Settings { abi_version: 0, ..settings })?;
    expect(11, "has not written its settings yet")?;
    tables.put_settings(&abi::Settings { overlay_ifindex: 0x7fff, ..settings })?;
    expect(11, "its overlay device is gone")?;
    tables.put_settings(&settings)?;

    // The state cannot be kept: not a directory, damaged, no room on the disk.
    let mut list = list.clone();
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
    unchanged(node, &before)?;
    lab.nodes[0].start_agent().map(drop)
}

/// One kind of damage: what it is called, who does it, the words CHECK must have for it.
type Damage = (&'static str, fn(&Node, &Box, &Value) -> anyhow::Result<()>, &'static str);

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

fn tables(node: &Node) -> anyhow::Result<Tables> {
    Ok(Tables::open(&PinDir::new(&node.config.bpffs))?)
}

fn host(result: &Value) -> &str {
    result["interfaces"][0]["name"].as_str().unwrap_or_default()
}

fn ifindex(node: &Node, result: &Value) -> anyhow::Result<u32> {
    let link: Value = serde_json::from_str(&node.ns.ip(&format!("-json link show dev {}", host(result)))?)?;
    link[0]["ifindex"].as_u64().and_then(|index| u32::try_from(index).ok()).context("no index")
}

/// The link stays pinned and belongs to another device: as after a device was made anew under a stale pin.
fn detached(node: &Node, _: &Box, result: &Value) -> anyhow::Result<()> {
    let other = Box::new("cni-other")?;
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
        let one = Box::new("cni-a")?;
        let result = runtime.add(&list, &one.container)?;
        runtime.check(&list, &one.container, &result).with_context(|| format!("before {what}"))?;
        damage(node, &one, &result).with_context(|| what.to_owned())?;
        let error = runtime.check(&list, &one.container, &result).err().with_context(|| format!("CHECK does not see {what}"))?.to_string();
        ensure!(error.contains("\"code\":101") && error.contains(words), "{what}: {error}");
        runtime.del(&list, &one.container, Some(&result)).with_context(|| what.to_owned())?;
        unchanged(node, &before).with_context(|| what.to_owned())?;
    }
    // What a later plugin changed and told is right; what the address store lost is a container nobody knows.
    let one = Box::new("cni-a")?;
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
    lab.nodes[0].start_agent().map(drop)
}

/// What is taken from a pod before DEL, and who takes it; returns the pod if it is left.
type Robbery = (&'static str, fn(&Node, Box, &Value) -> anyhow::Result<Option<Box>>);

fn half_gone(lab: &mut Lab) -> anyhow::Result<()> {
    for agent in [true, false] {
        if !agent {
            lab.nodes[0].stop_agent()?;
        }
        let node = &lab.nodes[0];
        let (runtime, before, list) = (runtime(node)?, traces(node)?, alone(node, "1.1.0"));
        // Never added.
        let never = Box::new("cni-never")?;
        runtime.del(&list, &never.container, None)?;
        // Each: added, then robbed of something, then deleted three times.
        let cases: [Robbery; 5] = [
            ("nothing", |_, one, _| Ok(Some(one))),
            ("the namespace and all in it", |_, one, _| {
                drop(one);
                Ok(None)
            }),
            ("the node's end", |node, one, result| node.ns.ip(&format!("link delete {}", host(result))).map(|_| Some(one))),
            ("the entry in PODS and the node's end", |node, one, result| {
                tables(node)?.remove_pod(address(result)?)?;
                node.ns.ip(&format!("link delete {}", host(result))).map(|_| Some(one))
            }),
            ("the pin", |node, one, result| {
                fs::remove_file(node.pins().join("links").join(format!("from_pod_{}", ifindex(node, result)?)))?;
                Ok(Some(one))
            }),
        ];
        for (what, rob) in cases {
            let one = Box::new("cni-a")?;
            let mut container = one.container.clone();
            let result = runtime.add(&list, &container)?;
            let left = rob(node, one, &result).with_context(|| what.to_owned())?;
            if left.is_none() {
                container.netns = None;
            }
            for (previous, netns) in [(Some(&result), container.netns.clone()), (None, None), (None, Some("/run/netns/absent".into()))] {
                container.netns = netns;
                runtime.del(&list, &container, previous).with_context(|| format!("without {what}, agent: {agent}"))?;
            }
            unchanged(node, &before).with_context(|| format!("without {what}, agent: {agent}"))?;
        }
    }
    // The data path is gone as a whole.
    let one = Box::new("cni-a")?;
    let list = alone(&lab.nodes[0], "1.1.0");
    runtime(&lab.nodes[0])?.add(&list, &one.container)?;
    lab.nodes[0].cleanup()?;
    runtime(&lab.nodes[0])?.del(&list, &one.container, None)?;
    ensure!(!state_text(&lab.nodes[0])?.contains(&one.container.id), "the address is still given");
    lab.nodes[0].start_agent().map(drop)
}

/// Every file of addresses of a node.
fn state_text(node: &Node) -> anyhow::Result<String> {
    let files = fs::read_dir(state_dir(node))?.flatten().filter(|entry| entry.file_name() != "lock");
    Ok(files.map(|entry| fs::read_to_string(entry.path())).collect::<Result<Vec<_>, _>>()?.concat())
}

/// Between record and wire a process was killed; the runtime asks again without having deleted.
fn cut_short(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    let (runtime, before, list) = (runtime(node)?, traces(node)?, alone(node, "1.1.0"));
    let (one, two) = (Box::new("cni-a")?, Box::new("cni-b")?);
    let first = runtime.add(&list, &one.container)?;
    // The record stays, the wire goes with its namespace.
    let mut container = one.container.clone();
    drop(one);
    container.netns.clone_from(&two.container.netns);
    let second = runtime.add(&list, &container)?;
    ensure!(address(&first)? == address(&second)?, "{first} {second}");
    runtime.check(&list, &container, &second)?;
    ensure!(state_text(node)?.contains("/run/netns/cni-b"), "the record names the old namespace");
    runtime.del(&list, &container, None)?;
    unchanged(node, &before)
}

fn garbage(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    let (runtime, before, list) = (runtime(node)?, traces(node)?, alone(node, "1.1.0"));
    let boxes = ["cni-a", "cni-b", "cni-c", "cni-d"].map(Box::new).into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let other = Conflist::new("1.1.0", "other", &[plugin(node)]);
    let results = boxes[..3].iter().map(|one| runtime.add(&list, &one.container)).collect::<anyhow::Result<Vec<_>>>()?;
    let foreign = runtime.add(&other, &boxes[3].container)?;
    // One of those to go is gone already.
    node.ns.ip(&format!("link delete {}", host(&results[2])))?;
    runtime.gc(&list, &[&boxes[0].container])?;
    runtime.gc(&list, &[&boxes[0].container])?;
    runtime.check(&list, &boxes[0].container, &results[0])?;
    runtime.check(&other, &boxes[3].container, &foreign).context("GC of one network took a pod of another")?;
    let state = state_text(node)?;
    ensure!(!state.contains("cni-b-") && !state.contains("cni-c-"), "{state}");
    ensure!(boxes[1].ns.ip("link show")?.matches(": eth0").count() == 0, "a pod to go is still wired");
    runtime.gc(&list, &[])?;
    runtime.gc(&other, &[])?;
    unchanged(node, &before)
}

fn exhausted(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    let (runtime, before) = (runtime(node)?, traces(node)?);
    let mut list = alone(node, "1.1.0");
    list.plugins[0]["ipam"] = json!({ "type": "overlay-cni", "ranges": ["10.244.1.20-10.244.1.21", "10.244.1.30"] });
    let boxes = (0..4).map(|number| Box::new(&format!("cni-{number}"))).collect::<anyhow::Result<Vec<_>>>()?;
    let mut last = Vec::new();
    for one in &boxes[..3] {
        runtime.status(&list)?;
        last.push(address(&runtime.add(&list, &one.container)?)?.octets()[3]);
    }
    ensure!(last == [20, 21, 30], "{last:?}");
    refused(
        &runtime,
        &list,
        &boxes[3],
        11,
        "no address is free: 3 there are to give, 3 of them are given to pods (3 pods on this node in all)",
    )?;
    let error = runtime.status(&list).err().context("STATUS of a node without a free address")?.to_string();
    ensure!(error.contains("\"code\":50") && error.contains("no address is free"), "{error}");
    runtime.del(&list, &boxes[1].container, None)?;
    ensure!(address(&runtime.add(&list, &boxes[3].container)?)?.octets()[3] == 21);
    boxes.iter().try_for_each(|one| runtime.del(&list, &one.container, None))?;
    unchanged(node, &before)
}

fn without_agent(lab: &mut Lab) -> anyhow::Result<()> {
    lab.nodes[0].kill_agent()?;
    let node = &lab.nodes[0];
    let (runtime, before, list) = (runtime(node)?, traces(node)?, alone(node, "1.1.0"));
    let one = Box::new("cni-a")?;
    runtime.status(&list)?;
    let result = runtime.add(&list, &one.container)?;
    runtime.check(&list, &one.container, &result)?;
    ensure!(overlay_lab::probe::ping::once(&one.ns, lab.nodes[1].gateway())?.is_some(), "the other node does not answer");
    runtime.gc(&list, &[&one.container])?;
    runtime.del(&list, &one.container, Some(&result))?;
    unchanged(node, &before)?;
    lab.nodes[0].start_agent().map(drop)
}

fn rebooted(lab: &mut Lab) -> anyhow::Result<()> {
    const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
    let one = Box::new("cni-a")?;
    let list = alone(&lab.nodes[0], "1.1.0");
    let result = runtime(&lab.nodes[0])?.add(&list, &one.container)?;
    // What a reboot leaves: the disk. Pods, devices, maps and the boot id go.
    lab.nodes[0].kill_agent()?;
    lab.nodes[0].cleanup()?;
    let mut container = one.container.clone();
    drop(one);
    container.netns = None;
    let fake = Path::new(sandbox::ROOT).join("boot_id");
    fs::write(&fake, "11111111-2222-3333-4444-555555555555\n")?;
    mount(Some(&fake), BOOT_ID, None::<&str>, MsFlags::MS_BIND, None::<&str>).context("another boot id")?;
    let checked = (|| {
        let node = &lab.nodes[0];
        let error = runtime(node)?.status(&list).err().context("STATUS before the agent")?.to_string();
        ensure!(error.contains("\"code\":50") && error.contains("not ready"), "{error}");
        let two = Box::new("cni-b")?;
        refused(&runtime(node)?, &list, &two, 11, "has not run here since the last boot")?;
        runtime(node)?.del(&list, &container, Some(&result))?;
        lab.nodes[0].start_agent()?;
        let node = &lab.nodes[0];
        runtime(node)?.status(&list)?;
        let mut narrow = list.clone();
        narrow.plugins[0]["ipam"] = json!({ "ranges": [address(&result)?] });
        let again = runtime(node)?.add(&narrow, &two.container).context("the address of a pod from before the reboot")?;
        ensure!(address(&again)? == address(&result)?);
        // The runtime deletes late what it remembers from before.
        runtime(node)?.del(&list, &container, Some(&result))?;
        runtime(node)?.check(&narrow, &two.container, &again)?;
        runtime(node)?.del(&list, &two.container, None)?;
        ensure!(!state_text(node)?.contains("cni-a-"), "the file of the old boot is still there");
        Ok(())
    })();
    umount(BOOT_ID).context("the boot id back")?;
    checked
}

fn unprepared(lab: &mut Lab) -> anyhow::Result<()> {
    lab.nodes[0].stop_agent()?;
    let node = &lab.nodes[0];
    let (list, one) = (alone(node, "1.1.0"), Box::new("cni-a")?);
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
    ensure!(elsewhere.name == NETWORK);
    refused(&runtime(node)?, &elsewhere, &one, 11, "overlay-agent has not run here")?;
    runtime(node)?.del(&elsewhere, &one.container, None)?;
    lab.nodes[0].start_agent().map(drop)
}
