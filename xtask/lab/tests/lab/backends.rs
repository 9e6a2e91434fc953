//! Services with several backends: every one is reached, a client keeps its own where it is promised to, and node ports that keep addresses
//! lead to pods of the node only.
//!
//! Every conversation has one try and less time than TCP's first retransmission takes.

use crate::check::end;
use crate::harness::{Group, note};
use crate::service_rules::{self, Proxy, VIP};
use crate::services::REMOTE;
use anyhow::{Context as _, bail, ensure};
use overlay_agent::backend::Backend;
use overlay_lab::agent::ReceiveMode;
use overlay_lab::lab::{Lab, LabConfig};
use overlay_lab::netns::Ns;
use overlay_lab::rules::{NodePort, Protocol, Service};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Shorter than the first retransmission of TCP (1 s, RFC 6298 section 2.1): a lost packet is a failure.
const FIRST_TRY: Duration = Duration::from_millis(900);

/// The client of every conversation, unless said otherwise.
const CLIENT: &str = "node-1-pod-1";

/// Every kind there is: another node's, a foreign node's, next door, the client itself.
const BACKENDS: [&str; 4] = ["node-2-pod-1", "node-3-pod-1", "node-1-pod-2", CLIENT];

/// Those on the node that has the rules.
const LOCAL: [&str; 2] = ["node-1-pod-2", CLIENT];

/// Port of every backend.
const BACKEND_PORT: u16 = 8080;

/// Port of the service at [`VIP`], and at the node without and with regard to where backends are.
const PORT: u16 = 8010;
const CLUSTER_PORT: u16 = 31_010;
const LOCAL_PORT: u16 = 31_011;

/// As [`PORT`], of the service whose clients keep their backend: a port of its own, as connection tracking remembers for minutes where a
/// client's port was led to before.
const AFFINE_PORT: u16 = 8020;

/// Conversations of one protocol. That one of four backends is in none of them has a chance of four in a hundred million.
const TRIES: usize = 64;

pub(crate) fn groups() -> Vec<Group> {
    let groups = ReceiveMode::RUNGS.map(|rung| group(rung, Proxy::Iptables));
    groups.into_iter().chain([group(ReceiveMode::Tc, Proxy::Nftables)]).collect()
}

/// Nodes 1 and 2 are ours, node 3 is foreign; the rules are on node 1.
fn group(receive_mode: ReceiveMode, proxy: Proxy) -> Group {
    let config = LabConfig { receive_mode, nodes: 2, foreign: 1, pods: 2, ..LabConfig::default() };
    Group::new(format!("backends by {}, received by {}", proxy.name(), receive_mode.name()), config)
        .case("a pod reaches every backend of a service", move |lab| {
            publish(lab, proxy, false)?;
            let own = end(lab, CLIENT)?.address;
            all_of(lab, CLIENT, SocketAddrV4::new(VIP, PORT), &BACKENDS, |backend| [if backend == CLIENT { node(lab) } else { own }].into())
        })
        .case("a process of the node reaches every backend of a service", move |lab| {
            publish(lab, proxy, false)?;
            let (node, gateway) = (node(lab), lab.nodes[0].gateway());
            all_of(lab, "node-1", SocketAddrV4::new(VIP, PORT), &BACKENDS, |_| [node, gateway].into())
        })
        .case("the outside and a pod elsewhere reach every backend by a node port", move |lab| {
            publish(lab, proxy, false)?;
            let (node, gateway) = (node(lab), lab.nodes[0].gateway());
            for client in ["outside", "node-2-pod-2"] {
                all_of(lab, client, SocketAddrV4::new(node, CLUSTER_PORT), &BACKENDS, |_| [node, gateway].into())?;
            }
            Ok(())
        })
        .case("a node port that keeps addresses leads the outside to pods of the node only, with its address", move |lab| {
            publish(lab, proxy, false)?;
            let outside = lab.outside().address;
            all_of(lab, "outside", SocketAddrV4::new(node(lab), LOCAL_PORT), &LOCAL, |_| [outside].into())
        })
        .case("and a pod of another node, with that node's address", move |lab| {
            publish(lab, proxy, false)?;
            let other = lab.nodes[1].address;
            all_of(lab, "node-2-pod-2", SocketAddrV4::new(node(lab), LOCAL_PORT), &LOCAL, |_| [other].into())
        })
        .case("and a pod of the same node to every backend, with its own address", move |lab| {
            publish(lab, proxy, false)?;
            let own = end(lab, CLIENT)?.address;
            let target = SocketAddrV4::new(node(lab), LOCAL_PORT);
            all_of(lab, CLIENT, target, &BACKENDS, |backend| [if backend == CLIENT { node(lab) } else { own }].into())
        })
        .case("a client keeps its backend where the service promises so", move |lab| affinity(lab, proxy))
        .case("the same where nodes send each other packets as they are", move |lab| without_tunnel(lab, proxy))
        .case("what is masqueraded loses one packet when the way to its backend changes, and goes on", move |lab| masqueraded(lab, proxy))
}

