//! Two programs that judge a VXLAN frame alike: once through the `Packet` trait, once with raw pointers. What the trait costs is the
//! difference between them; `cargo xtask bench view` measures it, ADR 0001 has the numbers. Never part of the released object.

#![no_std]
#![no_main]
#![expect(clippy::needless_pass_by_value, reason = "the entry macro hands contexts over by value")]
#![expect(clippy::cast_possible_truncation, reason = "the sum was folded to 16 bits")]

#[path = "../view.rs"]
#[expect(dead_code, reason = "the experiment only reads")]
mod view;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::btf_maps::Array;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use overlay_common::abi::Settings;
use overlay_common::parse::{self, INNER_OFFSET};
use overlay_common::wire::{EthernetHeader, Ipv4Header, UdpHeader, VxlanHeader};
use view::XdpView;

/// As in the real object: which node this is.
#[btf_map]
static SETTINGS: Array<Settings, 1> = Array::new();

/// The shared packet code, through the trait.
#[xdp]
fn by_trait(ctx: XdpContext) -> u32 {
    let view = XdpView(&ctx);
    let Some(settings) = SETTINGS.get(0) else { return XDP_PASS };
    let tunnel = match parse::outer(&view, settings) {
        Ok(Some(tunnel)) => tunnel,
        Ok(None) => return XDP_PASS,
        Err(_) => return XDP_DROP,
    };
    match parse::inner(&view, INNER_OFFSET, tunnel.end, settings.vtep_mac) {
        Ok(datagram) => 0x100 | u32::from(datagram.header.ttl),
        Err(_) => XDP_DROP,
    }
}

/// All headers up to the inner IPv4 header, as they lie in the frame.
#[repr(C)]
struct Headers {
    ethernet: EthernetHeader,
    ip: Ipv4Header,
    udp: UdpHeader,
    vxlan: VxlanHeader,
    inner_ethernet: EthernetHeader,
    inner_ip: Ipv4Header,
}

/// The same checks as a C programmer would write them: one bounds check for all headers, then fields through a pointer.
#[xdp]
fn by_pointer(ctx: XdpContext) -> u32 {
    let Some(settings) = SETTINGS.get(0) else { return XDP_PASS };
    let (data, data_end) = (ctx.data(), ctx.data_end());
    if data + size_of::<Headers>() > data_end {
        return XDP_PASS;
    }
    // SAFETY: the bounds were checked just above; every header has alignment 1 and any bytes are valid.
    let h = unsafe { &*(data as *const Headers) };
    let tunnel_len = h.ip.total_len.get();
    if h.ethernet.ethertype.get() != 0x0800
        || h.ip.destination != settings.address
        || h.ip.protocol != 17
        || h.ip.version_ihl != 0x45
        || u32::from(h.udp.destination_port.get()) != settings.port
    {
        return XDP_PASS;
    }
    if h.ip.is_fragment()
        || tunnel_len < 50
        || h.udp.len.get() != tunnel_len - 20
        || data + 14 + usize::from(tunnel_len) > data_end
        || sum(&h.ip) != 0xffff
        || h.ip.ttl == 0
        || !h.vxlan.is_plain()
        || h.vxlan.vni() != settings.vni
        || h.inner_ethernet.ethertype.get() != 0x0800
        || h.inner_ethernet.source[0] & 1 != 0
        || h.inner_ethernet.source == settings.vtep_mac
        || h.inner_ip.version_ihl != 0x45
        || h.inner_ip.total_len.get() < 20
        || 64 + usize::from(h.inner_ip.total_len.get()) > 14 + usize::from(tunnel_len)
        || sum(&h.inner_ip) != 0xffff
        || h.inner_ip.ttl == 0
    {
        return XDP_DROP;
    }
    0x100 | u32::from(h.inner_ip.ttl)
}

/// The header's words, folded.
#[inline(always)]
fn sum(header: &Ipv4Header) -> u16 {
    let words: *const [u8; 2] = core::ptr::from_ref(header).cast();
    let mut sum = 0;
    for index in 0..10 {
        // SAFETY: a header is ten words long.
        sum += u32::from(u16::from_be_bytes(unsafe { *words.add(index) }));
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
