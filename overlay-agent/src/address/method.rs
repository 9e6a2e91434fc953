//! How the address is to be chosen, as it is written: `interface=eth*`, `can-reach=192.0.2.1`.

use super::Patterns;
use ipnet::Ipv4Net;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// How this node's address is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// The address the Node object has: nothing is chosen here.
    #[default]
    KubernetesInternalIp,
    /// This one: `--public-ip`.
    Explicit(Ipv4Addr),
    /// The address of a NIC by its name; the first pattern that fits one counts.
    Interface(Patterns),
    /// The address the kernel would send from.
    CanReach(Target),
    /// The address in one of these networks; the first that has one counts.
    Cidr(Vec<Ipv4Net>),
    /// The address of a NIC that is none of these, and none that is usually not the underlay's.
    SkipInterface(Patterns),
}

/// Whom to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An address.
    Address(Ipv4Addr),
    /// A name to look up.
    Name(String),
}

/// Every method as it is written, the default first.
const METHODS: [(&str, &str); 5] = [
    ("kubernetes-internal-ip", ""),
    ("interface", "=eth0,ens*"),
    ("can-reach", "=192.0.2.1"),
    ("cidr", "=192.0.2.0/24"),
    ("skip-interface", "=docker*,br-*"),
];

/// The text is no method.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMethod {
    /// No method is called so.
    #[error("there is no method {name:?}{}; the methods are {}", hint(nearest.as_deref()), examples())]
    Unknown {
        /// What is written before the `=`.
        name: String,
        /// What is most likely meant.
        nearest: Option<String>,
    },
    /// A method that needs a value has none.
    #[error("{0} needs a value, like {0}{example}", example = example(.0))]
    NoValue(String),
    /// A method that takes no value has one.
    #[error("{0} takes no value")]
    NeedlessValue(String),
    /// The value does not fit the method.
    #[error("{method}: {problem}")]
    BadValue {
        /// The method.
        method: &'static str,
        /// What is wrong.
        problem: String,
    },
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map(|nearest| format!(" (did you mean {nearest}?)")).unwrap_or_default()
}

fn examples() -> String {
    METHODS.map(|(name, value)| format!("{name}{value}")).join(", ")
}

fn example(method: &str) -> &'static str {
    METHODS.iter().find(|(name, _)| *name == method).map_or("", |(_, value)| value)
}

impl FromStr for Method {
    type Err = BadMethod;

    fn from_str(text: &str) -> Result<Self, BadMethod> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value.trim())),
            None => (text.trim(), None),
        };
        if !METHODS.iter().any(|(known, _)| *known == name) {
            let nearest = crate::config::nearest(name, METHODS.map(|(known, _)| known)).map(str::to_owned);
            return Err(BadMethod::Unknown { name: name.chars().filter(|c| !c.is_control()).take(40).collect(), nearest });
        }
        if name == "kubernetes-internal-ip" {
            return if value.is_none() { Ok(Self::KubernetesInternalIp) } else { Err(BadMethod::NeedlessValue(name.to_owned())) };
        }
        let Some(value) = value.filter(|value| !value.is_empty()) else { return Err(BadMethod::NoValue(name.to_owned())) };
        let bad = |method| move |problem| BadMethod::BadValue { method, problem };
        match name {
            "interface" => value.parse().map(Self::Interface).map_err(bad("interface")),
            "skip-interface" => value.parse().map(Self::SkipInterface).map_err(bad("skip-interface")),
            "can-reach" => value.parse().map(Self::CanReach).map_err(bad("can-reach")),
            _ => value.split(',').map(network).collect::<Result<_, _>>().map(Self::Cidr).map_err(bad("cidr")),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KubernetesInternalIp => f.write_str("kubernetes-internal-ip"),
            Self::Explicit(address) => write!(f, "public-ip {address}"),
            Self::Interface(patterns) => write!(f, "interface={patterns}"),
            Self::CanReach(target) => write!(f, "can-reach={target}"),
            Self::Cidr(networks) => write!(f, "cidr={}", networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
            Self::SkipInterface(patterns) => write!(f, "skip-interface={patterns}"),
        }
    }
}

fn network(text: &str) -> Result<Ipv4Net, String> {
    let net: Ipv4Net = text.trim().parse().map_err(|_| format!("{text:?} is no network like 192.0.2.0/24"))?;
    if net.trunc() == net { Ok(net) } else { Err(format!("{net} has host bits set; the network is {}", net.trunc())) }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        // A name of digits and dots only is an address with a mistake in it.
        let letters = text.bytes().any(|byte| byte.is_ascii_alphabetic());
        if letters && crate::model::is_node_name(text) {
            Ok(Self::Name(text.to_owned()))
        } else {
            Err(format!("{text:?} is neither an IPv4 address nor a name"))
        }
    }
}
