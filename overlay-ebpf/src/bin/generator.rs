//! What measuring takes in the kernel: a generator of frames, sinks that count, and the least a hook can do, to compare with.
//!
//! An object of its own beside the released one. `overlay-agent measure` and the bench load it, and run it in namespaces they made. Reads
//! and writes its own maps, and the frames at hand.

#![no_std]
#![no_main]
#![expect(clippy::needless_pass_by_value, reason = "the entry macros hand contexts over by value")]

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_REDIRECT};
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::macros::{btf_map, classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

/// Frames the generator sends in turn.
const MAX_FRAMES: u32 = 16_384;

/// A frame of 64 bytes inside 50 bytes of tunnel headers; a frame without a tunnel is the first 64 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
struct Frame {
    words: [u64; 14],
    tail: u16,
    pad: [u16; 3],
}

/// Bytes of a frame in a tunnel.
const TUNNELLED: usize = 114;
/// Bytes of a frame without.
const PLAIN: usize = 64;

/// What the generator does.
#[repr(C)]
#[derive(Clone, Copy)]
struct Settings {
    /// Frames in use, from the first on.
    frames: u32,
    /// Device they are sent out of.
    ifindex: u32,
    /// The frame to be sent next.
    next: u32,
    /// Device `redirect_xdp` sends to.
    redirect_ifindex: u32,
}

/// What a sink saw.
#[repr(C)]
#[derive(Clone, Copy)]
struct Seen {
    packets: u64,
    bytes: u64,
}

#[btf_map]
static FRAMES: Array<Frame, { MAX_FRAMES as usize }> = Array::new();

#[btf_map]
static SETTINGS: Array<Settings, 1> = Array::new();

#[btf_map]
static SEEN: PerCpuArray<Seen, 1> = PerCpuArray::new();

/// Live frames: writes the next frame over whatever is there (the kernel recycles frames, old bytes and all) and sends it.
#[xdp]
fn generate(ctx: XdpContext) -> u32 {
    let Some(settings) = SETTINGS.get_ptr_mut(0) else { return XDP_ABORTED };
    // SAFETY: one generator runs at a time, on one CPU; user space writes only between runs.
    let settings = unsafe { &mut *settings };
    let Some(frame) = FRAMES.get(settings.next) else { return XDP_ABORTED };
    let next = settings.next + 1;
    settings.next = if next >= settings.frames { 0 } else { next };
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + TUNNELLED <= end {
        copy::<14>(frame, start);
        // SAFETY: the bytes lie between the frame's bounds, as just checked; the frame may be unaligned.
        unsafe { core::ptr::write_unaligned((start + 112) as *mut u16, frame.tail) };
    } else if start + PLAIN <= end {
        copy::<8>(frame, start);
    } else {
        return XDP_ABORTED;
    }
    // SAFETY: the helper takes plain values.
    let verdict = unsafe { bpf_redirect(settings.ifindex, 0) };
    if verdict == i64::from(XDP_REDIRECT) { XDP_REDIRECT } else { XDP_ABORTED }
}

/// Copies the first words of a frame. Volatile, or the compiler makes it a call of `memmove`, which goes byte by byte.
#[inline(always)]
fn copy<const WORDS: usize>(frame: &Frame, start: usize) {
    for (index, word) in frame.words.iter().take(WORDS).enumerate() {
        // SAFETY: the caller has checked that so many words lie between the frame's bounds; live frames begin behind 256 bytes of headroom.
        unsafe { core::ptr::write_volatile((start as *mut u64).wrapping_add(index), *word) };
    }
}

/// XDP: the least a NIC can do.
#[xdp]
fn drop_xdp(ctx: XdpContext) -> u32 {
    count((ctx.data_end() - ctx.data()) as u64);
    XDP_DROP
}

/// XDP: the least that gets a frame into a pod. ARP and the like pass.
#[xdp]
fn redirect_xdp(ctx: XdpContext) -> u32 {
    let Some(settings) = SETTINGS.get(0) else { return XDP_PASS };
    if ctx.data_end() - ctx.data() < PLAIN {
        return XDP_PASS;
    }
    // SAFETY: the helper takes plain values.
    let verdict = unsafe { bpf_redirect(settings.redirect_ifindex, 0) };
    if verdict == i64::from(XDP_REDIRECT) { XDP_REDIRECT } else { XDP_ABORTED }
}

/// TC: counts IPv4 packets and ends them; others (ARP) pass.
#[classifier]
fn sink(ctx: TcContext) -> i32 {
    /// `ETH_P_IP` as `__sk_buff.protocol` has it.
    const IPV4: u32 = 0x0800_u16.to_be() as u32;
    // SAFETY: the kernel hands over a valid context; the verifier turns the field access into a checked load.
    let (protocol, len) = unsafe { ((*ctx.skb.skb).protocol, (*ctx.skb.skb).len) };
    if protocol != IPV4 {
        return TC_ACT_UNSPEC;
    }
    count(u64::from(len));
    TC_ACT_SHOT
}

#[inline(always)]
fn count(bytes: u64) {
    let Some(seen) = SEEN.get_ptr_mut(0) else { return };
    // SAFETY: the slot belongs to this CPU.
    unsafe {
        (*seen).packets += 1;
        (*seen).bytes += bytes;
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier would refuse the endless loop if this were reachable.
    loop {}
}

/// The kernel offers `bpf_redirect` and others to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
