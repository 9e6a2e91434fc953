use super::*;
use crate::model::{AddressOrigin, Mac};
use jiff::Timestamp;
use proptest::prelude::*;

fn candidate(name: &str, created: Option<i64>, address: &str, pod_cidr: &str) -> Candidate {
    let address = address.parse().unwrap();
    Candidate {
        name: name.to_owned(),
        uid: Some(name.to_owned()),
        created: created.map(|second| Timestamp::from_second(second).unwrap()),
        node: Ok(ClusterNode {
            name: name.to_owned(),
            address,
            given_by: AddressOrigin::InternalIp,
            internal_ip: Some(address),
            pod_cidr: pod_cidr.parse().unwrap(),
            vtep_mac: Mac::derived_from(address),
            no_tunnel: false,
            notice: None,
        }),
    }
}

fn names(topology: &Topology) -> Vec<&str> {
    topology.nodes.keys().map(String::as_str).collect()
}

#[test]
fn the_oldest_claimant_wins_then_the_first_by_name() {
    let old = candidate("z", Some(1), "192.0.2.1", "10.244.1.0/24");
    let young = candidate("a", Some(2), "192.0.2.2", "10.244.1.0/24");
    let undated = candidate("0", None, "192.0.2.3", "10.244.1.0/24");
    let twin = candidate("y", Some(1), "192.0.2.4", "10.244.1.0/24");
    assert_eq!(names(&topology([&young, &old, &undated])), ["z"]);
    assert_eq!(names(&topology([&undated, &young])), ["a"]);
    assert_eq!(names(&topology([&old, &twin])), ["y"]);
}

#[test]
fn the_next_claimant_comes_in_when_the_winner_goes() {
    let first = candidate("a", Some(1), "192.0.2.1", "10.244.1.0/24");
    let second = candidate("b", Some(2), "192.0.2.2", "10.244.1.0/24");
    let both = topology([&first, &second]);
    assert_eq!((names(&both), both.rejected.len()), (vec!["a"], 1));
    let after = topology([&second]);
    assert_eq!((names(&after), after.rejected.len()), (vec!["b"], 0));
}

#[test]
fn a_loser_takes_nothing_from_others() {
    // b loses against a, so c, which only b contradicts, stays.
    let a = candidate("a", Some(1), "192.0.2.1", "10.244.1.0/24");
    let b = candidate("b", Some(2), "192.0.2.1", "10.244.2.0/24");
    let c = candidate("c", Some(3), "192.0.2.3", "10.244.2.0/24");
    assert_eq!(names(&topology([&a, &b, &c])), ["a", "c"]);
}

#[test]
fn a_network_that_contains_those_of_several_nodes_loses_whatever_its_age() {
    let wide = candidate("wide", Some(1), "192.0.2.9", "10.244.0.0/16");
    let a = candidate("a", Some(2), "192.0.2.1", "10.244.1.0/24");
    let b = candidate("b", Some(3), "192.0.2.2", "10.244.2.0/24");
    let all = topology([&wide, &a, &b]);
    assert_eq!(names(&all), ["a", "b"]);
    assert_eq!(all.rejected[0].reason, "its podCIDR 10.244.0.0/16 contains those of 2 other nodes, a among them");
    // Against one other node nobody can tell whose mistake it is: the one that came first stays.
    assert_eq!(names(&topology([&wide, &a])), ["wide"]);
}

#[test]
fn networks_side_by_side_do_not_conflict() {
    let nodes = ["10.244.0.0/25", "10.244.0.128/25", "10.244.1.0/24", "10.243.0.0/16"]
        .iter()
        .zip(1..)
        .map(|(net, number)| candidate(&format!("n{number}"), Some(number), &format!("192.0.2.{number}"), net))
        .collect::<Vec<_>>();
    assert_eq!(topology(&nodes).nodes.len(), 4);
}

/// Claims that meet often: few names, addresses and networks of every size.
fn claims() -> impl Strategy<Value = Vec<Candidate>> {
    let claim = (0..8_u32, prop::option::of(0..4_i64), 0..6_u8, 0..4_u8, 22..=26_u8, any::<bool>());
    prop::collection::vec(claim, 0..12).prop_map(|claims| {
        let candidate = |(name, created, address, net, prefix, inside): (u32, Option<i64>, u8, u8, u8, bool)| {
            let network = Ipv4Net::new(Ipv4Addr::new(10, 244, net, 0), prefix).unwrap().trunc();
            let address = if inside { format!("10.244.{address}.9") } else { format!("192.0.2.{address}") };
            candidate(&format!("node-{name}"), created, &address, &network.to_string())
        };
        claims
            .into_iter()
            .map(candidate)
            .filter(|claim| claim.node.as_ref().is_ok_and(|node| !node.pod_cidr.contains(&node.address)))
            .collect()
    })
}

