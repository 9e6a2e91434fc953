//! `overlay-cni`: the CNI plugin. Everything is in [`overlay_agent::cni`]; here are standard input, output and error, and the exit code.

use overlay_agent::cni::{self, request::Environment};
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use tracing::Level;

fn main() -> ExitCode {
    // Runtimes keep standard error for people, and most show it only when a call failed.
    tracing_subscriber::fmt()
        .with_max_level(Level::WARN)
        .with_writer(std::io::stderr)
        .with_target(false)
        .without_time()
        .with_ansi(false)
        .init();
    let environment = Environment::from(|name| std::env::var_os(name));
    if environment.command().is_err() && std::io::stdin().is_terminal() {
        eprintln!(
            "overlay-cni {}: a CNI plugin; container runtimes start it, with CNI_COMMAND in its environment",
            env!("CARGO_PKG_VERSION")
        );
        return ExitCode::FAILURE;
    }
    let answer = cni::answer(&environment, std::io::stdin().lock());
    let printed = answer.output.is_none_or(|output| writeln!(std::io::stdout(), "{output}").is_ok());
    if answer.success && printed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
