//! Real links for the rows: a node's NIC and two pods, with their far ends where packets are sent and captured.
//!
//! Every namespace here is made by this process and dies with it. A far end is a raw packet socket: what is written is on the wire, what
//! arrives is what a pod would get.

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::packet::{Ipv4, Mac};
use crate::world::{A_MAC, B_POD, POD, POD2, from_pod, tunnel};

/// How long a packet may take through this kernel before it counts as lost.
const PATIENCE_MILLISECONDS: i64 = 2000;
/// MTU of all links: jumbo frames are among the rows.
const LINK_MTU: &str = "9000";

/// A network namespace, kept alive by an open file.
pub(crate) struct Namespace(File);

impl Namespace {
    /// Makes a namespace, with IPv6 off so that nobody speaks in it unasked, and enters it.
    pub(crate) fn new() -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET).context("a network namespace (this test needs root)")?;
        for interfaces in ["all", "default"] {
            // Absent when the kernel has no IPv6: silent enough.
            let _absent = std::fs::write(format!("/proc/sys/net/ipv6/conf/{interfaces}/disable_ipv6"), "1");
        }
        ip(&["link", "set", "lo", "up"])?;
        Ok(Self(File::open("/proc/thread-self/ns/net")?))
    }

    /// Moves this thread into the namespace.
    pub(crate) fn enter(&self) -> Result<()> {
        setns(&self.0, CloneFlags::CLONE_NEWNET).context("setns")
    }

    /// A name other processes reach it by.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// Runs `ip` with `words`.
pub(crate) fn ip(words: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(words).output().context("ip (package iproute2)")?;
    ensure!(output.status.success(), "ip {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// A MAC as `ip` reads it.
pub(crate) fn mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The far ends of a node's links.
pub(crate) struct FarEnds {
    /// The underlay, seen from the neighbours.
    underlay: Port,
    /// The first pod's own end.
    pod: Port,
    /// The second pod's own end.
    pod2: Port,
    /// Sentinels sent so far, to tell them apart.
    sent: u32,
}

/// Where a packet comes into the node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// From a neighbour.
    Underlay,
    /// From the first pod.
    Pod,
}

/// What came out of the node.
#[derive(Default)]
pub(crate) struct Arrived {
    /// At the neighbours'.
    pub(crate) underlay: Vec<Vec<u8>>,
    /// At the first pod.
    pub(crate) pod: Vec<Vec<u8>>,
    /// At the second pod.
    pub(crate) pod2: Vec<Vec<u8>>,
}

impl Arrived {
    /// Every frame.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.underlay.iter().chain(&self.pod).chain(&self.pod2)
    }
}

/// Makes a node's links in the namespace the thread is in: `eth0`, `pod` and `pod2` with the world's MACs and, when `ifindexes` says so,
/// the world's numbers. The far ends go to `far`, named with `prefix`.
pub(crate) fn node_links(far: &Namespace, prefix: &str, ifindexes: bool) -> Result<()> {
    let links =
        [("eth0", A_MAC, crate::world::UNDERLAY_IFINDEX), ("pod", POD.host_mac, POD.ifindex), ("pod2", POD2.host_mac, POD2.ifindex)];
    for (name, address, ifindex) in links {
        let (peer, index) = (format!("{prefix}{name}"), ifindex.to_string());
        let mut words = vec!["link", "add", "name", name];
        if ifindexes {
            words.extend(["index", &index]);
        }
        let address = mac(address);
        let path = far.path();
        words.extend(["mtu", LINK_MTU, "address", &address, "type", "veth"]);
        words.extend(["peer", "name", &peer, "mtu", LINK_MTU, "netns", &path]);
        ip(&words)?;
        ip(&["link", "set", name, "up"])?;
    }
    Ok(())
}

impl FarEnds {
    /// Length of the frame a sentinel becomes at the pod it goes to.
    pub(crate) const SENTINEL_LEN: u64 = 14 + 20 + 8 + 34;

    /// Opens the far ends of [`node_links`]. The thread must be in their namespace.
    pub(crate) fn open(prefix: &str) -> Result<Self> {
        let port = |name: &str| Port::open(&format!("{prefix}{name}"));
        Ok(Self { underlay: port("eth0")?, pod: port("pod")?, pod2: port("pod2")?, sent: 0 })
    }

    /// Sends `frame` into the node, and returns what came out of it.
    ///
    /// A sentinel follows on the same link and CPU, a good packet to a pod: once it is there, whatever was to come of `frame` has come.
    pub(crate) fn exchange(&mut self, entry: Entry, frame: &[u8]) -> Result<Arrived> {
        for port in [&self.underlay, &self.pod, &self.pod2] {
            port.drain()?;
        }
        self.sent += 1;
        let payload = format!("the row before me is done {:08}", self.sent).into_bytes();
        let (port, sentinel) = match entry {
            Entry::Underlay => (&self.underlay, tunnel(&Ipv4::udp(B_POD, POD.addr, &payload)).bytes()),
            // From a socket no row uses: what the socket of a row sends may have to take the stack after it.
            Entry::Pod => (&self.pod, from_pod(&Ipv4::udp_ports(POD.addr, POD2.addr, (40_001, 53), &payload))),
        };
        port.send(frame)?;
        port.send(&sentinel)?;
        let awaited = if entry == Entry::Pod { &self.pod2 } else { &self.pod };
        let mut before = Vec::new();
        loop {
            let Some(frame) = awaited.receive(MsgFlags::empty())? else { bail!("the good packet sent after this one never arrived") };
            if frame.ends_with(&payload) {
                break;
            }
            before.push(frame);
        }
        let underlay = self.underlay.drain()?;
        Ok(match entry {
            Entry::Underlay => Arrived { underlay, pod: before, pod2: self.pod2.drain()? },
            Entry::Pod => Arrived { underlay, pod: self.pod.drain()?, pod2: before },
        })
    }
}

/// One end of a link.
struct Port {
    socket: OwnedFd,
    addr: LinkAddr,
}

impl Port {
    fn open(name: &str) -> Result<Self> {
        ip(&["link", "set", name, "up"])?;
        let addr = nix::ifaddrs::getifaddrs()?
            .filter(|address| address.interface_name == name)
            .find_map(|address| address.address?.as_link_addr().copied())
            .with_context(|| format!("no link {name}"))?;
        let socket =
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll).context("a packet socket")?;
        bind(socket.as_raw_fd(), &addr).with_context(|| format!("binding to {name}"))?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(PATIENCE_MILLISECONDS))?;
        Ok(Self { socket, addr })
    }

    fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = sendto(self.socket.as_raw_fd(), frame, &self.addr, MsgFlags::empty()).context("sending a frame")?;
        ensure!(sent == frame.len(), "sent {sent} bytes of {}", frame.len());
        Ok(())
    }

    /// Every frame that is already there.
    fn drain(&self) -> Result<Vec<Vec<u8>>> {
        let mut frames = Vec::new();
        while let Some(frame) = self.receive(MsgFlags::MSG_DONTWAIT)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    /// The next frame; `None` when there is none in time.
    fn receive(&self, flags: MsgFlags) -> Result<Option<Vec<u8>>> {
        let mut frame = vec![0; 16_384];
        match recv(self.socket.as_raw_fd(), &mut frame, flags) {
            Ok(len) => {
                frame.truncate(len);
                Ok(Some(frame))
            }
            Err(Errno::EAGAIN) => Ok(None),
            Err(error) => Err(error).context("receiving a frame"),
        }
    }
}
