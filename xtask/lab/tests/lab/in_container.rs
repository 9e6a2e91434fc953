//! The agent as the DaemonSet runs it: in a container of containerd, with the manifest's capabilities, the runtime's default seccomp profile
//! and a read-only root.

use crate::check::{all_pods_answer, eventually};
use crate::endpoint::ask;
use crate::harness::{Group, note};
use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use overlay_lab::agent::{binary, log_tail};
use overlay_lab::command;
use overlay_lab::lab::{Lab, LabConfig, Runtime};
use overlay_lab::node::Node;
use overlay_lab::sandbox;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long the agent may take in a container.
const PATIENCE: Duration = Duration::from_secs(20);

/// What containerd gives a container that asks for nothing (`defaultUnixCaps` in its oci/spec.go).
const USUAL: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

pub(crate) fn groups() -> Vec<Group> {
    let group = Group::new("the agent in a container", LabConfig { nodes: 2, runtime: Runtime::Containerd, ..LabConfig::default() })
        .case("the manifest's capabilities and the runtime's default seccomp profile are enough", enough)
        .case("a seccomp profile that refuses bpf is named", refused);
    vec![group]
}

/// The agent's security context in the manifest.
fn context() -> anyhow::Result<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../manifests/base/daemonset.yaml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let daemonset: Value = serde_saphyr::from_str(&text).context("daemonset.yaml")?;
    daemonset.pointer("/spec/template/spec/containers/0/securityContext").cloned().context("no security context")
}

/// `ctr run`, and the agent in it. Dropped, both are killed.
struct Contained {
    ctr: Child,
    log: PathBuf,
}

impl Contained {
    /// Starts the node's agent in a container, all that the manifest mounts being where it is on the node.
    fn start(node: &Node, profile: &[String]) -> anyhow::Result<Self> {
        let runtime = node.runtime.as_deref().context("the node has no containerd")?;
        let context = context()?;
        ensure!(context["seccompProfile"]["type"] == "RuntimeDefault" && context["readOnlyRootFilesystem"] == true, "{context}");
        let mut ctr = runtime.place().ctr();
        ctr.arg("run").args(runtime.place().run_flags().iter().filter(|flag| *flag != "--cni" && *flag != "--rootfs"));
        ctr.args(["--rm", "--net-host", "--read-only", "--seccomp", "--env=PATH=/usr/sbin:/usr/bin"]).args(profile);
        ctr.args(USUAL.map(|name| format!("--cap-drop={name}")));
        let wanted: Vec<String> = serde_json::from_value(context["capabilities"]["add"].clone())?;
        ctr.args(wanted.iter().map(|name| format!("--cap-add=CAP_{name}")));
        // The programs it needs are those of the machine.
        let program = binary()?;
        let programs = program.parent().context("the agent is in no directory")?;
        for (from, to, mode) in [
            (Path::new("/usr"), Path::new("/usr"), "ro"),
            (Path::new("/usr/lib"), Path::new("/lib"), "ro"),
            (Path::new("/usr/lib64"), Path::new("/lib64"), "ro"),
            (programs, Path::new("/var/agent"), "ro"),
            (Path::new(sandbox::ROOT), Path::new(sandbox::ROOT), "rw"),
        ] {
            ctr.arg(format!("--mount=type=bind,src={},dst={},options=rbind:{mode}", from.display(), to.display()));
        }
        ctr.arg("--rootfs").arg(runtime.place().rootfs()).arg("agent");
        ctr.args(["/var/agent/overlay-agent", "run", "--node-name", &node.name, "--receive-mode", node.config.receive_mode.name()]);
        let mut aimed = Command::new("agent");
        node.config.aim(&mut aimed).arg("--pods-dir").arg(&node.config.pods_dir).args(&node.config.extra);
        ctr.args(aimed.get_args()).arg("--nodes-file").arg(node.config.nodes_file.as_ref().context("it follows a file")?);
        let log = node.config.state_dir.join("contained.log");
        let output = File::create(&log)?;
        ctr.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let ctr = ctr.spawn().with_context(|| format!("start `{}`", command::line(&ctr)))?;
        Ok(Self { ctr, log })
    }

    /// SIGTERM, as the kubelet sends it.
    fn stop(mut self) -> anyhow::Result<()> {
        kill(Pid::from_raw(i32::try_from(self.ctr.id())?), Signal::SIGTERM)?;
        let status = self.ctr.wait()?;
        ensure!(status.success(), "{status}: {}", log_tail(&self.log));
        Ok(())
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        // Either fails only when it has ended already.
        let _ = kill(Pid::from_raw(self.ctr.id().cast_signed()), Signal::SIGTERM);
        let _ = self.ctr.wait();
    }
}

fn enough(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &mut lab.nodes[0];
    node.stop_agent()?;
    // So that everything has to be made by the agent in the container.
    while !node.pods.is_empty() {
        node.remove_pod()?;
    }
    node.cleanup()?;
    let agent = Contained::start(node, &[])?;
    eventually(PATIENCE, || {
        let (code, why) = ask(&node.ns, "/readyz")?;
        ensure!(code == 200, "{code}: {why}");
        Ok(())
    })
    .with_context(|| log_tail(&agent.log))?;
    let log = fs::read_to_string(&agent.log)?;
    ensure!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    let status = node.status()?;
    ensure!(status["problems"] == json!([]), "{}", status["problems"]);
    note(format!(
        "containerd: {} lets the agent work under its default seccomp profile",
        node.runtime.as_deref().context("no containerd")?.version()?
    ));
    node.add_pods(2)?;
    all_pods_answer(lab)?;
    agent.stop()?;
    // As ever: the data path needs no agent.
    all_pods_answer(lab)?;
    lab.nodes[0].start_agent().map(drop)
}

/// As the default profiles of containerd before 1.6.9 did, for an agent without `CAP_SYS_ADMIN`.
fn refused(lab: &mut Lab) -> anyhow::Result<()> {
    let node = &mut lab.nodes[0];
    node.stop_agent()?;
    let profile = node.config.state_dir.join("profile.json");
    let refusing = json!({"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1});
    fs::write(&profile, json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [refusing]}).to_string())?;
    let mut agent = Contained::start(node, &[format!("--seccomp-profile={}", profile.display())])?;
    let status = agent.ctr.wait()?;
    let log = fs::read_to_string(&agent.log)?;
    ensure!(!status.success() && log.contains("seccomp"), "{status}: {log}");
    all_pods_answer(lab)?;
    lab.nodes[0].start_agent().map(drop)
}
