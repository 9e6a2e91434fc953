//! The command line: what may be said, with its help. Nothing is decided here; [`crate::config`] turns it into a validated `Config`.
//!
//! [`Settings`] is the one list of settings. The configuration file is read through it too, so a setting cannot exist in one place only.

use clap::builder::PossibleValue;
use clap::{Args, Parser, Subcommand, ValueEnum};
use http::Uri;
use ipnet::Ipv4Net;
use overlay_common::abi;
use std::path::PathBuf;

/// Exit codes of `overlay-agent status`, told by its help.
const STATUS_AFTER_HELP: &str = "\
Exit codes:
  0  healthy
  1  the status could not be read
  2  wrong usage
  3  degraded: the agent is not running, a node is left out, a peer cannot be reached, or the last pass had errors";

/// Told by the help of `measure`.
const MEASURE_AFTER_HELP: &str = "\
Needs CAP_SYS_ADMIN beside the agent's own capabilities: network namespaces take it.

  overlay-agent measure            figures, and what follows for a virtual and for a physical NIC
  overlay-agent measure --again    measure anew

Exit codes: 0 done, 1 failed, 2 wrong usage.";

/// Exit codes of `overlay-agent cleanup`, told by its help.
const CLEANUP_AFTER_HELP: &str = "\
Exit codes:
  0  removed, or nothing to remove
  1  failed, or not wanted after all
  2  wrong usage, or nobody there to be asked";

/// Told by the help of every command with settings.
const FILE_AFTER_HELP: &str = "\
Every setting may also stand in the file named by --config, under the name of its flag:

  vni: 1
  receive-mode: tc

A flag wins over the environment, the environment over the file. Exit codes: 0 done, 1 failed, 2 wrong usage.";

/// An overlay network for Kubernetes whose data path is eBPF: the agent of one node.
#[derive(Debug, Parser)]
#[command(name = "overlay-agent", version, about, propagate_version = true, max_term_width = 120)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent of this node
    ///
    /// Follows the list of nodes, keeps the kernel programs, maps, routes and the overlay device as they should be, and repairs what breaks.
    /// On SIGTERM it ends and leaves the data path running: pods keep talking while it is upgraded.
    #[command(after_help = FILE_AFTER_HELP)]
    Run(Box<RunArgs>),
    /// Measure which way of receiving is the fastest on this machine, for `receive-mode: auto`
    ///
    /// Makes scratch nodes in network namespaces without a name, sends between them for about ten seconds, and keeps the figures in the state
    /// directory until kernel or programs change. Touches nothing of the host's network. To be run before the agent; the manifests do.
    #[command(after_help = MEASURE_AFTER_HELP)]
    Measure(MeasureArgs),
    /// Show what the agent of this node knows and does
    #[command(after_help = STATUS_AFTER_HELP)]
    Status(StatusArgs),
    /// Remove every trace of the agent from this node: programs, maps, pins, routes, neighbours, packet filter rules, the overlay device
    ///
    /// Pods of this node lose the network. Stop the agent first. With --foreign nothing of the agent's is removed, and it may run.
    #[command(after_help = CLEANUP_AFTER_HELP)]
    Cleanup(CleanupArgs),
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Read settings from this YAML file as well
    #[arg(long, value_name = "FILE", env = "OVERLAY_CONFIG")]
    pub config: Option<PathBuf>,
    #[expect(missing_docs, reason = "clap would print it as help")]
    #[command(flatten)]
    pub settings: Settings,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The file the agent was started with; read for the settings below
    #[arg(long, value_name = "FILE", env = "OVERLAY_CONFIG")]
    pub config: Option<PathBuf>,
    #[expect(missing_docs, reason = "clap would print it as help")]
    #[command(flatten)]
    pub places: Places,
    #[expect(missing_docs, reason = "clap would print it as help")]
    #[command(flatten)]
    pub runtime: Runtime,
    /// How to print it
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: OutputFormat,
}

/// Arguments of `measure`.
#[derive(Debug, Args)]
pub struct MeasureArgs {
    /// The file the agent is started with; read for `state-dir` and `bpffs`
    #[arg(long, value_name = "FILE", env = "OVERLAY_CONFIG")]
    pub config: Option<PathBuf>,
    #[expect(missing_docs, reason = "clap would print it as help")]
    #[command(flatten)]
    pub places: Places,
    /// Measure even if kernel and programs are still those of the last measurement
    #[arg(long)]
    pub again: bool,
    /// Exit with 0 when nothing can be measured: the agent works without
    #[arg(long)]
    pub optional: bool,
    /// How to print it
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: OutputFormat,
}

