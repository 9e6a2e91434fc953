//! One Node object of Kubernetes, as data, read into a [`ClusterNode`] or a reason why it is none.
//!
//! Pure: no I/O, and no input makes it panic. Both sources use it, so a node in a file and a node from the API are judged alike. Only the
//! fields that are used are read: a broken field elsewhere costs nothing, and what is large (managedFields, images) is never kept.

use super::annotations;
use crate::model::{AddressOrigin, ClusterNode, is_node_name};
use ipnet::{Ipv4Net, Ipv6Net};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeStatus};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A pod network shorter than this would take a sixteenth of all addresses or more; Kubernetes gives out /16 to /28.
pub const SHORTEST_PREFIX: u8 = 8;
/// A pod network longer than this has no room for a gateway and a pod.
pub const LONGEST_PREFIX: u8 = 30;

/// What one Node object says, before it is compared with the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// `metadata.name`, or the position in the list when there is no usable one.
    pub name: String,
    /// `metadata.uid`: tells a node from an earlier one of the same name.
    pub uid: Option<String>,
    /// `metadata.creationTimestamp`.
    pub created: Option<Timestamp>,
    /// The node, or one sentence why it cannot be used.
    pub node: Result<ClusterNode, String>,
}

/// How the reason begins for an object that is no Node at all: it says nothing of the node, not even that it cannot be used.
pub const UNREADABLE: &str = "it does not read as a Node";

impl Candidate {
    /// Whether its object could not be read, so that what was known of the node before is still the last that is known.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        self.node.as_ref().is_err_and(|reason| reason.starts_with(UNREADABLE))
    }

    /// Reads one item of a list; `position` counts from 1 and names an item without a name.
    #[must_use]
    pub fn read(item: &Value, position: usize) -> Self {
        let name = match item.pointer("/metadata/name") {
            Some(Value::String(name)) if is_node_name(name) => Ok(name.clone()),
            Some(Value::String(name)) => Err(format!("its name {} is not a node's name", quoted(name))),
            _ => Err("it has no metadata.name".to_owned()),
        };
        let name = match name {
            Ok(name) => name,
            Err(reason) => return Self { name: format!("item {position}"), uid: None, created: None, node: Err(reason) },
        };
        match typed(item) {
            Ok(node) => Self {
                uid: node.metadata.uid.clone(),
                created: node.metadata.creation_timestamp.as_ref().map(|time| time.0),
                node: cluster_node(&name, &node),
                name,
            },
            Err(reason) => Self { name, uid: None, created: None, node: Err(reason) },
        }
    }
}

/// The used fields of `item` as the API's own type.
fn typed(item: &Value) -> Result<Node, String> {
    if let Some(kind) = item.get("kind")
        && kind != "Node"
    {
        return Err(format!("it is of kind {}, not a Node", quoted(kind.as_str().unwrap_or("?"))));
    }
    let metadata = item.get("metadata");
    let annotations = match metadata.and_then(|metadata| metadata.get("annotations")) {
        Some(Value::Object(all)) => Value::Object(annotations::kept(all)),
        other => other.cloned().unwrap_or_default(),
    };
    let mut kept = part(metadata, &["uid", "creationTimestamp"]);
    kept.insert("annotations".to_owned(), annotations);
    let reduced = serde_json::json!({
        "metadata": kept,
        "spec": part(item.get("spec"), &["podCIDR", "podCIDRs"]),
        "status": part(item.get("status"), &["addresses"]),
    });
    serde_json::from_value(reduced).map_err(|error| format!("{UNREADABLE}: {}", shortened(&error.to_string())))
}

fn part(object: Option<&Value>, keys: &[&str]) -> Map<String, Value> {
    object.and_then(Value::as_object).map(|object| pick(object, keys)).unwrap_or_default()
}

fn pick(object: &Map<String, Value>, keys: &[&str]) -> Map<String, Value> {
    keys.iter().filter_map(|key| Some(((*key).to_owned(), object.get(*key)?.clone()))).collect()
}

fn cluster_node(name: &str, node: &Node) -> Result<ClusterNode, String> {
    let no_annotations = BTreeMap::new();
    let annotations = node.metadata.annotations.as_ref().unwrap_or(&no_annotations);
    let pod_cidr = pod_cidr(node)?;
    let internal_ip = internal_ip(node.status.as_ref());
    let (address, given_by) = match annotations::address(annotations)? {
        Some(annotated) => annotated,
        None => (internal_ip.clone()?, AddressOrigin::InternalIp),
    };
    if pod_cidr.contains(&address) {
        return Err(format!("its podCIDR {pod_cidr} contains its own address {address}"));
    }
    let mut notices = annotations::unknown(annotations);
    let vtep_mac = annotations::vtep_mac(annotations, address, &mut notices);
    let notice = (!notices.is_empty()).then(|| notices.join("; "));
    let no_tunnel = annotations::has_no_tunnel(annotations);
    Ok(ClusterNode { name: name.to_owned(), address, given_by, internal_ip: internal_ip.ok(), pod_cidr, vtep_mac, no_tunnel, notice })
}

