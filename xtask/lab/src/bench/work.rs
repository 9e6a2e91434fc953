//! The kinds of work a row can measure, and what figures each gives.
//!
//! A kind is here, what it does is in `rows/`. A new kind is an entry in [`Work`], in [`Work::figures`] and in `rows::measure`.

use super::report::{Better, Unit};

/// Where packets of a [`Work::Packets`] row come from and go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// From the wire into the second node's NIC, to its pods.
    Receive,
    /// From a pod of the first node, to the wire.
    Send,
    /// From a pod of the second node to another one there.
    Local,
    /// From a pod of the first node to a Service whose backend is a pod of the second, to the wire.
    Service,
    /// The backend's answers, from the wire into the first node's NIC, to that pod.
    Answers,
}

/// How many of what the packets of a [`Work::Packets`] row are spread over. Each packet belongs to the next flow, pod and node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    /// UDP source ports.
    pub flows: usize,
    /// Pods of the receiving node.
    pub pods: usize,
    /// Nodes at the far end, or sending.
    pub nodes: usize,
}

/// What goes over the underlay when a pod sends a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Super-packets, checksums left to do: the NIC is told to segment.
    SuperPackets,
    /// Packets of at most the MTU, checksums filled in: a plain wire.
    MtuSized,
}

/// Who talks to whom over sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    /// Pods of the two nodes.
    Pods,
    /// Two pods of the second node.
    SameNode,
    /// The first node's host and a pod of the second.
    HostAndPod,
    /// Pods of the two nodes, the server's being the backend of a Service that the client turns to.
    Service,
}

/// What happens meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// Nodes of the cluster change, so many a second.
    Nodes(u32),
    /// Pods of the second node come and go, so many a second.
    Pods(u32),
}

/// What a row measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Small packets as fast as one core can.
    Packets(Path, Mix),
    /// TCP streams, so many at once.
    Bulk(Between, Wire, usize),
    /// UDP with segmentation offload at both ends.
    Datagrams(Wire),
    /// Requests and responses over so many kept connections, as fast as they go.
    Requests(Between, usize),
    /// The same at half the rate the reference reaches: what a response takes when nobody is saturated.
    HalfLoad(usize),
    /// Connect, request, response, close: so many at a time.
    Connections(Between, usize),
    /// Small packets to one pod while something else changes.
    Disturbed(Disturbance),
    /// A pod's network made and taken away by the CNI plugin.
    AddDel,
    /// From the agent's start to the first packet.
    Start,
    /// What the maps take with so many nodes.
    Memory(usize),
}

/// A figure of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FigureSpec {
    /// Short name, unique in the row.
    pub id: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// What the samples are.
    pub unit: Unit,
    /// Which way is good.
    pub better: Better,
}

const fn figure(id: &'static str, title: &'static str, unit: Unit, better: Better) -> FigureSpec {
    FigureSpec { id, title, unit, better }
}

