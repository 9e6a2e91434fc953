//! The rows: what is measured, on whom, and what it should come to. Adding a row is adding an entry.

use super::report::Bound;
use super::work::{Between, Disturbance, Mix, Path, Wire, Work};

/// One row of the bench.
#[derive(Clone, Copy, Debug)]
pub struct RowSpec {
    /// Short name, unique.
    pub id: &'static str,
    /// Rows of one group stand together.
    pub group: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// What is done.
    pub work: Work,
    /// Who takes part; the first rival named is what ratios are against.
    pub contenders: &'static [&'static str],
    /// What should come out.
    pub goals: &'static [GoalSpec],
    /// Left out unless asked for: it builds a large cluster.
    pub slow: bool,
}

/// A goal of a row: the median of the ratios contender to rival.
#[derive(Clone, Copy, Debug)]
pub struct GoalSpec {
    /// Which figure.
    pub figure: &'static str,
    /// Who has to reach it.
    pub contender: &'static str,
    /// Compared with whom.
    pub rival: &'static str,
    /// What the ratio should be.
    pub bound: Bound,
}

const fn at_least(figure: &'static str, contender: &'static str, rival: &'static str, ratio: f64) -> GoalSpec {
    GoalSpec { figure, contender, rival, bound: Bound::AtLeast(ratio) }
}

const fn at_most(figure: &'static str, contender: &'static str, rival: &'static str, ratio: f64) -> GoalSpec {
    GoalSpec { figure, contender, rival, bound: Bound::AtMost(ratio) }
}

/// What every ratio is against, where it takes part.
pub const REFERENCE: &str = "flannel";

const ONE: Mix = Mix { flows: 1, pods: 1, nodes: 1 };
const FLOWS: Mix = Mix { flows: 1_000, ..ONE };

/// Everybody who carries sockets' traffic between nodes.
const STREAMS: &[&str] = &["tc", "tc-steered", "xdp", "kernel", "flannel", "flannel-100", "flannel-5000", "routes", "none"];
/// Fewer, where one row more of everybody would say nothing new.
const FEW: &[&str] = &["tc", "tc-steered", "xdp", "flannel", "flannel-5000", "routes", "none"];
/// Everybody on the receiving side, limits included.
const RECEIVERS: &[&str] = &[
    "tc",
    "xdp",
    "xdp-redirect",
    "kernel",
    "flannel",
    "flannel-100",
    "flannel-5000",
    "routes",
    "limit-xdp-drop",
    "limit-tc-drop",
    "limit-xdp-redirect",
];

/// Everybody with kube-proxy's rules, whose work Services are.
const PROXIED: &[&str] = &["tc-100", "flannel-100", "tc-5000", "flannel-5000"];

const RECEIVE_GOALS: &[GoalSpec] = &[
    at_least("rate", "tc", "flannel", 2.5),
    at_least("rate", "xdp-redirect", "flannel", 3.5),
    at_least("rate", "xdp-redirect", "flannel-5000", 4.5),
    at_least("rate", "xdp-redirect", "limit-tc-drop", 0.65),
];
const SEND_GOALS: &[GoalSpec] = &[at_least("rate", "tc", "flannel", 2.3), at_least("rate", "tc", "flannel-5000", 3.0)];
const SUPER_PACKET_GOALS: &[GoalSpec] = &[at_least("throughput", "tc", "flannel", 1.15)];
const MTU_SIZED_GOALS: &[GoalSpec] = &[at_least("throughput", "tc", "flannel", 1.05)];
const REQUEST_GOALS: &[GoalSpec] = &[at_least("rate", "tc", "flannel", 1.2)];

const SERVICE_GOALS: &[GoalSpec] = &[at_least("rate", "tc-100", "flannel-100", 1.3), at_least("rate", "tc-5000", "flannel-5000", 1.3)];
const SERVICE_CONNECTION_GOALS: &[GoalSpec] =
    &[at_least("rate", "tc-100", "flannel-100", 1.0), at_least("rate", "tc-5000", "flannel-5000", 1.0)];

