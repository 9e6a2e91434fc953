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

/// Kernel memory a map takes, in bytes, entries and preallocation included. Exact since Linux 6.4, an estimate of its largest size before.
///
/// # Errors
/// There is no such pin.
pub fn bytes(pins: &Path, map: &str) -> anyhow::Result<u64> {
    let text = command::run(Command::new("bpftool").args(["--json", "map", "show", "pinned"]).arg(pins.join("maps").join(map)))?;
    let shown: Value = serde_json::from_str(&text).with_context(|| format!("parse what bpftool shows of {map}"))?;
    shown["bytes_memlock"].as_u64().with_context(|| format!("bpftool does not say how much memory {map} takes: {text}"))
}

/// An address as `bpftool` prints the array of its four bytes.
///
/// # Errors
/// It is something else.
pub fn address(value: &Value) -> anyhow::Result<std::net::Ipv4Addr> {
    let bytes: [u8; 4] = serde_json::from_value(value.clone()).with_context(|| format!("{value} is not an address"))?;
    Ok(bytes.into())
}
