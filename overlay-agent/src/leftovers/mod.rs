//! What flannel left on this node: found, named, and taken away when somebody asks for it.
//!
//! Looks at devices, addresses, routes, the packet filter, the runtime's lists of plugins and flannel's own file; changes nothing until
//! [`Leftover::remove`]. A bridge `cni0` is flannel's only if its address is in a network that something else of flannel's, or the list of
//! nodes, names: other plugins' bridges have the same name. What is left in its data directories, and its program, stays: the runtime
//! needs both to take away the pods it started with them.

mod files;

use crate::firewall::flannel::{self, Remnant};
use crate::netlink::{Link, Netlink};
use anyhow::{Context as _, Result};
use files::File;
use ipnet::Ipv4Net;
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

/// Bridge of the reference bridge plugin unless configured.
const BRIDGE: &str = "cni0";
/// How flannel names its devices, before the VXLAN network identifier.
const DEVICES: [&str; 2] = ["flannel.", "flannel-v6."];
/// Where runtimes have their lists of plugins unless configured.
pub const DEFAULT_LISTS: &str = "/etc/cni/net.d";

/// Something of flannel's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// A file.
    File(File),
    /// Rules.
    Rules(Remnant),
    /// The bridge of its pods.
    Bridge {
        /// Its address.
        address: Ipv4Net,
        /// How many pods are still on it.
        ports: usize,
    },
    /// Its tunnel device.
    Device {
        /// Its name.
        name: String,
        /// Where its routes lead.
        routes: Vec<Ipv4Net>,
    },
}

/// What is left, in the order in which it is removed: what starts pods first.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// What was found.
    pub found: Vec<Leftover>,
    /// What could not be looked at, and why.
    pub unseen: Vec<String>,
}

/// Looks for everything. `lists`: where the runtime has its lists of plugins; `pod_networks`: those of this cluster's nodes.
///
/// # Errors
/// The kernel does not tell of its devices.
pub async fn find(netlink: &Netlink, lists: &Path, pod_networks: &[Ipv4Net]) -> Result<Leftovers> {
    let mut networks: BTreeSet<Ipv4Net> = pod_networks.iter().copied().collect();
    let (files, unseen) = files::find(lists);
    networks.extend(files.iter().flat_map(File::networks));
    let rules = flannel::find().await;
    networks.extend(rules.remnants.iter().flat_map(Remnant::networks));

    let (links, addresses) = (netlink.links().await?, netlink.addresses().await?);
    let mut devices = Vec::new();
    for link in links.iter().filter(|link| is_tunnel(link)) {
        let routes = netlink.routes_through(link.ifindex).await?;
        networks.extend(routes.iter().copied());
        networks.extend(addresses.iter().filter(|own| own.ifindex == link.ifindex).map(|own| Ipv4Net::from(own.address)));
        devices.push(Leftover::Device { name: link.name.clone(), routes });
    }
    let mut bridges = Vec::new();
    if let Some(bridge) = links.iter().find(|link| link.name == BRIDGE && link.kind.as_deref() == Some("bridge")) {
        let own = addresses.iter().filter(|own| own.ifindex == bridge.ifindex);
        let nets = own.filter_map(|own| Ipv4Net::new(own.address, own.prefix).ok());
        if let Some(address) = nets.into_iter().find(|net| networks.iter().any(|other| overlap(*net, *other))) {
            bridges.push(Leftover::Bridge { address, ports: netlink.ports_of(bridge.ifindex).await? });
        }
    }
    let found = files.into_iter().map(Leftover::File).chain(rules.remnants.into_iter().map(Leftover::Rules)).chain(bridges).chain(devices);
    Ok(Leftovers { found: found.collect(), unseen: unseen.into_iter().chain(rules.unseen).collect() })
}

/// By name and type: a device of another type of that name is not flannel's.
fn is_tunnel(link: &Link) -> bool {
    let identifier = DEVICES.iter().find_map(|prefix| link.name.strip_prefix(prefix));
    link.kind.as_deref() == Some("vxlan") && identifier.is_some_and(|vni| vni.parse::<u32>().is_ok())
}

/// Whether two networks have an address in common that says whose they are.
fn overlap(one: Ipv4Net, other: Ipv4Net) -> bool {
    other.prefix_len() > 0 && (one.contains(&other.network()) || other.contains(&one.network()))
}

impl Leftovers {
    /// All of it in one sentence, with the way to be rid of it; nothing if nothing is left.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let named: Vec<String> = self.found.iter().map(ToString::to_string).collect();
        let advice = "when flannel itself is gone, `overlay-agent cleanup --foreign flannel` removes it";
        (!named.is_empty()).then(|| format!("left over from flannel: {}; {advice}", named.join("; ")))
    }
}

impl Leftover {
    /// Takes it away.
    ///
    /// # Errors
    /// It cannot be: the message names it.
    pub async fn remove(&self, netlink: &Netlink) -> Result<()> {
        match self {
            Self::File(file) => file.remove()?,
            Self::Rules(remnant) => remnant.remove().await?,
            Self::Bridge { .. } => drop(netlink.delete_link(BRIDGE).await?),
            Self::Device { name, .. } => drop(netlink.delete_link(name).await?),
        }
        Ok(())
    }
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => file.fmt(f),
            Self::Rules(remnant) => remnant.fmt(f),
            Self::Bridge { address, ports: 0 } => write!(f, "bridge {BRIDGE} ({address})"),
            Self::Bridge { address, ports: 1 } => {
                write!(f, "bridge {BRIDGE} ({address}), and with it the network of 1 pod that is still on it")
            }
            Self::Bridge { address, ports } => {
                write!(f, "bridge {BRIDGE} ({address}), and with it the network of {ports} pods that are still on it")
            }
            Self::Device { name, routes } if routes.is_empty() => write!(f, "device {name}"),
            Self::Device { name, routes } => {
                let routes: Vec<String> = routes.iter().map(ToString::to_string).collect();
                write!(f, "device {name} with the routes to {}", routes.join(", "))
            }
        }
    }
}

/// Removes what was found; returns what was removed, a line each.
///
/// # Errors
/// The first that cannot be removed; those before it are gone.
pub async fn remove(netlink: &Netlink, leftovers: &Leftovers) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for leftover in &leftovers.found {
        leftover.remove(netlink).await.with_context(|| format!("cannot remove {leftover}"))?;
        removed.push(leftover.to_string());
    }
    Ok(removed)
}
