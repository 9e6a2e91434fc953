//! What the network outside looks like from here: the NIC with this node's address, and the next hop to every other node.
//!
//! The routes are the kernel's own decisions (one `RTM_GETROUTE` per node), not our reading of its tables: policy rules, VRFs, several
//! tables and multipath are the kernel's business. A look-up costs about 25 µs: 5,000 nodes some 125 ms in a release build
//! (`five_thousand_peers` in `tests/netlink` prints it).

use super::error::Naming;
use super::{Address, Error, Failure, Link, Message, Neighbour, Netlink};
use crate::model::{Mac, NeighbourState, NextHop, OVERLAY_DEVICE, Underlay, UnderlayDevice};
use futures::{StreamExt, TryStreamExt};
use nix::errno::Errno;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType};
use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

/// Look-ups on their way at once. netlink-proto sends one message at a time, so more than a few only fill its queue.
const LOOKUPS_IN_FLIGHT: usize = 32;

/// The part of the kernel's answer that counts.
struct Lookup {
    gateway: Option<Ipv4Addr>,
    ifindex: u32,
    source: Ipv4Addr,
    mtu: Option<u32>,
}

impl Netlink {
    /// The underlay as this node sees it.
    ///
    /// `node_address` is this node's own address; its device is looked for, or is the one named by `interface`. A peer is absent from
    /// the result if the kernel has no route to it, or one that does not lead out of an Ethernet device by IPv4 (unreachable, local,
    /// the overlay device itself, an IPv6 next hop).
    ///
    /// Fails with [`Error::NoDevice`], [`Error::AddressNotOnDevice`], [`Error::AddressNowhere`], [`Error::AddressAmbiguous`] and
    /// [`Error::NotEthernet`]: each says what was found instead.
    pub async fn underlay(&self, node_address: Ipv4Addr, interface: Option<&str>, peers: &[Ipv4Addr]) -> Result<Underlay, Error> {
        let links = self.links().await?;
        let addresses = self.addresses().await?;
        let device = underlay_device(&links, &addresses, node_address, interface)?;
        let exits: HashMap<u32, Mac> = links
            .iter()
            .filter(|link| link.name != OVERLAY_DEVICE && !link.loopback)
            .filter_map(|link| Some((link.ifindex, link.mac?)))
            .collect();
        let lookups: Vec<(Ipv4Addr, Option<Lookup>)> = futures::stream::iter(peers.iter().copied())
            .map(|peer| async move { Ok::<_, Error>((peer, self.lookup(peer).await?)) })
            .buffer_unordered(LOOKUPS_IN_FLIGHT)
            .try_collect()
            .await?;
        let neighbours = self.neighbours().await?;
        let next_hops = lookups
            .into_iter()
            .filter_map(|(peer, lookup)| Some((peer, next_hop(peer, &lookup?, (&exits, &addresses), &neighbours)?)))
            .collect();
        Ok(Underlay { device, next_hops })
    }

    /// How the kernel would send to `destination` now; `None` if it would not.
    async fn lookup(&self, destination: Ipv4Addr) -> Result<Option<Lookup>, Error> {
        let mut request = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(destination, 32).build();
        // A look-up says nothing of the route it is to find; strict checking insists on that.
        request.header.table = 0;
        request.header.protocol = rtnetlink::packet_route::route::RouteProtocol::Unspec;
        request.header.kind = RouteType::Unspec;
        let answer = match self.exchange(Message::GetRoute(request), 0).await {
            // No route or unreachable; prohibit; blackhole, which is told from a bad request by the missing explanation.
            Err(
                Failure::Refused { errno: Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES, .. }
                | Failure::Refused { errno: Errno::EINVAL, reason: None },
            ) => return Ok(None),
            result => result.and_then(|parts| {
                parts
                    .into_iter()
                    .find_map(|part| if let Message::NewRoute(route) = part { Some(route) } else { None })
                    .ok_or(Failure::Incomplete("route"))
            }),
        };
        Ok(decode(&answer.naming(|| format!("look up the route to {destination}"))?))
    }
}

