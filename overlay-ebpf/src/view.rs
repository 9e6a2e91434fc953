//! The kernel's two kinds of packet behind [`Packet`], and what changes their size.
//!
//! All pointer arithmetic on packets is here. A view borrows nothing: it holds the context and asks it for the bounds at every access,
//! so that no pointer outlives a helper that moves the packet; the compiler merges the loads where nothing came between.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    __sk_buff, BPF_ADJ_ROOM_ENCAP_L2_SHIFT, BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
    BPF_F_ADJ_ROOM_FIXED_GSO, bpf_adj_room_mode,
};
use aya_ebpf::helpers::{bpf_skb_change_tail, bpf_xdp_adjust_head, bpf_xdp_adjust_meta, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len};
use aya_ebpf::programs::{TcContext, XdpContext};
use overlay_common::abi::ENCAP_OVERHEAD;
use overlay_common::packet::Packet;
use overlay_common::reason::DropReason;
use overlay_common::wire::{ETHERNET_LEN, IPV4_LEN, Ipv4Header};
use zerocopy::{FromBytes, Immutable, IntoBytes, Unaligned};

/// Length of an IPv4 header with all the options it can have.
const LONGEST_IPV4_LEN: usize = 60;

/// `skb->pkt_type`: addressed to us (`include/uapi/linux/if_packet.h`).
pub(crate) const PACKET_HOST: u32 = 0;

/// In the control buffer of a packet that a program of ours sends to a neighbour as it is. It lives until the device has the packet.
const FORWARDED: u32 = 0x6f76_6c32;

/// Reads `T` at `data + offset` if it ends at or before `data_end`.
#[inline(always)]
fn read<T: FromBytes + Unaligned + Copy>(data: usize, data_end: usize, offset: usize) -> Option<T> {
    let start = data + offset;
    if start + size_of::<T>() > data_end {
        return None;
    }
    // SAFETY: the bytes lie between the packet's bounds, as just checked and as the verifier checks again; any bytes are a valid `T`.
    Some(unsafe { core::ptr::read(start as *const T) })
}

/// Writes `T` at `data + offset` if it ends at or before `data_end`.
#[inline(always)]
fn write<T: IntoBytes + Immutable + Unaligned + Copy>(data: usize, data_end: usize, offset: usize, value: T) -> Option<()> {
    let start = data + offset;
    if start + size_of::<T>() > data_end {
        return None;
    }
    // SAFETY: as in `read`; the context is not shared while its program runs.
    unsafe { core::ptr::write(start as *mut T, value) };
    Some(())
}

/// A frame at the XDP hook.
pub(crate) struct XdpView<'a>(pub(crate) &'a XdpContext);

impl Packet for XdpView<'_> {
    #[inline(always)]
    fn read<T: FromBytes + Unaligned + Copy>(&self, offset: usize) -> Option<T> {
        read(self.0.data(), self.0.data_end(), offset)
    }

    #[inline(always)]
    fn write<T: IntoBytes + Immutable + Unaligned + Copy>(&mut self, offset: usize, value: T) -> Option<()> {
        write(self.0.data(), self.0.data_end(), offset, value)
    }

    #[inline(always)]
    fn len(&self, enough: usize) -> usize {
        let first_buffer = self.0.data_end() - self.0.data();
        if first_buffer >= enough {
            return first_buffer;
        }
        // SAFETY: the helper reads the context it is given.
        unsafe { bpf_xdp_get_buff_len(self.0.ctx) as usize }
    }
}

/// What XDP tells TC about a frame it stripped, in the metadata in front of it.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Stripped {
    magic: u32,
    /// Host-side veth of the pod it goes to; zero: the host's stack.
    pub(crate) ifindex: u32,
}

/// Only an XDP program can write metadata and ours holds the hook; the number keeps out what another one may have left.
const STRIPPED_MAGIC: u32 = 0x6f76_6c31;

