//! Forwards the log lines of an object built with `cargo xtask build-ebpf --log`. The released object has none.

use super::Datapath;
use aya_log::EbpfLogger;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, warn};

/// How often the ring buffer is emptied. Waiting on its file descriptor instead would take `unsafe` (tokio's `AsyncFd` over a type that
/// does not promise I/O safety), which a debugging aid is not worth.
const PERIOD: Duration = Duration::from_millis(50);

/// Spawns a task that prints the programs' log lines, if they have any. Needs a tokio runtime.
pub fn forward_logs(datapath: &mut Datapath) {
    let mut logger = match EbpfLogger::init(&mut datapath.ebpf) {
        Ok(logger) => logger,
        Err(aya_log::Error::MapNotFound) => return debug!("the programs were built without log lines"),
        Err(error) => return warn!(%error, "cannot read the programs' log lines"),
    };
    // A task of its own: aya-log 0.3 panics on a malformed record, and that must not take the agent with it.
    tokio::spawn(async move {
        let mut tick = interval(PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tick.tick().await;
            logger.flush();
        }
    });
}
