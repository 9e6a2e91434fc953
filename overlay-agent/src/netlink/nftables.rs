//! nftables as the kernel tells of it: which chains judge forwarded packets, which state the rules are in, and when that changed.
//!
//! Reads and listens, never writes: rules are written by `firewall`, through `nft`. The messages are few and small enough to be read here
//! by hand; no crate of the netlink family has them. The calling thread's network namespace is the one that is looked at.

use super::error::Naming;
use super::{ANSWER_TIMEOUT, DUMP_ATTEMPTS, Error, Failure};
use crate::model::FIREWALL_TABLE;
use rtnetlink::packet_core::{NLA_TYPE_MASK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NlasIterator};
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt as _, Socket, TokioSocket, protocols::NETLINK_NETFILTER};
use std::collections::HashSet;
use std::{fmt, io, mem};
use tokio::time::timeout;

/// The multicast group of changes to rules (`NFNLGRP_NFTABLES`, linux/netfilter/nfnetlink.h).
const GROUP_NFTABLES: u32 = 7;
/// The subsystem in the upper byte of a message's type (`NFNL_SUBSYS_NFTABLES`).
const SUBSYSTEM: u16 = 10;
/// Receive buffer asked for: kube-proxy's rules for thousands of Services are written in one transaction.
const RECEIVE_BUFFER: usize = 4 << 20;
/// `struct nlmsghdr`, and with it `struct nfgenmsg`.
const HEADERS: (usize, usize) = (16, 20);
/// `NLMSG_ERROR` and `NLMSG_DONE` (linux/netlink.h).
const ENDINGS: (u16, u16) = (2, 3);

/// Message types (`enum nf_tables_msg_types` of `linux/netfilter/nf_tables.h`).
mod kind {
    pub(super) const NEW_CHAIN: u8 = 3;
    pub(super) const GET_CHAIN: u8 = 4;
    pub(super) const DELETE_CHAIN: u8 = 5;
    pub(super) const NEW_RULE: u8 = 6;
    pub(super) const DELETE_RULE: u8 = 8;
    /// Ends every transaction's notifications.
    pub(super) const NEW_GENERATION: u8 = 15;
    pub(super) const GET_GENERATION: u8 = 16;
}

/// Attributes of those messages. The table's name is the first of everything that is in a table.
mod attribute {
    pub(super) const GENERATION: u16 = 1;
    pub(super) const TABLE: u16 = 1;
    pub(super) const RULE_CHAIN: u16 = 2;
    pub(super) const CHAIN_NAME: u16 = 3;
    pub(super) const CHAIN_HOOK: u16 = 4;
    pub(super) const CHAIN_POLICY: u16 = 5;
    pub(super) const HOOK_NUMBER: u16 = 1;
}

/// Families and a hook of netfilter (linux/netfilter.h).
const INET: u8 = 1;
const IPV4: u8 = 2;
const FORWARD: u32 = 2;
const DROP: u32 = 0;

/// A chain, by what it is in and its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChainName {
    /// `ip` or `inet`.
    pub family: &'static str,
    /// The table's name.
    pub table: String,
    /// Its own.
    pub chain: String,
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.family, self.table, self.chain)
    }
}

/// A chain that judges forwarded IPv4 packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardChain {
    /// Its name.
    pub name: ChainName,
    /// Its policy is to drop what no rule of it decides.
    pub drops: bool,
}

/// A number that is another one after every change to the rules of this network namespace.
///
/// # Errors
/// [`Error::Request`], in a kernel without nftables too.
pub async fn generation() -> Result<u32, Error> {
    let mut generation = None;
    let answer = ask(kind::GET_GENERATION, 0, |message| {
        generation = generation.or(number(find(message.attributes, attribute::GENERATION)));
    });
    let complete = answer.await.and_then(|_| generation.ok_or(Failure::Incomplete("generation")));
    complete.naming(|| "read the generation of the nftables rules".to_owned())
}

/// Every chain that judges forwarded IPv4 packets, of whatever table. What legacy iptables has is not among them.
///
/// # Errors
/// [`Error::Request`].
pub async fn forward_chains() -> Result<Vec<ForwardChain>, Error> {
    for _ in 0..DUMP_ATTEMPTS {
        let mut chains = Vec::new();
        let answer = ask(kind::GET_CHAIN, NLM_F_DUMP, |message| chains.extend(message.forward_chain())).await;
        if answer.naming(|| "list the nftables chains".to_owned())? {
            return Ok(chains);
        }
    }
    Err(Failure::Unsteady).naming(|| "list the nftables chains".to_owned())
}

