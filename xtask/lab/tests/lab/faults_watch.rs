//! Looks at the maps all the while something is wrong, and remembers every entry that was ever missing.

use anyhow::Context as _;
use ipnet::Ipv4Net;
use overlay_agent::datapath::{PinDir, Tables};
use overlay_lab::lab::Lab;
use overlay_lab::nodes::NodeEntry;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// A guard that runs.
pub(crate) struct Guard {
    done: Arc<AtomicBool>,
    watching: JoinHandle<anyhow::Result<BTreeSet<String>>>,
}

impl Guard {
    /// Begins to look, on every node, for the pod networks of all other entries.
    pub(crate) fn start(lab: &Lab, entries: &[NodeEntry]) -> anyhow::Result<Self> {
        let mut looks = Vec::new();
        for node in &lab.nodes {
            let others = entries.iter().filter(|entry| entry.name != node.name).filter_map(|entry| entry.pod_cidr.as_ref()?.parse().ok());
            let others: Vec<Ipv4Net> = others.collect();
            looks.push((node.name.clone(), Tables::open(&PinDir::new(&node.config.bpffs))?, others));
        }
        let done = Arc::new(AtomicBool::new(false));
        let watching = thread::spawn({
            let done = Arc::clone(&done);
            move || {
                let mut missing = BTreeSet::new();
                while !done.load(Ordering::Relaxed) {
                    for (name, tables, others) in &looks {
                        let found: BTreeSet<Ipv4Net> = tables.subnets().with_context(|| name.clone())?.into_keys().collect();
                        missing.extend(others.iter().filter(|net| !found.contains(net)).map(|net| format!("{net} on {name}")));
                    }
                    thread::sleep(PAUSE);
                }
                Ok(missing)
            }
        });
        Ok(Self { done, watching })
    }

    /// Ends it; every entry that was missing at any look.
    pub(crate) fn stop(self) -> anyhow::Result<BTreeSet<String>> {
        self.done.store(true, Ordering::Relaxed);
        self.watching.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
