//! A container: busybox's file system and a process, started by `ctr run --cni`.

use super::place::Place;
use super::succeeds;
use crate::command;
use anyhow::{Context as _, bail, ensure};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Prints a line when the container's process begins, which is after its network was made, and becomes the process.
const ANNOUNCED: [&str; 4] = ["sh", "-c", "echo started; exec \"$@\"", "sh"];

/// A running container. Dropped, it is killed.
#[derive(Debug)]
pub struct Container {
    place: Arc<Place>,
    id: String,
    /// `ctr`, which waits for its end; none: nobody does.
    attendant: Option<Child>,
    pid: i32,
    executed: AtomicU64,
}

impl Container {
    pub(super) fn attached(place: &Arc<Place>, id: &str, process: &[&str]) -> anyhow::Result<Self> {
        let mut command = run(place, id, &["--rm"]);
        command.args(ANNOUNCED).args(process).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut ctr = command.spawn().with_context(|| format!("start `{}`", command::line(&command)))?;
        let mut line = String::new();
        if let Some(stdout) = &mut ctr.stdout {
            BufReader::new(stdout).read_line(&mut line).context("wait for the container")?;
        }
        if line != "started\n" {
            let mut said = String::new();
            if let Some(stderr) = &mut ctr.stderr {
                stderr.read_to_string(&mut said).context("read what ctr says")?;
            }
            let status = ctr.wait().context("wait for ctr")?;
            discard(place, id);
            bail!("container {id} was not started: {}", if said.is_empty() { status.to_string() } else { said.trim().to_owned() });
        }
        Self::of(place, id, Some(ctr))
    }

    pub(super) fn detached(place: &Arc<Place>, id: &str, process: &[&str]) -> anyhow::Result<Self> {
        let mut command = run(place, id, &["--detach", "--null-io"]);
        if let Err(error) = command::run(command.args(process)) {
            discard(place, id);
            return Err(error.context(format!("container {id} was not started")));
        }
        Self::of(place, id, None)
    }

    fn of(place: &Arc<Place>, id: &str, attendant: Option<Child>) -> anyhow::Result<Self> {
        let mut container = Self { place: Arc::clone(place), id: id.to_owned(), attendant, pid: 0, executed: AtomicU64::new(0) };
        let file = place.bundles().join(id).join("init.pid");
        let pid = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        container.pid = pid.trim().parse().with_context(|| format!("{pid} in {}", file.display()))?;
        Ok(container)
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its first process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Runs a program in the container, its words split at blanks, and returns what it printed.
    ///
    /// # Errors
    /// As [`command::run`].
    pub fn exec(&self, words: &str) -> anyhow::Result<String> {
        let number = self.executed.fetch_add(1, Ordering::Relaxed);
        let mut ctr = self.place.ctr();
        ctr.args(["task", "exec", "--exec-id", &format!("exec-{number}"), &self.id]).args(words.split_whitespace());
        command::run(&mut ctr)
    }

    /// Ends the container and waits until everything of it is gone; if `ctr` is with it, it has told the plugin.
    ///
    /// # Errors
    /// It is gone already, or `ctr` complains, as it does when the plugin does.
    pub fn remove(mut self) -> anyhow::Result<()> {
        command::run(self.place.ctr().args(["task", "kill", "--signal", "SIGKILL", &self.id]))?;
        let Some(mut ctr) = self.attendant.take() else {
            // Waits for the process, and ends with its exit code.
            let _ = succeeds(self.place.ctr().args(["task", "delete", "--force", &self.id]));
            command::run(self.place.ctr().args(["container", "delete", &self.id]))?;
            return Ok(());
        };
        let mut said = String::new();
        if let Some(stderr) = &mut ctr.stderr {
            stderr.read_to_string(&mut said).context("read what ctr says")?;
        }
        let status = ctr.wait().context("wait for ctr")?;
        // It ends with the exit code of the container's process, which was killed.
        ensure!(status.code() == Some(137) && said.is_empty(), "ctr ended with {status} and said: {}", said.trim());
        ensure!(!self.place.bundles().join(&self.id).exists(), "containerd still has container {}", self.id);
        Ok(())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let Self { place, id, attendant, .. } = self;
        let bundle = place.bundles().join(&*id);
        if bundle.exists() {
            let _ = succeeds(place.ctr().args(["task", "kill", "--signal", "SIGKILL", id]));
        }
        if let Some(mut ctr) = attendant.take() {
            // It ends with the container; while containerd is away it does not learn of that.
            if bundle.exists() && !place.socket().exists() {
                let _ = ctr.kill();
            }
            let _ = ctr.wait();
        }
        // Nobody stayed with it, or not to its end.
        if bundle.exists() {
            discard(place, id);
        }
    }
}

/// `ctr run` up to the container's process.
fn run(place: &Place, id: &str, flags: &[&str]) -> Command {
    let mut command = place.ctr();
    command.arg("run").args(place.run_flags()).args(flags).arg(place.rootfs()).arg(id);
    command
}

/// Removes what is left of a container, if anything is.
fn discard(place: &Place, id: &str) {
    let _ = succeeds(place.ctr().args(["task", "delete", "--force", id]));
    let _ = succeeds(place.ctr().args(["container", "delete", id]));
}
