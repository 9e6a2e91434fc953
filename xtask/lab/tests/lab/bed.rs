//! The bed of the bench: rivals have to be right before they are fast.

use crate::harness::{note, without_lab};
use anyhow::{Context as _, bail, ensure};
use libtest_mimic::{Failed, Trial};
use overlay_lab::agent;
use overlay_lab::bench::bed::{Bed, BedConfig, Build, Pair, Side, far};
use overlay_lab::bench::contender::ContenderId;
use overlay_lab::capture::Capture;
use overlay_lab::probe::{ping, tcp};
use std::io::{Read as _, Write as _};
use std::net::SocketAddrV4;
use std::time::Instant;

/// Bytes of each transfer.
const BYTES: u64 = 8 << 20;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("bed: the pods of every contender talk", || {
            run(&["tc", "xdp", "kernel", "tc-100", "flannel", "flannel-100", "routes", "none"], &talk)
        }),
        Trial::test("bed: pods on a node reach each other, and come and go", || {
            run(&["tc@3x3", "flannel-100@3x3", "routes@3x3"], &next_door)
        }),
        Trial::test("bed: a service of the rules leads to the receiving pod", || run(&["tc-100", "flannel-100"], &service)),
        Trial::test("bed: another build's agent and wiring are used", || run(&["same-tc", "tc"], &talk)),
        Trial::test("bed: what cannot exist says why", absent),
    ]
}

type Check = dyn Fn(&mut Bed, &ContenderId) -> anyhow::Result<()>;

/// Builds a bed for these contenders and checks each of them.
fn run(contenders: &[&str], check: &Check) -> Result<(), Failed> {
    without_lab(|| {
        let start = Instant::now();
        let ids = contenders.iter().map(|id| id.parse()).collect::<anyhow::Result<Vec<ContenderId>>>()?;
        let own = Build { name: "same".to_owned(), agent: agent::binary()?, wirer: Some(agent::sibling("overlay-lab")?) };
        let mut bed = Bed::create(&ids, &BedConfig { builds: vec![own], ..BedConfig::default() }, &mut |_| {})?;
        note(format!("bed of {}: built in {:.1?}", contenders.join(", "), start.elapsed()));
        if let Some((id, why)) = bed.absent().next() {
            bail!("{id} is not there: {why}");
        }
        ids.iter().try_for_each(|id| check(&mut bed, id).with_context(|| id.to_string()))
    })
}

fn talk(bed: &mut Bed, id: &ContenderId) -> anyhow::Result<()> {
    for offloads in [true, false] {
        let pair = bed.pair(id)?;
        pair.set_offloads(&bed.underlay, offloads)?;
        let (a, b) = (pair.a.pod()?, pair.b.pod()?);
        ensure!(ping::once(&a.ns, b.address)?.is_some(), "{} does not answer {}", b.name, a.name);
        ensure!(ping::once(&b.ns, a.address)?.is_some(), "{} does not answer {}", a.name, b.name);
        let there = tcp::transfer(&a.ns, &b.ns, b.address, BYTES)?;
        tcp::transfer(&b.ns, &a.ns, a.address, BYTES)?;
        note(format!("{id}, offloads {offloads}: {:.1} Gbit/s of TCP", there.gbit_per_second()));
    }
    let pair = bed.pair(id)?;
    ensure!(pair.tunnel == pair.b.vtep_mac().is_some(), "a tunnel has an end, and nothing else has");
    encapsulates(bed, pair)
}

/// The NIC carries VXLAN exactly if the contender is a tunnel.
fn encapsulates(bed: &Bed, pair: &Pair) -> anyhow::Result<()> {
    let (a, b) = (pair.a.pod()?, pair.b.pod()?);
    let capture = Capture::start(&bed.underlay.router, &pair.b.router_port(), "ip")?;
    ensure!(ping::once(&a.ns, b.address)?.is_some(), "no answer");
    let packets = capture.decode(2, &["udp.dstport", "icmp.type"])?;
    let tunnelled = packets.iter().all(|packet| packet[0] == "8472");
    ensure!(packets.len() == 2 && tunnelled == pair.tunnel, "on the wire: {packets:?}");
    Ok(())
}

fn next_door(bed: &mut Bed, id: &ContenderId) -> anyhow::Result<()> {
    let side = &mut bed.pair_mut(id)?.b;
    ensure!(side.pods().len() == 3, "{} pods", side.pods().len());
    for _ in 0..2 {
        side.remove_pod()?;
        side.add_pods(2)?;
    }
    let pods = side.pods();
    ensure!(pods.len() == 5, "{} pods", pods.len());
    for pod in &pods[1..] {
        ensure!(ping::once(&pods[0].ns, pod.address)?.is_some(), "{} does not answer {}", pod.name, pods[0].name);
        tcp::transfer(&pods[0].ns, &pod.ns, pod.address, BYTES)?;
    }
    if matches!(side, Side::Flannel(_)) {
        // What the bridge carries from pod to pod meets the rules as well, because kubeadm has it so.
        let rules = side.ns().run("iptables-save", "-c -t filter")?;
        let counted = rules.lines().find(|line| line.contains("kubernetes forwarding conntrack rule")).context("a rule is missing")?;
        ensure!(!counted.starts_with("[0:0]"), "bridged packets passed the rules by: {counted}");
    }
    Ok(())
}

fn service(bed: &mut Bed, id: &ContenderId) -> anyhow::Result<()> {
    let pair = bed.pair(id)?;
    let (a, b) = (pair.a.pod()?, pair.b.pod()?);
    let listener = b.ns.tcp_listener(b.address, far::BACKEND_PORT)?;
    let mut client = a.ns.tcp_connect(SocketAddrV4::new(far::service_address(100), far::SERVICE_PORT))?;
    let (mut server, peer) = listener.accept()?;
    ensure!(peer.ip() == a.address, "the backend saw {peer}");
    client.write_all(b"hello")?;
    let mut heard = [0; 5];
    server.read_exact(&mut heard)?;
    ensure!(heard == *b"hello", "{heard:?} arrived");
    let rules = pair.b.ns().run("iptables-save", "-t nat")?;
    let services: Vec<_> = rules.lines().filter(|line| line.starts_with("-A KUBE-SERVICES") && line.contains("cluster IP")).collect();
    let [tcp, udp] = ["-p tcp", "-p udp"].map(|protocol| services.iter().filter(|line| line.contains(protocol)).count());
    ensure!(tcp == 100 && udp == 1, "{tcp} services of TCP and {udp} of UDP in the rules:\n{rules}");
    ensure!(rules.contains("FLANNEL-POSTRTG") == matches!(pair.b, Side::Flannel(_)), "flannel's rules:\n{rules}");
    Ok(())
}

fn absent() -> Result<(), Failed> {
    without_lab(|| {
        let ids = ["none@5000", "missing-tc", "none"].map(str::parse).into_iter().collect::<anyhow::Result<Vec<ContenderId>>>()?;
        let bed = Bed::create(&ids, &BedConfig::default(), &mut |_| {})?;
        let absent: Vec<_> = bed.absent().map(|(id, why)| format!("{id}: {why}")).collect();
        ensure!(absent.len() == 2 && absent[0].contains("no larger scale") && absent[1].contains("no build missing"), "{absent:?}");
        ensure!(bed.pair(&ids[0]).is_err() && bed.pair(&ids[2]).is_ok(), "one that cannot exist keeps another from it");
        Ok(())
    })
}
