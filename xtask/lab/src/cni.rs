//! A small container runtime, as far as networks go: calls CNI plugins as libcni does, one by one or as a chain.
//!
//! It knows nothing of any plugin: configuration and environment in, results and errors out.

use crate::agent::sibling;
use crate::command;
use crate::netns::Ns;
use anyhow::{Context as _, bail, ensure};
use serde_json::{Map, Value, json};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Where Debian has the reference plugins.
pub const REFERENCE_PLUGINS: &str = "/usr/lib/cni";

/// One call of one plugin.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// Name of the program, looked for in [`Runtime::path`].
    pub plugin: String,
    /// `CNI_…` variables; an absent one is not set.
    pub environment: Vec<(&'static str, String)>,
    /// Standard input.
    pub input: String,
}

/// What a plugin answered.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// The exit code; none if a signal ended it.
    pub exit: Option<i32>,
}

/// A container as a plugin sees it.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// File of its namespace; none: it is gone.
    pub netns: Option<PathBuf>,
    /// Name of the device to make.
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: String,
    /// What the runtime can ask for, by capability: passed to the plugins that declare it.
    pub capabilities: Map<String, Value>,
}

/// A list of plugins, one after the other: what a `.conflist` holds.
#[derive(Clone, Debug)]
pub struct Conflist {
    /// `cniVersion`.
    pub version: String,
    /// `name`.
    pub name: String,
    /// `plugins`.
    pub plugins: Vec<Value>,
}

/// A runtime on one node.
#[derive(Debug)]
pub struct Runtime<'lab> {
    /// The node's network.
    pub node: &'lab Ns,
    /// `CNI_PATH`.
    pub path: Vec<PathBuf>,
}

impl Container {
    /// A container whose namespace this is, with a device `eth0`.
    #[must_use]
    pub fn new(id: impl Into<String>, netns: &Ns) -> Self {
        let netns = Some(netns.path());
        Self { id: id.into(), netns, ifname: "eth0".to_owned(), args: String::new(), capabilities: Map::new() }
    }
}

impl Conflist {
    /// A list of plugins.
    #[must_use]
    pub fn new(version: &str, name: &str, plugins: &[Value]) -> Self {
        Self { version: version.to_owned(), name: name.to_owned(), plugins: plugins.to_vec() }
    }

    /// One plugin's configuration as libcni builds it out of the list (`buildOneConfig`, libcni/api.go).
    fn one(&self, plugin: &Value, container: Option<&Container>, previous: Option<&Value>) -> Value {
        let mut config = plugin.clone();
        config["cniVersion"] = self.version.clone().into();
        config["name"] = self.name.clone().into();
        if let Some(previous) = previous {
            config["prevResult"] = previous.clone();
        }
        let declared = |name: &str| plugin["capabilities"][name] == json!(true);
        let asked = container.map(|container| container.capabilities.iter().filter(|(name, _)| declared(name)));
        let runtime: Map<String, Value> = asked.into_iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect();
        if !runtime.is_empty() {
            config["runtimeConfig"] = runtime.into();
        }
        config
    }
}

impl<'lab> Runtime<'lab> {
    /// A runtime that finds this build's plugin and the reference plugins.
    ///
    /// # Errors
    /// The plugin is not built.
    pub fn new(node: &'lab Ns) -> anyhow::Result<Self> {
        let own = sibling("overlay-cni")?.parent().context("a file without a directory")?.to_owned();
        Ok(Self { node, path: vec![own, PathBuf::from(REFERENCE_PLUGINS)] })
    }

    /// The command of a call, ready to be started.
    ///
    /// # Errors
    /// There is no such plugin.
    pub fn command(&self, call: &Call) -> anyhow::Result<Command> {
        Ok(environed(self.node.command(self.program(call)?), call))
    }

    fn program(&self, call: &Call) -> anyhow::Result<PathBuf> {
        let program = self.path.iter().map(|directory| directory.join(&call.plugin)).find(|path| path.is_file());
        program.with_context(|| format!("there is no plugin {} in {:?}", call.plugin, self.path))
    }

    /// Makes a call.
    ///
    /// # Errors
    /// There is no such plugin.
    pub fn call(&self, call: &Call) -> anyhow::Result<Reply> {
        Ok(command::output_with_input(&mut self.command(call)?, &call.input)?.into())
    }

