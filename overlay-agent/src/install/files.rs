//! The two files on disk: compared, and replaced by rename, so that a runtime never finds half of one.

use super::{InstallError, LIST_ENDS, RuntimePlaces};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Mode of the list: it may hold what not everybody is to know, and runtimes are root.
const LIST_MODE: u32 = 0o600;
/// Mode of the plugin.
const PROGRAM_MODE: u32 = 0o755;

/// What is known of the programs last compared, so that they are not read at every pass.
#[derive(Debug, Default)]
pub(super) struct Installed(Option<(Identity, Identity)>);

/// What differs between two states of a file, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    mode: u32,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<Metadata> for Identity {
    fn from(metadata: Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            mode: metadata.mode(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Installed {
    /// Makes `target` a copy of `source`; whether it had to be made.
    pub(super) fn program(&mut self, source: &Path, target: &Path) -> Result<bool, InstallError> {
        let wanted: Identity = fs::metadata(source).map_err(|error| InstallError::io(source, error))?.into();
        let found: Option<Identity> = fs::symlink_metadata(target).ok().map(Into::into);
        if self.0.is_some() && self.0 == Some(wanted).zip(found) {
            return Ok(false);
        }
        let alike = found.is_some_and(|found| (found.size, found.mode) == (wanted.size, mode(PROGRAM_MODE)));
        let same = alike && same_content(source, target).map_err(|error| InstallError::io(target, error))?;
        if !same {
            let copy = |file: &mut File| io::copy(&mut File::open(source)?, file).map(drop);
            replace(target, PROGRAM_MODE, copy).map_err(|error| InstallError::io(target, error))?;
        }
        self.0 = Some(wanted).zip(fs::symlink_metadata(target).ok().map(Into::into));
        Ok(!same)
    }
}

/// Makes `path` a file of that text; whether it had to be written.
pub(super) fn put_text(path: &Path, text: &str) -> Result<bool, InstallError> {
    let metadata = fs::symlink_metadata(path);
    let as_it_should_be = metadata.is_ok_and(|metadata| metadata.is_file() && metadata.mode() == mode(LIST_MODE));
    if as_it_should_be && fs::read(path).is_ok_and(|found| found == text.as_bytes()) {
        return Ok(false);
    }
    replace(path, LIST_MODE, |file| file.write_all(text.as_bytes())).map_err(|error| InstallError::io(path, error))?;
    Ok(true)
}

/// Makes both directories, where the runtime has not.
pub(super) fn make_directories(places: &RuntimePlaces) -> Result<(), InstallError> {
    for path in [&places.configurations, &places.plugins] {
        fs::create_dir_all(path).map_err(|error| InstallError::io(path, error))?;
    }
    Ok(())
}

/// The first list of somebody else's that a runtime takes before ours.
pub(super) fn sorted_before(places: &RuntimePlaces) -> Result<Option<PathBuf>, InstallError> {
    let listed = fs::read_dir(&places.configurations).map_err(|error| InstallError::io(&places.configurations, error))?;
    let lists = listed.flatten().map(|entry| entry.path()).filter(|path| {
        let end = path.extension().and_then(|end| end.to_str()).unwrap_or_default();
        LIST_ENDS.contains(&end) && path.is_file()
    });
    Ok(lists.filter(|path| *path < places.list()).min())
}

/// Removes a file, and what a killed agent left beside it; whether it was there.
pub(super) fn remove(path: &Path) -> Result<bool, InstallError> {
    let mut found = false;
    for path in [temporary(path), path.to_owned()] {
        match fs::remove_file(&path) {
            Ok(()) => found = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(InstallError::io(&path, error)),
        }
    }
    Ok(found)
}

fn replace(path: &Path, permissions: u32, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let temporary = temporary(path);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(permissions).open(&temporary)?;
    // The umask may have taken some of it.
    file.set_permissions(fs::Permissions::from_mode(permissions))?;
    write(&mut file)?;
    // A machine that loses power must not find an empty file under the name.
    file.sync_all()?;
    fs::rename(&temporary, path)
}

/// A name beside it that no runtime takes for a list or a plugin.
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.new"))
}

/// As `stat` tells it: a regular file with these permissions.
const fn mode(permissions: u32) -> u32 {
    nix::libc::S_IFREG | permissions
}

fn same_content(one: &Path, other: &Path) -> io::Result<bool> {
    const PIECE: u64 = 1 << 16;
    let (one, other) = (File::open(one)?, File::open(other)?);
    let (mut of_one, mut of_other) = (Vec::new(), Vec::new());
    loop {
        of_one.clear();
        of_other.clear();
        (&one).take(PIECE).read_to_end(&mut of_one)?;
        (&other).take(PIECE).read_to_end(&mut of_other)?;
        if of_one != of_other || of_one.is_empty() {
            return Ok(of_one == of_other);
        }
    }
}
