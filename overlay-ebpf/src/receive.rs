//! Into this node: takes the tunnel's headers off and delivers. The judgement is one function for all three ways of receiving; packets
//! without a tunnel are judged in `direct`.

use crate::count;
use crate::deliver::{self, Receiver};
use crate::direct;
use crate::maps;
use crate::view::{PACKET_HOST, TcView, XdpView};
use crate::{PASS, XDP_PASS, XDP_REDIRECT};
use aya_ebpf::bindings::bpf_tunnel_key;
use aya_ebpf::helpers::bpf_skb_get_tunnel_key;
use aya_ebpf::programs::{TcContext, XdpContext};
use core::mem::MaybeUninit;
use overlay_common::abi::{Ipv4, Node, Settings, reach, receive};
use overlay_common::counters::Flow;
use overlay_common::ecn;
use overlay_common::packet::Packet;
use overlay_common::parse::{self, Datagram, INNER_OFFSET, Tunnel};
use overlay_common::reason::DropReason;
use overlay_common::wire::{ETHERNET_LEN, EthernetHeader, PROTOCOL_TCP};

/// Mark of a VXLAN packet that `underlay_tc` has checked and leaves to the kernel's vxlan device. It lives from there to
/// `from_overlay`; kube-proxy's bits 0x4000 and 0x8000 are clear.
pub(crate) const CHECKED_MARK: u32 = 0x0e4f_0001;

/// Bytes behind the inner IP header that are looked at: the ports, or type and code of an ICMP message.
const PORTS_LEN: usize = 4;

/// An accepted packet.
pub(crate) struct Accepted {
    pub(crate) datagram: Datagram,
    pub(crate) receiver: Receiver,
    pub(crate) ecn: u8,
}

/// Judges the inner packet at `offset`, which came through `tunnel` from `node`.
#[inline(always)]
fn judge<P: Packet>(packet: &P, offset: usize, tunnel: &Tunnel, node: &Node, settings: &Settings) -> Result<Accepted, DropReason> {
    let datagram = parse::inner(packet, offset, tunnel.end, settings.vtep_mac)?;
    datagram.check_source(tunnel.source, node)?;
    let ecn = ecn::decapsulate(tunnel.ecn, datagram.header.ecn())?;
    let receiver = deliver::receiver(packet, &datagram, tunnel.source, settings)?;
    Ok(Accepted { datagram, receiver, ecn })
}

/// The outer headers, and the node that sent them. `None`: not ours.
#[inline(always)]
fn tunnel<P: Packet>(packet: &P, settings: &Settings) -> Result<Option<(Tunnel, &'static Node)>, DropReason> {
    let Some(tunnel) = parse::outer(packet, settings)? else { return Ok(None) };
    let node = maps::node(tunnel.source).ok_or(DropReason::OuterSourceUnknown)?;
    Ok(Some((tunnel, node)))
}

/// Counts a delivery.
#[inline(always)]
pub(crate) fn count_delivery(how: Flow, receiver: Receiver, datagram: &Datagram) {
    let bytes = ETHERNET_LEN + usize::from(datagram.header.total_len.get());
    count::flows([how, if matches!(receiver, Receiver::Pod(_)) { Flow::DeliverPod } else { Flow::DeliverHost }], bytes);
}

