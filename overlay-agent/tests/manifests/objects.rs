//! Manifests as the API server would read them: with the types of the Kubernetes API, and strictly.
//!
//! A field the API does not know fails here; `kubectl apply` would only warn.

use clap::Parser as _;
use k8s_openapi::Resource;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Namespace, PodSpec, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use overlay_agent::cli::{Cli, Command, Settings};
use overlay_agent::config::Config;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::{Path, PathBuf};

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests")
}

/// Every document of a text.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Everything that one `kubectl apply` applies.
#[derive(Debug)]
pub(crate) struct Objects(pub(crate) Vec<Value>);

impl Objects {
    /// Reads each document as the API's type, with nothing lost on the way.
    pub(crate) fn new(documents: Vec<Value>) -> Self {
        for document in &documents {
            match document["kind"].as_str() {
                Some("Namespace") => drop(typed::<Namespace>(document)),
                Some("ServiceAccount") => drop(typed::<ServiceAccount>(document)),
                Some("ClusterRole") => drop(typed::<ClusterRole>(document)),
                Some("ClusterRoleBinding") => drop(typed::<ClusterRoleBinding>(document)),
                Some("ConfigMap") => drop(typed::<ConfigMap>(document)),
                Some("DaemonSet") => drop(typed::<DaemonSet>(document)),
                other => panic!("nobody knows {other:?} here"),
            }
        }
        Self(documents)
    }

    /// The base, file by file.
    pub(crate) fn base() -> Self {
        let texts = ["namespace.yaml", "rbac.yaml", "config.yaml", "daemonset.yaml"].map(|name| read(&folder().join("base").join(name)));
        Self::new(texts.iter().flat_map(|text| documents(text)).collect())
    }

    /// The object of a kind with a name.
    pub(crate) fn named<T: Resource + DeserializeOwned + Serialize>(&self, name: &str) -> T {
        let mut found = self.0.iter().filter(|document| document["kind"] == T::KIND && document["metadata"]["name"] == name);
        let (Some(document), None) = (found.next(), found.next()) else { panic!("there is not exactly one {} {name}", T::KIND) };
        typed(document)
    }

    pub(crate) fn pod(&self) -> PodSpec {
        self.named::<DaemonSet>("overlay-agent").spec.expect("a DaemonSet has a spec").template.spec.expect("its template has one too")
    }

    pub(crate) fn agent(&self) -> Container {
        let mut containers = self.pod().containers;
        assert_eq!(containers.len(), 1);
        containers.remove(0)
    }

    /// The configuration as the agent in the container makes it: from its command line, and from what the kubelet makes of the ConfigMap, a
    /// file per key in the folder where its volume is mounted.
    pub(crate) fn config(&self) -> Config {
        let (pod, agent) = (self.pod(), self.agent());
        let environment = agent.env.iter().flatten();
        let path = environment.clone().find(|variable| variable.name == "OVERLAY_CONFIG").unwrap().value.clone().unwrap();
        let (mounted, name) = (Path::new(&path).parent().unwrap(), Path::new(&path).file_name().unwrap());
        let mount = agent.volume_mounts.iter().flatten().find(|mount| mounted == Path::new(&mount.mount_path)).unwrap();
        let volume = pod.volumes.iter().flatten().find(|volume| volume.name == mount.name).unwrap();
        let map = self.named::<ConfigMap>(&volume.config_map.as_ref().unwrap().name);
        let folder = tempfile::tempdir().unwrap();
        for (key, text) in map.data.unwrap() {
            let text = text.replace(mounted.to_str().unwrap(), folder.path().to_str().unwrap());
            std::fs::write(folder.path().join(key), text).unwrap();
        }
        let node_name = environment.clone().find(|variable| variable.name == "NODE_NAME").unwrap();
        assert_eq!(node_name.value_from.clone().unwrap().field_ref.unwrap().field_path, "spec.nodeName");
        let words = agent.command.iter().chain(&agent.args).flatten();
        let Command::Run(arguments) = Cli::try_parse_from(words).unwrap().command else { panic!("the container runs the agent") };
        let flags = Settings { node_name: Some("node-a".to_owned()), ..arguments.settings };
        Config::load(flags, Some(&folder.path().join(name))).unwrap_or_else(|error| panic!("{error}"))
    }
}

pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn typed<T: Resource + DeserializeOwned + Serialize>(document: &Value) -> T {
    assert_eq!((&document["apiVersion"], &document["kind"]), (&T::API_VERSION.into(), &T::KIND.into()));
    let typed: T = serde_json::from_value(document.clone()).unwrap_or_else(|error| panic!("{}: {error}", T::KIND));
    let back = serde_json::to_value(&typed).expect("an API object is JSON");
    let lost = lost(document, &back);
    assert!(lost.is_empty(), "{}: the API does not know {}", T::KIND, lost.join(", "));
    typed
}

/// The paths of what is in `written` and not, or otherwise, in `understood`. The types drop fields they do not know.
pub(crate) fn lost(written: &Value, understood: &Value) -> Vec<String> {
    let mut lost = Vec::new();
    compare(written, understood, String::new(), &mut lost);
    lost
}

fn compare(written: &Value, understood: &Value, path: String, lost: &mut Vec<String>) {
    match (written, understood) {
        (Value::Object(written), Value::Object(understood)) => {
            for (name, value) in written {
                let path = format!("{path}.{name}");
                match understood.get(name) {
                    Some(found) => compare(value, found, path, lost),
                    None => lost.push(path),
                }
            }
        }
        (Value::Array(written), Value::Array(understood)) if written.len() == understood.len() => {
            for (at, (value, found)) in written.iter().zip(understood).enumerate() {
                compare(value, found, format!("{path}[{at}]"), lost);
            }
        }
        _ if written == understood => {}
        _ => lost.push(path),
    }
}
