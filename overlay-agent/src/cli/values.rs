//! The values settings can have: words to choose from, and checks of what is written freely.

use crate::backend::Backend;
use clap::ValueEnum;
use clap::builder::PossibleValue;
use http::Uri;
use ipnet::Ipv4Net;
use overlay_common::abi;

/// The smallest underlay MTU accepted: 576 bytes inside the tunnel, which every IPv4 host must be able to receive whole (RFC 791 section 3.1).
pub const MIN_MTU: u32 = 576 + abi::ENCAP_OVERHEAD;

/// How VXLAN packets are received: the rung of the ladder that is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReceiveMode {
    /// The fastest for such a NIC, as `overlay-agent measure` found it; without a measurement XDP on a physical NIC, TC on a virtual one.
    #[default]
    Auto,
    /// XDP in the driver.
    Xdp,
    /// XDP in the driver, and from there straight into the pod.
    XdpRedirect,
    /// TC ingress.
    Tc,
    /// The kernel's vxlan device, checked afterwards.
    Kernel,
}

impl ReceiveMode {
    /// The name used by flag, file and status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Xdp => "xdp",
            Self::XdpRedirect => "xdp-redirect",
            Self::Tc => "tc",
            Self::Kernel => "kernel",
        }
    }
}

impl ValueEnum for ReceiveMode {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Auto, Self::XdpRedirect, Self::Xdp, Self::Tc, Self::Kernel]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            Self::Auto => "the fastest for such a NIC, by `overlay-agent measure`; else xdp on a physical NIC, tc on a virtual one",
            Self::Xdp => "XDP in the driver of the NIC",
            Self::XdpRedirect => "XDP in the driver of the NIC, and from there straight into the pod; for NICs that fill in checksums",
            Self::Tc => "TC ingress of the NIC",
            Self::Kernel => "the kernel's vxlan device, checked afterwards",
        };
        Some(PossibleValue::new(self.name()).help(help))
    }
}

impl ValueEnum for Backend {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            Self::Vxlan => "in VXLAN, to every node",
            Self::Direct => "as they are to nodes of the same subnet, in VXLAN to others; flannel's DirectRouting, Calico's CrossSubnet",
            Self::HostGw => "as they are to every node; one behind a router is an error",
        };
        Some(PossibleValue::new(self.name()).help(help))
    }
}

/// Form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line per event for a person.
    #[default]
    Text,
    /// One JSON object per event.
    Json,
}

/// The characters Kubernetes allows in a node's name, and the underscores and capitals bare hosts have.
pub(super) fn node_name(text: &str) -> Result<String, String> {
    if crate::model::is_node_name(text) {
        Ok(text.to_owned())
    } else {
        Err("a node's name has 1 to 253 letters, digits, '-', '.' or '_'".to_owned())
    }
}

/// What the kernel accepts as the name of a device (`dev_valid_name` in net/core/dev.c).
pub(super) fn interface_name(text: &str) -> Result<String, String> {
    let valid = (1..=15).contains(&text.len())
        && !matches!(text, "." | "..")
        && !text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
    if valid { Ok(text.to_owned()) } else { Err("a NIC's name has 1 to 15 characters, without space, '/' and ':'".to_owned()) }
}

/// A name that go-cni and libcni take for a list of plugins.
pub(super) fn list_name(text: &str) -> Result<String, String> {
    let plain = !text.contains('/') && !text.starts_with('.');
    if plain && text.len() > ".conflist".len() && text.ends_with(".conflist") {
        Ok(text.to_owned())
    } else {
        Err("a list of plugins is a file whose name ends in .conflist".to_owned())
    }
}

/// A network, as a network: an address in it would be taken for it by one reader and for itself by another.
pub(super) fn network(text: &str) -> Result<Ipv4Net, String> {
    let net: Ipv4Net = text.trim().parse().map_err(|_| "give it as 10.0.0.0/8".to_owned())?;
    match net.prefix_len() {
        0 => Err("everything is in it; say masquerade: false instead".to_owned()),
        _ if net.trunc() != net => Err(format!("its first address is {}", net.trunc())),
        _ => Ok(net),
    }
}

pub(super) fn api_server(text: &str) -> Result<String, String> {
    let example = "give it as https://192.0.2.1:6443";
    let uri: Uri = text.parse().map_err(|error| format!("{error}; {example}"))?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(_)) => Ok(text.to_owned()),
        _ => Err(format!("not a URL of an API server; {example}")),
    }
}
