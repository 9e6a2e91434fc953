//! What changed in the host's network, as a reason to look again.
//!
//! An event never says how things are now: whoever gets one reads the tables. It is left out when nothing the agent depends on
//! changed, so that a quiet network lets it sleep: the neighbours the kernel keeps resolved go from REACHABLE to PROBE and back for
//! ever, and a DHCP client renews its address every few minutes. Routes written through the same [`Netlink`] are left out too.

use super::nftables::Changes;
use super::route;
use super::{Address, Error, Link, Message, Neighbour, Netlink};
use crate::model::{Mac, POD_ROUTE_PROTOCOL};
use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol};
use rtnetlink::sys::{AsyncSocket, SocketAddr};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::Ipv4Addr;
use tokio::task::JoinHandle;

/// Receive buffer asked for; the kernel grants up to `net.core.rmem_max`. Overrun costs a resync, not correctness.
const RECEIVE_BUFFER: i32 = 4 << 20;

/// The table of this host's own and of broadcast addresses, which the kernel keeps (linux/rtnetlink.h).
const RT_TABLE_LOCAL: u8 = 255;

/// Something changed; the text says what, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A device came, went, or changed its name, MAC, MTU, state or carrier.
    Link(String),
    /// The usable MAC of an IPv4 neighbour changed, appeared or vanished.
    Neighbour(String),
    /// An IPv4 route or policy rule came or went.
    Route(String),
    /// A device got or lost an IPv4 address.
    Address(String),
    /// Our nftables table, or a chain that judges forwarded packets, changed.
    Firewall(String),
    /// Notifications were lost: everything may have changed.
    Overrun,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(text) | Self::Neighbour(text) | Self::Route(text) | Self::Address(text) | Self::Firewall(text) => f.write_str(text),
            Self::Overrun => f.write_str("kernel notifications were lost"),
        }
    }
}

/// The stream of changes. Subscribe first, then read the tables: then nothing is missed in between.
#[derive(Debug)]
pub struct Events {
    netlink: Netlink,
    notifications: UnboundedReceiver<(NetlinkMessage<Message>, SocketAddr)>,
    driver: JoinHandle<()>,
    /// `None` in a kernel without nftables, which has nothing to tell; whoever looks at the rules reports it.
    firewall: Option<Changes>,
    known: Known,
    /// Notifications were lost and `known` has not been read anew since.
    lost: bool,
}

impl Netlink {
    /// Subscribes to changes in the calling thread's network namespace, which has to be the one this connection is in.
    ///
    /// Fails with [`Error::Socket`], or with [`Error::Request`] when the present state cannot be read.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn events(&self) -> Result<Events, Error> {
        let groups =
            [MulticastGroup::Link, MulticastGroup::Neigh, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv4Route, MulticastGroup::Ipv4Rule];
        let (mut connection, _, notifications) = rtnetlink::new_multicast_connection(&groups).map_err(Error::Socket)?;
        connection.socket_mut().socket_mut().set_rx_buf_sz(RECEIVE_BUFFER).map_err(Error::Socket)?;
        let driver = tokio::spawn(connection);
        let firewall = Changes::subscribe().await.ok();
        Ok(Events { netlink: self.clone(), notifications, driver, firewall, known: Known::read(self).await?, lost: false })
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Events {
    /// The next change; `None` if the subscription broke and a new one is needed. Safe to cancel: nothing is lost.
    ///
    /// Fails with [`Error::Request`] when notifications were lost and the present state cannot be read; calling again tries again.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if self.lost {
                // Whoever gets the overrun reads everything anew. What is compared with has to be no older than that reading, or a
                // later change back to an older value would look like no change.
                self.known = Known::read(&self.netlink).await?;
                self.lost = false;
                return Ok(Some(Event::Overrun));
            }
            let firewall = async {
                match &mut self.firewall {
                    Some(changes) => changes.next().await,
                    None => std::future::pending().await,
                }
            };
            let notification = tokio::select! {
                notification = self.notifications.next() => notification,
                changed = firewall => return match changed {
                    Err(Error::Socket(_)) => Ok(None),
                    changed => changed.map(|text| Some(Event::Firewall(text))),
                },
            };
            let Some((notification, _)) = notification else { return Ok(None) };
            let own = self.netlink.is_own(notification.header.port_number);
            match notification.payload {
                NetlinkPayload::Overrun(_) => self.lost = true,
                NetlinkPayload::InnerMessage(message) => match self.known.note(&message) {
                    // What this connection did to a route is known to whoever did it; a node that joins would cost a second look.
                    Some(Event::Route(_)) if own => {}
                    Some(event) => return Ok(Some(event)),
                    None => {}
                },
                _ => {}
            }
        }
    }
}

/// What the last notification, or the reading at the start, said of each object: as much of it as the agent depends on.
#[derive(Debug, Default)]
struct Known {
    links: HashMap<u32, Link>,
    neighbours: HashMap<(u32, Ipv4Addr), Mac>,
    addresses: HashSet<Address>,
}

