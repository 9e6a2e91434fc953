use super::*;
use crate::model::{AddressOrigin, Mac, NeighbourState, RejectedNode, UnderlayDevice};
use proptest::prelude::*;
use std::net::Ipv4Addr;

fn cluster_node(name: &str, address: &str, pod_cidr: &str) -> ClusterNode {
    let address = address.parse().unwrap();
    ClusterNode {
        name: name.to_owned(),
        address,
        given_by: AddressOrigin::InternalIp,
        internal_ip: Some(address),
        pod_cidr: pod_cidr.parse().unwrap(),
        vtep_mac: Mac::derived_from(address),
        no_tunnel: false,
        notice: None,
    }
}

fn topology(nodes: &[ClusterNode]) -> Topology {
    Topology { nodes: nodes.iter().map(|node| (node.name.clone(), node.clone())).collect(), rejected: Vec::new(), unconfirmed: false }
}

fn device(mtu: u32) -> UnderlayDevice {
    UnderlayDevice { name: "eth0".to_owned(), ifindex: 2, mac: Mac([2, 0, 0, 0, 0, 1]), mtu, kind: None }
}

fn next_hop(address: &str, mac: Option<Mac>) -> NextHop {
    NextHop {
        address: address.parse().unwrap(),
        ifindex: 2,
        local_mac: Mac([2, 0, 0, 0, 0, 1]),
        source: "192.0.2.200".parse().unwrap(),
        mac,
        state: if mac.is_some() { NeighbourState::Reachable } else { NeighbourState::Incomplete },
        mtu: None,
        on_link: false,
        node_mac: mac,
    }
}

fn underlay(next_hops: &[(&str, NextHop)]) -> Underlay {
    Underlay {
        device: device(1500),
        next_hops: next_hops.iter().map(|(address, next_hop)| (address.parse().unwrap(), next_hop.clone())).collect(),
    }
}

fn inputs<'a>(topology: &'a Topology, underlay: &'a Underlay) -> Inputs<'a> {
    Inputs { node_name: "a", vni: 1, port: 8472, backend: Backend::Vxlan, mtu: None, receive_mode: abi::receive::TC, topology, underlay }
}

