//! The agent's own IPv4 routes, in the main table under [`ROUTE_PROTOCOL`].
//!
//! A route of another protocol is never replaced or removed, even when it is in the way: that is an error with its name.

use super::error::Naming;
use super::{Error, Failure, Message, Netlink};
use crate::model::{OVERLAY_DEVICE, POD_ROUTE_PROTOCOL, ROUTE_PROTOCOL, Route};
use ipnet::Ipv4Net;
use nix::errno::Errno;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType, RouteVia,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;

impl Netlink {
    /// Our routes, decoded exactly: a route with our protocol number that differs in any way from what [`Netlink::put_route`] makes
    /// is not among them, see [`Netlink::remove_stray_routes`].
    pub async fn routes(&self) -> Result<BTreeSet<Route>, Error> {
        let device = self.link_by_name(OVERLAY_DEVICE).await?.map(|link| link.ifindex);
        let routes = self.own_routes().await?;
        Ok(routes.iter().filter_map(|message| decode(message, device)).collect())
    }

    /// Removes routes with our protocol number that are not of a form we make (left by another version), and says which.
    /// Writes nothing when there are none.
    pub async fn remove_stray_routes(&self) -> Result<Vec<String>, Error> {
        let device = self.link_by_name(OVERLAY_DEVICE).await?.map(|link| link.ifindex);
        let mut removed = Vec::new();
        let strays: Vec<_> = self.own_routes().await?.into_iter().filter(|message| decode(message, device).is_none()).collect();
        if !strays.is_empty() {
            let names = self.device_names().await?;
            for message in strays {
                let description = describe(&message, |ifindex| name_of(ifindex, &names));
                self.delete_route(message).await.naming(|| format!("remove stray route {description}"))?;
                removed.push(description);
            }
        }
        Ok(removed)
    }

    /// The routes to this node's pods, as [`Netlink::put_pod_route`] makes them: device and preferred source by the pod's address.
    pub async fn pod_routes(&self) -> Result<BTreeMap<Ipv4Addr, (u32, Ipv4Addr)>, Error> {
        let routes = self.routes_of(POD_ROUTE_PROTOCOL).await?;
        let pod = |message: &RouteMessage| {
            let destination = destination_in(message).filter(|destination| destination.prefix_len() == 32)?;
            let output = message.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(ifindex) => Some(*ifindex),
                _ => None,
            })?;
            let source = message.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::PrefSource(RouteAddress::Inet(address)) => Some(*address),
                _ => None,
            })?;
            Some((destination.addr(), (output, source)))
        };
        Ok(routes.iter().filter_map(pod).collect())
    }

    /// Where the routes through a device lead, whoever made them; the kernel's own for its addresses are left out.
    pub async fn routes_through(&self, ifindex: u32) -> Result<Vec<Ipv4Net>, Error> {
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet;
        let mut routes = self
            .dump(Message::GetRoute(request), |part| match part {
                Message::NewRoute(route) if route.header.protocol != RouteProtocol::Kernel => {
                    let here = route.attributes.contains(&RouteAttribute::Oif(ifindex));
                    if here { destination_in(&route) } else { None }
                }
                _ => None,
            })
            .await
            .naming(|| format!("list the routes through the device with index {ifindex}"))?;
        routes.sort_unstable();
        Ok(routes)
    }

    /// Adds a route, or replaces our own route to the same destination.
    ///
    /// Fails with [`Error::NoDevice`] if there is no overlay device, and with [`Error::RouteTaken`] if somebody else has a route to
    /// exactly this destination. The kernel also refuses a source that is no address of this node.
    pub async fn put_route(&self, route: Route) -> Result<(), Error> {
        let message = self.message_of(route).await?;
        let destination = route.destination();
        let naming = || format!("add route {destination}");
        match self.exchange(Message::NewRoute(message.clone()), NLM_F_CREATE | NLM_F_EXCL).await {
            Err(failure) if failure.errno() == Some(Errno::EEXIST) => {
                // The kernel replaces the first route to the destination, whoever made it: look before letting it.
                if let Some(owner) = self.foreign_route(destination).await? {
                    return Err(Error::RouteTaken { destination: destination.to_string(), owner });
                }
                self.exchange(Message::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE).await.map(drop).naming(naming)
            }
            result => result.map(drop).naming(naming),
        }
    }

    /// Removes one of our routes; one that is not there is fine.
    pub async fn remove_route(&self, route: Route) -> Result<(), Error> {
        // Scope "nowhere" matches any scope in a removal; the protocol number keeps other people's routes out of it. No device is
        // named, so that a route goes whichever device it was left on.
        let (kind, destination) = (kind_of(route), route.destination());
        let mut message = base(destination).kind(kind).scope(RouteScope::NoWhere);
        if let Route::Overlay { source, .. } | Route::Direct { source, .. } = route {
            message = message.pref_source(source);
        }
        self.delete_route(message.build()).await.naming(|| format!("remove route {destination}"))
    }

    async fn delete_route(&self, message: RouteMessage) -> Result<(), Failure> {
        match self.exchange(Message::DelRoute(message), 0).await {
            Err(failure) if failure.errno() == Some(Errno::ESRCH) => Ok(()),
            result => result.map(drop),
        }
    }

    async fn message_of(&self, route: Route) -> Result<RouteMessage, Error> {
        let message = base(route.destination()).kind(kind_of(route));
        Ok(match route {
            Route::Overlay { source, .. } => {
                let device = self.existing_link(OVERLAY_DEVICE).await?;
                message.scope(RouteScope::Link).output_interface(device.ifindex).pref_source(source).build()
            }
            Route::Direct { gateway, ifindex, source, mtu, .. } => {
                let mut message = message.gateway(gateway).output_interface(ifindex).pref_source(source).build();
                message.attributes.extend(mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
                message
            }
            Route::Unreachable { .. } => message.build(),
        })
    }

    /// All routes with our protocol number.
    async fn own_routes(&self) -> Result<Vec<RouteMessage>, Error> {
        self.routes_of(ROUTE_PROTOCOL).await
    }

    /// All IPv4 routes with this protocol number in the main table; the kernel does the filtering.
    async fn routes_of(&self, protocol: u8) -> Result<Vec<RouteMessage>, Error> {
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet;
        request.header.table = RouteHeader::RT_TABLE_MAIN;
        request.header.protocol = RouteProtocol::Other(protocol);
        self.dump_routes(request).await.naming(|| format!("list the routes with protocol {protocol}"))
    }

    /// The first route to exactly this destination, at our metric, that is not ours, in words.
    async fn foreign_route(&self, destination: Ipv4Net) -> Result<Option<String>, Error> {
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet;
        request.header.table = RouteHeader::RT_TABLE_MAIN;
        let routes = self.dump_routes(request).await.naming(|| "list the routes".to_owned())?;
        let in_the_way = |message: &&RouteMessage| {
            destination_in(message) == Some(destination) && metric(message) == 0 && message.header.protocol != protocol()
        };
        let Some(route) = routes.iter().find(in_the_way) else { return Ok(None) };
        let names = self.device_names().await?;
        Ok(Some(describe(route, |ifindex| name_of(ifindex, &names))))
    }

    async fn device_names(&self) -> Result<HashMap<u32, String>, Error> {
        Ok(self.links().await?.into_iter().map(|link| (link.ifindex, link.name)).collect())
    }

    pub(super) async fn dump_routes(&self, request: RouteMessage) -> Result<Vec<RouteMessage>, Failure> {
        self.dump(Message::GetRoute(request), |part| match part {
            Message::NewRoute(route) => Some(route),
            _ => None,
        })
        .await
    }
}

