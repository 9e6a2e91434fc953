//! The network configuration on standard input, checked: what the specification knows, and the keys of this plugin.
//!
//! An unknown key of ours is refused with the known one it most likely means: a setting that is written and does not take effect is worse
//! than one that stops the pod. DEL alone passes over everything it has no use for: what was made has to be taken away again.

use super::ipam::{AddressRange, BadRange};
use super::spec::{Attached, CniError, Version, code};
use crate::config::{DEFAULT_BPFFS, nearest};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::PathBuf;

/// This plugin's name in `type`, and in `ipam.type` for the addresses it gives itself.
pub const PLUGIN: &str = "overlay-cni";
/// Directory of the addresses given out, unless configured.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/overlay/ipam";

/// Keys of the specification and its conventions; `cni.dev/…` are its as well.
const STANDARD: [&str; 11] =
    ["cniVersion", "name", "type", "ipam", "dns", "prevResult", "runtimeConfig", "capabilities", "args", "disableCheck", "disableGC"];
/// Keys of this plugin.
const OWN: [&str; 3] = ["bpffs", "stateDir", "steerFlows"];
/// Keys of `ipam` when this plugin gives the addresses.
const OWN_IPAM: [&str; 2] = ["type", "ranges"];
/// Capabilities that other plugins of a chain have: passed to this one they would have no effect.
const OTHERS: [(&str, &str); 5] = [
    ("portMappings", "portmap"),
    ("bandwidth", "bandwidth"),
    ("ipRanges", "host-local"),
    ("infinibandGUID", "ib-sriov"),
    ("deviceID", "sriov"),
];

/// The configuration of one network.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkConfig {
    /// Version of the specification it is written in.
    pub version: Version,
    /// Name of the network.
    pub name: String,
    /// Mount point of bpffs.
    pub bpffs: PathBuf,
    /// Directory of the addresses given out.
    pub state_dir: PathBuf,
    /// Each flow a pod sends stays on one CPU (docs/adr/0007).
    pub steer_flows: bool,
    /// Who gives the addresses.
    pub ipam: Ipam,
    /// Name servers and the like, to be passed on in the result: the runtime's if it names any, else those of the configuration.
    pub dns: Map<String, Value>,
    /// Addresses asked for, and the key that asks.
    pub asked_ips: Option<(&'static str, Vec<String>)>,
    /// MAC asked for, and the key that asks.
    pub asked_mac: Option<(&'static str, String)>,
    /// What the plugins before this one made.
    pub previous: Option<Attached>,
    /// GC: what is to stay; none if the runtime does not say.
    pub valid: Option<Vec<ValidAttachment>>,
}

/// Who gives the addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ipam {
    /// This plugin, from these ranges; none: from the whole network of the node.
    Own(Vec<AddressRange>),
    /// The plugin of that name.
    Delegated(String),
}

/// One entry of `cni.dev/valid-attachments`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ValidAttachment {
    /// Id of the container.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// Name of the device in it.
    pub ifname: String,
}

/// How strict to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Unknown keys and bad values are refused.
    Strict,
    /// Unknown keys, and values that taking away has no use for, are passed over.
    Lenient,
}

impl NetworkConfig {
    /// Checks a parsed configuration.
    ///
    /// # Errors
    /// Code 1, 2, 6 or 7, naming the key.
    pub fn read(object: &Map<String, Value>, reading: Reading) -> Result<Self, CniError> {
        let version = Version::of(object.get("cniVersion"))?;
        let name = text(object, "name")?.ok_or_else(|| bad("name", "is missing: a network has a name"))?;
        if !is_identifier(&name) {
            return Err(bad("name", &format!("is {name:?}: it takes letters, digits, `_`, `.` and `-`, a letter or digit first")));
        }
        let strict = reading == Reading::Strict;
        if strict {
            refuse_unknown(object, "", &[&STANDARD[..], &OWN[..]].concat())?;
        }
        let runtime = section(object, "runtimeConfig")?;
        let args = section(object, "args")?;
        let args = section(&args, "cni")?;
        let ipam = ipam(&section(object, "ipam")?, reading)?;
        if strict && ipam.is_own() {
            refuse_others(&runtime)?;
        }
        let dns = section(&runtime, "dns")?;
        Ok(Self {
            version,
            name,
            bpffs: text(object, "bpffs")?.unwrap_or_else(|| DEFAULT_BPFFS.to_owned()).into(),
            state_dir: text(object, "stateDir")?.unwrap_or_else(|| DEFAULT_STATE_DIR.to_owned()).into(),
            steer_flows: lenient(flag(object, "steerFlows"), strict)?,
            ipam,
            dns: if dns.is_empty() { section(object, "dns")? } else { dns },
            asked_ips: lenient(asked(&runtime, "runtimeConfig.ips", &args, "args.cni.ips", "ips"), strict)?,
            asked_mac: lenient(asked(&runtime, "runtimeConfig.mac", &args, "args.cni.mac", "mac"), strict)?,
            previous: lenient(decoded(object, "prevResult"), strict)?,
            valid: lenient(decoded(object, "cni.dev/valid-attachments"), strict)?,
        })
    }
}

impl Ipam {
    /// Whether this plugin gives the addresses.
    #[must_use]
    pub const fn is_own(&self) -> bool {
        matches!(self, Self::Own(_))
    }

