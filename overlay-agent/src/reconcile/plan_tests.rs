use super::*;
use crate::model::{Mac, ManagedNeighbour};
use proptest::prelude::*;
use std::net::Ipv4Addr;

const IFINDEX: u32 = 7;

fn net(number: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(10, 244, number, 0), 24)
}

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, number)
}

fn link(number: u8) -> OverlayLink {
    OverlayLink {
        mac: Mac([2, 0, 0, 0, 0, number & 1]),
        mtu: 1450 - u32::from(number & 2),
        port: 8472 + u16::from(number & 4),
        address: net(number >> 3).network(),
    }
}

fn settings(vni: u32, overlay_ifindex: u32) -> abi::Settings {
    abi::Settings {
        abi_version: abi::ABI_VERSION,
        vni,
        port: 8472,
        receive_mode: abi::receive::TC,
        mtu: 1450,
        overlay_ifindex,
        underlay_ifindex: 2,
        address: [192, 0, 2, 1],
        pod_net: [10, 244, 1, 0],
        pod_mask: [255, 255, 255, 0],
        gateway: [10, 244, 1, 1],
        vtep_mac: [2, 0, 0, 0, 0, 1],
        underlay_mac: [2, 0, 0, 0, 0, 2],
        subnet_lens: 1 << 24,
    }
}

fn node(number: u8) -> abi::Node {
    abi::Node { pod_net: [10, 244, number, 0], pod_mask: [255, 255, 255, 0], reach: abi::reach::ENCAP }
}

/// Node `number` and the way to it.
fn way(number: u8) -> abi::Subnet {
    abi::Subnet {
        node: address(number).octets(),
        vtep_mac: [0x0e, 0x4f, 192, 0, 2, number],
        next_hop_mac: [0; 6],
        local_mac: [2; 6],
        mtu: 1450,
        source: [192, 0, 2, 1],
        next_hop: address(number).octets(),
        ifindex: 2,
        reach: abi::reach::ENCAP,
        node_mac: [0; 6],
        pad: [0; 2],
    }
}

fn overlay_route(number: u8) -> Route {
    Route::Overlay { destination: net(number), source: net(1).network() }
}

/// Node 1 of a cluster of nodes 1, 2, 3.
fn cluster() -> Desired {
    Desired {
        link: link(0),
        settings: settings(1, 0),
        subnets: [2, 3].map(|n| (net(n), way(n))).into(),
        nodes: [2, 3].map(|n| (address(n), node(n))).into(),
        routes: [Route::Unreachable { destination: net(1) }, overlay_route(2), overlay_route(3)].into(),
        neighbours: [2, 3].map(|n| ManagedNeighbour { address: address(n), ifindex: 2 }).into(),
    }
}

/// The state in which everything of `desired` is as it should be.
fn reached(desired: &Desired) -> Observed {
    super::reached(desired.clone(), abi::Settings { overlay_ifindex: IFINDEX, ..desired.settings })
}

fn nothing() -> Observed {
    Observed {
        link: None,
        settings: abi::Settings { abi_version: 0, ..settings(0, 0) },
        subnets: BTreeMap::new(),
        nodes: BTreeMap::new(),
        routes: BTreeSet::new(),
        neighbours: BTreeSet::new(),
    }
}

/// The kernel, as far as the plan relies on it: routes are replaced by destination, and go with their device; a new device has a new index.
fn apply(state: &mut Observed, action: &Action) {
    match *action {
        Action::CreateLink { link, replace } => {
            assert_eq!(replace, state.link.is_some(), "a device in the way has to be known");
            let ifindex = state.link.map_or(IFINDEX, |old| old.ifindex + 1);
            state.link = Some(OverlayLinkState { ifindex, link: Some(link) });
            state.routes.retain(|route| matches!(route, Route::Unreachable { .. }));
        }
        Action::UpdateLink(link) => {
            let old = state.link.expect("there is a device to update").link.expect("and it is ours");
            assert_eq!((old.port, old.address), (link.port, link.address), "only MTU and MAC can be updated");
            state.link = state.link.map(|state| OverlayLinkState { link: Some(link), ..state });
        }
        Action::PutSettings(settings) => {
            let created = state.link.expect("settings name the device").ifindex;
            let overlay_ifindex = if settings.overlay_ifindex == 0 { created } else { settings.overlay_ifindex };
            state.settings = abi::Settings { overlay_ifindex, ..settings };
        }
        Action::PutNode(address, node) => drop(state.nodes.insert(address, node)),
        Action::PutSubnet(net, subnet) => drop(state.subnets.insert(net, subnet)),
        Action::RemoveSubnet(net) => assert!(state.subnets.remove(&net).is_some(), "removed what is not there"),
        Action::RemoveNode(address) => assert!(state.nodes.remove(&address).is_some(), "removed what is not there"),
        Action::PutRoute(route) => {
            assert!(state.link.is_some(), "a route needs its device");
            state.routes.retain(|other| other.destination() != route.destination());
            state.routes.insert(route);
        }
        Action::RemoveRoute(route) => assert!(state.routes.remove(&route), "removed what is not there"),
        Action::PutNeighbour(neighbour) => drop(state.neighbours.insert(neighbour)),
        Action::RemoveNeighbour(neighbour) => assert!(state.neighbours.remove(&neighbour), "removed what is not there"),
    }
}