/// `None`: the route does not lead to another host by IPv4.
fn decode(route: &RouteMessage) -> Option<Lookup> {
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    let (mut gateway, mut ifindex, mut source, mut mtu) = (None, None, None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(*address),
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| if let RouteMetric::Mtu(bytes) = metric { Some(*bytes) } else { None });
            }
            // An IPv6 next hop: nothing the IPv4 neighbour table could resolve.
            RouteAttribute::Via(_) => return None,
            _ => {}
        }
    }
    Some(Lookup { gateway, ifindex: ifindex?, source: source?, mtu })
}

fn next_hop(
    peer: Ipv4Addr,
    lookup: &Lookup,
    (exits, addresses): (&HashMap<u32, Mac>, &[Address]),
    neighbours: &BTreeMap<(u32, Ipv4Addr), Neighbour>,
) -> Option<NextHop> {
    let address = lookup.gateway.unwrap_or(peer);
    let local_mac = *exits.get(&lookup.ifindex)?;
    let entry = neighbours.get(&(lookup.ifindex, address));
    let of_node = neighbours.get(&(lookup.ifindex, peer));
    Some(NextHop {
        address,
        ifindex: lookup.ifindex,
        local_mac,
        source: lookup.source,
        mac: entry.and_then(|entry| entry.mac),
        state: entry.map_or(NeighbourState::Absent, |entry| entry.state),
        mtu: lookup.mtu,
        on_link: addresses.iter().any(|own| own.ifindex == lookup.ifindex && own.is_neighbour(peer)),
        node_mac: of_node.and_then(|entry| entry.mac),
    })
}

/// Finds the device that has `address`, or checks that the named one does.
fn underlay_device(links: &[Link], addresses: &[Address], address: Ipv4Addr, interface: Option<&str>) -> Result<UnderlayDevice, Error> {
    let carries = |link: &Link| addresses.iter().any(|entry| entry.ifindex == link.ifindex && entry.address == address);
    let holders: Vec<&Link> = links.iter().filter(|link| carries(link)).collect();
    let link = if let Some(name) = interface {
        let link = links
            .iter()
            .find(|link| link.name == name)
            .ok_or_else(|| Error::NoDevice { name: name.to_owned(), existing: names(links.iter()) })?;
        if !carries(link) {
            return Err(not_on_device(link, &holders, addresses, address));
        }
        link
    } else {
        match holders.as_slice() {
            [] => return Err(Error::AddressNowhere { address, found: all_addresses(links, addresses) }),
            [only] => only,
            // The address may be on the loopback device too, so that it stays local while the NIC is down.
            several => match several.iter().filter(|link| !link.loopback).collect::<Vec<_>>().as_slice() {
                [only] => only,
                _ => return Err(Error::AddressAmbiguous { address, devices: names(several.iter().copied()) }),
            },
        }
    };
    let Some(mac) = link.mac else {
        return Err(Error::NotEthernet { name: link.name.clone(), kind: link.kind_name().to_owned() });
    };
    Ok(UnderlayDevice { name: link.name.clone(), ifindex: link.ifindex, mac, mtu: link.mtu, kind: link.kind.clone() })
}

fn not_on_device(link: &Link, holders: &[&Link], addresses: &[Address], address: Ipv4Addr) -> Error {
    let own: Vec<_> = addresses.iter().filter(|entry| entry.ifindex == link.ifindex).map(|entry| entry.address.to_string()).collect();
    Error::AddressNotOnDevice {
        name: link.name.clone(),
        address,
        found: if own.is_empty() { "no IPv4 address".to_owned() } else { own.join(", ") },
        elsewhere: if holders.is_empty() {
            "; no device has it".to_owned()
        } else {
            format!("; the address is on {}", names(holders.iter().copied()))
        },
    }
}

fn names<'a>(links: impl Iterator<Item = &'a Link>) -> String {
    links.map(|link| link.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn all_addresses(links: &[Link], addresses: &[Address]) -> String {
    let name = |ifindex| links.iter().find(|link| link.ifindex == ifindex).map_or("?", |link| link.name.as_str());
    let words: Vec<_> = addresses.iter().map(|entry| format!("{} on {}", entry.address, name(entry.ifindex))).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}
