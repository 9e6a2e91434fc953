//! From a pod: checks that it speaks for itself, then delivers on this node, sends to another, or hands to the host's stack.

use crate::PASS;
use crate::count;
use crate::deliver;
use crate::maps;
use crate::transmit::{self, Sender};
use crate::view::TcView;
use aya_ebpf::bindings::TC_ACT_REDIRECT;
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::programs::TcContext;
use overlay_common::abi::{Settings, Veth};
use overlay_common::counters::Flow;
use overlay_common::packet::Packet;
use overlay_common::parse::{self, Datagram, Malformed};
use overlay_common::reason::DropReason;
use overlay_common::wire::{ArpPacket, ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, EthernetHeader, PROTOCOL_UDP};

/// The gateway every pod has, without anyone having that address: its MAC is the host's end of the veth.
const POD_GATEWAY: [u8; 4] = [169, 254, 1, 1];

/// Bytes behind a pod's IP header that are looked at: TCP without options, for super-packets.
const TRANSPORT_LEN: usize = 20;

/// `from_pod`.
#[inline(always)]
pub(crate) fn from_pod(ctx: &TcContext) -> Result<i32, DropReason> {
    let mut view = TcView(ctx);
    let Some(settings) = maps::settings() else { return Ok(PASS) };
    let veth = maps::veth(view.ifindex()).ok_or(DropReason::UnknownVeth)?;
    view.pull_ipv4(ETHERNET_LEN, TRANSPORT_LEN);
    let ethernet = view.read::<EthernetHeader>(0).ok_or(DropReason::Short)?;
    if ethernet.source != veth.mac {
        return Err(DropReason::PodSourceMac);
    }
    if view.is_tagged() {
        return Err(DropReason::PodL2Protocol);
    }
    match ethernet.ethertype.get() {
        ETHERTYPE_IPV4 => ipv4(view, settings, veth),
        ETHERTYPE_ARP => arp(view, veth),
        ETHERTYPE_IPV6 => Err(DropReason::V6Disabled),
        _ => Err(DropReason::PodL2Protocol),
    }
}

#[inline(always)]
fn ipv4(mut view: TcView<'_>, settings: &Settings, veth: &Veth) -> Result<i32, DropReason> {
    let len = view.len(0);
    let datagram = parse::ipv4(&view, ETHERNET_LEN, len).map_err(|malformed| match malformed {
        Malformed::Short => DropReason::Short,
        Malformed::Header | Malformed::SourceRoute => DropReason::PodHeader,
    })?;
    if datagram.header.source != veth.addr {
        return Err(DropReason::PodSourceAddress);
    }
    let destination = datagram.header.destination;
    if parse::is_martian(destination) || destination == veth.addr {
        return Err(DropReason::Martian);
    }
    if parse::contains(settings.pod_net, settings.pod_mask, destination) {
        return own_network(view, settings, &datagram);
    }
    let Some(subnet) = maps::subnet(settings, destination) else { return to_stack(view, settings, &datagram) };
    if datagram.header.ttl <= 1 {
        return Ok(hand_over(Flow::PodTtl, len));
    }
    if transmit::wire_len(&view, &datagram, view.gso_size()) > usize::from(subnet.mtu) {
        return Ok(hand_over(Flow::PodTooBig, len));
    }
    if deliver::comes_by_detour(&view, &datagram) {
        return Ok(hand_over(Flow::PodStack, len));
    }
    // Ethernet padding would be carried through a tunnel as if it were payload.
    view.trim(datagram.end())?;
    let inner = parse::one_hop_less(&datagram.header);
    transmit::send(view, settings, subnet, &inner, Sender::Pod)
}

