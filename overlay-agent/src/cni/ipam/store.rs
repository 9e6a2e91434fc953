//! The records of this node's pods: one file, replaced as a whole.
//!
//! The file's name carries the boot id of the kernel, because no pod outlives the kernel that ran it: after a reboot there is no file of
//! the new name, every address is free again, and the old file is removed unread. That is also why nothing is flushed to the disk: a
//! process that is killed leaves what it wrote to the kernel, and a kernel that dies makes the file void. Readers see the old file or the
//! new one, never a part.
//!
//! Order: a record is written before anything of its pod is made, and removed when nothing is left. Whatever moment a process is killed
//! at, what it made has a record, by which DEL, GC or the agent's sweep takes it back.

use super::error::failed;
use super::lock::{AttachmentLock, StoreLock};
use super::{PodRecord, Pool, StoreError};
use crate::cni::request::Key;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Layout of the file.
const LAYOUT: u32 = 1;
/// How the names of the files begin; the boot id follows.
const PREFIX: &str = "pods-";
/// The next file, until it takes the place of the old one.
const NEXT: &str = ".pods.new";
/// The kernel's own id: another one after each boot (Documentation/admin-guide/sysctl/kernel.rst).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The records of one node, in one directory.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
}

/// Which address a pod shall have.
#[derive(Clone, Copy, Debug)]
pub enum Choice<'a> {
    /// The next free one of the pool.
    Next(&'a Pool),
    /// This one of the pool.
    Asked(&'a Pool, Ipv4Addr),
    /// This one, which another plugin gave.
    Given(Ipv4Addr),
}

/// What [`Store::reserve`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// A new record is written.
    New(PodRecord),
    /// The device has a record already, which is left as it is: it is wired, or its ADD was cut short.
    Before(PodRecord),
}

/// What the file holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    layout: u32,
    boot_id: String,
    /// The address given last, from which giving goes on: what was just released is not given again at once.
    last_given: Option<Ipv4Addr>,
    pods: Vec<PodRecord>,
}

impl Store {
    /// The store in `directory`. Touches nothing.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// Every pod, in the order of addresses. A store that was never used has none.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Foreign`].
    pub fn pods(&self) -> Result<Vec<PodRecord>, StoreError> {
        let mut pods = self.read(&boot_id()?)?.pods;
        pods.sort_by_key(|pod| pod.address);
        Ok(pods)
    }

    /// The record of a device.
    ///
    /// # Errors
    /// As [`Self::pods`].
    pub fn find(&self, key: &Key) -> Result<Option<PodRecord>, StoreError> {
        Ok(self.read(&boot_id()?)?.pods.into_iter().find(|pod| pod.is(key)))
    }

