//! Request and response over kept TCP connections: one event loop as server, one as client, one request outstanding on each connection.
//!
//! Without a rate, each connection asks again as soon as it was answered (closed loop): what is measured is how many answers there are.
//! With a rate, requests become due on a schedule whatever the answers do (open loop), each is sent on the connection that has been idle for
//! longest, and its latency counts from when it was due, not from when a connection was free for it: a server that stands still for 10 ms
//! has delayed all that should have been asked meanwhile, and not only the one that was ("coordinated omission").

use super::cpu::CpuTime;
use super::poller::Poller;
use super::{Conditions, Latency, Phase, STALL, cost, rate};
use crate::netns::Ns;
use crate::probe::tcp::{self, ServerAddress};
use anyhow::{Context as _, bail, ensure};
use nix::sys::epoll::EpollFlags;
use nix::sys::time::TimeSpec;
use nix::sys::timer::Expiration;
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Bytes of a request.
const REQUEST: usize = 64;

/// Longest response, in bytes.
const LONGEST: usize = 4096;

/// Key of the timer, beside the connections' numbers.
const TIMER: usize = usize::MAX;

/// What to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLoad {
    /// Connections, each with one request outstanding at most.
    pub connections: usize,
    /// Bytes of a response: 1 to 4096.
    pub response: usize,
    /// Requests per second, all connections together; `None` is as many as are answered.
    pub rate: Option<u32>,
    /// For how long, and where.
    pub conditions: Conditions,
}

/// What was answered, and what it took.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestResult {
    /// Requests answered in the counted time, per second.
    pub per_second: f64,
    /// How long the answers took that came in the counted time.
    pub latency: Latency,
    /// What the machine did in the counted time.
    pub cpu: CpuTime,
    /// Of a given rate: how late requests were sent. Part of `latency`, and the client's doing as long as there is an idle connection.
    pub late: Latency,
    /// Of a given rate: requests that had become due and were not sent when the time was over. Many of them: the rate was too high, and the
    /// latency is that of a queue that grows.
    pub unsent: u64,
}

impl RequestResult {
    /// CPU time of a request, both sides together, in seconds.
    #[must_use]
    pub fn cpu_seconds_per_request(&self) -> f64 {
        cost(self.cpu.busy, self.latency.count())
    }
}

/// Asks from `client` a server at `place` in `server`.
///
/// # Errors
/// No connection, one that breaks, or a request without an answer for five seconds.
pub fn run(client: &Ns, server: &Ns, place: impl Into<ServerAddress>, load: &RequestLoad) -> anyhow::Result<RequestResult> {
    ensure!((1..=LONGEST).contains(&load.response), "a response of {} bytes: 1 to {LONGEST} are possible", load.response);
    let (asking, answering) = tcp::connect(client, server, place.into(), load.connections)?;
    for stream in asking.iter().chain(&answering) {
        stream.set_nonblocking(true)?;
        // A message is sent when it is written, not when the one before it was acknowledged.
        stream.set_nodelay(true)?;
    }
    let outcome = super::run(
        &load.conditions,
        |phase| Client::new(asking, load)?.ask(phase),
        |phase| answer(&answering, load.response, phase),
        || Ok(()),
    )?;
    let Asked { latency, late, unsent } = outcome.client;
    Ok(RequestResult { per_second: rate(latency.count(), outcome.cpu.wall), latency, cpu: outcome.cpu, late, unsent })
}

/// Answers every request in full.
fn answer(streams: &[TcpStream], response: usize, phase: &Phase) -> anyhow::Result<()> {
    let response = vec![0x5a; response];
    let mut buffer = [0; REQUEST];
    let mut arrived = vec![0; streams.len()];
    let mut poller = Poller::new("no request arrives")?;
    for (number, stream) in streams.iter().enumerate() {
        poller.add(stream, number, EpollFlags::EPOLLIN)?;
    }
    while !phase.gone() {
        for place in 0..poller.wait()? {
            let (number, _) = poller.event(place);
            let mut stream = &streams[number];
            match stream.read(&mut buffer[arrived[number]..]) {
                // The client is done.
                Ok(0) => return Ok(()),
                Ok(len) => arrived[number] += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).with_context(|| format!("receive on connection {number}")),
            }
            if arrived[number] == REQUEST {
                arrived[number] = 0;
                // The buffer is empty: the client has had every answer before it asks again.
                stream.write_all(&response).with_context(|| format!("answer on connection {number}"))?;
            }
        }
    }
    Ok(())
}

/// What the client says.
struct Asked {
    latency: Latency,
    late: Latency,
    unsent: u64,
}

struct Client {
    connections: Vec<Connection>,
    response: usize,
    poller: Poller,
    /// Numbers of connections, the one that has been idle for longest first.
    idle: VecDeque<usize>,
    schedule: Option<Schedule>,
    asked: Asked,
}

struct Connection {
    stream: TcpStream,
    /// When the outstanding request was due; of a closed loop, when it was sent.
    due: Instant,
    /// Bytes of the answer so far.
    arrived: usize,
}

