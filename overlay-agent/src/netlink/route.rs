//! The agent's own IPv4 routes, in the main table under [`ROUTE_PROTOCOL`].
//!
//! A route of another protocol is never replaced or removed, even when it is in the way: that is an error with its name.

use super::error::Naming;
use super::{Answer, Error, Failure, Message, Netlink};
use crate::model::{OVERLAY_DEVICE, POD_ROUTE_PROTOCOL, ROUTE_PROTOCOL, Route};
use ipnet::Ipv4Net;
use nix::errno::Errno;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType, RouteVia,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;

/// All routes with our protocol number.
#[derive(Debug, Default)]
pub struct OwnRoutes {
    /// Those [`Netlink::put_routes`] makes, decoded exactly.
    pub routes: BTreeSet<Route>,
    /// Those that differ from that in any way, left by another version, for [`Netlink::remove_strays`].
    pub strays: Strays,
}

/// Routes with our protocol number that this version does not make.
#[derive(Debug, Default)]
pub struct Strays(Vec<RouteMessage>);

impl Netlink {
    /// The routes with our protocol number.
    pub async fn own_routes(&self) -> Result<OwnRoutes, Error> {
        let device = self.link_by_name(OVERLAY_DEVICE).await?.map(|link| link.ifindex);
        let mut own = OwnRoutes::default();
        for message in self.routes_of(ROUTE_PROTOCOL).await? {
            match decode(&message, device) {
                Some(route) => drop(own.routes.insert(route)),
                None => own.strays.0.push(message),
            }
        }
        Ok(own)
    }

    /// Removes strays and says which. Does nothing when there are none.
    pub async fn remove_strays(&self, strays: Strays) -> Result<Vec<String>, Error> {
        let mut removed = Vec::new();
        if !strays.0.is_empty() {
            let names = self.device_names().await?;
            for message in strays.0 {
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

    /// Adds routes, or replaces our own to the same destinations. Returns what did not work; the rest is done nevertheless.
    ///
    /// [`Error::NoDevice`]: there is no overlay device, and nothing was tried. [`Error::RouteTaken`]: somebody else has a route to exactly
    /// this destination. The kernel also refuses a source that is no address of this node.
    pub async fn put_routes(&self, routes: &[Route]) -> Vec<Error> {
        self.try_put_routes(routes).await.unwrap_or_else(|error| vec![error])
    }

    async fn try_put_routes(&self, routes: &[Route]) -> Result<Vec<Error>, Error> {
        let leaves = routes.iter().any(|route| matches!(route, Route::Overlay { .. }));
        let device = if leaves { self.existing_link(OVERLAY_DEVICE).await?.ifindex } else { 0 };
        let request = |route: Route, flags| (Message::NewRoute(message_of(route, device)), NLM_F_ACK | NLM_F_CREATE | flags);
        let error = |(route, answer): (&Route, Answer)| answer.naming(|| format!("add route {}", route.destination())).err();

        let new: Vec<_> = routes.iter().map(|route| request(*route, NLM_F_EXCL)).collect();
        let (taken, rest): (Vec<_>, Vec<_>) =
            routes.iter().zip(self.exchange_many(&new).await).partition(|(_, answer)| errno(answer) == Some(Errno::EEXIST));
        let mut errors: Vec<Error> = rest.into_iter().filter_map(error).collect();
        if taken.is_empty() {
            return Ok(errors);
        }
        // The kernel replaces the first route to the destination, whoever made it: look before letting it.
        let owners = self.foreign_routes().await?;
        let (foreign, ours): (Vec<Route>, Vec<Route>) =
            taken.into_iter().map(|(route, _)| *route).partition(|route| owners.contains_key(&route.destination()));
        let replace: Vec<_> = ours.iter().map(|route| request(*route, NLM_F_REPLACE)).collect();
        errors.extend(ours.iter().zip(self.exchange_many(&replace).await).filter_map(error));
        let owned = |destination: Ipv4Net| Some((destination, owners.get(&destination)?.clone()));
        let owned = foreign.into_iter().filter_map(|route| owned(route.destination()));
        errors.extend(owned.map(|(destination, owner)| Error::RouteTaken { destination: destination.to_string(), owner }));
        Ok(errors)
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

    /// All IPv4 routes with this protocol number in the main table; the kernel does the filtering.
    async fn routes_of(&self, protocol: u8) -> Result<Vec<RouteMessage>, Error> {
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet;
        request.header.table = RouteHeader::RT_TABLE_MAIN;
        request.header.protocol = RouteProtocol::Other(protocol);
        self.dump_routes(request).await.naming(|| format!("list the routes with protocol {protocol}"))
    }

    /// The routes at our metric that are not ours, in words, by destination.
    async fn foreign_routes(&self) -> Result<BTreeMap<Ipv4Net, String>, Error> {
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet;
        request.header.table = RouteHeader::RT_TABLE_MAIN;
        let routes = self.dump_routes(request).await.naming(|| "list the routes".to_owned())?;
        let names = self.device_names().await?;
        let foreign = routes.iter().filter(|message| metric(message) == 0 && message.header.protocol != protocol());
        let described =
            foreign.filter_map(|message| Some((destination_in(message)?, describe(message, |ifindex| name_of(ifindex, &names)))));
        Ok(described.collect())
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

/// What the kernel is told of a route. `device`: index of the overlay device.
fn message_of(route: Route, device: u32) -> RouteMessage {
    let message = base(route.destination()).kind(kind_of(route));
    match route {
        Route::Overlay { source, .. } => message.scope(RouteScope::Link).output_interface(device).pref_source(source).build(),
        Route::Direct { gateway, ifindex, source, mtu, .. } => {
            let mut message = message.gateway(gateway).output_interface(ifindex).pref_source(source).build();
            message.attributes.extend(mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
            message
        }
        Route::Unreachable { .. } => message.build(),
    }
}

fn errno(answer: &Answer) -> Option<Errno> {
    answer.as_ref().err().and_then(Failure::errno)
}

fn base(destination: Ipv4Net) -> RouteMessageBuilder<Ipv4Addr> {
    RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(destination.addr(), destination.prefix_len()).protocol(protocol())
}

/// The model's word for a route, if it is exactly what `put_routes` makes. `device` is the overlay device.
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
