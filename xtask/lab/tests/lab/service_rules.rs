//! The rules kube-proxy writes in iptables mode (as of Kubernetes 1.31), for services with one backend each.
//!
//! Two things are left out: the comments, and `--random-fully` of the masquerade. A port chosen at random may be the VXLAN port, to which
//! a pod may not send: one UDP flow in 64,512, which a test must not meet.

use crate::check::end;
use anyhow::{Context as _, ensure};
use overlay_lab::lab::Lab;
use overlay_lab::node::Node;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::Stdio;

/// The virtual address of every service; told apart by port.
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// Where pods get their addresses from: kube-proxy's `--cluster-cidr`.
const CLUSTER: &str = "10.244.0.0/16";

/// A service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Service {
    /// Its port at [`VIP`].
    pub(crate) port: u16,
    /// The pod it is.
    pub(crate) backend: &'static str,
}

impl Service {
    /// Its port at the node's address (`externalTrafficPolicy: Cluster`).
    pub(crate) fn node_port(self) -> u16 {
        22_000 + self.port
    }

    /// Its port at the node's address that leads to pods of the node only and keeps the client's address
    /// (`externalTrafficPolicy: Local`).
    pub(crate) fn local_node_port(self) -> u16 {
        23_000 + self.port
    }
}

/// Puts the rules for these services in the place of all rules of the node.
pub(crate) fn publish(lab: &Lab, node: &Node, services: &[Service], backend_port: u16) -> anyhow::Result<()> {
    let mut rules = HEAD.to_owned();
    for service in services {
        let backend = end(lab, service.backend)?.address;
        let Service { port, .. } = *service;
        let (node_port, local_node_port) = (service.node_port(), service.local_node_port());
        let _ = write!(
            rules,
            ":KUBE-SVC-{port} - [0:0]\n:KUBE-EXT-{port} - [0:0]\n:KUBE-SEP-{port} - [0:0]\n\
             -A KUBE-EXT-{port} -j KUBE-MARK-MASQ\n-A KUBE-EXT-{port} -j KUBE-SVC-{port}\n\
             -A KUBE-SVC-{port} -j KUBE-SEP-{port}\n\
             -A KUBE-SEP-{port} -s {backend}/32 -j KUBE-MARK-MASQ\n"
        );
        for protocol in ["tcp", "udp"] {
            let _ = write!(
                rules,
                "-I KUBE-SVC-{port} 1 ! -s {CLUSTER} -d {VIP}/32 -p {protocol} --dport {port} -j KUBE-MARK-MASQ\n\
                 -A KUBE-SEP-{port} -p {protocol} -j DNAT --to-destination {backend}:{backend_port}\n\
                 -A KUBE-SERVICES -d {VIP}/32 -p {protocol} --dport {port} -j KUBE-SVC-{port}\n\
                 -A KUBE-NODEPORTS -p {protocol} --dport {node_port} -j KUBE-EXT-{port}\n\
                 -A KUBE-NODEPORTS -p {protocol} --dport {local_node_port} -j KUBE-SEP-{port}\n"
            );
        }
    }
    rules.push_str("-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\nCOMMIT\n");
    restore(node, &rules)
}

/// What is the same for all services. INVALID is what conntrack calls a packet of a flow it has seen only one direction of.
const HEAD: &str = "\
*filter
:KUBE-FORWARD - [0:0]
-A FORWARD -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE
";

fn restore(node: &Node, rules: &str) -> anyhow::Result<()> {
    let mut command = node.ns.command("iptables-restore");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().context("start iptables-restore")?;
    child.stdin.take().context("iptables-restore has no standard input")?.write_all(rules.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "iptables-restore: {}\n{rules}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
