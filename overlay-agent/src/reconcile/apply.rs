//! Carries out actions: one match, no decisions. What to do was said by `plan`; how is said by `datapath` and `netlink`.
//!
//! A failed action is reported and the rest goes on: one peer's trouble is not every peer's. What failed is planned again by the next
//! pass, because it still differs.

use crate::datapath::{Datapath, DatapathError, Direction, Hook, Tables};
use crate::model::{Action, ManagedNeighbour, OVERLAY_DEVICE, OverlayLink, Route};
use crate::netlink::{self, Netlink};
use overlay_common::abi::{self, program};
use std::mem::discriminant;
use std::net::Ipv4Addr;
use tracing::{debug, info};

/// An action that did not work.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Maps or programs.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// Devices, routes or neighbours.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
}

/// The kernel, as far as actions change it.
pub struct Executor<'a> {
    /// Devices, routes, neighbours.
    pub netlink: &'a Netlink,
    /// Maps.
    pub tables: &'a mut Tables,
    /// Programs.
    pub datapath: &'a mut Datapath,
    /// ifindex of the overlay device; 0 until it exists.
    pub overlay_ifindex: u32,
}

impl Executor<'_> {
    /// Carries out `actions` in their order; returns what did not work.
    pub async fn apply(&mut self, actions: &[Action]) -> Vec<String> {
        log(actions);
        let mut errors = Vec::new();
        // Actions of one kind follow each other and need not wait for each other: netlink takes them by the thousand.
        for some in actions.chunk_by(|a, b| discriminant(a) == discriminant(b)) {
            match some {
                [Action::PutRoute(_), ..] => {
                    let route = |action: &Action| if let Action::PutRoute(route) = action { Some(*route) } else { None };
                    let routes: Vec<Route> = some.iter().filter_map(route).collect();
                    errors.extend(self.netlink.put_routes(&routes).await.iter().map(ToString::to_string));
                }
                [Action::PutNeighbour(_), ..] => {
                    let hop = |action: &Action| if let Action::PutNeighbour(hop) = action { Some(*hop) } else { None };
                    let hops: Vec<ManagedNeighbour> = some.iter().filter_map(hop).collect();
                    errors.extend(self.netlink.put_neighbours(&hops).await.iter().map(ToString::to_string));
                }
                _ => {
                    for action in some {
                        if let Err(error) = self.carry_out(action).await {
                            errors.push(format!("{}: {error}", describe(action)));
                        }
                    }
                }
            }
        }
        errors
    }

    async fn carry_out(&mut self, action: &Action) -> Result<(), ApplyError> {
        match action {
            Action::CreateLink { link, replace } => self.create_link(link, *replace).await?,
            Action::UpdateLink(link) => self.netlink.update_overlay_link(link).await?,
            Action::PutSettings(settings) => {
                let overlay_ifindex = if settings.overlay_ifindex == 0 { self.overlay_ifindex } else { settings.overlay_ifindex };
                self.tables.put_settings(&abi::Settings { overlay_ifindex, ..*settings })?;
            }
            Action::PutNode(address, node) => self.tables.put_node(*address, node)?,
            Action::PutSubnet(net, node) => self.tables.put_subnet(*net, node)?,
            Action::RemoveSubnet(net) => self.tables.remove_subnet(*net)?,
            Action::RemoveNode(address) => self.tables.remove_node(*address)?,
            Action::RemoveRoute(route) => self.netlink.remove_route(*route).await?,
            Action::RemoveNeighbour(neighbour) => self.netlink.remove_neighbour(*neighbour).await?,
            // Taken together above.
            Action::PutRoute(_) | Action::PutNeighbour(_) => {}
        }
        Ok(())
    }

    /// Makes the overlay device and attaches its programs before any route leads to it.
    async fn create_link(&mut self, link: &OverlayLink, replace: bool) -> Result<(), ApplyError> {
        if replace {
            self.netlink.delete_link(OVERLAY_DEVICE).await?;
        }
        self.overlay_ifindex = self.netlink.create_overlay_link(link).await?;
        attach_overlay(self.datapath, self.overlay_ifindex)?;
        Ok(())
    }
}

/// Attaches the two programs of the overlay device.
///
/// # Errors
/// [`DatapathError::Attach`].
pub fn attach_overlay(datapath: &mut Datapath, ifindex: u32) -> Result<(), DatapathError> {
    for (name, direction) in [(program::FROM_OVERLAY, Direction::Ingress), (program::FROM_HOST, Direction::Egress)] {
        datapath.attach(name, &Hook::Tc { device: OVERLAY_DEVICE.to_owned(), ifindex, direction })?;
    }
    Ok(())
}

/// Most actions that get a line each in the log at its usual level: thousands of nodes that come at once are one line.
const LOGGED: usize = 32;

fn log(actions: &[Action]) {
    if actions.len() <= LOGGED {
        for action in actions {
            info!(action = %describe(action), "apply");
        }
        return;
    }
    for action in actions {
        debug!(action = %describe(action), "apply");
    }
    for some in actions.chunk_by(|a, b| discriminant(a) == discriminant(b)) {
        if let [first, more @ ..] = some {
            info!(action = %describe(first), more = more.len(), "apply");
        }
    }
}

/// The action in a few words, for log and status.
fn describe(action: &Action) -> String {
    let route = |route: &Route| match route {
        Route::Overlay { destination, .. } => format!("route {destination} dev {OVERLAY_DEVICE}"),
        Route::Direct { destination, gateway, .. } => format!("route {destination} via {gateway}"),
        Route::Unreachable { destination } => format!("route unreachable {destination}"),
    };
    match action {
        Action::CreateLink { link, replace } => {
            let verb = if *replace { "replace" } else { "create" };
            format!("{verb} device {OVERLAY_DEVICE} (MTU {}, port {})", link.mtu, link.port)
        }
        Action::UpdateLink(link) => format!("set device {OVERLAY_DEVICE} to MTU {}, MAC {}", link.mtu, link.mac),
        Action::PutSettings(settings) => format!("write settings (MTU {}, port {})", settings.mtu, settings.port),
        Action::PutNode(address, node) => format!("write node {address} with pods {}", Ipv4Addr::from(node.pod_net)),
        Action::PutSubnet(net, abi::Subnet { node, reach: abi::reach::NONE, .. }) => {
            format!("write subnet {net} at {}, to which there is no way", Ipv4Addr::from(*node))
        }
        Action::PutSubnet(net, subnet) => {
            let state = if subnet.next_hop_mac == abi::Mac::default() { "unresolved" } else { "resolved" };
            let way = if subnet.reach == abi::reach::DIRECT { "without a tunnel, " } else { "" };
            format!("write subnet {net} at {} by next hop {} ({way}{state})", Ipv4Addr::from(subnet.node), Ipv4Addr::from(subnet.next_hop))
        }
        Action::RemoveSubnet(net) => format!("remove subnet {net}"),
        Action::RemoveNode(address) => format!("remove node {address}"),
        Action::PutRoute(put) => format!("add {}", route(put)),
        Action::RemoveRoute(gone) => format!("remove {}", route(gone)),
        Action::PutNeighbour(neighbour) => format!("keep next hop {} resolved", neighbour.address),
        Action::RemoveNeighbour(neighbour) => format!("forget next hop {}", neighbour.address),
    }
}
