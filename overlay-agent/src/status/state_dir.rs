//! The state directory: `status.json`, and the lock that tells whether an agent runs.

use super::Status;
use crate::measure;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::hash::{DefaultHasher, Hasher as _};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Name of the status's file.
const STATUS: &str = "status.json";

/// The state directory of one agent.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Tells what this process wrote last to `status.json` from anything else, without keeping thousands of peers twice.
    written: Option<u64>,
}

/// The status cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// There is no status.
    #[error("there is no {}: no agent has run with this state directory (--state-dir)", .0.display())]
    Absent(PathBuf),
    /// The file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not a status this version knows.
    #[error("{} was written by another version of the agent: {source}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// The lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("another agent is running with the state directory {}", .0.display())]
    Held(PathBuf),
    /// The lock file cannot be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl StateDir {
    /// The state directory at `path`; nothing is created yet.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self { path, written: None }
    }

    /// Path of `status.json`.
    #[must_use]
    pub fn status_path(&self) -> PathBuf {
        self.path.join(STATUS)
    }

    fn lock_path(&self) -> PathBuf {
        self.path.join("agent.lock")
    }

    /// Takes the lock every running agent holds, so that there is one agent per state directory. It is held until the returned file is
    /// dropped; the kernel drops it with the process, however that ends.
    pub fn lock(&self) -> Result<File, LockError> {
        let io = |path: &Path, source| LockError::Io { path: path.to_owned(), source };
        self.create().map_err(|source| io(&self.path, source))?;
        let path = self.lock_path();
        let file = private().create(true).truncate(false).open(&path).map_err(|source| io(&path, source))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(LockError::Held(self.path.clone())),
            Err(TryLockError::Error(source)) => Err(io(&path, source)),
        }
    }

    /// Whether an agent runs.
    pub fn is_locked(&self) -> Result<bool, LockError> {
        let path = self.lock_path();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(LockError::Io { path, source }),
        };
        // Shared, so that two that ask at once do not take each other for the agent.
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(source)) => Err(LockError::Io { path, source }),
        }
    }

    /// Writes `status.json` if `status` is not what was last written. Returns whether it wrote.
    ///
    /// A reader sees the old file or the new one, never a part. Only root may read it: it tells the layout of the cluster.
    pub fn write(&mut self, status: &Status) -> Result<bool, StatusError> {
        let path = self.status_path();
        let digest = digest(status).map_err(|source| StatusError::Io { path: path.clone(), source })?;
        if self.written == Some(digest) && path.exists() {
            return Ok(false);
        }
        self.write_json(STATUS, status)?;
        self.written = Some(digest);
        Ok(true)
    }

    /// Puts a file of JSON in the place of the one there may be. A reader sees the old one or the new one.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), StatusError> {
        let path = self.path.join(name);
        self.replace(&path, name, value).map_err(|source| StatusError::Io { path, source })
    }

    fn replace(&self, path: &Path, name: &str, value: &impl Serialize) -> io::Result<()> {
        self.create()?;
        let temporary = self.path.join(temporary(name));
        // What is left of an agent that was killed here would keep its own mode.
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Never as a whole in memory: the status of a large cluster is megabytes.
        let mut file = BufWriter::new(private().create_new(true).open(&temporary)?);
        serde_json::to_writer_pretty(&mut file, value)?;
        file.write_all(b"\n")?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?;
        std::fs::rename(&temporary, path)
    }

    /// Reads `status.json`.
    pub fn read(&self) -> Result<Status, StatusError> {
        self.read_json(STATUS)
    }

    /// Reads a file of JSON.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<T, StatusError> {
        let path = self.path.join(name);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|source| StatusError::Foreign { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StatusError::Absent(path)),
            Err(source) => Err(StatusError::Io { path, source }),
        }
    }

    /// Removes what agents left in the state directory, and the directory if nothing else is in it.
    pub fn remove(&self) -> io::Result<()> {
        let files = [STATUS, measure::RECORD].map(|name| [name.to_owned(), temporary(name)]);
        for name in files.into_iter().flatten().chain(["agent.lock".to_owned()]) {
            match std::fs::remove_file(self.path.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        match std::fs::remove_dir(&self.path) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => Err(error),
            _ => Ok(()),
        }
    }

    fn create(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path)
    }
}

/// A number that equal values share, and no others in practice.
fn digest(value: &impl Serialize) -> io::Result<u64> {
    struct Digest(DefaultHasher);
    impl io::Write for Digest {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut writer = BufWriter::new(Digest(DefaultHasher::new()));
    serde_json::to_writer(&mut writer, value)?;
    Ok(writer.into_inner().map_err(io::IntoInnerError::into_error)?.0.finish())
}

/// Name a file has until it is whole.
fn temporary(name: &str) -> String {
    format!(".{name}.new")
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}