/// Whether our table is there, with a chain in it.
///
/// # Errors
/// [`Error::Request`].
pub async fn has_our_table() -> Result<bool, Error> {
    let mut found = false;
    ask(kind::GET_CHAIN, NLM_F_DUMP, |message| found |= message.is_in_our_table())
        .await
        .naming(|| "list the nftables chains".to_owned())?;
    Ok(found)
}

/// Sends a request without attributes and hands each part of the answer on; `false`: it was marked as inconsistent.
async fn ask(kind: u8, flags: u16, mut part: impl FnMut(&Message<'_>)) -> Result<bool, Failure> {
    let broken = |_: io::Error| Failure::Closed;
    let socket = <TokioSocket as AsyncSocket>::new(NETLINK_NETFILTER).map_err(broken)?;
    let mut request = Vec::with_capacity(HEADERS.1);
    request.extend(u32::try_from(HEADERS.1).unwrap_or_default().to_ne_bytes());
    request.extend((SUBSYSTEM << 8 | u16::from(kind)).to_ne_bytes());
    request.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    // Sequence number, port; then family (any), version and resource.
    request.extend([0; 12]);
    socket.socket_ref().send(&request, 0).map_err(broken)?;
    let mut consistent = true;
    loop {
        let (datagram, _) = timeout(ANSWER_TIMEOUT, socket.recv_from_full()).await.map_err(|_| Failure::Timeout)?.map_err(broken)?;
        for message in Messages(&datagram) {
            consistent &= message.flags & NLM_F_DUMP_INTR == 0;
            match message.ending() {
                Some(0) => return Ok(consistent),
                Some(code) => return Err(Failure::from_code(code, &[])),
                None => part(&message),
            }
            if flags & NLM_F_DUMP == 0 {
                return Ok(consistent);
            }
        }
    }
}

/// The messages of one datagram.
struct Messages<'a>(&'a [u8]);

/// One message.
struct Message<'a> {
    kind: u16,
    flags: u16,
    family: u8,
    /// All behind `struct nlmsghdr`.
    body: &'a [u8],
    attributes: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let header = self.0.get(..HEADERS.0)?;
        let length = usize::try_from(u32::from_ne_bytes(*header.first_chunk()?)).ok()?;
        let message = self.0.get(..length).filter(|_| length >= HEADERS.0)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        let body = &message[HEADERS.0..];
        Some(Message {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            family: body.first().copied().unwrap_or_default(),
            body,
            attributes: message.get(HEADERS.1..).unwrap_or_default(),
        })
    }
}

impl Message<'_> {
    /// The code of an acknowledgement, an error or the end of a table: 0 or a negative error number.
    fn ending(&self) -> Option<i32> {
        let ends = self.kind == ENDINGS.0 || self.kind == ENDINGS.1;
        ends.then(|| self.body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code)))
    }

    /// The kind, if it is a message of nftables.
    fn of_nftables(&self) -> Option<u8> {
        let [kind, subsystem] = self.kind.to_le_bytes();
        (u16::from(subsystem) == SUBSYSTEM).then_some(kind)
    }

    /// The chain named by the message's table and by the attribute; `None`: none, or of a family without IPv4.
    fn chain(&self, name: u16) -> Option<ChainName> {
        let family = match self.family {
            INET => "inet",
            IPV4 => "ip",
            _ => return None,
        };
        let table = text(find(self.attributes, attribute::TABLE))?;
        Some(ChainName { family, table, chain: text(find(self.attributes, name))? })
    }

    fn forward_chain(&self) -> Option<ForwardChain> {
        let hook = find(self.attributes, attribute::CHAIN_HOOK)?;
        (number(find(hook, attribute::HOOK_NUMBER)) == Some(FORWARD)).then_some(())?;
        let drops = number(find(self.attributes, attribute::CHAIN_POLICY)) == Some(DROP);
        Some(ForwardChain { name: self.chain(attribute::CHAIN_NAME)?, drops })
    }

    fn is_in_our_table(&self) -> bool {
        self.family == IPV4 && text(find(self.attributes, attribute::TABLE)).is_some_and(|table| table == FIREWALL_TABLE)
    }
}

