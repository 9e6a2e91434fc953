//! Services as kube-proxy makes them: real rules and conntrack on the client's node rewrite addresses that our programs must
//! leave to the stack, on the way there and on the way back.
//!
//! Every conversation has one try and less time than TCP's first retransmission takes: what works only at the second packet fails here.

use crate::check::{self, end};
use crate::harness::{Group, counters, note};
use crate::service_rules::{self, Proxy, Service, VIP};
use anyhow::{Context as _, ensure};
use overlay_agent::backend::Backend;
use overlay_lab::agent::ReceiveMode;
use overlay_lab::lab::{Endpoint, Lab, LabConfig};
use overlay_lab::netns::Ns;
use overlay_lab::probe::{pattern, tcp, udp};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

/// Shorter than the first retransmission of TCP (1 s, RFC 6298 section 2.1): a lost packet is a failure.
const FIRST_TRY: Duration = Duration::from_millis(900);

/// Port of every backend.
const BACKEND_PORT: u16 = 8080;

/// The client of every conversation, unless said otherwise.
pub(crate) const CLIENT: &str = "node-1-pod-1";

pub(crate) const REMOTE: Service = Service { port: 8001, backend: "node-2-pod-1" };
pub(crate) const NEXT_DOOR: Service = Service { port: 8002, backend: "node-1-pod-2" };
pub(crate) const ITSELF: Service = Service { port: 8003, backend: CLIENT };
const FOREIGN: Service = Service { port: 8004, backend: "node-3-pod-1" };

pub(crate) fn groups() -> Vec<Group> {
    ReceiveMode::RUNGS.map(|rung| group(rung, Proxy::Iptables)).into_iter().chain([group(ReceiveMode::Tc, Proxy::Nftables)]).collect()
}

/// Nodes 1 and 2 are ours, node 3 is foreign; the rules are on node 1, where the client is.
fn group(receive_mode: ReceiveMode, proxy: Proxy) -> Group {
    let config = LabConfig { receive_mode, nodes: 2, foreign: 1, pods: 2, ..LabConfig::default() };
    let talk = move |client, service, seen| Talk { proxy, client, service, seen };
    Group::new(format!("services by {}, received by {}", proxy.name(), receive_mode.name()), config)
        .case("a pod reaches a service whose backend is on another node", move |lab| talk(CLIENT, REMOTE, Seen::Client).to_service(lab))
        .case("a pod reaches a service whose backend is next door", move |lab| talk(CLIENT, NEXT_DOOR, Seen::Client).to_service(lab))
        .case("a pod reaches a service whose backend it is itself", move |lab| talk(CLIENT, ITSELF, Seen::Node).to_service(lab))
        .case("a pod reaches a service whose backend is on a foreign node", move |lab| talk(CLIENT, FOREIGN, Seen::Client).to_service(lab))
        .case("a process of the node reaches services", move |lab| {
            talk("node-1", REMOTE, Seen::Gateway).to_service(lab)?;
            talk("node-1", NEXT_DOOR, Seen::Node).to_service(lab)?;
            talk("node-1", FOREIGN, Seen::Gateway).to_service(lab)
        })
        .case("a pod reaches a node port of its own node", move |lab| {
            talk(CLIENT, REMOTE, Seen::Gateway).to_node_port(lab)?;
            talk(CLIENT, NEXT_DOOR, Seen::Node).to_node_port(lab)?;
            talk(CLIENT, ITSELF, Seen::Node).to_node_port(lab)?;
            talk(CLIENT, FOREIGN, Seen::Gateway).to_node_port(lab)
        })
        .case("a pod of another node reaches a node port", move |lab| {
            talk("node-2-pod-2", REMOTE, Seen::Gateway).to_node_port(lab)?;
            talk("node-2-pod-2", NEXT_DOOR, Seen::Node).to_node_port(lab)?;
            talk("node-2-pod-2", ITSELF, Seen::Node).to_node_port(lab)?;
            talk("node-2-pod-2", FOREIGN, Seen::Gateway).to_node_port(lab)
        })
        .case("the outside reaches a node port", move |lab| {
            talk("outside", REMOTE, Seen::Gateway).to_node_port(lab)?;
            talk("outside", NEXT_DOOR, Seen::Node).to_node_port(lab)?;
            talk("outside", FOREIGN, Seen::Gateway).to_node_port(lab)
        })
        .case("the outside reaches a local pod by a node port that keeps its address", move |lab| {
            let target = SocketAddrV4::new(lab.nodes[0].address, NEXT_DOOR.local_node_port());
            talk("outside", NEXT_DOOR, Seen::Client).converse(lab, target)
        })
        .case("services work with strict reverse-path checks", move |lab| strict(lab, proxy))
        .case("services work when the wire carries no super-packets", move |lab| {
            check::set_offloads(lab, false)?;
            talk(CLIENT, REMOTE, Seen::Client).to_service(lab)?;
            talk(CLIENT, NEXT_DOOR, Seen::Client).to_service(lab)?;
            talk("outside", REMOTE, Seen::Gateway).to_node_port(lab)?;
            check::set_offloads(lab, true)
        })
        .case("flows between the same pods that use no service take the direct way", move |lab| {
            direct(lab, CLIENT, "node-2-pod-1")?;
            direct(lab, CLIENT, "node-1-pod-2")
        })
        .case("a service answers a pod whose port the translation has to change", move |lab| same_port(lab, proxy))
        .case("no checksum was wrong", move |lab| check::no_bad_checksum(lab))
}

