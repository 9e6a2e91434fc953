//! A report to show in tests, with every case a reader may meet. Its numbers are made up and stand nowhere but in tests.

use super::verdict::{Bound, Goal};
use super::{Better, ContenderInfo, Figure, Machine, Report, Row, Series, Unit};

const ROUNDS: usize = 7;

/// A run with six contenders and two limits, goals of every verdict, a contender without samples and one with a hole.
pub(super) fn report() -> Report {
    Report {
        command: "cargo xtask bench --rounds 7".to_owned(),
        started: "2026-03-14T15:09:26Z".to_owned(),
        revision: "0123456789ab".to_owned(),
        machine: Machine { cpu: "Example CPU @ 2.80GHz".to_owned(), cores: 2, memory_mib: 7_944, kernel: "6.18.5".to_owned() },
        rounds: ROUNDS,
        seconds: 1.5,
        contenders: contenders(),
        rows: [receive_rows(), socket_rows(), other_rows()].concat(),
        chosen_rung: None,
    }
}

fn contenders() -> Vec<ContenderInfo> {
    [
        ("tc", "TC", "Our programs, receiving by TC."),
        ("xdp", "XDP", "Our programs: XDP judges and strips, TC delivers."),
        ("xdp-redirect", "XDP redirect", "Our programs: XDP redirects into the pod."),
        ("other-tc", "TC of v0.1.0", "TC of another revision."),
        ("flannel", "flannel", "The kernel's vxlan, cni0, routes and FDB, as flannel sets them up, without a rule."),
        ("flannel-5000", "flannel, 5,000 Services", "The same with flannel's and kube-proxy's iptables rules for 5,000 Services."),
        ("none", "no overlay", "Pods directly on the underlay."),
        ("limit-tc-drop", "drop in TC", "A program that drops every packet in TC at the NIC."),
    ]
    .map(|(id, title, what)| ContenderInfo { id: id.to_owned(), title: title.to_owned(), what: what.to_owned() })
    .to_vec()
}

fn receive_rows() -> Vec<Row> {
    let receive = [
        ("tc", 3.05e6),
        ("xdp", 3.4e6),
        ("xdp-redirect", f64::NAN),
        ("other-tc", 2.91e6),
        ("flannel", 1.19e6),
        ("flannel-5000", 0.87e6),
        ("limit-tc-drop", 6.3e6),
    ];
    let goals = [
        goal("tc", "flannel", Bound::AtLeast(2.5)),
        goal("xdp", "flannel", Bound::AtLeast(3.5)),
        goal("xdp-redirect", "flannel", Bound::AtLeast(3.5)),
        goal("xdp", "limit-tc-drop", Bound::AtLeast(0.65)),
    ];
    let mut pps = figure("pps", "packets per second and core", Unit::PacketsPerSecond, &receive);
    pps.goals = goals.to_vec();
    let mut cost = figure("cost", "processor time per packet", Unit::NanosecondsPerPacket, &receive.map(|(id, pps)| (id, 1e9 / pps)));
    cost.better = Better::Lower;
    // A round that gave no sample.
    cost.series[1].samples[3] = f64::NAN;
    let mut one = row("receive-one-flow", "Receive", "One flow of 64-byte packets", vec![pps.clone(), cost]);
    "Live frames enter as if a NIC had received them; the sink counts in the pod.".clone_into(&mut one.what);
    one.remarks = vec!["xdp-redirect: the NIC's driver has no XDP".to_owned(), "Both ends share the machine's two cores.".to_owned()];
    let mut many = row("receive-many-flows", "Receive", "1,000 flows to 1,000 pods", vec![pps.clone()]);
    many.figures[0].goals = vec![goal("tc", "flannel-5000", Bound::AtLeast(3.0))];
    let mut send = row("send", "Send", "One flow of 64-byte packets leaves a pod", vec![pps]);
    send.figures[0].series.truncate(2);
    send.figures[0].series.push(series("flannel", &around(1.0e6)));
    send.figures[0].goals = vec![goal("tc", "flannel", Bound::AtLeast(2.3))];
    vec![one, many, send]
}

