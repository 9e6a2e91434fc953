//! The Kubernetes source: the real kube client over real HTTP against a list/watch server that can misbehave on demand.

#[path = "support/api_server.rs"]
mod api_server;
mod support;

use api_server::ApiServer;
use overlay_agent::cluster::{Access, Health, Memory, Subscription, kubernetes};
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::{expected, node, snapshot, state, stays};

fn follow(server: &ApiServer) -> Subscription {
    let config = kube::Config::new(server.url().parse().expect("a URL"));
    kubernetes::follow(Access::Config(Box::new(config)), Memory::default())
}

/// The same as node 1 of a cluster that is remembered in `file`.
fn follow_as_node_1(server: &ApiServer, file: Option<PathBuf>) -> Subscription {
    let config = kube::Config::new(server.url().parse().expect("a URL"));
    kubernetes::follow(Access::Config(Box::new(config)), Memory { node_name: "node-1".to_owned(), file })
}

async fn healthy(source: &mut Subscription) {
    state(source, |state| state.health == Health::Healthy).await;
}

async fn failing(source: &mut Subscription, told: &str) {
    state(source, |state| state.health == Health::Failing && state.last_error.as_ref().is_some_and(|error| error.message.contains(told)))
        .await;
}

#[tokio::test]
async fn joins_changes_and_removals() {
    let server = ApiServer::start(&[node(1), node(2)]).await;
    let mut source = follow(&server);
    snapshot(&mut source, &expected(&[1, 2])).await;
    healthy(&mut source).await;

    server.put(node(3));
    snapshot(&mut source, &expected(&[1, 2, 3])).await;

    let mut moved = node(2);
    moved["status"]["addresses"][0]["address"] = "198.51.100.2".into();
    server.put(moved.clone());
    snapshot(&mut source, "node-1 192.0.2.1 10.244.1.0/24, node-2 198.51.100.2 10.244.2.0/24, node-3 192.0.2.3 10.244.3.0/24").await;
    moved["spec"]["podCIDRs"] = json!(["10.244.77.0/24"]);
    server.put(moved);
    snapshot(&mut source, "node-1 192.0.2.1 10.244.1.0/24, node-2 198.51.100.2 10.244.77.0/24, node-3 192.0.2.3 10.244.3.0/24").await;

    server.delete("node-2");
    snapshot(&mut source, &expected(&[1, 3])).await;
    server.put(node(2));
    snapshot(&mut source, &expected(&[1, 2, 3])).await;

    assert_eq!(server.lists(), 1, "everything came by the watch");
}

#[tokio::test]
async fn a_list_of_several_pages_is_one_snapshot() {
    let nodes: Vec<_> = (1..=9).map(node).collect();
    let server = ApiServer::start(&nodes).await;
    server.set_page_size(4);
    let mut source = follow(&server);
    source.topology.wait_for(Option::is_some).await.unwrap();
    let first = source.topology.borrow().clone().unwrap();
    assert_eq!(support::summary(&first), expected(&[1, 2, 3, 4, 5, 6, 7, 8, 9]));
    assert_eq!(server.lists(), 3);
}

#[tokio::test]
async fn heartbeats_wake_nobody() {
    let server = ApiServer::start(&[node(1), node(2)]).await;
    let mut source = follow(&server);
    snapshot(&mut source, &expected(&[1, 2])).await;
    server.watch_established().await;
    for beat in 0..5 {
        let mut node = node(2);
        node["status"]["conditions"][0]["lastHeartbeatTime"] = format!("2026-03-02T09:4{beat}:27Z").into();
        server.put(node);
    }
    stays(&mut source.topology, Duration::from_millis(500)).await;
    server.put(node(3));
    snapshot(&mut source, &expected(&[1, 2, 3])).await;
}

