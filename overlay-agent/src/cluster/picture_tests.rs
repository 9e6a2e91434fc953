use super::*;
use crate::model::{AddressOrigin, ClusterNode, Mac};
use proptest::prelude::*;

const PAUSE: Duration = Duration::from_secs(10);

fn at(seconds: u64) -> Moment {
    Duration::from_secs(seconds)
}

/// Life `life` of node `number`, at an address of its own.
fn candidate(number: u8, life: u32) -> Candidate {
    let address = std::net::Ipv4Addr::new(192, 0, u8::try_from(life % 250).unwrap(), number);
    let name = format!("node-{number}");
    let pod_cidr = format!("10.244.{number}.0/24").parse().unwrap();
    Candidate {
        uid: Some(format!("{name}-{life}")),
        created: None,
        node: Ok(ClusterNode {
            name: name.clone(),
            address,
            given_by: AddressOrigin::InternalIp,
            internal_ip: Some(address),
            pod_cidr,
            vtep_mac: Mac::derived_from(address),
            no_tunnel: false,
            notice: None,
        }),
        name,
    }
}

fn list(picture: &mut Picture, nodes: impl IntoIterator<Item = u8>, version: u64, now: Moment) {
    picture.begin_list(now);
    for number in nodes {
        picture.listed(candidate(number, 0), Some(version));
    }
    picture.end_list(Some(version), now);
}

fn known(nodes: impl IntoIterator<Item = u8>) -> Picture {
    let mut picture = Picture::new("node-1".to_owned());
    picture.set_pause(PAUSE);
    list(&mut picture, nodes, 10, at(0));
    picture
}

fn believed(picture: &Picture) -> Vec<String> {
    let mut names: Vec<_> = picture.live().chain(picture.leaving()).map(|candidate| candidate.name["node-".len()..].to_owned()).collect();
    names.sort();
    names
}

fn doubt(picture: &Picture) -> Option<Doubt> {
    picture.held().map(|(doubt, _)| doubt)
}

#[test]
fn a_tiny_list_is_held_until_a_second_one_says_the_same() {
    let mut picture = known(1..=5);
    list(&mut picture, [1, 2], 20, at(1));
    assert_eq!((believed(&picture).len(), picture.held().unwrap()), (5, (Doubt::Few, vec!["node-3", "node-4", "node-5"])));
    list(&mut picture, [1, 2], 21, at(5));
    assert_eq!(believed(&picture).len(), 5, "too early to confirm anything");
    assert_eq!(picture.list_due(), Some(at(11)));
    list(&mut picture, [1, 2], 22, at(11));
    assert_eq!((believed(&picture), picture.held()), (vec!["1".to_owned(), "2".to_owned()], None));
}

#[test]
fn what_comes_back_before_the_second_list_was_never_away() {
    let mut picture = known(1..=5);
    list(&mut picture, [1], 20, at(1));
    list(&mut picture, 1..=5, 21, at(11));
    assert_eq!((believed(&picture).len(), picture.held()), (5, None));
    list(&mut picture, [1], 22, at(12));
    for number in 2..=5 {
        assert!(picture.applied(candidate(number, 0), Some(23)));
    }
    assert_eq!((believed(&picture).len(), picture.held()), (5, None), "by events");
}

#[test]
fn a_list_that_lacks_half_is_believed_at_once() {
    let mut picture = known(1..=6);
    list(&mut picture, [1, 2, 3], 20, at(1));
    assert_eq!(believed(&picture), ["1", "2", "3"]);
    let mut pair = known(1..=2);
    list(&mut pair, [1], 20, at(1));
    assert_eq!(believed(&pair), ["1"]);
}

#[test]
fn a_list_without_this_node_is_held() {
    let mut picture = known(1..=5);
    list(&mut picture, 2..=5, 20, at(1));
    assert_eq!((believed(&picture).len(), doubt(&picture)), (5, Some(Doubt::Own)));
    list(&mut picture, 2..=5, 21, at(11));
    assert_eq!(believed(&picture), ["2", "3", "4", "5"]);
}

