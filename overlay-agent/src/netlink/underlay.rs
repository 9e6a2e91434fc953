//! What the network outside looks like from here: the NIC with this node's address, and the next hop to every other node.
//!
//! The routes are the kernel's own decisions (one `RTM_GETROUTE` per node), not our reading of its tables: policy rules, VRFs, several
//! tables and multipath are the kernel's business. Look-ups go to the kernel many at once, some 4 µs each
//! (`five_thousand_peers` in `tests/netlink` prints it).

use super::error::Naming;
use super::{Address, Error, Failure, Link, Message, Neighbour, Netlink};
use crate::model::{Mac, ManagedNeighbour, NeighbourState, NextHop, OVERLAY_DEVICE, Underlay, UnderlayDevice};
use nix::errno::Errno;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteType};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;

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
        let device = underlay_device(&self.links().await?, &self.addresses().await?, node_address, interface)?;
        Ok(Underlay { device, next_hops: self.next_hops(peers).await? })
    }

    /// How the kernel would send to each of these addresses now; one that it would not send to is absent, as in [`Netlink::underlay`].
    pub async fn next_hops(&self, peers: &[Ipv4Addr]) -> Result<BTreeMap<Ipv4Addr, NextHop>, Error> {
        let lookups = self.lookups(peers).await?;
        let mut exits = HashMap::new();
        for ifindex in lookups.iter().map(|(_, lookup)| lookup.ifindex).collect::<BTreeSet<u32>>() {
            let link = self.link_by_index(ifindex).await?.filter(|link| link.name != OVERLAY_DEVICE && !link.loopback);
            exits.extend(link.and_then(|link| Some((ifindex, link.mac?))));
        }
        let addresses = self.addresses().await?;
        // Peers behind a router, thousands of them, are nobody's neighbours: only the router is asked for.
        let places = lookups.iter().flat_map(|(peer, lookup)| {
            let [next, node] = lookup.neighbours(*peer);
            [Some(next), lookup.is_on_link(*peer, &addresses).then_some(node)]
        });
        let mut places: Vec<ManagedNeighbour> = places.flatten().collect();
        places.sort_unstable();
        places.dedup();
        let mut neighbours = BTreeMap::new();
        for (place, entry) in places.iter().zip(self.neighbours_at(&places).await) {
            neighbours.extend(entry?.map(|entry| (*place, entry)));
        }
        Ok(lookups
            .into_iter()
            .filter_map(|(peer, lookup)| Some((peer, next_hop(peer, &lookup, (&exits, &addresses), &neighbours)?)))
            .collect())
    }

    /// How the kernel would send to each of `destinations` now; without those it would not send to.
    async fn lookups(&self, destinations: &[Ipv4Addr]) -> Result<Vec<(Ipv4Addr, Lookup)>, Error> {
        let requests: Vec<_> = destinations.iter().map(|destination| (Message::GetRoute(question(*destination)), 0)).collect();
        let answers = self.exchange_many(&requests).await;
        let mut lookups = Vec::with_capacity(destinations.len());
        for (destination, answer) in destinations.iter().zip(answers) {
            let answer = match answer {
                // No route or unreachable; prohibit; blackhole, which is told from a bad request by the missing explanation.
                Err(
                    Failure::Refused { errno: Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES, .. }
                    | Failure::Refused { errno: Errno::EINVAL, reason: None },
                ) => continue,
                Ok(Some(Message::NewRoute(route))) => Ok(route),
                Ok(_) => Err(Failure::Incomplete("route")),
                Err(failure) => Err(failure),
            };
            let route = answer.naming(|| format!("look up the route to {destination}"))?;
            lookups.extend(decode(&route).map(|lookup| (*destination, lookup)));
        }
        Ok(lookups)
    }
}

/// A look-up says nothing of the route it is to find; strict checking insists on that.
fn question(destination: Ipv4Addr) -> RouteMessage {
    let mut request = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(destination, 32).build();
    request.header.table = 0;
    request.header.protocol = RouteProtocol::Unspec;
    request.header.kind = RouteType::Unspec;
    request
}

impl Lookup {
    /// Who packets to `peer` are handed to, and the peer itself as a neighbour.
    fn neighbours(&self, peer: Ipv4Addr) -> [ManagedNeighbour; 2] {
        [self.gateway.unwrap_or(peer), peer].map(|address| ManagedNeighbour { address, ifindex: self.ifindex })
    }

    /// Whether `peer` is in a network of the NIC.
    fn is_on_link(&self, peer: Ipv4Addr, addresses: &[Address]) -> bool {
        addresses.iter().any(|own| own.ifindex == self.ifindex && own.is_neighbour(peer))
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
    neighbours: &BTreeMap<ManagedNeighbour, Neighbour>,
) -> Option<NextHop> {
    let [next, node] = lookup.neighbours(peer);
    let local_mac = *exits.get(&lookup.ifindex)?;
    let (entry, of_node) = (neighbours.get(&next), neighbours.get(&node));
    Some(NextHop {
        address: next.address,
        ifindex: lookup.ifindex,
        local_mac,
        source: lookup.source,
        mac: entry.and_then(|entry| entry.mac),
        state: entry.map_or(NeighbourState::Absent, |entry| entry.state),
        mtu: lookup.mtu,
        on_link: lookup.is_on_link(peer, addresses),
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
