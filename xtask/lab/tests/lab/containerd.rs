//! Containers of a real containerd, one on each node, through its CNI configuration.

use crate::harness::{note, without_lab};
use anyhow::{Context as _, ensure};
use libtest_mimic::{Failed, Trial};
use overlay_lab::containerd::Containerd;
use overlay_lab::netns::Ns;
use overlay_lab::sandbox;
use std::path::Path;
use std::time::Instant;

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("containerd: containers of the reference plugins talk, and outlive its death", reference)]
}

/// The lab's containerd by itself: what the other cases say about our plugin means something only if others' works here as well.
fn reference() -> Result<(), Failed> {
    without_lab(|| {
        let ns = Ns::create("alone")?;
        let start = Instant::now();
        let mut containerd = Containerd::start(&ns, &Path::new(sandbox::ROOT).join("alone/runtime"))?;
        note(format!("containerd: answers {:.0?} after its node was there", start.elapsed()));
        let conflist = containerd.place().configurations().join("10-bridge.conflist");
        let ipam = r#"{"type":"host-local","ranges":[[{"subnet":"10.244.77.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}"#;
        let bridge = format!(r#"{{"type":"bridge","bridge":"cni0","isGateway":true,"ipam":{ipam}}}"#);
        let error = containerd.run("early", &["sleep", "1000"]).err().context("a container without a configuration")?;
        ensure!(format!("{error:#}").contains("no network config found"), "{error:#}");
        std::fs::write(&conflist, format!(r#"{{"cniVersion":"1.0.0","name":"reference","plugins":[{bridge}]}}"#))?;

        let start = Instant::now();
        let first = containerd.run("first", &["sleep", "1000"])?;
        note(format!("containerd: a container of the reference plugins started in {:.0?}", start.elapsed()));
        let second = containerd.run_detached("second", &["sleep", "1000"])?;
        ensure!(first.exec("ip -o -4 address show eth0")?.contains("10.244.77.2/24"), "{}", first.exec("ip address")?);
        let pong = second.exec("ping -c 2 -i 0.1 10.244.77.2")?;
        ensure!(pong.contains("2 packets received"), "{pong}");

        containerd.kill()?;
        containerd.resume()?;
        ensure!(second.exec("ping -c 1 10.244.77.1")?.contains("1 packets received"), "after containerd was killed");
        second.remove()?;
        drop(first);
        let third = containerd.run("third", &["sleep", "1000"])?;
        third.remove()?;
        let tasks = containerd.ctr("task list --quiet")?;
        let containers = containerd.ctr("container list --quiet")?;
        ensure!(tasks.is_empty() && containers.is_empty(), "left: tasks {tasks}, containers {containers}");
        containerd.stop()
    })
}