#[test]
fn an_empty_list_is_never_believed() {
    let mut picture = known(1..=5);
    for (round, version) in (0..20).zip(20..) {
        list(&mut picture, [], version, at(round * 60));
        assert_eq!((believed(&picture).len(), doubt(&picture)), (5, Some(Doubt::Empty)));
    }
    let mut nothing = Picture::new("node-1".to_owned());
    list(&mut nothing, [], 1, at(0));
    assert!(doubt(&nothing) == Some(Doubt::Empty) && !nothing.is_whole());
    // Nodes that come now were never seen in a list: it is still asked for.
    assert!(nothing.applied(candidate(1, 0), Some(2)));
    assert!(nothing.list_due().is_some());
    list(&mut nothing, [1], 3, at(60));
    assert!(nothing.is_whole() && nothing.held().is_none());
}

#[test]
fn deletions_are_judged_together() {
    let mut picture = known(1..=5);
    picture.deleted(&candidate(2, 0), Some(11), at(1));
    assert!(!picture.tick(at(1)), "it waits for others");
    assert_eq!(picture.tick_due(), Some(at(2)));
    for (number, version) in [(3, 12), (4, 13)] {
        picture.deleted(&candidate(number, 0), Some(version), at(1));
    }
    assert!(picture.tick(at(2)));
    assert_eq!((believed(&picture).len(), doubt(&picture)), (5, Some(Doubt::Few)));
    let due = picture.list_due().unwrap();
    list(&mut picture, [1, 5], 20, due);
    assert_eq!(believed(&picture), ["1", "5"]);
}

#[test]
fn one_deletion_after_another_adds_up() {
    let mut picture = known(1..=6);
    for (number, second) in [(2, 1), (3, 5), (4, 9)] {
        picture.deleted(&candidate(number, 0), Some(10 + second), at(second));
        picture.tick(at(second + 1));
    }
    assert_eq!(believed(&picture), ["1", "5", "6"], "half of them in a minute");
    picture.deleted(&candidate(5, 0), Some(30), at(13));
    picture.tick(at(14));
    assert_eq!((believed(&picture).len(), doubt(&picture)), (3, Some(Doubt::Few)));
    // Long after, one more is one more.
    let mut later = known(1..=6);
    for (number, second) in [(2, 1), (3, 5), (4, 9), (5, 100)] {
        later.deleted(&candidate(number, 0), Some(10 + second), at(second));
        later.tick(at(second + 1));
    }
    assert_eq!(believed(&later), ["1", "6"]);
}

#[test]
fn nothing_is_removed_before_a_complete_list() {
    let mut picture = Picture::new("node-1".to_owned());
    picture.restore((1..=3).map(|number| candidate(number, 0)));
    picture.begin_list(at(0));
    picture.listed(candidate(1, 0), Some(5));
    picture.drop_list();
    picture.deleted(&candidate(2, 0), Some(6), at(1));
    picture.tick(at(100));
    assert!(believed(&picture).len() == 3 && !picture.is_whole());
    list(&mut picture, [1, 3], 7, at(101));
    assert!(believed(&picture) == ["1", "3"] && picture.is_whole());
}

#[test]
fn what_is_older_never_wins() {
    let mut picture = known(1..=3);
    assert!(picture.applied(candidate(2, 7), Some(15)), "another node of that name");
    assert!(!picture.applied(candidate(2, 0), Some(12)));
    picture.deleted(&candidate(2, 0), Some(14), at(0));
    assert!(picture.tick_due().is_none(), "the deletion of an earlier one");
    picture.deleted(&candidate(2, 7), Some(20), at(0));
    assert!(!picture.applied(candidate(2, 7), Some(15)), "while it is leaving");
    picture.tick(at(1));
    assert!(!picture.applied(candidate(2, 7), Some(15)), "after it has left");
    list(&mut picture, [1, 3], 30, at(2));
    assert!(!picture.applied(candidate(2, 7), Some(15)), "after a list without it");
    assert_eq!(believed(&picture), ["1", "3"]);
    assert!(picture.is_outdated(Some(29)) && !picture.is_outdated(Some(30)) && !picture.is_outdated(None));
}

