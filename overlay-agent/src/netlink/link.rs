//! Devices and their IPv4 addresses, read.

use super::error::Naming;
use super::{Error, Failure, Message, Netlink};
use crate::model::Mac;
use ipnet::Ipv4Net;
use nix::errno::Errno;
use rtnetlink::packet_core::NLM_F_ACK;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{InfoData, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};
use std::net::{IpAddr, Ipv4Addr};

/// A network device.
#[expect(clippy::struct_excessive_bools, reason = "the kernel's flags of a device are independent of each other")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index, unique in its namespace.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// The kernel's word for its type (`veth`, `vxlan`, …); `None` for a physical NIC and the loopback device.
    pub kind: Option<String>,
    /// Its MAC; `None` if it carries no Ethernet frames.
    pub mac: Option<Mac>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// It is administratively up.
    pub up: bool,
    /// It has carrier.
    pub carrier: bool,
    /// It is the loopback device.
    pub loopback: bool,
    /// ARP is off.
    pub noarp: bool,
    /// Largest super-packet the stack hands to it, in bytes (`IFLA_GSO_MAX_SIZE`).
    pub gso_max_size: Option<u32>,
    /// The same for IPv4 alone (`IFLA_GSO_IPV4_MAX_SIZE`, since Linux 6.3).
    pub gso_ipv4_max_size: Option<u32>,
    pub(super) vxlan: Option<Vxlan>,
}

/// What matters of a vxlan device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Vxlan {
    pub(super) vni: u32,
    pub(super) port: u16,
    pub(super) external: bool,
    pub(super) learning: bool,
    /// Its socket speaks a dialect (group policy, generic protocol, remote checksum offload, VNI filter) that is not plain VXLAN.
    pub(super) dialect: bool,
}

impl Link {
    /// The kernel's word for its type, for messages.
    #[must_use]
    pub fn kind_name(&self) -> &str {
        match &self.kind {
            Some(kind) => kind,
            None if self.loopback => "loopback",
            None => "physical",
        }
    }

    /// `None` for messages that describe something else than a device, such as a bridge's view of its port.
    pub(super) fn decode(message: &LinkMessage) -> Option<Self> {
        let header = &message.header;
        if header.interface_family != AddressFamily::Unspec {
            return None;
        }
        let mut link = Self {
            ifindex: header.index,
            name: String::new(),
            kind: None,
            mac: None,
            mtu: 0,
            up: header.flags.contains(LinkFlags::Up),
            carrier: header.flags.contains(LinkFlags::LowerUp),
            loopback: header.flags.contains(LinkFlags::Loopback),
            noarp: header.flags.contains(LinkFlags::Noarp),
            gso_max_size: None,
            gso_ipv4_max_size: None,
            vxlan: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(bytes) if header.link_layer_type == LinkLayerType::Ether => {
                    link.mac = bytes.as_slice().try_into().ok().map(Mac);
                }
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::GsoMaxSize(size) => link.gso_max_size = Some(*size),
                LinkAttribute::GsoIpv4MaxSize(size) => link.gso_ipv4_max_size = Some(*size),
                LinkAttribute::LinkInfo(infos) => link.read_infos(infos),
                _ => {}
            }
        }
        Some(link)
    }

    fn read_infos(&mut self, infos: &[LinkInfo]) {
        for info in infos {
            match info {
                LinkInfo::Kind(kind) => self.kind = Some(kind.to_string()),
                LinkInfo::Data(InfoData::Vxlan(settings)) => self.vxlan = Some(Vxlan::decode(settings)),
                _ => {}
            }
        }
    }
}

impl Vxlan {
    fn decode(settings: &[InfoVxlan]) -> Self {
        let mut vxlan = Self::default();
        for setting in settings {
            match *setting {
                InfoVxlan::Id(vni) => vxlan.vni = vni,
                InfoVxlan::Port(port) => vxlan.port = port,
                InfoVxlan::CollectMetadata(on) => vxlan.external = on,
                InfoVxlan::Learning(on) => vxlan.learning = on,
                InfoVxlan::Gbp | InfoVxlan::Gpe => vxlan.dialect = true,
                InfoVxlan::RemCsumRX(on) | InfoVxlan::RemCsumTX(on) | InfoVxlan::Vnifilter(on) => vxlan.dialect |= on,
                _ => {}
            }
        }
        vxlan
    }
}

/// An IPv4 address of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// The device.
    pub ifindex: u32,
    /// The address.
    pub address: Ipv4Addr,
    /// Prefix length of its subnet.
    pub prefix: u8,
}

impl Address {
    /// The other address is in the network of this one.
    #[must_use]
    pub fn is_neighbour(&self, other: Ipv4Addr) -> bool {
        Ipv4Net::new(self.address, self.prefix).is_ok_and(|network| network.contains(&other))
    }

    pub(super) fn decode(message: &AddressMessage) -> Option<Self> {
        // IFA_LOCAL is the device's own address; IFA_ADDRESS is the peer's on a point-to-point device.
        let local = |attribute: &AddressAttribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
            _ => None,
        };
        let address = message.attributes.iter().find_map(local)?;
        Some(Self { ifindex: message.header.index, address, prefix: message.header.prefix_len })
    }
}

