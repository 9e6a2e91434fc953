//! The sandbox everything of the lab lives in: a PID, mount, network, UTS and IPC namespace of its own.
//!
//! [`enter`] forks twice: the caller's process stays outside and waits, its child becomes PID 1 of the sandbox (it reaps and forwards
//! signals), and the grandchild returns from `enter` as the program. When PID 1 ends, for whatever reason, the kernel kills every process
//! of its PID namespace, and with the last of them go the mounts, the network namespaces and the pinned BPF objects. PID 1 dies with the
//! process outside (`PR_SET_PDEATHSIG`), so a `kill -9` of the program leaves nothing behind.
//!
//! Nothing outside is touched: mounts are private before the first one is made, and the network namespace starts empty.

use anyhow::{Context as _, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pipe};
use std::fs;
use std::process::exit;

/// Where the lab keeps everything it writes: on the sandbox's own tmpfs.
pub const ROOT: &str = "/run/overlay";

/// Whether this process may make namespaces and load BPF programs.
#[must_use]
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The sandbox this process is in.
#[derive(Clone, Copy, Debug)]
pub struct Sandbox {
    /// PID of the sandbox's PID 1 as the process that called [`enter`] sees it: what `nsenter -t` wants from outside.
    pub init: i32,
}

/// Moves the program into a new sandbox. Call it first thing in `main`, before any thread exists.
///
/// Returns in the process that goes on as the program; the process that called lives on outside only to forward SIGINT, SIGTERM and
/// SIGHUP and to pass on the exit code. The working directory, the open files and the arguments are the caller's.
///
/// # Errors
/// Not root, more than one thread, or the kernel refuses a namespace or a mount.
pub fn enter() -> anyhow::Result<Sandbox> {
    ensure!(is_root(), "the lab makes network namespaces and loads BPF programs: run it as root (sudo)");
    let watched = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD]);
    // Blocked before the first fork, so that no signal is lost between a fork and the loop that waits for it.
    let mut original = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&watched), Some(&mut original)).context("block signals")?;
    unshare(CloneFlags::CLONE_NEWPID).context("make a PID namespace")?;

    let (go_receive, go_send) = pipe().context("make a pipe")?;
    if let Some(init) = fork_alone()? {
        drop(go_receive);
        // Tells the child its own PID and that this process still lives. Were it killed before the child asked for the death signal, the
        // child would read the end of the file instead.
        nix::unistd::write(&go_send, &init.as_raw().to_ne_bytes()).context("start the sandbox")?;
        exit(supervise(init, &watched));
    }
    drop(go_send);
    prctl::set_pdeathsig(Signal::SIGKILL).context("ask to die with the parent")?;
    let mut own_pid = [0; size_of::<i32>()];
    if nix::unistd::read(&go_receive, &mut own_pid).context("wait for the parent")? != own_pid.len() {
        exit(1);
    }
    drop(go_receive);

    // From here on this is PID 1.
    furnish().context("set up the sandbox")?;
    if let Some(program) = fork_alone()? {
        exit(supervise(program, &watched));
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&original), None).context("restore the signal mask")?;
    Ok(Sandbox { init: i32::from_ne_bytes(own_pid) })
}

/// Forks a process that has one thread: `Some(child)` in the parent, `None` in the child.
fn fork_alone() -> anyhow::Result<Option<Pid>> {
    let threads = fs::read_dir("/proc/self/task").context("count threads")?.count();
    ensure!(threads == 1, "the sandbox must be entered before the first of {threads} threads is started");
    // SAFETY: the child may only call async-signal-safe functions if the parent has other threads, whose locks it would inherit locked. It
    // has none: counted above.
    match unsafe { fork() }.context("fork")? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// Waits for `child`, forwarding signals to it and reaping every other process that is handed to this one. Returns the exit code to pass
/// on: the child's, or 128 + the signal that ended it, as a shell says it.
fn supervise(child: Pid, watched: &SigSet) -> i32 {
    loop {
        match watched.wait() {
            Ok(Signal::SIGCHLD) => {
                if let Some(code) = reap(child) {
                    return code;
                }
            }
            // The child may have just ended: then there is nobody to forward to, and SIGCHLD is next.
            Ok(signal) => drop(kill(child, signal)),
            Err(_) => {}
        }
    }
}

/// Collects ended children; the exit code when `child` is among them. One SIGCHLD may stand for several children.
fn reap(child: Pid) -> Option<i32> {
    let mut code = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == child => code = Some(status),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => code = Some(128 + signal as i32),
            Ok(WaitStatus::StillAlive) | Err(_) => return code,
            Ok(_) => {}
        }
    }
}

/// Where overlay-cni keeps what it knows, unless it is told another place.
const MACHINES_PODS: &str = "/var/lib/overlay";

/// The namespaces and mounts of the sandbox, made by its PID 1.
fn furnish() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC)
        .context("make mount, network, UTS and IPC namespaces")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).context("make mounts private")?;
    let closed = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/run")] {
        mount(Some(kind), target, Some(kind), closed, None::<&str>).with_context(|| format!("mount {kind} on {target}"))?;
    }
    // The records of this machine's own pods: an agent of the lab that is not told of its own would take them for pods that are gone.
    if std::path::Path::new(MACHINES_PODS).is_dir() {
        mount(Some("tmpfs"), MACHINES_PODS, Some("tmpfs"), closed, None::<&str>).with_context(|| format!("hide {MACHINES_PODS}"))?;
    }
    nix::unistd::sethostname("overlay-lab").context("set the host name")?;
    for directory in ["/run/netns", "/run/lock", ROOT] {
        fs::create_dir_all(directory).with_context(|| format!("create {directory}"))?;
    }
    crate::netns::set_loopback_up()
}
