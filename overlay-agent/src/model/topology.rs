//! Two snapshots of the cluster side by side.

use super::{ClusterNode, Topology};
use std::cmp::Ordering;

impl Topology {
    /// The nodes that differ between two snapshots, as they were and as they are, by name. One of both is `None`: it is gone, or new.
    #[must_use]
    pub fn differences<'a>(&'a self, now: &'a Self) -> Vec<(Option<&'a ClusterNode>, Option<&'a ClusterNode>)> {
        let (mut old, mut new) = (self.nodes.values().peekable(), now.nodes.values().peekable());
        let mut differences = Vec::new();
        loop {
            let order = match (old.peek(), new.peek()) {
                (Some(old), Some(new)) => old.name.cmp(&new.name),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return differences,
            };
            let was = if order.is_le() { old.next() } else { None };
            let is = if order.is_ge() { new.next() } else { None };
            if was != is {
                differences.push((was, is));
            }
        }
    }
}
