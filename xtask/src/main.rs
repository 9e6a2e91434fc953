//! The project's verbs: `cargo xtask <verb>`.
//!
//! This file is only the list; each verb has a file of its own. xtask stays small enough to compile in seconds: it depends on none of the
//! project's crates and starts them as programs.

mod bench;
mod btf;
mod build;
mod build_ebpf;
mod ci;
mod demo;
mod kernels;
mod lab;
mod lint;
mod manifests;
mod object;
mod place;
mod refusal;
mod setup;
mod step;
mod test;
mod toolchain;

use clap::Parser;
use std::process::ExitCode;

/// Builds, runs, tests and checks the overlay network.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, arg_required_else_help = true)]
enum Verb {
    Setup(setup::Args),
    BuildEbpf(build_ebpf::Args),
    Build(build::Args),
    Demo(demo::Args),
    Bench(bench::Args),
    Test(test::Args),
    Manifests(manifests::Args),
    Lint(lint::Args),
    Ci(ci::Args),
}

fn main() -> ExitCode {
    let done = match Verb::parse() {
        Verb::Setup(args) => setup::run(&args),
        Verb::BuildEbpf(args) => build_ebpf::run(&args),
        Verb::Build(args) => build::run(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Manifests(args) => manifests::run(&args),
        Verb::Lint(args) => lint::run(&args),
        Verb::Ci(args) => ci::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refusal::report(&error),
    }
}
