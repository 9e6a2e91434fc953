//! Runs `nft` and the iptables programs. Whoever has none of them is told the package.

use std::io;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

/// How long one may take: legacy iptables waits for whoever holds its lock.
const PATIENCE: Duration = Duration::from_secs(10);

/// A program did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It is not installed.
    #[error("{program} is not installed; install the package {package}")]
    Missing {
        /// Its name.
        program: &'static str,
        /// The package that has it, on Debian and most others.
        package: &'static str,
    },
    /// It cannot be run, or not to its end.
    #[error("cannot run {command}: {source}")]
    Run {
        /// Name and arguments.
        command: String,
        /// Why not.
        source: io::Error,
    },
    /// It said no.
    #[error("{command} failed: {reason}")]
    Refused {
        /// Name and arguments.
        command: String,
        /// What it said, on one line.
        reason: String,
    },
}

/// Runs a program with `input` as its standard input and returns what it printed.
pub(super) async fn run(program: &'static str, arguments: &[&str], input: &str) -> Result<String, ToolError> {
    let told = || format!("{program} {}", arguments.join(" "));
    let mut command = Command::new(program);
    // Messages are looked at: they are to be in one language.
    command.args(arguments).env("LC_ALL", "C").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ToolError::Missing { program, package: if program == "nft" { "nftables" } else { "iptables" } },
        _ => ToolError::Run { command: told(), source },
    })?;
    let stdin = child.stdin.take();
    let work = async {
        if let Some(mut stdin) = stdin {
            // One that ends early says why, which tells more than the broken pipe.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let finished = timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let output = finished.map_err(|source| ToolError::Run { command: told(), source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Err(ToolError::Refused { command: told(), reason: if lines.is_empty() { output.status.to_string() } else { lines.join("; ") } })
}
