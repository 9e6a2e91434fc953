//! A call as the runtime makes it, environment and standard input, into one checked request.
//!
//! Touches neither the kernel nor a file. What it lets through can be acted on: every name is well-formed, every address an address.

use super::configuration::{self, NetworkConfig, Reading, is_identifier};
use super::spec::{CniError, Command, Version, code};
use crate::model::Mac;
use serde_json::{Map, Value};
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Longest name of a device in bytes (IFNAMSIZ - 1).
const LONGEST_NAME: usize = 15;

/// One call.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// VERSION, with the version it was asked with.
    Version(String),
    /// ADD.
    Add(Attachment),
    /// DEL; its namespace may be absent.
    Del(Attachment),
    /// CHECK.
    Check(Attachment),
    /// STATUS.
    Status(Network),
    /// GC.
    Gc(Network),
}

/// A call about a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// Its configuration.
    pub config: NetworkConfig,
    /// The configuration as it came, for other plugins.
    pub input: Vec<u8>,
    /// Where other plugins are.
    pub path: Vec<PathBuf>,
}

/// A call about one container's device.
#[derive(Clone, Debug, PartialEq)]
pub struct Attachment {
    /// The network it is or shall be part of.
    pub network: Network,
    /// Which container and device.
    pub key: Key,
    /// File of the container's network namespace.
    pub netns: Option<PathBuf>,
    /// The address it asks for, and where it does.
    pub address: Option<(&'static str, Ipv4Addr)>,
    /// The MAC it asks for.
    pub mac: Option<Mac>,
    /// The pod it is, as Kubernetes knows it.
    pub pod: PodIdentity,
}

/// What identifies a device of a container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Id of the container.
    pub container_id: String,
    /// Name of the device in it.
    pub ifname: String,
}

/// A pod as Kubernetes knows it; empty where the runtime does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodIdentity {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// The environment of a call.
#[derive(Clone, Debug, Default)]
pub struct Environment(Vec<(&'static str, OsString)>);

/// Variables of a call.
const VARIABLES: [&str; 6] = ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"];

impl Environment {
    /// Takes the variables of a call from wherever `lookup` has them.
    pub fn from(lookup: impl Fn(&str) -> Option<OsString>) -> Self {
        Self(VARIABLES.into_iter().filter_map(|name| lookup(name).map(|value| (name, value))).collect())
    }

    /// An empty variable counts as an absent one: runtimes set `CNI_NETNS=` for a container that is gone.
    fn get(&self, name: &str) -> Result<Option<&str>, CniError> {
        let Some((_, value)) = self.0.iter().find(|(known, value)| *known == name && !value.is_empty()) else { return Ok(None) };
        value.to_str().map(Some).ok_or_else(|| bad(name, "is no UTF-8"))
    }

    fn require(&self, name: &str) -> Result<&str, CniError> {
        self.get(name)?.ok_or_else(|| bad(name, "is missing"))
    }

    /// The verb.
    ///
    /// # Errors
    /// Code 4.
    pub fn command(&self) -> Result<Command, CniError> {
        let name = self.require("CNI_COMMAND")?;
        let known = || Command::ALL.map(Command::name).join(", ");
        Command::ALL
            .into_iter()
            .find(|command| command.name() == name)
            .ok_or_else(|| bad("CNI_COMMAND", &format!("is {name:?}; known are {}", known())))
    }
}

impl Request {
    /// Checks a call.
    ///
    /// # Errors
    /// Codes 1, 2, 4, 6 and 7 of the specification.
    pub fn read(environment: &Environment, input: Vec<u8>) -> Result<Self, CniError> {
        let command = environment.command()?;
        if command == Command::Version {
            return version(&input);
        }
        let object = configuration::parse(&input)?;
        let reading = if command == Command::Del { Reading::Lenient } else { Reading::Strict };
        let config = NetworkConfig::read(&object, reading)?;
        if config.version < command.since() {
            let (name, since) = (command.name(), command.since());
            let msg = format!("cniVersion {} has no {name}: it came with {since}", config.version);
            return Err(CniError::new(code::INCOMPATIBLE_VERSION, msg));
        }
        let path = environment.get("CNI_PATH")?.map(|path| std::env::split_paths(path).collect()).unwrap_or_default();
        let network = Network { config, input, path };
        match command {
            Command::Version => version(&network.input),
            Command::Add => attachment(environment, network, Reading::Strict).map(Self::Add),
            Command::Del => attachment(environment, network, Reading::Lenient).map(Self::Del),
            Command::Check => attachment(environment, network, Reading::Strict).map(Self::Check),
            Command::Status => Ok(Self::Status(network)),
            Command::Gc => environment.require("CNI_PATH").map(|_| Self::Gc(network)),
        }
    }

    /// The version an answer has, if the configuration was understood.
    #[must_use]
    pub const fn version(&self) -> Option<Version> {
        match self {
            Self::Version(_) => None,
            Self::Add(attachment) | Self::Del(attachment) | Self::Check(attachment) => Some(attachment.network.config.version),
            Self::Status(network) | Self::Gc(network) => Some(network.config.version),
        }
    }
}

/// VERSION is answered whatever it is asked with; an old libcni asks with nothing.
fn version(input: &[u8]) -> Result<Request, CniError> {
    let object = if input.trim_ascii().is_empty() { Map::new() } else { configuration::parse(input)? };
    let asked = object.get("cniVersion").and_then(Value::as_str).unwrap_or(Version::NEWEST.name());
    Ok(Request::Version(asked.to_owned()))
}

fn attachment(environment: &Environment, network: Network, reading: Reading) -> Result<Attachment, CniError> {
    let container_id = environment.require("CNI_CONTAINERID")?;
    if !is_identifier(container_id) {
        let what = format!("is {container_id:?}: it takes letters, digits, `_`, `.` and `-`, a letter or digit first");
        return Err(bad("CNI_CONTAINERID", &what));
    }
    let ifname = environment.require("CNI_IFNAME")?;
    if !is_device_name(ifname) {
        return Err(bad("CNI_IFNAME", &format!("is {ifname:?}, which cannot be the name of a device")));
    }
    let key = Key { container_id: container_id.to_owned(), ifname: ifname.to_owned() };
    let netns = environment.get("CNI_NETNS")?.map(PathBuf::from);
    let mut attachment = Attachment { network, key, netns, address: None, mac: None, pod: PodIdentity::default() };
    if reading == Reading::Strict {
        environment.require("CNI_NETNS")?;
        attachment.read_arguments(environment.get("CNI_ARGS")?.unwrap_or_default())?;
        attachment.read_wishes()?;
    }
    Ok(attachment)
}

impl Attachment {
    /// `CNI_ARGS`: `KEY=VALUE;…`.
    fn read_arguments(&mut self, text: &str) -> Result<(), CniError> {
        let mut unknown = None;
        let mut ignore_unknown = false;
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| bad("CNI_ARGS", &format!("has {pair:?}, which is not KEY=VALUE")))?;
            match key {
                "IgnoreUnknown" => ignore_unknown = matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True"),
                "K8S_POD_NAMESPACE" => value.clone_into(&mut self.pod.namespace),
                "K8S_POD_NAME" => value.clone_into(&mut self.pod.name),
                "K8S_POD_UID" => value.clone_into(&mut self.pod.uid),
                // The id of the sandbox once more.
                "K8S_POD_INFRA_CONTAINER_ID" => {}
                "IP" => self.address = Some(("IP in CNI_ARGS", address(value).ok_or_else(|| bad_address("CNI_ARGS", key, value))?)),
                "MAC" => self.mac = Some(mac(value).ok_or_else(|| bad_mac("CNI_ARGS", value))?),
                _ => unknown = unknown.or(Some(key)),
            }
        }
        match unknown {
            Some(key) if !ignore_unknown => Err(bad("CNI_ARGS", &format!("has the unknown key {key}, and not IgnoreUnknown=1"))),
            _ => Ok(()),
        }
    }

    /// What the configuration asks for; it wins over `CNI_ARGS`, whose use for this the conventions discourage.
    fn read_wishes(&mut self) -> Result<(), CniError> {
        let wrong = |key: &str, what: String| CniError::new(code::BAD_CONFIGURATION, format!("network configuration: {key} {what}"));
        if let Some((key, texts)) = &self.network.config.asked_ips {
            let addresses: Option<Vec<Ipv4Addr>> = texts.iter().map(|text| address(text)).collect();
            match addresses.as_deref() {
                Some([]) => {}
                Some([one]) => self.address = Some((key, *one)),
                _ => return Err(wrong(key, format!("is {texts:?}: a pod has one IPv4 address"))),
            }
        }
        if let Some((key, text)) = &self.network.config.asked_mac {
            self.mac =
                Some(mac(text).ok_or_else(|| wrong(key, format!("is {text:?}: it has to be like 0a:1b:2c:3d:4e:5f, not a group's")))?);
        }
        Ok(())
    }
}

