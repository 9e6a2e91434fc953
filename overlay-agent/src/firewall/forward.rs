//! The chain FORWARD of iptables: lets pods' packets pass where its policy would drop them, and takes that back.
//!
//! Nothing an own table could say helps there: accepting ends one chain, and the next one still drops (nft(8), "accept"). Our rules go to
//! the end of the chain, where only its policy comes behind them: what somebody's rule decides stays decided.
//!
//! There are two kinds of iptables, and a host may have rules of both. Each is spoken to through its own program, as it alone can read
//! what it wrote: `iptables-nft` keeps comments in a form of its own that `nft` does not show.

use super::tool::{self, ToolError};
use super::verdict;
use crate::model::OVERLAY_DEVICE;
use ipnet::Ipv4Net;
use std::fmt::Write as _;

/// The comment by which a rule is known to be ours.
const TAG: &str = "overlay-agent";

/// A kind of iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Rules in nftables' table `ip filter`.
    Nft,
    /// Rules in the kernel's older tables, unknown to nftables.
    Legacy,
}

impl Kind {
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Nft => "iptables-nft",
            Self::Legacy => "iptables-legacy",
        }
    }

    pub(super) fn restore_program(self) -> &'static str {
        match self {
            Self::Nft => "iptables-nft-restore",
            Self::Legacy => "iptables-legacy-restore",
        }
    }

    /// Its chain FORWARD, for a person.
    pub(super) fn title(self) -> String {
        format!("FORWARD of {}", self.program())
    }
}

/// Whether legacy iptables has this table here. Asking the program would make one.
pub(super) fn has_legacy(table: &str) -> bool {
    std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").is_ok_and(|names| names.lines().any(|name| name == table))
}

/// The chain as `-S` prints it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    drops: bool,
    rules: Vec<String>,
}

/// What is to be said of the chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// Our rules are in it.
    pub(super) opened: bool,
    /// Rules were added or removed.
    pub(super) changed: bool,
    /// The rule that stops pods' packets before ours are reached.
    pub(super) refusal: Option<String>,
}

/// Reads the chain and mends it: our rules are in it if its policy is to drop, and otherwise not.
pub(super) async fn keep(kind: Kind, pods: Ipv4Net) -> Result<Kept, ToolError> {
    let chain = read(kind).await?;
    let wanted = if chain.drops { rules(pods) } else { Vec::new() };
    let changed = write(kind, &chain.difference(&wanted)).await?;
    Ok(Kept { opened: chain.drops, changed, refusal: chain.refusal(pods) })
}

/// Takes our rules out of the chain; whether there were any.
pub(super) async fn remove(kind: Kind) -> Result<bool, ToolError> {
    let chain = read(kind).await?;
    write(kind, &chain.difference(&[])).await
}

async fn read(kind: Kind) -> Result<Chain, ToolError> {
    tool::run(kind.program(), &["-w", "-S", "FORWARD"], "").await.map(|text| Chain::parse(&text))
}

async fn write(kind: Kind, lines: &[String]) -> Result<bool, ToolError> {
    if lines.is_empty() {
        return Ok(false);
    }
    let mut text = "*filter\n".to_owned();
    for line in lines {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{line}");
    }
    text.push_str("COMMIT\n");
    tool::run(kind.restore_program(), &["-w", "--noflush"], &text).await.map(|_| true)
}

/// To and from the pods of this node, and between those of others and whoever reached them through a port of this node.
fn rules(pods: Ipv4Net) -> Vec<String> {
    [format!("-s {pods}"), format!("-d {pods}"), format!("-i {OVERLAY_DEVICE}"), format!("-o {OVERLAY_DEVICE}")]
        .map(|which| format!("-A FORWARD {which} -m comment --comment {TAG} -j ACCEPT"))
        .into()
}

impl Chain {
    fn parse(text: &str) -> Self {
        let lines = || text.lines().map(str::trim);
        Self {
            drops: lines().any(|line| line == "-P FORWARD DROP"),
            rules: lines().filter(|line| line.starts_with("-A FORWARD ")).map(str::to_owned).collect(),
        }
    }

    fn ours(&self) -> Vec<&String> {
        self.rules.iter().filter(|rule| rule.contains(&format!("--comment {TAG} "))).collect()
    }

    /// Lines for `iptables-restore` that put `wanted` in the place of our rules; none if they are there.
    fn difference(&self, wanted: &[String]) -> Vec<String> {
        let ours = self.ours();
        let equal = ours.len() == wanted.len() && wanted.iter().all(|rule| ours.contains(&rule));
        if equal {
            return Vec::new();
        }
        let removed = ours.into_iter().map(|rule| rule.replacen("-A ", "-D ", 1));
        removed.chain(wanted.iter().cloned()).collect()
    }

    /// A rule in front of ours that stops everything, unless somebody has let the pods pass.
    fn refusal(&self, pods: Ipv4Net) -> Option<String> {
        let theirs = self.rules.iter().take_while(|rule| !rule.contains(TAG));
        let at = theirs.clone().position(|rule| verdict::iptables_refuses(rule))?;
        let spoken_of = theirs.take(at).any(|rule| verdict::speaks_of_pods(rule, pods, OVERLAY_DEVICE));
        (!spoken_of).then(|| self.rules[at].clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCKER: &str = "-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n-A FORWARD -o docker0 -j DOCKER\n";

    fn pods() -> Ipv4Net {
        "10.244.1.0/24".parse().unwrap()
    }

    fn with_ours(text: &str) -> String {
        format!("{text}{}\n", rules(pods()).join("\n"))
    }

    #[test]
    fn rules_are_added_once_behind_everything() {
        let added = Chain::parse(DOCKER).difference(&rules(pods()));
        assert_eq!(added, rules(pods()));
        assert_eq!(added[0], "-A FORWARD -s 10.244.1.0/24 -m comment --comment overlay-agent -j ACCEPT");
        assert_eq!(Chain::parse(&with_ours(DOCKER)).difference(&rules(pods())), [""; 0]);
    }

    #[test]
    fn rules_of_another_pod_network_doubled_or_needed_no_more_go() {
        let chain = Chain::parse(&with_ours(DOCKER));
        let gone = chain.difference(&[]);
        assert_eq!(gone.len(), 4);
        assert_eq!(gone[1], "-D FORWARD -d 10.244.1.0/24 -m comment --comment overlay-agent -j ACCEPT");
        let others = rules("10.244.9.0/24".parse().unwrap());
        assert_eq!(chain.difference(&others), [gone, others].concat());
        let doubled = Chain::parse(&with_ours(&with_ours(DOCKER)));
        assert_eq!(doubled.difference(&rules(pods())).len(), 12);
    }

    #[test]
    fn a_rule_that_refuses_everything_before_ours_is_named() {
        let reject = "-A FORWARD -j REJECT --reject-with icmp-host-prohibited";
        assert_eq!(Chain::parse(&with_ours(&format!("{DOCKER}{reject}\n"))).refusal(pods()), Some(reject.to_owned()));
        assert_eq!(Chain::parse(&format!("{}{reject}\n", with_ours(DOCKER))).refusal(pods()), None);
        let spoken_of = format!("{DOCKER}-A FORWARD -s 10.244.0.0/16 -j ACCEPT\n{reject}\n");
        assert_eq!(Chain::parse(&spoken_of).refusal(pods()), None);
    }

    #[test]
    fn the_policy_is_what_counts() {
        assert!(Chain::parse(DOCKER).drops);
        assert!(!Chain::parse("-P FORWARD ACCEPT\n-A FORWARD -i eth1 -j DROP\n").drops);
    }
}