#[tokio::test]
async fn a_node_without_pod_network_comes_in_when_it_gets_one() {
    let mut waiting = node(2);
    waiting["spec"] = json!({});
    let server = ApiServer::start(&[node(1), waiting]).await;
    let mut source = follow(&server);
    let topology = snapshot(&mut source, &expected(&[1])).await;
    assert!(topology.rejected[0].reason.starts_with("it has no podCIDR yet"));
    server.put(node(2));
    let topology = snapshot(&mut source, &expected(&[1, 2])).await;
    assert_eq!(topology.rejected, []);
}

#[tokio::test]
async fn a_node_the_type_cannot_hold_costs_only_itself() {
    let mut broken = node(2);
    broken["spec"] = json!("nonsense");
    broken["status"]["addresses"] = json!({ "no": "list" });
    let server = ApiServer::start(&[node(1), broken.clone(), node(3)]).await;
    let mut source = follow(&server);
    let topology = snapshot(&mut source, &expected(&[1, 3])).await;
    assert_eq!(topology.rejected.len(), 1);
    // By the watch as well.
    broken["metadata"]["name"] = "node-4".into();
    server.put(broken);
    server.put(node(5));
    let topology = snapshot(&mut source, &expected(&[1, 3, 5])).await;
    assert_eq!(topology.rejected.len(), 2);
}

#[tokio::test]
async fn the_second_claimant_of_a_pod_network_comes_in_when_the_first_is_deleted() {
    let mut second = node(2);
    second["metadata"]["creationTimestamp"] = "2026-09-01T00:00:00Z".into();
    second["spec"]["podCIDRs"] = json!(["10.244.1.0/24"]);
    let server = ApiServer::start(&[second, node(1)]).await;
    let mut source = follow(&server);
    snapshot(&mut source, &expected(&[1])).await;
    server.delete("node-1");
    snapshot(&mut source, "node-2 192.0.2.2 10.244.1.0/24").await;
}

#[tokio::test]
async fn a_deletion_of_an_earlier_node_of_that_name_is_ignored() {
    let server = ApiServer::start(&[node(1), node(2)]).await;
    let mut source = follow(&server);
    snapshot(&mut source, &expected(&[1, 2])).await;
    server.watch_established().await;
    let mut earlier = node(2);
    earlier["metadata"]["uid"] = "uid-of-an-earlier-life".into();
    server.send_raw("DELETED", earlier);
    stays(&mut source.topology, Duration::from_millis(500)).await;
}

#[tokio::test]
async fn a_watch_too_old_lists_anew_and_forgets_what_is_gone() {
    let server = ApiServer::start(&[node(1), node(2), node(3)]).await;
    let mut source = follow(&server);
    snapshot(&mut source, &expected(&[1, 2, 3])).await;
    server.watch_established().await;
    server.change_unseen(|nodes| {
        nodes.remove("node-2");
        nodes.insert("node-4".to_owned(), node(4));
    });
    server.end_watches_with_gone();
    snapshot(&mut source, &expected(&[1, 3, 4])).await;
    assert_eq!(server.lists(), 2);
    assert_eq!(source.state.borrow().last_error, None, "that is no failure");
}

#[tokio::test]
async fn a_dropped_connection_loses_nothing() {
    let server = ApiServer::start(&[node(1)]).await;
    let mut source = follow(&server);
    snapshot(&mut source, &expected(&[1])).await;
    for number in 2..=4 {
        server.watch_established().await;
        server.drop_connections();
        server.put(node(number));
        snapshot(&mut source, &expected(&(1..=number).collect::<Vec<_>>())).await;
    }
    assert_eq!(server.lists(), 1, "the watch was taken up where it broke");
}

