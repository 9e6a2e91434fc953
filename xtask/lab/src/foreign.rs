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

use crate::netns::Ns;
use crate::node::{pod_address, pod_cidr, set_node_sysctls};
use crate::nodes::NodeEntry;
use crate::pod::Pod;
use crate::underlay::{Place, Underlay};
use anyhow::Context as _;
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

/// Bytes VXLAN needs in front of an inner packet: what flannel takes off the underlay's MTU.
const OVERHEAD: u32 = overlay_common::abi::ENCAP_OVERHEAD;

/// The other end of a tunnel, as a foreign node has to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
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
        let (pod_cidr, mtu) = (pod_cidr(number), underlay.mtu - OVERHEAD);
        underlay.route_pods(pod_cidr, place.address)?;
        ns.ip(&format!("link add flannel.1 mtu {mtu} type vxlan id 1 dev eth0 local {} dstport 8472 nolearning", place.address))?;
        ns.ip(&format!("address add {}/32 dev flannel.1", pod_cidr.network()))?;
        ns.ip("link set flannel.1 up")?;
        ns.ip(&format!("link add cni0 mtu {mtu} type bridge"))?;
        ns.ip(&format!("address add {}/24 brd {} dev cni0", gateway(pod_cidr), pod_cidr.broadcast()))?;
        ns.ip("link set cni0 up")?;
        let vtep_mac = ns.mac("flannel.1")?;
        Ok(Self { pods: Vec::new(), ns, name, address: place.address, pod_cidr, vtep_mac, mtu, peers: Vec::new() })
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
        self.peers.iter().try_for_each(|peer| self.set_neighbour(peer))
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
        for old in self.peers.iter().filter(|old| !peers.contains(old)) {
            let (subnet, vtep) = (old.pod_cidr, old.pod_cidr.network());
            self.ns.ip(&format!("route delete {subnet} via {vtep} dev flannel.1 onlink"))?;
            self.ns.run("bridge", &format!("fdb delete {} dev flannel.1 dst {}", old.vtep_mac, old.address))?;
            self.ns.ip(&format!("neighbour delete {vtep} lladdr {} dev flannel.1", old.vtep_mac))?;
        }
        for new in peers.iter().filter(|new| !self.peers.contains(new)) {
            let (subnet, vtep) = (new.pod_cidr, new.pod_cidr.network());
            self.set_neighbour(new)?;
            self.ns.run("bridge", &format!("fdb append {} dev flannel.1 dst {} self permanent", new.vtep_mac, new.address))?;
            // Last: with a route and no neighbour the kernel would ask for the address by ARP (flannel's own order).
            self.ns.ip(&format!("route replace {subnet} via {vtep} dev flannel.1 onlink"))?;
        }
        self.peers = peers;
        Ok(())
    }

    fn set_neighbour(&self, peer: &Peer) -> anyhow::Result<()> {
        let vtep = peer.pod_cidr.network();
        self.ns.ip(&format!("neighbour replace {vtep} lladdr {} dev flannel.1 nud permanent", peer.vtep_mac)).map(drop)
    }

    /// Adds the next pod, as the reference bridge plugin does.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn add_pod(&mut self) -> anyhow::Result<&Pod> {
        let (index, mtu) = (self.pods.len() + 1, self.mtu);
        let name = format!("{}-pod-{index}", self.name);
        let address = pod_address(self.pod_cidr, index)?;
        let ns = Ns::create(&name)?;
        let host_interface = format!("veth{index}");
        self.ns
            .ip(&format!("link add {host_interface} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {name}"))
            .with_context(|| format!("wire pod {name}"))?;
        self.ns.ip(&format!("link set {host_interface} master cni0 up"))?;
        ns.ip(&format!("address add {address}/24 brd {} dev eth0", self.pod_cidr.broadcast()))?;
        ns.ip("link set eth0 up")?;
        ns.ip(&format!("route add default via {}", self.gateway()))?;
        self.pods.push(Pod { name, ns, address, host_interface });
        Ok(&self.pods[index - 1])
    }
}

/// The first host address of a network.
fn gateway(pod_cidr: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from_bits(pod_cidr.network().to_bits() + 1)
}
