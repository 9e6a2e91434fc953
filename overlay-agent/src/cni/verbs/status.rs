//! STATUS: would ADD work?

use crate::cni::configuration::Ipam;
use crate::cni::ipam::{Pool, Store, delegate};
use crate::cni::request::Network;
use crate::cni::spec::{CniError, Command, code};
use crate::pod::Node;

/// Says why ADD would fail, if it would.
pub(super) fn status(network: &Network) -> Result<(), CniError> {
    let config = &network.config;
    let store = Store::new(&config.state_dir);
    let pods = store.pods().map_err(|error| unavailable(false, CniError::from(error)))?;
    let cut_off = |error| unavailable(!pods.is_empty(), error);
    let node = Node::open(&config.bpffs).map_err(|error| cut_off(error.into()))?;
    node.check_devices().map_err(|error| cut_off(error.into()))?;
    match &config.ipam {
        Ipam::Own(ranges) => {
            let pool = Pool::new(node.pod_network(), node.gateway(), ranges)
                .map_err(|error| CniError::new(code::BAD_CONFIGURATION, format!("network configuration: ipam.ranges: {error}")))?;
            let in_use = |address| node.has_pod(address).map_err(CniError::from);
            store.next_free(&pool, in_use).map(drop).map_err(|error| unavailable(false, error))
        }
        Ipam::Delegated(plugin) => delegate::run(plugin, Command::Status, network).map(drop),
    }
}

/// The code STATUS has for what ADD would say. `cut_off`: there are pods, and what carries their packets is not there.
fn unavailable(cut_off: bool, error: CniError) -> CniError {
    let code = if cut_off { code::LIMITED_CONNECTIVITY } else { code::NOT_AVAILABLE };
    CniError { code, ..error }
}
