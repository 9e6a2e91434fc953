//! Connect, ask, be answered, close: again and again, some at a time, one event loop as server, one as client.
//!
//! The server closes first, as a web server does that does not keep connections. Whoever closes first keeps the pair of addresses and ports
//! in `TIME_WAIT` for a minute: so it stays with the server, where it does no harm, and the client may use its port again at once. The other
//! way round the client would run out of its 28,000 ports within seconds. A server in `TIME_WAIT` accepts the same pair again, because the new
//! connection's timestamp is newer (RFC 6191). The server's port is always the same, so that rounds reuse the same pairs and there are never
//! more of them in `TIME_WAIT`, or in a connection tracking table on the way, than the client has ports.

use super::cpu::CpuTime;
use super::poller::Poller;
use super::{Conditions, Latency, Phase, STALL, cost, rate};
use crate::netns::Ns;
use crate::probe::tcp::ServerAddress;
use anyhow::{Context as _, bail, ensure};
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, socket};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::Instant;

/// Bytes of a request, and of a response.
const MESSAGE: usize = 64;

/// The server's port, unless it is told one.
const PORT: u16 = 7080;

/// Key of the listener, beside the numbers of connections.
const LISTENER: usize = usize::MAX;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLoad {
    /// Connections at the same time: a new one is begun when one has ended.
    pub in_flight: usize,
    /// For how long, and where.
    pub conditions: Conditions,
}

/// How many there were, and what they took.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionResult {
    /// Connections that ended in the counted time, per second.
    pub per_second: f64,
    /// From the client's `connect` until it saw the server's end.
    pub latency: Latency,
    /// What the machine did in the counted time.
    pub cpu: CpuTime,
}

impl ConnectionResult {
    /// CPU time of a connection, both sides together, in seconds.
    #[must_use]
    pub fn cpu_seconds_per_connection(&self) -> f64 {
        cost(self.cpu.busy, self.latency.count())
    }
}

/// Connects from `client` to a server at `place` in `server`.
///
/// # Errors
/// The server's port is taken, a connection is refused or breaks, or none ends for five seconds.
pub fn run(client: &Ns, server: &Ns, place: impl Into<ServerAddress>, load: &ConnectionLoad) -> anyhow::Result<ConnectionResult> {
    let ServerAddress { listen, service } = place.into();
    let port = if listen.port() == 0 { PORT } else { listen.port() };
    let listener = server.tcp_listener(*listen.ip(), port)?;
    let target = service.unwrap_or(SocketAddrV4::new(*listen.ip(), port));
    let outcome = super::run(
        &load.conditions,
        // Connections are made all the time, so this side lives in its namespace.
        |phase| client.enter(|| Client::new(target, load.in_flight)?.go(phase))?,
        |phase| Server::new(listener)?.serve(phase),
        || Ok(()),
    )?;
    let latency = outcome.client;
    Ok(ConnectionResult { per_second: rate(latency.count(), outcome.cpu.wall), latency, cpu: outcome.cpu })
}

struct Server {
    listener: TcpListener,
    poller: Poller,
    /// Connections with the bytes of the request so far, at the place of their file descriptor's number.
    open: Vec<Option<(TcpStream, usize)>>,
}

impl Server {
    fn new(listener: TcpListener) -> anyhow::Result<Self> {
        listener.set_nonblocking(true)?;
        let poller = Poller::new("no connection and no request arrives")?;
        poller.add(&listener, LISTENER, EpollFlags::EPOLLIN)?;
        Ok(Self { listener, poller, open: Vec::new() })
    }

