use super::*;
use crate::clock::now;
use crate::cni::ipam::AddressRange;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

fn pool(ranges: &[&str]) -> Pool {
    let ranges: Vec<AddressRange> = ranges.iter().map(|range| range.parse().unwrap()).collect();
    Pool::new("10.244.1.0/24".parse().unwrap(), Ipv4Addr::new(10, 244, 1, 1), &ranges).unwrap()
}

fn record(container: &str) -> PodRecord {
    let key = Key { container_id: container.to_owned(), ifname: "eth0".to_owned() };
    PodRecord {
        address: Ipv4Addr::UNSPECIFIED,
        host_interface: key.host_interface(),
        container_id: key.container_id,
        ifname: key.ifname,
        network: "pods".to_owned(),
        netns: "/run/netns/absent".into(),
        netns_inode: 1,
        pod_namespace: "default".to_owned(),
        pod_name: format!("web-{container}"),
        pod_uid: String::new(),
        ipam: "overlay-cni".to_owned(),
        since: now(),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the store asks something that may fail")]
fn nobody(_: Ipv4Addr) -> Result<bool, StoreError> {
    Ok(false)
}

fn reserve(store: &Store, container: &str, choice: Choice<'_>) -> Result<u8, StoreError> {
    match store.reserve(record(container), choice, nobody)? {
        Reserved::New(record) => Ok(record.address.octets()[3]),
        Reserved::Before(record) => panic!("{record:?}"),
    }
}

fn release(store: &Store, container: &str) {
    store.release(&record(container).key()).unwrap();
}

#[test]
fn released_addresses_are_given_last() {
    let directory = tempfile::tempdir().unwrap();
    let (store, pool) = (Store::new(directory.path().join("a/b")), pool(&["10.244.1.10-10.244.1.13"]));
    assert_eq!(store.pods().unwrap(), []);
    assert_eq!([reserve(&store, "a", Choice::Next(&pool)).unwrap(), reserve(&store, "b", Choice::Next(&pool)).unwrap()], [10, 11]);
    release(&store, "a");
    assert_eq!(["c", "d", "e"].map(|name| reserve(&store, name, Choice::Next(&pool)).unwrap()), [12, 13, 10]);
    let error = reserve(&store, "f", Choice::Next(&pool)).unwrap_err();
    assert!(error.to_string().starts_with("no address is free: 4 there are to give, 4 of them are given to pods (4 pods"), "{error}");
    release(&store, "d");
    assert_eq!(reserve(&store, "f", Choice::Next(&pool)).unwrap(), 13);
}

#[test]
fn a_device_that_has_a_record_keeps_it() {
    let directory = tempfile::tempdir().unwrap();
    let (store, pool) = (Store::new(directory.path()), pool(&[]));
    let Reserved::New(first) = store.reserve(record("a"), Choice::Next(&pool), nobody).unwrap() else { panic!() };
    assert_eq!(store.reserve(record("a"), Choice::Next(&pool), nobody).unwrap(), Reserved::Before(first.clone()));
    assert_eq!(store.pods().unwrap(), std::slice::from_ref(&first));
    assert_eq!(store.find(&first.key()).unwrap(), Some(first));
    release(&store, "a");
    release(&store, "a");
    assert_eq!(store.pods().unwrap(), []);
}

#[test]
fn an_address_asked_for_is_given_if_it_is_free_and_ours() {
    let directory = tempfile::tempdir().unwrap();
    let (store, pool) = (Store::new(directory.path()), pool(&["10.244.1.10-10.244.1.13"]));
    let asked = |last| Choice::Asked(&pool, Ipv4Addr::new(10, 244, 1, last));
    assert_eq!(reserve(&store, "a", asked(12)).unwrap(), 12);
    assert_eq!(reserve(&store, "b", asked(12)).unwrap_err().to_string(), "address 10.244.1.12 is in use by pod default/web-a");
    assert_eq!(reserve(&store, "b", asked(14)).unwrap_err().to_string(), "address 10.244.1.14 is not one this node gives to pods");
    assert_eq!(reserve(&store, "b", Choice::Given(Ipv4Addr::new(10, 244, 1, 77))).unwrap(), 77);
    // What was asked for does not move the round.
    assert_eq!(["c", "d", "e"].map(|name| reserve(&store, name, Choice::Next(&pool)).unwrap()), [10, 11, 13]);
}

#[test]
fn addresses_in_use_without_a_record_are_passed_over_and_counted() {
    let directory = tempfile::tempdir().unwrap();
    let (store, pool) = (Store::new(directory.path()), pool(&["10.244.1.10-10.244.1.11"]));
    let in_use = |address: Ipv4Addr| Ok::<_, StoreError>(address.octets()[3] == 10);
    let Reserved::New(first) = store.reserve(record("a"), Choice::Next(&pool), in_use).unwrap() else { panic!() };
    assert_eq!(first.address.octets()[3], 11);
    let error = store.reserve(record("b"), Choice::Next(&pool), in_use).unwrap_err();
    assert!(matches!(error, StoreError::Exhausted { size: 2, given: 1, recorded: 1, foreign: 1 }), "{error:?}");
}

#[test]
fn records_of_another_boot_are_no_records_and_their_file_goes() {
    let directory = tempfile::tempdir().unwrap();
    let (store, pool) = (Store::new(directory.path()), pool(&["10.244.1.10"]));
    reserve(&store, "a", Choice::Next(&pool)).unwrap();
    let now = store.file(&boot_id().unwrap());
    let before = directory.path().join("pods-00000000-0000-0000-0000-000000000000.json");
    fs::rename(&now, &before).unwrap();
    // Cut short by the crash that ended that boot: never read.
    fs::write(&before, b"{\"layout\":1,\"po").unwrap();
    assert_eq!(store.pods().unwrap(), []);
    assert_eq!(reserve(&store, "b", Choice::Next(&pool)).unwrap(), 10);
    assert!(now.exists() && !before.exists());
}

#[test]
fn a_damaged_file_of_this_boot_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::new(directory.path());
    let path = store.file(&boot_id().unwrap());
    for text in ["", "{", "[]", r#"{"layout":2,"bootId":"","lastGiven":null,"pods":[]}"#] {
        fs::write(&path, text).unwrap();
        assert!(matches!(store.pods(), Err(StoreError::Foreign { .. })));
        assert!(matches!(reserve(&store, "a", Choice::Next(&pool(&[]))), Err(StoreError::Foreign { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn files_are_for_root_alone() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::new(directory.path().join("ipam"));
    reserve(&store, "a", Choice::Next(&pool(&[]))).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&store.directory), 0o700);
    for entry in fs::read_dir(&store.directory).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
}

#[test]
fn the_sweep_takes_what_is_gone_and_nobody_works_on() {
    let directory = tempfile::tempdir().unwrap();
    let (store, pool) = (Store::new(directory.path()), pool(&[]));
    for name in ["a", "b", "c"] {
        reserve(&store, name, Choice::Next(&pool)).unwrap();
    }
    let lock = store.lock(&record("b").key()).unwrap();
    assert!(store.try_lock(&record("b").key()).unwrap().is_none());
    let swept = store.sweep(|pod| pod.container_id != "c").unwrap();
    assert_eq!(swept.iter().map(|pod| pod.container_id.as_str()).collect::<Vec<_>>(), ["a"]);
    drop(lock);
    assert_eq!(store.sweep(|pod| pod.container_id != "c").unwrap().len(), 1);
    assert_eq!(store.pods().unwrap().len(), 1);
}

#[test]
fn many_at_once_get_an_address_each() {
    let directory = tempfile::tempdir().unwrap();
    let (store, pool) = (Store::new(directory.path()), pool(&[]));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (store, pool) = (store.clone(), &pool);
            scope.spawn(move || (0..20).all(|index| reserve(&store, &format!("{thread}-{index}"), Choice::Next(pool)).is_ok()));
        }
    });
    let addresses: BTreeSet<_> = store.pods().unwrap().into_iter().map(|pod| pod.address).collect();
    assert_eq!(addresses.len(), 160);
}

#[test]
fn a_change_among_250_pods_is_quick() {
    let directory = tempfile::tempdir().unwrap();
    let (store, pool) = (Store::new(directory.path()), pool(&[]));
    for index in 0..250 {
        reserve(&store, &format!("{index:064x}"), Choice::Next(&pool)).unwrap();
    }
    let start = Instant::now();
    for _ in 0..20 {
        release(&store, &format!("{:064x}", 7));
        reserve(&store, &format!("{:064x}", 7), Choice::Next(&pool)).unwrap();
    }
    println!("a change among 250 pods: {:.2?}", start.elapsed() / 40);
}

/// One step of a story of a store.
#[derive(Clone, Debug)]
enum Step {
    Next(u8),
    Asked(u8, u8),
    Release(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let container = 0_u8..12;
    prop_oneof![
        4 => container.clone().prop_map(Step::Next),
        1 => (container.clone(), 8_u8..20).prop_map(|(container, address)| Step::Asked(container, address)),
        3 => container.prop_map(Step::Release),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// No address is given twice, none is lost, and a refusal is right.
    #[test]
    fn a_store_agrees_with_a_list(steps in prop::collection::vec(step(), 1..60)) {
        let directory = tempfile::tempdir().unwrap();
        let (store, pool) = (Store::new(directory.path()), pool(&["10.244.1.10-10.244.1.17"]));
        let mut given: BTreeMap<u8, u8> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Release(container) => {
                    release(&store, &container.to_string());
                    given.remove(&container);
                }
                Step::Next(container) => match store.reserve(record(&container.to_string()), Choice::Next(&pool), nobody) {
                    Ok(Reserved::Before(record)) => prop_assert_eq!(given.get(&container), Some(&record.address.octets()[3])),
                    Ok(Reserved::New(record)) => {
                        let last = record.address.octets()[3];
                        prop_assert!((10..=17).contains(&last) && !given.values().any(|taken| *taken == last));
                        prop_assert_eq!(given.insert(container, last), None);
                    }
                    Err(error) => {
                        let exhausted = matches!(error, StoreError::Exhausted { size: 8, given: 8, recorded: 8, foreign: 0 });
                        prop_assert!(exhausted && given.len() == 8, "{}", error);
                    }
                },
                Step::Asked(container, last) => {
                    let asked = Choice::Asked(&pool, Ipv4Addr::new(10, 244, 1, last));
                    match store.reserve(record(&container.to_string()), asked, nobody) {
                        Ok(Reserved::Before(record)) => prop_assert_eq!(given.get(&container), Some(&record.address.octets()[3])),
                        Ok(Reserved::New(record)) => {
                            prop_assert!(record.address.octets()[3] == last && !given.values().any(|taken| *taken == last));
                            given.insert(container, last);
                        }
                        Err(StoreError::NotOurs(_)) => prop_assert!(!(10..=17).contains(&last)),
                        Err(StoreError::Taken { .. }) => prop_assert!(given.values().any(|taken| *taken == last)),
                        Err(error) => prop_assert!(false, "{}", error),
                    }
                }
            }
        }
        let kept: BTreeSet<u8> = store.pods().unwrap().into_iter().map(|pod| pod.address.octets()[3]).collect();
        prop_assert_eq!(kept, given.into_values().collect::<BTreeSet<u8>>());
    }
}