    /// Makes a call and tells how long it took: from the start of the plugin's process, which nothing stands before, to its end.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn timed(&self, call: &Call) -> anyhow::Result<(Reply, Duration)> {
        let mut command = environed(Command::new(self.program(call)?), call);
        // A process is in the network of the thread that starts it.
        self.node.enter(|| {
            let start = Instant::now();
            let output = command::output_with_input(&mut command, &call.input)?;
            Ok((output.into(), start.elapsed()))
        })?
    }

    /// A call about a container, as libcni sets its environment.
    #[must_use]
    pub fn prepare(&self, verb: &str, container: &Container, config: &Value) -> Call {
        let mut environment = self.environment(verb);
        environment.extend([("CNI_CONTAINERID", container.id.clone()), ("CNI_IFNAME", container.ifname.clone())]);
        environment.push(("CNI_ARGS", container.args.clone()));
        environment.push(("CNI_NETNS", container.netns.as_deref().map_or_else(String::new, |path| path.display().to_string())));
        Call { plugin: type_of(config), environment, input: config.to_string() }
    }

    /// A call about a network.
    #[must_use]
    pub fn prepare_network(&self, verb: &str, config: &Value) -> Call {
        Call { plugin: type_of(config), environment: self.environment(verb), input: config.to_string() }
    }

    fn environment(&self, verb: &str) -> Vec<(&'static str, String)> {
        let path: Vec<String> = self.path.iter().map(|path| path.display().to_string()).collect();
        vec![("CNI_COMMAND", verb.to_owned()), ("CNI_PATH", path.join(":"))]
    }

    /// Adds a container to every plugin's network in turn, each told what those before it made. Returns the last one's result.
    ///
    /// # Errors
    /// A plugin fails: those before it are left as they are, as libcni leaves them. The runtime has to delete.
    pub fn add(&self, list: &Conflist, container: &Container) -> anyhow::Result<Value> {
        let mut previous = None;
        for plugin in &list.plugins {
            let config = list.one(plugin, Some(container), previous.as_ref());
            previous = Some(self.call(&self.prepare("ADD", container, &config))?.result()?);
        }
        previous.context("a list without plugins")
    }

    /// Deletes a container from every plugin's network, last plugin first. `result` is what [`Self::add`] returned, if it is known.
    ///
    /// # Errors
    /// A plugin fails.
    pub fn del(&self, list: &Conflist, container: &Container, result: Option<&Value>) -> anyhow::Result<()> {
        for plugin in list.plugins.iter().rev() {
            let config = list.one(plugin, Some(container), result);
            self.call(&self.prepare("DEL", container, &config))?.nothing()?;
        }
        Ok(())
    }

    /// Checks a container with every plugin.
    ///
    /// # Errors
    /// A plugin finds damage.
    pub fn check(&self, list: &Conflist, container: &Container, result: &Value) -> anyhow::Result<()> {
        for plugin in &list.plugins {
            let config = list.one(plugin, Some(container), Some(result));
            self.call(&self.prepare("CHECK", container, &config))?.nothing()?;
        }
        Ok(())
    }

    /// Has every plugin take away all but these containers.
    ///
    /// # Errors
    /// A plugin fails.
    pub fn gc(&self, list: &Conflist, valid: &[&Container]) -> anyhow::Result<()> {
        let valid: Vec<Value> = valid.iter().map(|one| json!({ "containerID": one.id, "ifname": one.ifname })).collect();
        for plugin in &list.plugins {
            let mut config = list.one(plugin, None, None);
            config["cni.dev/valid-attachments"] = valid.clone().into();
            self.call(&self.prepare_network("GC", &config))?.nothing()?;
        }
        Ok(())
    }

    /// Asks every plugin whether it is ready.
    ///
    /// # Errors
    /// One is not.
    pub fn status(&self, list: &Conflist) -> anyhow::Result<()> {
        for plugin in &list.plugins {
            self.call(&self.prepare_network("STATUS", &list.one(plugin, None, None)))?.nothing()?;
        }
        Ok(())
    }
}

/// A command with exactly the `CNI_…` variables of a call.
fn environed(mut command: Command, call: &Call) -> Command {
    for name in ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"] {
        command.env_remove(name);
    }
    command.envs(call.environment.iter().map(|(name, value)| (name, value)));
    command
}

fn type_of(config: &Value) -> String {
    config["type"].as_str().unwrap_or_default().to_owned()
}

impl From<Output> for Reply {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { stdout: text(output.stdout), stderr: text(output.stderr), exit: output.status.code() }
    }
}

impl Reply {
    /// The result of an ADD or VERSION.
    ///
    /// # Errors
    /// The plugin failed, or printed no JSON.
    pub fn result(&self) -> anyhow::Result<Value> {
        ensure!(self.exit == Some(0), "{self}");
        serde_json::from_str(&self.stdout).with_context(|| self.to_string())
    }

    /// The success of a verb that has no result.
    ///
    /// # Errors
    /// The plugin failed, or printed something.
    pub fn nothing(&self) -> anyhow::Result<()> {
        ensure!(self.exit == Some(0), "{self}");
        ensure!(self.stdout.trim().is_empty(), "a result where none belongs: {self}");
        Ok(())
    }

    /// The error object of a call that was to fail: code and message, with its version as the specification wants it.
    ///
    /// # Errors
    /// The plugin succeeded, or printed something else.
    pub fn error(&self) -> anyhow::Result<(u64, String)> {
        let object: Value = serde_json::from_str(&self.stdout).with_context(|| self.to_string())?;
        ensure!(object["cniVersion"].is_string(), "an error without version: {self}");
        self.failure()
    }

    /// The same as reference plugins have it, which tell no version.
    ///
    /// # Errors
    /// As [`Self::error`].
    pub fn failure(&self) -> anyhow::Result<(u64, String)> {
        ensure!(self.exit.is_some_and(|code| code != 0), "no failure: {self}");
        let object: Value = serde_json::from_str(&self.stdout).with_context(|| self.to_string())?;
        let (Some(code), Some(msg)) = (object["code"].as_u64(), object["msg"].as_str()) else { bail!("no error object: {self}") };
        Ok((code, format!("{msg} {}", object["details"].as_str().unwrap_or_default()).trim_end().to_owned()))
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exit = self.exit.map_or_else(|| "ended by a signal".to_owned(), |code| format!("exit code {code}"));
        write!(f, "{exit}; stdout: {}; stderr: {}", self.stdout.trim(), self.stderr.trim())
    }
}

/// The configuration of this project's plugin on a node.
#[must_use]
pub fn overlay(bpffs: &Path, state_dir: &Path) -> Value {
    json!({ "type": "overlay-cni", "bpffs": bpffs, "stateDir": state_dir })
}
