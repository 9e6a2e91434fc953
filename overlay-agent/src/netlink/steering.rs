//! Receive packet steering (RPS): which CPU takes a device's packets.
//!
//! What a pod sends reaches the node's end of its veth through the backlog of whatever CPU the pod's stack happened to run on. A TCP
//! connection is served by several: the one the process runs on and the ones its acknowledgements arrive on; so its segments wait in
//! several backlogs at once and overtake each other (docs/adr/0006). With RPS every packet goes to the backlog of the CPU its flow's hash
//! names.
//!
//! The kernel offers this below sysfs only, and a sysfs shows the network namespace it was mounted in, which need not be the one at hand:
//! the plugin, the agent and the lab enter namespaces without mounting anything. So nothing below `/sys` is written: a sysfs of the
//! calling thread's namespace is made for the moment, mounted nowhere. That takes `CAP_SYS_ADMIN`.

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;

/// A device's packets are not steered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no sysfs of this network namespace to be had.
    #[error("cannot open a sysfs of this network namespace, which takes CAP_SYS_ADMIN")]
    Sysfs(#[source] io::Error),
    /// One of its files could not be read or written.
    #[error("cannot {what} in a sysfs of this network namespace")]
    File {
        /// Operation and file.
        what: String,
        /// Why not; `NotFound` if there is no such device, or the kernel has no RPS.
        source: io::Error,
    },
}

/// Spreads the flows that arrive on each receive queue of `device` over all CPUs, each flow staying on one. The device is looked for in
/// the calling thread's network namespace and nowhere else. The kernel leaves out CPUs that are offline or set apart (`isolcpus`).
///
/// Fails with [`Error`].
pub fn spread_flows(device: &str) -> Result<(), Error> {
    let sysfs = own_sysfs().map_err(|errno| Error::Sysfs(errno.into()))?;
    let online = read(&sysfs, "devices/system/cpu/online")?;
    let mask = mask(&online).ok_or_else(|| Error::File {
        what: format!("make sense of devices/system/cpu/online, {online:?},"),
        source: io::ErrorKind::InvalidData.into(),
    })?;
    let file = |queue| format!("class/net/{device}/queues/rx-{queue}/rps_cpus");
    let mut queue = 0;
    loop {
        match write(&sysfs, &file(queue), &mask) {
            Ok(()) => queue += 1,
            // One past the last.
            Err(Error::File { source, .. }) if queue > 0 && source.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// A sysfs of the calling thread's network namespace.
fn own_sysfs() -> Result<OwnedFd, Errno> {
    let context = fsopen(c"sysfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn read(sysfs: &OwnedFd, path: &str) -> Result<String, Error> {
    let mut text = String::new();
    let result = open(sysfs, path, OFlags::RDONLY).and_then(|mut file| file.read_to_string(&mut text));
    result.map(|_| text).map_err(|source| Error::File { what: format!("read {path}"), source })
}

fn write(sysfs: &OwnedFd, path: &str, text: &str) -> Result<(), Error> {
    let result = open(sysfs, path, OFlags::WRONLY).and_then(|mut file| file.write_all(text.as_bytes()));
    result.map_err(|source| Error::File { what: format!("write {text} to {path}"), source })
}

fn open(sysfs: &OwnedFd, path: &str, flags: OFlags) -> io::Result<File> {
    Ok(openat(sysfs, path, flags | OFlags::CLOEXEC, Mode::empty())?.into())
}

/// The kernel's list of CPUs (`0-3,8`) as the kernel's mask: hexadecimal, 32 bits to a word, words separated by commas, the highest
/// first (lib/bitmap-str.c, `bitmap_parse`). `None`: not such a list.
fn mask(list: &str) -> Option<String> {
    let mut words: Vec<u32> = Vec::new();
    for range in list.trim_end().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        for cpu in first.parse::<usize>().ok()?..=last.parse().ok()? {
            words.resize(words.len().max(cpu / 32 + 1), 0);
            words[cpu / 32] |= 1 << (cpu % 32);
        }
    }
    let mut text = String::new();
    for (index, word) in words.iter().rev().enumerate() {
        let separator = if index == 0 { "" } else { "," };
        // Writing to a String does not fail.
        let _ = write!(text, "{separator}{word:08x}");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_cpus_becomes_the_kernels_mask() {
        let cases = [
            ("0\n", "00000001"),
            ("0-1\n", "00000003"),
            ("0-3,8\n", "0000010f"),
            ("0-31\n", "ffffffff"),
            ("0,33-34", "00000006,00000001"),
            ("64", "00000001,00000000,00000000"),
        ];
        for (list, expected) in cases {
            assert_eq!(mask(list).as_deref(), Some(expected), "{list}");
        }
        for nonsense in ["", "all", "1-", "-1", "0;1"] {
            assert_eq!(mask(nonsense), None, "{nonsense}");
        }
    }
}