#[tokio::test]
async fn an_outage_keeps_the_last_list_is_told_and_ends_by_itself() {
    let server = ApiServer::start(&[node(1), node(2)]).await;
    let mut source = follow(&server);
    snapshot(&mut source, &expected(&[1, 2])).await;
    healthy(&mut source).await;
    server.watch_established().await;
    server.refuse_with(500, "InternalError", "etcd is away");
    server.drop_connections();
    failing(&mut source, "etcd is away").await;
    stays(&mut source.topology, Duration::from_millis(300)).await;
    server.serve();
    // Nothing changed in the meantime: that the watch was accepted is all that tells of recovery.
    healthy(&mut source).await;
    stays(&mut source.topology, Duration::from_millis(100)).await;
    server.put(node(3));
    snapshot(&mut source, &expected(&[1, 2, 3])).await;
}

#[tokio::test]
async fn a_forbidden_list_is_told_and_tried_again() {
    let server = ApiServer::start(&[node(1)]).await;
    server.refuse_with(403, "Forbidden", "nodes is forbidden: User cannot list resource nodes");
    let mut source = follow(&server);
    failing(&mut source, "nodes is forbidden").await;
    assert!(source.topology.borrow().is_none());
    server.serve();
    snapshot(&mut source, &expected(&[1])).await;
    healthy(&mut source).await;
}

#[tokio::test]
async fn a_list_without_nodes_is_not_believed() {
    let server = ApiServer::start(&[node(1), node(2)]).await;
    let mut source = follow(&server);
    snapshot(&mut source, &expected(&[1, 2])).await;
    server.watch_established().await;
    server.change_unseen(std::collections::BTreeMap::clear);
    server.end_watches_with_gone();
    failing(&mut source, "lists no node at all").await;
    stays(&mut source.topology, Duration::from_millis(300)).await;
    server.change_unseen(|nodes| drop(nodes.insert("node-7".to_owned(), node(7))));
    snapshot(&mut source, &expected(&[7])).await;
    healthy(&mut source).await;
}

#[tokio::test]
async fn garbage_in_the_watch_is_survived() {
    let server = ApiServer::start(&[node(1)]).await;
    let mut source = follow(&server);
    snapshot(&mut source, &expected(&[1])).await;
    server.watch_established().await;
    server.send_text("this is not JSON\n");
    server.send_text("{\"type\":\"ADDED\",\"object\":{}}\n");
    failing(&mut source, "").await;
    server.put(node(2));
    snapshot(&mut source, &expected(&[1, 2])).await;
    healthy(&mut source).await;
}

#[tokio::test]
async fn bookmarks_and_repeated_events_change_nothing() {
    let server = ApiServer::start(&[node(1), node(2)]).await;
    let mut source = follow(&server);
    snapshot(&mut source, &expected(&[1, 2])).await;
    server.watch_established().await;
    server.bookmark();
    server.send_raw("ADDED", node(1));
    server.send_raw("MODIFIED", node(2));
    server.send_raw("DELETED", node(9));
    stays(&mut source.topology, Duration::from_millis(500)).await;
}

#[tokio::test]
async fn many_joins_at_once_all_come_in() {
    let server = ApiServer::start(&[node(1)]).await;
    let mut source = follow(&server);
    snapshot(&mut source, &expected(&[1])).await;
    server.watch_established().await;
    for number in 2..=200 {
        server.put(node(number));
    }
    let all: Vec<u8> = (1..=200).collect();
    let mut numbers: Vec<String> = all.iter().map(|n| format!("node-{n} 192.0.2.{n} 10.244.{n}.0/24")).collect();
    numbers.sort();
    snapshot(&mut source, &numbers.join(", ")).await;
}

#[tokio::test]
async fn a_wrong_configuration_is_told_and_tried_again() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("kubeconfig");
    let server = ApiServer::start(&[node(1)]).await;
    let access = Access::Files { kubeconfig: Some(path.clone()), api_server: Some(server.url()) };
    let mut source = kubernetes::follow(access, Memory::default());
    failing(&mut source, &format!("cannot use the kubeconfig {}", path.display())).await;
    // The file comes later; its server is replaced by the one given.
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "clusters": [{ "name": "lab", "cluster": { "server": "https://192.0.2.99:6443" } }],
        "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": "agent" } }],
        "users": [{ "name": "agent", "user": { "token": "secret" } }],
    });
    std::fs::write(&path, serde_saphyr::to_string(&kubeconfig).unwrap()).unwrap();
    snapshot(&mut source, &expected(&[1])).await;
    assert!(source.state.borrow().place.starts_with(&server.url()));
    assert_eq!(server.last_authorization().as_deref(), Some("Bearer secret"));
}

