//! The packet filter's part of a pass: pods' own addresses are seen where they are known, and nowhere else.

use super::pass::{Node, Outcome};
use crate::config::Config;
use crate::desired;
use crate::model::ClusterNode;
use crate::status::Status;
use ipnet::Ipv4Net;
use std::collections::BTreeSet;
use tracing::info;

impl Node<'_> {
    /// Has the packet filter let `direct` networks see pods' own addresses, before the first route leads past the overlay device.
    pub(super) async fn let_past(
        &mut self,
        this: &ClusterNode,
        direct: &BTreeSet<Ipv4Net>,
        (status, outcome): (&mut Status, &mut Outcome),
    ) {
        if !direct.is_subset(&self.direct) {
            self.direct.extend(direct);
            self.keep_firewall(this, status, outcome).await;
        }
    }

    /// Looks at the packet filter and changes what differs.
    pub(super) async fn keep_firewall(&mut self, this: &ClusterNode, status: &mut Status, outcome: &mut Outcome) {
        let Config { masquerade, port, .. } = self.config;
        let direct: Vec<_> = self.direct.iter().chain(&self.config.direct).copied().collect();
        match self.firewall.keep(&desired::firewall(this, *masquerade, &direct, *port)).await {
            Ok(look) => {
                for change in &look.changes {
                    info!(action = %change, "apply");
                }
                outcome.actions += look.changes.len();
                status.set_firewall(*masquerade, look.state);
            }
            Err(error) => outcome.errors.push(format!("packet filter: {error}")),
        }
    }
}