#[test]
fn what_pods_reach_with_their_own_address_is_listed_once() {
    let this = cluster_node("a", "192.0.2.1", "10.244.1.0/24");
    let listed = |direct: &[&str]| {
        let direct: Vec<Ipv4Net> = direct.iter().map(|net| net.parse().unwrap()).collect();
        firewall(&this, true, &direct, 8472).direct.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(listed(&[]), ["10.244.1.0/24", "224.0.0.0/4"]);
    assert_eq!(listed(&["10.244.0.0/16"]), ["10.244.0.0/16", "224.0.0.0/4"]);
    assert_eq!(
        listed(&["192.168.0.0/16", "10.0.0.0/8", "192.168.7.0/24", "10.244.0.0/16"]),
        ["10.0.0.0/8", "192.168.0.0/16", "224.0.0.0/4"]
    );
    assert_eq!(listed(&["10.244.0.0/24"]), ["10.244.0.0/23", "224.0.0.0/4"]);
}

#[test]
fn three_nodes_one_behind_a_router_one_without_a_route() {
    let cluster = topology(&[
        cluster_node("a", "192.0.2.1", "10.244.1.0/24"),
        cluster_node("b", "192.0.2.2", "10.244.2.0/24"),
        cluster_node("c", "198.51.100.3", "10.244.3.0/25"),
        cluster_node("d", "203.0.113.4", "10.244.4.0/24"),
    ]);
    let mac = Mac([2, 0, 0, 0, 0, 2]);
    let host = underlay(&[("192.0.2.2", next_hop("192.0.2.2", Some(mac))), ("198.51.100.3", next_hop("192.0.2.254", None))]);
    let desired = desired(&inputs(&cluster, &host)).unwrap();

    let gateway = Ipv4Addr::new(10, 244, 1, 1);
    assert_eq!(desired.link, OverlayLink { mac: Mac([0x0e, 0x4f, 192, 0, 2, 1]), mtu: 1450, port: 8472, address: gateway });
    assert_eq!(
        desired.settings,
        abi::Settings {
            abi_version: abi::ABI_VERSION,
            vni: 1,
            port: 8472,
            receive_mode: abi::receive::TC,
            mtu: 1450,
            overlay_ifindex: 0,
            underlay_ifindex: 2,
            address: [192, 0, 2, 1],
            pod_net: [10, 244, 1, 0],
            pod_mask: [255, 255, 255, 0],
            gateway: [10, 244, 1, 1],
            vtep_mac: [0x0e, 0x4f, 192, 0, 2, 1],
            underlay_mac: [2, 0, 0, 0, 0, 1],
            subnet_lens: 1 << 24 | 1 << 25,
        }
    );
    let subnets: Vec<_> = desired.subnets.iter().map(|(net, subnet)| format!("{net} {}", Ipv4Addr::from(subnet.node))).collect();
    assert_eq!(subnets, ["10.244.2.0/24 192.0.2.2", "10.244.3.0/25 198.51.100.3", "10.244.4.0/24 203.0.113.4"]);
    let subnet = |net: &str| desired.subnets[&net.parse().unwrap()];
    assert_eq!(
        subnet("10.244.3.0/25"),
        abi::Subnet {
            node: [198, 51, 100, 3],
            vtep_mac: [0x0e, 0x4f, 198, 51, 100, 3],
            next_hop_mac: [0; 6],
            local_mac: [2, 0, 0, 0, 0, 1],
            mtu: 1450,
            source: [192, 0, 2, 1],
            next_hop: [192, 0, 2, 254],
            ifindex: 2,
            reach: abi::reach::ENCAP,
            node_mac: [0; 6],
            pad: [0; 2],
        }
    );
    assert_eq!(subnet("10.244.2.0/24").next_hop_mac, mac.0);
    // d has no route: the programs drop and count what is sent to it, and take nothing from it.
    assert_eq!((subnet("10.244.4.0/24").reach, subnet("10.244.4.0/24").ifindex), (abi::reach::NONE, 0));
    assert_eq!(desired.nodes.keys().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.2", "198.51.100.3"]);
    let routed = desired.nodes[&Ipv4Addr::new(198, 51, 100, 3)];
    assert_eq!(routed, abi::Node { pod_net: [10, 244, 3, 0], pod_mask: [255, 255, 255, 128], reach: abi::reach::ENCAP });

    let neighbours: Vec<_> = desired.neighbours.iter().map(|neighbour| neighbour.address.to_string()).collect();
    assert_eq!(neighbours, ["192.0.2.2", "192.0.2.254"]);
    let overlay = |destination: &str| Route::Overlay { destination: destination.parse().unwrap(), source: gateway };
    assert_eq!(
        desired.routes,
        BTreeSet::from([
            overlay("10.244.2.0/24"),
            overlay("10.244.3.0/25"),
            overlay("10.244.4.0/24"),
            Route::Unreachable { destination: "10.244.1.0/24".parse().unwrap() },
        ])
    );
}

#[test]
fn a_cluster_of_one_has_no_peers() {
    let cluster = topology(&[cluster_node("a", "192.0.2.1", "10.244.1.0/24")]);
    let desired = desired(&inputs(&cluster, &underlay(&[]))).unwrap();
    assert!(desired.subnets.is_empty() && desired.nodes.is_empty() && desired.neighbours.is_empty());
    assert_eq!(desired.routes.len(), 1);
}

#[test]
fn without_this_node_there_is_nothing_to_aim_at() {
    let mut cluster = topology(&[cluster_node("b", "192.0.2.2", "10.244.2.0/24")]);
    let host = underlay(&[]);
    let error = desired(&inputs(&cluster, &host)).unwrap_err();
    assert_eq!(error.to_string(), "node a is not in the list of 1 nodes; set --node-name to its name there");
    cluster.rejected.push(RejectedNode { name: "a".to_owned(), reason: "it has no podCIDR yet".to_owned() });
    let error = desired(&inputs(&cluster, &host)).unwrap_err();
    assert_eq!(error.to_string(), "node a, this node, is left out: it has no podCIDR yet");
}

#[test]
fn the_mtu_follows_the_nic_and_the_setting_only_downwards() {
    let cluster = topology(&[cluster_node("a", "192.0.2.1", "10.244.1.0/24")]);
    for (device_mtu, setting, overlay) in [
        (1500, None, Ok(1450)),
        (9000, None, Ok(8950)),
        (9000, Some(1400), Ok(1350)),
        (1400, Some(9000), Ok(1350)),
        (70_000, None, Ok(65_535)),
        (118, None, Ok(68)),
        (117, None, Err("the underlay NIC eth0 has an MTU of 117 bytes; a tunnel needs 118")),
    ] {
        let host = Underlay { device: device(device_mtu), next_hops: BTreeMap::new() };
        let result = desired(&Inputs { mtu: setting, ..inputs(&cluster, &host) });
        assert_eq!(
            result.map(|desired| (desired.link.mtu, desired.settings.mtu)).map_err(|error| error.to_string()),
            overlay.map(|mtu| (mtu, mtu)).map_err(str::to_owned)
        );
    }
}

proptest! {
    #[test]
    fn every_entry_is_about_a_peer_and_every_peer_has_its_entries(count in 1..40_u8, with_route in any::<u64>()) {
        let nodes: Vec<_> = (1..=count).map(|n| cluster_node(&format!("n{n}"), &format!("192.0.2.{n}"), &format!("10.244.{n}.0/24"))).collect();
        let cluster = topology(&nodes);
        let routed = |n: u8| with_route >> (n % 64) & 1 == 1;
        let next_hops = nodes.iter().zip(1..).filter(|(_, n)| routed(*n)).map(|(node, _)| (node.address, next_hop("192.0.2.254", None))).collect();
        let host = Underlay { device: device(1500), next_hops };
        let desired = desired(&Inputs { node_name: "n1", ..inputs(&cluster, &host) }).unwrap();
        prop_assert_eq!(desired.subnets.len(), usize::from(count) - 1);
        prop_assert_eq!(desired.routes.len(), usize::from(count));
        prop_assert_eq!(desired.nodes.len(), (2..=count).filter(|n| routed(*n)).count());
        // This node is never a peer of itself: a packet from its own address is a forgery.
        prop_assert!(!desired.nodes.contains_key(&nodes[0].address) && !desired.subnets.contains_key(&nodes[0].pod_cidr));
        prop_assert!(desired.neighbours.len() <= 1);
    }
}

#[test]
fn the_way_follows_the_route_and_what_is_asked_for() {
    use crate::backend::Way;
    let (flat, flannel) = (cluster_node("b", "192.0.2.2", "10.244.2.0/24"), cluster_node("c", "192.0.2.3", "10.244.3.0/24"));
    let flannel = ClusterNode { no_tunnel: true, ..flannel };
    for (backend, node, ways) in [
        (Backend::Vxlan, &flat, [Way::Encap, Way::Encap, Way::Encap]),
        (Backend::Direct, &flat, [Way::Direct, Way::Encap, Way::Encap]),
        (Backend::HostGw, &flat, [Way::Direct, Way::BehindRouter, Way::BehindRouter]),
        (Backend::Vxlan, &flannel, [Way::Direct, Way::BehindRouter, Way::BehindRouter]),
        (Backend::Direct, &flannel, [Way::Direct, Way::BehindRouter, Way::BehindRouter]),
    ] {
        let neighbour = next_hop(&node.address.to_string(), None);
        let hops = [neighbour.clone(), NextHop { ifindex: 3, ..neighbour }, next_hop("192.0.2.254", None)];
        let found = hops.each_ref().map(|next_hop| Way::to(node, backend, Some(next_hop), &device(1500)));
        assert_eq!(found, ways, "{backend:?} {}", node.name);
        assert_eq!(Way::to(node, backend, None, &device(1500)), Way::NoRoute);
    }
}

#[test]
fn a_neighbour_is_sent_packets_as_they_are_in_full_size() {
    let cluster = topology(&[
        cluster_node("a", "192.0.2.1", "10.244.1.0/24"),
        cluster_node("b", "192.0.2.2", "10.244.2.0/24"),
        cluster_node("c", "198.51.100.3", "10.244.3.0/24"),
    ]);
    let mac = Mac([2, 0, 0, 0, 0, 2]);
    let router = NextHop { on_link: true, ..next_hop("192.0.2.254", None) };
    let host = underlay(&[("192.0.2.2", next_hop("192.0.2.2", Some(mac))), ("198.51.100.3", router)]);
    let (net, source) = (|net: &str| net.parse::<Ipv4Net>().unwrap(), Ipv4Addr::new(10, 244, 1, 1));
    let of = |backend, host: &Underlay| desired(&Inputs { backend, ..inputs(&cluster, host) }).unwrap();
    let direct = |mtu| {
        let (destination, gateway) = (net("10.244.2.0/24"), Ipv4Addr::new(192, 0, 2, 2));
        Route::Direct { destination, gateway, ifindex: 2, source, mtu }
    };

    let mixed = of(Backend::Direct, &host);
    let (b, c) = (mixed.subnets[&net("10.244.2.0/24")], mixed.subnets[&net("10.244.3.0/24")]);
    assert_eq!((b.reach, b.mtu, b.node_mac), (abi::reach::DIRECT, 1500, mac.0));
    assert_eq!((c.reach, c.mtu), (abi::reach::ENCAP, 1450));
    assert!(mixed.routes.contains(&direct(None)));
    assert!(mixed.routes.contains(&Route::Overlay { destination: net("10.244.3.0/24"), source }));
    assert_eq!(mixed.nodes[&Ipv4Addr::new(192, 0, 2, 2)].reach, abi::reach::DIRECT);
    // c may send as a neighbour, though this node does not.
    assert!(mixed.neighbours.contains(&ManagedNeighbour { address: Ipv4Addr::new(198, 51, 100, 3), ifindex: 2 }));
    // Pods and the overlay device have the MTU that fits every way.
    assert_eq!((mixed.settings.mtu, mixed.link.mtu), (1450, 1450));
    assert_eq!(direct_networks(&mixed.subnets), BTreeSet::from([net("10.244.2.0/24")]));

    let all = of(Backend::HostGw, &host);
    assert_eq!((all.settings.mtu, all.link.mtu, all.subnets[&net("10.244.3.0/24")].reach), (1500, 1450, abi::reach::NONE));

    let narrow = NextHop { mtu: Some(1400), ..next_hop("192.0.2.2", Some(mac)) };
    let narrow = of(Backend::Direct, &underlay(&[("192.0.2.2", narrow)]));
    assert_eq!(narrow.subnets[&net("10.244.2.0/24")].mtu, 1400);
    assert!(narrow.routes.contains(&direct(Some(1400))));
}
