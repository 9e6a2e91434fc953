//! Whose address is seen where: masqueraded out of the cluster, and nowhere else.
//!
//! Every conversation has one try and less time than a first retransmission takes.

use crate::check::{self, end, eventually};
use crate::harness::{Group, note};
use anyhow::{Context as _, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use overlay_lab::agent::ReceiveMode;
use overlay_lab::capture::Capture;
use overlay_lab::command;
use overlay_lab::lab::{Endpoint, Lab, LabConfig};
use overlay_lab::probe::flood::Flood;
use overlay_lab::probe::{pattern, udp};
use overlay_lab::rules::{Protocol, Rules, Service};
use overlay_lab::underlay::OUTSIDE;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::thread;
use std::time::{Duration, Instant};

/// Shorter than the first retransmission of TCP (1 s, RFC 6298 section 2.1).
const FIRST_TRY: Duration = Duration::from_millis(900);

/// How long an agent may take to notice something.
const PATIENCE: Duration = Duration::from_secs(10);

/// An address outside whose network is not to be masqueraded, in the case that has one.
const DIRECT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);

const CLIENT: &str = "node-1-pod-1";

pub(crate) fn groups() -> Vec<Group> {
    ReceiveMode::RUNGS.map(group).into()
}

fn group(receive_mode: ReceiveMode) -> Group {
    let config = LabConfig { receive_mode, nodes: 2, foreign: 1, pods: 2, ..LabConfig::default() };
    Group::new(format!("leaving the cluster, received by {}", receive_mode.name()), config)
        .case("the outside sees the node's address of what a pod sends, and answers it", |lab| {
            let node = lab.nodes[0].address;
            seen(&end(lab, CLIENT)?, &lab.outside(), OUTSIDE, node)?;
            seen_of_ping(lab, OUTSIDE, node)
        })
        .case("another node sees the node's address, with the strictest reverse-path checks too", other_node)
        .case("inside the cluster everybody sees everybody's own address", inside)
        .case("a node sees its own pod's address", |lab| {
            let (pod, node) = (end(lab, CLIENT)?, end(lab, "node-1")?);
            seen(&pod, &node, node.address, pod.address)?;
            seen(&pod, &node, node.overlay_address, pod.address)
        })
        .case("an answer to the outside that reached a pod directly keeps the pod's address", |lab| {
            let pod = end(lab, CLIENT)?;
            seen(&lab.outside(), &pod, pod.address, OUTSIDE)
        })
        .case("a process bound to its node's address talks to pods of other nodes", bound_to_the_node)
        .case("what goes to a group keeps its address", multicast)
        .case("what kube-proxy has marked is left to it", marked)
        .case("a pod reaches a service whose backend is outside, which sees the node's address", |lab| {
            let address = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 20), 8005);
            let backends = vec![SocketAddrV4::new(OUTSIDE, 8080)];
            let services = [(Protocol::Tcp, "tcp"), (Protocol::Udp, "udp")].map(|(protocol, name)| Service {
                name: format!("lab/outside:{name}"),
                protocol,
                address,
                backends: backends.clone(),
                node_port: None,
                affinity: false,
            });
            let pods = lab.nodes[0].pod_cidr;
            let cluster = "10.244.0.0/16".parse()?;
            Rules { cluster, services: services.into(), pods, flannel: false, random_fully: true }.apply(&lab.nodes[0].ns)?;
            let node = lab.nodes[0].address;
            converse(&end(lab, CLIENT)?, &lab.outside(), SocketAddrV4::new(OUTSIDE, 8080), address, node)?;
            lab.nodes[0].ns.run("iptables", "-t nat -F PREROUTING").map(drop)
        })
        .case("a flow to the outside outlives the loss of the table", flow)
        .case("a network that is not to be masqueraded sees the pod's address", direct_network)
        .case("without masquerade the outside sees the pod's address, and the table is gone", without)
        .case("no checksum was wrong", |lab| check::no_bad_checksum(lab))
}

/// `from` talks to `to` at `address`, which sees `expected`.
fn seen(from: &Endpoint<'_>, to: &Endpoint<'_>, address: Ipv4Addr, expected: Ipv4Addr) -> anyhow::Result<()> {
    let target = SocketAddrV4::new(address, 8080);
    converse(from, to, target, target, expected)
}

