//! The kernel's own counters of a namespace, from `/proc/net/snmp` and `/proc/net/netstat`.

use crate::netns::Ns;
use anyhow::Context as _;
use std::collections::BTreeMap;
use std::fs;

/// Counters by `Protocol.Name`, e.g. `Udp.InCsumErrors` or `TcpExt.TCPDSACKRecv`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snmp(BTreeMap<String, i64>);

impl Snmp {
    /// Reads the counters of a namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn read(ns: &Ns) -> anyhow::Result<Self> {
        ns.enter(|| {
            let mut counters = BTreeMap::new();
            // /proc/net would be the namespace of the whole process, not of this thread.
            for path in ["/proc/thread-self/net/snmp", "/proc/thread-self/net/netstat"] {
                counters.extend(parse(&fs::read_to_string(path).with_context(|| format!("read {path}"))?));
            }
            Ok(Self(counters))
        })?
    }

    /// One counter; 0 when this kernel does not have it.
    #[must_use]
    pub fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// By how much a counter grew since `earlier`; 0 when this kernel does not have it.
    #[must_use]
    pub fn since(&self, earlier: &Self, name: &str) -> u64 {
        u64::try_from(self.get(name) - earlier.get(name)).unwrap_or(0)
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

    #[test]
    fn counts_what_was_added() {
        let (earlier, later) = (Snmp(parse("TcpExt: TCPDSACKRecv\nTcpExt: 3\n")), Snmp(parse("TcpExt: TCPDSACKRecv\nTcpExt: 8\n")));
        assert_eq!(later.since(&earlier, "TcpExt.TCPDSACKRecv"), 5);
        assert_eq!(later.since(&earlier, "TcpExt.NotOfThisKernel"), 0);
    }
}
