//! CHECK: is a container's wire as ADD left it?

use super::{foreign_namespace, sentence};
use crate::cni::configuration::Ipam;
use crate::cni::ipam::{PodRecord, Store, delegate};
use crate::cni::request::Attachment;
use crate::cni::spec::{Attached, CniError, Command, code};
use crate::netlink::POD_GATEWAY;
use crate::pod::{Expected, Node};
use std::path::Path;

/// Looks at everything ADD made. `prevResult` is the last plugin's word: what later plugins changed and told there is right.
pub(super) fn check(attachment: &Attachment) -> Result<(), CniError> {
    let config = &attachment.network.config;
    let Some(previous) = &config.previous else {
        let msg = "network configuration: prevResult is missing: it says what there is to check";
        return Err(CniError::new(code::BAD_CONFIGURATION, msg));
    };
    let netns = attachment.netns.as_deref().unwrap_or(Path::new(""));
    foreign_namespace(netns)?;
    let store = Store::new(&config.state_dir);
    let unknown = || {
        let msg = format!("container {} has no device {} in network {}", attachment.key.container_id, attachment.key.ifname, config.name);
        CniError::new(code::UNKNOWN_CONTAINER, msg)
    };
    let _lock = store.lock(&attachment.key)?;
    let record = store.find(&attachment.key)?.filter(|record| record.network == config.name).ok_or_else(unknown)?;
    let mut damage = told(previous, &record);
    let expected = Expected {
        host_name: &record.host_interface,
        namespace: netns,
        pod_name: &record.ifname,
        address: record.address,
        mac: mac(previous, &record),
        default_route: previous
            .routes
            .iter()
            .any(|route| route.dst == "0.0.0.0/0" && route.gw.as_deref() == Some(&POD_GATEWAY.to_string())),
    };
    damage.extend(Node::open(&config.bpffs)?.inspect(&expected)?);
    if let Ipam::Delegated(plugin) = &config.ipam
        && let Err(error) = delegate::run(plugin, Command::Check, &attachment.network)
    {
        damage.push(sentence(&error));
    }
    let Some((first, others)) = damage.split_first() else { return Ok(()) };
    let msg = format!("the network of pod {} is damaged: {first}", record.title());
    Err(CniError::new(code::DAMAGED, msg).with_details(others.join("; ")))
}

/// What `prevResult` does not say of the pod, though it should.
fn told(previous: &Attached, record: &PodRecord) -> Vec<String> {
    let mut damage = Vec::new();
    if !previous.interfaces.iter().any(|interface| interface.name == record.ifname && interface.sandbox.is_some()) {
        damage.push(format!("prevResult does not have the device {}", record.ifname));
    }
    let is_its = |text: &str| text.split('/').next().and_then(|address| address.parse().ok()) == Some(record.address);
    if !previous.ips.iter().any(|ip| is_its(&ip.address)) {
        damage.push(format!("prevResult does not have the address {}, which is recorded for this pod", record.address));
    }
    damage
}

/// The MAC that `prevResult` has for the pod's device.
fn mac(previous: &Attached, record: &PodRecord) -> Option<crate::model::Mac> {
    let device = previous.interfaces.iter().find(|interface| interface.name == record.ifname && interface.sandbox.is_some())?;
    device.mac.as_deref()?.parse().ok()
}
