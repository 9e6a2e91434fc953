//! UDP in super-packets, as fast as the sender can: cut by `UDP_SEGMENT`, put together again by `UDP_GRO`. QUIC sends and receives like this.
//!
//! UDP is not slowed down by who cannot follow, so there is loss when the receiver, or something on the way, is slower than the sender.
//! Goodput is what the receiver's program got; the loss stands beside it.

use super::cpu::CpuTime;
use super::{Conditions, Phase, STALL, TICK, rate};
use crate::netns::Ns;
use crate::probe::snmp::Snmp;
use crate::probe::udp;
use anyhow::{Context as _, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};

/// Most datagrams of one `send`: `UDP_MAX_SEGMENTS` before Linux 6.9.
const SEGMENTS: usize = 64;

/// Room for datagrams the receiver has not read yet, in bytes: 4 MiB, what `net.core.rmem_max` is raised to where UDP has to be fast.
const RECEIVE_BUFFER: usize = 4 << 20;

/// What to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramLoad {
    /// Bytes of payload of each datagram: with 28 bytes of headers it must fit the MTU of the client.
    pub segment: u16,
    /// For how long, and where.
    pub conditions: Conditions,
}

/// What arrived, and what it took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DatagramResult {
    /// Payload that the server's program had read in the counted time, in bits per second.
    pub bits_per_second: f64,
    /// What the machine did in the counted time.
    pub cpu: CpuTime,
    /// Datagrams sent, from the first to the last, warm-up included.
    pub sent: u64,
    /// How many of them never came to the server's program.
    pub lost: u64,
    /// Packets that did reach the server, whose socket had no room for them. Here a super-packet counts as one.
    pub refused: u64,
    /// Datagrams that the server's program got at once, on average: 1 when nothing was put together.
    pub merged: f64,
}

impl DatagramResult {
    /// CPU time for 10⁹ bits of payload that arrived, both sides together, in seconds. What the lost ones cost is part of it.
    #[must_use]
    pub fn cpu_seconds_per_gbit(&self) -> f64 {
        self.cpu.busy.as_secs_f64() / (self.bits_per_second * self.cpu.wall.as_secs_f64() / 1e9)
    }

    /// Share of the datagrams that was lost, from 0 to 1.
    #[must_use]
    pub fn loss(&self) -> f64 {
        ratio(self.lost, self.sent)
    }
}

/// What the receiver saw, in bytes and calls.
#[derive(Default)]
struct Received {
    bytes: u64,
    reads: u64,
    /// In the counted time.
    counted: u64,
}

/// Sends from `client` to `address` in `server`.
///
/// # Errors
/// The datagrams do not fit the MTU, a socket fails, or nothing moves for five seconds.
pub fn run(client: &Ns, server: &Ns, address: Ipv4Addr, load: &DatagramLoad) -> anyhow::Result<DatagramResult> {
    let receiver = server.udp(address, 0)?;
    setsockopt(&receiver, sockopt::UdpGroSegment, &true).context("set UDP_GRO")?;
    // Beyond rmem_max, as the lab may.
    setsockopt(&receiver, sockopt::RcvBufForce, &RECEIVE_BUFFER).context("set SO_RCVBUFFORCE")?;
    let sender = client.udp(Ipv4Addr::UNSPECIFIED, 0)?;
    let target = receiver.local_addr()?;
    sender.connect(target).with_context(|| format!("connect to {target}"))?;
    setsockopt(&sender, sockopt::UdpGsoSegment, &i32::from(load.segment)).context("set UDP_SEGMENT")?;

    let errors_before = Snmp::read(server)?;
    let outcome = super::run(&load.conditions, |phase| send(&sender, load.segment, phase), |phase| receive(&receiver, phase), || Ok(()))?;
    let (received, sent) = (outcome.server, outcome.client);
    let segment = u64::from(load.segment);
    ensure!(received.bytes % segment == 0, "{} bytes arrived in datagrams of {segment}", received.bytes);
    let arrived = received.bytes / segment;
    Ok(DatagramResult {
        bits_per_second: rate(received.counted * 8, outcome.cpu.wall),
        cpu: outcome.cpu,
        sent,
        lost: sent.saturating_sub(arrived),
        refused: Snmp::read(server)?.since(&errors_before, "Udp.RcvbufErrors"),
        merged: ratio(arrived, received.reads),
    })
}

/// Sends full super-packets; returns how many datagrams they were.
fn send(socket: &UdpSocket, segment: u16, phase: &Phase) -> anyhow::Result<u64> {
    socket.set_write_timeout(Some(STALL))?;
    let segments = SEGMENTS.min(udp::LONGEST / usize::from(segment));
    let block = vec![0x5a; segments * usize::from(segment)];
    let mut sends = 0;
    while !phase.over() {
        let bytes = socket.send(&block).with_context(|| format!("send {segments} datagrams of {segment} bytes as one"))?;
        ensure!(bytes == block.len(), "only {bytes} of {} bytes were taken", block.len());
        sends += 1;
    }
    Ok(sends * segments as u64)
}

/// Receives until the client is gone and nothing more comes.
fn receive(socket: &UdpSocket, phase: &Phase) -> anyhow::Result<Received> {
    socket.set_read_timeout(Some(TICK))?;
    let mut buffer = vec![0; 1 << 16];
    let (mut received, mut silent) = (Received::default(), 0);
    loop {
        match socket.recv(&mut buffer) {
            Ok(len) => {
                (received.bytes, received.reads, silent) = (received.bytes + len as u64, received.reads + 1, 0);
                if phase.counts() {
                    received.counted += len as u64;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                silent += 1;
                if phase.gone() {
                    return Ok(received);
                }
                if TICK * silent > STALL {
                    bail!("no datagram arrives for {} s", STALL.as_secs());
                }
            }
            Err(error) => return Err(error).context("receive"),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio to be compared and read")]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