/// To an address of this node's pod network: a pod here, the gateway, or nobody.
#[inline(always)]
fn own_network(view: TcView<'_>, settings: &Settings, datagram: &Datagram) -> Result<i32, DropReason> {
    let destination = datagram.header.destination;
    let len = view.len(0);
    if destination == settings.gateway {
        return to_stack(view, settings, datagram);
    }
    let Some(pod) = maps::pod(destination) else { return Ok(hand_over(Flow::PodNoPod, len)) };
    if datagram.header.ttl <= 1 {
        return Ok(hand_over(Flow::PodTtl, len));
    }
    if deliver::takes_detour(&view, datagram) || deliver::comes_by_detour(&view, datagram) {
        return Ok(hand_over(Flow::PodStack, len));
    }
    count::flow(Flow::PodLocal, len);
    deliver::to_pod(view, datagram, pod, datagram.header.ecn())
}

/// To the host or beyond: the host's stack routes, translates and filters it. VXLAN to a node is forged, whatever is in it.
#[inline(always)]
fn to_stack(view: TcView<'_>, settings: &Settings, datagram: &Datagram) -> Result<i32, DropReason> {
    // A datagram's port is in its first fragment, which is checked: without it the later ones never become a datagram. They have to pass,
    // as they may be a service's answer to a client whose address the stack replaced with the node's own.
    if datagram.header.protocol == PROTOCOL_UDP && !datagram.header.is_later_fragment() {
        let port = match datagram.leading_ports(&view) {
            Some([_, destination]) => u32::from(u16::from_be_bytes(destination)),
            // A header out of reach: it could be that port.
            None => settings.port,
        };
        if port == settings.port && deliver::is_node(datagram.header.destination, settings) {
            return Err(DropReason::EncapProhibited);
        }
    }
    // What a pod answers its own host, above all kubelet's probes, comes back from the host itself. Noted, it would take the pod's port off
    // the fast path for everybody. A connection the pod opens may be translated even here: the gateway address has node ports.
    if datagram.header.destination != settings.gateway || !datagram.continues_tcp(&view) {
        deliver::note_detour(&view, datagram);
    }
    Ok(hand_over(Flow::PodStack, view.len(0)))
}

/// Leaves the packet to the host's stack.
#[inline(always)]
fn hand_over(flow: Flow, len: usize) -> i32 {
    count::flow(flow, len);
    PASS
}

/// Answers the pod's question for its gateway, lets its answers to the host through, and nothing else.
#[inline(always)]
fn arp(mut view: TcView<'_>, veth: &Veth) -> Result<i32, DropReason> {
    let arp = view.read::<ArpPacket>(ETHERNET_LEN).ok_or(DropReason::Short)?;
    if arp.sender_mac != veth.mac || arp.sender != veth.addr {
        return Err(DropReason::PodArpSpoof);
    }
    if arp.kind != ArpPacket::ETHERNET_IPV4 {
        return Err(DropReason::PodL2Protocol);
    }
    let len = view.len(0);
    if arp.operation.get() == ArpPacket::REPLY {
        return Ok(hand_over(Flow::PodArp, len));
    }
    if arp.operation.get() != ArpPacket::REQUEST || arp.target != POD_GATEWAY {
        return Err(DropReason::PodL2Protocol);
    }
    let answer = ArpPacket {
        kind: ArpPacket::ETHERNET_IPV4,
        operation: ArpPacket::REPLY.into(),
        sender_mac: veth.host_mac,
        sender: POD_GATEWAY,
        target_mac: veth.mac,
        target: veth.addr,
    };
    let ethernet = EthernetHeader { destination: veth.mac, source: veth.host_mac, ethertype: ETHERTYPE_ARP.into() };
    view.write(0, ethernet).and_then(|()| view.write(ETHERNET_LEN, answer)).ok_or(DropReason::Helper)?;
    count::flow(Flow::PodArp, len);
    // SAFETY: the helper takes plain values. Out by the veth it came from: back to the pod.
    let verdict = unsafe { bpf_redirect(view.ifindex(), 0) };
    if verdict == i64::from(TC_ACT_REDIRECT) { Ok(TC_ACT_REDIRECT) } else { Err(DropReason::Helper) }
}
