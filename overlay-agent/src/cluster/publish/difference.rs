//! What has to be written to a Node so that it says what it should. Pure.

use super::{Wanted, annotations};
use crate::cluster::annotations::{BACKEND_DATA, BACKEND_TYPE, PUBLIC_IP, SUBNET_MANAGER, own_vtep_mac};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// Every annotation that is written.
pub(super) const WRITTEN: [&str; 4] = [PUBLIC_IP, BACKEND_TYPE, BACKEND_DATA, SUBNET_MANAGER];

/// The condition's reason and message; flannel's are `FlannelIsUp` and "Flannel is running on this node".
const REASON: &str = "OverlayIsUp";
const MESSAGE: &str = "The overlay agent has set up the network of this node";

/// A strategic merge patch of `nodes/status`, or `None` if the Node says all of it already.
pub(super) fn difference(node: &Value, wanted: &Wanted, now: Timestamp) -> Option<Value> {
    let mut patch = Map::new();
    let changed = annotations_to_write(node, wanted);
    if !changed.is_empty() {
        patch.insert("metadata".to_owned(), json!({ "annotations": changed }));
    }
    if wanted.ready && !says_available(node) {
        let condition = json!({
            "type": "NetworkUnavailable",
            "status": "False",
            "reason": REASON,
            "message": MESSAGE,
            "lastTransitionTime": now.to_string(),
            "lastHeartbeatTime": now.to_string(),
        });
        patch.insert("status".to_owned(), json!({ "conditions": [condition] }));
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

fn annotations_to_write(node: &Value, wanted: &Wanted) -> Map<String, Value> {
    let present = annotations(node);
    let mac = own_vtep_mac(&present, wanted.address);
    // As flannel's structure is marshalled: it compares the text.
    let data = format!("{{\"VNI\":{},\"VtepMAC\":\"{mac}\"}}", wanted.vni);
    let values = [wanted.address.to_string(), "vxlan".to_owned(), data, "true".to_owned()];
    let differing = WRITTEN.into_iter().zip(values).filter(|(key, value)| present.get(*key) != Some(value));
    differing.map(|(key, value)| (key.to_owned(), value.into())).collect()
}

/// Whether somebody, we or another, has said that the network is available: saying it again in other words would only be a quarrel.
fn says_available(node: &Value) -> bool {
    let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| condition["type"] == "NetworkUnavailable" && condition["status"] == "False")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Mac;

    fn wanted(ready: bool) -> Wanted {
        Wanted { address: "192.0.2.1".parse().unwrap(), vni: 1, ready, listed: None }
    }

    #[expect(clippy::needless_pass_by_value, reason = "shorter where it is called")]
    fn node(annotations: Value, conditions: Value) -> Value {
        json!({ "metadata": { "name": "a", "annotations": annotations }, "status": { "conditions": conditions } })
    }

    fn applied(patch: &Value, mut node: Value) -> Value {
        for (key, value) in patch["metadata"]["annotations"].as_object().into_iter().flatten() {
            node["metadata"]["annotations"][key] = value.clone();
        }
        for condition in patch["status"]["conditions"].as_array().into_iter().flatten() {
            node["status"]["conditions"].as_array_mut().unwrap().push(condition.clone());
        }
        node
    }

    #[test]
    fn writes_what_flannel_writes_and_then_nothing() {
        let empty = node(json!({ "other": "stays" }), json!([{ "type": "Ready", "status": "True" }]));
        let patch = difference(&empty, &wanted(true), Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(
            patch["metadata"]["annotations"],
            json!({
                "flannel.alpha.coreos.com/backend-data": r#"{"VNI":1,"VtepMAC":"0e:4f:c0:00:02:01"}"#,
                "flannel.alpha.coreos.com/backend-type": "vxlan",
                "flannel.alpha.coreos.com/kube-subnet-manager": "true",
                "flannel.alpha.coreos.com/public-ip": "192.0.2.1",
            })
        );
        let condition = &patch["status"]["conditions"][0];
        assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("OverlayIsUp")));
        assert_eq!(condition["lastTransitionTime"], "1970-01-01T00:00:00Z");
        assert_eq!(difference(&applied(&patch, empty), &wanted(true), Timestamp::UNIX_EPOCH), None);
    }

    #[test]
    fn the_network_is_not_called_available_before_it_is() {
        let bare = json!({ "metadata": { "name": "a" } });
        assert!(difference(&bare, &wanted(false), Timestamp::UNIX_EPOCH).unwrap().get("status").is_none());
        let taken = node(json!({}), json!([{ "type": "NetworkUnavailable", "status": "True", "reason": "NoRouteCreated" }]));
        assert!(difference(&taken, &wanted(true), Timestamp::UNIX_EPOCH).unwrap().get("status").is_some());
        let others = node(json!({}), json!([{ "type": "NetworkUnavailable", "status": "False", "reason": "FlannelIsUp" }]));
        assert!(difference(&others, &wanted(true), Timestamp::UNIX_EPOCH).unwrap().get("status").is_none());
    }

    #[test]
    fn only_what_differs_is_written() {
        let moved =
            applied(&difference(&node(json!({}), json!([])), &wanted(true), Timestamp::UNIX_EPOCH).unwrap(), node(json!({}), json!([])));
        let patch = difference(&moved, &Wanted { address: "192.0.2.7".parse().unwrap(), ..wanted(true) }, Timestamp::UNIX_EPOCH).unwrap();
        // The MAC follows the address: two nodes would have one when addresses change hands.
        assert_eq!(
            patch,
            json!({ "metadata": { "annotations": {
                "flannel.alpha.coreos.com/public-ip": "192.0.2.7",
                "flannel.alpha.coreos.com/backend-data": r#"{"VNI":1,"VtepMAC":"0e:4f:c0:00:02:07"}"#,
            } } })
        );
    }

    #[test]
    fn a_mac_somebody_chose_stays() {
        let flannels = r#"{"VNI":1,"VtepMAC":"5a:1e:90:aa:01:0b"}"#;
        let left = node(json!({ BACKEND_DATA: flannels, BACKEND_TYPE: "vxlan" }), json!([]));
        let patch = difference(&left, &wanted(true), Timestamp::UNIX_EPOCH).unwrap();
        assert!(patch["metadata"]["annotations"].get(BACKEND_DATA).is_none(), "{patch}");
        let operators = node(json!({ BACKEND_DATA: flannels, "overlay/vtep-mac": "02:00:00:00:00:07" }), json!([]));
        let patch = difference(&operators, &wanted(true), Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(patch["metadata"]["annotations"][BACKEND_DATA], r#"{"VNI":1,"VtepMAC":"02:00:00:00:00:07"}"#);
        assert!(Mac::derived_from(wanted(true).address).is_derived());
    }
}
