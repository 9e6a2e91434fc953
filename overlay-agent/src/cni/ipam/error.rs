//! Why the records of this node's pods cannot be read or changed.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// The records cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// The operation.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what this plugin writes.
    #[error("{} cannot be understood ({reason}); if no plugin of another version wrote it, drain this node and remove the file", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Every address is given.
    #[error(
        "no address is free: {size} there are to give, {given} of them are given to pods ({recorded} pods on this node in all) and {foreign} \
         used by pods this plugin did not add; an address becomes free when a pod goes"
    )]
    Exhausted {
        /// Addresses there are.
        size: usize,
        /// Of those, given.
        given: usize,
        /// Records in the store.
        recorded: usize,
        /// Addresses that are not given and in use nevertheless.
        foreign: usize,
    },
    /// The address asked for is not one to give.
    #[error("address {0} is not one this node gives to pods")]
    NotOurs(Ipv4Addr),
    /// The address asked for is in use.
    #[error("address {address} is in use by {by}")]
    Taken {
        /// The address.
        address: Ipv4Addr,
        /// The pod, or what is known of it.
        by: String,
    },
}

/// Names a file operation that failed.
pub(super) fn failed(what: &'static str, path: &Path) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError::Io { what, path: path.to_owned(), source }
}