    /// Waits until nobody else works on this device, and keeps others away from it.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn lock(&self, key: &Key) -> Result<AttachmentLock, StoreError> {
        self.create()?;
        AttachmentLock::wait(&self.directory, key)
    }

    /// Gives `record` an address and writes it. `in_use` says of an address that no record has whether it is in use nevertheless: by a pod
    /// whose record was lost.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn reserve<E: From<StoreError>>(
        &self,
        mut record: PodRecord,
        choice: Choice<'_>,
        mut in_use: impl FnMut(Ipv4Addr) -> Result<bool, E>,
    ) -> Result<Reserved, E> {
        self.create()?;
        let _lock = StoreLock::wait(&self.directory)?;
        let boot = boot_id()?;
        let mut state = self.read(&boot)?;
        let key = record.key();
        if let Some(before) = state.pods.iter().find(|pod| pod.is(&key)) {
            return Ok(Reserved::Before(before.clone()));
        }
        let taken = |by: String, address| E::from(StoreError::Taken { address, by });
        match choice {
            Choice::Next(pool) => {
                record.address = state.next(pool, &mut in_use)?;
                state.last_given = Some(record.address);
            }
            Choice::Asked(pool, address) if !pool.contains(address) => return Err(StoreError::NotOurs(address).into()),
            Choice::Asked(_, address) | Choice::Given(address) => {
                if let Some(pod) = state.pods.iter().find(|pod| pod.address == address) {
                    return Err(taken(format!("pod {}", pod.title()), address));
                }
                if in_use(address)? {
                    return Err(taken("a pod this plugin has no record of".to_owned(), address));
                }
                record.address = address;
            }
        }
        state.pods.push(record.clone());
        self.write(&state, &boot)?;
        Ok(Reserved::New(record))
    }

    /// The address the next pod would get.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn next_free<E: From<StoreError>>(&self, pool: &Pool, in_use: impl FnMut(Ipv4Addr) -> Result<bool, E>) -> Result<Ipv4Addr, E> {
        self.read(&boot_id()?)?.next(pool, in_use)
    }

    /// Puts a record in the place of the one its device has.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn replace(&self, record: &PodRecord) -> Result<(), StoreError> {
        self.change(|pods| {
            let key = record.key();
            pods.iter_mut().filter(|pod| pod.is(&key)).for_each(|pod| pod.clone_from(record));
        })
    }

    /// Removes the record of a device: its address is free. One that has none is fine.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn release(&self, key: &Key) -> Result<(), StoreError> {
        if !self.directory.exists() {
            return Ok(());
        }
        self.change(|pods| pods.retain(|pod| !pod.is(key)))
    }

    /// Removes every record that `is_gone` says nothing is left of, and returns them. Devices that somebody works on are passed over.
    ///
    /// For the agent, in each pass; `is_gone` asks whether the veth is gone, and [`PodRecord::has_namespace`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn sweep(&self, is_gone: impl Fn(&PodRecord) -> bool) -> Result<Vec<PodRecord>, StoreError> {
        let mut removed = Vec::new();
        for pod in self.pods()?.into_iter().filter(&is_gone) {
            let Some(_lock) = self.try_lock(&pod.key())? else { continue };
            // It may have been added again before it was locked.
            if self.find(&pod.key())?.is_some_and(|now| is_gone(&now)) {
                self.release(&pod.key())?;
                removed.push(pod);
            }
        }
        Ok(removed)
    }

    /// Keeps others away from a device, unless somebody works on it.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn try_lock(&self, key: &Key) -> Result<Option<AttachmentLock>, StoreError> {
        self.create()?;
        AttachmentLock::attempt(&self.directory, key)
    }

    /// Changes the records; writes nothing if they stay the same.
    fn change(&self, change: impl FnOnce(&mut Vec<PodRecord>)) -> Result<(), StoreError> {
        self.create()?;
        let _lock = StoreLock::wait(&self.directory)?;
        let boot = boot_id()?;
        let mut state = self.read(&boot)?;
        let before = state.pods.clone();
        change(&mut state.pods);
        if state.pods == before { Ok(()) } else { self.write(&state, &boot) }
    }

    fn create(&self) -> Result<(), StoreError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.directory);
        made.map_err(failed("create the directory", &self.directory))
    }

    fn file(&self, boot: &str) -> PathBuf {
        self.directory.join(format!("{PREFIX}{boot}.json"))
    }

    /// What the file of this boot holds; of another boot, nothing.
    fn read(&self, boot: &str) -> Result<State, StoreError> {
        let path = self.file(boot);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(State { layout: LAYOUT, boot_id: boot.to_owned(), last_given: None, pods: Vec::new() });
            }
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let foreign = |reason: String| StoreError::Foreign { path: path.clone(), reason };
        let state: State = serde_json::from_slice(&bytes).map_err(|error| foreign(error.to_string()))?;
        match state.layout {
            LAYOUT => Ok(state),
            other => Err(foreign(format!("its layout is {other}, not {LAYOUT}"))),
        }
    }

    /// Replaces the file. The caller holds the lock.
    fn write(&self, state: &State, boot: &str) -> Result<(), StoreError> {
        let (path, next) = (self.file(boot), self.directory.join(NEXT));
        if !path.exists() {
            self.remove_other_boots(&path)?;
        }
        let bytes = serde_json::to_vec(state).map_err(|error| failed("write", &next)(error.into()))?;
        let written =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next).and_then(|mut file| file.write_all(&bytes));
        let replaced = written.map_err(failed("write", &next)).and_then(|()| fs::rename(&next, &path).map_err(failed("replace", &path)));
        if replaced.is_err() {
            // A disk that is full is not made fuller; the error says what is wrong already.
            drop(fs::remove_file(&next));
        }
        replaced
    }

    /// Removes the files of other boots.
    fn remove_other_boots(&self, current: &Path) -> Result<(), StoreError> {
        for entry in fs::read_dir(&self.directory).map_err(failed("list", &self.directory))? {
            let path = entry.map_err(failed("list", &self.directory))?.path();
            let ours = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
            if ours && path != current {
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
        }
        Ok(())
    }
}

impl State {
    /// The next free address.
    fn next<E: From<StoreError>>(&self, pool: &Pool, mut in_use: impl FnMut(Ipv4Addr) -> Result<bool, E>) -> Result<Ipv4Addr, E> {
        let recorded: BTreeSet<Ipv4Addr> = self.pods.iter().map(|pod| pod.address).collect();
        let mut foreign = 0;
        for address in pool.after(self.last_given).filter(|address| !recorded.contains(address)) {
            if !in_use(address)? {
                return Ok(address);
            }
            foreign += 1;
        }
        let given = recorded.iter().filter(|address| pool.contains(**address)).count();
        Err(StoreError::Exhausted { size: pool.size(), given, recorded: recorded.len(), foreign }.into())
    }
}

impl PodRecord {
    fn is(&self, key: &Key) -> bool {
        self.container_id == key.container_id && self.ifname == key.ifname
    }
}

/// The id of this boot.
fn boot_id() -> Result<String, StoreError> {
    let text = fs::read_to_string(BOOT_ID).map_err(failed("read", Path::new(BOOT_ID)))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
