//! containerd on a node of the lab: Debian's, one instance per node, that starts real containers through the node's CNI configuration.
//!
//! Everything of an instance is below `<node>/runtime` ([`Place`]): root, state, socket, CNI directories, the containers' file system. It
//! runs in the node's network namespace and in a mount namespace of its own, where `/etc/cni/net.d`, `/opt/cni/bin`, `/var/lib/cni` and
//! `/run/containerd`, which `ctr` and the plugins have fixed, are the node's.
//!
//! No control group is made: they would be the machine's, and a killed lab would leave them there. So runc is told that it may not
//! (`--rootless`, which for root means just that), `/sys/fs/cgroup` is read-only, and containers have no limits.

mod container;
mod place;

pub use container::Container;
pub use place::Place;

use crate::agent::log_tail;
use crate::command;
use crate::netns::Ns;
use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How long containerd may take until it answers: it takes 20 ms on an idle machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// A node's containerd. Dropped, it and every container of it are killed.
#[derive(Debug)]
pub struct Containerd {
    place: Arc<Place>,
    daemon: Option<Child>,
}

impl Containerd {
    /// Furnishes the place of a node's containerd, below `directory`, and starts it. `bpffs`: what is `/sys/fs/bpf` to the plugins.
    ///
    /// # Errors
    /// It is not installed, or does not answer: the message quotes its log.
    pub fn start(ns: &Ns, directory: &Path, bpffs: Option<&Path>) -> anyhow::Result<Self> {
        let mut containerd = Self { place: Arc::new(Place::create(ns, directory, bpffs)?), daemon: None };
        containerd.resume()?;
        Ok(containerd)
    }

    /// Where it keeps everything.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Starts the daemon after [`Self::stop`] or [`Self::kill`]; containers that run are found again.
    ///
    /// # Errors
    /// It does not answer: the message quotes its log.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        let log = self.place.path("containerd.log");
        let output = File::options().create(true).append(true).open(&log).with_context(|| format!("open {}", log.display()))?;
        let mut command = self.place.command("containerd");
        command.arg("--config").arg(self.place.path("config.toml")).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let daemon = self.daemon.insert(command.spawn().with_context(|| format!("start `{}`", command::line(&command)))?);
        let (start, socket) = (Instant::now(), self.place.socket());
        while UnixStream::connect(&socket).is_err() {
            if let Some(status) = daemon.try_wait()? {
                bail!("containerd ended ({status}); its log:\n{}", log_tail(&log));
            }
            if start.elapsed() > PATIENCE {
                bail!("containerd does not answer after {PATIENCE:?}; its log:\n{}", log_tail(&log));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Stops the daemon as the machine's init does; containers run on. A `ctr` that stays with one takes its network away when it loses the
    /// daemon: only detached containers keep theirs.
    ///
    /// # Errors
    /// It does not run.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.end(Signal::SIGTERM)
    }

    /// Kills the daemon; otherwise as [`Self::stop`].
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.end(Signal::SIGKILL)
    }

    fn end(&mut self, signal: Signal) -> anyhow::Result<()> {
        let mut daemon = self.daemon.take().context("containerd does not run")?;
        kill(Pid::from_raw(i32::try_from(daemon.id())?), signal).context("signal containerd")?;
        daemon.wait().context("wait for containerd").map(drop)?;
        // The socket of a killed one stays, and would answer to nobody.
        let _ = fs::remove_file(self.place.socket());
        Ok(())
    }

    /// Starts a container and waits until its process runs, its network made. `ctr` stays with it, and tells the plugin when it ends.
    ///
    /// # Errors
    /// What `ctr` says, the CNI plugin's words among it. Nothing is left then but what the plugin left.
    pub fn run(&self, id: &str, process: &[&str]) -> anyhow::Result<Container> {
        Container::attached(&self.place, id, process)
    }

    /// Starts a container that nobody stays with: it outlives the daemon, and `ctr` forgets to tell the plugin of its end.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_detached(&self, id: &str, process: &[&str]) -> anyhow::Result<Container> {
        Container::detached(&self.place, id, process)
    }

    /// Its name and version.
    ///
    /// # Errors
    /// As [`command::run`].
    pub fn version(&self) -> anyhow::Result<String> {
        let line = command::run(self.place.command("containerd").arg("--version"))?;
        // "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1": name, module, version, revision.
        let version = line.split_whitespace().nth(2).with_context(|| format!("no version in {line}"))?;
        Ok(format!("containerd {version}"))
    }

    /// Runs `ctr` with the words of `arguments`, split at blanks.
    ///
    /// # Errors
    /// As [`command::run`].
    pub fn ctr(&self, arguments: &str) -> anyhow::Result<String> {
        command::run(self.place.ctr().args(arguments.split_whitespace()))
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // What cannot be ended now ends with the sandbox.
        let _ = self.kill();
        let bundles = fs::read_dir(self.place.bundles()).into_iter().flatten().flatten();
        let inits = bundles.filter_map(|bundle| fs::read_to_string(bundle.path().join("init.pid")).ok()?.trim().parse().ok());
        for pid in inits.chain(processes_in(&self.place.mounts())) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Every process in the mount namespace that the file stands for: containerd, its shims, `ctr`.
fn processes_in(mounts: &Path) -> Vec<i32> {
    let Ok(namespace) = fs::metadata(mounts).map(|metadata| metadata.ino()) else { return Vec::new() };
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(|pid: &i32| fs::metadata(format!("/proc/{pid}/ns/mnt")).is_ok_and(|metadata| metadata.ino() == namespace)).collect()
}

/// Runs a command to its end within a container's or a node's reach; only its exit code matters.
fn succeeds(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
