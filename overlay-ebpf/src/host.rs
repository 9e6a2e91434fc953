//! From the host: what the stack routed to the overlay device is sent to the node that has its destination.

use crate::PASS;
use crate::deliver;
use crate::maps;
use crate::transmit::{self, Sender};
use crate::view::TcView;
use aya_ebpf::programs::TcContext;
use overlay_common::packet::Packet as _;
use overlay_common::parse;
use overlay_common::reason::DropReason;
use overlay_common::wire::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, EthernetHeader};

/// Bytes behind the IP header that are looked at: the ports.
const PORTS_LEN: usize = 4;

/// `from_host`. The stack has lowered the TTL where it forwarded, and fragmented or refused what is too big.
#[inline(always)]
pub(crate) fn from_host(ctx: &TcContext) -> Result<i32, DropReason> {
    let mut view = TcView(ctx);
    let Some(settings) = maps::settings() else { return Ok(PASS) };
    view.pull_ipv4(ETHERNET_LEN, PORTS_LEN);
    let ethernet = view.read::<EthernetHeader>(0).ok_or(DropReason::Short)?;
    match ethernet.ethertype.get() {
        ETHERTYPE_IPV4 => {}
        ETHERTYPE_IPV6 => return Err(DropReason::V6Disabled),
        _ => return Err(DropReason::PodL2Protocol),
    }
    let datagram = parse::ipv4(&view, ETHERNET_LEN, view.len(0)).map_err(|_| DropReason::PodHeader)?;
    let subnet = maps::subnet(settings, datagram.header.destination).ok_or(DropReason::NoNode)?;
    let source = datagram.header.source;
    if parse::contains(settings.pod_net, settings.pod_mask, source) && source != settings.gateway {
        // From a pod of this node, through the stack: translation may have given it another source port than the one `from_pod` noted.
        deliver::note_detour(&view, &datagram);
    }
    transmit::send(view, settings, subnet, &datagram.header, Sender::Host)
}
