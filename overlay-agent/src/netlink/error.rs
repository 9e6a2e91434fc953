//! What can go wrong here, each with the name of the object it went wrong for.

use nix::errno::Errno;
use rtnetlink::packet_core::{ErrorMessage, NLA_TYPE_MASK, NlasIterator};
use std::io;
use std::net::Ipv4Addr;

/// An operation on the kernel's network configuration failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netlink socket could be opened.
    #[error("cannot open a netlink socket")]
    Socket(#[source] io::Error),
    /// A network namespace could not be opened, made or entered.
    #[error("cannot {what}")]
    Namespace {
        /// Operation and namespace, as in "open network namespace /run/netns/a".
        what: String,
        /// What the kernel answered; `NotFound` when there is no such namespace.
        source: io::Error,
    },
    /// The kernel refused a request, or its answer was lost.
    #[error("cannot {what}: {failure}")]
    Request {
        /// Operation and object, as in "add route 10.244.1.0/24".
        what: String,
        /// Why.
        failure: Failure,
    },
    /// A device has to exist for the operation and does not.
    #[error("there is no device {name}; the devices are: {existing}")]
    NoDevice {
        /// The missing device.
        name: String,
        /// Names of all devices, comma separated.
        existing: String,
    },
    /// A device of that name is in the way.
    #[error("a device {name} exists already in {place}")]
    DeviceExists {
        /// Its name.
        name: String,
        /// "this network namespace" or "the pod's network namespace".
        place: &'static str,
    },
    /// A device is of another type than the caller takes for granted: it is left alone.
    #[error("device {name} is of type {found}, not {expected}: it is not ours to touch")]
    WrongKind {
        /// Its name.
        name: String,
        /// The kernel's word for its type.
        found: String,
        /// The type it should have.
        expected: &'static str,
    },
    /// The overlay device's name is another device's: it is left alone.
    #[error("device {name} is somebody else's ({found}), and the overlay needs the name: rename or remove it")]
    NameTaken {
        /// The name.
        name: String,
        /// What the device is.
        found: String,
    },
    /// The VXLAN port is taken, so the overlay device cannot open its socket.
    #[error("device {device} needs UDP port {port}, which is taken: {culprit}")]
    PortTaken {
        /// The overlay device.
        device: String,
        /// The VXLAN port.
        port: u16,
        /// Who most likely holds it.
        culprit: String,
    },
    /// A route to one of our destinations exists that somebody else made.
    #[error("a route to {destination} exists that is not ours ({owner}): remove it or the program that made it")]
    RouteTaken {
        /// The destination network.
        destination: String,
        /// Protocol number, device and gateway of the route in the way.
        owner: String,
    },
    /// The device named for the underlay does not have this node's address.
    #[error("device {name} does not have this node's address {address}: it has {found}{elsewhere}")]
    AddressNotOnDevice {
        /// The device.
        name: String,
        /// This node's address.
        address: Ipv4Addr,
        /// Its IPv4 addresses, comma separated, or "no IPv4 address".
        found: String,
        /// "; the address is on eth1", or empty.
        elsewhere: String,
    },
    /// No device has this node's address.
    #[error("no device has this node's address {address}; the addresses here are: {found}")]
    AddressNowhere {
        /// This node's address.
        address: Ipv4Addr,
        /// All IPv4 addresses with their devices.
        found: String,
    },
    /// Several devices have this node's address, and none was named.
    #[error("several devices have this node's address {address} ({devices}): name the one the tunnel is to use")]
    AddressAmbiguous {
        /// This node's address.
        address: Ipv4Addr,
        /// The devices, comma separated.
        devices: String,
    },
    /// The device with this node's address carries no Ethernet frames (loopback, a layer 3 tunnel).
    #[error("device {name} (type {kind}) has this node's address but is no Ethernet device: the tunnel needs one")]
    NotEthernet {
        /// The device.
        name: String,
        /// The kernel's word for its type.
        kind: String,
    },
}