/// Talks over TCP, UDP, and UDP too long for a packet, to a server at `served` that is reached at `target`.
fn converse(from: &Endpoint<'_>, to: &Endpoint<'_>, served: SocketAddrV4, target: SocketAddrV4, expected: Ipv4Addr) -> anyhow::Result<()> {
    let saw = |peer: IpAddr| -> anyhow::Result<()> {
        ensure!(peer == IpAddr::V4(expected), "{} saw {peer}, not {expected}", to.name);
        Ok(())
    };
    let tcp = || -> anyhow::Result<()> {
        let listener = to.ns.tcp_listener(*served.ip(), served.port())?;
        let start = Instant::now();
        let mut client = from.ns.tcp_connect(target)?;
        ensure!(start.elapsed() < FIRST_TRY, "connected only after {:?}", start.elapsed());
        let (mut server, peer) = listener.accept()?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(FIRST_TRY))?;
        }
        let mut buffer = [0; 6];
        client.write_all(b"asking")?;
        server.read_exact(&mut buffer).context("the question did not arrive")?;
        server.write_all(b"saying")?;
        client.read_exact(&mut buffer).context("the answer did not arrive")?;
        saw(peer.ip())
    };
    let udp = |size: usize| -> anyhow::Result<()> {
        let server = to.ns.udp(*served.ip(), served.port())?;
        let client = from.ns.udp(Ipv4Addr::UNSPECIFIED, 0)?;
        client.connect(target)?;
        server.set_read_timeout(Some(FIRST_TRY))?;
        client.set_read_timeout(Some(FIRST_TRY))?;
        let mut buffer = vec![0; udp::LONGEST];
        client.send(pattern::slice(0, size))?;
        let (len, peer) = server.recv_from(&mut buffer).context("the question did not arrive")?;
        ensure!(buffer[..len] == *pattern::slice(0, size), "the question arrived changed");
        server.send_to(pattern::slice(1, size), peer)?;
        let len = client.recv(&mut buffer).context("the answer did not arrive")?;
        ensure!(buffer[..len] == *pattern::slice(1, size), "the answer arrived changed");
        saw(peer.ip())
    };
    let all = || tcp().context("TCP").and_then(|()| [10, 5000].into_iter().try_for_each(|size| udp(size).context("UDP")));
    all().with_context(|| format!("{} to {} at {target}", from.name, to.name))
}

/// The same for an echo request, as it crosses the node's link.
fn seen_of_ping(lab: &Lab, address: Ipv4Addr, expected: Ipv4Addr) -> anyhow::Result<()> {
    let capture = Capture::start(&lab.nodes[0].ns, "eth0", &format!("icmp and dst {address}"))?;
    let pong = overlay_lab::probe::ping::Ping { count: 3, ..Default::default() }.run(end(lab, CLIENT)?.ns, address)?;
    ensure!(pong.received == 3, "{pong:?}");
    let sources = capture.decode(3, &["ip.src"])?;
    ensure!(sources.iter().all(|source| *source == [expected.to_string()]), "{address} saw {sources:?}, not {expected}");
    Ok(())
}

/// Strict reverse-path checks refuse a pod's address on the underlay: that is why other nodes count as outside.
fn other_node(lab: &mut Lab) -> anyhow::Result<()> {
    let devices = ["all", "ovl0", "eth0", "veth1", "veth2"];
    let set = |value: &str| {
        let all = lab.nodes.iter().flat_map(|node| devices.map(|device| (node, device)));
        all.into_iter().try_for_each(|(node, device)| node.ns.set_sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), value))
    };
    let node = lab.nodes[0].address;
    for value in ["2", "1"] {
        set(value)?;
        for name in ["node-2", "node-3"] {
            let other = end(lab, name)?;
            seen(&end(lab, CLIENT)?, &other, other.address, node).with_context(|| format!("rp_filter {value}"))?;
        }
    }
    set("2")
}

fn inside(lab: &mut Lab) -> anyhow::Result<()> {
    for other in ["node-1-pod-2", "node-2-pod-1", "node-3-pod-1"] {
        let (one, other) = (end(lab, CLIENT)?, end(lab, other)?);
        seen(&one, &other, other.address, one.address)?;
        seen(&other, &one, one.address, other.address)?;
    }
    // Nodes at their addresses inside the overlay; flannel's device has one of its own besides its bridge's.
    let (pod, ours, foreign) = (end(lab, CLIENT)?, end(lab, "node-2")?, end(lab, "node-3")?);
    seen(&pod, &ours, ours.overlay_address, pod.address)?;
    seen(&ours, &pod, pod.address, ours.overlay_address)?;
    seen(&pod, &foreign, foreign.overlay_address, pod.address)?;
    seen(&foreign, &pod, pod.address, Ipv4Addr::new(10, 244, 3, 0))
}