    /// The plugin that gives them.
    #[must_use]
    pub fn plugin(&self) -> &str {
        match self {
            Self::Own(_) => PLUGIN,
            Self::Delegated(plugin) => plugin,
        }
    }
}

/// Parses the bytes of standard input.
///
/// # Errors
/// Code 6: they are no JSON object.
pub fn parse(bytes: &[u8]) -> Result<Map<String, Value>, CniError> {
    serde_json::from_slice(bytes)
        .map_err(|error| CniError::new(code::DECODE, format!("the network configuration on standard input is no JSON object: {error}")))
}

fn ipam(object: &Map<String, Value>, reading: Reading) -> Result<Ipam, CniError> {
    let plugin = text(object, "type").map_err(|error| CniError { msg: format!("ipam: {}", error.msg), ..error })?;
    match plugin.filter(|plugin| plugin != PLUGIN && !plugin.is_empty()) {
        // The file of that name on CNI_PATH is run: a path would lead elsewhere.
        Some(plugin) if plugin.contains('/') || plugin.starts_with('.') => {
            Err(bad("ipam.type", &format!("is {plugin:?}: it is the name of a plugin on CNI_PATH")))
        }
        Some(plugin) => Ok(Ipam::Delegated(plugin)),
        None if reading == Reading::Lenient => Ok(Ipam::Own(Vec::new())),
        None => {
            refuse_unknown(object, "ipam.", &OWN_IPAM)?;
            let ranges: Option<Vec<String>> = decoded(object, "ranges").map_err(|error| bad("ipam.ranges", &error.msg))?;
            let ranges: Result<_, BadRange> = ranges.unwrap_or_default().iter().map(|range| range.parse()).collect();
            ranges.map(Ipam::Own).map_err(|error| bad("ipam.ranges", &error.to_string()))
        }
    }
}

/// What the runtime asks for by its capability, or the configuration by `args`.
fn asked<T: for<'de> Deserialize<'de>>(
    runtime: &Map<String, Value>,
    runtime_key: &'static str,
    args: &Map<String, Value>,
    args_key: &'static str,
    name: &str,
) -> Result<Option<(&'static str, T)>, CniError> {
    if let Some(value) = decoded(runtime, name).map_err(|error| bad(runtime_key, &error.msg))? {
        return Ok(Some((runtime_key, value)));
    }
    Ok(decoded(args, name).map_err(|error| bad(args_key, &error.msg))?.map(|value| (args_key, value)))
}

fn refuse_unknown(object: &Map<String, Value>, prefix: &str, known: &[&str]) -> Result<(), CniError> {
    let unknown = |key: &&String| !known.contains(&key.as_str()) && !key.starts_with("cni.dev/");
    let Some(key) = object.keys().find(unknown) else { return Ok(()) };
    let hint =
        nearest(key, known).map_or_else(|| format!("known are {}", known.join(", ")), |near| format!("did you mean {prefix}{near}?"));
    let msg = format!("unknown key {prefix}{key} with value {}; {hint}", object[key]);
    Err(CniError::new(code::UNSUPPORTED_FIELD, msg))
}

fn refuse_others(runtime: &Map<String, Value>) -> Result<(), CniError> {
    let Some((key, plugin)) = OTHERS.into_iter().find(|(key, _)| runtime.contains_key(*key)) else { return Ok(()) };
    let msg = format!("runtimeConfig.{key} with value {} has no effect here: declare the capability at the {plugin} plugin", runtime[key]);
    Err(CniError::new(code::UNSUPPORTED_FIELD, msg))
}

/// A section of the configuration; an absent one is empty.
fn section(object: &Map<String, Value>, key: &str) -> Result<Map<String, Value>, CniError> {
    Ok(decoded(object, key)?.unwrap_or_default())
}

fn text(object: &Map<String, Value>, key: &str) -> Result<Option<String>, CniError> {
    decoded(object, key)
}

fn flag(object: &Map<String, Value>, key: &str) -> Result<bool, CniError> {
    Ok(decoded(object, key)?.unwrap_or_default())
}

/// A value of the configuration; `null` stands for an absent one.
fn decoded<T: for<'de> Deserialize<'de>>(object: &Map<String, Value>, key: &str) -> Result<Option<T>, CniError> {
    let value = object.get(key).unwrap_or(&Value::Null);
    Option::deserialize(value).map_err(|error| bad(key, &format!("is {}: {error}", shortened(value))))
}

fn lenient<T: Default>(result: Result<T, CniError>, strict: bool) -> Result<T, CniError> {
    if strict { result } else { Ok(result.unwrap_or_default()) }
}

fn bad(key: &str, what: &str) -> CniError {
    CniError::new(code::BAD_CONFIGURATION, format!("network configuration: {key} {what}"))
}

/// A value as far as a message takes it.
fn shortened(value: &Value) -> String {
    const LONGEST: usize = 80;
    let text = value.to_string();
    if text.chars().count() <= LONGEST { text } else { text.chars().take(LONGEST).chain(['…']).collect() }
}

/// Letters, digits, `_`, `.` and `-`, a letter or digit first: names of networks and ids of containers, as libcni checks them.
pub(super) fn is_identifier(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

#[cfg(test)]
#[path = "configuration_tests.rs"]
mod tests;
