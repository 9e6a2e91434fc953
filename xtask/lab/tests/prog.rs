//! Every row of docs/packets.md through the real programs in the kernel.
//!
//! Loads the eBPF object into the kernel once, fills its maps with a small cluster (`world`) and runs one packet per case with
//! `BPF_PROG_TEST_RUN`: the verdict, the one counter that moves and the bytes that come out are all compared with what the row says.
//! The packets and the expected bytes are built by `packet`, which shares no code with the project's own packet code.
//! Needs root, as loading programs does. `cargo xtask test prog` builds the object first.

#[path = "prog/case.rs"]
mod case;
#[path = "prog/direct.rs"]
mod direct;
#[path = "prog/host.rs"]
mod host;
#[path = "prog/kernel.rs"]
mod kernel;
#[path = "prog/links.rs"]
mod links;
#[path = "prog/mutations.rs"]
mod mutations;
#[path = "prog/oracle.rs"]
mod oracle;
#[path = "prog/packet.rs"]
mod packet;
#[path = "prog/pod.rs"]
mod pod;
#[path = "prog/stories.rs"]
mod stories;
#[path = "prog/table.rs"]
mod table;
#[path = "prog/underlay_inner.rs"]
mod underlay_inner;
#[path = "prog/underlay_inner_addresses.rs"]
mod underlay_inner_addresses;
#[path = "prog/underlay_outer.rs"]
mod underlay_outer;
#[path = "prog/wire.rs"]
mod wire;
#[path = "prog/world.rs"]
mod world;

use std::sync::{Arc, Mutex};

use anyhow::Result;
use libtest_mimic::Arguments;
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use case::{tc_trials, underlay_trials};
use kernel::{Kernel, Program};
use links::Namespace;

fn main() -> Result<()> {
    let mut arguments = Arguments::from_args();
    // One object, one set of counters: the cases run one after the other, each in microseconds.
    arguments.test_threads = Some(1);

    // One CPU: packets sent one after the other arrive in that order.
    let mut cpus = CpuSet::new();
    cpus.set(sched_getcpu()?)?;
    sched_setaffinity(Pid::from_raw(0), &cpus)?;

    let far = Namespace::new()?;
    let here = Namespace::new()?;
    let wire = wire::connect(&here, &far)?;
    let oracle = oracle::connect(&here, &far)?;
    let kernel = Arc::new(Mutex::new(Kernel::load(&kernel::object()?)?));

    let underlay = [underlay_outer::cases(), underlay_inner::cases(), underlay_inner_addresses::cases()];
    let underlay: Vec<_> = underlay.into_iter().flatten().map(Arc::new).collect();
    let direct: Vec<_> = direct::received().into_iter().map(Arc::new).collect();
    let pod: Vec<_> = pod::cases().into_iter().chain(direct::sent()).map(Arc::new).collect();
    let host: Vec<_> = host::cases().into_iter().map(Arc::new).collect();
    let mut trials = Vec::new();
    trials.extend(underlay_trials(&kernel, &underlay));
    trials.extend(underlay_trials(&kernel, &direct));
    trials.extend(tc_trials(&kernel, Program::FromPod, &pod));
    trials.extend(tc_trials(&kernel, Program::FromHost, &host));
    trials.extend(stories::trials(&kernel));
    trials.push(mutations::trial(&kernel, &underlay));
    trials.extend(wire::trials(&kernel, wire, &[&underlay[..], &direct[..]].concat(), &pod));
    trials.extend(table::trials(&[&underlay, &direct, &pod, &host]));
    trials.extend(oracle::trials(oracle, &underlay));
    libtest_mimic::run(&arguments, trials).exit()
}
