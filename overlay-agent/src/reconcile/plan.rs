//! What to do to get from observed to desired.
//!
//! Pure. It compares whole states, so it needs no memory of what was done before: a restart, a lost event or somebody else's hand look the
//! same. Nothing to do gives an empty plan, and an empty plan writes nothing.
//!
//! Order: first everything that is added or changed, from the bottom up (device, settings, neighbours, nodes, subnets, routes), so that no
//! packet finds an entry whose foundation is missing; then everything that goes, from the top down. What moves is replaced in one step, never
//! removed and added: its packets would be lost in between.

use crate::model::{Action, Desired, Observed, OverlayLink, OverlayLinkState, Route};
use ipnet::Ipv4Net;
use overlay_common::abi;
use std::collections::{BTreeMap, BTreeSet};

/// Computes the actions that make `observed` equal to `desired`, in the order they have to be carried out.
///
/// If the plan creates the overlay device, `overlay_ifindex` of its [`Action::PutSettings`] is 0: who carries it out puts in the index the
/// device got.
#[must_use]
pub fn plan(desired: &Desired, observed: &Observed) -> Vec<Action> {
    let device = device(&desired.link, observed.link.as_ref());
    let mut actions = Vec::new();
    actions.extend(device.action());
    // A length that is no longer needed stays: dropped first, prefixes that are about to be replaced would be missed meanwhile; dropped last,
    // it would take a second write. It costs one lookup for packets that leave the cluster.
    let subnet_lens = desired.settings.subnet_lens | observed.settings.subnet_lens;
    let settings = abi::Settings { overlay_ifindex: device.ifindex(), subnet_lens, ..desired.settings };
    // A new device has a new index, even if the settings seem to be right.
    if device.is_new() || settings != observed.settings {
        actions.push(Action::PutSettings(settings));
    }
    actions.extend(desired.neighbours.difference(&observed.neighbours).copied().map(Action::PutNeighbour));
    // As long as a route may lead past the overlay device, the node says so: first if it is going to, last if it did.
    let leads_past = |address| observed.nodes.get(address).is_some_and(|node| node.reach == abi::reach::DIRECT);
    let (last, first): (Vec<_>, Vec<_>) =
        changed(&desired.nodes, &observed.nodes).partition(|(address, node)| leads_past(*address) && node.reach != abi::reach::DIRECT);
    actions.extend(first.into_iter().map(|(address, node)| Action::PutNode(*address, *node)));

    // The kernel removes a device's routes with it, and those that name its address.
    let routes: BTreeSet<Route> =
        observed.routes.iter().copied().filter(|route| !device.is_new() || matches!(route, Route::Unreachable { .. })).collect();
    let put: Vec<Route> = desired.routes.difference(&routes).copied().collect();
    // Putting a route replaces the one with the same destination: that one must not be removed afterwards, the new one would go.
    let replaced: BTreeSet<Ipv4Net> = put.iter().map(Route::destination).collect();
    // Back into the tunnel: what the route leads to the overlay device still is sent as it is until the next step.
    let past: BTreeSet<Ipv4Net> = routes.iter().filter(|route| matches!(route, Route::Direct { .. })).map(Route::destination).collect();
    let (back, rest): (Vec<Route>, Vec<Route>) =
        put.into_iter().partition(|route| matches!(route, Route::Overlay { destination, .. } if past.contains(destination)));
    actions.extend(back.into_iter().map(Action::PutRoute));
    actions.extend(changed(&desired.subnets, &observed.subnets).map(|(net, node)| Action::PutSubnet(*net, *node)));
    actions.extend(rest.into_iter().map(Action::PutRoute));

    let gone = routes.difference(&desired.routes).filter(|route| !replaced.contains(&route.destination()));
    actions.extend(gone.copied().map(Action::RemoveRoute));
    actions.extend(last.into_iter().map(|(address, node)| Action::PutNode(*address, *node)));
    actions.extend(missing(&observed.subnets, &desired.subnets).map(|net| Action::RemoveSubnet(*net)));
    actions.extend(missing(&observed.nodes, &desired.nodes).map(|address| Action::RemoveNode(*address)));
    actions.extend(observed.neighbours.difference(&desired.neighbours).copied().map(Action::RemoveNeighbour));
    actions
}

/// What the kernel holds once a plan for `desired` has been carried out without an error. `settings`: what `SETTINGS` hold by then.
#[must_use]
pub fn reached(desired: Desired, settings: abi::Settings) -> Observed {
    let Desired { link, settings: _, subnets, nodes, routes, neighbours } = desired;
    let link = OverlayLinkState { ifindex: settings.overlay_ifindex, link: Some(link) };
    Observed { link: Some(link), settings, subnets, nodes, routes, neighbours }
}

/// What has to happen to the overlay device.
enum Device {
    Create { link: OverlayLink, replace: bool },
    Update { link: OverlayLink, ifindex: u32 },
    Keep { ifindex: u32 },
}

fn device(desired: &OverlayLink, observed: Option<&OverlayLinkState>) -> Device {
    let link = *desired;
    let Some(state) = observed else { return Device::Create { link, replace: false } };
    match state.link {
        Some(found) if found == link => Device::Keep { ifindex: state.ifindex },
        // MTU and MAC can be set on a living device. Its port cannot; and with its address the source of every route changes.
        Some(found) if found.port == link.port && found.address == link.address => Device::Update { link, ifindex: state.ifindex },
        Some(_) | None => Device::Create { link, replace: true },
    }
}

impl Device {
    fn action(&self) -> Option<Action> {
        match *self {
            Self::Create { link, replace } => Some(Action::CreateLink { link, replace }),
            Self::Update { link, .. } => Some(Action::UpdateLink(link)),
            Self::Keep { .. } => None,
        }
    }

    fn is_new(&self) -> bool {
        matches!(self, Self::Create { .. })
    }

    fn ifindex(&self) -> u32 {
        match *self {
            Self::Create { .. } => 0,
            Self::Update { ifindex, .. } | Self::Keep { ifindex } => ifindex,
        }
    }
}

/// The entries of `desired` that `observed` has not, or has otherwise.
fn changed<'a, K: Ord, V: PartialEq>(desired: &'a BTreeMap<K, V>, observed: &'a BTreeMap<K, V>) -> impl Iterator<Item = (&'a K, &'a V)> {
    desired.iter().filter(|(key, value)| observed.get(key) != Some(value))
}

/// The keys of `observed` that `desired` has not.
fn missing<'a, K: Ord, V>(observed: &'a BTreeMap<K, V>, desired: &'a BTreeMap<K, V>) -> impl Iterator<Item = &'a K> {
    observed.keys().filter(|key| !desired.contains_key(key))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