/// Who sends packets between nodes as they are, and flannel's tunnel to compare with.
const DIRECT: &[&str] = &["tc-direct", "xdp-redirect-direct", "routes", "flannel", "none"];
/// The same on the sending side, where the way of receiving does not matter.
const DIRECT_SEND: &[&str] = &["tc-direct", "routes", "flannel", "none"];
const DIRECT_RECEIVE_GOALS: &[GoalSpec] =
    &[at_least("rate", "tc-direct", "routes", 1.5), at_least("rate", "xdp-redirect-direct", "routes", 1.5)];
const DIRECT_SEND_GOALS: &[GoalSpec] = &[at_least("rate", "tc-direct", "routes", 1.5)];
const DIRECT_BULK_GOALS: &[GoalSpec] = &[at_least("throughput", "tc-direct", "routes", 1.0)];

/// A row of the standard set.
const fn row(
    group: &'static str,
    id: &'static str,
    title: &'static str,
    work: Work,
    (contenders, goals): (&'static [&'static str], &'static [GoalSpec]),
) -> RowSpec {
    RowSpec { id, group, title, work, contenders, goals, slow: false }
}

/// A row that builds a large cluster.
const fn slow(spec: RowSpec) -> RowSpec {
    RowSpec { slow: true, ..spec }
}

const PACKETS: &str = "Small packets, one core";
const BULK: &str = "Streams";
const REQUESTS: &str = "Requests and connections";
const SCALE: &str = "Large clusters";
const DISTURBED: &str = "While things change";
const PLAIN: &str = "Without a tunnel";
const SERVICES: &str = "Services";
const PODS: &str = "Pods";
const AGENT: &str = "The agent";

