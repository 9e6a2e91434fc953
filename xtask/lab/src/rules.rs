//! The rules of a node: those kube-proxy writes (as of Kubernetes 1.31), in iptables mode or in nftables mode, and flannel's beside them.
//!
//! Here in iptables mode, rendered for `iptables-restore`, in the order a node shows them: kube-proxy puts its jumps first, flannel its own last. Chains of
//! services carry a number where kube-proxy has a hash of the same length. Left out is what holds no rule: canaries and hints.

mod nftables;

use crate::command;
use crate::netns::Ns;
use ipnet::Ipv4Net;
use std::fmt::Write as _;
use std::net::SocketAddrV4;

/// All rules of a node.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Where pods get their addresses from: kube-proxy's `--cluster-cidr`, flannel's network.
    pub cluster: Ipv4Net,
    /// What kube-proxy publishes; one entry for each port of a Service.
    pub services: Vec<Service>,
    /// The node's pod network: which backends are local.
    pub pods: Ipv4Net,
    /// Whether flannel's rules are there as well.
    pub flannel: bool,
    /// Masquerade chooses the port at random (`--random-fully`), as both systems ask for.
    pub random_fully: bool,
}

/// A port of a Service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Namespace, name and name of the port, e.g. `default/web:http`.
    pub name: String,
    /// What it carries.
    pub protocol: Protocol,
    /// Its cluster IP and port.
    pub address: SocketAddrV4,
    /// Where it leads: pods and their ports.
    pub backends: Vec<SocketAddrV4>,
    /// Its port on every node.
    pub node_port: Option<NodePort>,
    /// `sessionAffinity: ClientIP`: what one address asks goes to one backend.
    pub affinity: bool,
}

/// How long a client's backend is remembered, in seconds: the default of Kubernetes.
const AFFINITY_SECONDS: u32 = 10_800;

/// A protocol of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port on every node, by `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodePort {
    /// `Cluster`: leads to any backend; the client's address is lost.
    Cluster(u16),
    /// `Local`: leads to backends on the node itself, and keeps the client's address.
    Local(u16),
}

impl Rules {
    /// Puts these rules in the place of all rules of the tables `filter` and `nat`.
    ///
    /// # Errors
    /// `iptables-restore` fails: the message names the line.
    pub fn apply(&self, node: &Ns) -> anyhow::Result<()> {
        command::run_with_input(&mut node.command("iptables-restore"), &self.render()).map(drop)
    }

    /// As `iptables-restore` reads them.
    #[must_use]
    pub fn render(&self) -> String {
        let (mut chains, mut rules, mut backends) = (String::new(), String::new(), 0);
        for (index, service) in self.services.iter().enumerate() {
            self.write_service(&mut chains, &mut rules, &Numbered { service, number: index, first_backend: backends });
            backends += service.backends.len();
        }
        let filled = |template: &str| {
            let random = if self.random_fully { " --random-fully" } else { "" };
            template.replace("{random}", random).replace("{cluster}", &self.cluster.to_string()).replace("{pods}", &self.pods.to_string())
        };
        let (flannel_filter, flannel_nat) = if self.flannel { (FLANNEL_FILTER, FLANNEL_NAT) } else { ("", "") };
        let (filter, nat) = (filled(&format!("{FILTER}{flannel_filter}")), filled(&format!("{NAT}{flannel_nat}")));
        // The rule that leads to node ports has to be the last of its chain.
        format!("*filter\n{filter}COMMIT\n*nat\n{nat}{chains}{rules}{NODE_PORTS}COMMIT\n")
    }

    fn write_service(&self, chains: &mut String, rules: &mut String, numbered: &Numbered<'_>) {
        let Numbered { service: Service { name, protocol, address, backends, node_port, affinity }, number, first_backend } = numbered;
        let (cluster, protocol) = (self.cluster, protocol.words());
        let to = format!("-m comment --comment \"{name} cluster IP\" {protocol} -d {} --dport {}", address.ip(), address.port());
        let _ = write!(
            rules,
            "-A KUBE-SERVICES {to} -j KUBE-SVC-{number:016}\n-A KUBE-SVC-{number:016} {to} ! -s {cluster} -j KUBE-MARK-MASQ\n"
        );
        let _ = writeln!(chains, ":KUBE-SVC-{number:016} - [0:0]");
        numbered.write_choice("SVC", rules, |_| true);
        for (backend, index) in backends.iter().zip(*first_backend..) {
            let _ = writeln!(chains, ":KUBE-SEP-{index:016} - [0:0]");
            let remember = if *affinity { format!(" -m recent --name KUBE-SEP-{index:016} --set") } else { String::new() };
            let _ = write!(
                rules,
                "-A KUBE-SEP-{index:016} -m comment --comment {name} -s {} -j KUBE-MARK-MASQ\n\
                 -A KUBE-SEP-{index:016} -m comment --comment {name}{remember} {protocol} -j DNAT --to-destination {backend}\n",
                backend.ip()
            );
        }
        let Some(node_port) = node_port else { return };
        let (NodePort::Cluster(port) | NodePort::Local(port)) = node_port;
        let _ = writeln!(chains, ":KUBE-EXT-{number:016} - [0:0]");
        let _ = writeln!(rules, "-A KUBE-NODEPORTS -m comment --comment {name} {protocol} --dport {port} -j KUBE-EXT-{number:016}");
        let mut external = |comment: &str, rule: &str| {
            let _ = writeln!(rules, "-A KUBE-EXT-{number:016} -m comment --comment \"{comment} {name} external destinations\" {rule}");
        };
        match node_port {
            NodePort::Cluster(_) => {
                external("masquerade traffic for", "-j KUBE-MARK-MASQ");
                let _ = writeln!(rules, "-A KUBE-EXT-{number:016} -j KUBE-SVC-{number:016}");
            }
            NodePort::Local(_) => {
                external("pod traffic for", &format!("-s {cluster} -j KUBE-SVC-{number:016}"));
                external("masquerade LOCAL traffic for", "-m addrtype --src-type LOCAL -j KUBE-MARK-MASQ");
                external("route LOCAL traffic for", &format!("-m addrtype --src-type LOCAL -j KUBE-SVC-{number:016}"));
                let _ = writeln!(chains, ":KUBE-SVL-{number:016} - [0:0]");
                let _ = writeln!(rules, "-A KUBE-EXT-{number:016} -j KUBE-SVL-{number:016}");
                numbered.write_choice("SVL", rules, |backend| self.pods.contains(backend.ip()));
            }
        }
    }
}

