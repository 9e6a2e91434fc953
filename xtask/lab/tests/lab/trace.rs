//! What a node looks like from outside the agent: everything an agent could leave there, as `ip`, `nft`, `tc`, `ethtool` and the file system show it.

use anyhow::{Context as _, ensure};
use overlay_lab::node::Node;
use overlay_lab::underlay::Underlay;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The state of a node, by what was asked.
#[derive(Debug)]
pub(crate) struct Trace(BTreeMap<&'static str, Vec<String>>);

impl Trace {
    /// Looks at a node, and at the router's end of its cable: native XDP changes a veth's other end too.
    pub(crate) fn of(underlay: &Underlay, node: &Node) -> anyhow::Result<Self> {
        let mut found = BTreeMap::new();
        for (what, program, arguments) in [
            ("devices", "ip", "-d link"),
            ("addresses", "ip", "-4 address"),
            ("routes", "ip", "-4 route show table all"),
            ("rules", "ip", "rule"),
            ("packet filter", "nft", "list ruleset"),
            ("queueing disciplines", "tc", "qdisc"),
            ("NIC's features", "ethtool", "-k eth0"),
        ] {
            found.insert(what, lines(&node.ns.run(program, arguments)?));
        }
        // What the kernel resolves for itself comes and goes: only what somebody put there counts.
        let put = |line: &String| ["proto", "managed", "extern_learn", "PERMANENT", "ovl0", "veth"].iter().any(|word| line.contains(word));
        found.insert("neighbours", lines(&node.ns.ip("neighbour")?).into_iter().filter(put).collect());
        let port = Underlay::port(&node.name);
        // The bridge's timers run.
        let ticks = |line: &String| line.starts_with("bridge_slave");
        let cable = lines(&underlay.router.ip(&format!("-d link show {port}"))?);
        found.insert("the cable's other end", cable.into_iter().filter(|line| !ticks(line)).collect());
        found.insert("bpffs", files(&node.config.bpffs)?);
        // The log is the lab's.
        found.insert("state directory", files(&node.config.state_dir)?.into_iter().filter(|path| !path.ends_with("agent.log")).collect());
        Ok(Self(found))
    }

    /// The two are the same.
    ///
    /// # Errors
    /// They are not: every line that is in one only.
    pub(crate) fn compare(&self, after: &Self) -> anyhow::Result<()> {
        for (what, before) in &self.0 {
            let after = after.0.get(what).context("the two looked at different things")?;
            let only =
                |one: &[String], other: &[String]| -> Vec<String> { one.iter().filter(|line| !other.contains(line)).cloned().collect() };
            ensure!(before == after, "{what}: new {:#?}, missing {:#?}", only(after, before), only(before, after));
        }
        Ok(())
    }
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(|line| line.trim().to_owned()).collect()
}

/// Every file and directory below `directory`, sorted.
fn files(directory: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let path = entry?.path();
        found.push(path.display().to_string());
        if path.is_dir() {
            found.extend(files(&path)?);
        }
    }
    found.sort();
    Ok(found)
}
