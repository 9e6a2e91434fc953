//! What a cluster that ran flannel brings along: its two configuration files, read as ours, and what it leaves on a node.
//!
//! The files are read as flannel reads them, keys in any case; a key flannel does not know either is refused with the known one it most
//! likely means, which flannel would pass over. What has no counterpart here is refused if pods would notice, and told otherwise.

mod cni_conf;
mod keys;
mod net_conf;

pub(crate) use cni_conf::PLUGIN;
pub use cni_conf::as_ours;
pub use keys::BadKey;
pub use net_conf::NetConf;
