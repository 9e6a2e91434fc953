//! The kernel's half as the agent sees it: programs, maps, pins and attachments. The only module that imports aya.
//!
//! [`Datapath`] loads and attaches the programs, [`Tables`] reads and writes the maps, [`PinDir`] says where both are pinned. Nothing
//! here knows of Kubernetes, routes or neighbours, and nothing here decides what an entry should be.

mod attach;
mod detour;
mod fill;
mod generator;
mod load;
mod log;
mod pins;
mod privileges;
mod tables;

pub use attach::{
    Direction, Hook, attach_pinned_to_pod, detach_filter, detach_from_pod, filter, is_attached_to_pod, redirects_whole_frames,
};
pub use detour::Detours;
pub use fill::Fill;
pub use generator::{Generator, MAX_FRAME, MAX_FRAMES};
pub use load::{Datapath, built_in_digest, is_built_in};
pub use log::forward_logs;
pub use pins::PinDir;
pub use tables::Tables;

use std::io;
use std::path::PathBuf;

/// What can go wrong between the agent and the kernel's BPF subsystem.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The BPF file system is not where it should be.
    #[error("{path} is not on a BPF file system; mount one with: mount -t bpf bpf {path}")]
    NoBpffs {
        /// The configured mount point.
        path: PathBuf,
    },
    /// The process may not do what the data path needs.
    #[error("the agent lacks {missing}: run it as root, or with these capabilities")]
    NoPrivileges {
        /// The missing capabilities by name, comma separated.
        missing: String,
    },
    /// A seccomp profile stands before the system call.
    #[error(
        "bpf(2) is refused although the agent has the capabilities for it, as seccomp profiles of older container runtimes do \
         (containerd before 1.6.9, CRI-O before 1.31, Docker before 23.0): run it without one, see manifests/overlays/older-runtimes"
    )]
    Refused,
    /// A file operation below the pin directory failed.
    #[error("cannot {what} {path}: {source}")]
    Pin {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The agent carries no programs.
    #[error("this agent was built without its eBPF object; build it with `cargo xtask build`, or name one with --ebpf-object")]
    NoObject,
    /// The object file could not be read.
    #[error("cannot read the eBPF object {path}: {source}")]
    Object {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The kernel or aya refused the object.
    #[error("cannot load the eBPF object: {0}")]
    Load(#[from] aya::EbpfError),
    /// The kernel refused a program.
    #[error("program {name}: {source}")]
    Program {
        /// Name of the program.
        name: String,
        /// Why it failed.
        source: aya::programs::ProgramError,
    },
    /// A program could not be pinned.
    #[error("program {name} cannot be pinned: {source}")]
    PinProgram {
        /// Name of the program.
        name: &'static str,
        /// Why it failed.
        source: aya::pin::PinError,
    },
    /// The object lacks a program or a map that this agent needs.
    #[error("the eBPF object has no {kind} {name}")]
    Missing {
        /// "program" or "map".
        kind: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// A map could not be opened, read or written.
    #[error("map {name}: {source}")]
    Map {
        /// Name of the map.
        name: &'static str,
        /// Why it failed.
        source: aya::maps::MapError,
    },
    /// A pinned map is not laid out as this agent lays it out.
    #[error(
        "pinned map {path} does not fit this agent ({difference}); it belongs to another program or build: \
         remove it with `overlay-agent cleanup`"
    )]
    Incompatible {
        /// The pin.
        path: PathBuf,
        /// What differs.
        difference: String,
    },
    /// A link could not be attached or replaced.
    #[error("cannot attach {program} to {device}: {reason}")]
    Attach {
        /// Name of the program.
        program: &'static str,
        /// Name of the device.
        device: String,
        /// Why it failed.
        reason: String,
    },
}
