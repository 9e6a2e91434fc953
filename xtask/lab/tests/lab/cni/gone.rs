//! What is half gone: DEL, GC and ADD after namespaces, devices, agents and whole boots went away.

use super::bed::{Guest, address, alone, host, ifindex, plugin, refused, runtime, state_dir, tables, traces, unchanged};
use crate::harness::Group;
use anyhow::{Context as _, ensure};
use nix::mount::{MsFlags, mount, umount};
use overlay_lab::cni::Conflist;
use overlay_lab::lab::{Lab, LabConfig};
use overlay_lab::node::Node;
use overlay_lab::sandbox;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

pub(crate) fn group() -> Group {
    Group::new("overlay-cni, half gone", LabConfig { nodes: 2, pods: 0, ..LabConfig::default() })
        .case("DEL takes away whatever is left, as often as it is asked", half_gone)
        .case("DEL works when the data path is gone as a whole", no_data_path)
        .case("an ADD that was cut short is made good by the next one", cut_short)
        .case("GC takes away what is not to stay, and nothing else", garbage)
        .case("no agent is needed while the node is ready", without_agent)
        .case("after a reboot every address is free and old pods can be deleted", rebooted)
}

/// What is taken from a pod before DEL, and who takes it; returns the pod if it is left.
type Robbery = (&'static str, fn(&Node, Guest, &Value) -> anyhow::Result<Option<Guest>>);

fn half_gone(lab: &mut Lab) -> anyhow::Result<()> {
    for agent in [true, false] {
        if !agent {
            lab.nodes[0].stop_agent()?;
        }
        let node = &lab.nodes[0];
        let (runtime, before, list) = (runtime(node)?, traces(node)?, alone(node, "1.1.0"));
        // Never added.
        let never = Guest::new("cni-never")?;
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
            let one = Guest::new("cni-a")?;
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
    lab.nodes[0].start_agent().map(drop)
}

fn no_data_path(lab: &mut Lab) -> anyhow::Result<()> {
    lab.nodes[0].stop_agent()?;
    let one = Guest::new("cni-a")?;
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
    let (one, two) = (Guest::new("cni-a")?, Guest::new("cni-b")?);
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
    let guests = ["cni-a", "cni-b", "cni-c", "cni-d"].map(Guest::new).into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let other = Conflist::new("1.1.0", "other", &[plugin(node)]);
    let results = guests[..3].iter().map(|one| runtime.add(&list, &one.container)).collect::<anyhow::Result<Vec<_>>>()?;
    let foreign = runtime.add(&other, &guests[3].container)?;
    // One of those to go is gone already.
    node.ns.ip(&format!("link delete {}", host(&results[2])))?;
    runtime.gc(&list, &[&guests[0].container])?;
    runtime.gc(&list, &[&guests[0].container])?;
    runtime.check(&list, &guests[0].container, &results[0])?;
    runtime.check(&other, &guests[3].container, &foreign).context("GC of one network took a pod of another")?;
    let state = state_text(node)?;
    ensure!(!state.contains("cni-b-") && !state.contains("cni-c-"), "{state}");
    ensure!(guests[1].ns.ip("link show")?.matches(": eth0").count() == 0, "a pod to go is still wired");
    runtime.gc(&list, &[])?;
    runtime.gc(&other, &[])?;
    unchanged(node, &before)
}

fn without_agent(lab: &mut Lab) -> anyhow::Result<()> {
    lab.nodes[0].kill_agent()?;
    let node = &lab.nodes[0];
    let (runtime, before, list) = (runtime(node)?, traces(node)?, alone(node, "1.1.0"));
    let one = Guest::new("cni-a")?;
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
    let one = Guest::new("cni-a")?;
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
        let two = Guest::new("cni-b")?;
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
