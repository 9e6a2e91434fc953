//! Where a packet goes that is meant for this node: to a pod, or to the host's stack. Shared by all that brings packets here.

use crate::maps::{self, DETOUR};
use crate::view::TcView;
use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_REDIRECT, bpf_fib_lookup as FibLookup};
use aya_ebpf::helpers::{bpf_fib_lookup, bpf_ktime_get_coarse_ns, bpf_redirect, bpf_redirect_peer};
use core::mem::MaybeUninit;
use overlay_common::abi::{Detour, DetourKey, Ipv4, Pod, Settings};
use overlay_common::packet::Packet;
use overlay_common::parse::{self, Datagram, Quote};
use overlay_common::reason::DropReason;
use overlay_common::wire::Ipv4Header;

/// The receiver of a packet from another node.
#[derive(Clone, Copy)]
pub(crate) enum Receiver {
    /// A pod of this node.
    Pod(&'static Pod),
    /// The host's stack, by the device its route back leads out of.
    Host,
}

/// Who on this node receives a packet that came from `node`: a pod, or the gateway address, and nobody else.
///
/// The host's stack gets what a pod's packet needs it for: an answer to a TTL at its end, and the un-rewriting of translated flows.
#[inline(always)]
pub(crate) fn receiver<P: Packet>(packet: &P, datagram: &Datagram, node: Ipv4, settings: &Settings) -> Result<Receiver, DropReason> {
    let destination = datagram.header.destination;
    if destination == settings.gateway {
        return Ok(Receiver::Host);
    }
    if !parse::contains(settings.pod_net, settings.pod_mask, destination) {
        let forbidden = parse::is_martian(destination) || parse::is_link_local(destination);
        return Err(if forbidden { DropReason::Martian } else { DropReason::InnerNotLocal });
    }
    let Some(pod) = maps::pod(destination) else { return Err(DropReason::InnerNoPod) };
    if datagram.header.ttl <= 1 || is_of_node(packet, datagram, node) || takes_detour(packet, datagram) {
        return Ok(Receiver::Host);
    }
    Ok(Receiver::Pod(pod))
}

/// The packet is from the sending node's own address. What the pod answers goes to that node as to any host outside, through the stack,
/// which has to know what it is an answer to: it would masquerade it, and kube-proxy drops what it calls invalid.
#[inline(always)]
fn is_of_node<P: Packet>(packet: &P, datagram: &Datagram, node: Ipv4) -> bool {
    datagram.header.source == node && matches!(datagram.quote(packet), Quote::NoError)
}

/// The packet is to a pod's socket that talks through the host's stack, which may have rewritten what that socket sent; or it is an ICMP
/// error about a packet of such a socket, with what it quotes rewritten as well. An error about a socket that talks directly must not take
/// the stack: connection tracking has never seen that connection, and kube-proxy drops what it calls invalid.
#[inline(always)]
pub(crate) fn takes_detour<P: Packet>(packet: &P, datagram: &Datagram) -> bool {
    let destination = datagram.header.destination;
    let (protocol, port_be) = match datagram.quote(packet) {
        Quote::NoError => (datagram.header.protocol, datagram.ports(packet).map_or([0; 2], |[_, port_be]| port_be)),
        Quote::Socket(quoted) if quoted.addr == destination => (quoted.protocol, quoted.port_be),
        Quote::Socket(_) | Quote::Unreadable => return true,
    };
    is_noted(destination, port_be, protocol)
}

/// The packet is from a pod's socket that talks through the host's stack. Answers to it take the stack, so what it sends has to take it
/// too, be it to a pod: the stack's connection tracking would call a connection it sees one half of invalid, and kube-proxy drops those.
#[inline(always)]
pub(crate) fn comes_by_detour<P: Packet>(packet: &P, datagram: &Datagram) -> bool {
    let port_be = datagram.ports(packet).map_or([0; 2], |[source, _]| source);
    is_noted(datagram.header.source, port_be, datagram.header.protocol)
}

/// The pod's socket is in `DETOUR`.
#[inline(always)]
fn is_noted(addr: Ipv4, port_be: [u8; 2], protocol: u8) -> bool {
    DETOUR.get_ptr(DetourKey { addr, port_be, protocol, pad: 0 }).is_some()
}

/// Remembers that a pod's packet goes through the host's stack. Written at most once a second and flow; a fragment of the answer has no
/// port, so the protocol as a whole is noted with it.
#[inline(always)]
pub(crate) fn note_detour<P: Packet>(packet: &P, datagram: &Datagram) {
    let Some([port_be, _]) = datagram.leading_ports(packet) else { return };
    // SAFETY: the helper takes no argument.
    let now = unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000;
    let mut key = DetourKey { addr: datagram.header.source, port_be, protocol: datagram.header.protocol, pad: 0 };
    if let Some(entry) = DETOUR.get_ptr(key) {
        // SAFETY: the pointer was returned by the lookup just now; a slot recycled meanwhile yields another entry's time, which costs
        // one update more or less.
        if unsafe { (*entry).last_seen } == now {
            return;
        }
    }
    let entry = Detour { last_seen: now };
    // A failed update (the map is being evicted from on another CPU) is made good by the flow's next packet.
    let _retried = DETOUR.insert(key, entry, 0);
    key.port_be = [0; 2];
    let _retried = DETOUR.insert(key, entry, 0);
}

/// Gives a packet, whose Ethernet header is directly followed by `datagram`'s header, to a pod of this node.
#[inline(always)]
pub(crate) fn to_pod(mut view: TcView<'_>, datagram: &Datagram, pod: &Pod, ecn: u8) -> Result<i32, DropReason> {
    parse::forward(&mut view, &datagram.header, pod.mac, pod.host_mac, ecn)?;
    redirect_to_pod(view, pod.ifindex)
}

/// Hands a packet whose headers are final to the pod behind the veth `ifindex`, without a pass through a backlog.
#[inline(always)]
pub(crate) fn redirect_to_pod(mut view: TcView<'_>, ifindex: u32) -> Result<i32, DropReason> {
    view.address_to_host();
    // SAFETY: the helper takes plain values.
    let verdict = unsafe { bpf_redirect_peer(ifindex, 0) };
    if verdict == i64::from(TC_ACT_REDIRECT) { Ok(TC_ACT_REDIRECT) } else { Err(DropReason::Helper) }
}

/// Redirects a packet that is already addressed to the MAC of the device `ifindex` into its ingress.
#[inline(always)]
pub(crate) fn redirect_to_host(ifindex: u32) -> Result<i32, DropReason> {
    // SAFETY: the helper takes plain values.
    let verdict = unsafe { bpf_redirect(ifindex, u64::from(BPF_F_INGRESS)) };
    if verdict == i64::from(TC_ACT_REDIRECT) { Ok(TC_ACT_REDIRECT) } else { Err(DropReason::Helper) }
}

/// The device by which the host would answer this packet, and so where its stack has to see it arrive: the NIC, or the overlay device where
/// the route is any other. Asked of the kernel for packets of nodes that are reached without a tunnel, while the entry in a map and the route
/// cannot change at the same moment: where reverse paths are checked strictly, the wrong device would be a packet lost.
#[inline(always)]
pub(crate) fn device_of_answer(view: &TcView<'_>, header: &Ipv4Header, settings: &Settings) -> u32 {
    /// `AF_INET` (include/linux/socket.h).
    const AF_INET: u8 = 2;
    let mut query = MaybeUninit::<FibLookup>::zeroed();
    // SAFETY: every field is a number, so zero is valid. Addresses are in network order; as input the third word is the source's, the
    // fourth the destination's first (include/uapi/linux/bpf.h).
    unsafe {
        let query = query.assume_init_mut();
        query.family = AF_INET;
        query.ifindex = settings.overlay_ifindex;
        query.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(header.destination);
        query.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(header.source);
    }
    // SAFETY: the helper reads and fills the query during the call. What it returns says whether the neighbour is known too, which does
    // not matter here; the device is filled in as soon as there is a route, and is left alone if there is none.
    unsafe {
        bpf_fib_lookup(view.0.as_ptr(), query.as_mut_ptr(), size_of::<FibLookup>() as i32, 0);
        if query.assume_init_ref().ifindex == settings.underlay_ifindex { settings.underlay_ifindex } else { settings.overlay_ifindex }
    }
}

/// An address the VXLAN socket of a node answers at: this node's own, its gateway address, or a peer's.
#[inline(always)]
pub(crate) fn is_node(address: Ipv4, settings: &Settings) -> bool {
    address == settings.address || address == settings.gateway || maps::node(address).is_some()
}
