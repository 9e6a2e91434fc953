//! Network namespaces: opening them, making nameless ones, and running code inside.
//!
//! `setns` changes one thread. It is only ever called on threads made here for that purpose, which end afterwards: a thread of an
//! async runtime that stayed in the wrong namespace would later run somebody else's task there.

use super::Error;
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::thread;

/// The calling thread's own network namespace; `/proc/self` would name the main thread's.
const CURRENT: &str = "/proc/thread-self/ns/net";

/// A network namespace, held open: it exists at least as long as this value.
#[derive(Debug)]
pub struct Namespace {
    file: OwnedFd,
    name: String,
}

impl Namespace {
    /// Opens the namespace bound to a path, such as `/run/netns/NAME` or `/proc/PID/ns/net`.
    ///
    /// Fails with [`Error::Namespace`], whose source is `NotFound` if there is none.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_as(path, path.display().to_string())
    }

    /// The namespace of the calling thread.
    ///
    /// Fails with [`Error::Namespace`].
    pub fn current() -> Result<Self, Error> {
        Self::open_as(Path::new(CURRENT), "of this thread".to_owned())
    }

    /// Makes a namespace without a name: it is gone when this value and everything in it are.
    ///
    /// Fails with [`Error::Namespace`]; needs `CAP_SYS_ADMIN`.
    pub fn create() -> Result<Self, Error> {
        on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|errno| Error::Namespace { what: "make a network namespace".to_owned(), source: errno.into() })?;
            Self::open_as(Path::new(CURRENT), "without a name".to_owned())
        })
    }

    fn open_as(path: &Path, name: String) -> Result<Self, Error> {
        match File::open(path) {
            Ok(file) => Ok(Self { file: file.into(), name }),
            Err(source) => Err(Error::Namespace { what: format!("open network namespace {name}"), source }),
        }
    }

    /// Runs `work` inside the namespace, on a thread of its own, and waits for it. Meant for short work.
    ///
    /// Files below `/proc/sys/net` opened by `work` are the namespace's: procfs looks at the namespace of the calling thread.
    /// Fails with [`Error::Namespace`] if the namespace cannot be entered. A panic of `work` continues in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        on_own_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET)
                .map_err(|errno| Error::Namespace { what: format!("enter network namespace {}", self.name), source: errno.into() })?;
            Ok(work())
        })
    }

    /// What messages call it: its path, if it was opened by one.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl From<OwnedFd> for Namespace {
    /// From a descriptor that was passed in. Whether it is one of a network namespace shows when it is entered.
    fn from(file: OwnedFd) -> Self {
        Self { name: format!("behind descriptor {}", file.as_raw_fd()), file }
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Namespace {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Runs `work` on a new thread, which starts in the caller's namespace and ends with it.
fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, work)
            .map_err(|source: io::Error| Error::Namespace { what: "start a thread to enter a network namespace".to_owned(), source })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
