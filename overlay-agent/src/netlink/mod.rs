//! The host's network configuration: devices, routes, neighbours, addresses, and how the kernel would reach a node.
//!
//! The only module that imports rtnetlink. It reads and writes one network namespace, the one a [`Netlink`] was connected in, and what
//! netlink does not reach: [`sysctl`], [`ethtool`] and [`steering`]. It keeps no state and takes no decision: what should exist is said by `desired`, and this module never removes
//! an object that is not recognisably ours (by protocol number, by name and type).
//!
//! Messages are built with rtnetlink's builders where it has them, but sent by `Netlink::exchange`: rtnetlink's own `execute` takes a
//! connection that broke before the answer for success, and drops the kernel's explanation of an error.

mod bulk;
mod cable;
mod error;
pub mod ethtool;
mod events;
mod link;
mod namespace;
mod neighbour;
pub mod nftables;
mod overlay;
mod route;
pub mod steering;
pub mod sysctl;
mod underlay;
mod veth;
mod veth_check;

pub use cable::{Cable, CableEnd};
pub use error::{Error, Failure};
pub use events::{Event, Events};
pub use link::{Address, Link};
pub use namespace::Namespace;
pub use neighbour::Neighbour;
pub use route::{OwnRoutes, Strays};
pub use veth::{POD_GATEWAY, POD_GSO_MAX_SIZE, PodVeth};

use bulk::{Answer, Bulk, Request};
use futures::StreamExt;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload as Payload};
use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::proto::{Connection, ConnectionHandle};
use rtnetlink::sys::{AsyncSocket, Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::timeout;

/// How long to wait for the next message of an answer. The kernel answers while the request is being sent, so this is reached only
/// when an answer was lost or could not be decoded; without it such a loss would be waited for without end.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a table is read again when it changed while being read (`NLM_F_DUMP_INTR`).
const DUMP_ATTEMPTS: usize = 5;

/// A connection to the kernel's network configuration of one network namespace.
///
/// Clones share the sockets: one for conversations, one for requests by the thousand. The task that drives the first ends when the last clone is dropped. Every method fails with
/// [`Error::Request`] naming the object; further errors are named where they can occur.
#[derive(Clone, Debug)]
pub struct Netlink {
    requests: ConnectionHandle<Message>,
    bulk: Arc<Mutex<Bulk>>,
    /// Addresses of both sockets, see [`Netlink::is_own`].
    ports: [u32; 2],
}

impl Netlink {
    /// Connects to the network namespace of the calling thread, and spawns the task that drives the socket.
    ///
    /// Fails with [`Error::Socket`].
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    pub fn connect() -> Result<Self, Error> {
        let (netlink, connection) = open().map_err(Error::Socket)?;
        tokio::spawn(connection);
        Ok(netlink)
    }

    /// Connects to another network namespace; the calling thread stays in its own.
    ///
    /// Fails with [`Error::Socket`], or [`Error::Namespace`] when it cannot be entered.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled.
    pub fn connect_in(namespace: &Namespace) -> Result<Self, Error> {
        let runtime = tokio::runtime::Handle::current();
        // A socket belongs for ever to the namespace of the thread that opened it: only the opening has to happen over there.
        let (netlink, connection) = namespace
            .run(|| {
                let _registered = runtime.enter();
                open()
            })?
            .map_err(Error::Socket)?;
        tokio::spawn(connection);
        Ok(netlink)
    }

    /// Sends one request and collects its answer up to and including the acknowledgement.
    async fn exchange(&self, message: Message, flags: u16) -> Result<Vec<Message>, Failure> {
        let mut answer = Vec::new();
        self.converse(message, NLM_F_ACK | flags, |part| answer.push(part)).await?;
        Ok(answer)
    }

    /// Sends many requests with one answer each, and returns the answers in the same order: see [`bulk`].
    async fn exchange_many(&self, requests: &[Request]) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(requests.len());
        for some in requests.chunks(bulk::AT_ONCE) {
            answers.extend(self.bulk.lock().unwrap_or_else(PoisonError::into_inner).exchange(some));
            // Thousands of them take a while, and the agent has one thread.
            tokio::task::yield_now().await;
        }
        answers
    }

    /// Whether a notification with this port number tells of something done through this connection.
    fn is_own(&self, port: u32) -> bool {
        self.ports.contains(&port)
    }

    /// Reads a whole table through `pick`, again from the start when it changed meanwhile.
    async fn dump<T>(&self, message: Message, mut pick: impl FnMut(Message) -> Option<T>) -> Result<Vec<T>, Failure> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut found = Vec::new();
            if self.converse(message.clone(), NLM_F_DUMP, |part| found.extend(pick(part))).await? {
                return Ok(found);
            }
        }
        Err(Failure::Unsteady)
    }

    /// One request and all parts of its answer; `false` when the kernel marked the answer as inconsistent.
    async fn converse(&self, message: Message, flags: u16, mut part: impl FnMut(Message)) -> Result<bool, Failure> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        let mut answers = self.requests.request(request, SocketAddr::new(0, 0)).map_err(|_| Failure::Closed)?;
        let mut consistent = true;
        while let Some(answer) = timeout(ANSWER_TIMEOUT, answers.next()).await.map_err(|_| Failure::Timeout)? {
            consistent &= answer.header.flags & NLM_F_DUMP_INTR == 0;
            match answer.payload {
                Payload::InnerMessage(message) => part(message),
                Payload::Error(status) => return Failure::from_acknowledgement(&status).map_or(Ok(consistent), Err),
                Payload::Done(status) if status.code < 0 => return Err(Failure::from_code(status.code, &status.extended_ack)),
                Payload::Done(_) => return Ok(consistent),
                Payload::Overrun(_) => return Err(Failure::Overrun),
                _ => {}
            }
        }
        // The stream ended without the acknowledgement that `open` asks to be forwarded.
        Err(Failure::Closed)
    }
}

/// Opens the request sockets in the calling thread's namespace.
fn open() -> io::Result<(Netlink, Connection<Message>)> {
    let (mut connection, requests, _unsolicited) = rtnetlink::proto::new_connection::<Message>(NETLINK_ROUTE)?;
    connection.set_forward_ack(true);
    connection.set_forward_done(true);
    let socket = connection.socket_mut().socket_mut();
    prepare(socket)?;
    let port = socket.bind_auto()?.port_number();
    let bulk = Bulk::open()?;
    let ports = [port, bulk.port];
    Ok((Netlink { requests, bulk: Arc::new(Mutex::new(bulk)), ports }, connection))
}

/// Sets what every request socket needs.
fn prepare(socket: &Socket) -> io::Result<()> {
    // The kernel filters dumps by table and protocol only in strict mode: a node may carry a full Internet table.
    socket.set_netlink_get_strict_chk(true)?;
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)
}