// === podCIDR ===

fn pod_cidr(node: &Node) -> Result<Ipv4Net, String> {
    let spec = node.spec.as_ref();
    let listed = spec.and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default();
    let single = spec.and_then(|spec| spec.pod_cidr.as_ref());
    let texts: Vec<&String> = if listed.is_empty() { single.into_iter().collect() } else { listed.iter().collect() };
    let texts: Vec<&String> = texts.into_iter().filter(|text| !text.is_empty()).collect();

    let Some(text) = texts.iter().find(|text| text.parse::<Ipv6Net>().is_err()) else {
        return Err(match texts.first() {
            None => "it has no podCIDR yet; the controller manager assigns one if it runs with --allocate-node-cidrs".to_owned(),
            Some(text) => format!("its only podCIDR {} is IPv6; an IPv4 one is needed", quoted(text)),
        });
    };
    let net = text.parse::<Ipv4Net>().ok();
    // 010.244.1.0 is 8.244.1.0 to some: only what reads the same everywhere is taken.
    let Some(net) = net.filter(|net| net.to_string() == **text) else {
        return Err(format!("its podCIDR {} is not a network like 10.244.1.0/24", quoted(text)));
    };
    if net.addr() != net.network() {
        return Err(format!("its podCIDR {net} has host bits set; the network is {}", net.trunc()));
    }
    if !(SHORTEST_PREFIX..=LONGEST_PREFIX).contains(&net.prefix_len()) {
        return Err(format!("its podCIDR {net} has a prefix that is not between /{SHORTEST_PREFIX} and /{LONGEST_PREFIX}"));
    }
    match NEVER_ROUTED.iter().find(|(never, _)| never.contains(&net) || net.contains(never)) {
        Some((never, what)) => Err(format!("its podCIDR {net} is in {never}, {what}")),
        None => Ok(net),
    }
}

/// Networks no node and no pod can have an address in, and what they are (RFC 6890).
const NEVER_ROUTED: [(Ipv4Net, &str); 5] = [
    (Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 8), "\"this host\""),
    (Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8), "loopback"),
    (Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16), "link-local"),
    (Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4), "multicast"),
    (Ipv4Net::new_assert(Ipv4Addr::new(240, 0, 0, 0), 4), "reserved, with the broadcast address"),
];

// === InternalIP ===

/// The first usable address of type `InternalIP`, or what is wrong with the first of them.
fn internal_ip(status: Option<&NodeStatus>) -> Result<Ipv4Addr, String> {
    let listed = status.and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let mut first_problem = None;
    for entry in listed.iter().filter(|entry| entry.type_ == "InternalIP") {
        let result = match entry.address.parse::<Ipv4Addr>() {
            Ok(address) => usable(address).map_err(|reason| format!("its InternalIP: {reason}")),
            Err(_) if entry.address.parse::<Ipv6Addr>().is_ok() => {
                Err(format!("its InternalIP {} is IPv6; an IPv4 one is needed", quoted(&entry.address)))
            }
            Err(_) => Err(format!("its InternalIP {} is not an address", quoted(&entry.address))),
        };
        match result {
            Ok(address) => return Ok(address),
            Err(problem) => first_problem = first_problem.or(Some(problem)),
        }
    }
    Err(first_problem.unwrap_or_else(|| "it has no address of type InternalIP in status.addresses".to_owned()))
}

pub(super) fn usable(address: Ipv4Addr) -> Result<Ipv4Addr, String> {
    match NEVER_ROUTED.iter().find(|(never, _)| never.contains(&address)) {
        Some((never, what)) => Err(format!("address {address} is in {never}, {what}")),
        None => Ok(address),
    }
}

// === Text of others in our messages ===

/// Text from outside, safe for a terminal and not endless.
pub(super) fn quoted(text: &str) -> String {
    format!("{:?}", shortened(text))
}

fn shortened(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut short: String = text.chars().filter(|c| !c.is_control()).take(LONGEST).collect();
    if text.chars().nth(LONGEST).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
#[path = "nodes_tests.rs"]
mod tests;
