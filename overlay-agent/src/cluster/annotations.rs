//! Annotations of a Node that say how it is reached: ours and flannel's, which counts when both are there, and what is wrong with them.
//!
//! Pure. A wrong value is named and never repaired by a guess: without a right address a node is left out; a MAC that cannot be read counts
//! as not written, on every node alike, and a notice says so. docs/nodes.md has the order as a table.

use super::nodes::{quoted, usable};
use crate::model::{AddressOrigin, Mac};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// Address an operator gives a node; wins over everything.
pub const OVERLAY_PUBLIC_IP: &str = "overlay/public-ip";
/// MAC of the tunnel end an operator gives a node; wins over flannel's and over the derived one.
pub const OVERLAY_VTEP_MAC: &str = "overlay/vtep-mac";
/// Address flannel's operator forces on a node; wins over [`PUBLIC_IP`] as in flannel.
pub const PUBLIC_IP_OVERWRITE: &str = "flannel.alpha.coreos.com/public-ip-overwrite";
/// Address flannel uses for a node.
pub const PUBLIC_IP: &str = "flannel.alpha.coreos.com/public-ip";
/// What flannel's backend publishes: `{"VNI":1,"VtepMAC":"…"}` for vxlan, other JSON or `null` for other backends.
pub const BACKEND_DATA: &str = "flannel.alpha.coreos.com/backend-data";
/// Which backend flannel runs on the node.
pub const BACKEND_TYPE: &str = "flannel.alpha.coreos.com/backend-type";
/// `true` on every node flannel's peers shall take notice of.
pub const SUBNET_MANAGER: &str = "flannel.alpha.coreos.com/kube-subnet-manager";

/// What our annotations begin with.
const PREFIX: &str = "overlay/";
const OURS: [&str; 2] = [OVERLAY_PUBLIC_IP, OVERLAY_VTEP_MAC];
const FLANNELS: [&str; 4] = [PUBLIC_IP_OVERWRITE, PUBLIC_IP, BACKEND_DATA, BACKEND_TYPE];

/// The annotations by name.
pub type Annotations = BTreeMap<String, String>;

/// Those of an object's annotations that are looked at.
pub(super) fn kept(all: &Map<String, Value>) -> Map<String, Value> {
    let looked_at = |key: &str| key.starts_with(PREFIX) || FLANNELS.contains(&key);
    all.iter().filter(|(key, _)| looked_at(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// A notice about each annotation that begins like ours and is none.
pub(super) fn unknown(annotations: &Annotations) -> Vec<String> {
    let unknown = annotations.keys().filter(|key| key.starts_with(PREFIX) && !OURS.contains(&key.as_str()));
    unknown.map(|key| format!("annotation {} is not known and ignored; known are {}", quoted(key), OURS.join(", "))).collect()
}

/// The address annotations give the node, and which of them does; `None`: none.
pub(super) fn address(annotations: &Annotations) -> Result<Option<(Ipv4Addr, AddressOrigin)>, String> {
    let order = [
        (OVERLAY_PUBLIC_IP, AddressOrigin::OverlayPublicIp),
        (PUBLIC_IP_OVERWRITE, AddressOrigin::FlannelPublicIpOverwrite),
        (PUBLIC_IP, AddressOrigin::FlannelPublicIp),
    ];
    for (annotation, origin) in order {
        // A wrong address would send pods' packets somewhere else: better no node than a guess.
        if let Some(text) = annotations.get(annotation) {
            let address = text.parse().map_err(|_| format!("annotation {annotation} is {}, not an IPv4 address", quoted(text)))?;
            let address = usable(address).map_err(|reason| format!("annotation {annotation}: {reason}"))?;
            return Ok(Some((address, origin)));
        }
    }
    Ok(None)
}

/// MAC of the tunnel end of the node with that address. What is wrong with an annotation goes to the notices.
pub(super) fn vtep_mac(annotations: &Annotations, address: Ipv4Addr, notices: &mut Vec<String>) -> Mac {
    let mut ignored = Vec::new();
    let ours = annotations.get(OVERLAY_VTEP_MAC).map(|text| unicast(text)).transpose();
    let ours = ours.unwrap_or_else(|problem| {
        ignored.push(format!("annotation {OVERLAY_VTEP_MAC} is ignored: {problem}"));
        None
    });
    let published = || {
        published_mac(annotations).unwrap_or_else(|problem| {
            // Without the MAC flannel's device on that node has, packets to it are lost if it runs flannel; it is right if it runs this agent.
            ignored.push(format!("annotation {BACKEND_DATA} is ignored: {problem}"));
            None
        })
    };
    let mac = ours.or_else(published).unwrap_or_else(|| Mac::derived_from(address));
    notices.extend(ignored.into_iter().map(|text| format!("{text}; VTEP MAC {mac} is assumed")));
    mac
}

/// The MAC a node with that address publishes: the operator's; or the one a flannel left there, which its peers know already; or the derived
/// one. What an earlier agent derived from an earlier address is nobody's choice: two nodes would have one MAC when addresses move.
pub(super) fn own_vtep_mac(annotations: &Annotations, address: Ipv4Addr) -> Mac {
    let ours = annotations.get(OVERLAY_VTEP_MAC).and_then(|text| unicast(text).ok());
    let flannels = || published_mac(annotations).ok().flatten().filter(|mac| !mac.is_derived());
    ours.or_else(flannels).unwrap_or_else(|| Mac::derived_from(address))
}

/// The node runs flannel's host-gw backend.
pub(super) fn has_no_tunnel(annotations: &Annotations) -> bool {
    annotations.get(BACKEND_TYPE).is_some_and(|backend| backend == "host-gw")
}

/// The MAC flannel published, `None` if it published none, an error if what it published cannot be understood.
fn published_mac(annotations: &Annotations) -> Result<Option<Mac>, String> {
    let Some(text) = annotations.get(BACKEND_DATA) else { return Ok(None) };
    // host-gw, udp and wireguard publish `null` or data of their own; a node that says nothing of its backend is taken for vxlan.
    if annotations.get(BACKEND_TYPE).is_some_and(|backend| backend != "vxlan") {
        return Ok(None);
    }
    let data: Value = serde_json::from_str(text).map_err(|_| format!("{} is not JSON", quoted(text)))?;
    match data.get("VtepMAC") {
        Some(Value::String(mac)) => unicast(mac).map(Some),
        None if data.is_null() => Ok(None),
        _ => Err(format!("{} has no VtepMAC", quoted(text))),
    }
}

fn unicast(text: &str) -> Result<Mac, String> {
    let mac: Mac = text.parse().map_err(|_| format!("{} is not a MAC address", quoted(text)))?;
    if mac.is_unicast() { Ok(mac) } else { Err(format!("{mac} is not the MAC address of one device")) }
}