/// Whose address the backend sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The client's own.
    Client,
    /// The node's address on the underlay: masqueraded towards a pod of the node, whose veth has no address.
    Node,
    /// The node's address inside the overlay: masqueraded towards another node.
    Gateway,
}

/// A conversation of a client with a service, and whom the backend takes it for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Talk {
    /// Who made the rules.
    pub(crate) proxy: Proxy,
    /// Who asks.
    pub(crate) client: &'static str,
    /// Whom.
    pub(crate) service: Service,
    /// As whom.
    pub(crate) seen: Seen,
}

impl Talk {
    pub(crate) fn to_service(self, lab: &Lab) -> anyhow::Result<()> {
        self.converse(lab, SocketAddrV4::new(VIP, self.service.port))
    }

    pub(crate) fn to_node_port(self, lab: &Lab) -> anyhow::Result<()> {
        self.converse(lab, SocketAddrV4::new(lab.nodes[0].address, self.service.node_port()))
    }

    /// The client talks to the service at `target`: TCP, UDP, and UDP that is too long for one packet in each direction.
    fn converse(self, lab: &Lab, target: SocketAddrV4) -> anyhow::Result<()> {
        let Self { proxy, client, service, seen } = self;
        let node = &lab.nodes[0];
        service_rules::publish(lab, proxy, &[REMOTE, NEXT_DOOR, ITSELF, FOREIGN], BACKEND_PORT)?;
        let (from, backend) = (end(lab, client)?, end(lab, service.backend)?);
        let expected = match seen {
            Seen::Client => from.address,
            Seen::Node => node.address,
            Seen::Gateway => node.gateway(),
        };
        let conversation = || -> anyhow::Result<Duration> {
            let connected = tcp_echo(&from, target, &backend, expected).context("TCP")?;
            for (ask, answer) in [(8, 100), (8, 1300), (8, 5000), (4000, 8), (9000, 20_000)] {
                udp_exchange(from.ns, target, &backend, (ask, answer), expected)
                    .with_context(|| format!("UDP, {ask} bytes for {answer}"))?;
            }
            Ok(connected)
        };
        let what = || format!("{client} to {target}, which is {}", service.backend);
        let connected = conversation().with_context(what)?;
        if client == CLIENT && *target.ip() == VIP {
            let (proxy, rung) = (proxy.name(), node.config.receive_mode.name());
            note(format!("services by {proxy}, received by {rung}: {}: connected in {connected:.1?}", what()));
        }
        Ok(())
    }
}

