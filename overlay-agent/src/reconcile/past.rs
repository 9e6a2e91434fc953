//! What a pass does for packets that go past the overlay device: the packet filter shows pods' own addresses where they are known, and nowhere
//! else; a program at the NIC's egress sees what the stack sends to neighbours.

use super::pass::{Node, Outcome};
use crate::config::Config;
use crate::datapath::{self, DatapathError, Direction, Hook};
use crate::desired;
use crate::model::{ClusterNode, UnderlayDevice};
use crate::status::Status;
use ipnet::Ipv4Net;
use overlay_common::abi::program;
use std::collections::BTreeSet;
use tracing::info;

impl Node<'_> {
    /// Prepares for routes that lead to `direct` networks past the overlay device, before there is the first.
    pub(super) async fn let_past(
        &mut self,
        this: &ClusterNode,
        direct: &BTreeSet<Ipv4Net>,
        device: &UnderlayDevice,
        (status, outcome): (&mut Status, &mut Outcome),
    ) {
        if !direct.is_empty()
            && let Err(error) = self.watch_egress(device)
        {
            // Packets go all the same; what a Service's translation gave another port is answered in vain.
            outcome.errors.push(error.to_string());
        }
        if !direct.is_subset(&self.direct) {
            self.direct.extend(direct);
            self.keep_firewall(this, status, outcome).await;
        }
    }

    /// Attaches the program that sees what the stack sends by the NIC, if this process has not yet or somebody removed it.
    fn watch_egress(&mut self, device: &UnderlayDevice) -> Result<(), DatapathError> {
        if self.egress != Some(device.ifindex) || !self.datapath.is_attached(program::TO_UNDERLAY, device.ifindex) {
            let hook = Hook::Tc { device: device.name.clone(), ifindex: device.ifindex, direction: Direction::Egress };
            self.datapath.attach(program::TO_UNDERLAY, &hook)?;
            self.egress = Some(device.ifindex);
        }
        Ok(())
    }

    /// The link of that program, as long as it is needed. Where it is a filter, it is removed here once it is not.
    pub(super) fn egress_link(&mut self, device: &UnderlayDevice) -> Option<(&'static str, u32)> {
        if self.direct.is_empty() {
            self.egress = None;
            datapath::detach_filter(&device.name, Direction::Egress);
            return None;
        }
        Some((program::TO_UNDERLAY, device.ifindex))
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
