//! The list of plugins as the runtime reads it: the built-in one, or the operator's with flannel's entry turned into ours. Pure.

use super::PLUGIN;
use crate::flannel::{self, BadKey};
use serde_json::{Map, Value, json};

/// What each plugin of the built-in list that others provide is there for, told when it is left out.
const CHAINED: [(&str, &str, &str); 2] = [
    ("portmap", "portMappings", "hostPort of pods has no effect"),
    ("bandwidth", "bandwidth", "bandwidth annotations of pods have no effect"),
];

/// The version of the specification the built-in list is written in. Reference plugins before 1.2 know nothing newer, and each plugin of
/// a list is asked in the list's version.
const VERSION: &str = "1.0.0";

/// What the list is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    list: Map<String, Value>,
    /// Whether plugins of the list that the node does not have are left out; those of an operator's list are wanted.
    optional: bool,
}

/// A list, ready to be written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rendered {
    pub(super) text: String,
    /// Plugins that are not in it, and what that means.
    pub(super) left_out: Vec<(&'static str, &'static str)>,
}

impl Default for Template {
    fn default() -> Self {
        let chained = CHAINED.iter().map(|(plugin, capability, _)| json!({ "type": plugin, "capabilities": { *capability: true } }));
        let plugins: Vec<Value> = [json!({ "type": PLUGIN })].into_iter().chain(chained).collect();
        let list = [("cniVersion", json!(VERSION)), ("name", json!("overlay")), ("plugins", Value::Array(plugins))];
        Self { list: list.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(), optional: true }
    }
}

impl Template {
    /// Reads an operator's list: ours or flannel's `cni-conf.json`. Other plugins' entries are the operator's business.
    ///
    /// # Errors
    /// It is no list of plugins, has not exactly one entry for us, or asks for what flannel does and we do not.
    pub fn parse(text: &str) -> Result<Self, BadKey> {
        let bad = |path: &str, what: &str| BadKey { path: path.to_owned(), what: what.to_owned() };
        let mut list: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| bad("the file", &format!("is no JSON object: {error}")))?;
        for key in ["cniVersion", "name"] {
            if !list.get(key).is_some_and(Value::is_string) {
                return Err(bad(key, "is missing or no text"));
            }
        }
        let Some(Value::Array(plugins)) = list.get_mut("plugins") else { return Err(bad("plugins", "is missing or no list of plugins")) };
        let mut ours = 0;
        for (index, entry) in plugins.iter_mut().enumerate() {
            let path = format!("plugins[{index}]");
            let Value::Object(object) = &*entry else { return Err(bad(&path, "is no object")) };
            // In any case, as flannel's users may write it; every other plugin's keys are exact.
            let kind = object.iter().find(|(key, _)| key.eq_ignore_ascii_case("type")).and_then(|(_, kind)| kind.as_str());
            match kind {
                Some(flannel::PLUGIN) => {
                    *entry = flannel::as_ours(object, PLUGIN)
                        .map_err(|error| BadKey { path: format!("{path}.{}", error.path), what: error.what })?;
                    ours += 1;
                }
                Some(PLUGIN) => ours += 1,
                Some("") | None => return Err(bad(&path, "has no type")),
                Some(name) if name.contains('/') => return Err(bad(&path, "has a path for a type")),
                Some(_) => {}
            }
        }
        match ours {
            1 => Ok(Self { list, optional: false }),
            _ => Err(bad("plugins", &format!("has to have one entry of type {PLUGIN} or {}, and has {ours}", flannel::PLUGIN))),
        }
    }

    /// The list for a node that has the plugins of which `there` says so.
    ///
    /// # Errors
    /// The plugins of an operator's list that the node does not have.
    pub(super) fn render(&self, there: impl Fn(&str) -> bool) -> Result<Rendered, Vec<String>> {
        let name = |entry: &Value| entry["type"].as_str().unwrap_or_default().to_owned();
        let mut list = self.list.clone();
        let mut missing = Vec::new();
        if let Some(Value::Array(plugins)) = list.get_mut("plugins") {
            missing = plugins.iter().map(name).filter(|plugin| !there(plugin)).collect();
            plugins.retain(|entry| there(&name(entry)));
        }
        if !missing.is_empty() && !self.optional {
            return Err(missing);
        }
        let left_out = CHAINED.iter().filter(|(plugin, ..)| missing.iter().any(|name| name == plugin));
        let left_out = left_out.map(|(plugin, _, loss)| (*plugin, *loss)).collect();
        Ok(Rendered { text: format!("{:#}\n", Value::Object(list)), left_out })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(rendered: &Rendered) -> Vec<String> {
        let list: Value = serde_json::from_str(&rendered.text).unwrap();
        list["plugins"].as_array().unwrap().iter().map(|entry| entry["type"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_built_in_list_chains_what_the_node_has() {
        let template = Template::default();
        let all = template.render(|_| true).unwrap();
        assert_eq!(types(&all), ["overlay-cni", "portmap", "bandwidth"]);
        assert!(all.text.contains("\"cniVersion\": \"1.0.0\"") && all.text.contains("\"portMappings\": true"), "{}", all.text);
        let some = template.render(|plugin| plugin != "portmap").unwrap();
        assert_eq!(types(&some), ["overlay-cni", "bandwidth"]);
        assert_eq!(some.left_out, [("portmap", "hostPort of pods has no effect")]);
        assert_eq!(Template::parse(&all.text).unwrap().list, template.list, "what is written can be given as a template");
    }

    #[test]
    fn flannels_list_keeps_its_name_its_version_and_its_other_plugins() {
        // As in kube-flannel.yml of flannel 0.28.
        let text = r#"{ "name": "cbr0", "cniVersion": "0.3.1", "plugins": [
            { "type": "flannel", "delegate": { "hairpinMode": true, "isDefaultGateway": true } },
            { "type": "portmap", "capabilities": { "portMappings": true } } ] }"#;
        let template = Template::parse(text).unwrap();
        let rendered = template.render(|_| true).unwrap();
        assert_eq!(types(&rendered), ["overlay-cni", "portmap"]);
        assert!(rendered.text.contains("\"cbr0\"") && rendered.text.contains("\"0.3.1\""), "{}", rendered.text);
        assert_eq!(template.render(|plugin| plugin == PLUGIN), Err(vec!["portmap".to_owned()]), "it was asked for");
    }

    #[test]
    fn lists_that_cannot_be_ours_are_refused() {
        for (text, told) in [
            ("{", "the file is no JSON object"),
            (r#"{ "cniVersion": "1.0.0", "plugins": [] }"#, "name is missing"),
            (r#"{ "cniVersion": "1.0.0", "name": "a", "type": "overlay-cni" }"#, "plugins is missing"),
            (r#"{ "cniVersion": "1.0.0", "name": "a", "plugins": [{ "type": "bridge" }] }"#, "has to have one entry"),
            (r#"{ "cniVersion": "1.0.0", "name": "a", "plugins": [{ "type": "overlay-cni" }, { "type": "flannel" }] }"#, "and has 2"),
            (r#"{ "cniVersion": "1.0.0", "name": "a", "plugins": [{ "kind": "overlay-cni" }] }"#, "plugins[0] has no type"),
            (
                r#"{ "cniVersion": "1.0.0", "name": "a", "plugins": [{ "type": "flannel", "delegate": { "mtu": 9000 } }] }"#,
                "plugins[0].delegate.mtu is 9000",
            ),
        ] {
            let error = Template::parse(text).expect_err(text).to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
