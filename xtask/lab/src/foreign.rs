//! A node that is not ours: the kernel's vxlan device and bridge, set up as a running flannel cluster shows them. The oracle.
//!
//! What a node of such a cluster prints, and so what is made here (`ip route`, `ip neighbour show dev flannel.1`, `bridge fdb show dev flannel.1`):
//!
//! ```text
//! 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink
//! 10.244.2.0/24 dev cni0 proto kernel scope link src 10.244.2.1
//! 10.244.1.0 lladdr 0e:4f:c0:a8:32:0b PERMANENT
//! 0e:4f:c0:a8:32:0b dst 192.168.50.11 self permanent
//! ```
//!
//! Checked against flannel 0.28 (`pkg/backend/vxlan`) and the reference bridge plugin 1.9 with the configuration in kube-flannel.yml:
//! hairpin on every port, the bridge keeps its first MAC, the MTU 50 less than the underlay's, outer UDP checksums as the kernel likes
//! (on), no offload of `flannel.1` changed. flannel's documentation advises `tx-checksum-ip-generic off` only for nodes behind NAT.

use crate::netns::Ns;
use crate::node::set_node_sysctls;
use crate::nodes::NodeEntry;
use crate::pod::{self, Pod, Wire};
use crate::underlay::{Place, Underlay};
use anyhow::{Context as _, ensure};
use ipnet::Ipv4Net;
use serde_json::Value;
use std::collections::HashSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// Bytes VXLAN needs in front of an inner packet: what flannel takes off the underlay's MTU.
const OVERHEAD: u32 = overlay_common::abi::ENCAP_OVERHEAD;

/// Ports a bridge can have: `BR_MAX_PORTS`, less the one that is never given out.
const MOST_PODS: usize = 1023;

/// The other end of a tunnel, as a foreign node has to know it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Address on the underlay.
    pub address: Ipv4Addr,
    /// Network of its pods.
    pub pod_cidr: Ipv4Net,
    /// MAC of its tunnel end.
    pub vtep_mac: String,
}

/// A node with the kernel's vxlan.
#[derive(Debug)]
pub struct ForeignNode {
    /// Its pods.
    pub pods: Vec<Pod>,
    /// Its network.
    pub ns: Ns,
    /// Its name, in the nodes file too.
    pub name: String,
    /// Its address on the underlay.
    pub address: Ipv4Addr,
    /// Where its pods get their addresses from.
    pub pod_cidr: Ipv4Net,
    /// MAC of `flannel.1`: the kernel's choice.
    pub vtep_mac: String,
    /// Pods made from now on and the node know each other's MAC for good, and the bridge knows its ports: what traffic in both directions
    /// would teach them, for benchmarks whose receiver never answers. Otherwise ARP and learning, as in any cluster.
    pub settled: bool,
    bridge_mac: String,
    mtu: u32,
    peers: Vec<Peer>,
}

