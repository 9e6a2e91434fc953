//! A pod's wire, compared with what [`Netlink::create_pod_veth`] makes. Changes nothing.

use super::error::Naming;
use super::route::destination_in;
use super::veth::{POD_GATEWAY, PodVeth};
use super::{Error, Link, Message, Netlink};
use crate::model::{Mac, ManagedNeighbour};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage};
use rtnetlink::packet_route::tc::{TcHandle, TcMessage};
use std::net::Ipv4Addr;

/// Parent of the filters that clsact runs on what comes in (`TC_H_CLSACT`, `TC_H_MIN_INGRESS`).
const CLSACT_INGRESS: u32 = 0xffff_fff2;

impl Netlink {
    /// What differs from a wire as it is made, a sentence each. MTUs are left out: the live value may have changed since.
    pub async fn pod_veth_damage(&self, wire: &PodVeth<'_>, default_route: bool) -> Result<Vec<String>, Error> {
        let mut damage = Vec::new();
        match self.link_by_name(wire.host_name).await? {
            None => damage.push(format!("device {} is gone from the node", wire.host_name)),
            Some(link) => {
                damage.extend(device_damage(&link, wire.host_mac));
                damage.extend(self.neighbour_damage(&link, wire.pod_address, wire.pod_mac).await?);
                let routes = self.pod_routes().await?;
                if routes.get(&wire.pod_address) != Some(&(link.ifindex, wire.source)) {
                    damage.push(format!("the node has no route {}/32 dev {} src {}", wire.pod_address, link.name, wire.source));
                }
            }
        }
        let pod = Self::connect_in(wire.namespace)?;
        let inside = pod.pod_end_damage(wire, default_route).await?;
        damage.extend(inside.into_iter().map(|text| format!("in the pod, {text}")));
        Ok(damage)
    }

    /// The pod's side; this connection is in the pod's namespace.
    async fn pod_end_damage(&self, wire: &PodVeth<'_>, default_route: bool) -> Result<Vec<String>, Error> {
        let Some(link) = self.link_by_name(wire.pod_name).await? else {
            return Ok(vec![format!("device {} is gone", wire.pod_name)]);
        };
        let mut damage: Vec<String> = device_damage(&link, wire.pod_mac).collect();
        let has = |address: &super::Address| (address.ifindex, address.address) == (link.ifindex, wire.pod_address);
        if !self.addresses().await?.iter().any(has) {
            damage.push(format!("device {} does not have the address {}", link.name, wire.pod_address));
        }
        damage.extend(self.neighbour_damage(&link, POD_GATEWAY, wire.host_mac).await?);
        if default_route && !self.has_default_route(link.ifindex).await? {
            damage.push(format!("there is no default route via {POD_GATEWAY} dev {}", link.name));
        }
        Ok(damage)
    }

    async fn neighbour_damage(&self, link: &Link, address: Ipv4Addr, mac: Mac) -> Result<Option<String>, Error> {
        let neighbour = ManagedNeighbour { address, ifindex: link.ifindex };
        let found = self.neighbour(neighbour).await?;
        let right = found.is_some_and(|found| found.permanent && found.mac == Some(mac));
        Ok((!right).then(|| format!("device {} has no permanent neighbour {address} at {mac}", link.name)))
    }

    async fn has_default_route(&self, ifindex: u32) -> Result<bool, Error> {
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet;
        request.header.table = RouteHeader::RT_TABLE_MAIN;
        let routes = self.dump_routes(request).await.naming(|| "list the pod's routes".to_owned())?;
        let has = |route: &RouteMessage, wanted: RouteAttribute| route.attributes.contains(&wanted);
        Ok(routes.iter().any(|route| {
            destination_in(route).is_some_and(|destination| destination.prefix_len() == 0)
                && has(route, RouteAttribute::Gateway(RouteAddress::Inet(POD_GATEWAY)))
                && has(route, RouteAttribute::Oif(ifindex))
        }))
    }

    /// Whether a device has a filter of this priority and handle on what comes in.
    pub async fn has_ingress_filter(&self, ifindex: u32, priority: u16, handle: u32) -> Result<bool, Error> {
        let mut request = TcMessage::with_index(ifindex.cast_signed());
        request.header.parent = TcHandle::from(CLSACT_INGRESS);
        let found = self
            .dump(Message::GetTrafficFilter(request), |part| match part {
                Message::NewTrafficFilter(filter) => Some((filter.header.info >> 16, u32::from(filter.header.handle))),
                _ => None,
            })
            .await
            .naming(|| format!("list the filters of the device with index {ifindex}"))?;
        Ok(found.contains(&(priority.into(), handle)))
    }
}

fn device_damage(link: &Link, mac: Mac) -> impl Iterator<Item = String> {
    let down = (!link.up).then(|| format!("device {} is down", link.name));
    let renamed = (link.mac != Some(mac)).then(|| match link.mac {
        Some(found) => format!("device {} has the MAC {found}, not {mac}", link.name),
        None => format!("device {} has no MAC, not {mac}", link.name),
    });
    down.into_iter().chain(renamed)
}