/// With reverse-path checks at their strictest (`rp_filter` 1) a packet must come in where the route to its source leads.
fn strict(lab: &mut Lab, proxy: Proxy) -> anyhow::Result<()> {
    check_reverse_paths(lab, "1")?;
    for service in [REMOTE, NEXT_DOOR, ITSELF, FOREIGN] {
        let seen = if service.backend == CLIENT { Seen::Node } else { Seen::Client };
        Talk { proxy, client: CLIENT, service, seen }.to_service(lab)?;
    }
    for client in [CLIENT, "outside"] {
        Talk { proxy, client, service: REMOTE, seen: Seen::Gateway }.to_node_port(lab)?;
    }
    check_reverse_paths(lab, "2")
}

/// The larger of "all" and the device's own counts (ip-sysctl.rst).
fn check_reverse_paths(lab: &Lab, value: &str) -> anyhow::Result<()> {
    for node in &lab.nodes {
        for device in ["all", "ovl0", "eth0", "veth1", "veth2"] {
            node.ns.set_sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), value)?;
        }
    }
    Ok(())
}

/// Sends a stream there and back and compares it; how long it took to connect. `seen`: the address the backend must see.
fn tcp_echo(from: &Endpoint<'_>, target: SocketAddrV4, backend: &Endpoint<'_>, seen: Ipv4Addr) -> anyhow::Result<Duration> {
    const BYTES: usize = 1 << 18;
    let listener = backend.ns.tcp_listener(backend.address, BACKEND_PORT)?;
    let start = Instant::now();
    let mut stream = from.ns.tcp_connect(target)?;
    let connected = start.elapsed();
    ensure!(connected < FIRST_TRY, "connected only after {connected:?}");
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    thread::scope(|scope| {
        let server = scope.spawn(|| echo_one(&listener, BYTES));
        stream.write_all(pattern::slice(0, BYTES)).context("send")?;
        stream.shutdown(Shutdown::Write)?;
        let mut back = Vec::new();
        stream.read_to_end(&mut back).context("receive the echo")?;
        ensure!(back == pattern::slice(0, BYTES), "{} of {BYTES} bytes came back, or others", back.len());
        let peer = server.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        ensure!(peer == seen, "the backend saw {peer}, not {seen}");
        Ok(connected)
    })
}

/// Reads one connection to its end, sends everything back, and tells who it was from.
fn echo_one(listener: &TcpListener, bytes: usize) -> anyhow::Result<IpAddr> {
    let (mut stream, peer) = listener.accept().context("accept")?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut received = Vec::with_capacity(bytes);
    stream.read_to_end(&mut received).context("the backend's receiving")?;
    stream.write_all(&received).context("the backend's sending")?;
    Ok(peer.ip())
}

/// One datagram and its answer, each of so many bytes, each sent once.
fn udp_exchange(
    from: &Ns,
    target: SocketAddrV4,
    backend: &Endpoint<'_>,
    (ask, answer): (usize, usize),
    seen: Ipv4Addr,
) -> anyhow::Result<()> {
    let server = backend.ns.udp(backend.address, BACKEND_PORT)?;
    let client = from.udp(Ipv4Addr::UNSPECIFIED, 0)?;
    client.connect(target).with_context(|| format!("connect to {target}"))?;
    client.send(pattern::slice(0, ask)).context("send")?;
    let mut buffer = vec![0; udp::LONGEST];
    let (len, peer) = receive(&server, &mut buffer).context("the question did not arrive")?;
    ensure!(buffer[..len] == *pattern::slice(0, ask), "the question arrived changed, with {len} bytes");
    ensure!(peer.ip() == seen, "the backend saw {}, not {seen}", peer.ip());
    server.send_to(pattern::slice(1, answer), peer).context("answer")?;
    // The client's socket is connected: an answer from another address than the service's would not be received.
    let (len, _) = receive(&client, &mut buffer).context("the answer did not arrive")?;
    ensure!(buffer[..len] == *pattern::slice(1, answer), "the answer arrived changed, with {len} bytes");
    Ok(())
}