impl Netlink {
    /// All devices, in the order of their index.
    pub async fn links(&self) -> Result<Vec<Link>, Error> {
        let request = LinkMessageBuilder::<LinkUnspec>::new().append_extra_attribute(without_statistics()).build();
        let mut links = self
            .dump(Message::GetLink(request), |part| match part {
                Message::NewLink(link) => Link::decode(&link),
                _ => None,
            })
            .await
            .naming(|| "list the devices".to_owned())?;
        links.sort_by_key(|link| link.ifindex);
        Ok(links)
    }

    /// All devices of a type, such as `veth`.
    pub async fn links_of_kind(&self, kind: &str) -> Result<Vec<Link>, Error> {
        let mut links = self.links().await?;
        links.retain(|link| link.kind.as_deref() == Some(kind));
        Ok(links)
    }

    /// How many devices are ports of that bridge.
    pub async fn ports_of(&self, bridge: u32) -> Result<usize, Error> {
        let request = LinkMessageBuilder::<LinkUnspec>::new().append_extra_attribute(without_statistics()).build();
        let ports = self.dump(Message::GetLink(request), |part| match part {
            Message::NewLink(link) => link.attributes.contains(&LinkAttribute::Controller(bridge)).then_some(()),
            _ => None,
        });
        ports.await.map(|ports| ports.len()).naming(|| "list the ports of a bridge".to_owned())
    }

    /// The device of that name, if there is one.
    pub async fn link_by_name(&self, name: &str) -> Result<Option<Link>, Error> {
        let request = LinkMessageBuilder::<LinkUnspec>::new().name(name).append_extra_attribute(without_statistics()).build();
        self.one_link(request).await.naming(|| format!("look up device {name}"))
    }

    /// The device with that index, if there is one.
    pub async fn link_by_index(&self, ifindex: u32) -> Result<Option<Link>, Error> {
        let request = LinkMessageBuilder::<LinkUnspec>::new().index(ifindex).append_extra_attribute(without_statistics()).build();
        self.one_link(request).await.naming(|| format!("look up the device with index {ifindex}"))
    }

    async fn one_link(&self, request: LinkMessage) -> Result<Option<Link>, Failure> {
        match self.exchange(Message::GetLink(request), 0).await {
            Ok(answer) => {
                let link = answer.iter().find_map(|part| match part {
                    Message::NewLink(link) => Link::decode(link),
                    _ => None,
                });
                link.map(Some).ok_or(Failure::Incomplete("device"))
            }
            Err(failure) if failure.errno() == Some(Errno::ENODEV) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// The device of that name, which has to exist. Fails with [`Error::NoDevice`] too.
    pub(super) async fn existing_link(&self, name: &str) -> Result<Link, Error> {
        if let Some(link) = self.link_by_name(name).await? {
            return Ok(link);
        }
        let existing = self.links().await?.into_iter().map(|link| link.name).collect::<Vec<_>>().join(", ");
        Err(Error::NoDevice { name: name.to_owned(), existing })
    }

    /// Deletes a device of any type. `false`: there is none of that name.
    pub async fn delete_link(&self, name: &str) -> Result<bool, Error> {
        let request = LinkMessageBuilder::<LinkUnspec>::new().name(name).build();
        match self.exchange(Message::DelLink(request), NLM_F_ACK).await {
            Ok(_) => Ok(true),
            Err(failure) if failure.errno() == Some(Errno::ENODEV) => Ok(false),
            Err(failure) => Err(failure).naming(|| format!("delete device {name}")),
        }
    }

    /// All IPv4 addresses.
    pub async fn addresses(&self) -> Result<Vec<Address>, Error> {
        let mut request = AddressMessage::default();
        request.header.family = AddressFamily::Inet;
        self.dump(Message::GetAddress(request), |part| match part {
            Message::NewAddress(address) => Address::decode(&address),
            _ => None,
        })
        .await
        .naming(|| "list the IPv4 addresses".to_owned())
    }

    /// Adds an IPv4 address to a device; an address that is there already is fine.
    pub(super) async fn add_address(&self, device: &Link, address: Ipv4Addr, prefix: u8) -> Result<(), Error> {
        let request = rtnetlink::AddressMessageBuilder::<Ipv4Addr>::new().index(device.ifindex).address(address, prefix).build();
        let flags = rtnetlink::packet_core::NLM_F_CREATE | rtnetlink::packet_core::NLM_F_REPLACE;
        self.exchange(Message::NewAddress(request), flags)
            .await
            .map(drop)
            .naming(|| format!("add address {address}/{prefix} to device {}", device.name))
    }

    /// Brings a device up.
    pub(super) async fn set_up(&self, device: &Link) -> Result<(), Failure> {
        let request = LinkUnspec::new_with_index(device.ifindex).up().build();
        self.exchange(Message::SetLink(request), 0).await.map(drop)
    }
}

/// Statistics are most of what the kernel says of a device, and nothing here reads them.
fn without_statistics() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}