impl Known {
    async fn read(netlink: &Netlink) -> Result<Self, Error> {
        let neighbours = netlink.neighbours().await?.into_iter();
        Ok(Self {
            links: netlink.links().await?.into_iter().map(|link| (link.ifindex, link)).collect(),
            neighbours: neighbours.filter_map(|(key, entry)| Some((key, entry.mac?))).collect(),
            addresses: netlink.addresses().await?.into_iter().collect(),
        })
    }

    /// Takes note of a notification; `Some` if it changes anything.
    fn note(&mut self, message: &Message) -> Option<Event> {
        match message {
            Message::NewLink(link) => self.note_link(&Link::decode(link)?),
            Message::DelLink(link) => {
                let link = Link::decode(link)?;
                self.links.remove(&link.ifindex)?;
                self.neighbours.retain(|(ifindex, _), _| *ifindex != link.ifindex);
                Some(Event::Link(format!("device {} is gone", link.name)))
            }
            Message::NewNeighbour(entry) => {
                let (ifindex, address, entry) = Neighbour::decode(entry)?;
                self.note_neighbour(ifindex, address, entry.mac)
            }
            Message::DelNeighbour(entry) => {
                let (ifindex, address, _) = Neighbour::decode(entry)?;
                self.note_neighbour(ifindex, address, None)
            }
            Message::NewAddress(address) => {
                let address = Address::decode(address)?;
                let Address { address: ip, prefix, .. } = address;
                let new = self.addresses.insert(address);
                new.then(|| Event::Address(format!("address {ip}/{prefix} appeared on {}", self.name(address.ifindex))))
            }
            Message::DelAddress(address) => {
                let address = Address::decode(address)?;
                let Address { address: ip, prefix, .. } = address;
                let known = self.addresses.remove(&address);
                known.then(|| Event::Address(format!("address {ip}/{prefix} is gone from {}", self.name(address.ifindex))))
            }
            Message::NewRoute(route) => self.note_route(route, "appeared"),
            Message::DelRoute(route) => self.note_route(route, "is gone"),
            Message::NewRule(_) | Message::DelRule(_) => Some(Event::Route("the policy rules changed".to_owned())),
            _ => None,
        }
    }

    fn note_link(&mut self, link: &Link) -> Option<Event> {
        let name = &link.name;
        match self.links.insert(link.ifindex, link.clone()) {
            None => Some(Event::Link(format!("device {name} appeared"))),
            Some(old) if old == *link => None,
            Some(old) => Some(Event::Link(format!("device {name} changed: {}", difference(&old, link)))),
        }
    }

    /// Routes are not remembered: there may be very many, and they do not change without a reason. Left out are those of the table
    /// "local", which only follow the addresses, and the pods' own, which are the CNI plugin's and no way to a node.
    fn note_route(&self, route: &RouteMessage, happened: &str) -> Option<Event> {
        let header = &route.header;
        let relevant = header.address_family == AddressFamily::Inet
            && header.table != RT_TABLE_LOCAL
            && header.protocol != RouteProtocol::Other(POD_ROUTE_PROTOCOL);
        relevant.then(|| Event::Route(format!("route {} {happened}", route::describe(route, |ifindex| self.name(ifindex)))))
    }

    fn note_neighbour(&mut self, ifindex: u32, address: Ipv4Addr, mac: Option<Mac>) -> Option<Event> {
        let key = (ifindex, address);
        let old = match mac {
            Some(mac) => self.neighbours.insert(key, mac),
            None => self.neighbours.remove(&key),
        };
        let device = self.name(ifindex);
        match (old, mac) {
            (Some(old), Some(new)) if old != new => Some(format!("neighbour {address} on {device} moved from {old} to {new}")),
            (None, Some(new)) => Some(format!("neighbour {address} on {device} is at {new}")),
            (Some(old), None) => Some(format!("neighbour {address} on {device} is no longer at {old}")),
            _ => None,
        }
        .map(Event::Neighbour)
    }

    fn name(&self, ifindex: u32) -> String {
        self.links.get(&ifindex).map_or_else(|| format!("the device with index {ifindex}"), |link| link.name.clone())
    }
}

/// What became different about a device.
fn difference(old: &Link, new: &Link) -> String {
    let mut words = Vec::new();
    if old.name != new.name {
        words.push(format!("was {}", old.name));
    }
    if old.mtu != new.mtu {
        words.push(format!("MTU {} to {}", old.mtu, new.mtu));
    }
    if let (Some(old), Some(new)) = (old.mac, new.mac)
        && old != new
    {
        words.push(format!("MAC {old} to {new}"));
    }
    for (what, old, new) in [("up", old.up, new.up), ("carrier", old.carrier, new.carrier), ("ARP", !old.noarp, !new.noarp)] {
        if old != new {
            words.push(format!("{what} {}", if new { "on" } else { "off" }));
        }
    }
    if words.is_empty() { "settings".to_owned() } else { words.join(", ") }
}
