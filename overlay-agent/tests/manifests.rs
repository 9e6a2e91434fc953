//! The base, and the settings in it.
//!
//! Reads `manifests/` and talks to no cluster. What kustomize makes of the base is in `kustomize.rs`, what Helm makes of it in `chart.rs`.

#[path = "manifests/objects.rs"]
mod objects;

use clap::Parser as _;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Namespace, PodSpec, Probe, ServiceAccount, Volume};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use objects::{Objects, documents, folder, lost, read};
use overlay_agent::cli::{Cli, Command};
use overlay_agent::config::Source;
use overlay_agent::serve::Listen;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const NAMESPACE: &str = "overlay-system";

/// The host's folder that the container sees at `path`.
fn host_path(pod: &PodSpec, agent: &Container, path: &str) -> Option<String> {
    let mount = agent.volume_mounts.iter().flatten().find(|mount| mount.mount_path == path)?;
    let named = |volume: &&Volume| volume.name == mount.name;
    Some(pod.volumes.iter().flatten().find(named)?.host_path.as_ref()?.path.clone())
}

#[test]
fn kustomization_lists_every_manifest() {
    let base = folder().join("base");
    let listed = documents(&read(&base.join("kustomization.yaml"))).remove(0);
    let listed: BTreeSet<String> = serde_json::from_value(listed["resources"].clone()).unwrap();
    let present = fs::read_dir(base).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let present: BTreeSet<String> =
        present.filter(|name| Path::new(name).extension().is_some_and(|end| end == "yaml") && name != "kustomization.yaml").collect();
    assert_eq!(listed, present);
}

#[test]
fn everything_lives_in_one_namespace() {
    let base = Objects::base();
    assert_eq!(base.named::<Namespace>(NAMESPACE).metadata.name.as_deref(), Some(NAMESPACE));
    let account = base.named::<ServiceAccount>("overlay-agent").metadata;
    let config = base.named::<ConfigMap>("overlay-agent").metadata;
    let agent = base.named::<DaemonSet>("overlay-agent").metadata;
    assert_eq!([account, config, agent].map(|metadata| metadata.namespace), [const { NAMESPACE }; 3].map(|name| Some(name.to_owned())));
}

#[test]
fn service_account_may_read_nodes_and_nothing_else() {
    let rules = Objects::base().named::<ClusterRole>("overlay-agent").rules.unwrap();
    let [rule] = rules.as_slice() else { panic!("one rule is enough") };
    assert_eq!(rule.api_groups.as_deref(), Some(&[String::new()][..]));
    assert_eq!(rule.resources.as_deref(), Some(&["nodes".to_owned()][..]));
    assert_eq!(rule.verbs, ["get", "list", "watch"]);
    assert_eq!((&rule.resource_names, &rule.non_resource_urls), (&None, &None));

    let binding = Objects::base().named::<ClusterRoleBinding>("overlay-agent");
    let role = Objects::base().named::<ClusterRole>("overlay-agent");
    assert_eq!((binding.role_ref.kind.as_str(), Some(binding.role_ref.name)), ("ClusterRole", role.metadata.name));
    let account = Objects::base().named::<ServiceAccount>("overlay-agent").metadata;
    let subjects = binding.subjects.unwrap();
    let [subject] = subjects.as_slice() else { panic!("one subject is bound") };
    assert_eq!(subject.kind, "ServiceAccount");
    assert_eq!((Some(&subject.name), &subject.namespace), (account.name.as_ref(), &account.namespace));
    assert_eq!(Objects::base().pod().service_account_name, account.name);
}

#[test]
fn daemonset_selects_the_pods_it_makes() {
    let spec = Objects::base().named::<DaemonSet>("overlay-agent").spec.unwrap();
    let labels = spec.template.metadata.unwrap().labels.unwrap();
    let wanted = spec.selector.match_labels.unwrap();
    assert!(!wanted.is_empty() && wanted.iter().all(|(name, value)| labels.get(name) == Some(value)));
}

#[test]
fn agent_runs_on_every_linux_node_before_there_is_a_network() {
    let pod = Objects::base().pod();
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
    let context = Objects::base().agent().security_context.unwrap();
    assert_eq!(context.privileged, Some(false));
    assert_eq!(context.allow_privilege_escalation, Some(false));
    assert_eq!(context.read_only_root_filesystem, Some(true));
    let capabilities = context.capabilities.unwrap();
    assert_eq!(capabilities.drop.unwrap(), ["ALL"]);
    assert_eq!(capabilities.add.unwrap(), ["BPF", "NET_ADMIN", "PERFMON"]);
}