/// Arguments of `cleanup`.
#[derive(Debug, Args)]
pub struct CleanupArgs {
    /// The file the agent was started with; read for the settings below
    #[arg(long, value_name = "FILE", env = "OVERLAY_CONFIG")]
    pub config: Option<PathBuf>,
    #[expect(missing_docs, reason = "clap would print it as help")]
    #[command(flatten)]
    pub places: Places,
    #[expect(missing_docs, reason = "clap would print it as help")]
    #[command(flatten)]
    pub runtime: Runtime,
    /// Remove what another network left on this node instead, after asking: devices, rules, files
    ///
    /// Remove the other network's own pods first (flannel's DaemonSet), or it makes everything anew. Pods that it started lose the network.
    #[arg(long, value_name = "NETWORK")]
    pub foreign: Option<Foreign>,
    /// Do not ask
    #[arg(long, requires = "foreign")]
    pub yes: bool,
}

/// A network whose leftovers are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Foreign {
    /// flannel with the vxlan backend.
    Flannel,
}

/// How `status` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// Tables for a person.
    Text,
    /// One JSON object.
    Json,
}

/// Where the agent keeps what other commands need to find. `None`: not said.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Where bpffs is mounted; maps, programs and links are pinned below DIR/overlay [default: /sys/fs/bpf]
    #[arg(long, value_name = "DIR", help_heading = "Places")]
    pub bpffs: Option<PathBuf>,
    /// Where the agent keeps status.json and its lock [default: /run/overlay]
    #[arg(long, value_name = "DIR", help_heading = "Places")]
    pub state_dir: Option<PathBuf>,
    /// Where overlay-cni keeps the records of this node's pods: its stateDir [default: /var/lib/overlay/ipam]
    #[arg(long, value_name = "DIR", env = "OVERLAY_PODS_DIR", help_heading = "Places")]
    pub pods_dir: Option<PathBuf>,
}

/// What the agent keeps for the container runtime, and `cleanup` removes. `None`: not said.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct Runtime {
    /// Write a list of plugins for the container runtime here, once the node is ready: the host's /etc/cni/net.d
    ///
    /// Goes with --cni-bin-dir. Without both nothing is written, and pods are not started through the overlay.
    #[arg(long, value_name = "DIR", help_heading = "Container runtime")]
    pub cni_conf_dir: Option<PathBuf>,
    /// Install the plugin here: the host's /opt/cni/bin
    #[arg(long, value_name = "DIR", help_heading = "Container runtime")]
    pub cni_bin_dir: Option<PathBuf>,
    /// File name of the list; a runtime takes the first of its directory [default: 10-overlay.conflist]
    #[arg(long, value_name = "NAME", value_parser = list_name, help_heading = "Container runtime")]
    pub cni_conf_name: Option<String>,
}

