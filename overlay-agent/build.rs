//! Puts the eBPF objects where `include_bytes_aligned!` finds them: `$OUT_DIR/overlay-ebpf` and `$OUT_DIR/generator`.
//!
//! The first is the one `OVERLAY_EBPF_OBJECT` names, else `target/ebpf/overlay-ebpf` as `cargo xtask build-ebpf` leaves it; the second is
//! `target/ebpf/generator`. Without one the file is empty, so that the agent compiles on any machine; it says at run time that it holds no
//! object and how to get one.

use std::path::{Path, PathBuf};
use std::{env, fs};

const NAMED: &str = "OVERLAY_EBPF_OBJECT";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={NAMED}");

    let bytes = match env::var_os(NAMED).filter(|path| !path.is_empty()) {
        Some(path) => named(Path::new(&path)),
        None => built("overlay-ebpf"),
    };
    put("overlay-ebpf", &bytes);
    put("generator", &built("generator"));
}

fn put(name: &str, bytes: &[u8]) {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join(name);
    fs::write(&out, bytes).unwrap_or_else(|error| panic!("cannot write {}: {error}", out.display()));
}

/// The object somebody asked for by name has to be there.
fn named(path: &Path) -> Vec<u8> {
    println!("cargo::rerun-if-changed={}", path.display());
    fs::read(path).unwrap_or_else(|error| panic!("{NAMED} names {}, which cannot be read: {error}", path.display()))
}

/// An object in its usual place, or nothing.
fn built(name: &str) -> Vec<u8> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("overlay-agent is a folder of the workspace");
    let folder = workspace.join("target/ebpf");
    let object = folder.join(name);
    if let Ok(bytes) = fs::read(&object) {
        println!("cargo::rerun-if-changed={}", object.display());
        return bytes;
    }
    // Cargo takes a watched file that does not exist for a changed one and would compile the agent anew each time. The folder is watched
    // instead, made here if need be; where that is not possible (a read-only source tree) the file is watched all the same.
    let watched = if fs::create_dir_all(&folder).is_ok() { &folder } else { &object };
    println!("cargo::rerun-if-changed={}", watched.display());
    Vec::new()
}