/// A pod asks one backend by two services from one port: connection tracking tells the two apart by another port than the pod's own. Both
/// by VXLAN and without.
fn same_port(lab: &mut Lab, proxy: Proxy) -> anyhow::Result<()> {
    service_rules::publish(lab, proxy, &[REMOTE, FOREIGN], BACKEND_PORT)?;
    for (backend, first_port) in [(Backend::Vxlan, 21_000), (Backend::Direct, 22_000)] {
        crate::direct::change_all(lab, backend)?;
        for (service, port) in [REMOTE, FOREIGN].into_iter().zip(first_port..) {
            let (client, server) = (end(lab, CLIENT)?, end(lab, service.backend)?);
            let ways = [SocketAddrV4::new(VIP, service.port), SocketAddrV4::new(lab.nodes[0].address, service.local_node_port())];
            let mut seen = Vec::new();
            for target in ways {
                let (asked, asking) = (server.ns.udp(server.address, BACKEND_PORT)?, client.ns.udp(client.address, port)?);
                asking.connect(target)?;
                asking.send(b"who?")?;
                let mut buffer = [0; 16];
                let (_, peer) = receive(&asked, &mut buffer).context("the question did not arrive")?;
                seen.push(peer.port());
                asked.send_to(b"you", peer)?;
                let what = || format!("{} to {target}, seen at port {}: the answer did not arrive", backend.name(), peer.port());
                receive(&asking, &mut buffer).with_context(what)?;
            }
            ensure!(seen[0] == port && seen[1] != port, "seen at {seen:?}: the translation changed nothing");
        }
    }
    crate::direct::change_all(lab, Backend::Vxlan)?;
    check_reverse_paths(lab, "2")
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> anyhow::Result<(usize, std::net::SocketAddr)> {
    socket.set_read_timeout(Some(FIRST_TRY))?;
    socket.recv_from(buffer).context("receive")
}

/// A transfer between two pods, after all they did through services, never meets the host's stack.
fn direct(lab: &Lab, one: &str, other: &str) -> anyhow::Result<()> {
    let (one, other) = (end(lab, one)?, end(lab, other)?);
    for pod in [&one, &other] {
        // Ports no earlier conversation had: those of a service's client are remembered for it.
        pod.ns.set_sysctl("net.ipv4.ip_local_port_range", "20000 20999")?;
    }
    let before = counters(lab);
    tcp::transfer(one.ns, other.ns, other.address, 4 << 20)?;
    udp::echo_sizes(one.ns, one.address, other.ns, other.address, [1, 100, 1400])?;
    let after = counters(lab);
    let grown = |name: &str| -> anyhow::Result<u64> {
        let total = |numbers: &std::collections::BTreeMap<String, u64>| {
            numbers.iter().filter(|(path, _)| path.ends_with(&format!(".flows.{name}.packets"))).map(|(_, count)| count).sum::<u64>()
        };
        total(&after).checked_sub(total(&before)).context("a counter went back")
    };
    for stack in ["pod_stack", "deliver_host", "host_encap"] {
        let packets = grown(stack)?;
        ensure!(packets == 0, "{} to {}: {packets} packets took the stack ({stack})", one.name, other.name);
    }
    let way = if one.node == other.node { "pod_local" } else { "deliver_pod" };
    ensure!(grown(way)? > 10, "{} to {}: {way} counted {}", one.name, other.name, grown(way)?);
    Ok(())
}
