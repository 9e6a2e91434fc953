//! DEL: takes away whatever is there, in the reverse order of ADD, and is content with whatever is not.

use crate::cni::configuration::Ipam;
use crate::cni::ipam::{AttachmentLock, Store, StoreError, delegate};
use crate::cni::request::{Attachment, Key};
use crate::cni::spec::{CniError, Command};
use crate::pod;
use std::path::Path;

/// Takes a container's wire away.
pub(super) fn del(attachment: &Attachment) -> Result<(), CniError> {
    let config = &attachment.network.config;
    let store = Store::new(&config.state_dir);
    let lock = store.lock(&attachment.key);
    let removed = remove(&config.bpffs, &store, &attachment.key, lock);
    // Asked whatever else failed: two plugins' troubles do not add up.
    let given_back = match &config.ipam {
        Ipam::Own(_) => Ok(()),
        Ipam::Delegated(plugin) => delegate::run(plugin, Command::Del, &attachment.network).map(drop),
    };
    removed.and(given_back)
}

/// Removes the wire and then the record. The caller keeps others away from the device.
///
/// A store that cannot be used does not keep the wire from going.
pub(super) fn remove(bpffs: &Path, store: &Store, key: &Key, lock: Result<AttachmentLock, StoreError>) -> Result<(), CniError> {
    let record = lock.and_then(|lock| store.find(key).map(|record| (lock, record)));
    let address = record.as_ref().ok().and_then(|(_, record)| record.as_ref().map(|record| record.address));
    pod::unwire(bpffs, &key.host_interface(), address)?;
    let (_lock, record) = record?;
    if record.is_some() {
        store.release(key)?;
    }
    Ok(())
}