impl Client {
    fn new(streams: Vec<TcpStream>, load: &RequestLoad) -> anyhow::Result<Self> {
        let poller = Poller::new(format!("none of {} connections is answered", streams.len()))?;
        let idle = (0..streams.len()).collect();
        let mut connections = Vec::new();
        for stream in streams {
            poller.add(&stream, connections.len(), EpollFlags::EPOLLIN)?;
            connections.push(Connection { stream, due: Instant::now(), arrived: 0 });
        }
        let schedule = load.rate.map(Schedule::new).transpose()?;
        if let Some(schedule) = &schedule {
            // Edge-triggered: it wakes once, and nobody has to read it.
            poller.add(&schedule.timer, TIMER, EpollFlags::EPOLLIN | EpollFlags::EPOLLET)?;
        }
        let asked = Asked { latency: Latency::new(), late: Latency::new(), unsent: 0 };
        Ok(Self { connections, response: load.response, poller, idle, schedule, asked })
    }

    /// Asks until the time is over, and waits for what is outstanding then.
    fn ask(mut self, phase: &Phase) -> anyhow::Result<Asked> {
        let mut over = None;
        loop {
            if over.is_none() {
                self.send_due(Instant::now(), phase)?;
                if phase.over() {
                    over = Some(Instant::now());
                    self.asked.unsent = self.schedule.as_ref().map_or(0, Schedule::overdue);
                }
            }
            if let Some(over) = over {
                if self.idle.len() == self.connections.len() {
                    return Ok(self.asked);
                }
                ensure!(over.elapsed() < STALL, "{}", self.outstanding());
            }
            for place in 0..self.poller.wait()? {
                let (number, _) = self.poller.event(place);
                if number != TIMER && self.receive(number, phase)? && over.is_none() {
                    self.send_due(Instant::now(), phase)?;
                }
            }
        }
    }

    /// Sends what is due, as far as there are idle connections, and sets the timer for what will be.
    fn send_due(&mut self, now: Instant, phase: &Phase) -> anyhow::Result<()> {
        const MESSAGE: [u8; REQUEST] = [0xa5; REQUEST];
        while let Some(&number) = self.idle.front() {
            let due = match &mut self.schedule {
                None => now,
                Some(schedule) => match schedule.take(now)? {
                    Some(due) => due,
                    None => return Ok(()),
                },
            };
            let connection = &mut self.connections[number];
            connection.due = due;
            // Nothing is outstanding there, so its buffer is empty.
            connection.stream.write_all(&MESSAGE).with_context(|| format!("ask on connection {number}"))?;
            self.idle.pop_front();
            if phase.counts() && self.schedule.is_some() {
                self.asked.late.record(now - due);
            }
        }
        Ok(())
    }

    /// Reads an answer; whether it is complete.
    fn receive(&mut self, number: usize, phase: &Phase) -> anyhow::Result<bool> {
        let mut buffer = [0; LONGEST];
        let connection = &mut self.connections[number];
        match connection.stream.read(&mut buffer) {
            Ok(0) => bail!("the server closed connection {number}"),
            Ok(len) => connection.arrived += len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error).with_context(|| format!("receive on connection {number}")),
        }
        ensure!(connection.arrived <= self.response, "connection {number} got {} bytes as an answer", connection.arrived);
        if connection.arrived < self.response {
            return Ok(false);
        }
        connection.arrived = 0;
        if phase.counts() {
            self.asked.latency.record(connection.due.elapsed());
        }
        self.idle.push_back(number);
        Ok(true)
    }

    /// Who was not answered, as a sentence.
    fn outstanding(&self) -> String {
        let waiting: Vec<_> = (0..self.connections.len()).filter(|number| !self.idle.contains(number)).collect();
        format!("no answer on connections {waiting:?} of {} within {} s", self.connections.len(), STALL.as_secs())
    }
}

/// When requests are due: evenly spaced.
struct Schedule {
    start: Instant,
    per_second: u64,
    /// How many were taken.
    taken: u64,
    timer: TimerFd,
    /// The number the timer is set for.
    awaited: Option<u64>,
}

impl Schedule {
    fn new(per_second: u32) -> anyhow::Result<Self> {
        ensure!(per_second > 0, "a rate of no requests per second");
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC).context("make a timer")?;
        Ok(Self { start: Instant::now(), per_second: per_second.into(), taken: 0, timer, awaited: None })
    }

    /// When the next request was due, if it was; otherwise sets the timer for it.
    fn take(&mut self, now: Instant) -> anyhow::Result<Option<Instant>> {
        let due = self.start + Duration::from_nanos(self.taken * 1_000_000_000 / self.per_second);
        if due <= now {
            self.taken += 1;
            return Ok(Some(due));
        }
        if self.awaited != Some(self.taken) {
            let once = Expiration::OneShot(TimeSpec::from_duration(due - now));
            self.timer.set(once, TimerSetTimeFlags::empty()).context("set a timer")?;
            self.awaited = Some(self.taken);
        }
        Ok(None)
    }

    /// How many are due and were not taken.
    fn overdue(&self) -> u64 {
        let due = self.start.elapsed().as_nanos() * u128::from(self.per_second) / 1_000_000_000;
        u64::try_from(due).unwrap_or(u64::MAX).saturating_sub(self.taken)
    }
}
