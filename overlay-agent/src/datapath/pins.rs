//! Where things are pinned: `<bpffs>/overlay/v<ABI>/{maps,progs,links}`.
//!
//! The ABI version in the path keeps maps of different layouts apart. Directories are readable by root only.

use super::DatapathError;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use overlay_common::abi::ABI_VERSION;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// Name of the directory below the BPF file system.
const TOP: &str = "overlay";

/// The pin directory of one node.
#[derive(Clone, Debug)]
pub struct PinDir {
    bpffs: PathBuf,
    root: PathBuf,
}

impl PinDir {
    /// The pin directory below the BPF file system at `bpffs`. Touches nothing.
    #[must_use]
    pub fn new(bpffs: &Path) -> Self {
        Self { bpffs: bpffs.to_owned(), root: bpffs.join(TOP).join(format!("v{ABI_VERSION}")) }
    }

    /// Pin of a map.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.root.join("maps").join(name)
    }

    /// Pin of a program.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.root.join("progs").join(name)
    }

    /// Pin of a link.
    #[must_use]
    pub fn link(&self, name: &str) -> PathBuf {
        self.root.join("links").join(name)
    }

    /// Creates the directories.
    ///
    /// # Errors
    /// [`DatapathError::NoBpffs`] when `bpffs` is no BPF file system; [`DatapathError::Pin`] when a directory cannot be made.
    pub fn create(&self) -> Result<(), DatapathError> {
        let no_bpffs = || DatapathError::NoBpffs { path: self.bpffs.clone() };
        if statfs(&self.bpffs).map_err(|_| no_bpffs())?.filesystem_type() != BPF_FS_MAGIC {
            return Err(no_bpffs());
        }
        for name in ["maps", "progs", "links"] {
            let path = self.root.join(name);
            DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(|source| DatapathError::Pin {
                what: "create the directory",
                path,
                source,
            })?;
        }
        Ok(())
    }

    /// Names of the pinned links, sorted.
    ///
    /// # Errors
    /// [`DatapathError::Pin`] when the directory exists and cannot be read.
    pub fn links(&self) -> Result<Vec<String>, DatapathError> {
        let path = self.root.join("links");
        let failed = |source| DatapathError::Pin { what: "list", path: path.clone(), source };
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// Removes a pin; what it held goes with it unless something else holds it too. An absent pin is no error.
    ///
    /// # Errors
    /// [`DatapathError::Pin`].
    pub fn remove(&self, path: &Path) -> Result<(), DatapathError> {
        ignore_absent(fs::remove_file(path)).map_err(|source| DatapathError::Pin { what: "remove", path: path.to_owned(), source })
    }

    /// Removes every pin of every ABI version: links first, so that no program runs without its maps. Returns what was removed.
    ///
    /// # Errors
    /// [`DatapathError::Pin`] for the first file that cannot be removed; what came before it is gone.
    pub fn remove_all(&self) -> Result<Vec<PathBuf>, DatapathError> {
        let top = self.bpffs.join(TOP);
        let mut removed = Vec::new();
        for version in list(&top)? {
            for kind in ["links", "progs", "maps"] {
                let directory = version.join(kind);
                for pin in list(&directory)? {
                    self.remove(&pin)?;
                    removed.push(pin);
                }
                remove_directory(&directory)?;
            }
            remove_directory(&version)?;
        }
        remove_directory(&top)?;
        Ok(removed)
    }
}

/// Entries of a directory, sorted; none if it does not exist.
fn list(path: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    let failed = |source| DatapathError::Pin { what: "list", path: path.to_owned(), source };
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>().map_err(failed)?;
    paths.sort();
    Ok(paths)
}

/// Removes an empty directory; an absent one is no error.
fn remove_directory(path: &Path) -> Result<(), DatapathError> {
    ignore_absent(fs::remove_dir(path)).map_err(|source| DatapathError::Pin { what: "remove", path: path.to_owned(), source })
}

fn ignore_absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
