//! Where the endpoint listens: the setting `listen`. A value, nothing else.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

/// Port unless configured: next to VXLAN's 8472, and nobody's at IANA.
const DEFAULT_PORT: u16 = 8473;

/// Where health and metrics are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Nowhere.
    Off,
    /// At this address and port.
    At(SocketAddr),
}

impl Default for Listen {
    /// To the node itself: the kubelet asks from there, and nobody else learns of the cluster's inside unless told to.
    fn default() -> Self {
        Self::At(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), DEFAULT_PORT))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(address) => address.fmt(f),
        }
    }
}

/// The value is neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("give it as 127.0.0.1:{DEFAULT_PORT}, or off")]
pub struct NotAPlace;

impl FromStr for Listen {
    type Err = NotAPlace;

    fn from_str(text: &str) -> Result<Self, NotAPlace> {
        // YAML 1.1 readers make `off` a boolean.
        if matches!(text, "off" | "false") {
            return Ok(Self::Off);
        }
        match text.parse() {
            Ok(address) if SocketAddr::port(&address) != 0 => Ok(Self::At(address)),
            _ => Err(NotAPlace),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listens_at_an_address_with_a_port_or_nowhere() {
        assert_eq!("127.0.0.1:8473".parse(), Ok(Listen::default()));
        assert_eq!("off".parse(), Ok(Listen::Off));
        assert_eq!("[::1]:80".parse(), Ok(Listen::At(SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), 80))));
        for wrong in ["", "8473", ":8473", "localhost:8473", "127.0.0.1", "127.0.0.1:0", "on"] {
            assert_eq!(wrong.parse::<Listen>(), Err(NotAPlace), "{wrong}");
        }
    }
}
