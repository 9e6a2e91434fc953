//! Every setting, with its help: flags of the command line and names in the configuration file alike.

use super::values::{LogFormat, MIN_MTU, ReceiveMode, api_server, interface_name, list_name, network, node_name};
use crate::address::Method;
use crate::backend::Backend;
use crate::serve::Listen;
use clap::Args;
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;
use std::path::PathBuf;

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
    #[arg(long, value_name = "URL", env = "OVERLAY_API_SERVER", value_parser = api_server, help_heading = "Cluster")]
    pub api_server: Option<String>,

    /// This node's address; one it has. Wins over --node-address
    #[arg(long, value_name = "ADDRESS", env = "OVERLAY_PUBLIC_IP", help_heading = "Address")]
    pub public_ip: Option<Ipv4Addr>,
    /// How this node's address is chosen [default: kubernetes-internal-ip]
    ///
    /// kubernetes-internal-ip: the one the Node object has. interface=LIST: of the first NIC that fits a name, glob or /regular expression/.
    /// skip-interface=LIST: of any other NIC. cidr=LIST: the one in these networks. can-reach=HOST: what the kernel sends from. Other nodes
    /// send to what the Node object says: with --publish the choice is written there. An operator's annotation on the Node wins over this.
    #[arg(long, value_name = "METHOD", help_heading = "Address")]
    pub node_address: Option<Method>,
    /// Write to this node's Node object what other nodes need: annotations as flannel writes them, condition NetworkUnavailable=false
    ///
    /// Without it nothing is ever written. Takes the verb patch on nodes/status.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Address")]
    pub publish: Option<bool>,

    /// The NIC that carries the tunnel [default: the one that has this node's address]
    #[arg(long, value_name = "NIC", value_parser = interface_name, help_heading = "Tunnel")]
    pub underlay_interface: Option<String>,
    /// How packets get to other nodes, for each as its routes are [default: vxlan]
    #[arg(long, value_name = "BACKEND", help_heading = "Tunnel")]
    pub backend: Option<Backend>,
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
    /// Bytes the underlay carries between nodes, if less than the MTU of the NIC; pods get 50 less, or with host-gw the same [default: MTU of the NIC]
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
    /// Answer /healthz, /readyz and /metrics over HTTP here; off: nowhere [default: 127.0.0.1:8473]
    ///
    /// Whoever can reach it learns how many nodes and pods there are, and may change nothing.
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = "Operation")]
    pub listen: Option<Listen>,
    /// Form of the log on standard error [default: text]
    #[arg(long, value_name = "FORMAT", help_heading = "Operation")]
    pub log_format: Option<LogFormat>,
}
