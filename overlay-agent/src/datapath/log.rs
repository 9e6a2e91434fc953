//! Forwards the log lines of an object built with `cargo xtask build-ebpf --log`. The released object has none.

use super::Datapath;
use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::{debug, warn};

/// Spawns a task that prints the programs' log lines, if they have any. Needs a tokio runtime.
pub fn forward_logs(datapath: &mut Datapath) {
    let logger = match EbpfLogger::init(&mut datapath.ebpf) {
        Ok(logger) => logger,
        Err(aya_log::Error::MapNotFound) => return debug!("the programs were built without log lines"),
        Err(error) => return warn!(%error, "cannot read the programs' log lines"),
    };
    let mut lines = match AsyncFd::with_interest(logger, Interest::READABLE) {
        Ok(lines) => lines,
        Err(error) => return warn!(%error, "cannot wait for the programs' log lines"),
    };
    // A task of its own: aya-log 0.3 panics on a malformed record, and that must not take the agent with it.
    tokio::spawn(async move {
        while let Ok(mut ready) = lines.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
}
