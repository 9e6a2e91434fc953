//! UDP segmentation offload (`UDP_SEGMENT`, what QUIC servers use): one `sendmsg` of up to 64 KiB becomes many datagrams, cut by the kernel
//! or the NIC at the last moment. Overlays get these wrong, so every datagram is checked at the receiver.

use crate::netns::Ns;
use crate::probe::pattern;
use anyhow::{Context as _, ensure};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

/// Bytes of payload of each datagram, how many of them one `sendmsg` holds, how many `sendmsg`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Burst {
    /// Bytes of each datagram; header and segment must fit the MTU, or the kernel refuses.
    pub segment: u16,
    /// Datagrams per `sendmsg`: at most 64 before Linux 6.9.
    pub segments: usize,
    /// How many super-packets to send.
    pub sends: usize,
}

/// Sends super-packets one by one and checks every datagram that comes out of each before the next is sent: the receiver's socket buffer
/// never holds more than one, so what is lost is lost on the way.
///
/// # Errors
/// One is lost, cut to another length, or changed.
pub fn send(from: &Ns, source: Ipv4Addr, to: &Ns, address: Ipv4Addr, burst: Burst) -> anyhow::Result<()> {
    let receiver = to.udp(address, 0)?;
    let target = SocketAddrV4::new(address, receiver.local_addr()?.port());
    let sender = from.udp(source, 0)?;
    receiver.set_read_timeout(Some(Duration::from_secs(1)))?;
    for number in 0..burst.sends {
        let offset = (number * usize::from(burst.segment) * burst.segments) as u64;
        send_one(&sender, target, burst, offset)?;
        receive_one(&receiver, burst, offset).with_context(|| format!("super-packet {number}"))?;
    }
    Ok(())
}

fn send_one(socket: &UdpSocket, target: SocketAddrV4, burst: Burst, offset: u64) -> anyhow::Result<()> {
    let bytes = usize::from(burst.segment) * burst.segments;
    let payload = [IoSlice::new(pattern::slice(offset, bytes))];
    let control = [ControlMessage::UdpGsoSegments(&burst.segment)];
    let sent = sendmsg(socket.as_raw_fd(), &payload, &control, MsgFlags::empty(), Some(&SockaddrIn::from(target)))
        .with_context(|| format!("send {} datagrams of {} bytes as one", burst.segments, burst.segment))?;
    ensure!(sent == bytes, "only {sent} of {bytes} bytes were taken");
    Ok(())
}

/// Receives the datagrams of one super-packet. The kernel cuts it in order and one flow stays in order, so each has its place.
fn receive_one(socket: &UdpSocket, burst: Burst, offset: u64) -> anyhow::Result<()> {
    let size = usize::from(burst.segment);
    let mut buffer = vec![0; 65_536];
    for place in 0..burst.segments {
        let len = socket.recv(&mut buffer).with_context(|| format!("{place} of {} datagrams came", burst.segments))?;
        ensure!(len == size, "datagram {place} has {len} bytes instead of {size}");
        ensure!(buffer[..len] == *pattern::slice(offset + (place * size) as u64, size), "datagram {place} is not what was sent");
    }
    Ok(())
}