impl XdpView<'_> {
    /// Cuts the frame to `len` bytes if it is longer.
    #[inline(always)]
    pub(crate) fn trim(&mut self, len: usize) -> Result<(), DropReason> {
        let now = self.len(len + 1);
        if now > len {
            // SAFETY: the helper changes the context it is given; no pointer into the packet is held.
            let result = unsafe { bpf_xdp_adjust_tail(self.0.ctx, len as i32 - now as i32) };
            return if result == 0 { Ok(()) } else { Err(DropReason::Helper) };
        }
        Ok(())
    }

    /// Takes the outer headers off: the frame then starts with the inner Ethernet header.
    #[inline(always)]
    pub(crate) fn strip(&mut self) -> Result<(), DropReason> {
        // SAFETY: as in `trim`.
        let result = unsafe { bpf_xdp_adjust_head(self.0.ctx, ENCAP_OVERHEAD as i32) };
        if result == 0 { Ok(()) } else { Err(DropReason::Helper) }
    }

    /// Makes room for [`Stripped`]. An error: the driver carries no metadata, and nothing has been changed.
    #[inline(always)]
    pub(crate) fn reserve_metadata(&mut self) -> Result<(), DropReason> {
        // SAFETY: as in `trim`.
        let result = unsafe { bpf_xdp_adjust_meta(self.0.ctx, -(size_of::<Stripped>() as i32)) };
        if result == 0 { Ok(()) } else { Err(DropReason::Helper) }
    }

    /// Fills the metadata.
    #[inline(always)]
    pub(crate) fn write_metadata(&mut self, ifindex: u32) -> Result<(), DropReason> {
        let start = self.0.metadata();
        if start + size_of::<Stripped>() > self.0.data() {
            return Err(DropReason::Helper);
        }
        // SAFETY: the bytes lie between the metadata's start and the packet's, as just checked; metadata is aligned to 4 bytes.
        unsafe { core::ptr::write(start as *mut Stripped, Stripped { magic: STRIPPED_MAGIC, ifindex }) };
        Ok(())
    }
}

/// A packet at a TC hook.
pub(crate) struct TcView<'a>(pub(crate) &'a TcContext);

impl Packet for TcView<'_> {
    #[inline(always)]
    fn read<T: FromBytes + Unaligned + Copy>(&self, offset: usize) -> Option<T> {
        read(self.0.data(), self.0.data_end(), offset)
    }

    #[inline(always)]
    fn write<T: IntoBytes + Immutable + Unaligned + Copy>(&mut self, offset: usize, value: T) -> Option<()> {
        write(self.0.data(), self.0.data_end(), offset, value)
    }

    #[inline(always)]
    fn len(&self, _enough: usize) -> usize {
        self.0.len() as usize
    }
}

