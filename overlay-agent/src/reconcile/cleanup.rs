//! Takes everything away that the agent and `overlay-cni` put on this node: the opposite of a pass, and of every pod's wire.

use crate::cluster::saved;
use crate::cni::ipam::Store;
use crate::config::Directories;
use crate::datapath::{self, Direction, PinDir, Tables};
use crate::firewall;
use crate::install::RuntimePlaces;
use crate::measure;
use crate::model::{OVERLAY_DEVICE, Route};
use crate::netlink::{self, Netlink};
use crate::status::StateDir;
use anyhow::{Context as _, Result};

/// Removes every trace; returns what was removed, a line each. Pods of this node lose the network. `runtime`: where the agent kept files
/// for the container runtime; they go first, so that no pod is started meanwhile.
///
/// # Errors
/// When an agent is running with this state directory, or something cannot be removed.
pub async fn cleanup(directories: &Directories, runtime: Option<&RuntimePlaces>) -> Result<Vec<String>> {
    let Directories { bpffs, state_dir, pods_dir } = directories;
    let state_dir = StateDir::new(state_dir.clone());
    let lock = state_dir.lock().context("stop the agent first")?;
    let netlink = Netlink::connect()?;
    let pins = PinDir::new(bpffs);
    let files = runtime.map(RuntimePlaces::remove).transpose().context("cannot remove what the container runtime was given")?;
    let mut removed: Vec<String> = files.into_iter().flatten().map(|file| format!("file {}", file.display())).collect();
    // Read before the maps go. A map that cannot be read names no veth, and then there is none to remove by it.
    let tables = Tables::open(&pins).ok();
    let veths = tables.as_ref().and_then(|tables| tables.veths().ok()).unwrap_or_default();
    let underlay_ifindex = tables.and_then(|tables| tables.settings().ok()).map(|settings| settings.underlay_ifindex);
    let links = netlink.links().await?;
    for link in links.iter().filter(|link| Some(link.ifindex) == underlay_ifindex) {
        for direction in [Direction::Ingress, Direction::Egress] {
            datapath::detach_filter(&link.name, direction);
        }
    }
    for link in links.into_iter().filter(|link| veths.contains_key(&link.ifindex)) {
        if netlink.delete_pod_veth(&link.name).await? {
            removed.push(format!("pod veth {}", link.name));
        }
    }
    let own = netlink.own_routes().await?;
    for route in own.routes {
        netlink.remove_route(route).await?;
        removed.push(match route {
            Route::Overlay { destination, .. } | Route::Direct { destination, .. } => format!("route {destination}"),
            Route::Unreachable { destination } => format!("route unreachable {destination}"),
        });
    }
    removed.extend(netlink.remove_strays(own.strays).await?.into_iter().map(|route| format!("route {route}")));
    for neighbour in netlink.managed_neighbours().await? {
        netlink.remove_neighbour(neighbour).await?;
        removed.push(format!("managed neighbour {}", neighbour.address));
    }
    removed.extend(firewall::remove().await?);
    let ours = match netlink.overlay_link(OVERLAY_DEVICE).await {
        Ok(found) => found.is_some(),
        Err(netlink::Error::NameTaken { .. }) => false,
        Err(error) => return Err(error.into()),
    };
    if ours && netlink.delete_link(OVERLAY_DEVICE).await? {
        removed.push(format!("device {OVERLAY_DEVICE}"));
    }
    removed.extend(pins.remove_all()?.into_iter().map(|pin| format!("pin {}", pin.display())));
    if saved::remove(pods_dir)? {
        removed.push(format!("file {}", pods_dir.join(saved::FILE).display()));
    }
    if Store::new(pods_dir).remove()? {
        removed.push(format!("records of pods {}", pods_dir.display()));
    }
    if measure::remove_scratch(bpffs)? {
        removed.push("what an interrupted measurement left".to_owned());
    }
    // The lock goes last: no agent begins in a directory that is about to vanish.
    state_dir.remove().context("cannot remove the state directory")?;
    drop(lock);
    Ok(removed)
}
