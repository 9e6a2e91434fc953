//! The load of the bench, on two namespaces and a cable: it moves traffic, its figures fit each other, it does not run out of anything.
//!
//! How fast it is, is not asked here: that is the bench's business.

use crate::harness::{self, note};
use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use overlay_lab::load::bulk::{self, BulkLoad};
use overlay_lab::load::connections::{self, ConnectionLoad};
use overlay_lab::load::cpu::CpuTime;
use overlay_lab::load::datagrams::{self, DatagramLoad};
use overlay_lab::load::requests::{self, RequestLoad};
use overlay_lab::load::{Conditions, Cpus, Latency};
use overlay_lab::netns::Ns;
use overlay_lab::probe::ping;
use std::net::Ipv4Addr;
use std::time::Duration;

/// The server's address.
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// Payload of a datagram that just fits the cable.
const SEGMENT: u16 = 1500 - 28;

pub(crate) fn trials() -> Vec<Trial> {
    let trial = |sentence: &str, check: fn(&Ns, &Ns) -> anyhow::Result<()>| {
        Trial::test(format!("load: {sentence}"), move || {
            harness::without_lab(|| {
                let (client, server) = cable()?;
                check(&client, &server)
            })
        })
    };
    vec![
        trial("bulk fills 1, 8 and 64 flows, and every one of them moves", bulk_flows),
        trial("bulk counts what was sent again for being lost", bulk_lossy),
        Trial::test("load: bulk counts what was sent again for being late, as spurious", || harness::without_lab(bulk_late)),
        trial("datagrams cross as super-packets, and the lost ones are counted", datagrams_merged),
        trial("requests are answered on 1, 16 and 256 connections", requests_closed),
        trial("a given rate of requests is kept", requests_paced),
        trial("the latency of a rate that is too high grows with the queue", requests_overloaded),
        trial("connections go on after every port was used several times", connections_again),
        trial("a server that answers nothing is an error that says so", dead_path),
        trial("both sides may be bound to a CPU", bound),
    ]
}

/// Two namespaces and a veth pair.
fn cable() -> anyhow::Result<(Ns, Ns)> {
    let (client, server) = (Ns::create("client")?, Ns::create("server")?);
    client.ip("link add eth0 type veth peer name eth0 netns server")?;
    for (ns, address) in [(&client, Ipv4Addr::new(192, 0, 2, 1)), (&server, SERVER)] {
        ns.ip(&format!("address add {address}/24 dev eth0"))?;
        ns.ip("link set eth0 up")?;
    }
    // Datagrams do not wait for a neighbour: all but the last few are dropped until it is known.
    let mut tries = 0;
    while ping::once(&client, SERVER)?.is_none() {
        tries += 1;
        ensure!(tries < 5, "nobody answers over the cable");
    }
    Ok((client, server))
}

fn short() -> Conditions {
    Conditions { warm_up: Duration::from_millis(50), duration: Duration::from_millis(200), cpus: None }
}

/// The machine worked, and not more than it has CPUs; the time that was counted is the time that was asked for.
fn sane(cpu: &CpuTime, conditions: &Conditions) -> anyhow::Result<()> {
    ensure!(cpu.wall >= conditions.duration && cpu.wall < conditions.duration * 5, "{:?} were counted", cpu.wall);
    ensure!(cpu.busy > Duration::ZERO && cpu.busy <= cpu.wall * cpu.cpus, "{cpu:?}");
    Ok(())
}

fn ordered(latency: &Latency) -> anyhow::Result<()> {
    let points = [50.0, 99.0, 99.9].map(|percent| latency.percentile(percent));
    ensure!(points.is_sorted() && points[0] > Duration::ZERO && points[2] <= latency.max(), "{points:?}, longest {:?}", latency.max());
    Ok(())
}

fn bulk_flows(client: &Ns, server: &Ns) -> anyhow::Result<()> {
    for flows in [1, 8, 64] {
        let load = BulkLoad { flows, conditions: short() };
        let result = bulk::run(client, server, SERVER, &load)?;
        sane(&result.cpu, &load.conditions)?;
        ensure!(result.flow_bytes.len() == flows, "{flows} flows: {result:?}");
        ensure!(result.flow_bytes.iter().all(|bytes| *bytes > 0), "a flow stood still: {:?}", result.flow_bytes);
        let cost = result.cpu_seconds_per_gbit();
        ensure!(cost.is_finite() && cost > 0.0, "{result:?}");
        let gbit = result.bits_per_second / 1e9;
        note(format!("load, {flows} flows over a cable: {gbit:.1} Gbit/s, {cost:.3} CPU seconds per Gbit"));
    }
    Ok(())
}

