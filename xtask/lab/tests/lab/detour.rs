//! The map of sockets that talk through the host's stack, filled far beyond what it holds: what becomes of the flows that were there before.

use crate::check::end;
use crate::harness::{Group, note};
use crate::service_rules::{self, Proxy, Service, VIP};
use anyhow::{Context as _, ensure};
use overlay_common::abi::MAX_DETOURS;
use overlay_lab::agent::ReceiveMode;
use overlay_lab::command;
use overlay_lab::lab::{Lab, LabConfig};
use overlay_lab::underlay::OUTSIDE;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Shorter than the first retransmission of TCP (1 s, RFC 6298 section 2.1): a lost packet is a failure.
const FIRST_TRY: Duration = Duration::from_millis(900);

const CLIENT: &str = "node-1-pod-1";
/// Pods that open sockets, one after the other.
const CROWD: [&str; 2] = ["node-1-pod-2", "node-1-pod-3"];
const REMOTE: Service = Service { port: 8001, backend: "node-2-pod-1" };
const BACKEND_PORT: u16 = 8080;

pub(crate) fn groups() -> Vec<Group> {
    let config = LabConfig { receive_mode: ReceiveMode::Tc, nodes: 2, pods: 3, ..LabConfig::default() };
    vec![
        Group::new("more sockets than DETOUR holds", config)
            .case("a flow that talks goes on, packet by packet", talking)
            .case("a silent flow outlives sockets that send one packet each", |lab| {
                let (client, backend) = connect(lab)?;
                crowd(lab, 1)?;
                say(&backend, &client)?;
                say(&client, &backend)
            })
            .case("a silent flow whose client speaks first goes on", |lab| {
                let (client, backend) = connect(lab)?;
                crowd(lab, 3)?;
                say(&client, &backend)?;
                say(&backend, &client)
            })
            .case("a silent flow whose backend speaks first goes on or is ended at once, and the status tells of it", pushed),
    ]
}

/// A connection through the service: the client's end and the backend's.
fn connect(lab: &Lab) -> anyhow::Result<(TcpStream, TcpStream)> {
    service_rules::publish(lab, Proxy::Iptables, &[REMOTE], BACKEND_PORT)?;
    let (client, backend) = (end(lab, CLIENT)?, end(lab, REMOTE.backend)?);
    let listener = backend.ns.tcp_listener(backend.address, BACKEND_PORT)?;
    let stream = client.ns.tcp_connect(SocketAddrV4::new(VIP, REMOTE.port))?;
    let (accepted, _) = listener.accept()?;
    for stream in [&stream, &accepted] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(FIRST_TRY))?;
    }
    Ok((stream, accepted))
}

/// A few bytes one way.
fn say(mut from: &TcpStream, mut to: &TcpStream) -> anyhow::Result<()> {
    from.write_all(b"hello")?;
    let mut buffer = [0; 5];
    to.read_exact(&mut buffer).context("nothing arrived")
}

/// Opens a socket at every port of every pod of the crowd, and sends so many datagrams from each to the outside.
fn crowd(lab: &Lab, datagrams: u32) -> anyhow::Result<()> {
    // Connection tracking has a limit of its own, which is not what is tested here.
    let untracked = "table ip lab { chain raw { type filter hook prerouting priority raw; iifname { \"veth2\", \"veth3\" } notrack; }; }";
    command::run_with_input(lab.nodes[0].ns.command("nft").args(["-f", "-"]), untracked)?;
    let start = Instant::now();
    for name in CROWD {
        let pod = end(lab, name)?;
        pod.ns.enter(|| -> anyhow::Result<()> {
            for port in 1024..=u16::MAX {
                let socket = UdpSocket::bind((pod.address, port))?;
                for _ in 0..datagrams {
                    // What comes back is not waited for.
                    let _ = socket.send_to(b"hello", (OUTSIDE, 9));
                }
            }
            Ok(())
        })??;
    }
    lab.nodes[0].ns.run("nft", "delete table ip lab")?;
    note(format!("{} sockets sent {datagrams} datagrams each in {:.1?}", CROWD.len() * (65_536 - 1024), start.elapsed()));
    Ok(())
}

fn talking(lab: &mut Lab) -> anyhow::Result<()> {
    let (client, backend) = connect(lab)?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let talk = scope.spawn(|| -> anyhow::Result<u32> {
            let mut count = 0;
            while !done.load(Ordering::Relaxed) {
                say(&client, &backend)?;
                say(&backend, &client)?;
                count += 1;
                thread::sleep(Duration::from_millis(10));
            }
            Ok(count)
        });
        let crowded = crowd(lab, 3);
        done.store(true, Ordering::Relaxed);
        let count = talk.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        crowded?;
        note(format!("a flow through a service said {count} things each way meanwhile"));
        ensure!(count > 20, "{count}");
        Ok(())
    })
}

/// A packet from the backend that the stack does not see reaches the pod with the backend's address: no socket there knows it, and the pod
/// says so to the backend.
fn pushed(lab: &mut Lab) -> anyhow::Result<()> {
    let (client, mut backend) = connect(lab)?;
    crowd(lab, 3)?;
    let status = lab.nodes[0].status()?;
    let detour = &status["detour"];
    let (sockets, silence) = (detour["sockets"].as_u64().context("no count")?, detour["longest_silence_seconds"].as_u64());
    ensure!(sockets > u64::from(MAX_DETOURS) * 15 / 16 && detour["capacity"] == MAX_DETOURS && silence < Some(60), "{detour}");
    let start = Instant::now();
    let arrived = say(&backend, &client);
    let fate = if arrived.is_ok() {
        "what it said arrived".to_owned()
    } else {
        let end = backend.read(&mut [0]).map_err(|error| error.kind());
        ensure!(end == Err(std::io::ErrorKind::ConnectionReset), "the backend is left in the dark: {arrived:?}, {end:?}");
        ensure!(start.elapsed() < Duration::from_secs(2), "told only after {:?}", start.elapsed());
        "its connection was reset".to_owned()
    };
    note(format!("the backend of a silent flow spoke when {sockets} sockets had talked within {} s: {fate}", silence.unwrap_or_default()));
    // A new connection is not touched by any of it.
    let (client, backend) = connect(lab)?;
    say(&client, &backend)?;
    say(&backend, &client)
}
