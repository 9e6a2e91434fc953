//! The lab: nodes, underlays and pods as network namespaces on one machine, for the demo, the tests and the benchmarks.
//!
//! A program enters a [`sandbox`] first; from then on nothing it does can touch the machine or outlive it. In the sandbox it builds a
//! [`lab::Lab`]: an [`underlay`], [`node`]s that run the real agent, [`foreign`] nodes that run the kernel's vxlan as flannel sets it up,
//! and a [`nodes`] file that every agent follows. [`probe`] sends traffic and checks it, [`capture`] has it decoded by others,
//! [`load`] sends as much as the path takes and measures it.

pub mod agent;
pub mod api_server;
pub mod bench;
pub mod bpf;
pub mod capture;
pub mod cni;
pub mod command;
pub mod containerd;
pub mod demo;
pub mod foreign;
pub mod lab;
pub mod load;
pub mod netns;
pub mod node;
pub mod nodes;
pub mod pod;
pub mod probe;
pub mod routes;
pub mod rules;
pub mod sandbox;
pub mod underlay;