fn carry_out(desired: &Desired, observed: &Observed) -> Observed {
    let mut state = observed.clone();
    for action in plan(desired, observed) {
        apply(&mut state, &action);
    }
    state
}

#[test]
fn an_empty_host_is_built_from_the_bottom_up() {
    let desired = cluster();
    let steps: Vec<_> = plan(&desired, &nothing());
    assert_eq!(
        steps,
        [
            Action::CreateLink { link: link(0), replace: false },
            Action::PutSettings(settings(1, 0)),
            Action::PutNeighbour(ManagedNeighbour { address: address(2), ifindex: 2 }),
            Action::PutNeighbour(ManagedNeighbour { address: address(3), ifindex: 2 }),
            Action::PutNode(address(2), node(2)),
            Action::PutNode(address(3), node(3)),
            Action::PutSubnet(net(2), way(2)),
            Action::PutSubnet(net(3), way(3)),
            Action::PutRoute(overlay_route(2)),
            Action::PutRoute(overlay_route(3)),
            Action::PutRoute(Route::Unreachable { destination: net(1) }),
        ]
    );
}

#[test]
fn a_node_that_left_is_taken_down_from_the_top() {
    let observed = reached(&cluster());
    let mut desired = cluster();
    desired.subnets.remove(&net(3));
    desired.nodes.remove(&address(3));
    desired.routes.remove(&overlay_route(3));
    let neighbour = ManagedNeighbour { address: address(3), ifindex: 2 };
    desired.neighbours.remove(&neighbour);
    assert_eq!(
        plan(&desired, &observed),
        [
            Action::RemoveRoute(overlay_route(3)),
            Action::RemoveSubnet(net(3)),
            Action::RemoveNode(address(3)),
            Action::RemoveNeighbour(neighbour),
        ]
    );
}

#[test]
fn a_pod_network_that_moves_to_another_node_is_replaced_in_one_step() {
    let observed = reached(&cluster());
    let mut desired = cluster();
    desired.subnets.insert(net(3), way(2));
    assert_eq!(plan(&desired, &observed), [Action::PutSubnet(net(3), way(2))]);
}

#[test]
fn a_node_that_changes_its_address_is_never_absent() {
    let observed = reached(&cluster());
    let mut desired = cluster();
    desired.nodes.remove(&address(3));
    desired.nodes.insert(address(9), node(3));
    desired.subnets.insert(net(3), way(9));
    assert_eq!(
        plan(&desired, &observed),
        [Action::PutNode(address(9), node(3)), Action::PutSubnet(net(3), way(9)), Action::RemoveNode(address(3))]
    );
}

#[test]
fn a_changed_mtu_or_mac_keeps_the_device() {
    let observed = reached(&cluster());
    let desired = Desired { link: link(3), ..cluster() };
    assert_eq!(plan(&desired, &observed), [Action::UpdateLink(link(3))]);
}

#[test]
fn a_device_made_anew_gets_its_routes_and_its_index_again() {
    let desired = cluster();
    for found in [None, Some(link(4)), Some(link(8))] {
        let observed = Observed { link: Some(OverlayLinkState { ifindex: IFINDEX, link: found }), ..reached(&desired) };
        assert_eq!(
            plan(&desired, &observed),
            [
                Action::CreateLink { link: link(0), replace: true },
                Action::PutSettings(settings(1, 0)),
                Action::PutRoute(overlay_route(2)),
                Action::PutRoute(overlay_route(3)),
            ]
        );
    }
}

#[test]
fn a_changed_route_is_replaced_and_its_predecessor_not_removed() {
    let desired = cluster();
    let mut observed = reached(&desired);
    observed.routes.remove(&overlay_route(2));
    observed.routes.insert(Route::Overlay { destination: net(2), source: address(77) });
    assert_eq!(plan(&desired, &observed), [Action::PutRoute(overlay_route(2))]);
}

#[test]
fn a_second_route_to_a_destination_is_removed() {
    let desired = cluster();
    let mut observed = reached(&desired);
    let second = Route::Unreachable { destination: net(2) };
    observed.routes.insert(second);
    assert_eq!(plan(&desired, &observed), [Action::RemoveRoute(second)]);
}

// === Any two states ===

type Parts = (BTreeMap<Ipv4Net, abi::Subnet>, BTreeMap<Ipv4Addr, abi::Node>, BTreeSet<Route>, BTreeSet<ManagedNeighbour>);

