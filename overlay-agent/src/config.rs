//! The validated configuration: flags, environment and file made one.
//!
//! Reads the configuration file and the host name, and follows the files; touches nothing else. A `Config` that exists is usable: every value was checked.

mod error;
mod file;
mod merge;
mod named;
mod runtime;
mod watch;

pub use error::{ConfigError, Problem, Wrong};
pub use file::known_names;
pub(crate) use file::nearest;
pub use named::FileProblem;
pub use watch::{News, Watch};

use crate::address::Method;
use crate::backend::Backend;
use crate::cli::{LogFormat, ReceiveMode, Settings};
use crate::install::{RuntimePlaces, Template};
use crate::serve::Listen;
use file::read_file;
use ipnet::Ipv4Net;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// VXLAN network identifier unless configured: flannel's.
pub const DEFAULT_VNI: u32 = 1;
/// VXLAN UDP port unless configured: the Linux kernel's and flannel's; IANA's 4789 came later.
pub const DEFAULT_PORT: u16 = 8472;
/// Mount point of bpffs unless configured.
pub const DEFAULT_BPFFS: &str = "/sys/fs/bpf";
pub use crate::cni::configuration::DEFAULT_STATE_DIR as DEFAULT_PODS_DIR;
/// State directory unless configured.
pub const DEFAULT_STATE_DIR: &str = "/run/overlay";
/// Longest time between two looks at everything unless configured.
pub const DEFAULT_RESYNC_INTERVAL: Duration = Duration::from_secs(30);

/// Configuration of the agent of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Name of this node in the list of nodes.
    pub node_name: String,
    /// Where the list of nodes comes from.
    pub source: Source,
    /// How this node's address is chosen.
    pub address: Method,
    /// Whether what other nodes need is written to this node's Node object.
    pub publish: bool,
    /// The NIC that carries the tunnel; `None`: the one that has this node's address.
    pub underlay_interface: Option<String>,
    /// How packets get to other nodes.
    pub backend: Backend,
    /// VXLAN network identifier, 1 to 2^24 - 1.
    pub vni: u32,
    /// VXLAN UDP port.
    pub port: u16,
    /// How tunnel packets shall be received.
    pub receive_mode: ReceiveMode,
    /// Bytes the underlay carries, if less than the NIC's MTU.
    pub mtu: Option<u32>,
    /// Whether what pods send out of the cluster gets this node's address.
    pub masquerade: bool,
    /// Networks that see a pod's own address: all pods', and those outside that know the way back.
    pub direct: Vec<Ipv4Net>,
    /// Where things are.
    pub directories: Directories,
    /// What is kept for the container runtime, and where.
    pub runtime: Option<(RuntimePlaces, Template)>,
    /// What the configuration asks for and does not get, though it does no harm.
    pub notices: Vec<String>,
    /// eBPF object to load instead of the embedded one.
    pub ebpf_object: Option<PathBuf>,
    /// Longest time between two looks at everything.
    pub resync_interval: Duration,
    /// Where health and metrics are answered.
    pub listen: Listen,
    /// Form of the log.
    pub log_format: LogFormat,
}

/// Where the agent keeps what other commands need to find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directories {
    /// Mount point of bpffs.
    pub bpffs: PathBuf,
    /// Directory of `status.json` and the lock.
    pub state_dir: PathBuf,
    /// Directory of the records of pods.
    pub pods_dir: PathBuf,
}

/// Where the list of nodes comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A `NodeList` in a file.
    File(PathBuf),
    /// The Kubernetes API.
    Kubernetes {
        /// Kubeconfig; `None`: the service account of the agent's pod.
        kubeconfig: Option<PathBuf>,
        /// Address of the API server that replaces the configured one.
        api_server: Option<String>,
    },
}

impl Config {
    /// Puts flags (and environment, which clap has put among them) and the file together; flags win.
    pub fn load(flags: Settings, file: Option<&Path>) -> Result<Self, ConfigError> {
        let file = file.map(read_file).transpose()?.unwrap_or_default();
        Self::resolve(flags.or(file), host_name)
    }

    fn resolve(settings: Settings, host_name: impl FnOnce() -> Result<String, String>) -> Result<Self, ConfigError> {
        let (net_conf, template) = named::read(&settings)?;
        let node_name = match settings.node_name {
            Some(name) => name,
            None => host_name().map_err(ConfigError::NoNodeName)?,
        };
        let source = match settings.nodes_file {
            Some(path) => Source::File(path),
            None => Source::Kubernetes { kubeconfig: settings.kubeconfig, api_server: settings.api_server },
        };
        let publish = settings.publish.unwrap_or_default();
        if publish && matches!(source, Source::File(_)) {
            return Err(ConfigError::NothingToPublishTo);
        }
        let network = net_conf.network.map(|network| vec![network]);
        let directories = settings.places.resolve();
        Ok(Self {
            node_name,
            source,
            address: settings.public_ip.map(Method::Explicit).or(settings.node_address).unwrap_or_default(),
            publish,
            underlay_interface: settings.underlay_interface,
            backend: settings.backend.or(net_conf.backend).unwrap_or_default(),
            vni: settings.vni.or(net_conf.vni).unwrap_or(DEFAULT_VNI),
            port: settings.port.or(net_conf.port).unwrap_or(DEFAULT_PORT),
            receive_mode: settings.receive_mode.unwrap_or_default(),
            mtu: settings.mtu.or(net_conf.mtu),
            masquerade: settings.masquerade.unwrap_or(true),
            direct: [settings.cluster_cidr.or(network), settings.non_masquerade_cidrs].into_iter().flatten().flatten().collect(),
            directories,
            runtime: settings.runtime.resolve()?.map(|places| (places, template)),
            notices: net_conf.notices,
            ebpf_object: settings.ebpf_object,
            resync_interval: settings.resync_interval.map_or(DEFAULT_RESYNC_INTERVAL, |seconds| Duration::from_secs(seconds.into())),
            listen: settings.listen.unwrap_or_default(),
            log_format: settings.log_format.unwrap_or_default(),
        })
    }
}

/// The host's name, in lower case as kubelet registers it.
fn host_name() -> Result<String, String> {
    let name = nix::unistd::gethostname().map_err(|error| error.to_string())?;
    let name = name.to_string_lossy().to_lowercase();
    if crate::model::is_node_name(&name) { Ok(name) } else { Err(format!("the host name {name:?} is not a node's name")) }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
