//! The same rules as kube-proxy writes them in nftables mode: one table, in which maps lead to a chain of each service and of each backend.
//!
//! Chains carry a number where kube-proxy has a hash. Left out are the sets of what this kube-proxy has none of: services without backends,
//! load balancers.

use super::{AFFINITY_SECONDS, NodePort, Protocol, Rules, Service};
use crate::command;
use crate::netns::Ns;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};

impl Rules {
    /// Puts these rules in the place of kube-proxy's table. `address`: the node's, which its node ports are at.
    ///
    /// # Errors
    /// `nft` fails: the message names the line.
    pub fn apply_nftables(&self, node: &Ns, address: Ipv4Addr) -> anyhow::Result<()> {
        command::run_with_input(node.command("nft").args(["-f", "-"]), &self.render_nftables(address)).map(drop)
    }

    /// As `nft -f -` reads them.
    #[must_use]
    pub fn render_nftables(&self, address: Ipv4Addr) -> String {
        let (mut chains, mut ips, mut ports, mut cluster_ips) = (String::new(), Vec::new(), Vec::new(), Vec::new());
        for (number, service) in self.services.iter().enumerate() {
            let name = format!("{number:08}-{}", service.name.replace(':', "/"));
            let (ip, port, protocol) = (service.address.ip(), service.address.port(), word(service.protocol));
            cluster_ips.push(ip.to_string());
            ips.push(format!("{ip} . {protocol} . {port} : goto service-{name}"));
            if let Some(NodePort::Cluster(port) | NodePort::Local(port)) = service.node_port {
                ports.push(format!("{protocol} . {port} : goto external-{name}"));
            }
            self.write_nftables_service(&mut chains, service, &name);
        }
        cluster_ips.sort();
        cluster_ips.dedup();
        let elements = |all: &[String]| if all.is_empty() { String::new() } else { format!("elements = {{ {} }};", all.join(", ")) };
        let random = if self.random_fully { " fully-random" } else { "" };
        BASE.replace("{chains}", &chains)
            .replace("{cluster-ips}", &elements(&cluster_ips))
            .replace("{node}", &address.to_string())
            .replace("{services}", &elements(&ips))
            .replace("{ports}", &elements(&ports))
            .replace("{random}", random)
    }

    fn write_nftables_service(&self, chains: &mut String, service: &Service, name: &str) {
        let Service { address, backends, node_port, protocol, affinity, .. } = service;
        let (cluster, protocol) = (self.cluster, word(*protocol));
        let all: Vec<&SocketAddrV4> = backends.iter().collect();
        for backend in backends {
            let (ip, endpoint) = (backend.ip(), format!("{name}__{}/{}", backend.ip(), backend.port()));
            let mut remember = String::new();
            if *affinity {
                let set = format!("affinity-{endpoint}");
                let _ = writeln!(chains, "set {set} {{ type ipv4_addr; flags dynamic,timeout; timeout {AFFINITY_SECONDS}s; }}");
                remember = format!("update @{set} {{ ip saddr }}\n");
            }
            let _ = write!(
                chains,
                "chain endpoint-{endpoint} {{\nip saddr {ip} jump mark-for-masquerade\n{remember}meta l4proto {protocol} dnat to {backend}\n}}\n"
            );
        }
        let _ = write!(
            chains,
            "chain service-{name} {{\nip daddr {} {protocol} dport {} ip saddr != {cluster} jump mark-for-masquerade\n{}}}\n",
            address.ip(),
            address.port(),
            choice(name, &all, *affinity)
        );
        match node_port {
            None => {}
            Some(NodePort::Cluster(_)) => {
                let _ = write!(chains, "chain external-{name} {{\njump mark-for-masquerade\ngoto service-{name}\n}}\n");
            }
            Some(NodePort::Local(_)) => {
                let local: Vec<_> = all.into_iter().filter(|backend| self.pods.contains(backend.ip())).collect();
                let _ = write!(
                    chains,
                    "chain external-{name} {{\nip saddr {cluster} goto service-{name}\nfib saddr type local jump mark-for-masquerade\n\
                     fib saddr type local goto service-{name}\n{}}}\n",
                    choice(name, &local, *affinity)
                );
            }
        }
    }
}

/// The choice among backends: the one that is remembered for the client, or any.
fn choice(name: &str, backends: &[&SocketAddrV4], affinity: bool) -> String {
    let endpoint = |backend: &SocketAddrV4| format!("{name}__{}/{}", backend.ip(), backend.port());
    let mut rules = String::new();
    for backend in backends.iter().filter(|_| affinity) {
        let endpoint = endpoint(backend);
        let _ = writeln!(rules, "ip saddr @affinity-{endpoint} goto endpoint-{endpoint}");
    }
    if !backends.is_empty() {
        let all: Vec<String> =
            backends.iter().enumerate().map(|(index, backend)| format!("{index} : goto endpoint-{}", endpoint(backend))).collect();
        let _ = writeln!(rules, "numgen random mod {} vmap {{ {} }}", all.len(), all.join(", "));
    }
    rules
}

fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

/// The table but for the services.
const BASE: &str = r#"add table ip kube-proxy
delete table ip kube-proxy
table ip kube-proxy {
comment "rules for kube-proxy"
set cluster-ips { type ipv4_addr; comment "Active ClusterIPs"; {cluster-ips} }
set nodeport-ips { type ipv4_addr; comment "IPs that accept NodePort traffic"; elements = { {node} }; }
chain mark-for-masquerade {
meta mark set meta mark or 0x4000
}
{chains}
map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; comment "ClusterIP, ExternalIP and LoadBalancer IP traffic"; {services} }
map service-nodeports { type inet_proto . inet_service : verdict; comment "NodePort traffic"; {ports} }
map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }
map no-endpoint-nodeports { type inet_proto . inet_service : verdict; }
chain services {
ip daddr . meta l4proto . th dport vmap @service-ips
ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
}
chain service-endpoints-check {
ip daddr . meta l4proto . th dport vmap @no-endpoint-services
}
chain nodeport-endpoints-check {
ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
}
chain cluster-ips-check {
ip daddr @cluster-ips reject comment "Reject traffic to invalid ports of ClusterIPs"
}
chain masquerading {
meta mark and 0x4000 == 0 return
meta mark set meta mark xor 0x4000
masquerade{random}
}
chain filter-input {
type filter hook input priority filter; policy accept;
ct state new jump nodeport-endpoints-check
ct state new jump service-endpoints-check
}
chain filter-forward {
type filter hook forward priority filter; policy accept;
ct state new jump service-endpoints-check
ct state new jump cluster-ips-check
}
chain filter-output {
type filter hook output priority filter; policy accept;
ct state new jump service-endpoints-check
ct state new jump cluster-ips-check
}
chain nat-prerouting {
type nat hook prerouting priority dstnat; policy accept;
jump services
}
chain nat-output {
type nat hook output priority -100; policy accept;
jump services
}
chain nat-postrouting {
type nat hook postrouting priority srcnat; policy accept;
jump masquerading
}
}
"#;
