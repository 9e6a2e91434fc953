//! TCP: a stream of known bytes from one namespace to another, every byte compared, one flow or many at once.

use crate::netns::Ns;
use crate::probe::{ended, pattern};
use anyhow::{Context as _, bail, ensure};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes written and read at once.
const BLOCK: usize = 1 << 17;

/// How long a stream may stand still before it counts as broken.
const STALL: Duration = Duration::from_secs(10);

/// A finished transfer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transfer {
    /// Bytes that arrived, all of them as they were sent.
    pub bytes: u64,
    /// From the first byte until the receiver had the last.
    pub seconds: f64,
}

impl Transfer {
    /// Gigabits of payload per second.
    #[must_use]
    pub fn gbit_per_second(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rate to be read by a person")]
        let bits = self.bytes as f64 * 8.0;
        bits / self.seconds / 1e9
    }
}

/// Where a server listens and where its clients turn to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerAddress {
    /// Where it listens; port 0 leaves the port to who starts it.
    pub listen: SocketAddrV4,
    /// The Service of which it is the only backend, if clients connect to that.
    pub service: Option<SocketAddrV4>,
}

impl From<Ipv4Addr> for ServerAddress {
    fn from(address: Ipv4Addr) -> Self {
        Self { listen: SocketAddrV4::new(address, 0), service: None }
    }
}

/// Sends `bytes` bytes from one namespace to `address` in another.
///
/// # Errors
/// No connection, a stall of ten seconds, or a byte that differs: the message tells its offset.
pub fn transfer(from: &Ns, to: &Ns, address: Ipv4Addr, bytes: u64) -> anyhow::Result<Transfer> {
    flows(from, to, address, 1, bytes)
}

/// Sends `bytes` bytes over each of `count` connections at the same time.
///
/// # Errors
/// As [`transfer`].
pub fn flows(from: &Ns, to: &Ns, address: Ipv4Addr, count: usize, bytes: u64) -> anyhow::Result<Transfer> {
    let (senders, receivers) = connect(from, to, address.into(), count)?;
    for (receiver, sender) in receivers.iter().zip(&senders) {
        receiver.set_read_timeout(Some(STALL))?;
        sender.set_write_timeout(Some(STALL))?;
    }
    let start = Instant::now();
    thread::scope(|scope| {
        let running: Vec<_> = (receivers.iter().zip(&senders))
            .map(|(receiver, sender)| (scope.spawn(move || receive(receiver, bytes)), scope.spawn(move || send(sender, bytes))))
            .collect();
        for (receiving, sending) in running {
            let received = ended(receiving.join());
            let sent = ended(sending.join());
            // What the receiver saw tells more than that the sender was cut off.
            received.and(sent)?;
        }
        anyhow::Ok(())
    })?;
    Ok(Transfer { bytes: bytes * count as u64, seconds: start.elapsed().as_secs_f64() })
}

/// Makes `count` connections one by one; port 0 is one of the kernel's choice. Returns the ends that connected and, at the same places, the ends
/// that were accepted.
pub(crate) fn connect(from: &Ns, to: &Ns, server: ServerAddress, count: usize) -> anyhow::Result<(Vec<TcpStream>, Vec<TcpStream>)> {
    let address = *server.listen.ip();
    let listener = to.tcp_listener(address, server.listen.port())?;
    let target = server.service.unwrap_or(SocketAddrV4::new(address, listener.local_addr()?.port()));
    let mut ends = (Vec::new(), Vec::new());
    for _ in 0..count {
        let connected = from.tcp_connect(target)?;
        // The next one in the queue: there is no other.
        let (accepted, peer) = listener.accept().context("accept")?;
        // A masquerade on the way chooses another port.
        let ours = connected.local_addr()?;
        ensure!(peer.ip() != ours.ip() || peer.port() == ours.port(), "a connection from {peer}, which is not ours");
        ends.0.push(connected);
        ends.1.push(accepted);
    }
    Ok(ends)
}

fn send(mut stream: &TcpStream, bytes: u64) -> anyhow::Result<()> {
    let mut offset = 0;
    while offset < bytes {
        let len = block(bytes - offset);
        stream.write_all(pattern::slice(offset, len)).with_context(|| format!("send at byte {offset}"))?;
        offset += len as u64;
    }
    stream.shutdown(Shutdown::Write).context("end the stream")
}

fn receive(mut stream: &TcpStream, bytes: u64) -> anyhow::Result<()> {
    let mut buffer = vec![0; BLOCK];
    let mut offset = 0;
    loop {
        let len = stream.read(&mut buffer).with_context(|| format!("receive at byte {offset}"))?;
        if len == 0 {
            ensure!(offset == bytes, "the stream ended after {offset} of {bytes} bytes");
            return Ok(());
        }
        let expected = pattern::slice(offset, len);
        if buffer[..len] != *expected {
            let wrong = buffer.iter().zip(expected).position(|(got, want)| got != want).unwrap_or(0);
            bail!("byte {} differs from what was sent", offset + wrong as u64);
        }
        offset += len as u64;
    }
}

fn block(left: u64) -> usize {
    usize::try_from(left).map_or(BLOCK, |left| left.min(BLOCK))
}
