//! What the Helm chart applies: rendered, read strictly, compared with the base.
//!
//! Rendered by `helm`, where there is one (without, these cases are skipped and say so), and always by an implementation of Go's templates in Rust as
//! well. The chart uses values, the
//! release's namespace and the function `int64`, which Helm has from its library of functions, and nothing else of the language. Talks to
//! no cluster.

#[path = "manifests/objects.rs"]
mod objects;

use gtmpl::{Context, Func, FuncError, Template};
use libtest_mimic::{Arguments, Failed, Trial};
use objects::{Objects, documents, folder, read};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;

/// Where the chart is installed.
const NAMESPACE: &str = "overlay-system";

/// Makes of the chart and these values what is applied.
type Renderer = fn(&Value) -> Vec<Value>;

type Case = (&'static str, fn(Renderer));

const CASES: [Case; 3] = [
    ("with its own values it is the base without the namespace", own_values),
    ("every value changes something", every_value),
    ("chosen values reach the agent", chosen_values),
];

fn main() {
    let with =
        |renderer: Renderer, by: &'static str| CASES.map(|(name, case)| trial(format!("{name}, rendered by {by}"), move || case(renderer)));
    let mut trials: Vec<Trial> = with(by_crate, "gtmpl").into();
    trials.push(trial("the chart names itself and its version".to_owned(), names));
    let version = version();
    match &version {
        Some(version) => println!("chart: rendered by Helm {version} and by gtmpl"),
        None => println!("chart: skipped what needs Helm: there is no helm; get it from helm.sh"),
    }
    let by_helm = with(by_helm, "Helm").into_iter().chain([trial("Helm finds nothing wrong with it".to_owned(), lint)]);
    trials.extend(by_helm.map(|trial| trial.with_ignored_flag(version.is_none())));
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn trial(name: String, case: impl FnOnce() + Send + std::panic::UnwindSafe + 'static) -> Trial {
    Trial::test(name, move || std::panic::catch_unwind(case).map_err(|_| Failed::from("see above")))
}

fn chart() -> PathBuf {
    folder().join("helm/overlay")
}

// === Renderers ===

/// Helm's version, as it says it.
fn version() -> Option<String> {
    let output = Command::new("helm").args(["version", "--short"]).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned()).filter(|version| output.status.success() && !version.is_empty())
}

fn by_helm(values: &Value) -> Vec<Value> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), values.to_string()).unwrap();
    let mut helm = Command::new("helm");
    helm.args(["template", "overlay", "--namespace", NAMESPACE, "--values"]).arg(file.path()).arg(chart());
    let output = helm.output().expect("helm starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    documents(&String::from_utf8_lossy(&output.stdout))
}

fn by_crate(values: &Value) -> Vec<Value> {
    let mut files: Vec<_> = std::fs::read_dir(chart().join("templates")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().flat_map(|file| documents(&render(&read(file), values))).collect()
}

fn render(text: &str, values: &Value) -> String {
    fn int64(arguments: &[gtmpl::Value]) -> Result<gtmpl::Value, FuncError> {
        arguments.first().cloned().ok_or_else(|| FuncError::AtLeastXArgs("int64".to_owned(), 1))
    }
    let of = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let values: HashMap<String, gtmpl::Value> =
        values.as_object().unwrap().iter().map(|(name, value)| (name.clone(), of(value).into())).collect();
    let release = HashMap::from([("Namespace".to_owned(), gtmpl::Value::from(NAMESPACE))]);
    let context = HashMap::from([("Values".to_owned(), gtmpl::Value::from(values)), ("Release".to_owned(), gtmpl::Value::from(release))]);
    let mut template = Template::default();
    template.add_funcs(&[("int64", int64 as Func)]);
    template.parse(text).unwrap();
    template.render(&Context::from(context)).unwrap()
}

// === Cases ===

fn values() -> Value {
    documents(&read(&chart().join("values.yaml"))).remove(0)
}

fn own_values(rendered: Renderer) {
    let mut base: Vec<_> = Objects::base().0.into_iter().filter(|document| document["kind"] != "Namespace").collect();
    let mut chart = Objects::new(rendered(&values())).0;
    for documents in [&mut base, &mut chart] {
        documents.sort_by_key(|document| format!("{} {}", document["kind"], document["metadata"]["name"]));
    }
    assert_eq!(chart, base);
}

fn every_value(rendered: Renderer) {
    let own = values();
    for name in own.as_object().unwrap().keys() {
        let mut other = own.clone();
        other[name] = "other".into();
        assert_ne!(rendered(&other), rendered(&own), "{name}");
    }
}

fn chosen_values(rendered: Renderer) {
    let mut chosen = values();
    let others = [
        ("network", json!("10.42.0.0/16")),
        // To Helm a float, printed as 1.6777215e+07 unless the chart takes care.
        ("vni", json!(16_777_215)),
        ("port", json!(4789)),
        ("receiveMode", json!("tc")),
        ("masquerade", json!(false)),
    ];
    for (name, value) in others {
        assert!(chosen[name] != Value::Null, "{name}");
        chosen[name] = value;
    }
    let config = Objects::new(rendered(&chosen)).config();
    assert_eq!((config.vni, config.port, config.receive_mode.name(), config.masquerade), (16_777_215, 4789, "tc", false));
    assert_eq!(config.direct, ["10.42.0.0/16".parse().unwrap()]);
}

fn names() {
    let chart = documents(&read(&chart().join("Chart.yaml"))).remove(0);
    assert_eq!(
        (&chart["apiVersion"], &chart["name"], &chart["appVersion"]),
        (&"v2".into(), &"overlay".into(), &env!("CARGO_PKG_VERSION").into())
    );
}

fn lint() {
    let output = Command::new("helm").args(["lint", "--strict"]).arg(chart()).output().expect("helm starts");
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}
