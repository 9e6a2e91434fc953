//! A cable between two network namespaces: a veth pair with an address at each end, which know each other's MAC from the start.
//!
//! For scratch nodes that are to be ready at once; no node that carries traffic has one.

use super::error::Naming;
use super::{Error, Message, Namespace, Netlink};
use crate::model::Mac;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;

/// One end of a cable.
#[derive(Clone, Copy, Debug)]
pub struct CableEnd {
    /// Name of its device.
    pub name: &'static str,
    /// Its MAC.
    pub mac: Mac,
    /// Its address.
    pub address: Ipv4Addr,
}

/// A cable, as it is to be made.
#[derive(Clone, Copy, Debug)]
pub struct Cable {
    /// The end here.
    pub near: CableEnd,
    /// The end in the other namespace.
    pub far: CableEnd,
    /// Length of the prefix both addresses share.
    pub prefix: u8,
    /// MTU of both ends.
    pub mtu: u32,
}

impl Netlink {
    /// Makes a cable from this connection's namespace to `far`. It goes with either namespace.
    ///
    /// Fails with [`Error::Request`] naming the step, and with [`Error::Namespace`].
    pub async fn create_cable(&self, cable: &Cable, far: &Namespace) -> Result<(), Error> {
        let Cable { near, far: there, mtu, .. } = cable;
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(there.name)
            .address(there.mac.0.to_vec())
            .mtu(*mtu)
            .setns_by_fd(far.as_raw_fd())
            .build();
        let request = LinkMessageBuilder::<LinkVeth>::new(near.name, there.name)
            .address(near.mac.0.to_vec())
            .mtu(*mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        let made = self.exchange(Message::NewLink(request), NLM_F_CREATE | NLM_F_EXCL).await;
        made.map(drop).naming(|| format!("create veth {} with its other end in another namespace", near.name))?;
        Self::connect_in(far)?.connect_end(there, near, cable.prefix).await?;
        self.connect_end(near, there, cable.prefix).await
    }

    async fn connect_end(&self, end: &CableEnd, other: &CableEnd, prefix: u8) -> Result<(), Error> {
        let device = self.existing_link(end.name).await?;
        self.add_address(&device, end.address, prefix).await?;
        self.set_up(&device).await.naming(|| format!("bring up device {}", device.name))?;
        let known = self.put_permanent_neighbour(device.ifindex, other.address, other.mac).await;
        known.naming(|| format!("write neighbour {} on device {}", other.address, device.name))
    }
}
