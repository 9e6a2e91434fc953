//! DEL: takes away whatever is there, in the reverse order of ADD, and is content with whatever is not.

use crate::cni::configuration::Ipam;
use crate::cni::ipam::{PodRecord, Store, StoreError, delegate};
use crate::cni::request::{Attachment, Key};
use crate::cni::spec::{CniError, Command};
use crate::pod;
use std::path::Path;

/// Takes a container's wire away.
pub(super) fn del(attachment: &Attachment) -> Result<(), CniError> {
    let Attachment { network, key, .. } = attachment;
    let store = Store::new(&network.config.state_dir);
    let (_lock, record) = match store.lock(key) {
        Ok(lock) => (Some(lock), store.find(key)),
        Err(error) => (None, Err(error)),
    };
    let removed = remove(&network.config.bpffs, &store, key, record);
    // Asked whatever else failed: two plugins' troubles do not add up.
    let given_back = match &network.config.ipam {
        Ipam::Own(_) => Ok(()),
        Ipam::Delegated(plugin) => delegate::run(plugin, Command::Del, network).map(drop),
    };
    removed.and(given_back)
}

/// Removes the wire and then the record. The caller keeps others away from the device.
///
/// A store that cannot be read does not keep the wire from going.
pub(super) fn remove(bpffs: &Path, store: &Store, key: &Key, record: Result<Option<PodRecord>, StoreError>) -> Result<(), CniError> {
    let address = record.as_ref().ok().and_then(|record| record.as_ref().map(|record| record.address));
    pod::unwire(bpffs, &key.host_interface(), address)?;
    if record?.is_some() {
        store.release(key)?;
    }
    Ok(())
}
