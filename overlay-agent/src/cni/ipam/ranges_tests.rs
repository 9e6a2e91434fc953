use super::*;
use proptest::prelude::*;

fn pool(network: &str, ranges: &[&str]) -> Result<Pool, PoolError> {
    let network: Ipv4Net = network.parse().unwrap();
    let ranges: Vec<AddressRange> = ranges.iter().map(|range| range.parse().unwrap()).collect();
    Pool::new(network, Ipv4Addr::from_bits(network.network().to_bits() | 1), &ranges)
}

#[test]
fn ranges_are_networks_or_two_addresses() {
    for (text, shown) in [
        ("10.244.1.64/27", "10.244.1.64-10.244.1.95"),
        ("10.244.1.70/27", "10.244.1.64-10.244.1.95"),
        ("10.244.1.3-10.244.1.9", "10.244.1.3-10.244.1.9"),
        ("10.244.1.3", "10.244.1.3-10.244.1.3"),
    ] {
        assert_eq!(text.parse::<AddressRange>().unwrap().to_string(), shown);
    }
    for text in ["", "-", "10.244.1.9-10.244.1.3", "10.244.1.0/33", "fd00::/64", "10.244.1", "10.244.1.0/24-10.244.2.0/24"] {
        assert_eq!(text.parse::<AddressRange>(), Err(BadRange(text.to_owned())));
    }
}

#[test]
fn network_gateway_and_broadcast_are_never_given() {
    let pool = pool("10.244.1.0/29", &[]).unwrap();
    let all: Vec<_> = pool.after(None).map(|address| address.octets()[3]).collect();
    assert_eq!(all, [2, 3, 4, 5, 6]);
    assert_eq!(pool.size(), 5);
    for reserved in [0, 1, 7, 8] {
        assert!(!pool.contains(Ipv4Addr::new(10, 244, 1, reserved)));
    }
}

#[test]
fn giving_goes_round_over_several_ranges() {
    let pool = pool("10.244.1.0/24", &["10.244.1.200-10.244.1.201", "10.244.1.4/31", "10.244.1.6", "10.244.1.200"]).unwrap();
    let from = |last: u8| pool.after(Some(Ipv4Addr::new(10, 244, 1, last))).map(|address| address.octets()[3]).collect::<Vec<_>>();
    assert_eq!(from(5), [6, 200, 201, 4, 5]);
    assert_eq!(from(201), [4, 5, 6, 200, 201]);
    assert_eq!(from(77), [200, 201, 4, 5, 6]);
    assert_eq!(pool.size(), 5);
}

#[test]
fn ranges_of_other_nodes_and_empty_pools_are_refused() {
    let error = pool("10.244.1.0/24", &["10.244.2.0/25"]).unwrap_err();
    assert_eq!(error.to_string(), "10.244.2.0-10.244.2.127 is not within 10.244.1.0/24, the network of this node's pods");
    assert!(matches!(pool("10.244.1.0/24", &["10.244.1.0/31"]), Err(PoolError::Empty { .. })));
    assert_eq!(pool("10.244.1.0/30", &[]).unwrap().size(), 1);
}

proptest! {
    #[test]
    fn every_address_comes_exactly_once_and_the_last_given_comes_last(
        prefix in 22_u8..=30,
        cuts in prop::collection::vec((0_u32..1024, 0_u32..64), 0..5),
        last in 0_u32..1200,
    ) {
        let base = Ipv4Addr::new(10, 244, 0, 0).to_bits();
        let network = Ipv4Net::new(base.into(), prefix).unwrap();
        let size = 1_u32 << (32 - prefix);
        let ranges: Vec<AddressRange> = cuts
            .into_iter()
            .map(|(first, len)| AddressRange { first: (base + first % size).into(), last: (base + (first % size + len).min(size - 1)).into() })
            .collect();
        if let Ok(pool) = Pool::new(network, (base + 1).into(), &ranges) {
            let last = Ipv4Addr::from_bits(base + last);
            let order: Vec<_> = pool.after(Some(last)).collect();
            let once: BTreeSet<_> = order.iter().copied().collect();
            prop_assert_eq!(order.len(), once.len());
            prop_assert_eq!(order.len(), pool.size());
            prop_assert!(order.iter().all(|address| pool.contains(*address) && network.contains(address)));
            if pool.contains(last) {
                prop_assert_eq!(order.last(), Some(&last));
            }
        }
    }

    #[test]
    fn no_text_makes_a_range_panic(text in "\\PC*") {
        drop(text.parse::<AddressRange>());
    }
}
