//! What each verb does.

mod add;
mod check;
mod del;
mod gc;
mod status;

use super::ipam::StoreError;
use super::request::Request;
use super::spec::{CniError, Version, code};
use crate::netlink;
use crate::pod::PodError;
use nix::sys::statfs::{NSFS_MAGIC, statfs};
use serde_json::Value;
use std::error::Error;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The network namespace of this process.
const OWN_NETNS: &str = "/proc/self/ns/net";

/// Does what the runtime asks for; returns what there is to print.
///
/// # Errors
/// As the specification has them, and the own codes of [`code`].
pub fn run(request: &Request) -> Result<Option<Value>, CniError> {
    match request {
        Request::Version(asked) => Ok(Some(Version::report(asked))),
        Request::Add(attachment) => add::add(attachment).map(Some),
        Request::Del(attachment) => del::del(attachment).map(|()| None),
        Request::Check(attachment) => check::check(attachment).map(|()| None),
        Request::Status(network) => status::status(network).map(|()| None),
        Request::Gc(network) => gc::gc(network).map(|()| None),
    }
}

impl From<PodError> for CniError {
    fn from(error: PodError) -> Self {
        let code = match &error {
            PodError::NotReady(_) => code::TRY_AGAIN_LATER,
            PodError::ForeignAddress { .. } => code::BAD_CONFIGURATION,
            PodError::AddressInUse { .. } => code::ADDRESS_TAKEN,
            PodError::Netlink(netlink::Error::DeviceExists { .. }) => code::ALREADY_THERE,
            // The only namespace that is opened is the pod's.
            PodError::Netlink(netlink::Error::Namespace { .. }) => code::BAD_ENVIRONMENT,
            PodError::Datapath(_) | PodError::Netlink(_) | PodError::Runtime(_) => code::KERNEL,
        };
        let variable = if code == code::BAD_ENVIRONMENT { "environment variable CNI_NETNS: " } else { "" };
        Self::new(code, format!("{variable}{}", sentence(&error)))
    }
}

impl From<StoreError> for CniError {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::Io { .. } => code::IO,
            StoreError::Foreign { .. } => code::STATE,
            // Not the configuration's fault and no failure for good: the next pod that goes makes room.
            StoreError::Exhausted { .. } => code::TRY_AGAIN_LATER,
            StoreError::NotOurs(_) => code::BAD_CONFIGURATION,
            StoreError::Taken { .. } => code::ADDRESS_TAKEN,
        };
        Self::new(code, error.to_string())
    }
}

/// The inode of the container's namespace, which is not the node's own: a wire would lead from the node to itself.
fn foreign_namespace(netns: &Path) -> Result<u64, CniError> {
    let bad = |what: String| CniError::new(code::BAD_ENVIRONMENT, format!("environment variable CNI_NETNS: {what}"));
    let theirs = netns.metadata().map_err(|error| bad(format!("cannot open network namespace {}: {error}", netns.display())))?;
    if !statfs(netns).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC) {
        return Err(bad(format!("{} is no network namespace", netns.display())));
    }
    let ours = Path::new(OWN_NETNS).metadata().map_err(|error| bad(format!("cannot open {OWN_NETNS}: {error}")))?;
    if (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()) {
        return Err(bad(format!("{} is the network namespace of the node itself", netns.display())));
    }
    Ok(theirs.ino())
}

/// An error and what it comes from, in one sentence.
fn sentence(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let reason = error.to_string();
        // Some errors say their cause themselves.
        if !text.ends_with(&reason) {
            text = format!("{text}: {reason}");
        }
        cause = error.source();
    }
    text
}
