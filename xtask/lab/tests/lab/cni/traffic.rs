//! Pods wired by the plugin talk, as those of the lab do.

use super::bed::{self, Guest, alone, runtime, traces, unchanged};
use crate::check::{end, reaches};
use crate::harness::{Group, note};
use anyhow::ensure;
use overlay_lab::lab::{Lab, LabConfig};
use std::time::Instant;

pub(crate) fn group() -> Group {
    Group::new("overlay-cni, traffic", LabConfig { nodes: 2, ..LabConfig::default() })
        .case("pods it wires on two nodes talk to each other, to pods of the lab, and leave nothing", talk)
}

fn talk(lab: &mut Lab) -> anyhow::Result<()> {
    let (one, two) = (&lab.nodes[0], &lab.nodes[1]);
    let before = (traces(one)?, traces(two)?);
    let guests = [Guest::new("cni-a")?, Guest::new("cni-b")?, Guest::new("cni-c")?];
    let nodes = [one, one, two];
    let mut results = Vec::new();
    for (one, node) in guests.iter().zip(nodes) {
        let start = Instant::now();
        results.push(runtime(node)?.add(&alone(node, "1.1.0"), &one.container)?);
        note(format!("ADD of overlay-cni (debug build): {:.1?}", start.elapsed()));
    }
    let ends =
        (guests.iter().zip(nodes).zip(&results)).map(|((one, node), result)| one.end(node, result)).collect::<anyhow::Result<Vec<_>>>()?;
    let old = [end(lab, "node-1-pod-1")?, end(lab, "node-2-pod-1")?];
    for from in &ends {
        for to in ends.iter().filter(|to| to.name != from.name).chain(&old) {
            reaches(from, to)?;
            reaches(to, from)?;
        }
    }
    let links = one.ns.ip("link show")?;
    ensure!(links.contains(&format!("alias {}", guests[0].container.id)), "no alias: {links}");
    for ((one, node), result) in guests.iter().zip(nodes).zip(&results) {
        let start = Instant::now();
        runtime(node)?.del(&alone(node, "1.1.0"), &one.container, Some(result))?;
        note(format!("DEL of overlay-cni (debug build): {:.1?}", start.elapsed()));
    }
    ensure!(bed::address(&results[0])? != bed::address(&results[1])?);
    unchanged(one, &before.0)?;
    unchanged(two, &before.1)
}