fn socket_rows() -> Vec<Row> {
    let bulk = [("tc", 16.2e9), ("xdp", 12.8e9), ("flannel", 14.1e9), ("none", 19.7e9)];
    let mut throughput = figure("throughput", "throughput", Unit::BitsPerSecond, &bulk);
    throughput.goals = vec![goal("tc", "flannel", Bound::AtLeast(1.15))];
    let mut cpu = figure("cpu", "processor time per Gbit", Unit::SecondsPerGbit, &bulk.map(|(id, rate)| (id, 1.9e9 / rate)));
    cpu.better = Better::Lower;
    let mut again = figure("retransmits", "retransmitted segments", Unit::Count, &bulk.map(|(id, _)| (id, f64::NAN)));
    again.better = Better::Lower;
    again.reference = None;
    for (series, count) in again.series.iter_mut().zip([0.0, 24_731.0, 3.0, 0.0]) {
        series.samples = vec![count; ROUNDS];
    }
    let requests = [("tc", 61_000.0), ("flannel", 48_000.0), ("flannel-5000", 41_500.0)];
    let mut rate = figure("rate", "round trips per second", Unit::PerSecond, &requests);
    rate.goals = vec![goal("tc", "flannel", Bound::AtLeast(1.2))];
    let mut p99 = figure("p99", "latency, 99th percentile", Unit::Nanoseconds, &requests.map(|(id, rate)| (id, 2.6e9 / rate)));
    p99.better = Better::Lower;
    p99.goals = vec![goal("tc", "flannel", Bound::AtMost(0.85))];
    vec![
        row("tcp-bulk", "Sockets", "TCP, 8 flows, super-packets on the underlay", vec![throughput, cpu, again]),
        row("requests", "Sockets", "Request and response, 16 connections", vec![rate, p99]),
    ]
}

fn other_rows() -> Vec<Row> {
    let mut pods = figure("pps", "packets per second", Unit::PacketsPerSecond, &[("tc", 3.9e6), ("flannel", 1.4e6)]);
    pods.goals = vec![goal("tc", "flannel", Bound::AtLeast(2.0))];
    let mut load = figure("load", "from the start to the first packet", Unit::Seconds, &[("tc", 0.212), ("flannel", 0.094)]);
    load.better = Better::Lower;
    let mut memory = figure("memory", "memory of maps", Unit::Bytes, &[("tc", 5.2e6)]);
    memory.better = Better::Lower;
    memory.reference = None;
    vec![
        row("same-node", "One node", "Pod to pod on one node", vec![pods]),
        row("start", "Start", "Start of a node with 5,000 peers", vec![load]),
        row("memory", "Start", "Maps for 5,000 nodes", vec![memory]),
    ]
}

fn row(id: &str, group: &str, title: &str, figures: Vec<Figure>) -> Row {
    Row {
        id: id.to_owned(),
        group: group.to_owned(),
        title: title.to_owned(),
        what: "Measured with the contenders in turn.".to_owned(),
        figures,
        remarks: Vec::new(),
    }
}

/// A figure with samples around each size; NaN stands for a contender without any.
fn figure(id: &str, title: &str, unit: Unit, sizes: &[(&str, f64)]) -> Figure {
    let series = sizes.iter().map(|(id, size)| series(id, &if size.is_nan() { Vec::new() } else { around(*size) })).collect();
    let (id, title, reference) = (id.to_owned(), title.to_owned(), Some("flannel".to_owned()));
    Figure { id, title, unit, better: Better::Higher, reference, series, goals: Vec::new() }
}

/// A series as it is.
pub(super) fn series(contender: &str, samples: &[f64]) -> Series {
    Series { contender: contender.to_owned(), samples: samples.to_vec() }
}

/// Samples whose median is `size`, a little apart, the same in every run of a test.
fn around(size: f64) -> Vec<f64> {
    let phase = size.ln();
    let noise = |round: u8| if round == 3 { 0.0 } else { (phase * 7.0 + f64::from(round) * 2.4).sin().abs() * 0.03 + 0.002 };
    (0..7).map(|round| size * (1.0 + if round < 3 { noise(round) } else { -noise(round) })).collect()
}

fn goal(contender: &str, rival: &str, bound: Bound) -> Goal {
    Goal { contender: contender.to_owned(), rival: rival.to_owned(), bound }
}

/// The report with every text replaced by one that breaks out of any markup that does not escape it.
pub(super) fn hostile() -> Report {
    const EVIL: &str = "</title><script>alert(\"1\")</script> & '|`]]>";
    let mut report = report();
    for text in [&mut report.command, &mut report.started, &mut report.revision, &mut report.machine.cpu, &mut report.machine.kernel] {
        EVIL.clone_into(text);
    }
    for contender in &mut report.contenders {
        EVIL.clone_into(&mut contender.title);
        EVIL.clone_into(&mut contender.what);
    }
    for row in &mut report.rows {
        row.remarks = vec![EVIL.to_owned()];
        for text in [&mut row.id, &mut row.group, &mut row.title, &mut row.what] {
            EVIL.clone_into(text);
        }
        for figure in &mut row.figures {
            EVIL.clone_into(&mut figure.id);
            EVIL.clone_into(&mut figure.title);
        }
    }
    report
}
