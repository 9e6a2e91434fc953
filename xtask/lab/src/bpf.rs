//! What the kernel says of our maps, through `bpftool`: the operator's view, not the agent's.

use crate::command;
use anyhow::Context as _;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// What `bpftool map dump pinned` prints.
///
/// # Errors
/// There is no such pin.
pub fn dump_text(pins: &Path, map: &str) -> anyhow::Result<String> {
    command::run(Command::new("bpftool").args(["map", "dump", "pinned"]).arg(pins.join("maps").join(map)))
}

/// The entries of a map with the field names `bpftool` knows from BTF: `[{"key": …, "value": …}]`.
///
/// # Errors
/// There is no such pin, or the map has no BTF.
pub fn dump(pins: &Path, map: &str) -> anyhow::Result<Vec<Value>> {
    let text = command::run(Command::new("bpftool").args(["--json", "map", "dump", "pinned"]).arg(pins.join("maps").join(map)))?;
    let entries: Vec<Value> = serde_json::from_str(&text).with_context(|| format!("parse the dump of {map}"))?;
    entries.into_iter().map(|mut entry| entry.get_mut("formatted").map(Value::take).with_context(|| format!("{map} has no BTF"))).collect()
}

/// An address as `bpftool` prints the array of its four bytes.
///
/// # Errors
/// It is something else.
pub fn address(value: &Value) -> anyhow::Result<std::net::Ipv4Addr> {
    let bytes: [u8; 4] = serde_json::from_value(value.clone()).with_context(|| format!("{value} is not an address"))?;
    Ok(bytes.into())
}
