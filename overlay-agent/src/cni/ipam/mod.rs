//! Addresses of this node's pods: which are given out, to whom, and which is next.
//!
//! [`Store`] keeps one record for each pod, whoever gave its address, so that DEL, GC, the agent's sweep and `status` know of it when
//! container, device and runtime are gone. [`Pool`] says which addresses there are and in which order they are given. [`delegate`] asks
//! another plugin instead. Nothing here touches devices or maps.

pub mod delegate;
mod error;
mod lock;
mod ranges;
mod record;
mod store;

pub use error::StoreError;
pub use lock::AttachmentLock;
pub use ranges::{AddressRange, BadRange, Pool, PoolError};
pub use record::PodRecord;
pub use store::{Choice, Reserved, Store};