/// Half a second from the first packet: TCP learns soon how much disorder a path has, and waits longer before it sends again.
fn from_the_start() -> BulkLoad {
    BulkLoad { flows: 8, conditions: Conditions { warm_up: Duration::ZERO, duration: Duration::from_millis(500), cpus: None } }
}

fn bulk_lossy(client: &Ns, server: &Ns) -> anyhow::Result<()> {
    server.run("iptables", "-t raw -A PREROUTING -p tcp -m statistic --mode random --probability 0.005 -j DROP")?;
    let result = bulk::run(client, server, SERVER, &from_the_start())?;
    ensure!(result.retransmitted > result.spurious, "what was lost counts as spurious: {result:?}");
    ensure!(result.out_of_order > 0, "nothing arrived behind a gap: {result:?}");
    Ok(())
}

/// The delay is at a router: what waits in a queue of its own host, Linux does not send again.
fn bulk_late() -> anyhow::Result<()> {
    let [client, router, server] = [Ns::create("client")?, Ns::create("between")?, Ns::create("server")?];
    for (end, network, own) in [(&client, "198.51.100", 1), (&server, "192.0.2", 2)] {
        let (name, gateway) = (end.name(), 3 - own);
        router.ip(&format!("link add {name} type veth peer name eth0 netns {name}"))?;
        router.ip(&format!("address add {network}.{gateway}/24 dev {name}"))?;
        router.ip(&format!("link set {name} up"))?;
        end.ip(&format!("address add {network}.{own}/24 dev eth0"))?;
        end.ip("link set eth0 up")?;
        end.ip(&format!("route add default via {network}.{gateway}"))?;
    }
    router.set_sysctl("net.ipv4.ip_forward", "1")?;
    // One packet in twenty takes a slow lane, where it takes milliseconds: nothing is lost, much is late.
    router.run("tc", "qdisc add dev server root handle 1: htb default 10")?;
    router.run("tc", "class add dev server parent 1: classid 1:10 htb rate 10gbit")?;
    router.run("tc", "class add dev server parent 1: classid 1:20 htb rate 500mbit")?;
    router.run("iptables", "-t mangle -A FORWARD -p tcp -m statistic --mode random --probability 0.05 -j CLASSIFY --set-class 1:20")?;
    let result = bulk::run(&client, &server, SERVER, &from_the_start())?;
    ensure!(result.spurious > 0, "nothing was sent twice for being late: {result:?}");
    ensure!(result.spurious > result.retransmitted / 4, "what was late counts as lost: {result:?}");
    Ok(())
}

fn datagrams_merged(client: &Ns, server: &Ns) -> anyhow::Result<()> {
    let load = DatagramLoad { segment: SEGMENT, conditions: short() };
    let result = datagrams::run(client, server, SERVER, &load)?;
    sane(&result.cpu, &load.conditions)?;
    ensure!(result.bits_per_second > 0.0 && result.sent > 0 && result.lost < result.sent, "{result:?}");
    ensure!(result.merged > 1.0, "super-packets came as single datagrams: {result:?}");
    ensure!((result.lost == 0) == (result.refused == 0), "a cable loses nothing by itself: {result:?}");

    // One super-packet in ten is dropped on the way.
    server.run("iptables", "-t raw -A PREROUTING -p udp -m statistic --mode random --probability 0.1 -j DROP")?;
    let result = datagrams::run(client, server, SERVER, &load)?;
    ensure!(result.loss() > 0.05 && result.loss() < 1.0, "{result:?}");
    // Super-packets are all of one size.
    let size = u64::from(u16::MAX / SEGMENT);
    ensure!(result.lost > result.refused * size && result.lost % size == 0, "{result:?}");
    Ok(())
}

fn requests_closed(client: &Ns, server: &Ns) -> anyhow::Result<()> {
    for (connections, response) in [(1, 64), (16, 64), (256, 1024)] {
        let load = RequestLoad { connections, response, rate: None, conditions: short() };
        let result = requests::run(client, server, SERVER, &load).with_context(|| format!("{connections} connections"))?;
        sane(&result.cpu, &load.conditions)?;
        ordered(&result.latency)?;
        ensure!(result.per_second > 0.0 && result.cpu_seconds_per_request() > 0.0 && result.unsent == 0, "{result:?}");
        // Little's law: in a closed loop, so many are outstanding on average as there are connections.
        let outstanding = result.per_second * result.latency.mean().as_secs_f64();
        let expected = f64::from(u32::try_from(connections)?);
        ensure!(
            outstanding > expected / 2.0 && outstanding < expected * 2.0,
            "{outstanding} were outstanding on {connections} connections"
        );
        let (p50, p99) = (result.latency.percentile(50.0), result.latency.percentile(99.0));
        note(format!("load, {connections} connections over a cable: {:.0} requests/s, p50 {p50:?}, p99 {p99:?}", result.per_second));
    }
    Ok(())
}

