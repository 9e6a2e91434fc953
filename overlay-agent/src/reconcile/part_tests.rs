use super::super::plan::{plan, reached};
use super::*;
use crate::backend::Backend;
use crate::desired::{Inputs, desired};
use crate::model::{AddressOrigin, Desired, Mac, NeighbourState, Underlay, UnderlayDevice};
use overlay_common::abi;
use proptest::prelude::*;

const THIS: &str = "this";

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, number)
}

fn node(name: &str, number: u8, network: u8) -> ClusterNode {
    // Lengths that differ, as a cluster's do not: the bit for each is in the settings.
    let pod_cidr = Ipv4Net::new_assert(Ipv4Addr::new(10, 244, network, 0), 24 + network % 3);
    ClusterNode {
        name: name.to_owned(),
        address: address(number),
        given_by: AddressOrigin::InternalIp,
        internal_ip: None,
        pod_cidr,
        vtep_mac: Mac::derived_from(address(number)),
        no_tunnel: false,
        notice: None,
    }
}

/// Snapshots in which no two nodes share an address or a network: what a name has is a permutation's business.
fn snapshot() -> impl Strategy<Value = Topology> {
    let indices = || Just((1..20_u8).collect::<Vec<u8>>()).prop_shuffle();
    (indices(), indices(), prop::collection::vec(any::<bool>(), 19)).prop_map(|(addresses, networks, there)| {
        let all = addresses.into_iter().zip(networks).zip(there).enumerate();
        let peers = all.filter(|(_, (_, there))| *there).map(|(index, ((number, network), _))| node(&format!("n{index}"), number, network));
        let nodes = peers.chain([node(THIS, 100, 100)]).map(|node| (node.name.clone(), node)).collect();
        Topology { nodes, ..Topology::default() }
    })
}

/// Some addresses are on the link, some behind one of two routers, some nowhere.
fn way(address: Ipv4Addr) -> Option<NextHop> {
    let number = address.octets()[3];
    let hop = match number % 5 {
        0 => return None,
        1 | 2 => Ipv4Addr::new(192, 0, 2, 200 + number % 5),
        _ => address,
    };
    let (ifindex, local_mac, source) = (2, Mac([2; 6]), Ipv4Addr::new(192, 0, 2, 100));
    let (mac, mtu, node_mac, state) = (None, None, None, NeighbourState::Incomplete);
    Some(NextHop { address: hop, ifindex, local_mac, source, mac, state, mtu, on_link: number.is_multiple_of(2), node_mac })
}

fn underlay(topology: &Topology) -> Underlay {
    let device = UnderlayDevice { name: "eth0".to_owned(), ifindex: 2, mac: Mac([2; 6]), mtu: 1500, kind: None };
    let next_hops = topology.nodes.values().filter_map(|node| Some((node.address, way(node.address)?))).collect();
    Underlay { device, next_hops }
}

fn aim(topology: &Topology, underlay: &Underlay) -> Desired {
    let inputs = Inputs {
        node_name: THIS,
        vni: 1,
        port: 8472,
        backend: Backend::Direct,
        mtu: None,
        receive_mode: abi::receive::TC,
        topology,
        underlay,
    };
    desired(&inputs).expect("this node is in it")
}

/// What the kernel holds when all of `desired` is done, beside what was there `before`.
fn done(desired: Desired, before: &Observed) -> Observed {
    let subnet_lens = desired.settings.subnet_lens | before.settings.subnet_lens;
    let settings = abi::Settings { overlay_ifindex: 7, subnet_lens, ..desired.settings };
    reached(desired, settings)
}

fn first(topology: &Topology) -> Observed {
    let desired = aim(topology, &underlay(topology));
    let settings = abi::Settings { overlay_ifindex: 7, ..desired.settings };
    reached(desired, settings)
}

proptest! {
    #[test]
    fn the_part_gives_the_plan_and_the_state_that_the_whole_gives(before in snapshot(), now in snapshot()) {
        let held = first(&before);
        let mut rest = held.clone();
        let this = &now.nodes[THIS];
        let part = Part::between(&before, &now, this);

        let mut next_hops = underlay(&before).next_hops;
        part.forget(&mut next_hops);
        next_hops.extend(underlay(&part.now).next_hops.into_iter().filter(|(address, _)| *address != this.address));
        let mut whole_underlay = underlay(&now);
        whole_underlay.next_hops.remove(&this.address);
        next_hops.remove(&this.address);
        prop_assert_eq!(&next_hops, &whole_underlay.next_hops);

        let cut = part.cut(&mut rest, &next_hops);
        let part_desired = aim(&part.now, &Underlay { next_hops, ..whole_underlay.clone() });
        let whole_desired = aim(&now, &whole_underlay);
        prop_assert_eq!(plan(&part_desired, &cut), plan(&whole_desired, &held));
        put_back(&mut rest, done(part_desired, &cut));
        prop_assert_eq!(rest, done(whole_desired, &held));
    }

    #[test]
    fn what_is_equal_is_no_part(snapshot in snapshot()) {
        let part = Part::between(&snapshot, &snapshot, &snapshot.nodes[THIS]);
        prop_assert_eq!(part.now.nodes.len(), 1);
        prop_assert!(part.addresses.is_empty());
    }
}
