//! The pods of this node, as the records of `overlay-cni` and the data path know them. Pure.

use crate::cni::ipam::PodRecord;
use jiff::Timestamp;
use overlay_common::abi;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// How far a pod's record and the data path agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wiring {
    /// Recorded and wired.
    Wired,
    /// Recorded, and the data path does not know it: it is being added or taken away at this moment, or what wired it was killed.
    NotWired,
    /// The data path knows it, and nobody recorded it: wired by something else than this node's `overlay-cni`, or its record was lost.
    NoRecord,
}

impl Wiring {
    /// For a table.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Wired => "wired",
            Self::NotWired => "not wired",
            Self::NoRecord => "no record",
        }
    }
}

/// A pod of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PodStatus {
    /// Its address.
    pub address: Ipv4Addr,
    /// How far record and data path agree.
    pub wiring: Wiring,
    /// Index of its veth's end on the node, if the data path knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ifindex: Option<u32>,
    /// What was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<RecordStatus>,
}

/// What is recorded of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecordStatus {
    /// `namespace/name`, or its container's id.
    pub title: String,
    /// Namespace in Kubernetes; empty if the runtime did not say.
    pub namespace: String,
    /// Name in Kubernetes; the same.
    pub name: String,
    /// UID in Kubernetes; the same.
    pub uid: String,
    /// Id of its container.
    pub container_id: String,
    /// Name of the device in it.
    pub interface: String,
    /// Name of the veth's end on the node.
    pub host_interface: String,
    /// Who gave the address.
    pub ipam: String,
    /// When it was added.
    pub since: Timestamp,
}

impl From<&PodRecord> for RecordStatus {
    fn from(record: &PodRecord) -> Self {
        Self {
            title: record.title(),
            namespace: record.pod_namespace.clone(),
            name: record.pod_name.clone(),
            uid: record.pod_uid.clone(),
            container_id: record.container_id.clone(),
            interface: record.ifname.clone(),
            host_interface: record.host_interface.clone(),
            ipam: record.ipam.clone(),
            since: record.since,
        }
    }
}

/// Every pod the data path or a record knows, by address.
#[must_use]
pub fn pods(wired: &BTreeMap<Ipv4Addr, abi::Pod>, records: &[PodRecord]) -> Vec<PodStatus> {
    let mut pods: BTreeMap<Ipv4Addr, PodStatus> = wired
        .iter()
        .map(|(address, pod)| {
            (*address, PodStatus { address: *address, wiring: Wiring::NoRecord, ifindex: Some(pod.ifindex), record: None })
        })
        .collect();
    for record in records {
        let pod = pods.entry(record.address).or_insert_with(|| PodStatus {
            address: record.address,
            wiring: Wiring::NotWired,
            ifindex: None,
            record: None,
        });
        if pod.wiring == Wiring::NoRecord {
            pod.wiring = Wiring::Wired;
        }
        pod.record = Some(record.into());
    }
    pods.into_values().collect()
}
