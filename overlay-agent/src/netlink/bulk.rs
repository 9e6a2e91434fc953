//! Many requests in few system calls: thousands of routes to look up or to write.
//!
//! `Netlink::exchange` sends one request, waits for its answer and hands both from task to task, some 20 µs each; most of that is not the
//! kernel's. Here one `sendmsg` carries [`AT_ONCE`] requests. The kernel works on them before that call returns, so that their answers
//! are read without waiting. Only for requests with exactly one answer each: a look-up, or a change that is acknowledged.

use super::{Failure, Message};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload as Payload};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;
use std::os::fd::AsRawFd as _;

/// Requests per system call. Their answers have to fit the receive buffer, which holds some 200 kB unless told otherwise, and a short answer
/// takes about 1 kB of it.
pub(super) const AT_ONCE: usize = 64;
/// Larger than the answer to any request sent from here, a device with all it has.
const LARGEST_ANSWER: usize = 32 << 10;

/// What to ask, and the flags beside `NLM_F_REQUEST`. With `NLM_F_ACK` for a change, without it for a look-up.
pub(super) type Request = (Message, u16);
/// The answer; `None`: the kernel did as it was told.
pub(super) type Answer = Result<Option<Message>, Failure>;

/// A request socket of its own.
#[derive(Debug)]
pub(super) struct Bulk {
    socket: Socket,
    /// Address of the socket: the kernel puts it on its notifications of what was done through it.
    pub(super) port: u32,
    /// Number of the last request.
    sequence: u32,
    /// Kept, so that it is allocated once.
    buffer: Vec<u8>,
}

impl Bulk {
    /// Opens the socket in the calling thread's namespace.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        super::prepare(&socket)?;
        let port = socket.bind_auto()?.port_number();
        Ok(Self { socket, port, sequence: 0, buffer: Vec::new() })
    }

    /// Sends at most [`AT_ONCE`] requests and returns their answers in the same order.
    pub(super) fn exchange(&mut self, requests: &[Request]) -> Vec<Answer> {
        let first = self.sequence.wrapping_add(1);
        self.write(requests);
        if self.socket.send_to(&self.buffer, &SocketAddr::new(0, 0), 0).is_err() {
            return requests.iter().map(|_| Err(Failure::Closed)).collect();
        }
        let mut answers: Vec<Option<Answer>> = requests.iter().map(|_| None).collect();
        let mut missing = requests.len();
        self.buffer.resize(LARGEST_ANSWER, 0);
        let mut lost = Failure::Overrun;
        while missing > 0 {
            let length = match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => length,
                // The second is said once when an answer did not fit the receive buffer; those that did are still to be read.
                Err(Errno::EINTR | Errno::ENOBUFS) => continue,
                // All that there is was read.
                Err(Errno::EAGAIN) => break,
                Err(_) => {
                    lost = Failure::Closed;
                    break;
                }
            };
            let Some((sequence, answer)) = self.buffer.get(..length).and_then(read) else { continue };
            // What is left of an earlier call has a number before the first.
            let index = usize::try_from(sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
            if let Some(place @ None) = answers.get_mut(index) {
                *place = Some(answer);
                missing -= 1;
            }
        }
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(lost.clone()))).collect()
    }

    /// Puts the requests into the buffer, one behind the other.
    fn write(&mut self, requests: &[Request]) {
        self.buffer.clear();
        for (message, flags) in requests {
            let mut request = NetlinkMessage::from(message.clone());
            self.sequence = self.sequence.wrapping_add(1);
            request.header.sequence_number = self.sequence;
            request.header.flags = NLM_F_REQUEST | flags;
            request.finalize();
            let (start, length) = (self.buffer.len(), request.buffer_len());
            // Messages begin at multiples of four (NLMSG_ALIGN).
            self.buffer.resize(start + length.next_multiple_of(4), 0);
            if let Some(place) = self.buffer.get_mut(start..start + length) {
                request.serialize(place);
            }
        }
    }
}

/// The number of the request and its answer. `None`: it cannot be read, or is none.
fn read(bytes: &[u8]) -> Option<(u32, Answer)> {
    let message = NetlinkMessage::<Message>::deserialize(bytes).ok()?;
    let answer = match message.payload {
        Payload::InnerMessage(answer) => Ok(Some(answer)),
        Payload::Error(status) => Failure::from_acknowledgement(&status).map_or(Ok(None), Err),
        _ => return None,
    };
    Some((message.header.sequence_number, answer))
}
