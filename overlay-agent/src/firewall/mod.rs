//! The host's packet filter, as far as pods need it: masquerade for what they send out of the cluster, and a way through chains that would
//! drop forwarded packets.
//!
//! The only module that runs `nft` and iptables. It writes one nftables table of its own and, where a policy would drop, four rules with
//! our comment in the chain FORWARD of iptables; it reads other chains and never changes them. Nothing here is needed for pods to reach
//! each other: what fails is told, and the rest goes on.

pub mod flannel;
mod forward;
mod listing;
mod render;
mod tool;
mod verdict;

use crate::model::{FIREWALL_TABLE, Firewall, OVERLAY_DEVICE};
use crate::netlink;
use crate::netlink::nftables::{self, ForwardChain};
use forward::Kind;
use listing::Listing;
use std::collections::BTreeSet;
pub use tool::ToolError;

/// The packet filter could not be looked at or changed.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// The kernel does not tell of its rules.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// A program failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
}

/// How the packet filter treats pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Our table is there.
    pub masquerading: bool,
    /// Chains whose policy is to drop and which let pods pass by rules of ours.
    pub opened: Vec<String>,
    /// What an operator has to look at.
    pub problems: BTreeSet<String>,
}

/// A look at the packet filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// What was found or made.
    pub state: State,
    /// What was changed, in words.
    pub changes: Vec<String>,
}

/// Keeps the packet filter as it should be; remembers what it wrote.
#[derive(Debug, Default)]
pub struct Keeper {
    /// Our table as it was right after it was written or found right.
    table: Option<Listing>,
    /// The last look that found nothing to do, with the generation of the rules it saw.
    seen: Option<(u32, Firewall, State)>,
}

impl Keeper {
    /// Looks at everything and changes what differs. As long as the kernel's rules are those of the last look, nothing is read again.
    ///
    /// # Errors
    /// [`FirewallError`]. That a program is not installed is none, but a problem in the state.
    pub async fn keep(&mut self, wanted: &Firewall) -> Result<Look, FirewallError> {
        let generation = nftables::generation().await?;
        let known = self.seen.as_ref().filter(|(seen, of, _)| *seen == generation && of == wanted).map(|(_, _, state)| state.clone());
        let mut look = match known {
            Some(state) => Look { state, changes: Vec::new() },
            None => self.look_at_nftables(wanted, generation).await?,
        };
        // Legacy rules have no generation and tell nobody when they change.
        if forward::has_legacy("filter")
            && let Err(error) = look.keep_forward(Kind::Legacy, wanted).await
        {
            look.state.problems.insert(format!("whether {} stops pods cannot be told: {error}", Kind::Legacy.title()));
        }
        Ok(look)
    }

    async fn look_at_nftables(&mut self, wanted: &Firewall, generation: u32) -> Result<Look, FirewallError> {
        self.seen = None;
        let mut look = Look::default();
        match self.keep_table(wanted, &mut look).await {
            Err(FirewallError::Tool(missing @ ToolError::Missing { .. })) if wanted.masquerade => {
                look.state.problems.insert(format!("pods do not reach what is outside the cluster, as nothing masquerades: {missing}"));
            }
            // Without it there is no table of ours either.
            Err(FirewallError::Tool(ToolError::Missing { .. })) => {}
            result => result?,
        }
        for chain in nftables::forward_chains().await? {
            if is_iptables(&chain) {
                match look.keep_forward(Kind::Nft, wanted).await {
                    // A chain that drops nothing needs nobody to look at it.
                    Err(ToolError::Missing { .. }) if !chain.drops => {}
                    Err(missing @ ToolError::Missing { .. }) => {
                        look.state.problems.insert(format!("chain {} drops what pods send and receive: {missing}", chain.name));
                    }
                    result => result?,
                }
            } else if let Some(problem) = refusal_of(&chain, wanted).await? {
                look.state.problems.insert(problem);
            }
        }
        // A problem is looked at again: it may be gone without a change to the rules, by the installation of a program.
        if look.changes.is_empty() && look.state.problems.is_empty() {
            self.seen = Some((generation, wanted.clone(), look.state.clone()));
        }
        Ok(look)
    }

