//! How long pods do not talk while something happens below them: measured by a flood each way, and noted.

use crate::check::{end, eventually};
use crate::harness::note;
use anyhow::Context as _;
use overlay_lab::lab::{Endpoint, Lab};
use overlay_lab::probe::flood::Flood;
use overlay_lab::probe::pattern;
use std::thread;
use std::time::{Duration, Instant};

/// The longest anything may take: generous, as times are measured.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Datagrams per second of a flood.
pub(crate) const RATE: u32 = 1000;

/// Sends `count` datagrams at once, each once, and waits until all are there; how long that took.
pub(crate) fn arrive(from: &Endpoint<'_>, to: &Endpoint<'_>, count: usize, patience: Duration) -> anyhow::Result<Duration> {
    let server = to.ns.udp(to.address, 0)?;
    let client = from.ns.udp(from.address, 0)?;
    let start = Instant::now();
    for number in 0..count {
        client.send_to(pattern::slice(number as u64, 64), server.local_addr()?).context("send")?;
    }
    let mut buffer = [0; 100];
    for received in 0..count {
        let left = patience.saturating_sub(start.elapsed()).max(Duration::from_millis(1));
        server.set_read_timeout(Some(left))?;
        server.recv(&mut buffer).with_context(|| format!("{received} of {count} datagrams arrived"))?;
    }
    Ok(start.elapsed())
}

/// Does something under a flood from node-1 to node-2 and one the other way, and waits until both pods reach each other again. Returns
/// the longest time without an echo.
pub(crate) fn outage(lab: &mut Lab, what: &str, action: impl FnOnce(&mut Lab) -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let (one, other) = (end(lab, "node-1-pod-1")?, end(lab, "node-2-pod-1")?);
    let there = Flood::start(one.ns, one.address, other.ns, other.address, RATE)?;
    let back = Flood::start(other.ns, other.address, one.ns, one.address, RATE)?;
    thread::sleep(Duration::from_millis(200));
    let result = action(lab).and_then(|()| {
        let (one, other) = (end(lab, "node-1-pod-1")?, end(lab, "node-2-pod-1")?);
        // The reaction may take a moment to begin: what works meanwhile may be what is about to fail.
        thread::sleep(Duration::from_millis(400));
        eventually(PATIENCE, || {
            arrive(&one, &other, 1, Duration::from_millis(100))?;
            arrive(&other, &one, 1, Duration::from_millis(100)).map(drop)
        })
    });
    thread::sleep(Duration::from_millis(200));
    let reports = (there.stop()?, back.stop()?);
    result.with_context(|| what.to_owned())?;
    let rung = lab.nodes[0].config.receive_mode.name();
    note(format!("{what}, received by {rung}: there: {}; back: {}", reports.0, reports.1));
    Ok(reports.0.longest_gap.max(reports.1.longest_gap))
}
