//! The node agent as a library, so that the agent, the CNI plugin and the lab wire nodes and pods by the same code.
//!
//! The straight line: [`cluster`] → `model::Topology` → `desired` (pure) → `reconcile::plan` (pure) → actions → `reconcile::apply` →
//! [`datapath`] and [`netlink`]. Only `cluster` imports kube, only `datapath` aya, only `netlink` rtnetlink,
//! only [`firewall`] runs nft and iptables.

pub mod address;
pub mod backend;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod cni;
pub mod config;
pub mod datapath;
pub mod desired;
pub mod firewall;
pub mod flannel;
mod heap;
pub mod install;
pub mod leftovers;
pub mod measure;
pub mod model;
pub mod netlink;
pub mod pod;
pub mod reconcile;
pub mod serve;
pub mod status;
