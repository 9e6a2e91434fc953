//! TCP, as fast as it goes, over some connections from client to server.

use super::cpu::CpuTime;
use super::poller::Poller;
use super::{Conditions, Phase, rate};
use crate::netns::Ns;
use crate::probe::ended;
use crate::probe::snmp::Snmp;
use crate::probe::tcp::{self, ServerAddress};
use anyhow::{Context as _, bail};
use nix::sys::epoll::EpollFlags;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::thread;

/// Bytes written and read at once: what `iperf3` takes.
const BLOCK: usize = 128 << 10;

/// What to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BulkLoad {
    /// Connections at the same time.
    pub flows: usize,
    /// For how long, and where. Bound to CPUs, each side is one thread; otherwise half as many as there are CPUs, with several flows each.
    pub conditions: Conditions,
}

/// What arrived, and what it took.
#[derive(Clone, Debug, PartialEq)]
pub struct BulkResult {
    /// Payload that the server's programs had read in the counted time, in bits per second.
    pub bits_per_second: f64,
    /// The same in bytes, of each flow: a flow with much less than its share was starved.
    pub flow_bytes: Vec<u64>,
    /// What the machine did in the counted time.
    pub cpu: CpuTime,
    /// Segments the client sent again in the counted time.
    pub retransmitted: u64,
    /// How many segments the server reported to have got twice (DSACK, RFC 2883): those had not been lost. Linux believes as many reports as
    /// it sent segments again. Reports fall into the counted time also when the segment was sent before, so this may be a little more than
    /// `retransmitted`.
    pub spurious: u64,
    /// Packets that reached the server's TCP before an earlier one: after a loss, or because the path changed their order.
    pub out_of_order: u64,
}

impl BulkResult {
    /// CPU time for 10⁹ bits of payload, both sides together, in seconds.
    #[must_use]
    pub fn cpu_seconds_per_gbit(&self) -> f64 {
        self.cpu.busy.as_secs_f64() / (self.bits_per_second * self.cpu.wall.as_secs_f64() / 1e9)
    }
}

/// Sends from `client` to a server at `place` in `server`.
///
/// # Errors
/// No connection, one that breaks, or none of them moves for five seconds.
pub fn run(client: &Ns, server: &Ns, place: impl Into<ServerAddress>, load: &BulkLoad) -> anyhow::Result<BulkResult> {
    let (senders, receivers) = tcp::connect(client, server, place.into(), load.flows)?;
    for stream in senders.iter().chain(&receivers) {
        stream.set_nonblocking(true)?;
    }
    let threads = match load.conditions.cpus {
        Some(_) => 1,
        None => thread::available_parallelism()?.get().div_ceil(2),
    };
    let outcome = super::run(
        &load.conditions,
        |phase| spread(&senders, threads, |flows| send(flows, phase)),
        |phase| spread(&receivers, threads, |flows| receive(flows, phase)),
        || Ok((Snmp::read(client)?, Snmp::read(server)?)),
    )?;
    // Closed with bytes unread, they reset the connections: what is left in the senders' buffers does not go on into the next run.
    drop(receivers);
    let flow_bytes: Vec<u64> = outcome.server.into_iter().flatten().collect();
    let ((client_before, server_before), (client_after, server_after)) = (outcome.before, outcome.after);
    Ok(BulkResult {
        bits_per_second: rate(flow_bytes.iter().sum::<u64>() * 8, outcome.cpu.wall),
        flow_bytes,
        cpu: outcome.cpu,
        retransmitted: client_after.since(&client_before, "Tcp.RetransSegs"),
        // Counts segments (Linux 5.10 and later), where TCPDSACKRecv counts reports, each of which may be about several.
        spurious: client_after.since(&client_before, "TcpExt.TCPDSACKRecvSegs"),
        out_of_order: server_after.since(&server_before, "TcpExt.TCPOFOQueue"),
    })
}

/// Shares the flows out to threads, and returns what each of them says, in the order of the flows.
fn spread<T: Send>(flows: &[TcpStream], threads: usize, work: impl Fn(&[TcpStream]) -> anyhow::Result<T> + Sync) -> anyhow::Result<Vec<T>> {
    let work = &work;
    thread::scope(|scope| {
        let shares = flows.chunks(flows.len().div_ceil(threads).max(1));
        let running: Vec<_> = shares.map(|share| scope.spawn(move || work(share))).collect();
        running.into_iter().map(|thread| ended(thread.join())).collect()
    })
}

/// Keeps the buffers of these connections full.
fn send(flows: &[TcpStream], phase: &Phase) -> anyhow::Result<()> {
    let block = vec![0x5a; BLOCK];
    let mut poller = poller(flows, EpollFlags::EPOLLOUT, "none of the connections takes bytes")?;
    while !phase.over() {
        for place in 0..poller.wait()? {
            let (flow, _) = poller.event(place);
            match (&flows[flow]).write(&block) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                written => drop(written.with_context(|| format!("send on connection {flow}"))?),
            }
        }
    }
    Ok(())
}

/// Reads what comes; how many bytes each of these connections brought in the counted time.
fn receive(flows: &[TcpStream], phase: &Phase) -> anyhow::Result<Vec<u64>> {
    let mut block = vec![0; BLOCK];
    let mut counts = vec![0; flows.len()];
    let mut poller = poller(flows, EpollFlags::EPOLLIN, "nothing arrives on any of the connections")?;
    while !phase.over() {
        for place in 0..poller.wait()? {
            let (flow, _) = poller.event(place);
            match (&flows[flow]).read(&mut block) {
                Ok(0) => bail!("connection {flow} was closed by the client"),
                Ok(bytes) if phase.counts() => counts[flow] += bytes as u64,
                Err(error) if error.kind() != ErrorKind::WouldBlock => {
                    return Err(error).with_context(|| format!("receive on connection {flow}"));
                }
                _ => {}
            }
        }
    }
    Ok(counts)
}

fn poller(flows: &[TcpStream], events: EpollFlags, stall: &str) -> anyhow::Result<Poller> {
    let poller = Poller::new(stall)?;
    for (flow, stream) in flows.iter().enumerate() {
        poller.add(stream, flow, events)?;
    }
    Ok(poller)
}