impl ForeignNode {
    /// Makes a node and plugs it in. It knows no peer yet.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn create(underlay: &Underlay, place: Place, number: u8) -> anyhow::Result<Self> {
        let name = format!("node-{number}");
        let ns = Ns::create(&name)?;
        set_node_sysctls(&ns)?;
        underlay.plug(&ns, place)?;
        let (Place { address, pod_cidr, .. }, mtu) = (place, underlay.mtu - OVERHEAD);
        underlay.route_pods(pod_cidr, address)?;
        ns.ip(&format!("link add flannel.1 mtu {mtu} type vxlan id 1 dev eth0 local {address} dstport 8472 nolearning"))?;
        ns.ip(&format!("address add {}/32 dev flannel.1", pod_cidr.network()))?;
        ns.ip("link set flannel.1 up")?;
        ns.ip(&format!("link add cni0 mtu {mtu} type bridge"))?;
        ns.ip(&format!("address add {}/{} brd {} dev cni0", gateway(pod_cidr), pod_cidr.prefix_len(), pod_cidr.broadcast()))?;
        let bridge_mac = ns.mac("cni0")?;
        // Set to what it is: a bridge whose MAC nobody set takes the lowest of its ports', and changes as pods come and go.
        ns.ip(&format!("link set cni0 address {bridge_mac} up"))?;
        let vtep_mac = ns.mac("flannel.1")?;
        Ok(Self { pods: Vec::new(), ns, name, address, pod_cidr, vtep_mac, settled: false, bridge_mac, mtu, peers: Vec::new() })
    }

    /// What the cluster's list says of it: with the annotations flannel writes.
    #[must_use]
    pub fn entry(&self) -> NodeEntry {
        let mut entry = NodeEntry::new(&self.name, self.address, &self.pod_cidr);
        let annotation = |name: &str, value: String| (format!("flannel.alpha.coreos.com/{name}"), value);
        entry.annotations = vec![
            annotation("backend-data", format!(r#"'{{"VNI":1,"VtepMAC":"{}"}}'"#, self.vtep_mac)),
            annotation("backend-type", "vxlan".to_owned()),
            annotation("kube-subnet-manager", "\"true\"".to_owned()),
            annotation("public-ip", self.address.to_string()),
        ];
        entry
    }

    /// Its address inside the overlay that its pods know: the bridge's.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        gateway(self.pod_cidr)
    }

    /// Gives the tunnel end another MAC, as a flannel that was set up anew has. Peers and the nodes file have to be told.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn set_vtep_mac(&mut self, mac: &str) -> anyhow::Result<()> {
        self.ns.ip(&format!("link set flannel.1 address {mac}"))?;
        mac.clone_into(&mut self.vtep_mac);
        // The kernel has just forgotten the device's neighbours, permanent ones included (neigh_changeaddr).
        self.peers.iter().try_for_each(|peer| self.ns.ip(&neighbour(peer)).map(drop))
    }

    /// Itself, as others have to know it.
    #[must_use]
    pub fn as_peer(&self) -> Peer {
        Peer { address: self.address, pod_cidr: self.pod_cidr, vtep_mac: self.vtep_mac.clone() }
    }

    /// Sets neighbour, FDB entry and route of every peer, and forgets who is not in the list.
    ///
    /// # Errors
    /// `ip` or `bridge` fails.
    pub fn set_peers(&mut self, peers: Vec<Peer>) -> anyhow::Result<()> {
        let (mut routes, mut fdb, mut neighbours) = (String::new(), String::new(), String::new());
        for old in without(&self.peers, &peers) {
            let (subnet, vtep) = (old.pod_cidr, old.pod_cidr.network());
            let _ = writeln!(routes, "route delete {subnet} via {vtep} dev flannel.1 onlink");
            let _ = writeln!(fdb, "fdb delete {} dev flannel.1 dst {}", old.vtep_mac, old.address);
            let _ = writeln!(neighbours, "neighbour delete {vtep} lladdr {} dev flannel.1", old.vtep_mac);
        }
        self.apply(&[("ip", routes), ("bridge", fdb), ("ip", neighbours)])?;
        let (mut routes, mut fdb, mut neighbours) = (String::new(), String::new(), String::new());
        for new in without(&peers, &self.peers) {
            let (subnet, vtep) = (new.pod_cidr, new.pod_cidr.network());
            let _ = writeln!(neighbours, "{}", neighbour(new));
            let _ = writeln!(fdb, "fdb append {} dev flannel.1 dst {} self permanent", new.vtep_mac, new.address);
            let _ = writeln!(routes, "route replace {subnet} via {vtep} dev flannel.1 onlink");
        }
        // Routes last: with a route and no neighbour the kernel would ask for the address by ARP (flannel's own order).
        self.apply(&[("ip", neighbours), ("bridge", fdb), ("ip", routes)])?;
        self.peers = peers;
        Ok(())
    }

    /// Takes its peers out of the Nodes of the API server as flannel's subnet manager does, and sets them. What that one does not accept is
    /// no peer: a Node without the annotation `kube-subnet-manager`, without a `public-ip`, or without the data of the vxlan backend.
    /// Itself it knows by its pod network. Returns the names of the peers.
    ///
    /// # Errors
    /// As [`Self::set_peers`].
    pub fn follow(&mut self, nodes: &[Value]) -> anyhow::Result<Vec<String>> {
        let leases: Vec<(String, Peer)> = nodes.iter().filter_map(lease).filter(|(_, peer)| peer.pod_cidr != self.pod_cidr).collect();
        let (names, peers) = leases.into_iter().unzip();
        self.set_peers(peers)?;
        Ok(names)
    }

    fn apply(&self, batches: &[(&str, String)]) -> anyhow::Result<()> {
        batches.iter().filter(|(_, lines)| !lines.is_empty()).try_for_each(|(program, lines)| self.ns.batch(program, lines))
    }

    /// Adds the next pod.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn add_pod(&mut self) -> anyhow::Result<&Pod> {
        self.add_pods(1)?;
        self.pods.last().context("a pod that was just added")
    }

    /// Adds the next `count` pods, as the reference bridge plugin does.
    ///
    /// # Errors
    /// More than a bridge has ports, or `ip` fails: then none of them is there.
    pub fn add_pods(&mut self, count: usize) -> anyhow::Result<()> {
        let present = self.pods.len();
        ensure!(present + count <= MOST_PODS, "a bridge has {MOST_PODS} ports: no room for {} pods on {}", present + count, self.name);
        let pods = pod::create(&self.name, self.pod_cidr, present, count)?;
        pod::connect(&self.ns, &pods, |pod| self.wire(pod))?;
        if self.settled {
            let ports = pods.iter().fold(String::new(), |mut lines, pod| {
                let _ = writeln!(lines, "fdb replace {} dev {} master static", mac(pod.address), pod.host_interface);
                lines
            });
            self.ns.batch("bridge", &ports)?;
        }
        self.pods.extend(pods);
        Ok(())
    }

    fn wire(&self, pod: &Pod) -> Wire {
        let Pod { name, address, host_interface, .. } = pod;
        let (mtu, mac, gateway) = (self.mtu, mac(*address), self.gateway());
        let mut node = format!(
            "link add {host_interface} mtu {mtu} type veth peer name eth0 address {mac} mtu {mtu} netns {name}\n\
             link set {host_interface} master cni0 up\n\
             link set {host_interface} type bridge_slave hairpin on\n"
        );
        let mut inside = format!(
            "address add {address}/{} brd {} dev eth0\nlink set eth0 up\nroute add default via {gateway}\n",
            self.pod_cidr.prefix_len(),
            self.pod_cidr.broadcast()
        );
        if self.settled {
            let _ = writeln!(node, "neighbour replace {address} lladdr {mac} dev cni0 nud permanent");
            let _ = writeln!(inside, "neighbour replace {gateway} lladdr {} dev eth0 nud permanent", self.bridge_mac);
        }
        Wire { node, pod: inside }
    }
}