impl Work {
    /// How it is done and what it shows.
    #[must_use]
    pub fn what(self) -> &'static str {
        match self {
            Self::Packets(Path::Receive, _) => {
                "XDP live frames enter the second node's NIC as a driver's would, 64 bytes inside and valid; a program in the pod counts what \
                 arrives. Generator, forwarding and sink share one core."
            }
            Self::Packets(Path::Send, _) => {
                "XDP live frames leave a pod by its own device, 64 bytes each; a program behind the node's NIC counts what comes out. \
                 Generator, forwarding and sink share one core."
            }
            Self::Packets(Path::Local, _) => "XDP live frames leave one pod for another one of the same node, which counts them.",
            Self::Packets(Path::Service, _) => {
                "As sent by a pod, but to a Service's cluster IP: kube-proxy's rules lead it to a pod of the other node. Each flow was asked and \
                 answered once before, so connection tracking has it as established."
            }
            Self::Packets(Path::Answers, _) => {
                "A Service's answers as they arrive at the client's node, of flows established by a question and an answer: connection tracking \
                 gives them the Service's address. A program in the client's pod counts them."
            }
            Self::Bulk(_, Wire::SuperPackets, _) => {
                "Streams of 128 KiB writes. The NIC takes super-packets whole, as one with segmentation offload for VXLAN does."
            }
            Self::Bulk(_, Wire::MtuSized, _) => {
                "Streams of 128 KiB writes. Everything crosses the underlay in packets of its MTU with their checksums filled in."
            }
            Self::Datagrams(_) => {
                "Datagrams of 1,400 bytes, 64 KiB to a system call (UDP_SEGMENT), merged again at the receiver (UDP_GRO)."
            }
            Self::Requests(Between::Service, _) => {
                "64 bytes asked, 512 answered, over kept TCP connections to a Service's cluster IP; its one backend is on the other node."
            }
            Self::Requests(..) => {
                "64 bytes asked, 512 answered, over kept TCP connections, one event loop on each side, the next request at once."
            }
            Self::HalfLoad(_) => {
                "The same requests sent by the clock, at half the rate the reference reached; latency counts from when a request was due."
            }
            Self::Connections(Between::Service, _) => {
                "Connect to a Service's cluster IP, 64 bytes asked, 64 answered, the server closes; its one backend is on the other node. Each \
                 connection is new to the rules, of which the Service's are in the middle."
            }
            Self::Connections(..) => "Connect, 64 bytes asked, 512 answered, the server closes: 16 at a time, one event loop on each side.",
            Self::Disturbed(_) => "1,000 flows to one pod from XDP live frames, while the agent follows the changes.",
            Self::AddDel => {
                "A process of the CNI plugin from its start to its end, a fresh namespace for each pod. Ours gives addresses itself; bridge with \
                 host-local stands for flannel, whose own process in front of them is left out; on kernel routes it is ptp with host-local."
            }
            Self::Start => "From the agent's start to the answer of the first echo request, with and without what an earlier agent left.",
            Self::Memory(_) => "The agent follows a list of so many nodes; the kernel's own account of each map's memory.",
        }
    }

    /// The figures of one sample, in the order `rows::measure` returns them.
    #[must_use]
    pub fn figures(self) -> &'static [FigureSpec] {
        use Better::{Higher, Lower};
        use Unit::{BitsPerSecond, Bytes, Count, Nanoseconds, NanosecondsPerPacket, PacketsPerSecond, PerSecond, Seconds, SecondsPerGbit};
        match self {
            Self::Disturbed(_) => {
                const {
                    &[
                        figure("calm", "packets per second before", PacketsPerSecond, Higher),
                        figure("rate", "packets per second meanwhile", PacketsPerSecond, Higher),
                        figure("changes", "changes per second really made", PerSecond, Higher),
                    ]
                }
            }
            Self::Packets(..) => {
                const {
                    &[
                        figure("rate", "packets per second and core", PacketsPerSecond, Higher),
                        figure("cost", "CPU time per packet, generator included", NanosecondsPerPacket, Lower),
                    ]
                }
            }
            Self::Bulk(..) => {
                const {
                    &[
                        figure("throughput", "throughput", BitsPerSecond, Higher),
                        figure("cost", "CPU time per Gbit, both ends", SecondsPerGbit, Lower),
                        figure("retransmits", "retransmitted segments per Gbit", Count, Lower),
                        figure("spurious", "of them spurious (reported by DSACK)", Count, Lower),
                    ]
                }
            }
            Self::Datagrams(_) => {
                const {
                    &[
                        figure("goodput", "goodput", BitsPerSecond, Higher),
                        figure("cost", "CPU time per Gbit, both ends", SecondsPerGbit, Lower),
                        figure("loss", "datagrams lost per thousand", Count, Lower),
                    ]
                }
            }
            Self::Requests(..) | Self::HalfLoad(_) => {
                const {
                    &[
                        figure("rate", "requests per second", PerSecond, Higher),
                        figure("p50", "median latency", Nanoseconds, Lower),
                        figure("p99", "99th percentile of latency", Nanoseconds, Lower),
                        figure("p999", "99.9th percentile of latency", Nanoseconds, Lower),
                    ]
                }
            }
            Self::Connections(..) => const { &[figure("rate", "connections per second", PerSecond, Higher)] },
            Self::AddDel => const { &[figure("add", "time of an ADD", Seconds, Lower), figure("del", "time of a DEL", Seconds, Lower)] },
            Self::Start => {
                const {
                    &[
                        figure("cold", "start to first packet, nothing pinned", Seconds, Lower),
                        figure("cold-load", "of it, verifying and loading the programs", Seconds, Lower),
                        figure("warm", "start to ready, programs and maps pinned", Seconds, Lower),
                        figure("warm-load", "of it, loading the programs", Seconds, Lower),
                        figure("lost", "datagrams of 1,000 a second lost by a warm start", Count, Lower),
                    ]
                }
            }
            Self::Memory(_) => {
                const {
                    &[
                        figure("maps", "kernel memory of all maps", Bytes, Lower),
                        figure("agent", "resident memory of the agent", Bytes, Lower),
                        figure("settle", "nodes file written to maps complete", Seconds, Lower),
                    ]
                }
            }
        }
    }
}
