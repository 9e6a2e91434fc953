//! What the tests of both cluster sources share: Node objects with all the fields a real cluster has, and waiting for a snapshot.

use overlay_agent::cluster::{SourceState, Subscription};
use overlay_agent::model::Topology;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// Long enough for the slowest machine; nothing waits for it unless a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// Node `node-<number>` at 192.0.2.<number> with 10.244.<number>.0/24: a Node of the recorded list under another name.
pub(crate) fn node(number: u8) -> Value {
    let recorded: Value = serde_json::from_str(include_str!("../../testdata/nodes.json")).expect("the recorded list is JSON");
    let mut node = recorded["items"][1].clone();
    let cidr = format!("10.244.{number}.0/24");
    node["metadata"]["name"] = format!("node-{number}").into();
    node["metadata"]["uid"] = format!("uid-{number}").into();
    node["metadata"]["resourceVersion"] = "1".into();
    node["spec"]["podCIDR"] = cidr.clone().into();
    node["spec"]["podCIDRs"] = json!([cidr]);
    node["status"]["addresses"][0]["address"] = format!("192.0.2.{number}").into();
    node
}

/// `name address podCIDR` of every node used, in one line.
pub(crate) fn summary(topology: &Topology) -> String {
    let nodes: Vec<_> = topology.nodes.values().map(|node| format!("{} {} {}", node.name, node.address, node.pod_cidr)).collect();
    nodes.join(", ")
}

/// What [`summary`] says of nodes made by [`node`].
pub(crate) fn expected(numbers: &[u8]) -> String {
    let nodes: Vec<_> = numbers.iter().map(|n| format!("node-{n} 192.0.2.{n} 10.244.{n}.0/24")).collect();
    nodes.join(", ")
}

/// Waits until the newest snapshot has this summary.
pub(crate) async fn snapshot(source: &mut Subscription, wanted: &str) -> Arc<Topology> {
    let fits = |topology: &Option<Arc<Topology>>| topology.as_ref().is_some_and(|topology| summary(topology) == wanted);
    let waited = timeout(PATIENCE, source.topology.wait_for(fits)).await.map(|found| found.map(|topology| topology.clone()));
    let Ok(found) = waited else {
        let last = source.topology.borrow().as_ref().map(|topology| summary(topology));
        panic!("waited for\n  {wanted}\nlast was\n  {last:?}\nstate {:?}", source.state.borrow());
    };
    found.expect("the source runs").expect("it was waited for")
}

/// Waits until the state is as wanted.
pub(crate) async fn state(source: &mut Subscription, wanted: impl Fn(&SourceState) -> bool) -> SourceState {
    let waited = timeout(PATIENCE, source.state.wait_for(|state| wanted(state))).await.map(|found| found.map(|state| state.clone()));
    let Ok(found) = waited else { panic!("waited for another state than {:?}", source.state.borrow()) };
    found.expect("the source runs")
}

/// Asserts that no new snapshot comes for a while.
pub(crate) async fn stays<T>(receiver: &mut watch::Receiver<T>, for_: Duration) {
    receiver.mark_unchanged();
    assert!(timeout(for_, receiver.changed()).await.is_err(), "a snapshot was published that should not have been");
}