#[test]
fn the_measurement_is_optional_and_sees_what_the_agent_sees() {
    let containers = Objects::base().pod().init_containers.unwrap();
    let [measure] = containers.as_slice() else { panic!("one container runs before the agent") };
    let words = measure.command.iter().chain(&measure.args).flatten();
    let Command::Measure(arguments) = Cli::try_parse_from(words).unwrap().command else { panic!("it measures") };
    assert!(arguments.optional, "a measurement that fails must not keep the agent from starting");
    let (ours, agents) = (measure.security_context.clone().unwrap(), Objects::base().agent().security_context.unwrap());
    assert_eq!(ours.capabilities.unwrap().add.unwrap(), ["BPF", "NET_ADMIN", "PERFMON", "SYS_ADMIN"]);
    assert_eq!((ours.privileged, ours.allow_privilege_escalation), (Some(false), Some(false)));
    assert_eq!((ours.read_only_root_filesystem, ours.seccomp_profile), (Some(true), agents.seccomp_profile));
    // What it reads and writes is where the agent has it. The runtime's folders and the packet filter are none of its business.
    let mounts: Vec<_> = measure.volume_mounts.iter().flatten().collect();
    assert!(mounts.iter().all(|mount| Objects::base().agent().volume_mounts.iter().flatten().any(|agents| agents == *mount)), "{mounts:?}");
    for needed in ["/etc/overlay", "/bpffs", "/run/overlay"] {
        assert!(mounts.iter().any(|mount| mount.mount_path == needed), "{needed} is not mounted: {mounts:?}");
    }
    assert_eq!(measure.image, Objects::base().agent().image);
    let config = |container: &Container| container.env.iter().flatten().find(|variable| variable.name == "OVERLAY_CONFIG").cloned();
    assert_eq!(config(measure), config(&Objects::base().agent()));
}

#[test]
fn agent_accepts_its_command_line_and_its_configuration() {
    let (pod, agent) = (Objects::base().pod(), Objects::base().agent());
    let config = Objects::base().config();
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
fn the_files_of_flannels_users_say_what_holds_by_default() {
    let config = Objects::base().config();
    assert_eq!((config.vni, config.port, config.mtu), (1, 8472, None));
    assert_eq!(config.direct, ["10.244.0.0/16".parse().unwrap()]);
    assert_eq!(config.notices, Vec::<String>::new());
}

#[test]
fn kubelet_asks_where_the_agent_answers() {
    let agent = Objects::base().agent();
    let Listen::At(address) = Objects::base().config().listen else { panic!("the agent answers nowhere") };
    let asks = |probe: &Option<Probe>| {
        let http = probe.as_ref().unwrap().http_get.as_ref().unwrap();
        let port = match &http.port {
            k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(port) => *port,
            other @ k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::String(_) => panic!("{other:?}"),
        };
        assert_eq!((http.host.clone(), port), (Some(address.ip().to_string()), address.port().into()));
        http.path.clone().unwrap()
    };
    assert_eq!([&agent.startup_probe, &agent.liveness_probe, &agent.readiness_probe].map(asks), ["/healthz", "/healthz", "/readyz"]);
}

#[test]
fn seccomp_is_the_runtimes_default() {
    let agent = Objects::base().agent();
    assert_eq!(agent.security_context.unwrap().seccomp_profile.unwrap().type_, "RuntimeDefault");
}

/// A ConfigMap that an operator makes; without it nothing is set, and an empty address would be refused.
#[test]
fn api_servers_address_may_be_given_and_need_not() {
    let environment = Objects::base().agent().env.unwrap();
    let variable = environment.into_iter().find(|variable| variable.name == "OVERLAY_API_SERVER").unwrap();
    let key = variable.value_from.unwrap().config_map_key_ref.unwrap();
    assert_eq!((key.name.as_str(), key.key.as_str(), key.optional), ("overlay-api-server", "address", Some(true)));
    let command = <Cli as clap::CommandFactory>::command();
    let run = command.find_subcommand("run").unwrap();
    let argument = run.get_arguments().find(|argument| argument.get_long() == Some("api-server")).unwrap();
    assert_eq!(argument.get_env(), Some("OVERLAY_API_SERVER".as_ref()));
    let page = read(&folder().join("../docs/kubernetes.md"));
    assert!(page.contains("create configmap overlay-api-server --from-literal=address="), "the guide says how");
}

#[test]
fn a_field_the_api_does_not_know_is_found() {
    let written = serde_json::json!({"spec": {"hostNetwork": true, "hostNetworks": true, "containers": [{"name": "agent", "imgae": "x"}]}});
    let understood = serde_json::to_value(serde_json::from_value::<k8s_openapi::api::core::v1::Pod>(written.clone()).unwrap()).unwrap();
    assert_eq!(lost(&written, &understood), [".spec.containers[0].imgae", ".spec.hostNetworks"]);
}