    fn serve(mut self, phase: &Phase) -> anyhow::Result<()> {
        while !phase.gone() {
            for place in 0..self.poller.wait()? {
                match self.poller.event(place) {
                    (LISTENER, _) => self.accept()?,
                    (number, _) => self.answer(number)?,
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> anyhow::Result<()> {
        loop {
            // Not set to non-blocking: it is read when there is something, and its send buffer is empty.
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("accept"),
            };
            let number = usize::try_from(stream.as_raw_fd())?;
            self.poller.add(&stream, number, EpollFlags::EPOLLIN)?;
            if self.open.len() <= number {
                self.open.resize_with(number + 1, || None);
            }
            self.open[number] = Some((stream, 0));
        }
    }

    /// Reads; answers and closes when the request is complete.
    fn answer(&mut self, number: usize) -> anyhow::Result<()> {
        let (stream, arrived) = self.open[number].as_mut().context("an event of no connection")?;
        let mut buffer = [0; MESSAGE];
        // At most the rest of the request: a byte more would be left unread, and closing would reset the connection.
        let len = stream.read(&mut buffer[*arrived..]).context("receive a request")?;
        ensure!(len > 0, "the client closed first");
        *arrived += len;
        if *arrived == MESSAGE {
            stream.write_all(&buffer).context("answer")?;
            self.open[number] = None;
        }
        Ok(())
    }
}

struct Client {
    target: SocketAddrV4,
    poller: Poller,
    attempts: Vec<Option<Attempt>>,
    latency: Latency,
}

/// A connection on its way.
struct Attempt {
    stream: TcpStream,
    start: Instant,
    asked: bool,
    /// Bytes of the response so far.
    arrived: usize,
}

impl Client {
    fn new(target: SocketAddrV4, in_flight: usize) -> anyhow::Result<Self> {
        let poller = Poller::new(format!("none of {in_flight} connections to {target} gets on"))?;
        Ok(Self { target, poller, attempts: (0..in_flight).map(|_| None).collect(), latency: Latency::new() })
    }

    /// Connects until the time is over, and finishes what is in flight then.
    fn go(mut self, phase: &Phase) -> anyhow::Result<Latency> {
        for place in 0..self.attempts.len() {
            self.attempts[place] = Some(self.begin(place)?);
        }
        let mut over = None;
        loop {
            for event in 0..self.poller.wait()? {
                let (place, _) = self.poller.event(event);
                let Some(attempt) = &mut self.attempts[place] else { bail!("an event of no connection") };
                if !attempt.get_on().with_context(|| attempt.describe())? {
                    continue;
                }
                if phase.counts() {
                    self.latency.record(attempt.start.elapsed());
                }
                // Closed before the next one begins: its port may be that one's.
                self.attempts[place] = None;
                if !phase.over() {
                    self.attempts[place] = Some(self.begin(place)?);
                }
            }
            if phase.over() {
                let Some(left) = self.attempts.iter().flatten().next() else { return Ok(self.latency) };
                let since = *over.get_or_insert_with(Instant::now);
                ensure!(since.elapsed() < STALL, "{}: not finished within {} s", left.describe(), STALL.as_secs());
            }
        }
    }

    fn begin(&self, place: usize) -> anyhow::Result<Attempt> {
        let start = Instant::now();
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None).context("make a socket")?;
        match connect(socket.as_raw_fd(), &SockaddrIn::from(self.target)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(Errno::EADDRNOTAVAIL) => bail!("connect to {}: no port is free", self.target),
            Err(error) => return Err(error).with_context(|| format!("connect to {}", self.target)),
        }
        // Edge-triggered: one registration for its whole life, and no event for being writable all the time.
        self.poller.add(&socket, place, EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET)?;
        Ok(Attempt { stream: socket.into(), start, asked: false, arrived: 0 })
    }
}

impl Attempt {
    /// Does what can be done now; whether that was all.
    fn get_on(&mut self) -> anyhow::Result<bool> {
        let mut buffer = [0; MESSAGE];
        if !self.asked {
            // The first event: it is connected, or failed, which this says.
            self.stream.write_all(&buffer).context("send the request")?;
            self.asked = true;
        }
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    ensure!(self.arrived == MESSAGE, "the server closed after {} of {MESSAGE} bytes", self.arrived);
                    return Ok(true);
                }
                Ok(len) => self.arrived += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error).context("receive the response"),
            }
        }
    }

    fn describe(&self) -> String {
        let port = self.stream.local_addr().map_or(0, |address| address.port());
        let doing = if self.asked { "waiting for the response" } else { "connecting" };
        format!("connection from port {port}, {doing} after {:?}", self.start.elapsed())
    }
}