proptest! {
    #[test]
    fn order_does_not_matter((claims, shuffled) in claims().prop_flat_map(|claims| (Just(claims.clone()), Just(claims).prop_shuffle()))) {
        prop_assert_eq!(topology(&claims), topology(&shuffled));
    }

    #[test]
    fn what_is_accepted_has_no_conflict_and_nothing_is_lost(claims in claims()) {
        let topology = topology(&claims);
        prop_assert_eq!(topology.nodes.len() + topology.rejected.len(), claims.len());
        for a in topology.nodes.values() {
            for b in topology.nodes.values().filter(|b| b.name != a.name) {
                prop_assert_ne!(a.address, b.address);
                prop_assert!(!a.pod_cidr.contains(&b.address), "{} contains {}", a.pod_cidr, b.address);
                prop_assert!(!a.pod_cidr.contains(&b.pod_cidr.network()), "{} and {}", a.pod_cidr, b.pod_cidr);
            }
        }
    }

    #[test]
    fn without_the_rejected_the_same_are_accepted(claims in claims()) {
        let before = topology(&claims);
        let accepted = claims.iter().filter(|claim| before.nodes.get(&claim.name) == claim.node.as_ref().ok());
        prop_assert_eq!(topology(accepted).nodes, before.nodes);
    }
}

#[test]
fn one_that_is_leaving_stays_until_somebody_claims_what_it_had() {
    let gone = candidate("a", Some(1), "192.0.2.1", "10.244.1.0/24");
    let other = candidate("b", Some(2), "192.0.2.2", "10.244.2.0/24");
    let unmoved = topology_with([&other], [&gone]);
    assert_eq!((names(&unmoved), unmoved.rejected.len()), (vec!["a", "b"], 0));
    for successor in [
        candidate("c", Some(3), "192.0.2.3", "10.244.1.0/24"),
        candidate("c", Some(3), "192.0.2.1", "10.244.3.0/24"),
        candidate("c", Some(3), "192.0.2.1", "10.244.1.0/24"),
    ] {
        let moved = topology_with([&other, &successor], [&gone]);
        assert_eq!((names(&moved), moved.rejected.len()), (vec!["b", "c"], 0));
    }
}

#[test]
fn a_change_that_meets_nobody_is_made_without_the_others() {
    let [a, b] =
        [1, 2].map(|number| candidate(&format!("n{number}"), Some(number), &format!("192.0.2.{number}"), &format!("10.244.{number}.0/24")));
    let before = topology([&a, &b]);
    let mut settled = Settled::of(&before).unwrap();
    let moved = candidate("n2", Some(2), "192.0.2.9", "10.244.2.0/24");
    let new = candidate("n3", Some(3), "192.0.2.2", "10.244.3.0/24");
    assert_eq!(settled.change(&before, &[&moved, &new]), Some(topology([&a, &moved, &new])));
    let thief = candidate("n4", Some(4), "192.0.2.1", "10.244.4.0/24");
    assert_eq!(settled.change(&topology([&a, &moved, &new]), &[&thief]), None);
}

proptest! {
    #[test]
    fn what_is_made_without_the_others_is_what_all_make(
        steps in prop::collection::vec(prop::collection::vec((0..8_u8, 0..12_u8, 0..12_u8, 22..26_u8), 1..3), 1..20),
    ) {
        let mut all: BTreeMap<String, Candidate> = BTreeMap::new();
        let mut before = Topology::default();
        let mut settled = Settled::of(&before);
        for step in steps {
            let mut changed = BTreeSet::new();
            for (name, address, network, length) in step {
                // Some networks hold others, and some hold addresses of nodes.
                let network = Ipv4Net::new_assert(Ipv4Addr::new(192, 0, network, 0), length).trunc();
                let candidate = candidate(&format!("n{name}"), Some(name.into()), &format!("192.0.{}.200", address + 4), &network.to_string());
                changed.insert(candidate.name.clone());
                all.insert(candidate.name.clone(), candidate);
            }
            let changed: Vec<&Candidate> = changed.iter().map(|name| &all[name]).collect();
            let after = topology(all.values());
            let quick = settled.as_mut().and_then(|settled| settled.change(&before, &changed));
            if let Some(quick) = quick {
                prop_assert_eq!(&quick, &after);
            } else {
                settled = Settled::of(&after);
            }
            before = after;
        }
    }
}
