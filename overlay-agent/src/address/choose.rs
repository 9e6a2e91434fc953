//! The choice itself.

use super::Method;
use crate::model::{AddressOrigin, OVERLAY_DEVICE};
use std::net::Ipv4Addr;

/// NICs that carry no underlay as a rule, for [`Method::SkipInterface`]: beginnings of names that container networks, bridges of virtual
/// machines and tunnels have. Whoever means one of them names it with [`Method::Interface`].
const USUALLY_NOT: [&str; 11] = ["docker", "br-", "cbr", "cni", "flannel", "cali", "vxlan.calico", "tunl", "kube-ipvs", "virbr", "lxc"];

/// An IPv4 address of a device of this host, as the kernel lists them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalAddress {
    /// The device.
    pub nic: String,
    /// The address.
    pub address: Ipv4Addr,
    /// Whether the device is up.
    pub up: bool,
    /// Whether it is the loopback device.
    pub loopback: bool,
}

/// What the Node object says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// The address that counts: where peers send to.
    pub address: Ipv4Addr,
    /// What of the Node object says so.
    pub by: AddressOrigin,
    /// Its `InternalIP`.
    pub internal_ip: Option<Ipv4Addr>,
}

/// What the choice is made from.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// This host's addresses, in the kernel's order.
    pub local: &'a [LocalAddress],
    /// What the Node object says; `None`: there is no usable one.
    pub given: Option<Given>,
    /// For [`Method::CanReach`]: what the target is, and the address the kernel would send from.
    pub route: Option<(Ipv4Addr, Option<Ipv4Addr>)>,
    /// Whether the choice is written to the Node: then what was written before does not count.
    pub publishing: bool,
}

/// An address with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The address: one of this host's.
    pub address: Ipv4Addr,
    /// Why this one, in a few words.
    pub how: String,
}

/// No address can be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// The address is none of this host's.
    #[error("{address} ({how}) is no address of this node; it has {local}")]
    NotLocal {
        /// The address.
        address: Ipv4Addr,
        /// Why it was chosen.
        how: String,
        /// What there is instead.
        local: String,
    },
    /// The method fits no address.
    #[error("{method} fits no address of this node; it has {local}")]
    NoMatch {
        /// The method.
        method: String,
        /// What there is instead.
        local: String,
    },
    /// The target of can-reach has no address.
    #[error("{0}: the name has no IPv4 address, or the name server does not answer")]
    NameUnknown(String),
    /// The target of can-reach cannot be reached.
    #[error("{method}: this node has no route to {target}")]
    NoRoute {
        /// The method.
        method: String,
        /// The target.
        target: Ipv4Addr,
    },
    /// The method asks the Node object, and there is none to ask.
    #[error("the list of nodes gives this node no usable address")]
    NotGiven,
}

/// Chooses this node's address. An operator's annotation on the Node counts before any method: it is about this one node, and everybody
/// sees it.
pub fn choose(method: &Method, facts: &Facts<'_>) -> Result<Choice, ChoiceError> {
    if let Some(given) = facts.given.filter(|given| given.by.is_operators()) {
        return local(given.address, given.by.to_string(), facts);
    }
    let no_match = || ChoiceError::NoMatch { method: method.to_string(), local: listed(facts.local) };
    match method {
        Method::Explicit(address) => local(*address, "setting public-ip".to_owned(), facts),
        Method::KubernetesInternalIp => internal_ip(facts),
        Method::Interface(patterns) => {
            let usable: Vec<_> = usable(facts).collect();
            let found =
                patterns.0.iter().find_map(|pattern| pick(facts, usable.iter().copied().filter(|entry| pattern.matches(&entry.nic))));
            found.map(|entry| chosen(method, entry)).ok_or_else(no_match)
        }
        Method::SkipInterface(patterns) => {
            let kept = |entry: &&LocalAddress| !patterns.matches(&entry.nic) && !USUALLY_NOT.iter().any(|name| entry.nic.starts_with(name));
            pick(facts, usable(facts).filter(kept)).map(|entry| chosen(method, entry)).ok_or_else(no_match)
        }
        Method::Cidr(networks) => {
            let found = networks.iter().find_map(|network| pick(facts, usable(facts).filter(|entry| network.contains(&entry.address))));
            found.map(|entry| chosen(method, entry)).ok_or_else(no_match)
        }
        Method::CanReach(_) => {
            let (target, source) = facts.route.ok_or_else(|| ChoiceError::NameUnknown(method.to_string()))?;
            let source = source.ok_or_else(|| ChoiceError::NoRoute { method: method.to_string(), target })?;
            local(source, format!("{method}: what the kernel sends to {target} from"), facts)
        }
    }
}

fn internal_ip(facts: &Facts<'_>) -> Result<Choice, ChoiceError> {
    let given = facts.given.ok_or(ChoiceError::NotGiven)?;
    match given.internal_ip {
        // What was published is an echo of an earlier choice.
        Some(address) if facts.publishing => local(address, AddressOrigin::InternalIp.to_string(), facts),
        _ => local(given.address, given.by.to_string(), facts),
    }
}

fn chosen(method: &Method, entry: &LocalAddress) -> Choice {
    Choice { address: entry.address, how: format!("{method}: on {}", entry.nic) }
}

/// Of several, the one peers know already: a second address on a NIC is no reason to move. Otherwise the kernel's first.
fn pick<'a>(facts: &Facts<'_>, fitting: impl Iterator<Item = &'a LocalAddress>) -> Option<&'a LocalAddress> {
    let fitting: Vec<_> = fitting.collect();
    let known = facts.given.and_then(|given| fitting.iter().copied().find(|entry| entry.address == given.address));
    known.or_else(|| fitting.first().copied())
}

/// Addresses that can be a node's.
fn usable<'a>(facts: &Facts<'a>) -> impl Iterator<Item = &'a LocalAddress> {
    facts.local.iter().filter(|entry| entry.up && !entry.loopback && entry.nic != OVERLAY_DEVICE && is_routable(entry.address))
}

const fn is_routable(address: Ipv4Addr) -> bool {
    !address.is_loopback() && !address.is_link_local() && !address.is_unspecified()
}

fn local(address: Ipv4Addr, how: String, facts: &Facts<'_>) -> Result<Choice, ChoiceError> {
    if facts.local.iter().any(|entry| entry.address == address) {
        Ok(Choice { address, how })
    } else {
        Err(ChoiceError::NotLocal { address, how, local: listed(facts.local) })
    }
}

/// Addresses with their devices, for a message.
fn listed(local: &[LocalAddress]) -> String {
    let shown = local.iter().filter(|entry| !entry.loopback && entry.nic != OVERLAY_DEVICE);
    let words: Vec<String> =
        shown.map(|entry| format!("{} on {}{}", entry.address, entry.nic, if entry.up { "" } else { " (down)" })).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
