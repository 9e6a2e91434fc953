//! The few sysctls the overlay depends on.
//!
//! A value that is right already is not written, so a read-only `/proc/sys` (a container without privileges) is no obstacle on a host
//! that was set up. Whatever cannot be set is reported by path and left to the caller, who warns and goes on.
//!
//! Everything below `/proc/sys/net` belongs to the network namespace of the calling thread (the kernel looks at `current->nsproxy`);
//! for another namespace, call from within [`Namespace::run`](super::Namespace::run). `rp_filter` is left as the host has it: the data
//! path is built so that strict reverse-path checks pass.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A sysctl does not have the value it should have.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It has another value, and cannot be written.
    #[error("cannot set {} to {wanted}, it is {found}", path.display())]
    Write {
        /// Its file.
        path: PathBuf,
        /// The value it should have.
        wanted: &'static str,
        /// The value it has.
        found: String,
        /// Why it cannot be written.
        source: io::Error,
    },
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Its file.
        path: PathBuf,
        /// Why not; `NotFound` if there is no such sysctl.
        source: io::Error,
    },
}

/// Lets the node route IPv4 (`net.ipv4.ip_forward=1`): traffic between pods and anything the programs hand to the kernel needs it.
///
/// Fails with [`Error`] if it is off and cannot be turned on.
pub fn enable_forwarding() -> Result<(), Error> {
    ensure(Path::new("/proc/sys/net/ipv4/ip_forward"), "1")
}

/// What the node's end of a pod's veth is to be like, by family, key and value.
///
/// It forwards IPv4. A router advertisement or a redirect from the pod could make the pod the node's router: neither is taken.
/// `route_localnet` would let the pod reach what listens on 127.0.0.1 of the node, `accept_local` send from the node's own addresses;
/// nobody but the pod's permanent neighbour answers for its gateway, and for nothing else (`proxy_arp`).
const HOST_VETH: [(&str, &str, &str); 7] = [
    ("ipv4", "forwarding", "1"),
    ("ipv4", "route_localnet", "0"),
    ("ipv4", "accept_local", "0"),
    ("ipv4", "accept_redirects", "0"),
    ("ipv4", "proxy_arp", "0"),
    ("ipv6", "accept_ra", "0"),
    ("ipv6", "accept_redirects", "0"),
];

/// Prepares the node's end of a pod's veth, see [`HOST_VETH`]. A kernel without IPv6 has nothing to refuse.
///
/// Returns what could not be set; one failure does not keep the others from being set.
#[must_use]
pub fn prepare_host_veth(name: &str) -> Vec<Error> {
    let is_off = |family: &str, error: &Error| {
        family == "ipv6" && matches!(error, Error::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    };
    let set = |(family, key, wanted)| {
        let path = PathBuf::from(format!("/proc/sys/net/{family}/conf/{name}/{key}"));
        ensure(&path, wanted).err().filter(|error| !is_off(family, error))
    };
    HOST_VETH.into_iter().filter_map(set).collect()
}

/// Writes `wanted` unless the file says so already.
fn ensure(path: &Path, wanted: &'static str) -> Result<(), Error> {
    let found = fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let found = found.trim_end();
    if found == wanted {
        return Ok(());
    }
    // No O_CREAT: a sysctl that vanished meanwhile is an error, not a new file.
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, wanted.as_bytes()))
        .map_err(|source| Error::Write { path: path.to_owned(), wanted, found: found.to_owned(), source })
}