/// Every setting of the agent, as flags and as keys of the configuration file. `None`: not said.
///
/// Values are checked one by one here; what several of them mean together is `config`'s part.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Name of this node in the list of nodes [default: the host name]
    #[arg(long, value_name = "NAME", env = "NODE_NAME", value_parser = node_name, help_heading = "Cluster")]
    pub node_name: Option<String>,
    /// Take the nodes from this file: a `NodeList` as `kubectl get nodes -o yaml` prints it, followed as it changes
    ///
    /// Without it, nodes are watched through the Kubernetes API.
    #[arg(long, value_name = "FILE", help_heading = "Cluster")]
    pub nodes_file: Option<PathBuf>,
    /// How to reach the Kubernetes API [default: the service account of the agent's pod]
    #[arg(long, value_name = "FILE", help_heading = "Cluster")]
    pub kubeconfig: Option<PathBuf>,
    /// Use this address of the API server instead of the one configured
    ///
    /// An agent in a pod would otherwise use the cluster's Service address, which may need the very network the agent is there to provide.
    #[arg(long, value_name = "URL", value_parser = api_server, help_heading = "Cluster")]
    pub api_server: Option<String>,

    /// The NIC that carries the tunnel [default: the one that has this node's address]
    #[arg(long, value_name = "NIC", value_parser = interface_name, help_heading = "Tunnel")]
    pub underlay_interface: Option<String>,
    /// Take the tunnel's settings from flannel's net-conf.json; what is set here as well wins
    #[arg(long, value_name = "FILE", help_heading = "Tunnel")]
    pub net_conf: Option<PathBuf>,
    /// VXLAN network identifier, the same on every node [default: 1]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=0x00ff_ffff), help_heading = "Tunnel")]
    pub vni: Option<u32>,
    /// UDP port of VXLAN, the same on every node [default: 8472]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..), help_heading = "Tunnel")]
    pub port: Option<u16>,
    /// How tunnel packets are received [default: auto]
    #[arg(long, value_name = "MODE", help_heading = "Tunnel")]
    pub receive_mode: Option<ReceiveMode>,
    /// Bytes the underlay carries between nodes, if less than the MTU of the NIC; pods get 50 less [default: MTU of the NIC]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(i64::from(MIN_MTU)..=65_535), help_heading = "Tunnel")]
    pub mtu: Option<u32>,

    /// Give what pods send out of the cluster this node's address, as nobody outside knows theirs [default: true]
    ///
    /// Needs nft. What another node masquerades is that node's affair.
    #[arg(long, value_name = "BOOL", help_heading = "Leaving the cluster")]
    pub masquerade: Option<bool>,
    /// Networks the pods of all nodes have their addresses from; a pod's own address is seen there
    ///
    /// Pods of nodes that are in the list of nodes need no mention. What this adds are pods that other nodes' networks have not been
    /// heard of yet, or that are reached another way than through the tunnel.
    #[arg(long, value_name = "NETWORK,…", value_delimiter = ',', value_parser = network, help_heading = "Leaving the cluster")]
    pub cluster_cidr: Option<Vec<Ipv4Net>>,
    /// Networks outside the cluster that see a pod's own address, because they know the way back to it
    #[arg(long, value_name = "NETWORK,…", value_delimiter = ',', value_parser = network, help_heading = "Leaving the cluster")]
    pub non_masquerade_cidrs: Option<Vec<Ipv4Net>>,

    #[expect(missing_docs, reason = "clap would print it as help")]
    #[command(flatten)]
    pub places: Places,
    #[expect(missing_docs, reason = "clap would print it as help")]
    #[command(flatten)]
    pub runtime: Runtime,
    /// Make the list of plugins from this one: ours, or flannel's cni-conf.json [default: ours, portmap, bandwidth]
    #[arg(long, value_name = "FILE", help_heading = "Container runtime")]
    pub cni_conf: Option<PathBuf>,

    /// Load this eBPF object instead of the one built in
    #[arg(long, value_name = "FILE", help_heading = "Places")]
    pub ebpf_object: Option<PathBuf>,

    /// Look at everything at least this often, in seconds, even if nothing seems to have changed [default: 30]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400), help_heading = "Operation")]
    pub resync_interval: Option<u32>,
    /// Form of the log on standard error [default: text]
    #[arg(long, value_name = "FORMAT", help_heading = "Operation")]
    pub log_format: Option<LogFormat>,
}

/// The smallest underlay MTU accepted: 576 bytes inside the tunnel, which every IPv4 host must be able to receive whole (RFC 791 section 3.1).
pub const MIN_MTU: u32 = 576 + abi::ENCAP_OVERHEAD;

/// How VXLAN packets are received: the rung of the ladder that is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReceiveMode {
    /// The fastest for such a NIC, as `overlay-agent measure` found it; without a measurement XDP on a physical NIC, TC on a virtual one.
    #[default]
    Auto,
    /// XDP in the driver.
    Xdp,
    /// XDP in the driver, and from there straight into the pod.
    XdpRedirect,
    /// TC ingress.
    Tc,
    /// The kernel's vxlan device, checked afterwards.
    Kernel,
}

impl ReceiveMode {
    /// The name used by flag, file and status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Xdp => "xdp",
            Self::XdpRedirect => "xdp-redirect",
            Self::Tc => "tc",
            Self::Kernel => "kernel",
        }
    }
}

