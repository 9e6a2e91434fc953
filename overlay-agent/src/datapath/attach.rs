//! Attaches programs to devices, and replaces in one step what an earlier agent attached.
//!
//! Since Linux 6.6 TC programs are attached with TCX links, which are pinned and so outlive the agent. Before, they are filters of the
//! clsact qdisc with a priority and a handle of our own, which outlive the agent by themselves. XDP always has a link.
//! A link's pin carries the device's ifindex in its name: a device made anew is a new attachment, and the old pin is swept.

use super::{Datapath, DatapathError, PinDir};
use aya::pin::PinError;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcHandle, qdisc_add_clsact};
use aya::programs::xdp::XdpLinkId;
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode};
use aya::sys::SyscallError;
use aya::util::KernelVersion;
use overlay_common::abi::program;
use std::io::ErrorKind;
use std::path::Path;

/// Priority and handle of our filters where there is no TCX: fixed, so that a new agent finds and replaces them.
const FILTER_PRIORITY: u16 = 0x4f01;
/// See [`FILTER_PRIORITY`].
const FILTER_HANDLE: TcHandle = TcHandle::new(0, 1);

/// Which way packets go at a TC hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Into the host.
    Ingress,
    /// Out of the host.
    Egress,
}

impl Direction {
    const fn attach_type(self) -> TcAttachType {
        match self {
            Self::Ingress => TcAttachType::Ingress,
            Self::Egress => TcAttachType::Egress,
        }
    }
}

/// A place a program is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Native XDP of a device.
    Xdp {
        /// Its name.
        device: String,
        /// Its index.
        ifindex: u32,
    },
    /// TC of a device.
    Tc {
        /// Its name.
        device: String,
        /// Its index.
        ifindex: u32,
        /// Which way.
        direction: Direction,
    },
}

impl Hook {
    fn device(&self) -> &str {
        match self {
            Self::Xdp { device, .. } | Self::Tc { device, .. } => device,
        }
    }

    const fn ifindex(&self) -> u32 {
        match self {
            Self::Xdp { ifindex, .. } | Self::Tc { ifindex, .. } => *ifindex,
        }
    }
}

/// Name of the pin of `program`'s link on the device `ifindex`.
fn pin_name(program: &str, ifindex: u32) -> String {
    format!("{program}_{ifindex}")
}

/// The kernel has TCX links (Linux 6.6).
fn has_tcx() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0))
}

/// A frame of several buffers can be redirected out of a veth (Linux 6.3); before, the kernel drops it.
#[must_use]
pub fn redirects_whole_frames() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 3, 0))
}

impl Datapath {
    /// Attaches `name` to `hook`, or puts it in the place of the program an earlier agent attached there, without a gap.
    ///
    /// # Errors
    /// [`DatapathError::Attach`] with the kernel's reason.
    pub fn attach(&mut self, name: &'static str, hook: &Hook) -> Result<(), DatapathError> {
        let pin = self.pins.link(&pin_name(name, hook.ifindex()));
        let failed = |reason: String| DatapathError::Attach { program: name, device: hook.device().to_owned(), reason };
        match hook {
            Hook::Xdp { ifindex, .. } => attach_xdp(self.xdp(name)?, *ifindex, &pin),
            Hook::Tc { device, direction, .. } if has_tcx() => attach_tcx(self.classifier(name)?, device, *direction, &pin),
            Hook::Tc { device, direction, .. } => attach_filter(self.classifier(name)?, device, *direction),
        }
        .map_err(|error| failed(explain(&error)))
    }

    /// Whether `name` is attached to the device, as far as its pin tells. Without TCX a TC program has no pin: it counts as attached.
    #[must_use]
    pub fn is_attached(&self, name: &str, ifindex: u32) -> bool {
        let pinned = name == program::UNDERLAY_XDP || has_tcx();
        !pinned || self.pins.link(&pin_name(name, ifindex)).exists()
    }