/// `underlay_xdp`: strips what is ours and good, and sends it to its pod or tells `underlay_tc` where it goes.
#[inline(always)]
pub(crate) fn xdp(ctx: &XdpContext) -> Result<u32, DropReason> {
    let mut view = XdpView(ctx);
    let Some(settings) = maps::settings() else { return Ok(XDP_PASS) };
    // A frame for another host's MAC is seen in promiscuous mode only; the kernel drops it.
    match view.read::<EthernetHeader>(0) {
        Some(ethernet) if ethernet.destination == settings.underlay_mac => {}
        _ => return Ok(XDP_PASS),
    }
    let Some((tunnel, node)) = tunnel(&view, settings)? else { return direct::xdp(view, settings) };
    let Accepted { datagram, receiver, ecn } = judge(&view, INNER_OFFSET, &tunnel, node, settings)?;
    let straight = goes_straight(receiver, settings);
    if !straight && view.reserve_metadata().is_err() {
        return Ok(XDP_PASS);
    }
    view.trim(datagram.end())?;
    view.strip()?;
    let ifindex = match receiver {
        Receiver::Pod(pod) => {
            parse::forward(&mut view, &datagram.header, pod.mac, pod.host_mac, ecn)?;
            pod.ifindex
        }
        Receiver::Host => {
            rewrite_for_host(&mut view, &datagram, settings, ecn)?;
            if node.reach == reach::DIRECT { settings.underlay_ifindex } else { 0 }
        }
    };
    if !straight {
        view.write_metadata(ifindex)?;
    }
    count_delivery(Flow::XdpDecap, receiver, &datagram);
    Ok(if straight { XDP_REDIRECT } else { XDP_PASS })
}

/// The frame is for a pod that XDP frames can be sent to, and this node receives so. The pod's veth is then chosen for `XDP_REDIRECT`.
#[inline(always)]
pub(crate) fn goes_straight(receiver: Receiver, settings: &Settings) -> bool {
    matches!(receiver, Receiver::Pod(pod) if settings.receive_mode == receive::XDP_REDIRECT && maps::redirect_xdp(pod.ifindex))
}

/// `underlay_tc`: delivers what XDP stripped; strips and delivers what XDP left.
#[inline(always)]
pub(crate) fn tc(ctx: &TcContext) -> Result<i32, DropReason> {
    let mut view = TcView(ctx);
    let Some(settings) = maps::settings() else { return Ok(PASS) };
    // A tag the NIC took off is not seen by XDP; the kernel drops the packet or gives it to the VLAN's device.
    if view.is_tagged() {
        return Ok(PASS);
    }
    if let Some(stripped) = view.take_stripped() {
        return match stripped.ifindex {
            0 => deliver::redirect_to_host(settings.overlay_ifindex),
            ifindex if ifindex == settings.underlay_ifindex => direct::stripped_to_host(view, settings),
            ifindex => deliver::redirect_to_pod(view, ifindex),
        };
    }
    // As in XDP: only what was sent to our MAC. Broadcast frames that carry a unicast address are the kernel's to refuse.
    if view.packet_type() != PACKET_HOST {
        return Ok(PASS);
    }
    view.pull_ipv4(INNER_OFFSET + ETHERNET_LEN, PORTS_LEN);
    let Some((tunnel, node)) = tunnel(&view, settings)? else { return direct::tc(view, settings) };
    if settings.receive_mode == receive::KERNEL {
        ctx.set_mark(CHECKED_MARK);
        return Ok(PASS);
    }
    let Accepted { datagram, receiver, ecn } = judge(&view, INNER_OFFSET, &tunnel, node, settings)?;
    // `adjust_room` leaves a super-packet marked as tunnelled (as of Linux 6.18). A pod's TCP does not care; a UDP receiver splits it and
    // would look for the tunnel that is gone, and so would a NIC the host's stack may forward it to. It refuses super-packets of other
    // protocols (SCTP). The kernel's own decapsulation takes all of them and clears the marks.
    let ends_here = datagram.header.protocol == PROTOCOL_TCP && matches!(receiver, Receiver::Pod(_));
    if view.gso_size() != 0 && !ends_here {
        ctx.set_mark(CHECKED_MARK);
        return Ok(PASS);
    }
    view.trim(datagram.end())?;
    view.strip()?;
    count_delivery(Flow::TcDecap, receiver, &datagram);
    match receiver {
        Receiver::Pod(pod) => deliver::to_pod(view, &datagram, pod, ecn),
        Receiver::Host => {
            rewrite_for_host(&mut view, &datagram, settings, ecn)?;
            if node.reach == reach::DIRECT {
                return direct::stripped_to_host(view, settings);
            }
            deliver::redirect_to_host(settings.overlay_ifindex)
        }
    }
}

