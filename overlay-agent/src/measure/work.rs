//! The work itself: a stream and requests through sockets of two pods, small frames from the generator.
//!
//! Opens sockets in the namespaces it is given and closes them; pins the thread it makes frames on to one CPU.

use super::MeasureError;
use crate::datapath::{DatapathError, Generator};
use crate::netlink::Namespace;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// How long a stream or requests go on.
const SAMPLE: Duration = Duration::from_millis(120);
/// How long a socket waits for the other side: nothing of this takes as long, unless packets are lost for good.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of one write.
const CHUNK: usize = 256 << 10;
/// Connections that ask.
const CONNECTIONS: usize = 8;
/// Bytes of a request and of a response.
const MESSAGE: usize = 64;
/// Frames of one sample: a tenth of a second or more, beside the grace period at its end.
const FRAMES: u32 = 192 * 1024;

/// A listener in one pod and connections to it from another: client and server end of each.
fn connect(client: &Namespace, server: &Namespace, address: Ipv4Addr, count: usize) -> Result<Vec<(TcpStream, TcpStream)>, MeasureError> {
    let failed = |what| move |source| MeasureError::Io { what, source };
    let listener = server.run(|| TcpListener::bind((address, 0)))?.map_err(failed("listen in a scratch pod"))?;
    let port = listener.local_addr().map_err(failed("listen in a scratch pod"))?.port();
    let to = SocketAddrV4::new(address, port).into();
    let one = || -> Result<_, MeasureError> {
        let near = client.run(|| TcpStream::connect_timeout(&to, PATIENCE))?.map_err(failed("connect two scratch pods"))?;
        let (far, _) = listener.accept().map_err(failed("connect two scratch pods"))?;
        for end in [&near, &far] {
            let set = end.set_nodelay(true).and_then(|()| end.set_read_timeout(Some(PATIENCE)));
            set.and_then(|()| end.set_write_timeout(Some(PATIENCE))).map_err(failed("set up a socket of a scratch pod"))?;
        }
        Ok((near, far))
    };
    (0..count).map(|_| one()).collect()
}

/// One TCP stream: bytes per second.
pub(super) fn stream(client: &Namespace, server: &Namespace, address: Ipv4Addr) -> Result<f64, MeasureError> {
    let failed = |source| MeasureError::Io { what: "send a stream between two scratch pods", source };
    let Some((mut near, mut far)) = connect(client, server, address, 1)?.pop() else { return Ok(0.0) };
    thread::scope(|scope| {
        let reader = scope.spawn(move || -> io::Result<(u64, Duration)> {
            let (mut buffer, mut total, begun) = (vec![0; CHUNK], 0, Instant::now());
            loop {
                match far.read(&mut buffer)? {
                    0 => return Ok((total, begun.elapsed())),
                    bytes => total += bytes as u64,
                }
            }
        });
        let (chunk, begun) = (vec![0; CHUNK], Instant::now());
        let mut sent = Ok(());
        while sent.is_ok() && begun.elapsed() < SAMPLE {
            sent = near.write_all(&chunk);
        }
        let closed = near.shutdown(Shutdown::Write);
        let (bytes, time) = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map_err(failed)?;
        sent.and(closed).map_err(failed)?;
        Ok(rate(bytes, time))
    })
}

/// Requests and responses on several connections at once: responses per second.
pub(super) fn requests(client: &Namespace, server: &Namespace, address: Ipv4Addr) -> Result<f64, MeasureError> {
    let connections = connect(client, server, address, CONNECTIONS)?;
    let begun = Instant::now();
    let answered: io::Result<u64> = thread::scope(|scope| {
        let mut clients = Vec::new();
        for (near, far) in connections {
            scope.spawn(move || answer(far));
            clients.push(scope.spawn(move || ask(near, begun)));
        }
        clients.into_iter().map(|client| client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).sum()
    });
    let answered = answered.map_err(|source| MeasureError::Io { what: "exchange requests between two scratch pods", source })?;
    Ok(rate(answered, begun.elapsed()))
}

/// Asks until the time is over; how often it was answered.
fn ask(mut socket: TcpStream, begun: Instant) -> io::Result<u64> {
    let (mut message, mut answered) = ([0; MESSAGE], 0);
    while begun.elapsed() < SAMPLE {
        socket.write_all(&message)?;
        socket.read_exact(&mut message)?;
        answered += 1;
    }
    Ok(answered)
}

/// Answers until the other end closes, which is how it ends: no error.
fn answer(mut socket: TcpStream) {
    let mut message = [0; MESSAGE];
    while socket.read_exact(&mut message).is_ok() && socket.write_all(&message).is_ok() {}
}

/// Small frames out of a device of the calling thread's namespace, all of the way on one core: packets per second at the sink.
pub(super) fn frames(generator: &mut Generator, device: &str, frames: &[impl AsRef<[u8]>]) -> Result<f64, MeasureError> {
    let failed = |source: nix::Error| MeasureError::Io { what: "send frames from a scratch node", source: source.into() };
    let ifindex = nix::net::if_::if_nametoindex(device).map_err(failed)?;
    generator.set_frames(ifindex, frames)?;
    let mut cpus = CpuSet::new();
    cpus.set(thread::available_parallelism().map_or(1, std::num::NonZero::get) - 1).map_err(failed)?;
    // Only this thread's, which ends with the work. A CPU that is not allowed to it leaves it where it is.
    let _ = sched_setaffinity(Pid::from_raw(0), &cpus);
    let before = generator.seen()?;
    let begun = Instant::now();
    generator.send(FRAMES)?;
    let time = begun.elapsed();
    Ok::<_, DatapathError>(rate(generator.seen()? - before, time)).map_err(Into::into)
}

fn rate(count: u64, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let count = count as f64;
    count / time.as_secs_f64()
}