fn protocol() -> RouteProtocol {
    RouteProtocol::Other(ROUTE_PROTOCOL)
}

fn kind_of(route: Route) -> RouteType {
    match route {
        Route::Overlay { .. } | Route::Direct { .. } => RouteType::Unicast,
        Route::Unreachable { .. } => RouteType::Unreachable,
    }
}

fn base(destination: Ipv4Net) -> RouteMessageBuilder<Ipv4Addr> {
    RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(destination.addr(), destination.prefix_len()).protocol(protocol())
}

/// The model's word for a route, if it is exactly what `put_route` makes. `device` is the overlay device.
fn decode(message: &RouteMessage, device: Option<u32>) -> Option<Route> {
    let header = &message.header;
    if header.tos != 0 || header.source_prefix_length != 0 {
        return None;
    }
    let destination = destination_in(message)?;
    let (mut output, mut source, mut via, mut mtu) = (None, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(_) | RouteAttribute::Table(_) | RouteAttribute::CacheInfo(_) => {}
            RouteAttribute::Oif(ifindex) => output = Some(*ifindex),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(*address),
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => via = Some(*address),
            RouteAttribute::Metrics(metrics) => match metrics.as_slice() {
                [RouteMetric::Mtu(bytes)] => mtu = Some(*bytes),
                _ => return None,
            },
            // A priority, several next hops, …: not what we make.
            _ => return None,
        }
    }
    let on_overlay = output == device;
    match (header.kind, output, source, via, mtu) {
        (RouteType::Unicast, Some(_), Some(source), None, None) if on_overlay && header.scope == RouteScope::Link => {
            Some(Route::Overlay { destination, source })
        }
        (RouteType::Unicast, Some(ifindex), Some(source), Some(gateway), mtu) if !on_overlay && header.scope == RouteScope::Universe => {
            Some(Route::Direct { destination, gateway, ifindex, source, mtu })
        }
        (RouteType::Unreachable, None, None, None, None) => Some(Route::Unreachable { destination }),
        _ => None,
    }
}

/// Where a route leads; the default route has no attribute for it.
pub(super) fn destination_in(message: &RouteMessage) -> Option<Ipv4Net> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
        _ => None,
    });
    Ipv4Net::new(address.unwrap_or(Ipv4Addr::UNSPECIFIED), message.header.destination_prefix_length).ok()
}

fn metric(message: &RouteMessage) -> u32 {
    let metric = |attribute: &RouteAttribute| if let RouteAttribute::Priority(metric) = attribute { Some(*metric) } else { None };
    message.attributes.iter().find_map(metric).unwrap_or(0)
}

fn name_of(ifindex: u32, names: &HashMap<u32, String>) -> String {
    names.get(&ifindex).cloned().unwrap_or_else(|| format!("with index {ifindex}"))
}

/// A route in words, close to what `ip route` prints. `name` gives the name of a device.
pub(super) fn describe(message: &RouteMessage, name: impl Fn(u32) -> String) -> String {
    let mut words = Vec::new();
    if message.header.kind != RouteType::Unicast {
        words.push(format!("{:?}", message.header.kind).to_lowercase());
    }
    words.push(match destination_in(message) {
        Some(destination) if destination.prefix_len() == 0 => "default".to_owned(),
        Some(destination) => destination.to_string(),
        None => "?".to_owned(),
    });
    for attribute in &message.attributes {
        words.push(match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => format!("via {gateway}"),
            RouteAttribute::Via(RouteVia::Inet6(gateway)) => format!("via {gateway}"),
            RouteAttribute::Oif(ifindex) => format!("dev {}", name(*ifindex)),
            RouteAttribute::Priority(metric) => format!("metric {metric}"),
            _ => continue,
        });
    }
    words.push(format!("proto {}", u8::from(message.header.protocol)));
    words.join(" ")
}