    /// Writes our table, or takes it away, unless it is as it should be.
    async fn keep_table(&mut self, wanted: &Firewall, look: &mut Look) -> Result<(), FirewallError> {
        let found = listing::read().await?;
        if !wanted.masquerade {
            if found.is_some() && remove_table().await? {
                look.changes.push(format!("remove table ip {FIREWALL_TABLE}"));
            }
            self.table = None;
            return Ok(());
        }
        let table = render::table(wanted);
        let right = found.as_ref().is_some_and(|found| found.is(&table) && self.table.as_ref().is_none_or(|known| known == found));
        self.table = if right {
            found
        } else {
            tool::run("nft", &["-f", "-"], &table.text).await?;
            look.changes.push(format!("write table ip {FIREWALL_TABLE}"));
            listing::read().await?
        };
        look.state.masquerading = self.table.is_some();
        Ok(())
    }
}

impl Look {
    async fn keep_forward(&mut self, kind: Kind, wanted: &Firewall) -> Result<(), ToolError> {
        let kept = forward::keep(kind, wanted.pod_cidr).await?;
        if kept.changed {
            let verb = if kept.opened { "let pods pass" } else { "take our rules out of" };
            self.changes.push(format!("{verb} {}", kind.title()));
        }
        if kept.opened {
            self.state.opened.push(kind.title());
        }
        if let Some(rule) = kept.refusal {
            self.state.problems.insert(format!("chain {} stops what pods send and receive by the rule: {rule}", kind.title()));
        }
        Ok(())
    }
}

/// Why a chain of somebody's own table stops pods, as far as that can be read. Its table is theirs: it is named and left alone.
async fn refusal_of(chain: &ForwardChain, wanted: &Firewall) -> Result<Option<String>, FirewallError> {
    let name = &chain.name;
    let (family, table) = (name.family, name.table.as_str());
    let read = async |what: &[&str]| match tool::run("nft", what, "").await {
        // Without nft, or when it has gone meanwhile, there is nothing to be said of it.
        Err(ToolError::Missing { .. }) => Ok(String::new()),
        Err(ToolError::Refused { reason, .. }) if reason.contains("No such file or directory") => Ok(String::new()),
        result => result,
    };
    let why = if chain.drops {
        "its policy is to drop".to_owned()
    } else {
        let text = read(&["list", "chain", family, table, &name.chain]).await?;
        let Some(rule) = verdict::nft_refusal(&text) else { return Ok(None) };
        format!("its last rule is: {rule}")
    };
    let text = read(&["list", "table", family, table]).await?;
    if verdict::speaks_of_pods(&text, wanted.pod_cidr, OVERLAY_DEVICE) {
        return Ok(None);
    }
    let firewalld = format!("; with firewalld: firewall-cmd --permanent --zone=trusted --add-source={}", wanted.pod_cidr);
    let advice = if table == "firewalld" { firewalld.as_str() } else { "" };
    Ok(Some(format!("chain {name} stops what pods send and receive ({why}): let {} pass there{advice}", wanted.pod_cidr)))
}

/// Whether there was a table to remove.
async fn remove_table() -> Result<bool, ToolError> {
    match tool::run("nft", &["delete", "table", "ip", FIREWALL_TABLE], "").await {
        Ok(_) => Ok(true),
        Err(ToolError::Refused { reason, .. }) if reason.contains("No such file or directory") => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes our table and our rules; returns what was removed, a line each.
///
/// # Errors
/// [`FirewallError`], also when there is something to remove and the program is not installed.
pub async fn remove() -> Result<Vec<String>, FirewallError> {
    let mut removed = Vec::new();
    if nftables::has_our_table().await? && remove_table().await? {
        removed.push(format!("nftables table ip {FIREWALL_TABLE}"));
    }
    let nft = nftables::forward_chains().await?.into_iter().find(is_iptables);
    // Our rules are where the policy is to drop.
    let needed = nft.as_ref().is_some_and(|chain| chain.drops);
    for (kind, needed) in
        [nft.map(|_| (Kind::Nft, needed)), forward::has_legacy("filter").then_some((Kind::Legacy, false))].into_iter().flatten()
    {
        match forward::remove(kind).await {
            Ok(false) => {}
            Ok(true) => removed.push(format!("rules in {}", kind.title())),
            Err(ToolError::Missing { .. }) if !needed => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(removed)
}

/// The chain that iptables-nft has its rules for forwarded packets in.
fn is_iptables(chain: &ForwardChain) -> bool {
    let name = &chain.name;
    (name.family, name.table.as_str(), name.chain.as_str()) == ("ip", "filter", "FORWARD")
}
