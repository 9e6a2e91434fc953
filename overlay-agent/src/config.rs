//! The validated configuration: flags, environment and file made one.
//!
//! Reads the configuration file and the host name; touches nothing else. A `Config` that exists is usable: every value was checked.

mod named;
mod runtime;

pub use named::FileProblem;

use crate::cli::{LogFormat, Places, ReceiveMode, Settings};
use crate::install::{RuntimePlaces, Template};
use clap::error::{ContextKind, ContextValue};
use clap::{Args as _, FromArgMatches as _};
use ipnet::Ipv4Net;
use serde_saphyr::Spanned;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// VXLAN network identifier unless configured: flannel's.
pub const DEFAULT_VNI: u32 = 1;
/// VXLAN UDP port unless configured: the Linux kernel's and flannel's; IANA's 4789 came later.
pub const DEFAULT_PORT: u16 = 8472;
/// Mount point of bpffs unless configured.
pub const DEFAULT_BPFFS: &str = "/sys/fs/bpf";
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
    /// The NIC that carries the tunnel; `None`: the one that has this node's address.
    pub underlay_interface: Option<String>,
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
    /// Mount point of bpffs.
    pub bpffs: PathBuf,
    /// Directory of `status.json` and the lock.
    pub state_dir: PathBuf,
    /// What is kept for the container runtime, and where.
    pub runtime: Option<(RuntimePlaces, Template)>,
    /// What the configuration asks for and does not get, though it does no harm.
    pub notices: Vec<String>,
    /// eBPF object to load instead of the embedded one.
    pub ebpf_object: Option<PathBuf>,
    /// Longest time between two looks at everything.
    pub resync_interval: Duration,
    /// Form of the log.
    pub log_format: LogFormat,
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

/// The configuration cannot be used. The text names what to change.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The configuration file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration file is not a YAML mapping.
    #[error("the configuration file {} is not a list of `name: value` lines: {reason}", path.display())]
    NotYaml {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },
    /// Names or values in the configuration file are wrong; all of them are listed.
    #[error("{}", told(problems))]
    Wrong {
        /// One per wrong line.
        problems: Vec<Problem>,
    },
    /// A file that a setting names cannot be used.
    #[error("{name}: {}: {problem}", path.display())]
    BadFile {
        /// The setting.
        name: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: FileProblem,
    },
    /// Only one of the runtime's two directories is set.
    #[error("{set} is set and {missing} is not: a list of plugins without the plugin, or the other way round, starts no pod")]
    HalfARuntime {
        /// The setting that is there.
        set: &'static str,
        /// The one that is missing.
        missing: &'static str,
    },
    /// The host has no name and none is configured.
    #[error("cannot tell the name of this node ({0}); set it with --node-name or NODE_NAME")]
    NoNodeName(String),
}

/// One wrong line of the configuration file.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// Line, from 1.
    pub line: u64,
    /// What is wrong and how to mend it.
    pub what: Wrong,
}

/// What can be wrong with a line of the configuration file.
#[derive(Debug, PartialEq, Eq)]
pub enum Wrong {
    /// No setting has this name.
    UnknownName {
        /// The name.
        name: String,
        /// The known name it most likely means.
        nearest: Option<String>,
    },
    /// The setting cannot have this value.
    BadValue {
        /// The setting.
        name: String,
        /// The value as written.
        value: String,
        /// What the value has to be.
        fix: String,
    },
}