/// A service and the numbers in the names of its chains.
struct Numbered<'a> {
    service: &'a Service,
    number: usize,
    first_backend: usize,
}

impl Numbered<'_> {
    /// The choice among the backends that fit, each as likely as the others: the first of three is taken in one of three cases, the second in one
    /// of the remaining two.
    fn write_choice(&self, kind: &str, rules: &mut String, fits: impl Fn(&SocketAddrV4) -> bool) {
        let (number, Service { name, backends, affinity, .. }) = (self.number, self.service);
        let chosen: Vec<_> = backends.iter().zip(self.first_backend..).filter(|(backend, _)| fits(backend)).collect();
        for (backend, endpoint) in chosen.iter().filter(|_| *affinity) {
            let _ = writeln!(
                rules,
                "-A KUBE-{kind}-{number:016} -m comment --comment \"{name} -> {backend}\" -m recent --name KUBE-SEP-{endpoint:016} \
                 --rcheck --seconds {AFFINITY_SECONDS} --reap -j KUBE-SEP-{endpoint:016}"
            );
        }
        for (position, (backend, endpoint)) in chosen.iter().enumerate() {
            let chance = match chosen.len() - position {
                1 => String::new(),
                #[expect(clippy::cast_precision_loss, reason = "a service has few backends")]
                left => format!(" -m statistic --mode random --probability {:.10}", 1.0 / left as f64),
            };
            let _ = writeln!(
                rules,
                "-A KUBE-{kind}-{number:016} -m comment --comment \"{name} -> {backend}\"{chance} -j KUBE-SEP-{endpoint:016}"
            );
        }
    }
}

impl Protocol {
    /// The match kube-proxy writes for it.
    fn words(self) -> &'static str {
        match self {
            Self::Tcp => "-m tcp -p tcp",
            Self::Udp => "-m udp -p udp",
        }
    }
}

/// kube-proxy's part of `filter`. INVALID is what conntrack calls a packet of a flow it has seen only one direction of.
const FILTER: &str = r#"
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
"#;

/// flannel's part of `filter`.
const FLANNEL_FILTER: &str = r#":FLANNEL-FWD - [0:0]
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s {cluster} -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d {cluster} -m comment --comment "flanneld forward" -j ACCEPT
"#;

/// kube-proxy's part of `nat`, but for the services.
const NAT: &str = r#"
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE{random}
"#;

/// flannel's part of `nat`: nothing between pods is translated, what leaves the cluster is.
const FLANNEL_NAT: &str = r#":FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s {pods} -d {cluster} -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s {cluster} -d {pods} -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s {cluster} -d {pods} -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s {cluster} ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE{random}
-A FLANNEL-POSTRTG ! -s {cluster} -d {cluster} -m comment --comment "flanneld masq" -j MASQUERADE{random}
"#;

/// The last rule of kube-proxy's services.
const NODE_PORTS: &str = r#"-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn every_chain_that_is_jumped_to_exists_and_backends_are_equally_likely() {
        let backend = |last: u8| SocketAddrV4::new(Ipv4Addr::new(10, 244, 1, last), 8080);
        let service = |port: u16, node_port: Option<NodePort>| Service {
            name: format!("default/web:{port}"),
            protocol: Protocol::Tcp,
            address: SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 10), port),
            backends: vec![backend(11), backend(12), backend(13)],
            node_port,
            affinity: port == 82,
        };
        let services = vec![service(80, None), service(81, Some(NodePort::Cluster(30_081))), service(82, Some(NodePort::Local(30_082)))];
        let cluster = Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16);
        let text = Rules { cluster, services, pods: cluster, flannel: true, random_fully: true }.render();
        for (_, target) in text.lines().filter_map(|line| line.split_once(" -j ")).filter(|(_, target)| target.contains('-')) {
            let chain = target.split_whitespace().next().unwrap_or_default();
            assert!(!chain.contains('-') || text.contains(&format!("\n:{chain} - [0:0]\n")), "{chain} in\n{text}");
        }
        assert!(!text.contains('{') && text.contains("-j MASQUERADE --random-fully\n"), "{text}");
        let chances: Vec<&str> = text.lines().filter(|line| line.starts_with("-A KUBE-SVC-0000000000000000 ")).skip(1).collect();
        assert!(chances[0].contains("0.3333333333") && chances[1].contains("0.5000000000") && !chances[2].contains("probability"));
    }
}
