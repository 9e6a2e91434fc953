use super::*;

fn node(name: &str) -> impl FnOnce(&str) -> String {
    move |uid| format!("{{\"metadata\":{{\"name\":\"{name}\",\"resourceVersion\":\"0\",\"uid\":\"{uid}\"}}}}")
}

fn told(store: &Store, cursor: &mut Cursor) -> Vec<String> {
    let text = |line: Bytes| String::from_utf8_lossy(&line).into_owned();
    store.next(cursor, usize::MAX, None).expect("remembered").into_iter().map(text).collect()
}

#[test]
fn a_watch_is_told_what_happened_after_its_version_and_once() {
    let mut store = Store::default();
    store.put("a", node("a"));
    let mut cursor = store.begin(store.version()).expect("now");
    assert!(told(&store, &mut cursor).is_empty());
    store.put("b", node("b"));
    store.put("b", node("b"));
    store.delete("a").expect("there");
    let lines = told(&store, &mut cursor);
    let kinds: Vec<&str> = lines.iter().map(|line| line.split('"').nth(3).expect("type")).collect();
    assert_eq!(kinds, ["ADDED", "MODIFIED", "DELETED"]);
    assert!(lines[2].contains(&format!("\"resourceVersion\":\"{}\"", store.version())), "{lines:?}");
    assert!(told(&store, &mut cursor).is_empty());
}

#[test]
fn who_comes_again_with_the_uid_of_the_first_is_the_first() {
    let mut store = Store::default();
    store.put("a", node("a"));
    let first = store.get("a").expect("there").uid.clone();
    store.put("a", node("a"));
    assert_eq!(store.get("a").expect("there").uid, first);
    store.delete("a").expect("there");
    store.put("a", node("a"));
    assert_ne!(store.get("a").expect("there").uid, first);
}

#[test]
fn what_is_forgotten_is_gone_for_new_watches_and_for_those_that_run() {
    let mut store = Store::default();
    store.put("a", node("a"));
    let old = store.version();
    let mut running = store.begin(old).expect("now");
    store.forget();
    assert_eq!(store.begin(old).unwrap_err(), Gone);
    assert_eq!(store.next(&mut running, 1, None).unwrap_err(), Gone);
    store.begin(store.version()).expect("what is listed now can be watched from");
}

#[test]
fn no_more_is_remembered_than_the_limit() {
    let mut store = Store { limit: 1000, ..Store::default() };
    store.put("a", node("a"));
    let mut slow = store.begin(store.version()).expect("now");
    (0..100).for_each(|_| store.put("a", node("a")));
    assert!(store.bytes <= 1000, "{}", store.bytes);
    assert_eq!(store.next(&mut slow, 1, None).unwrap_err(), Gone);
}

#[test]
fn held_changes_are_told_in_the_order_asked_for() {
    for (order, expected) in [(Order::Kept, "abc"), (Order::Reversed, "cba"), (Order::Doubled, "aabbcc")] {
        let mut store = Store::default();
        let mut cursor = store.begin(store.version()).expect("now");
        store.hold();
        for name in ["a", "b", "c"] {
            store.put(name, node(name));
        }
        assert!(told(&store, &mut cursor).is_empty());
        store.release(order);
        let names: String = told(&store, &mut cursor).iter().map(|line| line.split('"').nth(11).expect("name").to_owned()).collect();
        assert_eq!(names, expected);
        let mut resumed = store.begin(store.version()).expect("now");
        assert!(told(&store, &mut resumed).is_empty());
    }
}

#[test]
fn what_a_test_says_reaches_running_watches_only() {
    let mut store = Store::default();
    let mut running = store.begin(store.version()).expect("now");
    store.say(Bytes::from_static(b"nonsense\n"));
    let mut later = store.begin(store.version()).expect("now");
    assert_eq!(told(&store, &mut running), ["nonsense\n"]);
    assert!(told(&store, &mut later).is_empty());
}