/// Every row, in the order they are measured.
pub const ROWS: &[RowSpec] = &[
    row(PACKETS, "receive-1-flow", "Receive, 1 flow to 1 pod", Work::Packets(Path::Receive, ONE), (RECEIVERS, RECEIVE_GOALS)),
    row(PACKETS, "receive-1000-flows", "Receive, 1,000 flows to 1 pod", Work::Packets(Path::Receive, FLOWS), (RECEIVERS, RECEIVE_GOALS)),
    row(PACKETS, "send-1-flow", "Send, 1 flow", Work::Packets(Path::Send, ONE), (FEW, SEND_GOALS)),
    row(PACKETS, "send-1000-flows", "Send, 1,000 flows", Work::Packets(Path::Send, FLOWS), (STREAMS, SEND_GOALS)),
    row(
        PACKETS,
        "same-node",
        "Pod to pod on one node, 1,000 flows",
        Work::Packets(Path::Local, FLOWS),
        (&["tc", "tc-steered", "xdp-redirect", "flannel", "flannel-5000", "routes"], &[at_least("rate", "tc", "flannel", 2.0)]),
    ),
    row(
        BULK,
        "tcp-super-1",
        "TCP, 1 stream, super-packets on the underlay",
        Work::Bulk(Between::Pods, Wire::SuperPackets, 1),
        (STREAMS, SUPER_PACKET_GOALS),
    ),
    row(
        BULK,
        "tcp-super-8",
        "TCP, 8 streams, super-packets on the underlay",
        Work::Bulk(Between::Pods, Wire::SuperPackets, 8),
        (FEW, SUPER_PACKET_GOALS),
    ),
    row(
        BULK,
        "tcp-super-64",
        "TCP, 64 streams, super-packets on the underlay",
        Work::Bulk(Between::Pods, Wire::SuperPackets, 64),
        (FEW, SUPER_PACKET_GOALS),
    ),
    row(
        BULK,
        "tcp-mtu-1",
        "TCP, 1 stream, MTU-sized packets on the underlay",
        Work::Bulk(Between::Pods, Wire::MtuSized, 1),
        (STREAMS, MTU_SIZED_GOALS),
    ),
    row(
        BULK,
        "tcp-mtu-8",
        "TCP, 8 streams, MTU-sized packets on the underlay",
        Work::Bulk(Between::Pods, Wire::MtuSized, 8),
        (FEW, MTU_SIZED_GOALS),
    ),
    row(
        BULK,
        "tcp-mtu-64",
        "TCP, 64 streams, MTU-sized packets on the underlay",
        Work::Bulk(Between::Pods, Wire::MtuSized, 64),
        (FEW, MTU_SIZED_GOALS),
    ),
    row(BULK, "udp-gso-super", "UDP with segmentation offload, super-packets", Work::Datagrams(Wire::SuperPackets), (FEW, &[])),
    row(BULK, "udp-gso-mtu", "UDP with segmentation offload, MTU-sized", Work::Datagrams(Wire::MtuSized), (FEW, &[])),
    row(
        BULK,
        "tcp-same-node",
        "TCP, 1 stream between pods of one node",
        Work::Bulk(Between::SameNode, Wire::SuperPackets, 1),
        (&["tc", "tc-steered", "flannel", "flannel-5000", "routes"], &[]),
    ),
    row(
        BULK,
        "tcp-host-pod",
        "TCP, 1 stream, host to a pod of the other node",
        Work::Bulk(Between::HostAndPod, Wire::SuperPackets, 1),
        (FEW, &[]),
    ),
    row(REQUESTS, "requests-1", "Requests, 1 connection", Work::Requests(Between::Pods, 1), (STREAMS, &[])),
    row(REQUESTS, "requests-16", "Requests, 16 connections", Work::Requests(Between::Pods, 16), (STREAMS, REQUEST_GOALS)),
    row(REQUESTS, "requests-256", "Requests, 256 connections", Work::Requests(Between::Pods, 256), (STREAMS, REQUEST_GOALS)),
    row(
        REQUESTS,
        "half-load",
        "Requests, 16 connections, half of what the reference can",
        Work::HalfLoad(16),
        (FEW, &[at_most("p99", "tc", "flannel", 0.85)]),
    ),
    row(REQUESTS, "connections", "Connect, request, response, close", Work::Connections(Between::Pods, 16), (STREAMS, REQUEST_GOALS)),
    row(
        REQUESTS,
        "requests-same-node",
        "Requests, 16 connections on one node",
        Work::Requests(Between::SameNode, 16),
        (&["tc", "tc-steered", "flannel", "flannel-5000", "routes"], &[]),
    ),
    row(
        REQUESTS,
        "requests-host-pod",
        "Requests, host to a pod of the other node, 16",
        Work::Requests(Between::HostAndPod, 16),
        (FEW, &[]),
    ),
    row(
        PLAIN,
        "direct-receive-1",
        "Receive without a tunnel, 1 flow to 1 pod",
        Work::Packets(Path::Receive, ONE),
        (DIRECT, DIRECT_RECEIVE_GOALS),
    ),
    row(
        PLAIN,
        "direct-receive-1000",
        "Receive without a tunnel, 1,000 flows",
        Work::Packets(Path::Receive, FLOWS),
        (DIRECT, DIRECT_RECEIVE_GOALS),
    ),
    row(PLAIN, "direct-send-1", "Send without a tunnel, 1 flow", Work::Packets(Path::Send, ONE), (DIRECT_SEND, DIRECT_SEND_GOALS)),
    row(
        PLAIN,
        "direct-send-1000",
        "Send without a tunnel, 1,000 flows",
        Work::Packets(Path::Send, FLOWS),
        (DIRECT_SEND, DIRECT_SEND_GOALS),
    ),
    row(
        PLAIN,
        "direct-tcp-super-1",
        "TCP without a tunnel, 1 stream, super-packets",
        Work::Bulk(Between::Pods, Wire::SuperPackets, 1),
        (DIRECT_SEND, DIRECT_BULK_GOALS),
    ),
    row(
        PLAIN,
        "direct-tcp-mtu-1",
        "TCP without a tunnel, 1 stream, MTU-sized",
        Work::Bulk(Between::Pods, Wire::MtuSized, 1),
        (DIRECT_SEND, DIRECT_BULK_GOALS),
    ),
    row(PLAIN, "direct-requests-16", "Requests without a tunnel, 16 connections", Work::Requests(Between::Pods, 16), (DIRECT_SEND, &[])),
    row(SERVICES, "service-packets", "Send to a Service, 1,000 flows", Work::Packets(Path::Service, FLOWS), (PROXIED, SERVICE_GOALS)),
    row(SERVICES, "service-answers", "Answers of a Service, 1,000 flows", Work::Packets(Path::Answers, FLOWS), (PROXIED, SERVICE_GOALS)),
    row(
        SERVICES,
        "service-connections",
        "Connect to a Service, request, response, close",
        Work::Connections(Between::Service, 16),
        (PROXIED, SERVICE_CONNECTION_GOALS),
    ),
    row(SERVICES, "service-requests", "Requests to a Service, 16 connections", Work::Requests(Between::Service, 16), (PROXIED, &[])),
    row(
        DISTURBED,
        "nodes-change",
        "Receive, 1,000 flows, while 1,000 nodes change per second",
        Work::Disturbed(Disturbance::Nodes(1_000)),
        (&["tc", "xdp-redirect"], &[]),
    ),
    row(
        DISTURBED,
        "pods-change",
        "Receive, 1,000 flows, while 100 pods come and go per second",
        Work::Disturbed(Disturbance::Pods(100)),
        (&["tc", "xdp-redirect"], &[]),
    ),
    slow(row(
        SCALE,
        "receive-5000-nodes",
        "Receive, 1,000 flows from 5,000 nodes to 1,000 pods",
        Work::Packets(Path::Receive, Mix { flows: 1_000, pods: 1_000, nodes: 5_000 }),
        (
            &["tc", "tc@5000", "xdp-redirect", "xdp-redirect@5000", "flannel", "flannel@5000"],
            &[at_least("rate", "tc@5000", "tc", 0.9), at_least("rate", "xdp-redirect@5000", "xdp-redirect", 0.9)],
        ),
    )),
    slow(row(
        SCALE,
        "send-5000-nodes",
        "Send, 1,000 flows to 5,000 nodes",
        Work::Packets(Path::Send, Mix { flows: 1_000, pods: 1_000, nodes: 5_000 }),
        (&["tc", "tc@5000", "flannel", "flannel@5000"], &[at_least("rate", "tc@5000", "tc", 0.9)]),
    )),
    slow(row(
        SCALE,
        "requests-5000-nodes",
        "Requests, 16 connections, 5,000 nodes known and 1,000 pods",
        Work::Requests(Between::Pods, 16),
        (&["tc", "tc@5000", "flannel", "flannel@5000"], &[at_least("rate", "tc@5000", "tc", 0.9)]),
    )),
    row(PODS, "pod-add-del", "A pod comes and goes: the CNI plugin", Work::AddDel, (&["tc", "flannel", "routes"], &[])),
    row(AGENT, "start", "Start to first packet", Work::Start, (&["tc"], &[])),
    slow(row(AGENT, "memory-100", "Memory with 100 nodes", Work::Memory(100), (&["tc"], &[]))),
    slow(row(AGENT, "memory-5000", "Memory with 5,000 nodes", Work::Memory(5_000), (&["tc"], &[]))),
    slow(row(AGENT, "memory-50000", "Memory with 50,000 nodes", Work::Memory(50_000), (&["tc"], &[]))),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_are_unique_and_goals_name_what_is_there() {
        let ids: BTreeSet<_> = ROWS.iter().map(|row| row.id).collect();
        assert_eq!(ids.len(), ROWS.len());
        for row in ROWS {
            for goal in row.goals {
                assert!(row.contenders.contains(&goal.contender) && row.contenders.contains(&goal.rival), "{}: {goal:?}", row.id);
                assert!(row.work.figures().iter().any(|figure| figure.id == goal.figure), "{}: {goal:?}", row.id);
            }
        }
    }
}
