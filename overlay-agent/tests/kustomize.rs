//! What `kubectl apply -k` applies for each folder of `manifests/`: rendered by kubectl's kustomize, read strictly, compared with the base.
//!
//! Talks to no cluster. Where there is no kubectl that renders these folders, each case is skipped and says so.

#[path = "manifests/objects.rs"]
mod objects;

use clap::Parser as _;
use k8s_openapi::api::rbac::v1::ClusterRole;
use libtest_mimic::{Arguments, Failed, Trial};
use objects::{Objects, documents, folder, lost};
use overlay_agent::cli::Cli;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

type Case = (&'static str, fn());

const CASES: [Case; 7] = [
    ("the folder itself and base are the files of base", plain),
    ("dev takes a loaded image and logs for a person", dev),
    ("older_runtimes has no seccomp profile and changes nothing else", older_runtimes),
    ("publish lets agents patch the status of nodes", publish),
    ("migrate_from_flannel is publish on labelled nodes", migrate),
    ("remove cleans every node and asks no probe", remove),
    ("migrated nodes are taken from flannel's DaemonSet", flannels),
];

fn main() {
    let missing = missing();
    let trial = |(name, case): Case| {
        Trial::test(name, move || std::panic::catch_unwind(case).map_err(|_| Failed::from("see above")))
            .with_ignored_flag(missing.is_some())
    };
    if let Some(why) = &missing {
        println!("kustomize: skipped: {why}");
    }
    libtest_mimic::run(&Arguments::from_args(), CASES.into_iter().map(trial).collect()).exit();
}

/// Why nothing can be rendered here. kustomize takes folders as resources since 2.1, kubectl has a newer one than 2.0 since 1.21.
fn missing() -> Option<String> {
    let Ok(output) = Command::new("kubectl").args(["version", "--client", "--output", "json"]).output() else {
        return Some("there is no kubectl".to_owned());
    };
    let version: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let number = |name: &str| version["clientVersion"][name].as_str()?.trim_end_matches('+').parse::<u32>().ok();
    match (number("major"), number("minor")) {
        (Some(1), Some(minor)) if minor < 21 => Some(format!("kubectl is 1.{minor}; 1.21 is the first that renders these folders")),
        (Some(_), Some(_)) => None,
        _ => Some("kubectl does not tell its version".to_owned()),
    }
}

fn kustomize(folder: &Path) -> Vec<Value> {
    let output = Command::new("kubectl").arg("kustomize").arg(folder).output().expect("kubectl starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{}: {said}", folder.display());
    documents(&String::from_utf8_lossy(&output.stdout))
}

fn rendered(name: &str) -> Objects {
    Objects::new(kustomize(&folder().join(name)))
}

/// Everything, in an order that does not depend on who wrote it.
fn sorted(objects: &Objects) -> Vec<&Value> {
    let mut documents: Vec<_> = objects.0.iter().collect();
    documents.sort_by_key(|document| format!("{} {}", document["kind"], document["metadata"]["name"]));
    documents
}

/// The paths in which the DaemonSet is not the base's, either way; every other object of the base is the same.
fn differs_in(objects: &Objects) -> Vec<String> {
    let base = Objects::base();
    let mut paths = Vec::new();
    for document in &base.0 {
        let same = |other: &&Value| other["kind"] == document["kind"] && other["metadata"]["name"] == document["metadata"]["name"];
        let found = objects.0.iter().find(same).expect("every object of the base is there");
        let spec = "/spec/template/spec";
        match (document.pointer(spec), found.pointer(spec)) {
            (Some(document), Some(found)) => paths.extend(lost(document, found).into_iter().chain(lost(found, document))),
            _ => assert_eq!(found, document),
        }
    }
    paths.sort();
    paths.dedup();
    paths
}

fn plain() {
    for name in [".", "base"] {
        assert_eq!(sorted(&rendered(name)), sorted(&Objects::base()), "{name}");
    }
}

fn dev() {
    let dev = rendered("overlays/dev");
    let places = [".containers[0].command", ".containers[0].env", ".containers[0].imagePullPolicy", ".initContainers[0].imagePullPolicy"];
    assert_eq!(differs_in(&dev), places);
    assert_eq!(dev.config().log_format, overlay_agent::cli::LogFormat::Text);
}

fn older_runtimes() {
    let older = rendered("overlays/older-runtimes");
    let place = |container: &str| format!(".{container}[0].securityContext.seccompProfile.type");
    assert_eq!(differs_in(&older), [place("containers"), place("initContainers")]);
    assert_eq!(older.agent().security_context.unwrap().seccomp_profile.unwrap().type_, "Unconfined");
}

fn publish() {
    let publish = rendered("overlays/publish");
    assert_eq!(differs_in(&publish), [".containers[0].command"]);
    assert!(publish.config().publish);
    let rules = publish.named::<ClusterRole>("overlay-agent-publish").rules.unwrap();
    let [rule] = rules.as_slice() else { panic!("one rule is enough") };
    assert_eq!(rule.resources.as_deref(), Some(&["nodes/status".to_owned()][..]));
    assert_eq!(rule.verbs, ["patch"]);
}

fn migrate() {
    let migrate = rendered("overlays/migrate-from-flannel");
    assert_eq!(
        differs_in(&migrate),
        [".containers[0].command", ".containers[0].volumeMounts", ".nodeSelector.overlay/migrated", ".volumes"]
    );
    let of_publish = rendered("overlays/publish");
    let but_the_agent = |objects: &Objects| -> Vec<Value> {
        sorted(objects).into_iter().filter(|document| document["kind"] != "DaemonSet").cloned().collect()
    };
    assert_eq!(but_the_agent(&migrate), but_the_agent(&of_publish));
    assert_eq!(migrate.agent().command, of_publish.agent().command);
    let mounts = migrate.agent().volume_mounts.unwrap();
    assert!(mounts.iter().any(|mount| mount.mount_path == "/run/flannel"), "flannel's file is out of reach");
}

fn remove() {
    let remove = rendered("overlays/remove");
    let places = ["command[1]", "livenessProbe", "readinessProbe", "startupProbe"].map(|name| format!(".containers[0].{name}"));
    assert_eq!(differs_in(&remove), [&places[..], &[".initContainers".to_owned()]].concat());
    let words = remove.agent().command.unwrap();
    assert!(matches!(Cli::try_parse_from(words).unwrap().command, overlay_agent::cli::Command::Cleanup(_)));
}

/// What the guide gives to `kubectl patch`, on a DaemonSet with the affinity that flannel's has.
fn flannels() {
    let terms = json!([{"matchExpressions": [{"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}]}]);
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
    let template = json!({"metadata": {"labels": {"app": "flannel"}}, "spec": {"affinity": affinity, "containers": []}});
    let spec = json!({"selector": {"matchLabels": {"app": "flannel"}}, "template": template});
    let daemonset = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "kube-flannel-ds"}, "spec": spec});
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("flannel.yaml"), daemonset.to_string()).unwrap();
    std::fs::copy(folder().join("overlays/migrate-from-flannel/flannel.json"), place.path().join("flannel.json")).unwrap();
    let patch = json!({"resources": ["flannel.yaml"], "patches": [{"path": "flannel.json", "target": {"kind": "DaemonSet"}}]});
    std::fs::write(place.path().join("kustomization.yaml"), patch.to_string()).unwrap();
    let patched = Objects::new(kustomize(place.path())).named::<k8s_openapi::api::apps::v1::DaemonSet>("kube-flannel-ds");
    let affinity = patched.spec.unwrap().template.spec.unwrap().affinity.unwrap().node_affinity.unwrap();
    let terms = affinity.required_during_scheduling_ignored_during_execution.unwrap().node_selector_terms;
    let [term] = terms.as_slice() else { panic!("one term") };
    let words: Vec<_> = term.match_expressions.iter().flatten().map(|rule| (rule.key.as_str(), rule.operator.as_str())).collect();
    assert_eq!(words, [("kubernetes.io/os", "In"), ("overlay/migrated", "DoesNotExist")]);
}
