//! Which capabilities the data path needs, whether this process has them, and whether it may use them. Reads `/proc/thread-self/status` and
//! asks for a map that does not exist; changes nothing.

use super::DatapathError;
use aya::maps::{MapError, MapInfo};
use nix::libc;

/// Name and number of each (linux/capability.h). `CAP_SYS_ADMIN` stands in for the first two, as before Linux 5.8.
const NEEDED: [(&str, u32, bool); 3] = [("CAP_BPF", 39, true), ("CAP_PERFMON", 38, true), ("CAP_NET_ADMIN", 12, false)];

/// See [`NEEDED`].
const SYS_ADMIN: u32 = 21;

/// Whether this thread has every capability that loading and attaching needs.
///
/// # Errors
/// [`DatapathError::NoPrivileges`] or [`DatapathError::Refused`]. Where `/proc` does not tell, the kernel will.
pub(super) fn check() -> Result<(), DatapathError> {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let missing = effective(&status).map_or_else(Vec::new, missing);
    if !missing.is_empty() {
        return Err(DatapathError::NoPrivileges { missing: missing.join(", ") });
    }
    if is_refused() { Err(DatapathError::Refused) } else { Ok(()) }
}

/// Whether a filter of system calls keeps this process from bpf(2): it refuses what the kernel would answer with "no such file".
fn is_refused() -> bool {
    let asked = MapInfo::from_pin("/proc/self/no-such-map");
    let number = asked.err().and_then(|error| match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    });
    matches!(number, Some(libc::EPERM | libc::ENOSYS))
}

/// The effective capabilities in the text of a `status` file, one bit each.
fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn missing(effective: u64) -> Vec<&'static str> {
    let has = |number: u32| effective >> number & 1 == 1;
    NEEDED.iter().filter(|(_, number, by_admin)| !(has(*number) || *by_admin && has(SYS_ADMIN))).map(|(name, ..)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_is_missing() {
        assert_eq!(effective("Name:\ta\nCapEff:\t000001ffffffffff\n").map(missing), Some(Vec::new()));
        assert_eq!(missing(0), ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"]);
        assert_eq!(missing(1 << 39 | 1 << 38 | 1 << 12), [""; 0]);
        assert_eq!(missing(1 << SYS_ADMIN), ["CAP_NET_ADMIN"]);
        assert_eq!(effective("no such line"), None);
    }
}