#[test]
fn another_node_of_the_name_takes_its_place_at_once() {
    let mut picture = known(1..=3);
    picture.deleted(&candidate(2, 0), Some(11), at(0));
    assert!(picture.applied(candidate(2, 1), Some(12)));
    assert!(picture.tick_due().is_none() && picture.leaving().next().is_none());
    assert!(picture.live().any(|node| *node == candidate(2, 1)));
}

#[test]
fn a_node_that_cannot_be_read_is_what_it_was_before() {
    let mut picture = known(1..=3);
    let broken = Candidate { uid: None, node: Err("it does not read as a Node: its spec is no mapping".to_owned()), ..candidate(2, 0) };
    assert!(picture.applied(broken.clone(), Some(11)));
    let kept = picture.live().find(|node| node.name == "node-2").unwrap().node.clone().unwrap();
    let before = candidate(2, 0).node.unwrap();
    assert_eq!((kept.address, kept.pod_cidr), (before.address, before.pod_cidr));
    assert_eq!(kept.notice.unwrap(), "what was last told of it is not used: it does not read as a Node: its spec is no mapping");
    // One that nobody knew is told as it is.
    assert!(picture.applied(Candidate { name: "node-9".to_owned(), ..broken }, Some(12)));
    assert!(picture.live().any(|node| node.name == "node-9" && node.node.is_err()));
}

#[test]
fn an_item_without_a_name_may_be_any_that_is_missing() {
    let mut picture = known(1..=5);
    picture.begin_list(at(1));
    for number in 1..=4 {
        picture.listed(candidate(number, 0), Some(20));
    }
    picture
        .listed(Candidate { name: "item 5".to_owned(), uid: None, created: None, node: Err("it has no metadata.name".to_owned()) }, None);
    picture.end_list(Some(20), at(1));
    assert_eq!(picture.held(), Some((Doubt::Unreadable, vec!["node-5"])));
    list(&mut picture, 1..=4, 21, at(11));
    assert_eq!(believed(&picture), ["1", "2", "3", "4"]);
}

// === Any history ===

#[derive(Clone, Debug)]
enum Step {
    Join(u8),
    Leave(u8),
    Recreate(u8),
    Change(u8),
    /// An event of the past comes again.
    Again(usize),
    /// A list that is wrong: few nodes, or none.
    Wrong(Vec<u8>),
    /// A list that breaks off.
    Broken(u8),
    /// A true list.
    List,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let number = 2..=9_u8;
    prop_oneof![
        3 => number.clone().prop_map(Step::Join),
        2 => number.clone().prop_map(Step::Leave),
        2 => number.clone().prop_map(Step::Recreate),
        2 => number.clone().prop_map(Step::Change),
        3 => any::<usize>().prop_map(Step::Again),
        1 => prop::collection::vec(number.clone(), 0..4).prop_map(Step::Wrong),
        1 => number.prop_map(Step::Broken),
        1 => Just(Step::List),
        3 => (0..30_u64).prop_map(Step::Wait),
    ]
}

#[derive(Clone, Debug)]
enum Event {
    Applied(Candidate, u64),
    Deleted(Candidate, u64),
}

/// The cluster as it really is, and everything it ever told.
struct Truth {
    nodes: BTreeMap<u8, (Candidate, u64)>,
    version: u64,
    lives: u32,
    told: Vec<Event>,
}

impl Truth {
    fn put(&mut self, number: u8, life: Option<u32>) -> Event {
        self.version += 1;
        let candidate = match (life, self.nodes.get(&number)) {
            (None, Some((known, _))) => known.clone(),
            (life, _) => candidate(number, life.unwrap_or_default()),
        };
        self.nodes.insert(number, (candidate.clone(), self.version));
        Event::Applied(candidate, self.version)
    }