impl ValueEnum for ReceiveMode {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Auto, Self::XdpRedirect, Self::Xdp, Self::Tc, Self::Kernel]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            Self::Auto => "the fastest for such a NIC, by `overlay-agent measure`; else xdp on a physical NIC, tc on a virtual one",
            Self::Xdp => "XDP in the driver of the NIC",
            Self::XdpRedirect => "XDP in the driver of the NIC, and from there straight into the pod; for NICs that fill in checksums",
            Self::Tc => "TC ingress of the NIC",
            Self::Kernel => "the kernel's vxlan device, checked afterwards",
        };
        Some(PossibleValue::new(self.name()).help(help))
    }
}

/// Form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line per event for a person.
    #[default]
    Text,
    /// One JSON object per event.
    Json,
}

/// The characters Kubernetes allows in a node's name, and the underscores and capitals bare hosts have.
fn node_name(text: &str) -> Result<String, String> {
    if crate::model::is_node_name(text) {
        Ok(text.to_owned())
    } else {
        Err("a node's name has 1 to 253 letters, digits, '-', '.' or '_'".to_owned())
    }
}

/// What the kernel accepts as the name of a device (`dev_valid_name` in net/core/dev.c).
fn interface_name(text: &str) -> Result<String, String> {
    let valid = (1..=15).contains(&text.len())
        && !matches!(text, "." | "..")
        && !text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
    if valid { Ok(text.to_owned()) } else { Err("a NIC's name has 1 to 15 characters, without space, '/' and ':'".to_owned()) }
}

/// A name that go-cni and libcni take for a list of plugins.
fn list_name(text: &str) -> Result<String, String> {
    let plain = !text.contains('/') && !text.starts_with('.');
    if plain && text.len() > ".conflist".len() && text.ends_with(".conflist") {
        Ok(text.to_owned())
    } else {
        Err("a list of plugins is a file whose name ends in .conflist".to_owned())
    }
}

/// A network, as a network: an address in it would be taken for it by one reader and for itself by another.
fn network(text: &str) -> Result<Ipv4Net, String> {
    let net: Ipv4Net = text.trim().parse().map_err(|_| "give it as 10.0.0.0/8".to_owned())?;
    match net.prefix_len() {
        0 => Err("everything is in it; say masquerade: false instead".to_owned()),
        _ if net.trunc() != net => Err(format!("its first address is {}", net.trunc())),
        _ => Ok(net),
    }
}

fn api_server(text: &str) -> Result<String, String> {
    let example = "give it as https://192.0.2.1:6443";
    let uri: Uri = text.parse().map_err(|error| format!("{error}; {example}"))?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(_)) => Ok(text.to_owned()),
        _ => Err(format!("not a URL of an API server; {example}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_setting_has_help_and_a_heading() {
        let command = Settings::augment_args(clap::Command::new("settings"));
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "--{} has no help", argument.get_id());
            assert!(argument.get_help_heading().is_some(), "--{} has no heading", argument.get_id());
        }
    }

    #[test]
    fn refuses_values_the_kernel_or_the_protocol_cannot_have() {
        for (flag, value) in [
            ("vni", "0"),
            ("vni", "16777216"),
            ("port", "0"),
            ("port", "65536"),
            ("mtu", "625"),
            ("mtu", "65536"),
            ("receive-mode", "skb"),
            ("underlay-interface", "abcdefghijklmnop"),
            ("underlay-interface", "a b"),
            ("node-name", ""),
            ("node-name", "a\nb"),
            ("api-server", "10.0.0.1"),
            ("api-server", "ftp://10.0.0.1"),
            ("masquerade", "maybe"),
            ("cluster-cidr", "10.244.0.0"),
            ("cluster-cidr", "fd00::/8"),
            ("non-masquerade-cidrs", "10.0.0.1/8"),
            ("non-masquerade-cidrs", "10.0.0.0/8,0.0.0.0/0"),
            ("resync-interval", "0"),
            ("log-format", "xml"),
            ("cni-conf-name", "10-overlay.conf"),
            ("cni-conf-name", "../10-overlay.conflist"),
        ] {
            let result = Cli::try_parse_from(["overlay-agent", "run", &format!("--{flag}={value}")]);
            assert!(result.is_err(), "--{flag}={value} was accepted");
        }
    }
}
