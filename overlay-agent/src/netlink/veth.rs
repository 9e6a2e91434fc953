//! A pod's wire: the veth pair, and the addresses, routes and neighbours on both of its ends.
//!
//! ```text
//! node                                                       pod
//! <host_name>  up, MAC host_mac                              <pod_name>  up, MAC pod_mac, <pod>/32
//! <pod>/32 dev <host_name> scope link src <source>           169.254.1.1 dev <pod_name> scope link
//! neighbour <pod> at pod_mac, permanent                      default via 169.254.1.1
//!                                                            neighbour 169.254.1.1 at host_mac, permanent
//! ```
//!
//! Nobody ever asks by ARP: both ends know the other's MAC. Used by the CNI plugin and by the lab; programs and maps are not this
//! module's business.

use super::error::Naming;
use super::{Error, Failure, Link, Message, Namespace, Netlink};
use crate::model::{Mac, POD_ROUTE_PROTOCOL};
use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use rtnetlink::packet_route::route::{RouteProtocol, RouteScope};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

/// The address every pod has as its default gateway. No device has it; the pod's permanent neighbour entry answers for it.
pub const POD_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// Largest super-packet a pod's stack may build, in bytes: with the 50 bytes of outer headers it still fits the 65535 that the outer
/// IPv4 length field can say.
pub const POD_GSO_MAX_SIZE: u32 = 65000;

/// A pod's wire, as it is to be made.
#[derive(Clone, Copy, Debug)]
pub struct PodVeth<'a> {
    /// Name of the node's end, at most 15 bytes.
    pub host_name: &'a str,
    /// MAC of the node's end.
    pub host_mac: Mac,
    /// What `ip link` shows beside the node's end, cut to what the kernel takes; empty: nothing.
    pub alias: &'a str,
    /// Where the pod's end goes.
    pub namespace: &'a Namespace,
    /// Name of the pod's end, e.g. `eth0`.
    pub pod_name: &'a str,
    /// MAC of the pod's end.
    pub pod_mac: Mac,
    /// The pod's address.
    pub pod_address: Ipv4Addr,
    /// MTU of both ends.
    pub mtu: u32,
    /// Source address of the node's own packets to the pod: the node's gateway address, which a local device has to have.
    pub source: Ipv4Addr,
}

impl Netlink {
    /// Makes a pod's wire; returns the index of the node's end. When a step fails, nothing is left behind.
    ///
    /// This connection is to be in the node's namespace. Fails with [`Error::DeviceExists`] if a device of either name exists already
    /// (that one is left alone), with [`Error::Namespace`], and with [`Error::Request`] naming the step.
    pub async fn create_pod_veth(&self, wire: &PodVeth<'_>) -> Result<u32, Error> {
        self.create_pair(wire).await?;
        match self.connect_pair(wire).await {
            Ok(ifindex) => Ok(ifindex),
            Err(error) => {
                // Its peer goes with it. The first error is the one to report.
                let _ = self.delete_link(wire.host_name).await;
                Err(error)
            }
        }
    }

    /// Removes a pod's wire; one that is not there is fine (`false`). Its routes and neighbours go with it.
    ///
    /// Fails with [`Error::WrongKind`] if the device of that name is not a veth.
    pub async fn delete_pod_veth(&self, host_name: &str) -> Result<bool, Error> {
        match self.link_by_name(host_name).await? {
            None => Ok(false),
            Some(link) if link.kind.as_deref() == Some("veth") => self.delete_link(host_name).await,
            Some(link) => Err(Error::WrongKind { found: link.kind_name().to_owned(), name: link.name, expected: "veth" }),
        }
    }