/// `from_overlay`: validates and delivers what the kernel's vxlan device took apart; lets the host's own packets in.
#[inline(always)]
pub(crate) fn overlay(ctx: &TcContext) -> Result<i32, DropReason> {
    let mut view = TcView(ctx);
    let Some(settings) = maps::settings() else { return Ok(PASS) };
    let Some(key) = tunnel_key(ctx)? else { return Ok(PASS) };
    if view.mark() != CHECKED_MARK {
        return Err(DropReason::KernelDecapOff);
    }
    ctx.set_mark(0);
    if key.vni != settings.vni {
        return Err(DropReason::Vni);
    }
    let node = maps::node(key.remote).ok_or(DropReason::OuterSourceUnknown)?;
    // The kernel has moved the inner frame's tag out of it (net/core/dev.c, `__netif_receive_skb_core`).
    if view.is_tagged() {
        return Err(DropReason::InnerVlan);
    }
    view.pull_ipv4(ETHERNET_LEN, PORTS_LEN);
    // The kernel has combined the ECN bits already (drivers/net/vxlan/vxlan_core.c, `vxlan_ecn_decapsulate`).
    let tunnel = Tunnel { source: key.remote, ecn: ecn::NOT_ECT, end: view.len(0) };
    let Accepted { datagram, receiver, ecn } = judge(&view, 0, &tunnel, node, settings)?;
    view.trim(datagram.end())?;
    count_delivery(Flow::KernelDecap, receiver, &datagram);
    if let Receiver::Pod(pod) = receiver {
        return deliver::to_pod(view, &datagram, pod, ecn);
    }
    if node.reach == reach::DIRECT && deliver::device_of_answer(&view, &datagram.header, settings) == settings.underlay_ifindex {
        // `underlay_tc` will meet it as a packet that came without a tunnel: the mark says that it has been judged.
        parse::readdress(&mut view, &datagram.header, settings.underlay_mac, settings.underlay_mac, ecn)?;
        ctx.set_mark(CHECKED_MARK);
        return deliver::redirect_to_host(settings.underlay_ifindex);
    }
    view.address_to_host();
    Ok(PASS)
}

/// Readdresses a stripped packet to the overlay device; its hop is counted by the stack.
#[inline(always)]
fn rewrite_for_host<P: Packet>(packet: &mut P, datagram: &Datagram, settings: &Settings, ecn: u8) -> Result<(), DropReason> {
    parse::readdress(packet, &datagram.header, settings.vtep_mac, settings.vtep_mac, ecn)
}

/// What the kernel's vxlan device noted about a packet it took apart.
struct TunnelKey {
    remote: Ipv4,
    vni: u32,
}

/// The tunnel metadata, if the packet has any.
///
/// # Errors
/// [`DropReason::KernelDecapOff`]: it has some that is not of IPv4. A vxlan device in external mode listens on IPv6 too, and nothing has
/// checked what came in there.
#[inline(always)]
fn tunnel_key(ctx: &TcContext) -> Result<Option<TunnelKey>, DropReason> {
    /// EINVAL, negative: the packet has no tunnel metadata. Metadata of another address family gives EPROTO (net/core/filter.c,
    /// `bpf_skb_get_tunnel_key`).
    const NO_METADATA: i64 = -22;
    let mut key = MaybeUninit::<bpf_tunnel_key>::zeroed();
    // SAFETY: the helper fills the whole structure or returns an error.
    let result = unsafe { bpf_skb_get_tunnel_key(ctx.skb.skb, key.as_mut_ptr(), size_of::<bpf_tunnel_key>() as u32, 0) };
    match result {
        0 => {}
        NO_METADATA => return Ok(None),
        _ => return Err(DropReason::KernelDecapOff),
    }
    // SAFETY: zeroed above and filled by the helper; every bit pattern is valid. The helper gives the address in host order
    // (net/core/filter.c, `bpf_skb_get_tunnel_key`).
    let (vni, remote) = unsafe {
        let key = key.assume_init_ref();
        (key.tunnel_id, key.__bindgen_anon_1.remote_ipv4)
    };
    Ok(Some(TunnelKey { remote: remote.to_be_bytes(), vni }))
}
