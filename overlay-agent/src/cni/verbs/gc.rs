//! GC: takes away what belongs to no container any more.

use super::del;
use crate::cni::configuration::Ipam;
use crate::cni::ipam::{Store, delegate};
use crate::cni::request::Network;
use crate::cni::spec::{CniError, Command, code};

/// Removes every pod of this network that is not among `cni.dev/valid-attachments`. An error does not keep the rest from going.
pub(super) fn gc(network: &Network) -> Result<(), CniError> {
    let config = &network.config;
    let Some(valid) = &config.valid else {
        // Taken for an empty list, it would cut off every pod of the node.
        let msg = "network configuration: cni.dev/valid-attachments is missing: it lists what is to stay";
        return Err(CniError::new(code::BAD_CONFIGURATION, msg));
    };
    let store = Store::new(&config.state_dir);
    let mut errors: Vec<CniError> = Vec::new();
    for pod in store.pods()?.into_iter().filter(|pod| pod.network == config.name) {
        if valid.iter().any(|one| one.container_id == pod.container_id && one.ifname == pod.ifname) {
            continue;
        }
        // Whoever holds the lock adds or deletes it at this moment.
        let key = pod.key();
        match store.try_lock(&key) {
            Ok(None) => {}
            Ok(Some(_lock)) => errors.extend(del::remove(&config.bpffs, &store, &key, store.find(&key)).err()),
            Err(error) => errors.push(error.into()),
        }
    }
    if let Ipam::Delegated(plugin) = &config.ipam {
        errors.extend(delegate::run(plugin, Command::Gc, network).err());
    }
    let mut errors = errors.into_iter();
    let Some(first) = errors.next() else { return Ok(()) };
    let others: Vec<String> = errors.map(|error| error.to_string()).collect();
    Err(if others.is_empty() { first } else { first.with_details(others.join("; ")) })
}