fn any_parts() -> impl Strategy<Value = Parts> {
    let number = 0..6_u8;
    let route = prop_oneof![
        (number.clone(), number.clone()).prop_map(|(n, source)| Route::Overlay { destination: net(n), source: address(source) }),
        number.clone().prop_map(|n| Route::Unreachable { destination: net(n) }),
    ];
    (
        prop::collection::btree_map(number.clone().prop_map(net), number.clone().prop_map(way), 0..6),
        prop::collection::btree_map(number.clone().prop_map(address), number.clone().prop_map(node), 0..6),
        prop::collection::btree_set(route, 0..6),
        prop::collection::btree_set(number.prop_map(|n| ManagedNeighbour { address: address(n), ifindex: 2 }), 0..6),
    )
}

fn any_desired() -> impl Strategy<Value = Desired> {
    (0..64_u8, 1..4_u32, any_parts()).prop_map(|(device, vni, (subnets, nodes, routes, neighbours))| {
        // One route per destination, as `desired` makes them.
        let routes: BTreeMap<Ipv4Net, Route> = routes.into_iter().map(|route| (route.destination(), route)).collect();
        Desired { link: link(device), settings: settings(vni, 0), subnets, nodes, routes: routes.into_values().collect(), neighbours }
    })
}

fn any_observed() -> impl Strategy<Value = Observed> {
    let device = prop::option::of((1..9_u32, prop::option::of((0..64_u8).prop_map(link))));
    (device, 0..4_u32, 0..9_u32, any_parts()).prop_map(|(device, vni, ifindex, (subnets, nodes, mut routes, neighbours))| {
        if device.is_none() {
            routes.retain(|route| matches!(route, Route::Unreachable { .. }));
        }
        let link = device.map(|(ifindex, link)| OverlayLinkState { ifindex, link });
        let settings = abi::Settings { subnet_lens: 1 << (20 + ifindex), ..settings(vni, ifindex) };
        Observed { link, settings, subnets, nodes, routes, neighbours }
    })
}

/// Position of an action's kind in the order that must hold.
fn rank(action: &Action) -> usize {
    match action {
        Action::CreateLink { .. } | Action::UpdateLink(_) => 0,
        Action::PutSettings(_) => 1,
        Action::PutNeighbour(_) => 2,
        Action::PutNode(..) => 3,
        Action::PutSubnet(..) => 4,
        Action::PutRoute(_) => 5,
        Action::RemoveRoute(_) => 6,
        Action::RemoveSubnet(_) => 7,
        Action::RemoveNode(_) => 8,
        Action::RemoveNeighbour(_) => 9,
    }
}

proptest! {
    #[test]
    fn nothing_to_do_is_an_empty_plan(desired in any_desired()) {
        prop_assert_eq!(plan(&desired, &reached(&desired)), []);
    }

    #[test]
    fn the_plan_leads_to_what_is_desired(desired in any_desired(), observed in any_observed()) {
        let state = carry_out(&desired, &observed);
        let ifindex = state.link.map(|link| link.ifindex).unwrap_or_default();
        let mut expected = reached(&desired);
        expected.link = Some(OverlayLinkState { ifindex, link: Some(desired.link) });
        expected.settings.overlay_ifindex = ifindex;
        expected.settings.subnet_lens |= observed.settings.subnet_lens;
        prop_assert_eq!(&state, &expected);
        prop_assert_eq!(plan(&desired, &state), []);
    }

    #[test]
    fn the_order_holds_and_nothing_is_put_and_removed(desired in any_desired(), observed in any_observed()) {
        let actions = plan(&desired, &observed);
        prop_assert!(actions.is_sorted_by_key(rank), "{:?}", actions);
        for action in &actions {
            if let Action::RemoveSubnet(net) = action {
                prop_assert!(!desired.subnets.contains_key(net));
            }
        }
    }
}

/// Node 2 is sent packets as they are.
fn directly(cluster: &Desired) -> Desired {
    let mut direct = cluster.clone();
    direct.subnets.insert(net(2), abi::Subnet { reach: abi::reach::DIRECT, ..way(2) });
    direct.nodes.insert(address(2), abi::Node { reach: abi::reach::DIRECT, ..node(2) });
    direct.routes.remove(&overlay_route(2));
    direct.routes.insert(Route::Direct { destination: net(2), gateway: address(2), ifindex: 2, source: net(1).network(), mtu: None });
    direct
}

#[test]
fn the_way_to_a_node_changes_in_an_order_that_loses_nothing() {
    let steps = |from: &Desired, to: &Desired| -> Vec<&'static str> {
        let name = |action: &Action| match action {
            Action::PutNode(..) => "node",
            Action::PutSubnet(..) => "subnet",
            Action::PutRoute(..) => "route",
            _ => "other",
        };
        plan(to, &reached(from)).iter().map(name).collect()
    };
    let (tunnel, direct) = (cluster(), directly(&cluster()));
    assert_eq!(steps(&tunnel, &direct), ["node", "subnet", "route"]);
    assert_eq!(steps(&direct, &tunnel), ["route", "subnet", "node"]);
}
