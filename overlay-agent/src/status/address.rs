//! This node's address in the status: how it was chosen, and what is wrong when others know another one. Pure.

use super::{PodStatus, Status};
use crate::address::{Choice, Given};
use crate::model::AddressOrigin;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// How this node's address was chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressStatus {
    /// The address that was chosen; absent: none could be. `node.address` is the one in use.
    pub chosen: Option<Ipv4Addr>,
    /// Why the address in use is this one, in a few words.
    pub how: String,
    /// The address the Node object gives: where other nodes send to.
    pub given: Option<Ipv4Addr>,
    /// What of the Node object gives it.
    pub given_by: Option<AddressOrigin>,
    /// What an operator has to mend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl AddressStatus {
    /// Of a choice. `in_use`: the address the data path has; `publishing`: the choice is being written to the Node, so that a difference goes
    /// by itself.
    #[must_use]
    pub fn of_choice(choice: &Choice, given: Option<Given>, in_use: Option<Ipv4Addr>, (node_name, publishing): (&str, bool)) -> Self {
        let chosen = choice.address;
        let how = match given {
            Some(given) if in_use != Some(chosen) => format!("{}; {chosen} is not used until the Node says so", given.by),
            _ => choice.how.clone(),
        };
        let differs = given.filter(|given| given.address != chosen && !publishing);
        let problem = differs.map(|given| {
            format!(
                "the address of this node is {chosen} ({}), and other nodes send to {} ({}): switch publish on, or say `kubectl annotate node {node_name} overlay/public-ip={chosen}`, or take the address that the list of nodes has",
                choice.how, given.address, given.by
            )
        });
        Self { chosen: Some(chosen), how, given: given.map(|given| given.address), given_by: given.map(|given| given.by), problem }
    }
}

impl Status {
    /// A sentence about pods whose address is outside this node's network: it has changed since they were started.
    #[must_use]
    pub fn find_stray_pods(&self, pods: &[PodStatus]) -> Option<String> {
        let pod_cidr = self.node.as_ref()?.pod_cidr;
        let stray: Vec<String> = pods
            .iter()
            .filter(|pod| !pod_cidr.contains(&pod.address))
            .map(|pod| match &pod.record {
                Some(record) => format!("{} ({})", record.title, pod.address),
                None => pod.address.to_string(),
            })
            .collect();
        let first = stray.first()?;
        Some(match stray.len() {
            1 => format!("pod {first} has an address outside this node's podCIDR {pod_cidr}: no other node reaches it; start it anew"),
            count => format!(
                "{count} pods have addresses outside this node's podCIDR {pod_cidr}, {first} among them: no other node reaches them; start them anew"
            ),
        })
    }
}
