//! UDP: datagrams of exact sizes, echoed, every byte compared.

use crate::netns::Ns;
use crate::probe::{ended, pattern};
use anyhow::{Context as _, ensure};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Longest UDP payload of IPv4: 65,535 - 20 (IPv4) - 8 (UDP).
pub const LONGEST: usize = 65_507;

/// How often a loop looks whether it should end.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// Answers every datagram with itself until `done`.
pub(crate) fn echo(socket: &UdpSocket, done: &AtomicBool) -> std::io::Result<()> {
    socket.set_read_timeout(Some(TICK))?;
    let mut buffer = vec![0; LONGEST];
    while !done.load(Ordering::Relaxed) {
        // A timeout, or an ICMP error of an earlier answer: neither ends the echo.
        if let Ok((len, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..len], peer);
        }
    }
    Ok(())
}

/// Sends one datagram of each size (bytes of payload) to an echo at `address` and compares what comes back.
///
/// # Errors
/// A datagram is lost three times, or comes back changed: the message tells its size.
pub fn echo_sizes(from: &Ns, source: Ipv4Addr, to: &Ns, address: Ipv4Addr, sizes: impl IntoIterator<Item = usize>) -> anyhow::Result<()> {
    let server = to.udp(address, 0)?;
    let target = SocketAddrV4::new(address, server.local_addr()?.port());
    let client = from.udp(source, 0)?;
    client.connect(target).with_context(|| format!("connect to {target}"))?;
    client.set_read_timeout(Some(Duration::from_millis(500)))?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let echo = scope.spawn(|| echo(&server, &done));
        let result = sizes.into_iter().try_for_each(|size| exchange(&client, size).with_context(|| format!("a datagram of {size} bytes")));
        done.store(true, Ordering::Relaxed);
        ended(echo.join()).context("echo")?;
        result
    })
}

/// One datagram and its echo. Sent up to three times: the first one may be what a neighbour entry waits for.
fn exchange(client: &UdpSocket, size: usize) -> anyhow::Result<()> {
    let sent = pattern::slice(size as u64 * 7, size);
    // One byte more than asked for: a longer answer is seen.
    let mut buffer = vec![0; size + 1];
    let mut last = None;
    for _ in 0..3 {
        client.send(sent).context("send")?;
        match client.recv(&mut buffer) {
            // The echo of an earlier, resent datagram: not the one waited for.
            Ok(len) if len != size && len < buffer.len() && last.is_some() => {}
            Ok(len) => {
                ensure!(len == size, "came back with {len} bytes");
                ensure!(buffer[..len] == *sent, "came back changed");
                return Ok(());
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or_else(|| anyhow::anyhow!("only other datagrams came back"), Into::into)).context("no echo")
}
