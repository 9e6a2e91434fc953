//! Out of this node: sends a packet to the node that has its destination, with the tunnel's headers in front of it or as it is.

use crate::PASS;
use crate::view::TcView;
use aya_ebpf::bindings::{
    BPF_F_DONT_FRAGMENT, BPF_F_ZERO_CSUM_TX, TC_ACT_REDIRECT, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1, bpf_tunnel_key,
    bpf_tunnel_key__bindgen_ty_1, bpf_tunnel_key__bindgen_ty_2, bpf_tunnel_key__bindgen_ty_3,
};
use aya_ebpf::helpers::{bpf_get_hash_recalc, bpf_redirect, bpf_redirect_neigh, bpf_skb_set_tunnel_key};
use overlay_common::abi::{Mac, Settings, Subnet, reach};
use overlay_common::counters::Flow;
use overlay_common::encap;
use overlay_common::packet::Packet;
use overlay_common::parse::Datagram;
use overlay_common::reason::DropReason;
use overlay_common::wire::{ETHERNET_LEN, ETHERTYPE_IPV4, EthernetHeader, Ipv4Header, TunnelHeaders};

use crate::count;

/// `AF_INET` (include/linux/socket.h).
const AF_INET: u32 = 2;
/// A MAC that is not known yet.
const UNRESOLVED: Mac = [0; 6];

/// Who sent a packet that leaves for another node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    Pod,
    Host,
}

/// Sends the packet to the node that has `subnet`, the way it is reached. `header` is the IP header to send, TTL already lowered where this
/// node is a hop.
#[inline(always)]
pub(crate) fn send(view: TcView<'_>, settings: &Settings, subnet: &Subnet, header: &Ipv4Header, sender: Sender) -> Result<i32, DropReason> {
    match subnet.reach {
        reach::ENCAP => encapsulate(view, settings, subnet, header, sender),
        reach::DIRECT => forward(view, subnet, header, sender),
        // No way there, or one that a newer agent knows and this program does not.
        _ => Err(DropReason::NoNode),
    }
}

/// Forwards the packet as a router does, to a node that is a neighbour.
#[inline(always)]
fn forward(mut view: TcView<'_>, subnet: &Subnet, header: &Ipv4Header, sender: Sender) -> Result<i32, DropReason> {
    let len = view.len(0);
    let ethernet = EthernetHeader { destination: subnet.next_hop_mac, source: subnet.local_mac, ethertype: ETHERTYPE_IPV4.into() };
    view.write(0, ethernet).and_then(|()| view.write(ETHERNET_LEN, *header)).ok_or(DropReason::Helper)?;
    // From the host it is what `from_host` has noted, from a pod what never met the stack.
    view.mark_forwarded();
    count::flow(if sender == Sender::Pod { Flow::PodDirect } else { Flow::HostDirect }, len);
    to_next_hop(subnet, len)
}

/// Encapsulates the packet and redirects it to the NIC.
#[inline(always)]
fn encapsulate(mut view: TcView<'_>, settings: &Settings, subnet: &Subnet, inner: &Ipv4Header, sender: Sender) -> Result<i32, DropReason> {
    let len = view.len(0);
    // SAFETY: the helper reads the context it is given. Before the headers change: the hash is the inner flow's.
    let hash = unsafe { bpf_get_hash_recalc(view.0.skb.skb) };
    let inner_len = u16::try_from(len - ETHERNET_LEN).map_err(|_| DropReason::TooBig)?;
    let headers = encap::headers(settings, subnet, inner_len, inner.tos, hash).ok_or(DropReason::TooBig)?;
    if view.make_room().is_err() {
        return leave_to_kernel(view, settings, subnet, sender);
    }
    // The kernel leaves at least as much of the packet linear as it makes room for; should it not, both writes say so.
    view.pull(size_of::<TunnelHeaders>() + size_of::<Ipv4Header>());
    view.write(0, headers).and_then(|()| view.write(size_of::<TunnelHeaders>(), *inner)).ok_or(DropReason::Helper)?;
    count::flow(if sender == Sender::Pod { Flow::PodEncap } else { Flow::HostEncap }, len);
    to_next_hop(subnet, len)
}

