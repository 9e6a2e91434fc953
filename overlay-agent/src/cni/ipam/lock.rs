//! One file, two kinds of locks: on the store, for the moment of a change; and on one container's device, for a whole verb.
//!
//! A lock is a byte of `lock` (`F_OFD_SETLKW`): the first is the store's, one of the others stands for a device, by hash. Two devices that
//! share a byte wait for each other and no more. The kernel drops a lock with the process, however that ends, and no file is left behind.

use super::error::{StoreError, failed};
use crate::cni::request::Key;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Name of the lock file.
const NAME: &str = "lock";

/// Nobody else works on this device of this container while it is held.
#[derive(Debug)]
#[must_use]
pub struct AttachmentLock {
    _file: File,
}

/// Nobody else changes the store while it is held.
#[derive(Debug)]
#[must_use]
pub(super) struct StoreLock {
    _file: File,
}

impl AttachmentLock {
    /// Waits for the lock.
    pub(super) fn wait(directory: &Path, key: &Key) -> Result<Self, StoreError> {
        let file = open(directory)?;
        set(&file, byte_of(key), true).map_err(|errno| refused(directory, errno))?;
        Ok(Self { _file: file })
    }

    /// Takes the lock if nobody has it.
    pub(super) fn attempt(directory: &Path, key: &Key) -> Result<Option<Self>, StoreError> {
        let file = open(directory)?;
        match set(&file, byte_of(key), false) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
            Err(errno) => Err(refused(directory, errno)),
        }
    }
}

impl StoreLock {
    /// Waits for the lock.
    pub(super) fn wait(directory: &Path) -> Result<Self, StoreError> {
        let file = open(directory)?;
        set(&file, 0, true).map_err(|errno| refused(directory, errno))?;
        Ok(Self { _file: file })
    }
}

fn open(directory: &Path) -> Result<File, StoreError> {
    let path = directory.join(NAME);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(&path).map_err(failed("open", &path))
}

fn set(file: &File, byte: i64, wait: bool) -> Result<(), Errno> {
    // Both constants are 1 and 0: C gives them a wider type than the field.
    let (l_type, l_whence) = (i16::try_from(libc::F_WRLCK).unwrap_or(1), i16::try_from(libc::SEEK_SET).unwrap_or(0));
    let lock = libc::flock { l_type, l_whence, l_start: byte, l_len: 1, l_pid: 0 };
    loop {
        let request = if wait { FcntlArg::F_OFD_SETLKW(&lock) } else { FcntlArg::F_OFD_SETLK(&lock) };
        match fcntl(file, request) {
            Err(Errno::EINTR) => {}
            result => return result.map(drop),
        }
    }
}

fn refused(directory: &Path, errno: Errno) -> StoreError {
    failed("lock", &directory.join(NAME))(errno.into())
}

/// The byte that stands for a device: any but the first, within what an offset can say.
fn byte_of(key: &Key) -> i64 {
    i64::try_from(key.hash() >> 2).unwrap_or_default() + 1
}
