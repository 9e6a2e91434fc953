//! Memory that is free goes back to the kernel.
//!
//! glibc keeps what was freed between blocks that are in use: after a list of ten thousand Nodes was read, and after thousands of them
//! changed, that is more than what the agent holds (ADR 0012 has the numbers). Other C libraries are left to themselves.

/// Gives back what is free. Takes a millisecond for each few tens of megabytes.
pub(crate) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it may be called at any time, by any thread; it takes the allocator's own locks, and touches only what is free.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