/// Its question comes through the tunnel, from an address outside of it.
fn bound_to_the_node(lab: &mut Lab) -> anyhow::Result<()> {
    let (host, pod) = (end(lab, "node-2")?, end(lab, CLIENT)?);
    // A port the stack has not been asked about yet.
    let server = pod.ns.udp(pod.address, 8090)?;
    let client = host.ns.udp(host.address, 0)?;
    client.connect(SocketAddrV4::new(pod.address, 8090))?;
    server.set_read_timeout(Some(FIRST_TRY))?;
    client.set_read_timeout(Some(FIRST_TRY))?;
    let mut buffer = [0; 100];
    for _ in 0..3 {
        client.send(b"asking")?;
        let (_, peer) = server.recv_from(&mut buffer).context("the question did not arrive")?;
        ensure!(peer.ip() == IpAddr::V4(host.address), "the pod saw {peer}");
        server.send_to(b"saying", peer)?;
        client.recv(&mut buffer).context("the answer did not arrive")?;
    }
    Ok(())
}

/// Pods send nothing to groups (`martian`); the node can, from its address in the pod network.
fn multicast(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &lab.nodes[0];
    let capture = Capture::start(&node.ns, "eth0", "dst net 224.0.0.0/4 and udp port 9")?;
    let socket = node.ns.udp(node.gateway(), 0)?;
    // A group is sent to by the device of the source address, unless the socket says another.
    setsockopt(&socket, sockopt::BindToDevice, &"eth0".into()).context("bind to the NIC")?;
    socket.send_to(b"group", (Ipv4Addr::new(239, 1, 2, 3), 9))?;
    let sources = capture.decode(1, &["ip.src"])?;
    ensure!(sources == [[node.gateway().to_string()]], "the group saw {sources:?}");
    Ok(())
}

/// A mark without anybody who acts on it: the outside sees the pod.
fn marked(lab: &mut Lab) -> anyhow::Result<()> {
    let mark = "table ip lab { chain marks { type filter hook prerouting priority mangle; iifname \"veth1\" meta mark set meta mark | 0x4000; }; }";
    let ns = &lab.nodes[0].ns;
    command::run_with_input(ns.command("nft").args(["-f", "-"]), mark)?;
    let pod = end(lab, CLIENT)?;
    let result = seen(&pod, &lab.outside(), OUTSIDE, pod.address);
    ns.run("nft", "delete table ip lab")?;
    result?;
    seen(&pod, &lab.outside(), OUTSIDE, lab.nodes[0].address)
}

/// Translation ends with the last chain that can ask for one, and goes on where it was with the next.
fn flow(lab: &mut Lab) -> anyhow::Result<()> {
    let pod = end(lab, CLIENT)?;
    let flood = Flood::start(pod.ns, pod.address, lab.outside().ns, OUTSIDE, 1000)?;
    thread::sleep(Duration::from_millis(200));
    lab.nodes[0].ns.run("nft", "flush ruleset")?;
    thread::sleep(Duration::from_millis(800));
    let report = flood.stop()?;
    note(format!("rules flushed under a flood to the outside, received by {}: {report}", lab.nodes[0].config.receive_mode.name()));
    ensure!(report.longest_gap < Duration::from_secs(1), "{report}");
    Ok(())
}

/// Starts the agent of node 1 with one more flag, or without any.
fn restart(lab: &mut Lab, flag: Option<&str>) -> anyhow::Result<()> {
    let node = &mut lab.nodes[0];
    node.stop_agent()?;
    node.config.extra = flag.map(str::to_owned).into_iter().collect();
    node.start_agent().map(drop)
}

fn direct_network(lab: &mut Lab) -> anyhow::Result<()> {
    lab.underlay.outside.ip(&format!("address add {DIRECT}/32 dev lo"))?;
    lab.underlay.router.ip(&format!("route add {DIRECT}/32 via {OUTSIDE}"))?;
    restart(lab, Some("--non-masquerade-cidrs=192.0.2.0/24,198.51.100.0/24"))?;
    let (pod, node) = (end(lab, CLIENT)?, lab.nodes[0].address);
    seen(&pod, &lab.outside(), DIRECT, pod.address)?;
    seen(&pod, &lab.outside(), OUTSIDE, node)?;
    restart(lab, Some("--cluster-cidr=198.51.100.0/25"))?;
    let pod = end(lab, CLIENT)?;
    seen(&pod, &lab.outside(), DIRECT, pod.address)?;
    restart(lab, None)?;
    seen(&end(lab, CLIENT)?, &lab.outside(), DIRECT, node)
}

fn without(lab: &mut Lab) -> anyhow::Result<()> {
    restart(lab, Some("--masquerade=false"))?;
    let pod = end(lab, CLIENT)?;
    seen(&pod, &lab.outside(), OUTSIDE, pod.address)?;
    let rules = lab.nodes[0].ns.run("nft", "list tables")?;
    ensure!(!rules.contains("overlay"), "{rules}");
    let status = lab.nodes[0].status()?;
    ensure!(status["firewall"]["table"].is_null() && status["healthy"] == true, "{status}");
    restart(lab, None)?;
    eventually(PATIENCE, || seen(&end(lab, CLIENT)?, &lab.outside(), OUTSIDE, lab.nodes[0].address))?;

    Ok(())
}