    /// A node of that number that was not there before.
    fn create(&mut self, number: u8) -> Event {
        self.lives += 1;
        self.put(number, Some(self.lives))
    }

    fn remove(&mut self, number: u8) -> Option<Event> {
        let (candidate, _) = self.nodes.remove(&number)?;
        self.version += 1;
        Some(Event::Deleted(candidate, self.version))
    }

    fn list(&self, picture: &mut Picture, now: Moment) {
        picture.begin_list(now);
        for (candidate, version) in self.nodes.values() {
            picture.listed(candidate.clone(), Some(*version));
        }
        picture.end_list(Some(self.version), now);
    }
}

fn tell(picture: &mut Picture, event: Event, now: Moment) {
    match event {
        Event::Applied(candidate, version) => drop(picture.applied(candidate, Some(version))),
        Event::Deleted(candidate, version) => picture.deleted(&candidate, Some(version), now),
    }
}

proptest! {
    #[test]
    fn no_node_that_is_there_is_ever_missing_and_after_quiet_all_is_true(
        first in prop::collection::btree_set(1..=9_u8, 1..9), steps in prop::collection::vec(step(), 0..40),
    ) {
        let mut truth = Truth { nodes: BTreeMap::new(), version: 10, lives: 0, told: Vec::new() };
        for number in first.into_iter().chain([1]) {
            let event = truth.create(number);
            truth.told.push(event);
        }
        let mut picture = Picture::new("node-1".to_owned());
        picture.set_pause(PAUSE);
        let mut now = at(0);
        truth.list(&mut picture, now);
        for step in steps {
            let mut events = Vec::new();
            match step {
                Step::Join(number) if !truth.nodes.contains_key(&number) => {
                    events.push(truth.create(number));
                }
                Step::Leave(number) => events.extend(truth.remove(number)),
                Step::Recreate(number) if truth.nodes.contains_key(&number) => {
                    events.extend(truth.remove(number));
                    events.push(truth.create(number));
                }
                Step::Change(number) if truth.nodes.contains_key(&number) => events.push(truth.put(number, None)),
                Step::Again(which) => tell(&mut picture, truth.told[which % truth.told.len()].clone(), now),
                // What a second wrong list after the pause says is believed: that is what confirming means.
                Step::Wrong(mut numbers) if picture.list_due().is_none_or(|due| due > now) => {
                    numbers.retain(|number| truth.nodes.contains_key(number));
                    numbers.truncate(picture.len().saturating_sub(1) / 2);
                    numbers.retain(|_| picture.len() > 3);
                    picture.begin_list(now);
                    for number in numbers {
                        let (candidate, version) = truth.nodes[&number].clone();
                        picture.listed(candidate, Some(version));
                    }
                    picture.end_list(Some(truth.version), now);
                }
                Step::Broken(number) => {
                    picture.begin_list(now);
                    if let Some((candidate, version)) = truth.nodes.get(&number) {
                        picture.listed(candidate.clone(), Some(*version));
                    }
                    picture.drop_list();
                }
                Step::List => truth.list(&mut picture, now),
                Step::Wait(seconds) => now += at(seconds),
                _ => {}
            }
            for event in events {
                truth.told.push(event.clone());
                tell(&mut picture, event, now);
            }
            picture.tick(now);
            let all: Vec<_> = picture.live().chain(picture.leaving()).cloned().collect();
            for (candidate, _) in truth.nodes.values() {
                prop_assert!(all.contains(candidate), "{} is missing among {all:?}", candidate.name);
            }
        }
        // Quiet: lists are true now, and come when they are wanted.
        for _ in 0..3 {
            now = picture.list_due().unwrap_or(now).max(now + LINGER);
            picture.tick(now);
            truth.list(&mut picture, now);
        }
        let expected: Vec<Candidate> = truth.nodes.values().map(|(candidate, _)| candidate.clone()).collect();
        prop_assert_eq!(picture.live().cloned().collect::<Vec<_>>(), expected);
        prop_assert_eq!((picture.leaving().count(), picture.held()), (0, None));
    }
}
