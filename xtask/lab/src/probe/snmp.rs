//! The kernel's own counters of a namespace, from `/proc/net/snmp`.

use crate::netns::Ns;
use anyhow::Context as _;
use std::collections::BTreeMap;
use std::fs;

/// Counters by `Protocol.Name`, e.g. `Udp.InCsumErrors`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snmp(BTreeMap<String, i64>);

impl Snmp {
    /// Reads the counters of a namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn read(ns: &Ns) -> anyhow::Result<Self> {
        // /proc/net would be the namespace of the whole process, not of this thread.
        let text = ns.enter(|| fs::read_to_string("/proc/thread-self/net/snmp"))?.context("read /proc/thread-self/net/snmp")?;
        Ok(Self(parse(&text)))
    }

    /// One counter; 0 when this kernel does not have it.
    #[must_use]
    pub fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Packets dropped since boot because a checksum of TCP, UDP or ICMP was wrong.
    #[must_use]
    pub fn checksum_errors(&self) -> i64 {
        self.get("Tcp.InCsumErrors") + self.get("Udp.InCsumErrors") + self.get("Icmp.InCsumErrors")
    }
}

/// Two lines per protocol: names, then values.
fn parse(text: &str) -> BTreeMap<String, i64> {
    let lines: Vec<&str> = text.lines().collect();
    let mut counters = BTreeMap::new();
    for pair in lines.chunks_exact(2) {
        let (Some((protocol, names)), Some((_, values))) = (pair[0].split_once(':'), pair[1].split_once(':')) else { continue };
        for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
            if let Ok(value) = value.parse() {
                counters.insert(format!("{protocol}.{name}"), value);
            }
        }
    }
    counters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_names_with_values() {
        let counters = parse("Tcp: InErrs InCsumErrors\nTcp: 3 2\nUdp: InDatagrams MemErrors\nUdp: 7 0\n");
        assert_eq!(counters["Tcp.InCsumErrors"], 2);
        assert_eq!(counters["Udp.InDatagrams"], 7);
    }
}