/// Redirects a packet whose headers are final to the NIC. `len`: what is counted if the next hop is not known.
#[inline(always)]
fn to_next_hop(subnet: &Subnet, len: usize) -> Result<i32, DropReason> {
    let verdict = if subnet.next_hop_mac == UNRESOLVED {
        count::flow(Flow::NeighbourEncap, len);
        let mut next_hop = bpf_redir_neigh {
            nh_family: AF_INET,
            __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: [u32::from_ne_bytes(subnet.next_hop), 0, 0, 0] },
        };
        // SAFETY: the parameter lives on this stack for the length of the call. The kernel resolves the neighbour, queues the packet
        // meanwhile and writes both MACs.
        unsafe { bpf_redirect_neigh(subnet.ifindex, &raw mut next_hop, size_of::<bpf_redir_neigh>() as i32, 0) }
    } else {
        // SAFETY: the helper takes plain values.
        unsafe { bpf_redirect(subnet.ifindex, 0) }
    };
    if verdict == i64::from(TC_ACT_REDIRECT) { Ok(TC_ACT_REDIRECT) } else { Err(DropReason::Helper) }
}

/// Has the kernel's vxlan device encapsulate what `make_room` refuses: above all a packet that is marked as tunnelled already, as those of
/// a pod's own tunnel are, and those that came out of ours and are sent into it again because the stack translated their destination
/// (`adjust_room` does not take the mark off, as of Linux 6.18). The device segments it or fills in checksums first, where that is needed.
///
/// From a pod the packet goes there by way of the stack: unchanged as yet, its route leads to the overlay device.
#[inline(always)]
fn leave_to_kernel(mut view: TcView<'_>, settings: &Settings, subnet: &Subnet, sender: Sender) -> Result<i32, DropReason> {
    let len = view.len(0);
    if sender == Sender::Pod {
        count::flow(Flow::PodStack, len);
        return Ok(PASS);
    }
    let ethernet = EthernetHeader { destination: subnet.vtep_mac, source: settings.vtep_mac, ethertype: ETHERTYPE_IPV4.into() };
    view.write(0, ethernet).ok_or(DropReason::Helper)?;
    let key = bpf_tunnel_key {
        tunnel_id: settings.vni,
        // The helper takes addresses in host order (net/core/filter.c, `bpf_skb_set_tunnel_key`).
        __bindgen_anon_1: bpf_tunnel_key__bindgen_ty_1 { remote_ipv6: [u32::from_be_bytes(subnet.node), 0, 0, 0] },
        tunnel_tos: 0,
        tunnel_ttl: encap::OUTER_TTL,
        __bindgen_anon_2: bpf_tunnel_key__bindgen_ty_2 { tunnel_ext: 0 },
        tunnel_label: 0,
        __bindgen_anon_3: bpf_tunnel_key__bindgen_ty_3 { local_ipv6: [u32::from_be_bytes(subnet.source), 0, 0, 0] },
    };
    let flags = u64::from(BPF_F_ZERO_CSUM_TX | BPF_F_DONT_FRAGMENT);
    // SAFETY: the helper reads the key during the call. The context is this program's.
    let result = unsafe { bpf_skb_set_tunnel_key(view.0.skb.skb, (&raw const key).cast_mut(), size_of::<bpf_tunnel_key>() as u32, flags) };
    if result != 0 {
        return Err(DropReason::Helper);
    }
    count::flow(Flow::HostEncap, len);
    Ok(PASS)
}

/// Largest inner IP packet this one becomes on the wire: itself, or a segment of a super-packet.
#[inline(always)]
pub(crate) fn wire_len<P: Packet>(packet: &P, datagram: &Datagram, gso_size: usize) -> usize {
    if gso_size == 0 {
        return usize::from(datagram.header.total_len.get());
    }
    let header_len = datagram.header.header_len();
    gso_size + header_len + transport_header_len(packet, datagram, header_len)
}

/// Length of the transport header of a super-packet.
#[inline(always)]
fn transport_header_len<P: Packet>(packet: &P, datagram: &Datagram, header_len: usize) -> usize {
    use overlay_common::wire::{PROTOCOL_TCP, UDP_LEN};
    /// Offset of TCP's data offset field (RFC 9293 section 3.1).
    const DATA_OFFSET: usize = 12;
    if datagram.header.protocol != PROTOCOL_TCP {
        return UDP_LEN;
    }
    packet.read::<[u8; 2]>(datagram.offset + header_len + DATA_OFFSET).map_or(0, |[offset, _flags]| usize::from(offset >> 4) * 4)
}