    /// Puts the loaded `from_pod` in the place of the one on each pod's veth; sweeps the links of veths that are gone.
    ///
    /// # Errors
    /// [`DatapathError::Attach`] for the first veth that refuses; the others before it have the new program.
    pub fn replace_on_pods(&mut self, veths: &[(u32, String)]) -> Result<(), DatapathError> {
        for (ifindex, device) in veths {
            self.attach(program::FROM_POD, &Hook::Tc { device: device.clone(), ifindex: *ifindex, direction: Direction::Ingress })?;
        }
        Ok(())
    }

    /// Removes those of the `pinned` links ([`PinDir::links`]) that are not among `keep`: of programs no longer wanted and of devices that
    /// are gone. Returns their names.
    ///
    /// # Errors
    /// [`DatapathError::Pin`].
    pub fn sweep_links(&self, pinned: Vec<String>, keep: &[(&'static str, u32)]) -> Result<Vec<String>, DatapathError> {
        let keep: Vec<String> = keep.iter().map(|(name, ifindex)| pin_name(name, *ifindex)).collect();
        let mut removed = Vec::new();
        for name in pinned {
            if !keep.contains(&name) {
                self.pins.remove(&self.pins.link(&name))?;
                removed.push(name);
            }
        }
        Ok(removed)
    }
}

/// Attaches the pinned `from_pod` to a pod's veth: what `overlay-cni` does, without loading anything.
///
/// # Errors
/// [`DatapathError::Program`] when the agent has not pinned it yet, [`DatapathError::Attach`].
pub fn attach_pinned_to_pod(pins: &PinDir, device: &str, ifindex: u32) -> Result<(), DatapathError> {
    let mut program = SchedClassifier::from_pin(pins.program(program::FROM_POD))
        .map_err(|source| DatapathError::Program { name: program::FROM_POD.to_owned(), source })?;
    let pin = pins.link(&pin_name(program::FROM_POD, ifindex));
    let result = if has_tcx() {
        attach_tcx(&mut program, device, Direction::Ingress, &pin)
    } else {
        attach_filter(&mut program, device, Direction::Ingress)
    };
    result.map_err(|error| DatapathError::Attach { program: program::FROM_POD, device: device.to_owned(), reason: explain(&error) })
}

/// Whether `from_pod` really runs on what a pod's veth receives: the link is pinned, and the kernel lists the program. Without TCX no link
/// can tell; see [`filter`].
///
/// # Errors
/// [`DatapathError::Program`] when the kernel does not say.
pub fn is_attached_to_pod(pins: &PinDir, device: &str, ifindex: u32) -> Result<bool, DatapathError> {
    if !has_tcx() || !pins.link(&pin_name(program::FROM_POD, ifindex)).exists() {
        return Ok(false);
    }
    let (_, programs) = SchedClassifier::query_tcx(device, TcAttachType::Ingress)
        .map_err(|source| DatapathError::Program { name: program::FROM_POD.to_owned(), source })?;
    Ok(programs.iter().any(|found| found.name_as_str() == Some(program::FROM_POD)))
}

/// Priority and handle of the filter that stands for a link where the kernel has no TCX; `None` where it has.
#[must_use]
pub fn filter() -> Option<(u16, u32)> {
    (!has_tcx()).then(|| (FILTER_PRIORITY, FILTER_HANDLE.into()))
}

/// Removes our filter from a device that stays, where there is no TCX and so no pin to remove; elsewhere it does nothing. A filter that
/// is not there is no error.
pub fn detach_filter(device: &str, direction: Direction) {
    if !has_tcx() {
        // Dropping the link takes the filter away.
        drop(SchedClassifierLink::attached(device, direction.attach_type(), FILTER_PRIORITY, FILTER_HANDLE, None));
    }
}

/// Removes the link of a pod's veth.
///
/// # Errors
/// [`DatapathError::Pin`].
pub fn detach_from_pod(pins: &PinDir, ifindex: u32) -> Result<(), DatapathError> {
    pins.remove(&pins.link(&pin_name(program::FROM_POD, ifindex)))
}

/// Why an attachment failed, in aya's words.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(transparent)]
    Syscall(#[from] SyscallError),
}

impl Failure {
    /// The system call that failed, if that is what happened.
    const fn syscall(&self) -> Option<&SyscallError> {
        match self {
            Self::Program(ProgramError::SyscallError(error)) | Self::Link(LinkError::SyscallError(error)) | Self::Syscall(error) => {
                Some(error)
            }
            _ => None,
        }
    }
}

/// Opens the link pinned at `path`, if there is one.
fn pinned(path: &Path) -> Result<Option<FdLink>, Failure> {
    match PinnedLink::from_pin(path) {
        Ok(link) => Ok(Some(link.into())),
        Err(LinkError::SyscallError(SyscallError { io_error, .. })) if io_error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The link's device is gone: the kernel answers ENOLINK to an update (net/core/dev.c, `bpf_xdp_link_update`; kernel/bpf/tcx.c).
fn is_severed(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(error) if error.io_error.raw_os_error() == Some(nix::libc::ENOLINK))
}

/// Forgets a pin whose link is severed.
fn unpin(path: &Path) -> Result<(), SyscallError> {
    std::fs::remove_file(path).map_err(|io_error| SyscallError { call: "unlink", io_error })
}

fn attach_tcx(program: &mut SchedClassifier, device: &str, direction: Direction, pin: &Path) -> Result<(), Failure> {
    if let Some(link) = pinned(pin)? {
        match program.attach_to_link(link.try_into()?) {
            // The pin holds the link; the file descriptor may go.
            Ok(id) => return Ok(program.take_link(id).map(drop)?),
            Err(error) if is_severed(&error) => unpin(pin)?,
            Err(error) => return Err(error.into()),
        }
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id: SchedClassifierLinkId = program.attach_with_options(device, direction.attach_type(), options)?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    link.pin(pin)?;
    Ok(())
}

fn attach_filter(program: &mut SchedClassifier, device: &str, direction: Direction) -> Result<(), Failure> {
    // The qdisc may be there already, ours or another's; attaching says so if it is not.
    let _exists = qdisc_add_clsact(device);
    let attach_type = direction.attach_type();
    let old = SchedClassifierLink::attached(device, attach_type, FILTER_PRIORITY, FILTER_HANDLE, None)
        .map_err(|io_error| SyscallError { call: "if_nametoindex", io_error })?;
    let id = match program.attach_to_link(old) {
        Ok(id) => id,
        Err(_absent) => {
            let options = NlOptions { priority: FILTER_PRIORITY, handle: FILTER_HANDLE, classid: None };
            program.attach_with_options(device, attach_type, TcAttachOptions::Netlink(options))?
        }
    };
    // Dropping the link would take the filter away; it is to outlive this process.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

fn attach_xdp(program: &mut Xdp, ifindex: u32, pin: &Path) -> Result<(), Failure> {
    if let Some(link) = pinned(pin)? {
        match program.attach_to_link(link.try_into()?) {
            Ok(id) => return Ok(program.take_link(id).map(drop)?),
            Err(error) if is_severed(&error) => unpin(pin)?,
            Err(error) => return Err(error.into()),
        }
    }
    let id: XdpLinkId = program.attach_to_if_index(ifindex, XdpMode::Driver)?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    link.pin(pin)?;
    Ok(())
}

/// The kernel's reason in words, with what usually causes it.
fn explain(error: &Failure) -> String {
    let Some(SyscallError { call, io_error }) = error.syscall() else { return error.to_string() };
    let hint = match io_error.raw_os_error() {
        Some(nix::libc::EBUSY | nix::libc::EEXIST) => ": another program holds the hook",
        Some(nix::libc::EOPNOTSUPP) => ": the driver has no native XDP",
        Some(nix::libc::ERANGE) => ": the device's MTU is too large for it",
        Some(nix::libc::EPERM) => ": CAP_NET_ADMIN and CAP_BPF are needed",
        _ => "",
    };
    format!("{call}: {io_error}{hint}")
}