/// Strict about reverse paths, as every group about that is. From ports no earlier conversation had: what a node masquerades is forgotten when
/// its way out changes (`net/netfilter/nf_nat_core.c`, `nf_nat_oif_changed`), and the packet that meets this is lost.
fn without_tunnel(lab: &mut Lab, proxy: Proxy) -> anyhow::Result<()> {
    for client in [CLIENT, "node-1", "outside", "node-2-pod-2"] {
        end(lab, client)?.ns.set_sysctl("net.ipv4.ip_local_port_range", "20000 29999")?;
    }
    crate::direct::change_all(lab, Backend::Direct)?;
    publish(lab, proxy, false)?;
    let own = end(lab, CLIENT)?.address;
    all_of(lab, CLIENT, SocketAddrV4::new(VIP, PORT), &BACKENDS, |backend| [if backend == CLIENT { node(lab) } else { own }].into())?;
    let (node, gateway) = (node(lab), lab.nodes[0].gateway());
    all_of(lab, "node-1", SocketAddrV4::new(VIP, PORT), &BACKENDS, |_| [node, gateway].into())?;
    for client in ["outside", "node-2-pod-2"] {
        all_of(lab, client, SocketAddrV4::new(node, CLUSTER_PORT), &BACKENDS, |_| [node, gateway].into())?;
    }
    crate::direct::change_all(lab, Backend::Vxlan)
}

/// A conversation from outside with another node's pod, by a node port: its entry in connection tracking names the device it leaves by.
fn masqueraded(lab: &mut Lab, proxy: Proxy) -> anyhow::Result<()> {
    const BACKEND: &str = "node-2-pod-1";
    service_rules::publish(lab, proxy, &[REMOTE], BACKEND_PORT)?;
    let socket = lab.outside().ns.udp(Ipv4Addr::UNSPECIFIED, 0)?;
    socket.connect(SocketAddrV4::new(node(lab), REMOTE.node_port()))?;
    socket.set_read_timeout(Some(FIRST_TRY))?;
    let lost_until_answered = |lab: &Lab| -> anyhow::Result<usize> {
        let asked = || (0..3).position(|_| socket.send(b"who?").is_ok() && socket.recv(&mut [0; 100]).is_ok());
        serving(lab, || asked().context("no answer to three questions"))
    };
    ensure!(lost_until_answered(lab)? == 0, "the first packet was lost");
    for backend in [Backend::Direct, Backend::Vxlan] {
        crate::direct::change_all(lab, backend)?;
        let lost = lost_until_answered(lab)?;
        note(format!("backends by {}, to {}: a masqueraded flow from outside to {BACKEND} lost {lost}", proxy.name(), backend.name()));
        ensure!(lost <= 1, "{lost} packets were lost");
    }
    Ok(())
}

fn node(lab: &Lab) -> Ipv4Addr {
    lab.nodes[0].address
}

/// One service of each policy, over TCP and UDP, with all backends.
fn publish(lab: &Lab, proxy: Proxy, affinity: bool) -> anyhow::Result<()> {
    let backends: Vec<_> =
        BACKENDS.iter().map(|name| Ok(SocketAddrV4::new(end(lab, name)?.address, BACKEND_PORT))).collect::<anyhow::Result<_>>()?;
    let mut services = Vec::new();
    let port = if affinity { AFFINE_PORT } else { PORT };
    for (port, node_port) in [(port, NodePort::Cluster(CLUSTER_PORT)), (port + 1, NodePort::Local(LOCAL_PORT))] {
        for (protocol, name) in [(Protocol::Tcp, "tcp"), (Protocol::Udp, "udp")] {
            services.push(Service {
                name: format!("lab/backends-{port}:{name}"),
                protocol,
                address: SocketAddrV4::new(VIP, port),
                backends: backends.clone(),
                node_port: Some(node_port),
                affinity,
            });
        }
    }
    proxy.write(&lab.nodes[0], services)
}

