//! Patches of a Node: JSON merge patch and Kubernetes' strategic merge, which joins some lists by a key. Pure.

use serde_json::{Map, Value};

/// How a patch is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// RFC 7386: lists are replaced.
    Merge,
    /// Lists that have a merge key are joined by it.
    Strategic,
}

impl Kind {
    /// By the request's content type; none: a kind that is not served.
    pub(super) fn of(content_type: &str) -> Option<Self> {
        match content_type.split(';').next()?.trim() {
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            _ => None,
        }
    }
}

/// The lists of a Node that have a merge key, and the key (`patchMergeKey` of the API's types).
const KEYED: [(&str, &str); 4] = [("conditions", "type"), ("addresses", "type"), ("taints", "key"), ("ownerReferences", "uid")];

/// The object with a patch applied.
pub(super) fn apply(object: &mut Value, patch: &Value, kind: Kind) {
    let Value::Object(changes) = patch else {
        object.clone_from(patch);
        return;
    };
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let Value::Object(fields) = object else { return };
    for (name, change) in changes {
        let key = KEYED.iter().find(|(list, _)| list == name).map(|(_, key)| *key);
        match (change, key, kind) {
            (Value::Null, ..) => drop(fields.remove(name)),
            (Value::Array(changes), Some(key), Kind::Strategic) => {
                join(fields.entry(name).or_insert_with(|| Value::Array(Vec::new())), changes, key);
            }
            // Commands of the strategic form that order lists; the order of what is joined means nothing.
            _ if kind == Kind::Strategic && name.starts_with("$setElementOrder/") => {}
            _ => apply(fields.entry(name).or_insert(Value::Null), change, kind),
        }
    }
}

fn join(list: &mut Value, changes: &[Value], key: &str) {
    let Value::Array(items) = list else {
        *list = changes.to_vec().into();
        return;
    };
    for change in changes {
        let place = items.iter().position(|item| item[key] == change[key]);
        match (place, change["$patch"] == "delete") {
            (Some(place), true) => drop(items.remove(place)),
            (None, true) => {}
            (Some(place), false) => apply(&mut items[place], change, Kind::Strategic),
            (None, false) => items.push(change.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn conditions_are_joined_by_type_and_annotations_by_name() {
        let mut node = json!({
            "metadata": { "annotations": { "kept": "1", "changed": "2", "removed": "3" } },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }, { "type": "NetworkUnavailable", "status": "True", "reason": "x" }] },
        });
        let patch = json!({
            "metadata": { "annotations": { "changed": "4", "removed": null, "new": "5" } },
            "status": { "conditions": [{ "type": "NetworkUnavailable", "status": "False" }, { "type": "Other", "status": "True" }] },
        });
        apply(&mut node, &patch, Kind::Strategic);
        let expected = json!({
            "metadata": { "annotations": { "kept": "1", "changed": "4", "new": "5" } },
            "status": { "conditions": [
                { "type": "Ready", "status": "True" },
                { "type": "NetworkUnavailable", "status": "False", "reason": "x" },
                { "type": "Other", "status": "True" },
            ] },
        });
        assert_eq!(node, expected);
    }

    #[test]
    fn a_merge_patch_replaces_lists() {
        let mut node = json!({ "status": { "conditions": [{ "type": "Ready" }], "images": [1] } });
        apply(&mut node, &json!({ "status": { "conditions": [{ "type": "Other" }] } }), Kind::Merge);
        assert_eq!(node, json!({ "status": { "conditions": [{ "type": "Other" }], "images": [1] } }));
    }

    #[test]
    fn a_command_removes_an_element() {
        let mut node = json!({ "conditions": [{ "type": "Ready" }, { "type": "Other" }] });
        apply(&mut node, &json!({ "conditions": [{ "type": "Other", "$patch": "delete" }] }), Kind::Strategic);
        assert_eq!(node, json!({ "conditions": [{ "type": "Ready" }] }));
    }
}
