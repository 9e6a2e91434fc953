//! Every row of docs/packets.md through the real programs in the kernel.
//!
//! Loads the eBPF object into the kernel once, fills its maps with a small cluster (`world`) and runs one packet per case with
//! `BPF_PROG_TEST_RUN`: the verdict, the one counter that moves and the bytes that come out are all compared with what the row says.
//! The packets and the expected bytes are built by `packet`, which shares no code with the project's own packet code.
//! Needs root, as loading programs does. `cargo xtask test prog` builds the object first.

#[path = "prog/case.rs"]
mod case;
#[path = "prog/host.rs"]
mod host;
#[path = "prog/kernel.rs"]
mod kernel;
#[path = "prog/packet.rs"]
mod packet;
#[path = "prog/pod.rs"]
mod pod;
#[path = "prog/stories.rs"]
mod stories;
#[path = "prog/underlay_inner.rs"]
mod underlay_inner;
#[path = "prog/underlay_outer.rs"]
mod underlay_outer;
#[path = "prog/world.rs"]
mod world;

use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use libtest_mimic::Arguments;
use nix::sched::{CloneFlags, unshare};

use case::{tc_trials, underlay_trials};
use kernel::{Kernel, Program};

fn main() -> Result<()> {
    let mut arguments = Arguments::from_args();
    // One object, one set of counters: the cases run one after the other, each in microseconds.
    arguments.test_threads = Some(1);

    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace of its own (this test needs root)")?;
    kernel::make_links()?;
    let kernel = Arc::new(Mutex::new(Kernel::load(&kernel::object()?)?));

    let mut trials = Vec::new();
    trials.extend(underlay_trials(&kernel, underlay_outer::cases()));
    trials.extend(underlay_trials(&kernel, underlay_inner::cases()));
    trials.extend(tc_trials(&kernel, Program::FromPod, pod::cases()));
    trials.extend(tc_trials(&kernel, Program::FromHost, host::cases()));
    trials.extend(stories::trials(&kernel));
    libtest_mimic::run(&arguments, trials).exit()
}
