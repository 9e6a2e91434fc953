//! A flood of numbered datagrams to an echo, at a fixed rate, while something else happens: what was lost, where, and for how long.

use crate::netns::Ns;
use crate::probe::{ended, udp};
use anyhow::Context as _;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Bytes of a datagram: its number and padding, 100 as IP packet.
const SIZE: usize = 72;

/// A running flood.
#[derive(Debug)]
pub struct Flood {
    done: Arc<AtomicBool>,
    /// Ends the echo: after the flood's last answers.
    silent: Arc<AtomicBool>,
    sender: JoinHandle<anyhow::Result<Report>>,
    echo: JoinHandle<std::io::Result<u64>>,
}

/// What became of a flood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that reached the echo, doubles included.
    pub reached: u64,
    /// Datagrams whose echo came back, each counted once.
    pub returned: u64,
    /// Echoes that came more than once.
    pub duplicates: u64,
    /// The longest time without an echo.
    pub longest_gap: Duration,
    /// When the first echo came.
    pub first: Option<Instant>,
}

impl Report {
    /// Datagrams without an echo.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.sent - self.returned
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, reached, returned, duplicates, longest_gap, first: _ } = self;
        write!(
            f,
            "{} of {sent} lost ({} on the way there, {} on the way back), ",
            self.lost(),
            sent.saturating_sub(*reached),
            reached.saturating_sub(*returned)
        )?;
        write!(f, "{duplicates} doubled, longest gap {:.1} ms", longest_gap.as_secs_f64() * 1e3)
    }
}

impl Flood {
    /// Starts a flood of `rate` datagrams per second to `address`.
    ///
    /// # Errors
    /// A socket cannot be made.
    pub fn start(from: &Ns, source: Ipv4Addr, to: &Ns, address: Ipv4Addr, rate: u32) -> anyhow::Result<Self> {
        let server = to.udp(address, 0)?;
        let target = SocketAddrV4::new(address, server.local_addr()?.port());
        let client = from.udp(source, 0)?;
        client.connect(target).with_context(|| format!("connect to {target}"))?;
        let (done, silent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let echo = thread::spawn({
            let silent = Arc::clone(&silent);
            move || echo_counting(&server, &silent)
        });
        let sender = thread::spawn({
            let done = Arc::clone(&done);
            move || run(&client, rate, &done)
        });
        Ok(Self { done, silent, sender, echo })
    }

    /// Ends the flood, waits for the last echoes, and tells what became of it.
    ///
    /// # Errors
    /// A socket failed for another reason than the network.
    pub fn stop(self) -> anyhow::Result<Report> {
        self.done.store(true, Ordering::Relaxed);
        let report = ended(self.sender.join());
        self.silent.store(true, Ordering::Relaxed);
        let reached = ended(self.echo.join()).context("echo")?;
        Ok(Report { reached, ..report? })
    }
}

fn echo_counting(socket: &UdpSocket, silent: &AtomicBool) -> std::io::Result<u64> {
    socket.set_read_timeout(Some(udp::TICK))?;
    let (mut buffer, mut count) = ([0; SIZE], 0);
    while !silent.load(Ordering::Relaxed) {
        if let Ok((len, peer)) = socket.recv_from(&mut buffer) {
            count += 1;
            // Refused while the network is away: counted as lost on the way back.
            let _ = socket.send_to(&buffer[..len], peer);
        }
    }
    Ok(count)
}

/// Sends until `done`, then listens half a second longer.
fn run(client: &UdpSocket, rate: u32, done: &AtomicBool) -> anyhow::Result<Report> {
    let sent = AtomicU64::new(0);
    let deaf = AtomicBool::new(false);
    thread::scope(|scope| {
        let listening = scope.spawn(|| listen(client, &sent, &deaf));
        let (mut due, interval) = (Instant::now(), Duration::from_secs(1) / rate);
        while !done.load(Ordering::Relaxed) {
            let number = sent.fetch_add(1, Ordering::Relaxed);
            let mut datagram = [0; SIZE];
            datagram[..8].copy_from_slice(&number.to_be_bytes());
            // An unreachable network is a lost datagram, not the end of the flood.
            let _ = client.send(&datagram);
            // By the clock and not by a pause after each: a late wake-up is made up for.
            due += interval;
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        thread::sleep(Duration::from_millis(500));
        deaf.store(true, Ordering::Relaxed);
        ended(listening.join())
    })
}

fn listen(client: &UdpSocket, sent: &AtomicU64, deaf: &AtomicBool) -> anyhow::Result<Report> {
    client.set_read_timeout(Some(udp::TICK))?;
    let (mut report, mut seen, mut last) = (Report::default(), Vec::new(), Instant::now());
    let mut buffer = [0; SIZE];
    while !deaf.load(Ordering::Relaxed) {
        let Ok(SIZE) = client.recv(&mut buffer) else { continue };
        let number = usize::try_from(u64::from_be_bytes(buffer[..8].try_into().expect("eight bytes")))?;
        if number >= seen.len() {
            seen.resize(number + 1, false);
        }
        if std::mem::replace(&mut seen[number], true) {
            report.duplicates += 1;
        } else {
            report.returned += 1;
        }
        report.longest_gap = report.longest_gap.max(last.elapsed());
        last = Instant::now();
        report.first.get_or_insert(last);
    }
    report.sent = sent.load(Ordering::Relaxed);
    Ok(report)
}