    /// Writes the node's route to one of its pods.
    ///
    /// Part of [`Netlink::create_pod_veth`], and needed again by itself: when `source` is taken off its device (the overlay device is
    /// made anew), the kernel removes every route that has it as preferred source.
    pub async fn put_pod_route(&self, ifindex: u32, pod_address: Ipv4Addr, source: Ipv4Addr) -> Result<(), Error> {
        let message = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(pod_address, 32)
            .output_interface(ifindex)
            .scope(RouteScope::Link)
            .pref_source(source)
            .protocol(RouteProtocol::Other(POD_ROUTE_PROTOCOL))
            .build();
        self.exchange(Message::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
            .await
            .map(drop)
            .naming(|| format!("add route {pod_address}/32 src {source}"))
    }

    /// Both ends, each in its place with name, MAC and MTU, by one request: there is no moment at which the pod's end is visible in
    /// the node's namespace, where its name might be taken and udev might rename it.
    async fn create_pair(&self, wire: &PodVeth<'_>) -> Result<(), Error> {
        let pod_end = LinkMessageBuilder::<LinkUnspec>::new()
            .name(wire.pod_name)
            .address(wire.pod_mac.0.to_vec())
            .mtu(wire.mtu)
            .setns_by_fd(wire.namespace.as_raw_fd())
            .build();
        let request = LinkMessageBuilder::<LinkVeth>::new(wire.host_name, wire.pod_name)
            .address(wire.host_mac.0.to_vec())
            .mtu(wire.mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(pod_end)))
            .build();
        match self.exchange(Message::NewLink(request), NLM_F_CREATE | NLM_F_EXCL).await {
            Err(failure) if failure.errno() == Some(Errno::EEXIST) => Err(match self.link_by_name(wire.host_name).await? {
                Some(link) => Error::DeviceExists { name: link.name, place: "this network namespace" },
                None => Error::DeviceExists { name: wire.pod_name.to_owned(), place: "the pod's network namespace" },
            }),
            result => result.map(drop).naming(|| format!("create veth {} with pod end {}", wire.host_name, wire.pod_name)),
        }
    }

    async fn connect_pair(&self, wire: &PodVeth<'_>) -> Result<u32, Error> {
        Self::connect_in(wire.namespace)?.connect_pod_end(wire).await?;
        let host_end = self.existing_link(wire.host_name).await?;
        // The kernel takes no alias for a device that is being made (rtnl_create_link).
        let mut up = LinkUnspec::new_with_index(host_end.ifindex).up();
        if let Some(alias) = shortened(wire.alias) {
            up = up.append_extra_attribute(LinkAttribute::IfAlias(alias));
        }
        let request = Message::SetLink(up.build());
        self.exchange(request, 0).await.map(drop).naming(|| format!("bring up device {}", wire.host_name))?;
        self.put_permanent_neighbour(host_end.ifindex, wire.pod_address, wire.pod_mac)
            .await
            .naming(|| format!("write neighbour {} on device {}", wire.pod_address, wire.host_name))?;
        self.put_pod_route(host_end.ifindex, wire.pod_address, wire.source).await?;
        Ok(host_end.ifindex)
    }

    /// The pod's side; this connection is in the pod's namespace.
    async fn connect_pod_end(&self, wire: &PodVeth<'_>) -> Result<(), Error> {
        let in_pod = |what: String| move || format!("{what} in the pod's network namespace");
        let lo = self.existing_link("lo").await?;
        self.set_up(&lo).await.naming(in_pod("bring up device lo".to_owned()))?;
        let device = self.existing_link(wire.pod_name).await?;
        self.limit_super_packets(&device).await.naming(in_pod(format!("limit the GSO size of device {}", device.name)))?;
        self.add_address(&device, wire.pod_address, 32).await?;
        self.set_up(&device).await.naming(in_pod(format!("bring up device {}", device.name)))?;
        self.put_permanent_neighbour(device.ifindex, POD_GATEWAY, wire.host_mac)
            .await
            .naming(in_pod(format!("write neighbour {POD_GATEWAY} on device {}", device.name)))?;
        let to_gateway = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(POD_GATEWAY, 32)
            .output_interface(device.ifindex)
            .scope(RouteScope::Link);
        let default = RouteMessageBuilder::<Ipv4Addr>::new().gateway(POD_GATEWAY).output_interface(device.ifindex);
        for (name, route) in [(POD_GATEWAY.to_string(), to_gateway), ("default".to_owned(), default)] {
            let message = route.protocol(RouteProtocol::Boot).build();
            self.exchange(Message::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL).await.naming(in_pod(format!("add route {name}")))?;
        }
        Ok(())
    }

    /// Both attributes; a kernel before 6.3 does not know the second, passes over it, and applies the first to IPv4.
    async fn limit_super_packets(&self, device: &Link) -> Result<(), Failure> {
        let request = LinkUnspec::new_with_index(device.ifindex)
            .append_extra_attribute(LinkAttribute::GsoMaxSize(POD_GSO_MAX_SIZE))
            .append_extra_attribute(LinkAttribute::GsoIpv4MaxSize(POD_GSO_MAX_SIZE))
            .build();
        self.exchange(Message::SetLink(request), 0).await.map(drop)
    }
}

/// An alias as long as the kernel takes it: less than IFALIASZ, 256, with the zero that is sent behind it.
fn shortened(alias: &str) -> Option<String> {
    const LONGEST: usize = 254;
    let end = (0..=alias.len().min(LONGEST)).rev().find(|end| alias.is_char_boundary(*end))?;
    (end > 0).then(|| alias[..end].to_owned())
}