impl TcView<'_> {
    #[inline(always)]
    fn skb(&self) -> &__sk_buff {
        // SAFETY: the kernel hands a valid context to the program; the verifier turns each field access into a checked load.
        unsafe { &*self.0.skb.skb }
    }

    /// Makes the first `len` bytes readable, or as many as there are: a packet's headers may lie outside its linear part.
    #[inline(always)]
    pub(crate) fn pull(&mut self, len: usize) {
        if self.0.data() + len > self.0.data_end() {
            let len = (len as u32).min(self.0.len());
            // On failure the bytes stay out of reach and the read that needs them says so.
            let _unreadable = self.0.pull_data(len);
        }
    }

    /// As [`Self::pull`]: what a verdict needs of the IPv4 packet at `offset`, its header and `behind` bytes after it. Options are rare,
    /// and pulled only where there are any: drivers and GRO leave little more than the plain headers in the linear part.
    #[inline(always)]
    pub(crate) fn pull_ipv4(&mut self, offset: usize, behind: usize) {
        self.pull(offset + IPV4_LEN + behind);
        if self.read::<Ipv4Header>(offset).is_some_and(|header| header.header_len() > IPV4_LEN) {
            self.pull(offset + LONGEST_IPV4_LEN + behind);
        }
    }

    /// What XDP said about this packet, if it stripped it. It says so once: metadata stays with a packet that the stack forwards, and where
    /// the next node is a namespace of the same kernel it would be taken there for the word of that node's XDP (seen on Linux 6.18).
    #[inline(always)]
    pub(crate) fn take_stripped(&mut self) -> Option<Stripped> {
        let start = self.skb().data_meta as usize;
        if start + size_of::<Stripped>() > self.0.data() {
            return None;
        }
        // SAFETY: the bytes lie between the metadata's start and the packet's, as just checked; any bytes are a valid `Stripped`.
        let stripped = unsafe { core::ptr::read(start as *const Stripped) };
        if stripped.magic != STRIPPED_MAGIC {
            return None;
        }
        // SAFETY: as for the read; the kernel has unshared the packet for a program that writes to it.
        unsafe { core::ptr::write(start as *mut u32, 0) };
        Some(stripped)
    }

    /// The packet carried a VLAN tag, which the kernel keeps beside it.
    #[inline(always)]
    pub(crate) fn is_tagged(&self) -> bool {
        self.skb().vlan_present != 0
    }

    /// The link-layer addressee.
    #[inline(always)]
    pub(crate) fn packet_type(&self) -> u32 {
        self.skb().pkt_type
    }

    /// Payload bytes per packet if this is a super-packet, else zero.
    #[inline(always)]
    pub(crate) fn gso_size(&self) -> usize {
        self.skb().gso_size as usize
    }

    /// ifindex of the device the packet is on.
    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        self.skb().ifindex
    }

    /// The packet's mark.
    #[inline(always)]
    pub(crate) fn mark(&self) -> u32 {
        self.skb().mark
    }

    /// Says to `to_underlay`, on the way to the same packet's device, that a program of ours forwards it.
    #[inline(always)]
    pub(crate) fn mark_forwarded(&mut self) {
        // SAFETY: as for `skb`; the context is not shared while its program runs.
        unsafe { (*self.0.skb.skb).cb[0] = FORWARDED };
    }

    /// A program of ours has forwarded the packet, not the stack. For the stack these bytes hold other things of its own; a pod that made them
    /// look like this would keep its own socket from being noted, and nobody else's.
    #[inline(always)]
    pub(crate) fn is_forwarded(&self) -> bool {
        self.skb().cb[0] == FORWARDED
    }

    /// Puts 50 bytes between the Ethernet header and the IP header. The kernel is told what they will be, so that it can segment a
    /// super-packet behind them; `FIXED_GSO` keeps the size of its segments and is required for UDP (net/core/filter.c,
    /// `bpf_skb_net_grow`).
    #[inline(always)]
    pub(crate) fn make_room(&mut self) -> Result<(), DropReason> {
        let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO)
            | u64::from(BPF_F_ADJ_ROOM_ENCAP_L3_IPV4)
            | u64::from(BPF_F_ADJ_ROOM_ENCAP_L4_UDP)
            | u64::from(BPF_F_ADJ_ROOM_ENCAP_L2_ETH)
            | (ETHERNET_LEN as u64) << BPF_ADJ_ROOM_ENCAP_L2_SHIFT;
        self.0.adjust_room(ENCAP_OVERHEAD as i32, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, flags).map_err(|_| DropReason::Helper)
    }

    /// Takes the 50 bytes behind the first Ethernet header out: the inner IP header then follows it.
    #[inline(always)]
    pub(crate) fn strip(&mut self) -> Result<(), DropReason> {
        let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO);
        self.0.adjust_room(-(ENCAP_OVERHEAD as i32), bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, flags).map_err(|_| DropReason::Helper)
    }

    /// Cuts the packet to `len` bytes if it is longer. A super-packet has no padding to cut.
    #[inline(always)]
    pub(crate) fn trim(&mut self, len: usize) -> Result<(), DropReason> {
        if self.0.len() as usize > len && self.gso_size() == 0 {
            // SAFETY: the helper changes the context it is given; no pointer into the packet is held.
            let result = unsafe { bpf_skb_change_tail(self.0.as_ptr().cast(), len as u32, 0) };
            return if result == 0 { Ok(()) } else { Err(DropReason::Helper) };
        }
        Ok(())
    }

    /// Addresses the packet to us, whatever its MAC said: `bpf_redirect_peer` leaves the type as it was before Linux 6.15.
    #[inline(always)]
    pub(crate) fn address_to_host(&mut self) {
        if self.packet_type() != PACKET_HOST {
            // Cannot fail for the types the kernel accepts (net/core/filter.c, `bpf_skb_change_type`).
            let _always_ok = self.0.change_type(PACKET_HOST);
        }
    }
}
