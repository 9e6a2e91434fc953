//! ADD: an address, a record of the pod, the wire; undone in reverse when a step fails.

use super::{foreign_namespace, sentence};
use crate::clock;
use crate::cni::configuration::Ipam;
use crate::cni::ipam::{Choice, PodRecord, Pool, Reserved, Store, delegate};
use crate::cni::request::Attachment;
use crate::cni::spec::{CniError, Command, Interface, Ip, Route, code};
use crate::netlink::POD_GATEWAY;
use crate::pod::{self, Node, PodRequest, Wired};
use serde_json::{Map, Value};
use std::net::Ipv4Addr;
use std::path::Path;
use tracing::warn;

/// Wires a container.
pub(super) fn add(attachment: &Attachment) -> Result<Value, CniError> {
    let config = &attachment.network.config;
    let netns = attachment.netns.as_deref().unwrap_or(Path::new(""));
    let inode = foreign_namespace(netns)?;
    let mut node = Node::open(&config.bpffs)?;
    let store = Store::new(&config.state_dir);
    let _lock = store.lock(&attachment.key)?;

    let record = record(attachment, netns, inode);
    let (record, before) = match give(attachment, &node, &store, record)? {
        Reserved::New(record) => (record, false),
        // Somebody adds what is there already: it stays as it is.
        Reserved::Before(record) if pod::is_wired(&record.host_interface)? && record.has_namespace() => {
            let msg =
                format!("container {} has its device {} already, behind {}", record.container_id, record.ifname, record.host_interface);
            return Err(CniError::new(code::ALREADY_THERE, msg));
        }
        Reserved::Before(record) => {
            // The kernel takes a namespace down in its own time, and the wire to it with it: that is not waited for.
            pod::unwire(&config.bpffs, &record.host_interface, Some(record.address))?;
            (record, true)
        }
    };
    let request = PodRequest {
        host_name: &record.host_interface,
        title: &record.title(),
        namespace: netns,
        pod_name: &attachment.key.ifname,
        address: record.address,
        mac: attachment.mac,
        steer_flows: config.steer_flows,
    };
    let wired = match node.wire(&request) {
        Ok(wired) => wired,
        Err(error) => {
            take_back(attachment, &store);
            return Err(error.into());
        }
    };
    let finished = || -> Result<Value, CniError> {
        if before {
            // Its first ADD was cut short, perhaps in another namespace and for another pod.
            let record = PodRecord { address: record.address, ..self::record(attachment, netns, inode) };
            store.replace(&record)?;
        }
        result(attachment, netns, &record, &wired)
    };
    finished().inspect_err(|_| {
        if let Err(error) = pod::unwire(&config.bpffs, &record.host_interface, Some(record.address)) {
            warn!(error = sentence(&error), "the wire of a pod that was not added is not taken away");
        }
        take_back(attachment, &store);
    })
}

/// What will be kept of the pod; its address is still to be chosen.
fn record(attachment: &Attachment, netns: &Path, netns_inode: u64) -> PodRecord {
    let Attachment { network, key, pod, .. } = attachment;
    PodRecord {
        address: Ipv4Addr::UNSPECIFIED,
        container_id: key.container_id.clone(),
        ifname: key.ifname.clone(),
        network: network.config.name.clone(),
        netns: netns.to_owned(),
        netns_inode,
        host_interface: key.host_interface(),
        pod_namespace: pod.namespace.clone(),
        pod_name: pod.name.clone(),
        pod_uid: pod.uid.clone(),
        ipam: network.config.ipam.plugin().to_owned(),
        since: clock::now(),
    }
}

/// Gives the pod an address and writes its record.
fn give(attachment: &Attachment, node: &Node, store: &Store, record: PodRecord) -> Result<Reserved, CniError> {
    let in_use = |address| node.has_pod(address).map_err(CniError::from);
    match &attachment.network.config.ipam {
        Ipam::Own(ranges) => {
            let pool = Pool::new(node.pod_network(), node.gateway(), ranges)
                .map_err(|error| CniError::new(code::BAD_CONFIGURATION, format!("network configuration: ipam.ranges: {error}")))?;
            match attachment.address {
                None => store.reserve(record, Choice::Next(&pool), in_use),
                Some((asked_by, address)) => store.reserve(record, Choice::Asked(&pool, address), in_use).map_err(|error| {
                    // A wrong wish is mended where it was made.
                    let code = match error.code {
                        code::BAD_CONFIGURATION if asked_by.contains("CNI_ARGS") => code::BAD_ENVIRONMENT,
                        code => code,
                    };
                    CniError { code, msg: format!("{asked_by}: {}", error.msg), ..error }
                }),
            }
        }
        Ipam::Delegated(plugin) => {
            if let Some(before) = store.find(&attachment.key)? {
                return Ok(Reserved::Before(before));
            }
            // From here on, the plugin may have given something even if it fails.
            let reserved =
                delegate::add(plugin, &attachment.network).and_then(|address| store.reserve(record, Choice::Given(address), in_use));
            reserved.inspect_err(|_| give_back(attachment))
        }
    }
}

/// Removes the pod's record and gives its address back: nothing else of it is left.
fn take_back(attachment: &Attachment, store: &Store) {
    give_back(attachment);
    if let Err(error) = store.release(&attachment.key) {
        warn!(error = sentence(&error), "the record of a pod that was not added is not removed");
    }
}

/// Gives a delegated address back.
fn give_back(attachment: &Attachment) {
    if let Ipam::Delegated(plugin) = &attachment.network.config.ipam
        && let Err(error) = delegate::run(plugin, Command::Del, &attachment.network)
    {
        warn!(%error, "the address of a pod that was not added is not given back");
    }
}

/// What plugins before this one made, and what this one did.
fn result(attachment: &Attachment, netns: &Path, record: &PodRecord, wired: &Wired) -> Result<Value, CniError> {
    let config = &attachment.network.config;
    let mut attached = config.previous.clone().unwrap_or_default();
    let device = |name: &str, mac: crate::model::Mac, sandbox: Option<String>| Interface {
        name: name.to_owned(),
        mac: Some(mac.to_string()),
        mtu: Some(wired.mtu),
        sandbox,
        rest: Map::new(),
    };
    attached.interfaces.push(device(&record.host_interface, wired.host_mac, None));
    attached.interfaces.push(device(&record.ifname, wired.pod_mac, Some(netns.display().to_string())));
    let interface = i64::try_from(attached.interfaces.len() - 1).ok();
    let gateway = Some(POD_GATEWAY.to_string());
    attached.ips.push(Ip { address: format!("{}/32", record.address), gateway: gateway.clone(), interface, rest: Map::new() });
    attached.routes.push(Route { dst: "0.0.0.0/0".to_owned(), gw: gateway, rest: Map::new() });
    if !config.dns.is_empty() {
        attached.dns.clone_from(&config.dns);
    }
    attached.report(config.version).map_err(|error| CniError::new(code::DECODE, format!("the result has no JSON form: {error}")))
}
