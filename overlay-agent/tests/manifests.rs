//! The manifests as the API server would read them: with the types of the Kubernetes API, and strictly.
//!
//! Reads `manifests/` and talks to no cluster. A field the API does not know fails a test here; `kubectl apply` would only warn.

use clap::Parser as _;
use k8s_openapi::Resource;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Namespace, PodSpec, ServiceAccount, Volume};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use overlay_agent::cli::{Cli, Command, Settings};
use overlay_agent::config::{Config, Source};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const NAMESPACE: &str = "overlay-system";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests")
}

/// Every document of a file.
fn documents(file: &str) -> Vec<Value> {
    let text = fs::read_to_string(folder().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The one document of a kind in a file, as the API's type and with nothing lost on the way.
fn read<T: Resource + DeserializeOwned + Serialize>(file: &str) -> T {
    let mut found = documents(file).into_iter().filter(|document| document["kind"] == T::KIND);
    let (Some(document), None) = (found.next(), found.next()) else { panic!("{file} has not exactly one {}", T::KIND) };
    assert_eq!(document["apiVersion"], T::API_VERSION, "{file}: {}", T::KIND);
    let typed: T = serde_json::from_value(document.clone()).unwrap_or_else(|error| panic!("{file}: {}: {error}", T::KIND));
    let back = serde_json::to_value(&typed).expect("an API object is JSON");
    let mut lost = Vec::new();
    compare(&document, &back, String::new(), &mut lost);
    assert!(lost.is_empty(), "{file}: {}: the API does not know {}", T::KIND, lost.join(", "));
    typed
}

/// Collects the paths of what is in `written` and not, or otherwise, in `understood`. The types drop fields they do not know.
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

fn pod() -> PodSpec {
    read::<DaemonSet>("daemonset.yaml").spec.expect("a DaemonSet has a spec").template.spec.expect("its template has one too")
}

fn agent() -> Container {
    let mut containers = pod().containers;
    assert_eq!(containers.len(), 1);
    containers.remove(0)
}

/// The host's folder that the container sees at `path`.
fn host_path(pod: &PodSpec, agent: &Container, path: &str) -> Option<String> {
    let mount = agent.volume_mounts.iter().flatten().find(|mount| mount.mount_path == path)?;
    let named = |volume: &&Volume| volume.name == mount.name;
    Some(pod.volumes.iter().flatten().find(named)?.host_path.as_ref()?.path.clone())
}

#[test]
fn kustomization_lists_every_manifest() {
    let listed = documents("kustomization.yaml").remove(0);
    let listed: BTreeSet<String> = serde_json::from_value(listed["resources"].clone()).unwrap();
    let present = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let present: BTreeSet<String> =
        present.filter(|name| Path::new(name).extension().is_some_and(|end| end == "yaml") && name != "kustomization.yaml").collect();
    assert_eq!(listed, present);
}

#[test]
fn everything_lives_in_one_namespace() {
    assert_eq!(read::<Namespace>("namespace.yaml").metadata.name.as_deref(), Some(NAMESPACE));
    assert_eq!(read::<ServiceAccount>("rbac.yaml").metadata.namespace.as_deref(), Some(NAMESPACE));
    assert_eq!(read::<ConfigMap>("config.yaml").metadata.namespace.as_deref(), Some(NAMESPACE));
    assert_eq!(read::<DaemonSet>("daemonset.yaml").metadata.namespace.as_deref(), Some(NAMESPACE));
}

#[test]
fn service_account_may_read_nodes_and_nothing_else() {
    let rules = read::<ClusterRole>("rbac.yaml").rules.unwrap();
    let [rule] = rules.as_slice() else { panic!("one rule is enough") };
    assert_eq!(rule.api_groups.as_deref(), Some(&[String::new()][..]));
    assert_eq!(rule.resources.as_deref(), Some(&["nodes".to_owned()][..]));
    assert_eq!(rule.verbs, ["get", "list", "watch"]);
    assert_eq!((&rule.resource_names, &rule.non_resource_urls), (&None, &None));

    let binding = read::<ClusterRoleBinding>("rbac.yaml");
    let role = read::<ClusterRole>("rbac.yaml");
    assert_eq!((binding.role_ref.kind.as_str(), Some(binding.role_ref.name)), ("ClusterRole", role.metadata.name));
    let account = read::<ServiceAccount>("rbac.yaml").metadata;
    let subjects = binding.subjects.unwrap();
    let [subject] = subjects.as_slice() else { panic!("one subject is bound") };
    assert_eq!(subject.kind, "ServiceAccount");
    assert_eq!((Some(&subject.name), &subject.namespace), (account.name.as_ref(), &account.namespace));
    assert_eq!(pod().service_account_name, account.name);
}

#[test]
fn daemonset_selects_the_pods_it_makes() {
    let spec = read::<DaemonSet>("daemonset.yaml").spec.unwrap();
    let labels = spec.template.metadata.unwrap().labels.unwrap();
    let wanted = spec.selector.match_labels.unwrap();
    assert!(!wanted.is_empty() && wanted.iter().all(|(name, value)| labels.get(name) == Some(value)));
}

#[test]
fn agent_runs_on_every_linux_node_before_there_is_a_network() {
    let pod = pod();
    assert_eq!(pod.host_network, Some(true));
    assert_ne!(pod.host_pid, Some(true));
    assert_eq!(pod.priority_class_name.as_deref(), Some("system-node-critical"));
    assert_eq!(pod.node_selector.unwrap().get("kubernetes.io/os").map(String::as_str), Some("linux"));
    let tolerations = pod.tolerations.unwrap();
    // Operator Exists without a key tolerates every taint.
    assert!(tolerations.iter().any(|toleration| toleration.operator.as_deref() == Some("Exists") && toleration.key.is_none()));
}

#[test]
fn agent_has_three_capabilities_and_is_not_privileged() {
    let context = agent().security_context.unwrap();
    assert_eq!(context.privileged, Some(false));
    assert_eq!(context.allow_privilege_escalation, Some(false));
    assert_eq!(context.read_only_root_filesystem, Some(true));
    let capabilities = context.capabilities.unwrap();
    assert_eq!(capabilities.drop.unwrap(), ["ALL"]);
    assert_eq!(capabilities.add.unwrap(), ["BPF", "NET_ADMIN", "PERFMON"]);
}

#[test]
fn the_measurement_is_optional_and_sees_what_the_agent_sees() {
    let containers = pod().init_containers.unwrap();
    let [measure] = containers.as_slice() else { panic!("one container runs before the agent") };
    let words = measure.command.iter().chain(&measure.args).flatten();
    let Command::Measure(arguments) = Cli::try_parse_from(words).unwrap().command else { panic!("it measures") };
    assert!(arguments.optional, "a measurement that fails must not keep the agent from starting");
    let (ours, agents) = (measure.security_context.clone().unwrap(), agent().security_context.unwrap());
    assert_eq!(ours.capabilities.unwrap().add.unwrap(), ["BPF", "NET_ADMIN", "PERFMON", "SYS_ADMIN"]);
    assert_eq!((ours.privileged, ours.allow_privilege_escalation), (Some(false), Some(false)));
    assert_eq!((ours.read_only_root_filesystem, ours.seccomp_profile), (Some(true), agents.seccomp_profile));
    // What it reads and writes is where the agent has it. The runtime's folders and the packet filter are none of its business.
    let mounts: Vec<_> = measure.volume_mounts.iter().flatten().collect();
    assert!(mounts.iter().all(|mount| agent().volume_mounts.iter().flatten().any(|agents| agents == *mount)), "{mounts:?}");
    for needed in ["/etc/overlay", "/bpffs", "/run/overlay"] {
        assert!(mounts.iter().any(|mount| mount.mount_path == needed), "{needed} is not mounted: {mounts:?}");
    }
    assert_eq!(measure.image, agent().image);
    let config = |container: &Container| container.env.iter().flatten().find(|variable| variable.name == "OVERLAY_CONFIG").cloned();
    assert_eq!(config(measure), config(&agent()));
}

#[test]
fn agent_accepts_its_command_line_and_its_configuration() {
    let (pod, agent) = (pod(), agent());
    let words = agent.command.iter().chain(&agent.args).flatten();
    let Command::Run(arguments) = Cli::try_parse_from(words).unwrap().command else { panic!("the container runs the agent") };

    // What the kubelet makes of the ConfigMap: a file per key in the folder where its volume is mounted.
    let environment = agent.env.iter().flatten();
    let path = environment.clone().find(|variable| variable.name == "OVERLAY_CONFIG").unwrap().value.clone().unwrap();
    let map = read::<ConfigMap>("config.yaml");
    let mount = agent.volume_mounts.iter().flatten().find(|mount| Path::new(&path).parent() == Some(Path::new(&mount.mount_path))).unwrap();
    let volume = pod.volumes.iter().flatten().find(|volume| volume.name == mount.name).unwrap();
    assert_eq!(volume.config_map.as_ref().unwrap().name, map.metadata.name.unwrap());
    let text = &map.data.unwrap()[Path::new(&path).file_name().unwrap().to_str().unwrap()];
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();

    let node_name = environment.clone().find(|variable| variable.name == "NODE_NAME").unwrap();
    let field = node_name.value_from.clone().unwrap().field_ref.unwrap();
    assert_eq!(field.field_path, "spec.nodeName");
    let flags = Settings { node_name: Some("node-a".to_owned()), ..arguments.settings };
    let config = Config::load(flags, Some(file.path())).unwrap_or_else(|error| panic!("config.yaml: {error}"));

    assert_eq!(config.source, Source::Kubernetes { kubeconfig: None, api_server: None });
    let bpffs = config.directories.bpffs.to_str().unwrap();
    assert_eq!(host_path(&pod, &agent, bpffs).as_deref(), Some("/sys/fs/bpf"));
    let state_dir = config.directories.state_dir.to_str().unwrap();
    assert_eq!(host_path(&pod, &agent, state_dir).as_deref(), Some(state_dir), "the state directory is the host's, under the same name");
    let pods_dir = config.directories.pods_dir.to_str().unwrap();
    assert_eq!(host_path(&pod, &agent, pods_dir).as_deref(), Some(pods_dir), "the plugin runs on the host");
    let (runtime, _) = config.runtime.expect("pods are to be started");
    assert_eq!(host_path(&pod, &agent, runtime.configurations.to_str().unwrap()).as_deref(), Some("/etc/cni/net.d"));
    assert_eq!(host_path(&pod, &agent, runtime.plugins.to_str().unwrap()).as_deref(), Some("/opt/cni/bin"));
}

#[test]
fn a_field_the_api_does_not_know_is_found() {
    let written = serde_json::json!({"spec": {"hostNetwork": true, "hostNetworks": true, "containers": [{"name": "agent", "imgae": "x"}]}});
    let understood = serde_json::to_value(serde_json::from_value::<k8s_openapi::api::core::v1::Pod>(written.clone()).unwrap()).unwrap();
    let mut lost = Vec::new();
    compare(&written, &understood, String::new(), &mut lost);
    assert_eq!(lost, [".spec.containers[0].imgae", ".spec.hostNetworks"]);
}