impl Error {
    /// The kernel's error number, where the kernel refused a request.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Request { failure, .. } => failure.errno(),
            _ => None,
        }
    }
}

/// Why one netlink request brought no answer, or a bad one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The kernel said no.
    #[error("{}{}", .errno.desc(), .reason.as_ref().map(|text| format!(" ({text})")).unwrap_or_default())]
    Refused {
        /// Its error number.
        errno: Errno,
        /// Its explanation (the extended acknowledgement), when it gave one.
        reason: Option<String>,
    },
    /// The task that drives the socket has ended.
    #[error("the netlink connection is closed")]
    Closed,
    /// No answer came in time.
    #[error("the kernel did not answer in {} s", super::ANSWER_TIMEOUT.as_secs())]
    Timeout,
    /// Answers were lost because the receive buffer was full.
    #[error("answers were lost, the socket's receive buffer was full")]
    Overrun,
    /// The table kept changing while it was being read.
    #[error("the table changed during each of {} attempts to read it", super::DUMP_ATTEMPTS)]
    Unsteady,
    /// The answer lacks what such an answer always has.
    #[error("the answer has no {0}")]
    Incomplete(&'static str),
}

impl Failure {
    /// The kernel's error number, if it was the kernel that refused.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// From a negative acknowledgement. `None`: it is a positive one.
    pub(super) fn from_acknowledgement(message: &ErrorMessage) -> Option<Self> {
        /// `sizeof(struct nlmsghdr)`: with `NETLINK_CAP_ACK` the kernel returns this much of the request, then the attributes.
        const HEADER_LEN: usize = 16;
        let code = message.code?.get();
        Some(Self::from_code(code, message.header.get(HEADER_LEN..).unwrap_or_default()))
    }

    /// From a negative error code and the attributes of the extended acknowledgement.
    pub(super) fn from_code(code: i32, attributes: &[u8]) -> Self {
        Self::Refused { errno: Errno::from_raw(code.saturating_abs()), reason: extended_reason(attributes) }
    }
}

/// The text of `NLMSGERR_ATTR_MSG`.
fn extended_reason(attributes: &[u8]) -> Option<String> {
    /// `NLMSGERR_ATTR_MSG` of linux/netlink.h: a NUL-terminated string.
    const MESSAGE: u16 = 1;
    NlasIterator::new(attributes).map_while(Result::ok).find(|attribute| attribute.kind() & NLA_TYPE_MASK == MESSAGE).map(|attribute| {
        let text = attribute.value();
        String::from_utf8_lossy(text.strip_suffix(&[0]).unwrap_or(text)).into_owned()
    })
}

/// Puts the name of operation and object on a [`Failure`].
pub(super) trait Naming<T> {
    /// `what` completes the sentence "cannot …".
    fn naming(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Naming<T> for Result<T, Failure> {
    fn naming(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|failure| Error::Request { what: what(), failure })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroI32;

    #[test]
    fn a_refusal_carries_the_kernels_own_words() {
        let mut message = ErrorMessage::default();
        message.code = NonZeroI32::new(-22);
        message.header = vec![0; 16];
        message.header.extend_from_slice(&[9, 0, 1, 0, b'o', b'u', b'c', b'h', 0, 0, 0, 0]);
        let failure = Failure::from_acknowledgement(&message).unwrap();
        assert_eq!(failure.to_string(), "Invalid argument (ouch)");
        assert_eq!(failure.errno(), Some(Errno::EINVAL));
    }

    #[test]
    fn an_acknowledgement_is_no_failure() {
        assert_eq!(Failure::from_acknowledgement(&ErrorMessage::default()), None);
    }

    #[test]
    fn a_refusal_with_damaged_attributes_still_has_its_number() {
        assert_eq!(Failure::from_code(-1, &[200, 0, 1, 0]).errno(), Some(Errno::EPERM));
    }
}