fn requests_paced(client: &Ns, server: &Ns) -> anyhow::Result<()> {
    let conditions = Conditions { duration: Duration::from_millis(500), ..short() };
    for connections in [1, 16] {
        let load = RequestLoad { connections, response: 64, rate: Some(1000), conditions };
        let result = requests::run(client, server, SERVER, &load)?;
        ordered(&result.latency)?;
        ensure!(result.per_second > 500.0 && result.per_second < 2000.0, "{} requests/s instead of 1000", result.per_second);
        ensure!(result.late.count() > 0 && result.latency.percentile(50.0) >= result.late.percentile(50.0), "{result:?}");
    }
    Ok(())
}

fn requests_overloaded(client: &Ns, server: &Ns) -> anyhow::Result<()> {
    // A round trip on one connection takes more than the quarter of a microsecond that this leaves it.
    let load = RequestLoad { connections: 1, response: 64, rate: Some(4_000_000), conditions: short() };
    let result = requests::run(client, server, SERVER, &load)?;
    ensure!(result.unsent > result.latency.count(), "only {} were left: {}", result.unsent, result.per_second);
    // Counted from when they were sent, they would have taken microseconds.
    ensure!(result.latency.percentile(50.0) > Duration::from_millis(20), "{:?}", result.latency.percentile(50.0));
    Ok(())
}

fn connections_again(client: &Ns, server: &Ns) -> anyhow::Result<()> {
    const PORTS: u64 = 200;
    client.set_sysctl("net.ipv4.ip_local_port_range", "40000 40199")?;
    let load = ConnectionLoad { in_flight: 16, conditions: Conditions { duration: Duration::from_secs(1), ..short() } };
    let mut total = 0;
    for round in 1..=3 {
        let result = connections::run(client, server, SERVER, &load).with_context(|| format!("round {round}"))?;
        sane(&result.cpu, &load.conditions)?;
        ordered(&result.latency)?;
        ensure!(result.cpu_seconds_per_connection() > 0.0, "{result:?}");
        // As fast as a SYN that has to be sent again after a second would not be.
        ensure!(result.latency.percentile(99.0) < Duration::from_millis(500), "p99 is {:?}", result.latency.percentile(99.0));
        total += result.latency.count();
        note(format!("load, connections over a cable: {:.0}/s, p99 {:?}", result.per_second, result.latency.percentile(99.0)));
    }
    ensure!(total > 3 * PORTS, "{total} connections from {PORTS} ports do not show that ports are used again");
    let waiting = |ns: &Ns| ns.run("ss", "-Htan state time-wait").map(|list| list.lines().count());
    let (at_client, at_server) = (waiting(client)?, waiting(server)?);
    ensure!(at_client == 0 && at_server > 0, "{at_client} connections in TIME_WAIT at the client, {at_server} at the server");
    Ok(())
}

fn dead_path(client: &Ns, server: &Ns) -> anyhow::Result<()> {
    server.ip("route add blackhole 192.0.2.1")?;
    let load = ConnectionLoad { in_flight: 2, conditions: short() };
    let error = connections::run(client, server, SERVER, &load).err().context("connections without a path")?;
    let text = format!("{error:#}");
    ensure!(text.contains("2 connections to 192.0.2.2:7080 gets on for 5 s"), "{text}");
    Ok(())
}

fn bound(client: &Ns, server: &Ns) -> anyhow::Result<()> {
    let conditions = Conditions { cpus: Some(Cpus { client: 0, server: 0 }), ..short() };
    let result = bulk::run(client, server, SERVER, &BulkLoad { flows: 8, conditions })?;
    ensure!(result.bits_per_second > 0.0, "{result:?}");
    let conditions = Conditions { cpus: Some(Cpus { client: 9999, server: 0 }), ..short() };
    let error = bulk::run(client, server, SERVER, &BulkLoad { flows: 1, conditions }).err().context("there is no CPU 9999")?;
    ensure!(format!("{error:#}").contains("CPU 9999"), "{error:#}");
    Ok(())
}
