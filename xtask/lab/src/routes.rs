//! A node without bridge and encapsulation: kernel routes and veths, as Calico without encapsulation and flannel's host-gw leave them.
//!
//! ```text
//! node                                                 pod
//! 10.244.2.0/24 via 192.168.50.12 dev eth0             169.254.1.1 dev eth0 scope link
//! blackhole 10.244.1.0/24                              default via 169.254.1.1 dev eth0
//! 10.244.1.11 dev veth1 scope link                     10.244.1.11/32 on eth0
//! ```
//!
//! Checked against Calico's CNI plugin (`cni-plugin/pkg/dataplane/linux`): the node's ends of all veths have one MAC and answer ARP for
//! every address. Its iptables rules are left out: this is what the kernel's routes alone can do. Both ends of a veth know the other's
//! MAC for good, which is what traffic in both directions would teach them: a receiver that only counts packets answers no ARP.

use crate::netns::Ns;
use crate::node::set_node_sysctls;
use crate::pod::{self, Pod, Wire};
use crate::underlay::{Place, Underlay};
use ipnet::Ipv4Net;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// MAC of the node's end of every veth.
const HOST_MAC: &str = "ee:ee:ee:ee:ee:ee";

/// A node that routes.
#[derive(Debug)]
pub struct RoutesNode {
    /// Its pods.
    pub pods: Vec<Pod>,
    /// Its network.
    pub ns: Ns,
    /// Its name.
    pub name: String,
    /// Its address on the underlay.
    pub address: Ipv4Addr,
    /// Where its pods get their addresses from.
    pub pod_cidr: Ipv4Net,
    mtu: u32,
}

impl RoutesNode {
    /// Makes a node and plugs it in. It knows no other yet.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn create(underlay: &Underlay, place: Place, number: u8) -> anyhow::Result<Self> {
        let name = format!("node-{number}");
        let ns = Ns::create(&name)?;
        set_node_sysctls(&ns)?;
        underlay.plug(&ns, place)?;
        let Place { address, pod_cidr, .. } = place;
        underlay.route_pods(pod_cidr, address)?;
        ns.ip(&format!("route add blackhole {pod_cidr} proto bird"))?;
        // What the plugin sets on each of its veths; `default` is for devices that are made later. It also sets proxy_delay to 0, which
        // matters to ARP only.
        ns.set_sysctl("net.ipv4.conf.default.proxy_arp", "1")?;
        ns.set_sysctl("net.ipv4.conf.default.route_localnet", "1")?;
        Ok(Self { pods: Vec::new(), ns, name, address, pod_cidr, mtu: underlay.mtu })
    }

    /// Sets the route to the pods of each other node: their network, and the next hop on the way there.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn set_routes(&self, routes: &[(Ipv4Net, Ipv4Addr)]) -> anyhow::Result<()> {
        let lines = routes.iter().fold(String::new(), |mut lines, (pod_cidr, next_hop)| {
            let _ = writeln!(lines, "route replace {pod_cidr} via {next_hop} dev eth0 proto bird");
            lines
        });
        self.ns.batch("ip", &lines)
    }

    /// Adds the next `count` pods.
    ///
    /// # Errors
    /// `ip` fails: then none of them is there.
    pub fn add_pods(&mut self, count: usize) -> anyhow::Result<()> {
        let pods = pod::create(&self.name, self.pod_cidr, self.pods.len(), count)?;
        pod::connect(&self.ns, &pods, |pod| wire(pod, self.mtu))?;
        self.pods.extend(pods);
        Ok(())
    }
}

fn wire(pod: &Pod, mtu: u32) -> Wire {
    let Pod { name, address, host_interface, .. } = pod;
    let [a, b, c, d] = address.octets();
    let mac = format!("0a:58:{a:02x}:{b:02x}:{c:02x}:{d:02x}");
    Wire {
        node: format!(
            "link add {host_interface} address {HOST_MAC} mtu {mtu} type veth peer name eth0 address {mac} mtu {mtu} netns {name}\n\
             link set {host_interface} up\n\
             route add {address}/32 dev {host_interface} scope link\n\
             neighbour replace {address} lladdr {mac} dev {host_interface} nud permanent\n"
        ),
        pod: format!(
            "address add {address}/32 dev eth0\n\
             link set eth0 up\n\
             route add 169.254.1.1 dev eth0 scope link\n\
             route add default via 169.254.1.1 dev eth0\n\
             neighbour replace 169.254.1.1 lladdr {HOST_MAC} dev eth0 nud permanent\n"
        ),
    }
}
