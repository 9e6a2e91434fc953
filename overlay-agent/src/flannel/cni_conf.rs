//! flannel's `cni-conf.json`: the list of plugins, its own entry turned into ours.
//!
//! flannel's plugin hands everything below `delegate` to the bridge plugin. Ours has no bridge and does what most of these keys ask for in
//! any case; keys that ask for something else are refused.

use super::keys::{BadKey, Object};
use serde_json::{Map, Value, json};

/// flannel's name in `type`.
pub(crate) const PLUGIN: &str = "flannel";

/// Keys of flannel's own entry. `subnetFile` and `dataDir` are where it keeps its files.
const KEYS: [&str; 7] = ["type", "name", "cniVersion", "subnetFile", "dataDir", "delegate", "capabilities"];
/// Keys of the bridge plugin, and of the field itself.
const DELEGATE_KEYS: [&str; 17] = [
    "type",
    "bridge",
    "isGateway",
    "isDefaultGateway",
    "forceAddress",
    "ipMasq",
    "ipMasqBackend",
    "mtu",
    "hairpinMode",
    "promiscMode",
    "vlan",
    "vlanTrunk",
    "preserveDefaultVlan",
    "macspoofchk",
    "enabledad",
    "disableContainerInterface",
    "portIsolation",
];
/// What is done here whether it is asked for or not: refused only if somebody wants it off.
const ALWAYS: [&str; 3] = ["isGateway", "isDefaultGateway", "hairpinMode"];
/// What is not done here: refused if somebody wants it.
const NEVER: [(&str, &str); 6] = [
    ("mtu", "the MTU of pods follows the NIC's, or the agent's setting mtu"),
    ("vlan", "there is no bridge that would have VLANs"),
    ("vlanTrunk", "there is no bridge that would have VLANs"),
    ("promiscMode", "there is no bridge to be promiscuous"),
    ("disableContainerInterface", "a pod has its interface"),
    ("portIsolation", "pods of a node reach each other"),
];

/// Turns flannel's entry of a list of plugins into that of `plugin`.
///
/// # Errors
/// A key is unknown, or asks for what is not done here.
pub fn as_ours(entry: &Map<String, Value>, plugin: &str) -> Result<Value, BadKey> {
    let keys = Object::new(entry, "", &KEYS)?;
    for key in ["subnetFile", "dataDir"] {
        keys.get::<String>(key)?;
    }
    if let Some(delegate) = keys.get::<Map<String, Value>>("delegate")? {
        let keys = Object::new(&delegate, "delegate.", &DELEGATE_KEYS)?;
        if let Some(kind) = keys.get::<String>("type")?
            && kind != "bridge"
        {
            return Err(keys.bad("type", &format!("is {kind:?}: pods are wired by {plugin} and no other plugin")));
        }
        for key in ALWAYS {
            if keys.get(key)? == Some(false) {
                return Err(keys.bad(key, "is false: it is always so here"));
            }
        }
        for (key, why) in NEVER {
            let value = keys.get::<Value>(key)?.unwrap_or_default();
            if !matches!(value, Value::Null | Value::Bool(false)) && value != json!(0) {
                return Err(keys.bad(key, &format!("is {value}: {why}")));
            }
        }
    }
    let mut ours = json!({ "type": plugin });
    if let Some(capabilities) = keys.get::<Value>("capabilities")? {
        ours["capabilities"] = capabilities;
    }
    Ok(ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(text: &str) -> Result<Value, String> {
        as_ours(&serde_json::from_str(text).unwrap(), "overlay-cni").map_err(|error| error.to_string())
    }

    #[test]
    fn the_entry_of_flannels_manifest_becomes_ours() {
        let text = r#"{ "type": "flannel", "delegate": { "hairpinMode": true, "isDefaultGateway": true } }"#;
        assert_eq!(translated(text), Ok(json!({ "type": "overlay-cni" })));
        let text =
            r#"{ "Type": "flannel", "subnetFile": "/run/flannel/subnet.env", "Delegate": { "HairpinMode": true, "forceaddress": true } }"#;
        assert_eq!(translated(text), Ok(json!({ "type": "overlay-cni" })));
    }

    #[test]
    fn what_pods_would_miss_is_refused() {
        for (delegate, told) in [
            (r#""type": "ipvlan""#, "delegate.type is \"ipvlan\""),
            (r#""hairpinMode": false"#, "delegate.hairpinMode is false"),
            (r#""hairpin": true"#, "delegate.hairpin is no key of this file"),
            (r#""isDefaultGatway": true"#, "did you mean isDefaultGateway?"),
            (r#""mtu": 1400"#, "the agent's setting mtu"),
            (r#""vlan": 7"#, "delegate.vlan is 7"),
        ] {
            let error = translated(&format!(r#"{{ "type": "flannel", "delegate": {{ {delegate} }} }}"#)).unwrap_err();
            assert!(error.contains(told), "{delegate}: {error}");
        }
    }
}
