//! The Service of the rules as rows use it: where it is, and flows through it that connection tracking knows.

use super::traffic;
use crate::bench::bed::{Pair, far};
use anyhow::{Context as _, ensure};
use overlay_agent::measure::frames::{self, Datagram};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::Duration;

/// How long an answer may take: less than a retransmission, of which UDP has none.
const ANSWER: Duration = Duration::from_secs(1);

/// Address of the Service that leads to the pair's first pod.
pub(super) fn address(pair: &Pair) -> anyhow::Result<Ipv4Addr> {
    let services = pair.id.services().filter(|services| *services > 0).context("there is no Service in the rules of its nodes")?;
    Ok(far::service_address(services))
}

/// Has each of so many UDP flows of the generator asked and answered once through the Service, by sockets. From then on they are what
/// flows of a cluster nearly always are: established, their translation remembered. Of a flow nobody answers every packet is a new one.
pub(super) fn establish(pair: &Pair, flows: usize) -> anyhow::Result<()> {
    let (client, backend) = (traffic::pod(&pair.a, 0)?, traffic::pod(&pair.b, 0)?);
    let server = backend.ns.udp(backend.address, far::BACKEND_PORT)?;
    server.set_read_timeout(Some(ANSWER))?;
    let service = SocketAddrV4::new(address(pair)?, frames::DISCARD);
    client.ns.enter(|| {
        (0..flows).try_for_each(|flow| {
            let asked = Datagram::of_flow(client.address, *service.ip(), u16::try_from(flow)?);
            exchange(SocketAddrV4::new(asked.source, asked.source_port), service, &server)
                .with_context(|| format!("flow {flow} to {service}"))
        })
    })?
}

fn exchange(client: SocketAddrV4, service: SocketAddrV4, server: &UdpSocket) -> anyhow::Result<()> {
    const WORD: [u8; 4] = *b"ping";
    let socket = UdpSocket::bind(client).with_context(|| format!("bind {client}"))?;
    socket.set_read_timeout(Some(ANSWER))?;
    // Connected: an answer from another address than the Service's would not be received.
    socket.connect(service)?;
    socket.send(&WORD).context("ask")?;
    let mut heard = [0; WORD.len()];
    let (_, peer) = server.recv_from(&mut heard).context("the backend was not asked")?;
    ensure!(peer == SocketAddr::V4(client), "the backend sees {peer}, not {client}");
    server.send_to(&heard, peer).context("answer")?;
    socket.recv(&mut heard).context("no answer came back")?;
    Ok(())
}
