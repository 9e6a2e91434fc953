//! The agent stops, is killed, is started again, under a flood of traffic: how much is lost.

use crate::check::{self, end};
use crate::harness::{Group, note};
use anyhow::{Context as _, ensure};
use overlay_lab::agent::ReceiveMode;
use overlay_lab::command;
use overlay_lab::lab::{Lab, LabConfig};
use overlay_lab::node::Node;
use overlay_lab::probe::flood::Flood;
use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

/// Datagrams per second.
const RATE: u32 = 2000;

pub(crate) fn groups() -> Vec<Group> {
    ReceiveMode::RUNGS.map(group).into()
}

fn group(receive_mode: ReceiveMode) -> Group {
    let config = LabConfig { receive_mode, nodes: 2, foreign: 1, ..LabConfig::default() };
    Group::new(format!("agent restarts, received by {}", receive_mode.name()), config)
        .case("pods keep talking while the agent is stopped", |lab| {
            flooded(lab, "stopped for half a second", |node| {
                node.stop_agent()?;
                thread::sleep(Duration::from_millis(500));
                Ok(())
            })
        })
        .case("pods keep talking while the agent starts again", |lab| flooded(lab, "started again", |node| node.start_agent().map(drop)))
        .case("pods keep talking while the agent is killed", |lab| {
            flooded(lab, "killed, away for half a second", |node| {
                node.kill_agent()?;
                thread::sleep(Duration::from_millis(500));
                Ok(())
            })
        })
        .case("pods keep talking while the agent starts after its death", |lab| {
            flooded(lab, "started after its death", |node| node.start_agent().map(drop))
        })
        .case("cleanup removes every trace, and the node can begin anew", cleaned_up)
}

/// Does something with the agent of node-2 under a flood to its pod, and tells what was lost. The flood must not break off, and everybody
/// must reach everybody afterwards.
fn flooded(lab: &mut Lab, what: &str, action: impl FnOnce(&mut Node) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let (from, to) = (end(lab, "node-1-pod-1")?, end(lab, "node-2-pod-1")?);
    let flood = Flood::start(from.ns, from.address, to.ns, to.address, RATE)?;
    thread::sleep(Duration::from_millis(200));
    let done = action(&mut lab.nodes[1]);
    thread::sleep(Duration::from_millis(200));
    let report = flood.stop()?;
    done.with_context(|| format!("agent {what}"))?;
    note(format!("received by {}, agent {what}: {report}", lab.nodes[1].config.receive_mode.name()));
    ensure!(report.lost() * 10 < report.sent, "agent {what}: {report}");
    check::all_pods(lab)
}

fn cleaned_up(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &mut lab.nodes[1];
    node.remove_pod()?;
    node.stop_agent()?;
    node.cleanup()?;
    let links = node.ns.ip("-brief link")?;
    let names: BTreeSet<&str> = links.lines().filter_map(|line| line.split(['@', ' ']).next()).collect();
    ensure!(names == BTreeSet::from(["eth0", "lo"]), "links left: {links}");
    let listings = ["route show table all proto 79", "neighbour show proto 79", "route show type unreachable"];
    for listing in listings {
        let left = node.ns.ip(listing)?;
        ensure!(left.is_empty(), "`ip {listing}`: {left}");
    }
    let attached = command::run(node.ns.command("bpftool").arg("net"))?;
    ensure!(!["from_", "underlay_"].iter().any(|program| attached.contains(program)), "programs left:\n{attached}");
    let pins: Vec<_> = std::fs::read_dir(node.config.bpffs.join("overlay")).into_iter().flatten().flatten().collect();
    ensure!(pins.is_empty(), "pins left: {pins:?}");
    node.start_agent()?;
    node.add_pod()?;
    check::all_pods(lab)
}