#[tokio::test]
async fn a_tiny_list_is_held_named_and_believed_when_a_second_one_says_the_same() {
    let server = ApiServer::start(&(1..=5).map(node).collect::<Vec<_>>()).await;
    let mut source = follow_as_node_1(&server, None);
    snapshot(&mut source, &expected(&[1, 2, 3, 4, 5])).await;
    server.watch_established().await;
    server.change_unseen(|nodes| nodes.retain(|name, _| name == "node-1"));
    let begun = Instant::now();
    server.end_watches_with_gone();
    let held = state(&mut source, |state| state.held.is_some()).await;
    let told = held.held.clone().unwrap();
    assert_eq!((told.count, told.names.join(" ")), (4, "node-2 node-3 node-4 node-5".to_owned()));
    assert!(held.problems()[0].starts_with("4 nodes are said to be gone and are kept until a second list confirms it"), "{held:?}");
    assert!(held.waiting_for.is_some());
    stays(&mut source.topology, Duration::from_secs(3)).await;
    // Meant so: the second list says the same.
    snapshot(&mut source, &expected(&[1])).await;
    assert!(begun.elapsed() >= Duration::from_secs(10));
    state(&mut source, |state| state.held.is_none() && state.waiting_for.is_none()).await;
}

#[tokio::test]
async fn a_burst_of_deletions_is_held_and_what_returns_was_never_away() {
    let server = ApiServer::start(&(1..=5).map(node).collect::<Vec<_>>()).await;
    let mut source = follow_as_node_1(&server, None);
    snapshot(&mut source, &expected(&[1, 2, 3, 4, 5])).await;
    server.watch_established().await;
    for number in 2..=5 {
        server.delete(&format!("node-{number}"));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    state(&mut source, |state| state.held.as_ref().is_some_and(|held| held.count == 4)).await;
    for number in 2..=5 {
        server.put(node(number));
    }
    state(&mut source, |state| state.held.is_none()).await;
    stays(&mut source.topology, Duration::from_millis(1500)).await;
    assert_eq!(support::summary(source.topology.borrow().as_ref().unwrap()), expected(&[1, 2, 3, 4, 5]));
}

#[tokio::test]
async fn a_list_without_this_node_is_held() {
    let server = ApiServer::start(&(1..=5).map(node).collect::<Vec<_>>()).await;
    let mut source = follow_as_node_1(&server, None);
    snapshot(&mut source, &expected(&[1, 2, 3, 4, 5])).await;
    server.watch_established().await;
    server.change_unseen(|nodes| drop(nodes.remove("node-1")));
    server.end_watches_with_gone();
    state(&mut source, |state| state.held.as_ref().is_some_and(|held| held.reason == "this node is among them")).await;
    server.change_unseen(|nodes| drop(nodes.insert("node-1".to_owned(), node(1))));
    state(&mut source, |state| state.held.is_none()).await;
    assert_eq!(support::summary(source.topology.borrow().as_ref().unwrap()), expected(&[1, 2, 3, 4, 5]));
}

#[tokio::test]
async fn a_watch_that_says_nothing_is_begun_anew_within_45_seconds() {
    let server = ApiServer::start(&[node(1), node(2)]).await;
    let mut source = follow(&server);
    snapshot(&mut source, &expected(&[1, 2])).await;
    server.watch_established().await;
    server.fall_silent();
    server.put(node(3));
    let begun = Instant::now();
    let waited = tokio::time::timeout(
        Duration::from_secs(45),
        source.topology.wait_for(|topology| topology.as_ref().is_some_and(|topology| topology.nodes.len() == 3)),
    );
    assert!(waited.await.is_ok(), "not noticed within 45 s");
    eprintln!("noticed after {:.1?}", begun.elapsed());
}

#[tokio::test]
async fn what_the_server_asks_to_wait_is_waited() {
    let server = ApiServer::start(&[node(1)]).await;
    server.refuse_for(6);
    let mut source = follow(&server);
    failing(&mut source, "too many requests").await;
    state(&mut source, |state| state.waiting_for.as_deref() == Some("the 6 s the API server asked for to be over")).await;
    assert_eq!(server.requests(), 1);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(server.requests(), 1, "asked before the time was over");
    server.serve();
    snapshot(&mut source, &expected(&[1])).await;
}

#[tokio::test]
async fn the_last_list_on_disk_carries_a_start_without_a_server_and_is_replaced_by_the_first_list() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state/last-nodes.json");
    let server = ApiServer::start(&[node(1), node(2), node(3)]).await;
    let mut source = follow_as_node_1(&server, Some(file.clone()));
    let first = snapshot(&mut source, &expected(&[1, 2, 3])).await;
    assert!(!first.unconfirmed);
    while !file.exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(source);
    server.refuse_with(500, "InternalError", "etcd is away");
    let mut source = follow_as_node_1(&server, Some(file.clone()));
    let from_disk = snapshot(&mut source, &expected(&[1, 2, 3])).await;
    assert!(from_disk.unconfirmed);
    let state_now = state(&mut source, |state| state.health == Health::Failing).await;
    assert!(state_now.from_disk.is_some() && state_now.stale_since == state_now.from_disk, "{state_now:?}");
    assert!(state_now.problems().iter().any(|problem| problem.starts_with("the nodes are from disk, saved at ")), "{state_now:?}");
    // Meanwhile one was deleted, and its address is another's.
    server.change_unseen(|nodes| {
        nodes.remove("node-3");
        let mut successor = node(4);
        successor["status"]["addresses"][0]["address"] = "192.0.2.3".into();
        nodes.insert("node-4".to_owned(), successor);
    });
    server.serve();
    let wanted = "node-1 192.0.2.1 10.244.1.0/24, node-2 192.0.2.2 10.244.2.0/24, node-4 192.0.2.3 10.244.4.0/24";
    assert!(!snapshot(&mut source, wanted).await.unconfirmed);
    let state_now = state(&mut source, |state| state.health == Health::Healthy && state.from_disk.is_none()).await;
    assert_eq!((state_now.stale_since, state_now.problems()), (None, Vec::new()));
}

#[tokio::test]
async fn a_file_that_cannot_be_used_costs_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("last-nodes.json");
    std::fs::write(&file, "{\"layout\":1,").unwrap();
    let server = ApiServer::start(&[node(1)]).await;
    let mut source = follow_as_node_1(&server, Some(file.clone()));
    snapshot(&mut source, &expected(&[1])).await;
    while !std::fs::read_to_string(&file).is_ok_and(|text| text.contains("192.0.2.1")) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_node_whose_change_cannot_be_read_stays_what_it_was() {
    let server = ApiServer::start(&[node(1), node(2)]).await;
    let mut source = follow(&server);
    snapshot(&mut source, &expected(&[1, 2])).await;
    server.watch_established().await;
    let mut broken = node(2);
    broken["spec"] = json!("nonsense");
    server.put(broken);
    source.topology.wait_for(|topology| topology.as_ref().is_some_and(|topology| topology.nodes["node-2"].notice.is_some())).await.unwrap();
    assert_eq!(support::summary(source.topology.borrow().as_ref().unwrap()), expected(&[1, 2]));
    // By a new list as well.
    server.end_watches_with_gone();
    server.put(node(3));
    snapshot(&mut source, &expected(&[1, 2, 3])).await;
}
