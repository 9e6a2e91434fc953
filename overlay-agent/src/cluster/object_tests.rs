use super::*;
use crate::cluster::nodes::Candidate;
use proptest::prelude::*;
use serde_json::json;

fn reduced(whole: &Value) -> Value {
    let object: Object = serde_json::from_str(&whole.to_string()).unwrap();
    object.0
}

#[test]
fn a_node_is_judged_by_what_is_kept_as_by_the_whole() {
    for text in [include_str!("../../testdata/nodes.json")] {
        let list: Value = serde_json::from_str(text).unwrap();
        for whole in list["items"].as_array().unwrap() {
            assert_eq!(Candidate::read(&reduced(whole), 1), Candidate::read(whole, 1));
        }
    }
    let list: Value = serde_saphyr::from_str(include_str!("../../testdata/nodes-troubled.yaml")).unwrap();
    for (whole, position) in list["items"].as_array().unwrap().iter().zip(1..) {
        assert_eq!(Candidate::read(&reduced(whole), position), Candidate::read(whole, position));
    }
}

#[test]
fn what_nobody_uses_is_not_kept() {
    let whole = json!({
        "kind": "Node", "apiVersion": "v1",
        "metadata": { "name": "a", "uid": "1", "managedFields": [{ "manager": "kubelet" }], "labels": { "x": "y" } },
        "spec": { "podCIDR": "10.244.1.0/24", "taints": [] },
        "status": { "images": [{ "names": ["a"] }], "conditions": [{ "lastHeartbeatTime": "now" }], "addresses": [] },
    });
    let kept = json!({
        "kind": "Node",
        "metadata": { "name": "a", "uid": "1" },
        "spec": { "podCIDR": "10.244.1.0/24" },
        "status": { "addresses": [] },
    });
    assert_eq!(reduced(&whole), kept);
}

#[test]
fn what_is_of_the_wrong_kind_is_kept_as_it_is() {
    for wrong in [json!("text"), json!(7), json!(-7), json!(0.5), json!(true), json!(null), json!(["a", { "b": 1 }])] {
        let whole = json!({ "metadata": wrong, "spec": wrong, "status": { "addresses": wrong } });
        assert_eq!(reduced(&whole), whole);
        assert_eq!(reduced(&wrong), wrong);
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,6}".prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        let key = prop_oneof![Just("metadata"), Just("name"), Just("spec"), Just("status"), Just("addresses"), Just("other")];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..5)
                .prop_map(|pairs| Value::Object(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_document_is_judged_by_what_is_kept_as_by_the_whole(whole in any_json()) {
        prop_assert_eq!(Candidate::read(&reduced(&whole), 3), Candidate::read(&whole, 3));
    }
}
