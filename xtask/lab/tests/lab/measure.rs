//! `overlay-agent measure`: that it measures, leaves nothing, and that the agent follows it.

use crate::check::eventually;
use crate::harness::{Group, note};
use anyhow::{Context as _, ensure};
use overlay_agent::measure::{Class, RUNGS, Record, Rung};
use overlay_agent::status::StateDir;
use overlay_lab::agent::{ReceiveMode, binary};
use overlay_lab::command;
use overlay_lab::lab::{Lab, LabConfig};
use overlay_lab::node::Node;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long a measurement may take until scratch nodes are there, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn groups() -> Vec<Group> {
    let config = LabConfig { receive_mode: ReceiveMode::Auto, nodes: 1, ..LabConfig::default() };
    vec![
        Group::new("the measurement of the receive ladder", config)
            .case("it is refused while an agent runs", refused_beside_an_agent)
            .case("it measures every rung at every work, and leaves nothing but its file", measures)
            .case("the agent takes the rung that was the fastest for such a NIC, and says by how much", followed)
            .case("figures of another kernel or of other programs do not count", another_subject)
            .case("one that was killed is taken away by cleanup", killed),
    ]
}

fn command(node: &Node) -> anyhow::Result<Command> {
    let mut command = node.ns.command(binary()?);
    node.config.aim(command.arg("measure"));
    Ok(command)
}

fn only_node(lab: &mut Lab) -> anyhow::Result<&mut Node> {
    lab.nodes.first_mut().context("a lab without a node")
}

/// The node without an agent, whichever case ran before.
fn idle_node(lab: &mut Lab) -> anyhow::Result<&mut Node> {
    let node = only_node(lab)?;
    if node.has_agent() {
        node.stop_agent()?;
    }
    Ok(node)
}

fn refused_beside_an_agent(lab: &mut Lab) -> anyhow::Result<()> {
    let node = only_node(lab)?;
    let output = command::output(&mut command(node)?)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1) && said.contains("stop the agent first"), "{:?}: {said}", output.status);
    let output = command::output(command(node)?.arg("--optional"))?;
    ensure!(output.status.success(), "an optional measurement that is refused is no failure");
    Ok(())
}

fn measures(lab: &mut Lab) -> anyhow::Result<()> {
    let node = idle_node(lab)?;
    let look = |node: &Node| -> anyhow::Result<_> {
        let pins: Vec<_> = fs::read_dir(&node.config.bpffs)?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<_>>()?;
        Ok((pins, node.ns.ip("-brief link")?, node.ns.ip("-4 route show table all")?))
    };
    let before = look(node)?;
    let text = command::run(command(node)?.args(["--output", "json"]))?;
    let after = look(node)?;
    ensure!(before == after, "{before:?}, afterwards {after:?}");
    let record: Record = serde_json::from_str(&text)?;
    ensure!(Record::load(&StateDir::new(node.config.state_dir.clone())) == Some(record.clone()), "the file holds something else");
    ensure!(record.measurement.series.len() == 3, "{record:?}");
    for series in &record.measurement.series {
        for (rung, samples) in RUNGS.iter().zip(&series.samples) {
            ensure!(samples.len() == 5 && samples.iter().all(|rate| *rate > 0.0), "{:?} by {}: {samples:?}", series.work, rung.name());
        }
    }
    note(format!("{:?}", record.measurement.best(Class::Virtual)));
    // A second run has nothing to do: the same figures, to the last digit.
    ensure!(command::run(command(node)?.args(["--output", "json"]))? == text, "measured again for no reason");
    Ok(())
}

/// Changes what was measured, so that `fastest` is ten times as fast as the others, and starts the agent.
fn followed(lab: &mut Lab) -> anyhow::Result<()> {
    let node = idle_node(lab)?;
    command::run(&mut command(node)?)?;
    for (fastest, mode) in [(Rung::Xdp, "xdp"), (Rung::Kernel, "kernel"), (Rung::Tc, "tc")] {
        let state_dir = StateDir::new(node.config.state_dir.clone());
        let mut record = Record::load(&state_dir).context("no measurement")?;
        for series in &mut record.measurement.series {
            for (rung, samples) in RUNGS.iter().zip(&mut series.samples) {
                *samples = vec![if *rung == fastest { 1000.0 } else { 100.0 }; 5];
            }
        }
        Record::store(&state_dir, record.measurement)?;
        let receive = node.start_agent()?.receive.context("the status does not say how packets are received")?;
        node.stop_agent()?;
        ensure!(receive.mode == mode, "{receive:?}, where {mode} is the fastest");
        let speeds = if fastest == Rung::Tc { "tc 1.00, xdp 0.10, kernel 0.10" } else { "10.00" };
        ensure!(receive.reason.contains("a virtual NIC (veth)") && receive.reason.contains(speeds), "{receive:?}");
    }
    Ok(())
}

fn another_subject(lab: &mut Lab) -> anyhow::Result<()> {
    let node = idle_node(lab)?;
    command::run(&mut command(node)?)?;
    let path = node.config.state_dir.join("measured.json");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
    record["subject"] = "Linux 2.6".into();
    fs::write(&path, record.to_string())?;
    let receive = node.start_agent()?.receive.context("the status does not say how packets are received")?;
    node.stop_agent()?;
    ensure!(receive.mode == "tc" && receive.reason.contains("not measured"), "{receive:?}");
    Ok(())
}

fn killed(lab: &mut Lab) -> anyhow::Result<()> {
    let node = idle_node(lab)?;
    let scratch = node.config.bpffs.join("overlay-measure");
    let mut child = command(node)?.arg("--again").stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let begun = eventually(PATIENCE, || {
        ensure!(scratch.join("kernel-far").is_dir(), "no scratch node yet");
        Ok(())
    });
    child.kill()?;
    child.wait()?;
    begun?;
    ensure!(scratch.is_dir(), "killed too late to leave anything");
    node.cleanup()?;
    ensure!(!scratch.exists(), "cleanup left {}", scratch.display());
    let rest: Vec<_> = fs::read_dir(&node.config.state_dir)?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<_>>()?;
    ensure!(rest.iter().all(|name| name == "agent.log"), "cleanup left {rest:?}");
    Ok(())
}