/// An address, with or without a prefix length, which is always 32 here.
fn address(text: &str) -> Option<Ipv4Addr> {
    let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
    prefix.parse::<u8>().ok().filter(|prefix| *prefix <= 32).and_then(|_| address.parse().ok())
}

fn mac(text: &str) -> Option<Mac> {
    text.parse().ok().filter(|mac: &Mac| mac.is_unicast())
}

/// What the kernel takes as a name (`dev_valid_name`, net/core/dev.c).
fn is_device_name(name: &str) -> bool {
    (1..=LONGEST_NAME).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.bytes().any(|byte| byte == b'/' || byte == b':' || byte.is_ascii_whitespace() || byte == 0x0b)
}

fn bad(variable: &str, what: &str) -> CniError {
    CniError::new(code::BAD_ENVIRONMENT, format!("environment variable {variable} {what}"))
}

fn bad_address(variable: &str, key: &str, value: &str) -> CniError {
    bad(variable, &format!("has {key}={value}, which is no IPv4 address"))
}

fn bad_mac(variable: &str, value: &str) -> CniError {
    bad(variable, &format!("has MAC={value}, which is no MAC address of a device"))
}

impl Key {
    /// A number for this key, the same in every process: FNV-1a over both names, stirred so that every bit depends on every byte.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let bytes = self.container_id.bytes().chain([0]).chain(self.ifname.bytes());
        let sum = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        // The finalizer of MurmurHash3.
        let sum = (sum ^ (sum >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        let sum = (sum ^ (sum >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        sum ^ (sum >> 33)
    }

    /// Name of the veth's end on the node: `pod` and twelve digits, so that DEL finds it with nothing but the names in its environment.
    #[must_use]
    pub fn host_interface(&self) -> String {
        format!("pod{:012x}", self.hash() >> 16)
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
