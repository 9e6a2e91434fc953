//! One of our nodes: a namespace with a NIC on the underlay, a bpffs and a state directory of its own, an agent, and pods.

use crate::agent::{self, Agent, AgentConfig, ReceiveMode};
use crate::command;
use crate::containerd::Containerd;
use crate::netns::Ns;
use crate::nodes::NodeEntry;
use crate::pod::{self, Pod};
use crate::sandbox;
use crate::underlay::{Place, Underlay};
use anyhow::{Context as _, ensure};
use ipnet::Ipv4Net;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use overlay_agent::status::{StateDir, Status};
use serde_json::Value;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long an agent may take until it is ready: on two cores with every other agent starting too.
pub const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// The pod network of the `number`th node, counted from 1.
#[must_use]
pub fn pod_cidr(number: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(10, 244, number, 0), 24)
}

/// Sysctls every Kubernetes node has: kubeadm asks for forwarding, systemd sets loose reverse-path checks.
pub(crate) fn set_node_sysctls(ns: &Ns) -> anyhow::Result<()> {
    ns.set_sysctl("net.ipv4.ip_forward", "1")?;
    ns.set_sysctl("net.ipv4.conf.default.rp_filter", "2")?;
    ns.set_sysctl("net.ipv4.conf.all.rp_filter", "2")
}

/// One of our nodes. Dropped, agent, pods, pins, namespace and directories go.
#[derive(Debug)]
pub struct Node {
    // Fields are dropped in this order: the agent before the bpffs it writes to, that before the namespace.
    agent: Option<Agent>,
    /// Its pods.
    pub pods: Vec<Pod>,
    /// What starts its pods; none: the lab wires them.
    pub runtime: Option<Box<Containerd>>,
    mounts: NodeDirectory,
    /// Its network.
    pub ns: Ns,
    /// Its name, in the nodes file too.
    pub name: String,
    /// Its address on the underlay.
    pub address: Ipv4Addr,
    /// Where its pods get their addresses from.
    pub pod_cidr: Ipv4Net,
    /// What its agent is started with.
    pub config: AgentConfig,
    /// The `overlay-lab` of another build, which wires the pods: with the agent of that build. None: this build does.
    pub wirer: Option<PathBuf>,
    /// Whether each flow its pods send stays on one CPU.
    pub steer_flows: bool,
}

impl Node {
    /// Makes a node and plugs it in. No agent runs yet.
    ///
    /// # Errors
    /// A tool or a mount fails.
    pub fn create(underlay: &Underlay, place: Place, number: u8, nodes_file: &Path, receive_mode: ReceiveMode) -> anyhow::Result<Self> {
        let name = format!("node-{number}");
        let ns = Ns::create(&name)?;
        set_node_sysctls(&ns)?;
        underlay.plug(&ns, place)?;
        underlay.route_pods(place.pod_cidr, place.address)?;
        let mounts = NodeDirectory::create(&name)?;
        let config = AgentConfig {
            binary: None,
            node_name: name.clone(),
            nodes_file: Some(nodes_file.to_owned()),
            bpffs: mounts.bpffs(),
            state_dir: mounts.state(),
            pods_dir: mounts.state().join("ipam"),
            receive_mode,
            extra: Vec::new(),
        };
        let Place { address, pod_cidr, .. } = place;
        Ok(Self {
            agent: None,
            pods: Vec::new(),
            runtime: None,
            mounts,
            ns,
            name,
            address,
            pod_cidr,
            config,
            wirer: None,
            steer_flows: false,
        })
    }

    /// What the cluster's list says of it.
    #[must_use]
    pub fn entry(&self) -> NodeEntry {
        NodeEntry::new(&self.name, self.address, &self.pod_cidr)
    }

