//! What flannel leaves in the packet filter: chains `FLANNEL-…` of iptables and the rules that lead there, or tables of nftables.
//!
//! Names as of flannel 0.28 (`pkg/trafficmngr`); rules of its own in other chains are known by their comment, which is older than the
//! chains. Rules of anybody else are never touched, in one of its chains as little as elsewhere: a chain goes only whole.

use super::forward::{Kind, has_legacy};
use super::tool::{self, ToolError};
use ipnet::Ipv4Net;
use std::collections::BTreeSet;
use std::fmt;
use std::fmt::Write as _;

/// How its chains begin.
const CHAINS: &str = "FLANNEL-";
/// What it writes beside its rules.
const COMMENTS: [&str; 2] = ["--comment \"flanneld masq\"", "--comment \"flanneld forward\""];
/// Its tables of nftables, with their family.
const TABLES: [(&str, &str); 2] = [("ip", "flannel-ipv4"), ("ip6", "flannel-ipv6")];
/// Tables of iptables it writes to.
const IPTABLES: [&str; 2] = ["nat", "filter"];

/// Something of flannel's in the packet filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remnant(What);

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    /// A table of iptables: chains, and rules in chains of others.
    Iptables { kind: Kind, table: &'static str, chains: Vec<String>, rules: Vec<String>, networks: BTreeSet<Ipv4Net> },
    /// A table of nftables.
    Table { family: &'static str, name: &'static str },
}

/// What was found, and what could not be looked at.
#[derive(Debug, Default)]
pub struct Found {
    /// What is flannel's.
    pub remnants: Vec<Remnant>,
    /// Why not everything was seen.
    pub unseen: Vec<String>,
}

/// Looks for what flannel left. Changes nothing.
pub async fn find() -> Found {
    let mut found = Found::default();
    match tool::run("nft", &["list", "tables"], "").await {
        Ok(text) => {
            let there = |(family, name): &(&str, &str)| text.lines().any(|line| line == format!("table {family} {name}"));
            found.remnants.extend(TABLES.into_iter().filter(there).map(|(family, name)| Remnant(What::Table { family, name })));
        }
        Err(error) => found.unseen.push(format!("tables of nftables: {error}")),
    }
    for kind in [Kind::Nft, Kind::Legacy] {
        // Asking legacy iptables for a table makes it.
        for table in IPTABLES.into_iter().filter(|table| kind == Kind::Nft || has_legacy(table)) {
            match tool::run(kind.program(), &["-w", "-t", table, "-S"], "").await {
                Ok(text) => found.remnants.extend(in_iptables(kind, table, &text)),
                Err(error) => found.unseen.push(format!("table {table} of {}: {error}", kind.program())),
            }
        }
    }
    found
}

/// What is flannel's in a table as `-S` prints it.
fn in_iptables(kind: Kind, table: &'static str, text: &str) -> Option<Remnant> {
    let chains: Vec<String> =
        text.lines().filter_map(|line| line.strip_prefix("-N ")).filter(|chain| chain.starts_with(CHAINS)).map(str::to_owned).collect();
    let (mut rules, mut networks) = (Vec::new(), BTreeSet::new());
    for rule in text.lines().filter(|line| line.starts_with("-A ")) {
        let mut words = rule.split_whitespace().skip(1);
        let inside = words.next().is_some_and(|chain| chains.iter().any(|own| own == chain));
        let words: Vec<&str> = words.collect();
        let leads_there = words.windows(2).any(|pair| pair[0] == "-j" && chains.iter().any(|own| own == pair[1]));
        if !inside && (leads_there || COMMENTS.iter().any(|comment| rule.contains(comment))) {
            rules.push(rule.to_owned());
        }
        if inside || leads_there {
            let nets = words.windows(2).filter(|pair| ["-s", "-d"].contains(&pair[0])).filter_map(|pair| pair[1].parse::<Ipv4Net>().ok());
            networks.extend(nets.filter(|net| !net.addr().is_multicast()));
        }
    }
    (!chains.is_empty() || !rules.is_empty()).then_some(Remnant(What::Iptables { kind, table, chains, rules, networks }))
}