/// Every problem in a line of its own, and the known names if one was not known.
fn told(problems: &[Problem]) -> String {
    let mut lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    if problems.iter().any(|problem| matches!(problem.what, Wrong::UnknownName { .. })) {
        lines.push(format!("known settings: {}", known_names().join(", ")));
    }
    lines.join("\n")
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.path.display(), self.line)?;
        match &self.what {
            Wrong::UnknownName { name, nearest } => {
                write!(f, "unknown setting {name:?}")?;
                if let Some(nearest) = nearest {
                    write!(f, "; did you mean \"{nearest}\"?")?;
                }
                Ok(())
            }
            Wrong::BadValue { name, value, fix } => write!(f, "{name}: {value} cannot be used: {fix}"),
        }
    }
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
        let network = net_conf.network.map(|network| vec![network]);
        let (bpffs, state_dir) = settings.places.resolve();
        Ok(Self {
            node_name,
            source,
            underlay_interface: settings.underlay_interface,
            vni: settings.vni.or(net_conf.vni).unwrap_or(DEFAULT_VNI),
            port: settings.port.or(net_conf.port).unwrap_or(DEFAULT_PORT),
            receive_mode: settings.receive_mode.unwrap_or_default(),
            mtu: settings.mtu.or(net_conf.mtu),
            masquerade: settings.masquerade.unwrap_or(true),
            direct: [settings.cluster_cidr.or(network), settings.non_masquerade_cidrs].into_iter().flatten().flatten().collect(),
            bpffs,
            state_dir,
            runtime: settings.runtime.resolve()?.map(|places| (places, template)),
            notices: net_conf.notices,
            ebpf_object: settings.ebpf_object,
            resync_interval: settings.resync_interval.map_or(DEFAULT_RESYNC_INTERVAL, |seconds| Duration::from_secs(seconds.into())),
            log_format: settings.log_format.unwrap_or_default(),
        })
    }
}

impl Places {
    /// Puts flags and the file the agent was started with together; flags win. For commands that need nothing but the places.
    ///
    /// Returns the mount point of bpffs and the state directory.
    pub fn load(self, file: Option<&Path>) -> Result<(PathBuf, PathBuf), ConfigError> {
        let file = file.map(read_file).transpose()?.unwrap_or_default();
        Ok(self.or(file.places).resolve())
    }

    fn or(self, other: Self) -> Self {
        Self { bpffs: self.bpffs.or(other.bpffs), state_dir: self.state_dir.or(other.state_dir) }
    }

    fn resolve(self) -> (PathBuf, PathBuf) {
        (self.bpffs.unwrap_or_else(|| DEFAULT_BPFFS.into()), self.state_dir.unwrap_or_else(|| DEFAULT_STATE_DIR.into()))
    }
}

impl Settings {
    /// What is said here, and what `other` says of the rest.
    fn or(self, other: Self) -> Self {
        Self {
            node_name: self.node_name.or(other.node_name),
            nodes_file: self.nodes_file.or(other.nodes_file),
            kubeconfig: self.kubeconfig.or(other.kubeconfig),
            api_server: self.api_server.or(other.api_server),
            underlay_interface: self.underlay_interface.or(other.underlay_interface),
            vni: self.vni.or(other.vni),
            port: self.port.or(other.port),
            receive_mode: self.receive_mode.or(other.receive_mode),
            mtu: self.mtu.or(other.mtu),
            net_conf: self.net_conf.or(other.net_conf),
            cni_conf: self.cni_conf.or(other.cni_conf),
            runtime: self.runtime.or(other.runtime),
            masquerade: self.masquerade.or(other.masquerade),
            cluster_cidr: self.cluster_cidr.or(other.cluster_cidr),
            non_masquerade_cidrs: self.non_masquerade_cidrs.or(other.non_masquerade_cidrs),
            places: self.places.or(other.places),
            ebpf_object: self.ebpf_object.or(other.ebpf_object),
            resync_interval: self.resync_interval.or(other.resync_interval),
            log_format: self.log_format.or(other.log_format),
        }
    }
}

/// The host's name, in lower case as kubelet registers it.
fn host_name() -> Result<String, String> {
    let name = nix::unistd::gethostname().map_err(|error| error.to_string())?;
    let name = name.to_string_lossy().to_lowercase();
    if crate::model::is_node_name(&name) { Ok(name) } else { Err(format!("the host name {name:?} is not a node's name")) }
}

// === The file ===

fn read_file(path: &Path) -> Result<Settings, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    parse_file(path, &text)
}

/// Reads the file through the command line's own parser: `name: value` is taken as `--name=value`.
fn parse_file(path: &Path, text: &str) -> Result<Settings, ConfigError> {
    // A name like 0123 must not become a number on the way.
    let options = serde_saphyr::options! { leading_zero_numbers_as_strings: true, underscored_numbers_as_strings: true };
    let lines: Option<BTreeMap<String, Spanned<serde_json::Value>>> = serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| ConfigError::NotYaml { path: path.to_owned(), reason: error.to_string() })?;

    let mut problems = Vec::new();
    let mut arguments = Vec::new();
    for (name, value) in lines.into_iter().flatten() {
        let line = value.referenced.line();
        match check_line(name, &value.value) {
            Ok(argument) => arguments.push(argument),
            Err(what) => problems.push(Problem { path: path.to_owned(), line, what }),
        }
    }
    if !problems.is_empty() {
        problems.sort_by_key(|problem| problem.line);
        return Err(ConfigError::Wrong { problems });
    }
    parse_arguments(&arguments).map_err(|error| ConfigError::NotYaml { path: path.to_owned(), reason: error.to_string() })
}