/// A Node as flannel's vxlan backend accepts it (flannel 0.28, `nodeToLease` in `pkg/subnet/kube` and `handleSubnetEvents` in
/// `pkg/backend/vxlan`), by name.
fn lease(node: &Value) -> Option<(String, Peer)> {
    let annotation = |name: &str| node["metadata"]["annotations"][format!("flannel.alpha.coreos.com/{name}")].as_str();
    if annotation("kube-subnet-manager") != Some("true") || annotation("backend-type") != Some("vxlan") {
        return None;
    }
    let data: Value = serde_json::from_str(annotation("backend-data")?).ok()?;
    let vtep_mac = data["VtepMAC"].as_str()?.to_owned();
    let peer =
        Peer { address: annotation("public-ip")?.parse().ok()?, pod_cidr: node["spec"]["podCIDR"].as_str()?.parse().ok()?, vtep_mac };
    Some((node["metadata"]["name"].as_str()?.to_owned(), peer))
}

/// The first host address of a network.
fn gateway(pod_cidr: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from_bits(pod_cidr.network().to_bits() + 1)
}

/// The MAC of a pod's device, from its address: as the bridge plugin chose it while it did so itself.
fn mac(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("0a:58:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

fn neighbour(peer: &Peer) -> String {
    format!("neighbour replace {} lladdr {} dev flannel.1 nud permanent", peer.pod_cidr.network(), peer.vtep_mac)
}

/// The peers of one list that are not in the other.
fn without<'a>(of: &'a [Peer], others: &[Peer]) -> impl Iterator<Item = &'a Peer> {
    let others: HashSet<&Peer> = others.iter().collect();
    of.iter().filter(move |peer| !others.contains(peer))
}
