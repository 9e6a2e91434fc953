//! Finding what compiles for BPF: a Rust toolchain and bpf-linker.
//!
//! Two kinds of toolchain do: one that ships `core` for `bpfel-unknown-none` (Debian's, from libstd-rust-web-dev-bpf), and one with the
//! standard library's source (rustup's rust-src), from which cargo builds `core` itself. The first is preferred: it needs no `-Z` flag and
//! so unlocks unstable features for the two crates that use them and for no other.

use crate::{place, step};
use anyhow::{Result, anyhow};
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The target: little-endian BPF, for every host this project runs on.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// Where `core` for the BPF target comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Core {
    /// It is part of the toolchain.
    Prebuilt,
    /// Cargo builds it from rust-src (`-Z build-std=core`).
    FromSource,
}

/// A Rust toolchain that can compile for BPF.
#[derive(Debug)]
pub(crate) struct Toolchain {
    /// Its root: `bin/rustc`, `bin/cargo` and `lib/rustlib` are below.
    pub(crate) sysroot: PathBuf,
    /// Where `core` comes from.
    pub(crate) core: Core,
}

impl Toolchain {
    /// The best toolchain of this machine, if it has one.
    pub(crate) fn find() -> Option<Self> {
        let mut found: Vec<Self> = sysroots().into_iter().filter_map(Self::at).collect();
        // A nightly before a stable among those that build core themselves: it needs no RUSTC_BOOTSTRAP.
        found.sort_by_key(|toolchain| (toolchain.core, !toolchain.sysroot.to_string_lossy().contains("nightly")));
        found.into_iter().next()
    }

    fn at(sysroot: PathBuf) -> Option<Self> {
        if !place::is_executable(&sysroot.join("bin/rustc")) || !place::is_executable(&sysroot.join("bin/cargo")) {
            return None;
        }
        let rustlib = sysroot.join("lib/rustlib");
        let core = if holds_core(&rustlib.join(TARGET).join("lib")) {
            Core::Prebuilt
        } else if rustlib.join("src/rust/library/core/Cargo.toml").is_file() {
            Core::FromSource
        } else {
            return None;
        };
        Some(Self { sysroot, core })
    }

    /// The compiler.
    pub(crate) fn rustc(&self) -> PathBuf {
        self.sysroot.join("bin/rustc")
    }

    /// `cargo <subcommand>` of this toolchain and with nothing of the one that runs xtask.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let cargo = self.sysroot.join("bin/cargo");
        // `cargo clippy` would look for cargo-clippy on PATH first and find rustup's; called directly it takes the driver beside itself.
        let own = self.sysroot.join("bin").join(format!("cargo-{subcommand}"));
        let mut command = Command::new(if place::is_executable(&own) { &own } else { &cargo });
        command.arg(subcommand).current_dir(place::workspace()).env("CARGO", &cargo).env("RUSTC", self.rustc());
        // Set by rustup and by `cargo run` for the toolchain that compiled xtask; a foreign library path would reach bpf-linker's LLVM.
        for name in ["RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH", "RUSTFLAGS", "RUSTC_WRAPPER"] {
            command.env_remove(name);
        }
        command
    }

    /// What `rustc --verbose --version` says: release and LLVM version.
    pub(crate) fn version(&self) -> Result<Version> {
        let text = step::output(Command::new(self.rustc()).env_remove("LD_LIBRARY_PATH").args(["--verbose", "--version"]))?;
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            value.map(|value| value.trim().to_owned()).ok_or_else(|| anyhow!("{} names no \"{name}\"", self.rustc().display()))
        };
        Ok(Version { release: field("release:")?, llvm: field("LLVM version:")?, host: field("host:")? })
    }
}

/// Version of a toolchain.
#[derive(Debug)]
pub(crate) struct Version {
    /// For example `1.96.0` or `1.98.0-nightly`.
    pub(crate) release: String,
    /// LLVM it emits bitcode of; bpf-linker's must not be older.
    pub(crate) llvm: String,
    /// Target triple it runs on.
    pub(crate) host: String,
}

/// bpf-linker: the one `setup` built, or the one on PATH. One that does not start (its LLVM library was removed) counts as absent.
pub(crate) fn linker() -> Option<PathBuf> {
    let linker = place::program("bpf-linker")?;
    linker_version(&linker).ok().map(|_| linker)
}

/// What `bpf-linker --version` prints.
pub(crate) fn linker_version(linker: &Path) -> Result<String> {
    step::output(Command::new(linker).env_remove("LD_LIBRARY_PATH").arg("--version")).map(|text| text.trim().to_owned())
}

/// Every toolchain worth a look: the system's, rustup's, and whatever `rustc` on PATH belongs to when that is neither.
fn sysroots() -> Vec<PathBuf> {
    let mut roots = vec![PathBuf::from("/usr")];
    let home = || env::home_dir().map(|home| home.join(".rustup"));
    if let Some(rustup) = env::var_os("RUSTUP_HOME").map(PathBuf::from).or_else(home)
        && let Ok(toolchains) = fs::read_dir(rustup.join("toolchains"))
    {
        let mut toolchains: Vec<_> = toolchains.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
        toolchains.sort();
        roots.extend(toolchains);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    roots.extend(env::split_paths(&path).filter(|bin| bin.ends_with("bin")).filter_map(|bin| bin.parent().map(Path::to_owned)));
    roots.dedup();
    roots
}

fn holds_core(folder: &Path) -> bool {
    let is_core = |name: &OsStr| name.to_string_lossy().starts_with("libcore-");
    fs::read_dir(folder).is_ok_and(|mut files| files.any(|file| file.is_ok_and(|file| is_core(&file.file_name()))))
}
