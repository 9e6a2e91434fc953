//! The one way to look into a packet: bounded reads and writes at an offset.
//!
//! Three implementations: a byte slice here (host tests), `XdpView` and `TcView` in `overlay-ebpf`. The parser and the header builder
//! are written once against this trait and run in all three. What it costs against raw pointers is in ADR 0001.

use zerocopy::{FromBytes, Immutable, IntoBytes, Unaligned};

/// A frame that starts with its Ethernet header.
pub trait Packet {
    /// Copies out a header. `None` when it does not lie wholly inside the bytes at hand.
    fn read<T: FromBytes + Unaligned + Copy>(&self, offset: usize) -> Option<T>;

    /// Overwrites a header. `None`, and nothing written, when it would not lie wholly inside.
    fn write<T: IntoBytes + Immutable + Unaligned + Copy>(&mut self, offset: usize, value: T) -> Option<()>;

    /// Length of the frame in bytes. May stop counting once it has reached `enough`: a frame in several buffers is counted only when
    /// somebody needs to know.
    fn len(&self, enough: usize) -> usize;
}

impl Packet for [u8] {
    #[inline(always)]
    fn read<T: FromBytes + Unaligned + Copy>(&self, offset: usize) -> Option<T> {
        T::read_from_prefix(self.get(offset..)?).ok().map(|(value, _)| value)
    }

    #[inline(always)]
    fn write<T: IntoBytes + Immutable + Unaligned + Copy>(&mut self, offset: usize, value: T) -> Option<()> {
        value.write_to_prefix(self.get_mut(offset..)?).ok()
    }

    #[inline(always)]
    fn len(&self, _enough: usize) -> usize {
        <[u8]>::len(self)
    }
}