fn check_line(name: String, value: &serde_json::Value) -> Result<String, Wrong> {
    if !known_names().contains(&name) {
        let nearest = nearest_name(&name);
        return Err(Wrong::UnknownName { name, nearest });
    }
    let word = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Number(_) | serde_json::Value::Bool(_) => Some(value.to_string()),
        _ => None,
    };
    // Where several are taken, `[a, b]` and lines with dashes say the same as `a,b`.
    let words = match value {
        serde_json::Value::Array(list) if takes_several(&name) => {
            list.iter().map(word).collect::<Option<Vec<_>>>().map(|words| words.join(","))
        }
        one => word(one),
    };
    let text = match (words, value) {
        (Some(text), _) => text,
        (None, serde_json::Value::Null) => {
            return Err(Wrong::BadValue { name, value: "nothing".to_owned(), fix: "give it a value or remove the line".to_owned() });
        }
        (None, _) => {
            return Err(Wrong::BadValue { name, value: value.to_string(), fix: "it takes one value".to_owned() });
        }
    };
    let argument = format!("--{name}={text}");
    match parse_arguments(std::slice::from_ref(&argument)) {
        Ok(_) => Ok(argument),
        Err(error) => Err(Wrong::BadValue { name, value: format!("{text:?}"), fix: reason(&error) }),
    }
}

fn command() -> clap::Command {
    Settings::augment_args(clap::Command::new("settings").no_binary_name(true).disable_help_flag(true).disable_version_flag(true))
}

/// Whether a setting takes a list.
fn takes_several(name: &str) -> bool {
    command().get_arguments().any(|argument| argument.get_long() == Some(name) && argument.get_value_delimiter().is_some())
}

fn parse_arguments(arguments: &[String]) -> Result<Settings, clap::Error> {
    command().try_get_matches_from(arguments).and_then(|matches| Settings::from_arg_matches(&matches))
}

/// clap's error without the words about flags.
fn reason(error: &clap::Error) -> String {
    if let Some(ContextValue::Strings(valid)) = error.get(ContextKind::ValidValue)
        && !valid.is_empty()
    {
        return format!("it has to be one of {}", valid.join(", "));
    }
    std::error::Error::source(error).map_or_else(|| error.kind().to_string(), ToString::to_string)
}

/// The name of every setting, in the order of the help.
#[must_use]
pub fn known_names() -> Vec<String> {
    command().get_arguments().filter_map(|argument| argument.get_long()).map(str::to_owned).collect()
}

/// The setting `name` most likely means, if any is near.
fn nearest_name(name: &str) -> Option<String> {
    nearest(name, known_names())
}

/// The one of the `known` names that `name` most likely means, if any is near. Finds `receive-mode` for `receiveMode`, `RECEIVE_MODE` and
/// `recieve-mode`.
pub(crate) fn nearest<K: AsRef<str>>(name: &str, known: impl IntoIterator<Item = K>) -> Option<K> {
    // More than a third of the letters wrong is another word.
    const NEAR: f64 = 0.66;
    let kebab = kebab_case(name);
    known
        .into_iter()
        .map(|known| (strsim::normalized_damerau_levenshtein(&kebab, &kebab_case(known.as_ref())), known))
        .filter(|(similarity, _)| *similarity >= NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

/// `receiveMode`, `ReceiveMode` and `receive_mode` as `receive-mode`.
fn kebab_case(name: &str) -> String {
    let mut kebab = String::new();
    let mut after_lower = false;
    for c in name.chars() {
        if c == '_' || c == ' ' {
            kebab.push('-');
        } else {
            if c.is_uppercase() && after_lower {
                kebab.push('-');
            }
            kebab.extend(c.to_lowercase());
        }
        after_lower = c.is_lowercase();
    }
    kebab
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
