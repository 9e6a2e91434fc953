//! Where things are: the workspace and what xtask keeps below its `target` folder, and programs on this machine.
//!
//! Everything xtask writes is below `<workspace>/target`, also when `CARGO_TARGET_DIR` points elsewhere: the agent's build script looks
//! for the eBPF object there.

use std::env;
use std::path::{Path, PathBuf};

/// The folder that holds the workspace's `Cargo.toml`.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace")
}

/// Objects, by the name the agent and the tests know them by.
pub(crate) fn ebpf_objects() -> PathBuf {
    workspace().join("target/ebpf")
}

/// Cargo's target folder for the BPF target: its own, so that a build with other flags or another toolchain does not undo the host's.
pub(crate) fn ebpf_build() -> PathBuf {
    workspace().join("target/ebpf-build")
}

/// Root of the programs installed with `cargo install`; they are in its `bin`.
pub(crate) fn tools() -> PathBuf {
    workspace().join("target/tools")
}

/// What the benchmarks leave: reports, and the tree of another revision to compare with.
pub(crate) fn bench() -> PathBuf {
    workspace().join("target/bench")
}

/// Output of installers and other quiet steps, kept for when one fails.
pub(crate) fn logs() -> PathBuf {
    workspace().join("target/setup")
}

/// A program from `target/tools`, from PATH, or from the system folders that are missing in an ordinary user's PATH.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    [tools().join("bin")]
        .into_iter()
        .chain(env::split_paths(&path))
        .chain(system)
        .map(|folder| folder.join(name))
        .find(|file| is_executable(file))
}

/// Whether the path is a file somebody may execute.
pub(crate) fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Whether this process has root's rights, by the effective user id in `/proc/self/status`.
pub(crate) fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    ids.split_whitespace().nth(1) == Some("0")
}