    /// The address the host has inside the overlay: the first host address of its pod network.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.pod_cidr.network().to_bits() + 1)
    }

    /// The MAC of its tunnel end, as the agent derives it from the address.
    #[must_use]
    pub fn vtep_mac(&self) -> String {
        let [a, b, c, d] = self.address.octets();
        format!("0e:4f:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
    }

    /// The directory its maps, programs and links are pinned in.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.config.bpffs.join("overlay").join(format!("v{}", overlay_common::abi::ABI_VERSION))
    }

    /// Starts a container runtime, and has the agent, when it is started next, give it the plugin. From then on pods are containers.
    ///
    /// # Errors
    /// What [`Containerd::start`] says.
    pub fn start_runtime(&mut self) -> anyhow::Result<()> {
        let containerd = Containerd::start(&self.ns, &self.mounts.runtime(), Some(&self.config.bpffs))?;
        self.config.extra.extend(runtime_flags(&containerd));
        self.config.pods_dir = containerd.place().addresses();
        self.runtime = Some(Box::new(containerd));
        Ok(())
    }

    /// Starts the agent and does not wait.
    ///
    /// # Errors
    /// One runs already, or its binary is missing.
    pub fn spawn_agent(&mut self) -> anyhow::Result<()> {
        ensure!(self.agent.is_none(), "{} has an agent already", self.name);
        self.agent = Some(Agent::start(&self.ns, &self.config)?);
        Ok(())
    }

    /// Waits until the agent is ready, as long as an agent of a small cluster may take.
    ///
    /// # Errors
    /// It ends, or takes too long: the message quotes its log.
    pub fn wait_ready(&mut self) -> anyhow::Result<Status> {
        self.wait_ready_within(READY_TIMEOUT)
    }

    /// Waits until the agent is ready.
    ///
    /// # Errors
    /// It ends, or takes longer than that: the message quotes its log.
    pub fn wait_ready_within(&mut self, timeout: Duration) -> anyhow::Result<Status> {
        let agent = self.agent.as_mut().with_context(|| format!("{} has no agent", self.name))?;
        agent.wait_ready(&self.config.state_dir, timeout).with_context(|| self.name.clone())
    }

    /// Whether an agent was started and not stopped.
    #[must_use]
    pub const fn has_agent(&self) -> bool {
        self.agent.is_some()
    }

    /// PID of the running agent.
    ///
    /// # Errors
    /// None runs.
    pub(crate) fn agent_pid(&self) -> anyhow::Result<u32> {
        Ok(self.agent.as_ref().with_context(|| format!("{} has no agent", self.name))?.pid())
    }

    /// Starts the agent and waits until it is ready.
    ///
    /// # Errors
    /// As [`Self::spawn_agent`] and [`Self::wait_ready`].
    pub fn start_agent(&mut self) -> anyhow::Result<Status> {
        self.spawn_agent()?;
        self.wait_ready()
    }

    /// Stops the agent politely.
    ///
    /// # Errors
    /// None runs, or it does not end well.
    pub fn stop_agent(&mut self) -> anyhow::Result<()> {
        self.agent.take().with_context(|| format!("{} has no agent", self.name))?.stop()
    }

    /// Kills the agent.
    ///
    /// # Errors
    /// None runs.
    pub fn kill_agent(&mut self) -> anyhow::Result<()> {
        self.agent.take().with_context(|| format!("{} has no agent", self.name))?.kill()
    }

    /// Adds the next pod.
    ///
    /// # Errors
    /// The wiring fails.
    pub fn add_pod(&mut self) -> anyhow::Result<&Pod> {
        self.add_pods(1)?;
        self.pods.last().context("a pod that was just added")
    }

    /// Adds the next `count` pods.
    ///
    /// # Errors
    /// The wiring of one fails: then none of them is there, or, as containers, those before it are.
    pub fn add_pods(&mut self, count: usize) -> anyhow::Result<()> {
        if let Some(containerd) = &self.runtime {
            for _ in 0..count {
                let pod = pod::start(&self.ns, containerd, self.pods.len())
                    .with_context(|| format!("{}; its agent's log:\n{}", self.name, self.log_tail()))?;
                self.pods.push(pod);
            }
            return Ok(());
        }
        let pods = pod::create(&self.name, self.pod_cidr, self.pods.len(), count)?;
        pod::in_parallel(&pods, |pod| pod::wire(&self.ns, &self.config.bpffs, pod, (self.wirer.as_deref(), self.steer_flows)))
            .with_context(|| format!("{}; its agent's log:\n{}", self.name, self.log_tail()))?;
        self.pods.extend(pods);
        Ok(())
    }

    /// The next pod as it is before its network: a namespace. It is not one of `pods` yet.
    ///
    /// # Errors
    /// `ip` fails.
    pub(crate) fn prepare_pod(&self) -> anyhow::Result<Pod> {
        pod::create(&self.name, self.pod_cidr, self.pods.len(), 1)?.pop().context("a pod that was just made")
    }

    /// Connects a prepared pod to the node.
    ///
    /// # Errors
    /// The wiring fails, as it does before the agent has written its settings; nothing is left then.
    pub(crate) fn wire_pod(&self, pod: &Pod) -> anyhow::Result<()> {
        pod::wire(&self.ns, &self.config.bpffs, pod, (self.wirer.as_deref(), self.steer_flows))
    }

    /// Takes such a pod off the node again.
    ///
    /// # Errors
    /// The unwiring fails.
    pub(crate) fn unwire_pod(&self, pod: &Pod) -> anyhow::Result<()> {
        pod::unwire(&self.ns, &self.config.bpffs, pod)
    }

    /// Removes the last pod.
    ///
    /// # Errors
    /// There is none, or the unwiring fails.
    pub fn remove_pod(&mut self) -> anyhow::Result<()> {
        let mut pod = self.pods.pop().with_context(|| format!("{} has no pod", self.name))?;
        if let Some(container) = pod.container.take() {
            return container.remove();
        }
        if self.wirer.is_some() {
            // Another build's maps are not ours to write: its agent notices that the veth is gone.
            return Ok(());
        }
        pod::unwire(&self.ns, &self.config.bpffs, &pod)
    }

    /// What the agent last told of itself.
    ///
    /// # Errors
    /// It has told nothing yet.
    pub fn agent_status(&self) -> anyhow::Result<Status> {
        StateDir::new(self.config.state_dir.clone()).read().with_context(|| self.name.clone())
    }

    /// What `overlay-agent status --output json` says here: the same, with counters, through the command line.
    ///
    /// # Errors
    /// It fails.
    pub fn status(&self) -> anyhow::Result<Value> {
        agent::status(&self.ns, &self.config)
    }

    /// Removes every trace of the agent from the node, as an operator does: `overlay-agent cleanup`.
    ///
    /// # Errors
    /// It fails: the message holds what it said.
    pub fn cleanup(&self) -> anyhow::Result<String> {
        let mut command = self.ns.command(self.config.program()?);
        self.config.aim(command.arg("cleanup"));
        command::run(command.args(self.runtime.iter().flat_map(|containerd| runtime_flags(containerd))))
    }

    /// The last lines of its agent's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        agent::log_tail(&self.mounts.state().join("agent.log"))
    }
}

