//! The overlay device: a vxlan device in external mode, so that programs choose destination and VNI per packet.
//!
//! It is the device host processes reach pods through, the UDP socket that lets the kernel merge VXLAN packets (GRO), and the last way to
//! receive when programs on the NIC cannot. Here it is only made, read, adjusted and removed.

use super::error::Naming;
use super::link::{Link, Vxlan};
use super::{Error, Failure, Message, Netlink};
use crate::model::{Mac, OVERLAY_DEVICE, OverlayLink, OverlayLinkState};
use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::{LinkUnspec, LinkVxlan};

impl Netlink {
    /// The overlay device as it is; `None` if there is no device of that name at all.
    ///
    /// Fails with [`Error::NameTaken`] when there is one that cannot be ours: no vxlan device, or one with a network of its own.
    pub async fn overlay_link(&self, name: &str) -> Result<Option<OverlayLinkState>, Error> {
        let Some(device) = self.link_by_name(name).await? else { return Ok(None) };
        match device.vxlan {
            Some(vxlan) if vxlan.external => {}
            Some(vxlan) => return Err(Error::NameTaken { name: device.name, found: format!("vxlan, VNI {}", vxlan.vni) }),
            None => return Err(Error::NameTaken { found: device.kind_name().to_owned(), name: device.name }),
        }
        let addresses: Vec<_> = self.addresses().await?.into_iter().filter(|address| address.ifindex == device.ifindex).collect();
        let ours = |vxlan: &Vxlan| !vxlan.learning && !vxlan.dialect;
        let link = match (device.vxlan.filter(ours), device.mac, addresses.as_slice()) {
            (Some(vxlan), Some(mac), [only]) if device.up && device.noarp && only.prefix == 32 => {
                Some(OverlayLink { mac, mtu: device.mtu, port: vxlan.port, address: only.address })
            }
            _ => None,
        };
        Ok(Some(OverlayLinkState { ifindex: device.ifindex, link }))
    }

    /// Makes the overlay device and brings it up; returns its index. When a step fails, nothing is left behind.
    ///
    /// Fails with [`Error::DeviceExists`], and with [`Error::PortTaken`] when another socket has the VXLAN port: the kernel shares
    /// one socket between vxlan devices only if they agree on external mode and dialect.
    pub async fn create_overlay_link(&self, link: &OverlayLink) -> Result<u32, Error> {
        let name = OVERLAY_DEVICE;
        let request = LinkVxlan::new(name, 0)
            .collect_metadata(true)
            .learning(false)
            .port(link.port)
            .address(link.mac.0.to_vec())
            .mtu(link.mtu)
            .arp(false)
            .build();
        match self.exchange(Message::NewLink(request), NLM_F_CREATE | NLM_F_EXCL).await {
            Ok(_) => {}
            // Two reasons share one number: the name is taken, or another external vxlan device has the port.
            Err(failure) if failure.errno() == Some(Errno::EEXIST) => {
                return Err(match self.link_by_name(name).await? {
                    Some(_) => Error::DeviceExists { name: name.to_owned(), place: "this network namespace" },
                    None => self.port_taken(link.port).await?,
                });
            }
            Err(failure) => return Err(failure).naming(|| format!("create device {name}")),
        }
        let device = self.existing_link(name).await?;
        if let Err(error) = self.finish_overlay_link(&device, link).await {
            // The first error is the one to report; a device that cannot be removed either is found by the next pass.
            let _ = self.delete_link(name).await;
            return Err(error);
        }
        Ok(device.ifindex)
    }

    async fn finish_overlay_link(&self, device: &Link, link: &OverlayLink) -> Result<(), Error> {
        self.add_address(device, link.address, 32).await?;
        match self.set_up(device).await {
            // The socket is opened when the device comes up, not when it is made.
            Err(Failure::Refused { errno: Errno::EADDRINUSE, .. }) => Err(self.port_taken(link.port).await?),
            result => result.naming(|| format!("bring up device {}", device.name)),
        }
    }

    /// Sets MTU and MAC of the overlay device. Everything else needs a new device.
    ///
    /// Fails with [`Error::NoDevice`], and with [`Error::WrongKind`] if the device of that name is not a vxlan device.
    pub async fn update_overlay_link(&self, link: &OverlayLink) -> Result<(), Error> {
        let device = self.existing_link(OVERLAY_DEVICE).await?;
        if device.vxlan.is_none() {
            return Err(Error::WrongKind { found: device.kind_name().to_owned(), name: device.name, expected: "vxlan" });
        }
        let Mac(mac) = link.mac;
        let request = LinkUnspec::new_with_index(device.ifindex).mtu(link.mtu).address(mac.to_vec()).build();
        self.exchange(Message::SetLink(request), 0)
            .await
            .map(drop)
            .naming(|| format!("set MTU {} and MAC {} of device {}", link.mtu, link.mac, device.name))
    }

    /// The error for a taken port, with the likely culprit.
    async fn port_taken(&self, port: u16) -> Result<Error, Error> {
        let culprits: Vec<_> = self.links().await?.iter().filter_map(|link| culprit(link, port)).collect();
        let culprit = if culprits.is_empty() {
            format!("no vxlan device here uses it, so some program does (see: ss -lunp 'sport = :{port}')")
        } else {
            format!("used by {}; remove it, or choose another port", culprits.join(" and "))
        };
        Ok(Error::PortTaken { device: OVERLAY_DEVICE.to_owned(), port, culprit })
    }
}

/// A vxlan device on that port other than the overlay device, in words.
fn culprit(link: &Link, port: u16) -> Option<String> {
    let vxlan = link.vxlan.filter(|vxlan| vxlan.port == port && link.name != OVERLAY_DEVICE)?;
    Some(if vxlan.external {
        format!("device {} (vxlan, external)", link.name)
    } else {
        format!("device {} (vxlan, VNI {})", link.name, vxlan.vni)
    })
}
