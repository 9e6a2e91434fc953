//! A Node as a cluster has it: labels, managed fields, conditions, images; some ten kilobytes of JSON on one line.
//!
//! The agent reads a few hundred bytes of it. The rest is what it has to skip ten thousand times over.

use crate::nodes::NodeEntry;
use std::fmt::Write as _;
use std::sync::LazyLock;

/// When the kubelet last posted, unless somebody says otherwise.
pub(super) const HEARTBEAT: &str = "2026-11-23T10:58:41Z";

/// Images on a node: the kubelet tells the fifty largest.
const IMAGES: usize = 50;

/// The fields each writer of a Node has touched, as the API server keeps them.
static MANAGED: LazyLock<String> = LazyLock::new(|| {
    let condition = |kind: &str| {
        format!(
            r#""k:{{\"type\":\"{kind}\"}}":{{".":{{}},"f:lastHeartbeatTime":{{}},"f:lastTransitionTime":{{}},"f:message":{{}},"f:reason":{{}},"f:status":{{}},"f:type":{{}}}}"#
        )
    };
    let conditions = ["DiskPressure", "MemoryPressure", "PIDPressure", "Ready"].map(condition).join(",");
    let network = condition("NetworkUnavailable");
    let writers = [
        (
            "kubelet",
            "",
            r#"{"f:metadata":{"f:annotations":{".":{},"f:volumes.kubernetes.io/controller-managed-attach-detach":{}},"f:labels":{".":{},"f:beta.kubernetes.io/arch":{},"f:beta.kubernetes.io/os":{},"f:kubernetes.io/arch":{},"f:kubernetes.io/hostname":{},"f:kubernetes.io/os":{}}},"f:spec":{"f:providerID":{}}}"#.to_owned(),
        ),
        ("kubeadm", "", r#"{"f:metadata":{"f:annotations":{"f:kubeadm.alpha.kubernetes.io/cri-socket":{}},"f:labels":{"f:node-role.kubernetes.io/worker":{}}}}"#.to_owned()),
        ("kube-controller-manager", "", r#"{"f:metadata":{"f:annotations":{"f:node.alpha.kubernetes.io/ttl":{}}},"f:spec":{"f:podCIDR":{},"f:podCIDRs":{".":{},"v:\"cluster\"":{}}}}"#.to_owned()),
        ("network", "status", format!(r#"{{"f:status":{{"f:conditions":{{{network}}}}}}}"#)),
        (
            "kubelet",
            "status",
            format!(r#"{{"f:status":{{"f:allocatable":{{"f:ephemeral-storage":{{}},"f:memory":{{}}}},"f:capacity":{{"f:ephemeral-storage":{{}}}},"f:conditions":{{{conditions}}},"f:images":{{}},"f:nodeInfo":{{"f:bootID":{{}}}}}}}}"#),
        ),
    ];
    let fields = writers.map(|(manager, subresource, fields)| {
        let subresource = if subresource.is_empty() { String::new() } else { format!(r#","subresource":"{subresource}""#) };
        format!(
            r#"{{"apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{fields},"manager":"{manager}","operation":"Update","time":"2026-11-02T09:14:07Z"{subresource}}}"#
        )
    });
    fields.join(",")
});

/// Two names an image, by digest and by tag.
static STORED: LazyLock<String> = LazyLock::new(|| {
    let image = |number: usize| {
        let digest = format!("{number:04x}").repeat(16);
        let size = 900_000_000 / (number + 1);
        format!(
            r#"{{"names":["images.example.org/team-{number}/service@sha256:{digest}","images.example.org/team-{number}/service:v1.{number}.0"],"sizeBytes":{size}}}"#
        )
    };
    (0..IMAGES).map(image).collect::<Vec<_>>().join(",")
});

/// The Node of an entry. `heartbeat`: when its kubelet last posted, as RFC 3339.
pub(super) fn node(entry: &NodeEntry, uid: &str, heartbeat: &str) -> String {
    let NodeEntry { name, created, address, pod_cidr, annotations } = entry;
    let mut noted = String::new();
    for (key, value) in annotations {
        let _ = write!(noted, "{}:{},", quoted(key), quoted(&plain(value)));
    }
    let cidr = pod_cidr.as_ref().map_or_else(String::new, |cidr| format!(r#""podCIDR":{0},"podCIDRs":[{0}],"#, quoted(cidr)));
    let internal = address.map_or_else(String::new, |address| format!(r#"{{"address":"{address}","type":"InternalIP"}},"#));
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        format!(
            r#"{{"lastHeartbeatTime":"{heartbeat}","lastTransitionTime":"2026-11-02T09:14:07Z","message":"{message}","reason":"{reason}","status":"{status}","type":"{kind}"}}"#
        )
    };
    let conditions = [
        condition("NetworkUnavailable", "False", "OverlayIsUp", "The overlay network is set up on this node"),
        condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ]
    .join(",");
    let (managed, stored, name, created) = (&*MANAGED, &*STORED, quoted(name), quoted(created));
    // The version is the store's to fill in.
    format!(
        r#"{{"apiVersion":"v1","kind":"Node","metadata":{{"annotations":{{{noted}"kubeadm.alpha.kubernetes.io/cri-socket":"unix:///run/containerd/containerd.sock","node.alpha.kubernetes.io/ttl":"0","volumes.kubernetes.io/controller-managed-attach-detach":"true"}},"creationTimestamp":{created},"labels":{{"beta.kubernetes.io/arch":"amd64","beta.kubernetes.io/os":"linux","kubernetes.io/arch":"amd64","kubernetes.io/hostname":{name},"kubernetes.io/os":"linux","node-role.kubernetes.io/worker":"","topology.kubernetes.io/region":"north","topology.kubernetes.io/zone":"north-1"}},"managedFields":[{managed}],"name":{name},"resourceVersion":"0","uid":"{uid}"}},"spec":{{{cidr}"providerID":"example:///north-1/{uid}"}},"status":{{"addresses":[{internal}{{"address":{name},"type":"Hostname"}}],"allocatable":{{"cpu":"4","ephemeral-storage":"37950001286","hugepages-1Gi":"0","hugepages-2Mi":"0","memory":"16009492Ki","pods":"110"}},"capacity":{{"cpu":"4","ephemeral-storage":"41177304Ki","hugepages-1Gi":"0","hugepages-2Mi":"0","memory":"16111892Ki","pods":"110"}},"conditions":[{conditions}],"daemonEndpoints":{{"kubeletEndpoint":{{"Port":10250}}}},"images":[{stored}],"nodeInfo":{{"architecture":"amd64","bootID":"{uid}","containerRuntimeVersion":"containerd://2.1.4","kernelVersion":"6.12.48+deb13-cloud-amd64","kubeProxyVersion":"","kubeletVersion":"v1.33.5","machineID":"{uid}","operatingSystem":"linux","osImage":"Debian GNU/Linux 13 (trixie)","swap":{{"capacity":0}},"systemUUID":"{uid}"}}}}}}"#
    )
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// What an annotation's value in the nodes file, a scalar of YAML, stands for.
fn plain(value: &str) -> String {
    if let Ok(text) = serde_json::from_str::<String>(value) {
        return text;
    }
    let single = value.strip_prefix('\'').and_then(|value| value.strip_suffix('\''));
    single.map_or_else(|| value.to_owned(), |text| text.replace("''", "'"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::net::Ipv4Addr;

    #[test]
    fn a_node_is_json_of_the_size_real_ones_have() {
        let mut entry = NodeEntry::new("node-1", Ipv4Addr::new(192, 168, 50, 11), &"10.244.1.0/24");
        entry.annotations.push(("flannel.alpha.coreos.com/backend-data".to_owned(), "'{\"VNI\":1}'".to_owned()));
        let text = node(&entry, "uid-1", HEARTBEAT);
        assert!((5_000..15_000).contains(&text.len()), "{} bytes", text.len());
        assert!(!text.contains('\n'));
        let node: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(node["spec"]["podCIDRs"][0], "10.244.1.0/24");
        assert_eq!(node["status"]["addresses"][0]["address"], "192.168.50.11");
        assert_eq!(node["metadata"]["annotations"]["flannel.alpha.coreos.com/backend-data"], "{\"VNI\":1}");
        let bare = NodeEntry { address: None, pod_cidr: None, ..entry };
        let node: Value = serde_json::from_str(&super::node(&bare, "uid-1", HEARTBEAT)).expect("JSON");
        assert_eq!(node["spec"]["podCIDR"], Value::Null);
        assert_eq!(node["status"]["addresses"][0]["type"], "Hostname");
    }
}