impl Remnant {
    /// The pod networks its rules are about.
    #[must_use]
    pub fn networks(&self) -> BTreeSet<Ipv4Net> {
        match &self.0 {
            What::Iptables { networks, .. } => networks.clone(),
            What::Table { .. } => BTreeSet::new(),
        }
    }

    /// Takes it away, all of it in one step.
    ///
    /// # Errors
    /// The program fails; then all of it is still there.
    pub async fn remove(&self) -> Result<(), ToolError> {
        match &self.0 {
            What::Table { family, name } => tool::run("nft", &["delete", "table", family, name], "").await.map(drop),
            What::Iptables { kind, .. } => tool::run(kind.restore_program(), &["-w", "--noflush"], &self.restore_text()).await.map(drop),
        }
    }

    /// What `iptables-restore` is told.
    fn restore_text(&self) -> String {
        let What::Iptables { table, chains, rules, .. } = &self.0 else { return String::new() };
        let mut text = format!("*{table}\n");
        for rule in rules {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{}", rule.replacen("-A ", "-D ", 1));
        }
        // All are emptied first: one may lead to another.
        for command in ["-F", "-X"] {
            for chain in chains {
                let _ = writeln!(text, "{command} {chain}");
            }
        }
        text + "COMMIT\n"
    }
}

impl fmt::Display for Remnant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            What::Table { family, name } => write!(f, "nftables table {family} {name}"),
            What::Iptables { kind, table, chains, rules, .. } => {
                let rules = if rules.len() == 1 { "1 rule".to_owned() } else { format!("{} rules", rules.len()) };
                let chains = if chains.is_empty() { String::new() } else { format!("chain {} and ", chains.join(", ")) };
                write!(f, "{chains}{rules} in other chains of table {table} of {}", kind.program())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As iptables 1.8.9 prints it, with rules of kube-proxy and of nobody's around.
    const NAT: &str = "-P PREROUTING ACCEPT\n-P POSTROUTING ACCEPT\n-N FLANNEL-POSTRTG\n-N KUBE-POSTROUTING\n\
        -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
        -A POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG\n\
        -A POSTROUTING -s 10.9.0.0/16 -m comment --comment \"not flanneld masq\" -j MASQUERADE\n\
        -A FLANNEL-POSTRTG -s 10.244.1.0/24 -d 10.244.0.0/16 -m comment --comment \"flanneld masq\" -j RETURN\n\
        -A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -m comment --comment \"flanneld masq\" -j MASQUERADE --random-fully\n\
        -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n";

    #[test]
    fn what_is_flannels_goes_in_one_step_and_nothing_else() {
        let remnant = in_iptables(Kind::Nft, "nat", NAT).unwrap();
        assert_eq!(
            remnant.restore_text(),
            "*nat\n-D POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG\n-F FLANNEL-POSTRTG\n-X FLANNEL-POSTRTG\nCOMMIT\n"
        );
        assert_eq!(remnant.to_string(), "chain FLANNEL-POSTRTG and 1 rule in other chains of table nat of iptables-nft");
        let networks: Vec<String> = remnant.networks().iter().map(ToString::to_string).collect();
        assert_eq!(networks, ["10.244.0.0/16", "10.244.1.0/24"]);
    }

    #[test]
    fn rules_from_before_there_were_chains_are_known_by_their_comment() {
        let text =
            "-P FORWARD ACCEPT\n-A FORWARD -s 10.244.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT\n-A FORWARD -j DROP\n";
        let remnant = in_iptables(Kind::Legacy, "filter", text).unwrap();
        assert_eq!(
            remnant.restore_text(),
            "*filter\n-D FORWARD -s 10.244.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT\nCOMMIT\n"
        );
        assert_eq!(in_iptables(Kind::Legacy, "filter", "-P FORWARD DROP\n-A FORWARD -j DROP\n"), None);
    }
}