/// The client reaches all of these backends and no other; each sees it as one of the addresses that `seen` allows for that backend.
fn all_of(lab: &Lab, client: &str, target: SocketAddrV4, backends: &[&str], seen: impl Fn(&str) -> Vec<Ipv4Addr>) -> anyhow::Result<()> {
    let from = end(lab, client)?;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let (answers, slowest) = serving(lab, || ask(from.ns, target, protocol, TRIES))?;
        let mut counts = BTreeMap::new();
        for (backend, peer) in &answers {
            ensure!(seen(backend).contains(peer), "{backend} saw {client} as {peer} by {protocol:?} to {target}");
            *counts.entry(backend.as_str()).or_insert(0) += 1;
        }
        let reached: BTreeSet<&str> = counts.keys().copied().collect();
        ensure!(reached == backends.iter().copied().collect(), "{client} to {target} by {protocol:?} reached {counts:?}");
        if client == CLIENT && *target.ip() == VIP {
            note(format!("{client} to {TRIES} times {target} by {protocol:?}: {counts:?}, the slowest took {slowest:.1?}"));
        }
    }
    Ok(())
}

fn affinity(lab: &mut Lab, proxy: Proxy) -> anyhow::Result<()> {
    publish(lab, proxy, true)?;
    let target = SocketAddrV4::new(VIP, AFFINE_PORT);
    for client in [CLIENT, "node-1-pod-2", "node-1"] {
        let from = end(lab, client)?;
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let (answers, _) = serving(lab, || ask(from.ns, target, protocol, TRIES))?;
            let reached: BTreeSet<&String> = answers.iter().map(|(backend, _)| backend).collect();
            ensure!(reached.len() == 1, "{client} by {protocol:?} reached {reached:?}");
        }
    }
    Ok(())
}

/// Answers and the time the slowest of them took.
type Answers = (Vec<(String, Ipv4Addr)>, Duration);

/// Asks so many times, each time from another port, who is there and whom they see.
fn ask(from: &Ns, target: SocketAddrV4, protocol: Protocol, times: usize) -> anyhow::Result<Answers> {
    let (mut answers, mut slowest) = (Vec::new(), Duration::ZERO);
    for number in 0..times {
        let start = Instant::now();
        let text = match protocol {
            Protocol::Tcp => ask_tcp(from, target),
            Protocol::Udp => ask_udp(from, target),
        }
        .with_context(|| format!("question {number} of {times} to {target} by {protocol:?}"))?;
        slowest = slowest.max(start.elapsed());
        ensure!(start.elapsed() < FIRST_TRY, "question {number} of {times} took {:?}", start.elapsed());
        let (backend, peer) = text.split_once(' ').with_context(|| format!("{text:?} is no answer"))?;
        answers.push((backend.to_owned(), peer.parse()?));
    }
    Ok((answers, slowest))
}

fn ask_tcp(from: &Ns, target: SocketAddrV4) -> anyhow::Result<String> {
    let mut stream = from.tcp_connect(target)?;
    stream.set_read_timeout(Some(FIRST_TRY))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn ask_udp(from: &Ns, target: SocketAddrV4) -> anyhow::Result<String> {
    let socket = from.udp(Ipv4Addr::UNSPECIFIED, 0)?;
    socket.connect(target)?;
    socket.set_read_timeout(Some(FIRST_TRY))?;
    socket.send(b"who?")?;
    let mut buffer = [0; 100];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Runs `work` while every backend says its name, and the address it sees, to whoever asks.
fn serving<T>(lab: &Lab, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let mut servers = Vec::new();
    for name in BACKENDS {
        let pod = end(lab, name)?;
        let tcp = pod.ns.tcp_listener(pod.address, BACKEND_PORT)?;
        tcp.set_nonblocking(true)?;
        let udp = pod.ns.udp(pod.address, BACKEND_PORT)?;
        udp.set_read_timeout(Some(Duration::from_millis(20)))?;
        servers.push((name, tcp, udp));
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for (name, tcp, udp) in &servers {
            scope.spawn(|| serve_tcp(name, tcp, &done));
            scope.spawn(|| serve_udp(name, udp, &done));
        }
        let result = work();
        done.store(true, Ordering::Relaxed);
        result
    })
}

fn serve_tcp(name: &str, listener: &TcpListener, done: &AtomicBool) -> anyhow::Result<()> {
    while !done.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((mut stream, peer)) => stream.write_all(format!("{name} {}", v4(peer.ip())?).as_bytes())?,
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
    Ok(())
}

fn serve_udp(name: &str, socket: &UdpSocket, done: &AtomicBool) -> anyhow::Result<()> {
    let mut buffer = [0; 100];
    while !done.load(Ordering::Relaxed) {
        if let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            socket.send_to(format!("{name} {}", v4(peer.ip())?).as_bytes(), peer)?;
        }
    }
    Ok(())
}

fn v4(address: IpAddr) -> anyhow::Result<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(address) => bail!("{address} is not IPv4"),
    }
}
