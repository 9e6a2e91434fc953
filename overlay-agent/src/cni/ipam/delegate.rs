//! Another plugin that gives the addresses: found on `CNI_PATH`, run with this plugin's environment and input.
//!
//! What it says on failure is passed on as it is, with its name in front.

use crate::cni::request::Network;
use crate::cni::spec::{Attached, CniError, Command, code};
use serde_json::Value;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::thread;

/// Runs the plugin with one verb and returns what it printed.
///
/// # Errors
/// Its own error object; code 7 if there is no such plugin, [`code::DELEGATE`] if it cannot be run or answers something else.
pub fn run(plugin: &str, command: Command, network: &Network) -> Result<Vec<u8>, CniError> {
    let path = find(plugin, network)?;
    let output = execute(&path, command, &network.input)
        .map_err(|error| CniError::new(code::DELEGATE, format!("cannot run the plugin {}: {error}", path.display())))?;
    if output.status.success() { Ok(output.stdout) } else { Err(failure(plugin, &output)) }
}

/// Runs the plugin's ADD and returns the address it gave.
///
/// # Errors
/// As [`run`]; code 2 if it gave anything but one IPv4 address. What it gave is not given back then: the caller runs DEL.
pub fn add(plugin: &str, network: &Network) -> Result<Ipv4Addr, CniError> {
    let output = run(plugin, Command::Add, network)?;
    let answer: Attached = serde_json::from_slice(&output)
        .map_err(|error| CniError::new(code::DELEGATE, format!("the answer of the plugin {plugin} cannot be understood: {error}")))?;
    let addresses: Vec<&str> = answer.ips.iter().map(|ip| ip.address.as_str()).collect();
    let only = match addresses.as_slice() {
        [one] => one.split_once('/').map_or(*one, |(address, _)| address).parse().ok(),
        _ => None,
    };
    only.ok_or_else(|| {
        let msg = format!("ipam.type: the plugin {plugin} gave {addresses:?}, and a pod of this network has one IPv4 address");
        CniError::new(code::BAD_CONFIGURATION, msg)
    })
}

fn find(plugin: &str, network: &Network) -> Result<PathBuf, CniError> {
    if network.path.is_empty() {
        let msg = format!("environment variable CNI_PATH is missing: it tells where the plugin {plugin} of ipam.type is");
        return Err(CniError::new(code::BAD_ENVIRONMENT, msg));
    }
    let is_program = |path: &PathBuf| path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
    network.path.iter().map(|directory| directory.join(plugin)).find(is_program).ok_or_else(|| {
        let directories: Vec<_> = network.path.iter().map(|directory| directory.display().to_string()).collect();
        let msg = format!("ipam.type: there is no plugin {plugin} in {} (CNI_PATH)", directories.join(", "));
        CniError::new(code::BAD_CONFIGURATION, msg)
    })
}

fn execute(path: &PathBuf, command: Command, input: &[u8]) -> io::Result<Output> {
    let mut child = std::process::Command::new(path)
        .env("CNI_COMMAND", command.name())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    let stdin = child.stdin.take();
    thread::scope(|scope| {
        // A plugin that ends before it has read everything says why; the broken pipe tells nothing more.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input)));
        child.wait_with_output()
    })
}

/// The plugin's error object, or what else there is to say.
fn failure(plugin: &str, output: &Output) -> CniError {
    let object: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
    match object["code"].as_u64().and_then(|code| u32::try_from(code).ok()) {
        Some(code) => CniError::new(code, format!("plugin {plugin}: {}", text("msg"))).with_details(text("details")),
        None => CniError::new(code::DELEGATE, format!("the plugin {plugin} failed ({}) without saying why", output.status)),
    }
}
