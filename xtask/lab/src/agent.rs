//! The agent's process on one node: started, watched until it is ready, stopped, killed, and quoted when something fails.

use crate::command;
use crate::netns::Ns;
use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use overlay_agent::status::{StateDir, Status};
use serde_json::Value;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How VXLAN is received: the agent's `--receive-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ReceiveMode {
    /// The agent chooses.
    Auto,
    /// Native XDP.
    Xdp,
    /// Native XDP, and from there straight into the pod. Right only where the underlay carries packets with their checksums filled in.
    XdpRedirect,
    /// TC ingress.
    Tc,
    /// The kernel's vxlan device.
    Kernel,
}

impl ReceiveMode {
    /// The rungs of the ladder that are right on any underlay, the virtual one of the lab too.
    pub const RUNGS: [Self; 3] = [Self::Xdp, Self::Tc, Self::Kernel];

    /// Every mode but the agent's own choice.
    pub const FORCED: [Self; 4] = [Self::Xdp, Self::XdpRedirect, Self::Tc, Self::Kernel];

    /// The word the agent knows it by.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Xdp => "xdp",
            Self::XdpRedirect => "xdp-redirect",
            Self::Tc => "tc",
            Self::Kernel => "kernel",
        }
    }
}

/// What an agent is started with.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The program; none: the one of this build, see [`binary`].
    pub binary: Option<PathBuf>,
    /// `--node-name`.
    pub node_name: String,
    /// `--nodes-file`; none: `extra` says where the nodes come from.
    pub nodes_file: Option<PathBuf>,
    /// `--bpffs`.
    pub bpffs: PathBuf,
    /// `--state-dir`.
    pub state_dir: PathBuf,
    /// Its records of pods.
    pub pods_dir: PathBuf,
    /// `--receive-mode`.
    pub receive_mode: ReceiveMode,
    /// Further flags.
    pub extra: Vec<String>,
}

impl AgentConfig {
    /// Tells a verb of the agent where everything of this node is. The records of pods by environment: an older build, which a bench may
    /// run beside this one, knows no flag for them.
    pub fn aim<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.arg("--bpffs").arg(&self.bpffs).arg("--state-dir").arg(&self.state_dir).env("OVERLAY_PODS_DIR", &self.pods_dir)
    }

    /// The program to run on this node: the agent itself, or one of its other verbs.
    ///
    /// # Errors
    /// There is no such file.
    pub fn program(&self) -> anyhow::Result<PathBuf> {
        let Some(path) = &self.binary else { return binary() };
        ensure!(path.is_file(), "there is no agent {}", path.display());
        Ok(path.clone())
    }
}

/// A running agent; dropped, it is killed.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    log: PathBuf,
}

impl Agent {
    /// Starts the agent in the node's namespace. Its output is appended to `agent.log` in the state directory.
    ///
    /// # Errors
    /// There is no agent binary, see [`binary`].
    pub fn start(ns: &Ns, config: &AgentConfig) -> anyhow::Result<Self> {
        let binary = config.program()?;
        let log = config.state_dir.join("agent.log");
        let output = File::options().create(true).append(true).open(&log).with_context(|| format!("open {}", log.display()))?;
        // A status left by an earlier agent would pass for this one's.
        let _ = fs::remove_file(config.state_dir.join("status.json"));
        let mut command = ns.command(&binary);
        command.args(["run", "--node-name", &config.node_name, "--receive-mode", config.receive_mode.name()]);
        if let Some(path) = &config.nodes_file {
            command.arg("--nodes-file").arg(path);
        }
        config.aim(&mut command).args(&config.extra).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("start `{}`", command::line(&command)))?;
        Ok(Self { child, log })
    }

    /// Waits until the agent says in its status that one whole pass succeeded.
    ///
    /// # Errors
    /// It ends, or is not ready in time: the message quotes its log.
    pub fn wait_ready(&mut self, state_dir: &Path, timeout: Duration) -> anyhow::Result<Status> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the agent ended ({status}); its log:\n{}", log_tail(&self.log));
            }
            let status = StateDir::new(state_dir.to_owned()).read();
            if let Ok(status) = &status
                && is_ready(status)
            {
                return Ok(status.clone());
            }
            if start.elapsed() > timeout {
                bail!("the agent is not ready after {timeout:?}; its status: {status:?}; its log:\n{}", log_tail(&self.log));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks the agent to stop (SIGTERM) and waits for its end.
    ///
    /// # Errors
    /// It does not end within ten seconds, or ends with another code than 0.
    pub fn stop(mut self) -> anyhow::Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid())?), Signal::SIGTERM).context("signal the agent")?;
        let status = self.wait_end(Duration::from_secs(10))?;
        ensure!(status.success(), "the agent stopped with {status}; its log:\n{}", log_tail(&self.log));
        Ok(())
    }

    /// Kills the agent (SIGKILL): it gets no chance to clean up.
    ///
    /// # Errors
    /// It is not there any more.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().context("kill the agent")?;
        self.child.wait().context("wait for the killed agent").map(drop)
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Its process: `nsenter` executes the agent in its own place, so this is the agent itself.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_end(&mut self, timeout: Duration) -> anyhow::Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(start.elapsed() < timeout, "the agent does not end; its log:\n{}", log_tail(&self.log));
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Either fails only when the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The agent's binary: `$OVERLAY_AGENT`, or `overlay-agent` in the build directory this program is in.
///
/// # Errors
/// There is no such file.
pub fn binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("OVERLAY_AGENT") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "$OVERLAY_AGENT names {}, and there is no such file", path.display());
        return Ok(path);
    }
    sibling("overlay-agent")
}

/// A binary of this workspace, next to the current executable: `target/debug/NAME` from `target/debug/…` as well as from
/// `target/debug/deps/…`, where tests are.
///
/// # Errors
/// It has not been built.
pub fn sibling(name: &str) -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe().context("find the current executable")?;
    let candidates = here.ancestors().skip(1).take(2).map(|directory| directory.join(name));
    let Some(found) = candidates.clone().find(|path| path.is_file()) else {
        let tried: Vec<String> = candidates.map(|path| path.display().to_string()).collect();
        bail!("{name} is not built (looked for {}): run `cargo xtask build`", tried.join(" and "));
    };
    Ok(found)
}

/// Whether one whole pass over a node that is in the list has succeeded.
pub(crate) fn is_ready(status: &Status) -> bool {
    status.node.is_some() && status.receive.is_some() && status.last_pass.as_ref().is_some_and(|pass| pass.errors.is_empty())
}

/// The last lines of an agent's log.
#[must_use]
pub fn log_tail(log: &Path) -> String {
    const LINES: usize = 40;
    match fs::read_to_string(log) {
        Ok(text) => {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(LINES)..].iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
        }
        Err(error) => format!("    {}: {error}", log.display()),
    }
}

/// What `overlay-agent status --output json` says on a node: works from status file and pins, with or without a running agent.
///
/// # Errors
/// The command fails or prints no JSON.
pub fn status(ns: &Ns, config: &AgentConfig) -> anyhow::Result<Value> {
    let mut command: Command = ns.command(config.program()?);
    config.aim(command.args(["status", "--output", "json"]));
    // Degraded (exit code 3) is an answer too.
    let output = command::output(&mut command)?;
    serde_json::from_slice(&output.stdout).with_context(|| {
        format!("`{}` ({}) printed no JSON: {}", command::line(&command), output.status, String::from_utf8_lossy(&output.stderr).trim())
    })
}