/// Tells the agent where the runtime looks.
fn runtime_flags(containerd: &Containerd) -> [String; 4] {
    let place = containerd.place();
    let [lists, plugins] = [place.configurations(), place.plugins()].map(|directory| directory.display().to_string());
    ["--cni-conf-dir".to_owned(), lists, "--cni-bin-dir".to_owned(), plugins]
}

/// `/run/overlay/<node>`: `bpf`, a bpffs, `state`, and `runtime`, if there is one.
#[derive(Debug)]
struct NodeDirectory(PathBuf);

impl NodeDirectory {
    fn create(node: &str) -> anyhow::Result<Self> {
        let directory = Self(Path::new(sandbox::ROOT).join(node));
        for path in [directory.bpffs(), directory.state()] {
            fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        }
        let (flags, bpffs) = (MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, directory.bpffs());
        mount(Some("bpf"), &bpffs, Some("bpf"), flags, Some("mode=0700")).with_context(|| format!("mount bpffs on {}", bpffs.display()))?;
        Ok(directory)
    }

    fn bpffs(&self) -> PathBuf {
        self.0.join("bpf")
    }

    fn runtime(&self) -> PathBuf {
        self.0.join("runtime")
    }

    fn state(&self) -> PathBuf {
        self.0.join("state")
    }
}

impl Drop for NodeDirectory {
    fn drop(&mut self) {
        // The last unmount of a bpffs removes its pins, and with them links and programs. What fails here ends with the sandbox.
        let _ = umount2(&self.bpffs(), MntFlags::MNT_DETACH);
        let _ = fs::remove_dir_all(&self.0);
    }
}
