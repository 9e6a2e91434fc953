//! Without a tunnel. Into this node: what a neighbouring node forwards as a router does, from its pods to ours. Out of it: what the host's
//! stack sends such a node by the NIC.
//!
//! Every node takes such packets whatever way it sends itself, so that nodes can change their way one after the other. Not ours, and left to
//! the stack: what is not for our pod network, and what is not from another node's.

use crate::deliver::{self, Receiver};
use crate::maps;
use crate::receive::{Accepted, CHECKED_MARK, count_delivery, goes_straight};
use crate::view::{TcView, XdpView};
use crate::{PASS, XDP_PASS, XDP_REDIRECT};
use aya_ebpf::programs::TcContext;
use overlay_common::abi::{Settings, receive};
use overlay_common::counters::Flow;
use overlay_common::packet::Packet;
use overlay_common::parse::{self, Plain};
use overlay_common::reason::DropReason;
use overlay_common::wire::{ETHERNET_LEN, ETHERTYPE_IPV4, EthernetHeader, Ipv4Header};

/// Bytes behind the IP header that are looked at: an ICMP error, and the header and the ports of the packet it quotes.
const QUOTE_LEN: usize = 8 + 20 + PORTS_LEN;
/// Bytes behind the IP header of a packet whose ports are looked at.
const PORTS_LEN: usize = 4;

/// Judges the packet, whose destination is in our pod network. `None`: no pod of another node claims to have sent it.
#[inline(always)]
fn judge<P: Packet>(packet: &P, plain: &Plain, settings: &Settings) -> Result<Option<Accepted>, DropReason> {
    // Our own pods' packets do not come from outside.
    if parse::contains(settings.pod_net, settings.pod_mask, plain.source) {
        return Err(DropReason::DirectSource);
    }
    let Some(subnet) = maps::subnet(settings, plain.source) else { return Ok(None) };
    let datagram = plain.accept(packet, subnet)?;
    let receiver = deliver::receiver(packet, &datagram, subnet.node, settings)?;
    Ok(Some(Accepted { datagram, receiver, ecn: datagram.header.ecn() }))
}

/// In XDP there is nothing to strip, and so nothing to gain but by sending the frame straight into the pod. All else is TC's.
#[inline(always)]
pub(crate) fn xdp(mut view: XdpView<'_>, settings: &Settings) -> Result<u32, DropReason> {
    if settings.receive_mode != receive::XDP_REDIRECT {
        return Ok(XDP_PASS);
    }
    let Some(plain) = parse::plain(&view, settings) else { return Ok(XDP_PASS) };
    let Some(Accepted { datagram, receiver, ecn }) = judge(&view, &plain, settings)? else { return Ok(XDP_PASS) };
    let Receiver::Pod(pod) = receiver else { return Ok(XDP_PASS) };
    if !goes_straight(receiver, settings) {
        return Ok(XDP_PASS);
    }
    parse::forward(&mut view, &datagram.header, pod.mac, pod.host_mac, ecn)?;
    count_delivery(Flow::XdpDirect, receiver, &datagram);
    Ok(XDP_REDIRECT)
}

/// At TC, for what is no tunnel packet and was sent to our MAC.
#[inline(always)]
pub(crate) fn tc(mut view: TcView<'_>, settings: &Settings) -> Result<i32, DropReason> {
    let Some(plain) = parse::plain(&view, settings) else { return Ok(PASS) };
    // From `from_overlay`: out of a tunnel, judged and counted.
    if view.mark() == CHECKED_MARK {
        view.0.set_mark(0);
        return Ok(PASS);
    }
    view.pull_ipv4(ETHERNET_LEN, QUOTE_LEN);
    let Some(Accepted { datagram, receiver, ecn }) = judge(&view, &plain, settings)? else { return Ok(PASS) };
    count_delivery(Flow::TcDirect, receiver, &datagram);
    match receiver {
        Receiver::Pod(pod) => deliver::to_pod(view, &datagram, pod, ecn),
        Receiver::Host if deliver::device_of_answer(&view, &datagram.header, settings) == settings.underlay_ifindex => Ok(PASS),
        Receiver::Host => {
            parse::readdress(&mut view, &datagram.header, settings.vtep_mac, settings.vtep_mac, ecn)?;
            deliver::redirect_to_host(settings.overlay_ifindex)
        }
    }
}

/// Lets the host have a packet that was stripped at the NIC and comes from a node that is reached without a tunnel. It is addressed to the
/// overlay device.
#[inline(always)]
pub(crate) fn stripped_to_host(mut view: TcView<'_>, settings: &Settings) -> Result<i32, DropReason> {
    let header = view.read::<Ipv4Header>(ETHERNET_LEN).ok_or(DropReason::Short)?;
    if deliver::device_of_answer(&view, &header, settings) == settings.underlay_ifindex {
        view.address_to_host();
        return Ok(PASS);
    }
    deliver::redirect_to_host(settings.overlay_ifindex)
}

/// `to_underlay`: a pod's packet that the stack sends to another node's pod by the NIC is noted, as `from_host` does with those it sends by the
/// overlay device: the stack's translation may have given it another source port than the one `from_pod` noted, and the answer comes to that
/// one. Changes and drops nothing.
///
/// All that leaves by the NIC passes here, so what is not meant goes first: what our programs forward, and what is not from a pod, tunnel packets
/// among it.
#[inline(always)]
pub(crate) fn note(ctx: &TcContext) {
    let mut view = TcView(ctx);
    if view.is_forwarded() {
        return;
    }
    let Some(settings) = maps::settings() else { return };
    let is_ours = |addr| parse::contains(settings.pod_net, settings.pod_mask, addr) && addr != settings.gateway;
    match (view.read::<EthernetHeader>(0), view.read::<Ipv4Header>(ETHERNET_LEN)) {
        (Some(ethernet), Some(header)) if ethernet.ethertype.get() == ETHERTYPE_IPV4 && is_ours(header.source) => {}
        _ => return,
    }
    view.pull_ipv4(ETHERNET_LEN, PORTS_LEN);
    let Ok(datagram) = parse::ipv4(&view, ETHERNET_LEN, view.len(0)) else { return };
    if maps::subnet(settings, datagram.header.destination).is_some() {
        deliver::note_detour(&view, &datagram);
    }
}
