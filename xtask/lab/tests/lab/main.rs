//! What the overlay must do, each as a sentence, on real links with the real agent.
//!
//! `cargo test -p overlay-lab --test lab` as root; a filter such as `-- routed` picks. Cases of a group share one lab, which is built when
//! the first of them runs. What is measured and not only checked is printed at the end.

mod addresses;
mod agent;
mod backends;
mod bed;
mod bench;
mod bytes;
mod changes;
mod check;
mod cni;
mod containerd;
mod detour;
mod direct;
mod directions;
mod endpoint;
mod faults;
mod faults_watch;
mod foreign_pair;
mod harness;
mod in_container;
mod kubernetes;
mod kubernetes_server;
mod leaving;
mod leftovers;
mod load;
mod measure;
mod mixed;
mod mtu;
mod neighbours;
mod nested;
mod outage;
mod packet_filter;
mod restart;
mod service_rules;
mod services;
mod trace;
mod traces;
mod wire;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let mut args = Arguments::from_args();
    // Names of namespaces are fixed: one lab at a time.
    args.test_threads = Some(1);
    if !args.list
        && let Err(error) = overlay_lab::sandbox::enter()
    {
        eprintln!("{error:#}");
        std::process::exit(1);
    }
    let groups = [foreign_pair::groups(), directions::groups(), wire::groups(), mtu::groups(), changes::groups(), restart::groups()];
    let more = [
        services::groups(),
        backends::groups(),
        detour::groups(),
        direct::groups(),
        leaving::groups(),
        packet_filter::groups(),
        nested::groups(),
        agent::groups(),
        neighbours::groups(),
        kubernetes::groups(),
        addresses::groups(),
        mixed::groups(),
        faults::groups(),
        measure::groups(),
        cni::groups(),
    ];
    let mut trials: Vec<Trial> = groups.into_iter().chain(more).flatten().flat_map(harness::Group::into_trials).collect();
    trials.extend(
        [containerd::groups(), leftovers::groups(), endpoint::groups(), in_container::groups()]
            .into_iter()
            .flatten()
            .flat_map(harness::Group::into_trials),
    );
    trials.extend(load::trials());
    trials.extend(traces::trials());
    trials.extend(bench::trials());
    trials.extend(bed::trials());
    trials.extend(containerd::trials());
    let conclusion = libtest_mimic::run(&args, trials);
    harness::print_notes();
    conclusion.exit();
}