/// The value of the first attribute of that kind.
fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let mut all = NlasIterator::new(attributes).map_while(Result::ok);
    all.find(|attribute| attribute.kind() & NLA_TYPE_MASK == kind).map(|attribute| {
        let start = attribute.value().as_ptr() as usize - attributes.as_ptr() as usize;
        attributes.get(start..start + attribute.value_length()).unwrap_or_default()
    })
}

/// Numbers are in network order here.
fn number(value: Option<&[u8]>) -> Option<u32> {
    Some(u32::from_be_bytes(*value?.first_chunk()?))
}

fn text(value: Option<&[u8]>) -> Option<String> {
    let value = value?;
    Some(String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned())
}

/// The changes to what the agent depends on: its own table, and the chains that judge forwarded packets.
///
/// kube-proxy writes its rules anew whenever a pod comes or goes; that wakes nobody.
pub(super) struct Changes {
    socket: TokioSocket,
    watch: Watch,
    /// Notifications were lost, and the chains have not been read anew since.
    lost: bool,
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").field("watch", &self.watch).finish_non_exhaustive()
    }
}

impl Changes {
    /// Subscribes in the calling thread's network namespace.
    pub(super) async fn subscribe() -> Result<Self, Error> {
        let open = || -> io::Result<TokioSocket> {
            let mut socket = <TokioSocket as AsyncSocket>::new(NETLINK_NETFILTER)?;
            let inner: &mut Socket = socket.socket_mut();
            inner.bind_auto()?;
            inner.add_membership(GROUP_NFTABLES)?;
            inner.set_rx_buf_sz(RECEIVE_BUFFER)?;
            Ok(socket)
        };
        let socket = open().map_err(Error::Socket)?;
        // Subscribed before the chains are read: one that is made in between is heard of.
        Ok(Self { socket, watch: Watch::new(&forward_chains().await?), lost: false })
    }

    /// What the next transaction that matters has changed. Safe to cancel: nothing is lost.
    ///
    /// Fails with [`Error::Socket`] when a new subscription is needed, and with [`Error::Request`] when notifications were lost and the
    /// chains cannot be read; calling again tries again.
    pub(super) async fn next(&mut self) -> Result<String, Error> {
        loop {
            if self.lost {
                self.watch = Watch::new(&forward_chains().await?);
                self.lost = false;
                return Ok("notifications of nftables were lost".to_owned());
            }
            match self.socket.recv_from_full().await {
                Ok((datagram, _)) => {
                    let done: Vec<String> = Messages(&datagram).filter_map(|message| self.watch.note(&message)).collect();
                    if !done.is_empty() {
                        return Ok(done.join("; "));
                    }
                }
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => self.lost = true,
                Err(error) => return Err(Error::Socket(error)),
            }
        }
    }
}

/// What is watched, and what the transaction that is being told of has changed so far.
#[derive(Debug, Default)]
struct Watch {
    forward: HashSet<ChainName>,
    changed: Vec<String>,
}

impl Watch {
    fn new(chains: &[ForwardChain]) -> Self {
        Self { forward: chains.iter().map(|chain| chain.name.clone()).collect(), changed: Vec::new() }
    }

    /// Takes note of a notification; `Some` at the end of a transaction that changed something watched.
    fn note(&mut self, message: &Message<'_>) -> Option<String> {
        let kind = message.of_nftables()?;
        let chain = match kind {
            kind::NEW_GENERATION => {
                let mut changed = mem::take(&mut self.changed);
                changed.dedup();
                return (!changed.is_empty()).then(|| format!("nftables: {} changed", changed.join(", ")));
            }
            _ if message.is_in_our_table() => {
                self.changed.push(format!("table ip {FIREWALL_TABLE}"));
                return None;
            }
            // With its hook at first; a change of its policy comes as the same message.
            kind::NEW_CHAIN => {
                let name = message.forward_chain().map(|chain| chain.name);
                self.forward.extend(name.clone());
                name
            }
            kind::DELETE_CHAIN => message.chain(attribute::CHAIN_NAME).filter(|name| self.forward.remove(name)),
            kind::NEW_RULE | kind::DELETE_RULE => message.chain(attribute::RULE_CHAIN).filter(|name| self.forward.contains(name)),
            _ => None,
        };
        self.changed.extend(chain.map(|name| format!("chain {name}")));
        None
    }
}
