//! The Helm chart, rendered by an implementation of Go's templates in Rust: Helm itself is not asked. The chart uses values, the release's
//! namespace and the function `int64`, which Helm has from its library of functions, and nothing else of the language.

use super::NAMESPACE;
use super::objects::{Objects, documents, folder, read};
use gtmpl::{Context, Func, FuncError, Template, Value};
use std::collections::HashMap;

fn int64(arguments: &[Value]) -> Result<Value, FuncError> {
    arguments.first().cloned().ok_or_else(|| FuncError::AtLeastXArgs("int64".to_owned(), 1))
}

/// What is applied for these values, in order of the files' names.
fn rendered(values: &serde_json::Value) -> Vec<serde_json::Value> {
    let mut files: Vec<_> =
        std::fs::read_dir(folder().join("helm/overlay/templates")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().flat_map(|file| documents(&render(&read(file), values))).collect()
}

fn render(text: &str, values: &serde_json::Value) -> String {
    let of = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let values: HashMap<String, Value> =
        values.as_object().unwrap().iter().map(|(name, value)| (name.clone(), Value::from(of(value)))).collect();
    let release = HashMap::from([("Namespace".to_owned(), Value::from(NAMESPACE))]);
    let context = HashMap::from([("Values".to_owned(), Value::from(values)), ("Release".to_owned(), Value::from(release))]);
    let mut template = Template::default();
    template.add_funcs(&[("int64", int64 as Func)]);
    template.parse(text).unwrap();
    template.render(&Context::from(context)).unwrap()
}

fn values() -> serde_json::Value {
    documents(&read(&folder().join("helm/overlay/values.yaml"))).remove(0)
}

#[test]
fn chart_with_its_own_values_is_the_base_without_the_namespace() {
    let mut base: Vec<_> = Objects::base().0.into_iter().filter(|document| document["kind"] != "Namespace").collect();
    let mut chart = Objects::new(rendered(&values())).0;
    for documents in [&mut base, &mut chart] {
        documents.sort_by_key(|document| format!("{} {}", document["kind"], document["metadata"]["name"]));
    }
    assert_eq!(chart, base);
}

#[test]
fn every_value_of_the_chart_changes_something() {
    let own = values();
    for name in own.as_object().unwrap().keys() {
        let mut other = own.clone();
        other[name] = "other".into();
        assert_ne!(rendered(&other), rendered(&own), "{name}");
    }
}

#[test]
fn chosen_values_reach_the_agent() {
    let mut chosen = values();
    for (name, value) in
        [("network", "10.42.0.0/16"), ("vni", "16777215"), ("port", "4789"), ("receiveMode", "tc"), ("masquerade", "false")]
    {
        assert!(chosen[name] != serde_json::Value::Null, "{name}");
        chosen[name] = value.into();
    }
    let config = Objects::new(rendered(&chosen)).config();
    assert_eq!((config.vni, config.port, config.receive_mode.name(), config.masquerade), (16_777_215, 4789, "tc", false));
    assert_eq!(config.direct, ["10.42.0.0/16".parse().unwrap()]);
}

#[test]
fn chart_names_itself_and_its_version() {
    let chart = documents(&read(&folder().join("helm/overlay/Chart.yaml"))).remove(0);
    assert_eq!(
        (&chart["apiVersion"], &chart["name"], &chart["appVersion"]),
        (&"v2".into(), &"overlay".into(), &env!("CARGO_PKG_VERSION").into())
    );
}
