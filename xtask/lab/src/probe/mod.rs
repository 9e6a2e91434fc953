//! Traffic and what became of it: small tools that run in the lab's namespaces and check every byte themselves.

pub mod flood;
pub mod gso;
pub mod pattern;
pub mod ping;
pub mod snmp;
pub mod tcp;
pub mod udp;

/// The result of a thread; its panic, if it panicked, goes on in the thread that waited for it.
pub(crate) fn ended<T>(joined: std::thread::Result<T>) -> T {
    joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
