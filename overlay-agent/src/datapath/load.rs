//! Loads the programs: finds the object, reuses or creates the pinned maps, replaces the pinned programs.

use super::{DatapathError, PinDir, Tables, privileges, tables};
use aya::programs::{Program, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use overlay_common::abi::{map, program};
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;

/// The object this agent was built with; empty when it was built without the eBPF toolchain.
static BUILT_IN: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/overlay-ebpf"));

/// This agent carries its programs.
#[must_use]
pub fn is_built_in() -> bool {
    !BUILT_IN.is_empty()
}

/// Tells the programs of one build from those of another.
#[must_use]
pub fn built_in_digest() -> u64 {
    let mut hasher = DefaultHasher::new();
    BUILT_IN.hash(&mut hasher);
    hasher.finish()
}

/// The loaded programs. Dropping it changes nothing in the kernel: maps, programs and links are pinned.
#[derive(Debug)]
pub struct Datapath {
    pub(super) ebpf: Ebpf,
    pub(super) pins: PinDir,
}

impl Datapath {
    /// Loads the object into the kernel with the maps that are pinned already, or new ones, and pins the programs for `overlay-cni`.
    /// What is attached stays as it is until [`Datapath::attach`].
    ///
    /// # Errors
    /// [`DatapathError`]; nothing that ran before is disturbed by a failure.
    pub fn load(pins: &PinDir, object: Option<&Path>) -> Result<Self, DatapathError> {
        // First of all: without them aya takes the kernel for an old one, and tells of relocations that failed.
        privileges::check()?;
        pins.create()?;
        tables::check_pins(pins)?;
        let mut loader = EbpfLoader::new();
        for name in map::ALL {
            loader.map_pin_path(name, pins.map(name));
        }
        let ebpf = match object {
            None if BUILT_IN.is_empty() => return Err(DatapathError::NoObject),
            None => loader.load(BUILT_IN)?,
            Some(path) => {
                let bytes = fs::read(path).map_err(|source| DatapathError::Object { path: path.to_owned(), source })?;
                loader.load(&bytes)?
            }
        };
        let mut datapath = Self { ebpf, pins: pins.clone() };
        for name in program::ALL {
            datapath.load_program(name)?;
        }
        Ok(datapath)
    }

    /// Handles on the maps.
    ///
    /// # Errors
    /// As [`Tables::open`].
    pub fn tables(&self) -> Result<Tables, DatapathError> {
        Tables::open(&self.pins)
    }

    /// Has the kernel verify a program, then puts its pin in the place of an older one.
    fn load_program(&mut self, name: &'static str) -> Result<(), DatapathError> {
        let failed = |source| DatapathError::Program { name: name.to_owned(), source };
        let program = self.ebpf.program_mut(name).ok_or(DatapathError::Missing { kind: "program", name })?;
        match program {
            Program::Xdp(program) => program.load(),
            Program::SchedClassifier(program) => program.load(),
            _ => return Err(DatapathError::Missing { kind: "XDP or TC program", name }),
        }
        .map_err(failed)?;
        let path = self.pins.program(name);
        let next = self.pins.program(&format!("{name}_next"));
        self.pins.remove(&next)?;
        program.pin(&next).map_err(|source| DatapathError::PinProgram { name, source })?;
        fs::rename(&next, &path).map_err(|source| DatapathError::Pin { what: "replace", path, source })
    }

    pub(super) fn classifier(&mut self, name: &'static str) -> Result<&mut SchedClassifier, DatapathError> {
        self.ebpf.program_mut(name).and_then(|program| program.try_into().ok()).ok_or(DatapathError::Missing { kind: "TC program", name })
    }

    pub(super) fn xdp(&mut self, name: &'static str) -> Result<&mut Xdp, DatapathError> {
        self.ebpf.program_mut(name).and_then(|program| program.try_into().ok()).ok_or(DatapathError::Missing { kind: "XDP program", name })
    }
}
