use super::*;
use crate::cluster::annotations::{BACKEND_DATA, BACKEND_TYPE, OVERLAY_PUBLIC_IP, OVERLAY_VTEP_MAC, PUBLIC_IP, PUBLIC_IP_OVERWRITE};
use crate::cluster::conflicts::topology;
use crate::cluster::list::{self, ListError};
use crate::model::Mac;
use proptest::prelude::*;
use serde_json::json;

const CLUSTER: &str = include_str!("../../testdata/nodes.yaml");
const CLUSTER_JSON: &str = include_str!("../../testdata/nodes.json");
const TROUBLED: &str = include_str!("../../testdata/nodes-troubled.yaml");

fn item() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": "a", "uid": "1", "creationTimestamp": "2026-01-05T08:00:11Z", "annotations": {} },
        "spec": { "podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"] },
        "status": { "addresses": [{ "type": "InternalIP", "address": "192.0.2.1" }] },
    })
}

/// The item with one place changed, read.
fn read_with(pointer: &str, value: Value) -> Candidate {
    let mut item = item();
    *item.pointer_mut(pointer).expect("the place exists") = value;
    Candidate::read(&item, 7)
}

fn annotated(annotations: Value) -> Result<ClusterNode, String> {
    read_with("/metadata/annotations", annotations).node
}

#[test]
fn reads_what_kubectl_prints() {
    let candidates = list::parse(CLUSTER).unwrap();
    let topology = topology(&candidates);
    assert_eq!(topology.rejected, []);
    let nodes: Vec<_> = topology
        .nodes
        .values()
        .map(|node| format!("{} {} {} {} {}", node.name, node.address, node.pod_cidr, node.gateway(), node.vtep_mac))
        .collect();
    assert_eq!(
        nodes,
        [
            // flannel's MAC, as published.
            "cp-1 192.0.2.11 10.244.0.0/24 10.244.0.1 5a:1e:90:aa:01:0b",
            // Dual stack, IPv4 first.
            "worker-1 192.0.2.21 10.244.1.0/24 10.244.1.1 0e:4f:c0:00:02:15",
            // Dual stack, IPv6 first, in podCIDRs and in addresses.
            "worker-2 192.0.2.22 10.244.2.0/24 10.244.2.1 0e:4f:c0:00:02:16",
        ]
    );
}

#[test]
fn json_and_yaml_say_the_same() {
    assert_eq!(list::parse(CLUSTER_JSON).unwrap(), list::parse(CLUSTER).unwrap());
}

#[test]
fn every_trouble_stays_with_its_node_and_is_told() {
    let topology = topology(&list::parse(TROUBLED).unwrap());
    let used: Vec<_> = topology.nodes.keys().map(String::as_str).collect();
    assert_eq!(used, ["bad-backend-data", "good-1", "good-2"]);
    let rejected: Vec<_> = topology.rejected.iter().map(|node| (node.name.as_str(), node.reason.as_str())).collect();
    assert_eq!(
        rejected,
        [
            ("bad-public-ip", "annotation flannel.alpha.coreos.com/public-ip is \"none\", not an IPv4 address",),
            ("broadcast", "its InternalIP: address 255.255.255.255 is in 240.0.0.0/4, reserved, with the broadcast address"),
            ("contains-itself", "its podCIDR 10.244.18.0/24 contains its own address 10.244.18.5"),
            ("contains-node", "its podCIDR 192.0.2.0/24 contains the address 192.0.2.1 of node good-1, which came first"),
            ("good-1", "it is listed more than once; the one that came first is used"),
            ("host-bits", "its podCIDR 10.244.3.7/24 has host bits set; the network is 10.244.3.0/24"),
            ("inside-pods", "its address 10.244.1.77 lies in podCIDR 10.244.1.0/24 of node good-1, which came first"),
            ("ipv6-only", "its InternalIP \"2001:db8::8\" is IPv6; an IPv4 one is needed"),
            ("ipv6-pods", "its only podCIDR \"fd00:10:244:9::/64\" is IPv6; an IPv4 one is needed"),
            ("item 24", "it has no metadata.name"),
            ("item 26", "it has no metadata.name"),
            ("loopback", "its InternalIP: address 127.0.0.1 is in 127.0.0.0/8, loopback"),
            ("multicast", "its InternalIP: address 224.0.0.5 is in 224.0.0.0/4, multicast"),
            ("no-address", "it has no address of type InternalIP in status.addresses"),
            ("no-pod-cidr", "it has no podCIDR yet; the controller manager assigns one if it runs with --allocate-node-cidrs"),
            ("not-a-network", "its podCIDR \"10.244.6.0/33\" is not a network like 10.244.1.0/24"),
            ("overlap", "its podCIDR 10.244.0.0/16 contains those of 6 other nodes, bad-backend-data among them"),
            ("same-address", "its address 192.0.2.1 is the address of node good-1, which came first"),
            ("same-pod-cidr", "its podCIDR 10.244.1.0/24 is the podCIDR of node good-1, which came first"),
            ("stray-pod", "it is of kind \"Pod\", not a Node"),
            ("too-long", "its podCIDR 10.244.5.0/31 has a prefix that is not between /8 and /30"),
            ("too-short", "its podCIDR 10.0.0.0/7 has a prefix that is not between /8 and /30"),
            ("unspecified", "its InternalIP: address 0.0.0.0 is in 0.0.0.0/8, \"this host\""),
        ]
    );
    let notice = topology.nodes["bad-backend-data"].notice.as_deref().unwrap();
    assert_eq!(
        notice,
        "annotation flannel.alpha.coreos.com/backend-data is ignored: \"{\\\"VNI\\\":1,\" is not JSON; VTEP MAC 0e:4f:c0:00:02:14 is assumed"
    );
}

#[test]
fn the_operators_address_wins_over_flannels_and_flannels_over_the_nodes() {
    assert_eq!(annotated(json!({})).unwrap().address.to_string(), "192.0.2.1");
    assert_eq!(annotated(json!({ PUBLIC_IP: "198.51.100.1" })).unwrap().address.to_string(), "198.51.100.1");
    let both = json!({ PUBLIC_IP: "198.51.100.1", PUBLIC_IP_OVERWRITE: "198.51.100.2" });
    let node = annotated(both).unwrap();
    assert_eq!(node.address.to_string(), "198.51.100.2");
    assert_eq!(node.vtep_mac, Mac::derived_from(node.address));
    assert_eq!((node.given_by, node.internal_ip), (AddressOrigin::FlannelPublicIpOverwrite, Some("192.0.2.1".parse().unwrap())));
    let all = json!({ PUBLIC_IP: "none", PUBLIC_IP_OVERWRITE: "none", OVERLAY_PUBLIC_IP: "198.51.100.3" });
    let node = annotated(all).unwrap();
    assert_eq!((node.address.to_string().as_str(), node.given_by), ("198.51.100.3", AddressOrigin::OverlayPublicIp));
    assert!(annotated(json!({ OVERLAY_PUBLIC_IP: "1.2.3" })).unwrap_err().contains(OVERLAY_PUBLIC_IP));
    for bad in ["127.0.0.1", "0.0.0.0", "224.0.0.1", "fd00::1", "", "192.0.2.1/24"] {
        assert!(annotated(json!({ PUBLIC_IP: bad })).is_err(), "{bad:?} was accepted");
    }
}

#[test]
fn flannels_mac_is_taken_when_it_is_one() {
    let mac = |data: &str, backend: Option<&str>| {
        let mut annotations = json!({ BACKEND_DATA: data });
        if let Some(backend) = backend {
            annotations[BACKEND_TYPE] = backend.into();
        }
        let node = annotated(annotations).unwrap();
        (node.vtep_mac.to_string(), node.notice)
    };
    let derived = "0e:4f:c0:00:02:01".to_owned();
    assert_eq!(mac(r#"{"VNI":1,"VtepMAC":"5A:1e:90:aa:01:0b"}"#, Some("vxlan")), ("5a:1e:90:aa:01:0b".to_owned(), None));
    assert_eq!(mac(r#"{"VtepMAC":"5a:1e:90:aa:01:0b"}"#, None), ("5a:1e:90:aa:01:0b".to_owned(), None));
    // Other backends of flannel publish other things, or nothing.
    assert_eq!(mac("null", Some("host-gw")), (derived.clone(), None));
    assert_eq!(mac("null", None), (derived.clone(), None));
    assert_eq!(mac(r#"{"PublicKey":"k"}"#, Some("wireguard")), (derived.clone(), None));
    for bad in [
        "",
        "{",
        "[]",
        "1",
        "\"x\"",
        r#"{"VNI":1}"#,
        r#"{"VtepMAC":7}"#,
        r#"{"VtepMAC":"5a:1e"}"#,
        r#"{"VtepMAC":"00:00:00:00:00:00"}"#,
        r#"{"VtepMAC":"01:00:5e:00:00:01"}"#,
        r#"{"VtepMAC":"ff:ff:ff:ff:ff:ff"}"#,
    ] {
        let (mac, notice) = mac(bad, Some("vxlan"));
        assert_eq!(mac, derived, "{bad}");
        assert!(notice.is_some_and(|notice| notice.contains(BACKEND_DATA)), "{bad} gives no notice");
    }
}

#[test]
fn our_mac_wins_and_a_wrong_one_is_named_and_not_guessed() {
    let flannel = r#"{"VtepMAC":"5a:1e:90:aa:01:0b"}"#;
    let node = annotated(json!({ BACKEND_DATA: flannel, OVERLAY_VTEP_MAC: "02:00:00:00:00:07" })).unwrap();
    assert_eq!((node.vtep_mac.to_string().as_str(), node.notice), ("02:00:00:00:00:07", None));
    for bad in ["", "02:00:00:00:00", "ff:ff:ff:ff:ff:ff", "zz:00:00:00:00:07"] {
        let node = annotated(json!({ BACKEND_DATA: flannel, OVERLAY_VTEP_MAC: bad })).unwrap();
        assert_eq!(node.vtep_mac.to_string(), "5a:1e:90:aa:01:0b", "{bad:?}: as if it were not written");
        let notice = node.notice.unwrap();
        assert!(
            notice.starts_with("annotation overlay/vtep-mac is ignored: ") && notice.ends_with("5a:1e:90:aa:01:0b is assumed"),
            "{notice}"
        );
    }
}

#[test]
fn an_annotation_that_looks_like_ours_and_is_none_is_named() {
    let node = annotated(json!({ "overlay/publicIP": "198.51.100.1" })).unwrap();
    assert_eq!(node.address.to_string(), "192.0.2.1");
    assert_eq!(
        node.notice.as_deref(),
        Some("annotation \"overlay/publicIP\" is not known and ignored; known are overlay/public-ip, overlay/vtep-mac")
    );
}

#[test]
fn the_first_usable_address_is_taken() {
    let addresses = json!([
        { "type": "Hostname", "address": "a" },
        { "type": "ExternalIP", "address": "203.0.113.1" },
        { "type": "InternalIP", "address": "fd00::1" },
        { "type": "InternalIP", "address": "127.0.0.1" },
        { "type": "InternalIP", "address": "192.0.2.5" },
        { "type": "InternalIP", "address": "192.0.2.6" },
    ]);
    assert_eq!(read_with("/status/addresses", addresses).node.unwrap().address.to_string(), "192.0.2.5");
}

#[test]
fn pod_cidr_is_read_where_kubernetes_puts_it() {
    let mut item = item();
    item["spec"] = json!({ "podCIDR": "10.1.0.0/16" });
    assert_eq!(Candidate::read(&item, 1).node.unwrap().pod_cidr.to_string(), "10.1.0.0/16");
    for (cidrs, reason) in [
        (json!(["", ""]), "no podCIDR yet"),
        (json!(["10.244.1.0"]), "not a network"),
        (json!(["010.244.1.0/24"]), "not a network"),
        (json!(["fd00::/64", "pods"]), "not a network"),
        (json!(["127.1.0.0/16"]), "loopback"),
        (json!(["169.254.1.0/24"]), "link-local"),
        (json!(["239.0.0.0/8"]), "multicast"),
        (json!(["0.0.0.0/8"]), "this host"),
        (json!(["0.0.0.0/0"]), "prefix"),
    ] {
        let problem = read_with("/spec/podCIDRs", cidrs.clone()).node.unwrap_err();
        assert!(problem.contains(reason), "{cidrs}: {problem}");
    }
}

#[test]
fn a_broken_field_that_is_not_used_costs_nothing() {
    let mut item = item();
    item["metadata"]["managedFields"] = json!("x");
    item["metadata"]["labels"] = json!(7);
    item["metadata"]["annotations"]["other"] = json!({});
    item["spec"]["taints"] = json!(1);
    item["status"]["images"] = json!({ "no": "list" });
    assert!(Candidate::read(&item, 1).node.is_ok());
    item["metadata"]["annotations"][PUBLIC_IP] = json!({});
    assert!(Candidate::read(&item, 1).node.unwrap_err().starts_with("it does not read as a Node: "));
}

#[test]
fn names_that_could_disturb_a_terminal_are_not_repeated() {
    for name in ["", "a b", "\u{1b}[31mred", "a/b", "..", &"x".repeat(254)] {
        let candidate = read_with("/metadata/name", json!(name));
        assert_eq!(candidate.name, "item 7");
        let reason = candidate.node.unwrap_err();
        assert!(!reason.contains('\u{1b}') && reason.len() < 400, "{reason:?}");
    }
}

// === Documents ===

#[test]
fn what_is_no_whole_list_is_refused_whole() {
    for (text, error) in [
        ("", ListError::Empty),
        (" \n\n", ListError::Empty),
        ("\u{feff}\n", ListError::Empty),
        ("apiVersion: v1\n", ListError::NoKind),
        ("nodes\n", ListError::NoKind),
        ("kind: List\n", ListError::NoItems),
        ("kind: List\nitems: 3\n", ListError::NoItems),
        ("kind: List\nitems:\n", ListError::NoItems),
        ("kind: List\nitems: []\n", ListError::NoNodes),
        ("kind: Node\n", ListError::OtherKind("Node".to_owned())),
        (r#"{"kind":"PodList","items":[]}"#, ListError::OtherKind("PodList".to_owned())),
    ] {
        assert_eq!(list::parse(text), Err(error), "{text:?}");
    }
    assert!(matches!(list::parse("a: [\n"), Err(ListError::Yaml(_))));
    assert!(matches!(list::parse("kind: List\nitems: []\n---\nkind: List\n"), Err(ListError::Yaml(_))));
    assert!(matches!(list::parse("kind: List\nitems: [&a 1, *a]\n"), Err(ListError::Yaml(_))));
    assert!(matches!(list::parse("{\"kind\":\"List\",\"items\":["), Err(ListError::Json(_))));
}

#[test]
fn a_list_cut_off_anywhere_is_never_a_smaller_cluster() {
    let whole = topology(&list::parse(CLUSTER).unwrap());
    // Behind every third line, and at places within lines that differ from line to line.
    let ends = CLUSTER.match_indices('\n').map(|(end, _)| end + 1).step_by(3).chain((0..CLUSTER.len()).step_by(211));
    for end in ends {
        if let Ok(candidates) = list::parse(&CLUSTER[..end]) {
            assert_eq!(topology(&candidates), whole, "cut at byte {end}");
        }
    }
    for end in (0..CLUSTER_JSON.trim_end().len()).step_by(29) {
        assert!(list::parse(&CLUSTER_JSON[..end]).is_err(), "cut at byte {end}");
    }
}

#[test]
fn the_list_of_a_large_cluster_is_read() {
    let (head, rest) = CLUSTER.split_once("items:\n").unwrap();
    let items = rest.split_once("kind: List\n").unwrap().0;
    let one = &items[items.find("- apiVersion: v1\n  kind: Node\n  metadata:\n    annotations:\n      node.alpha").unwrap()..];
    let one = &one[..one[1..].find("\n- apiVersion: v1\n  kind: Node").unwrap() + 2];
    let mut text = format!("{head}items:\n");
    for number in 0..1_200_u32 {
        let (high, low) = (number / 250, number % 250);
        let item = one.replace("worker-1", &format!("worker-{number}")).replace("10.244.1.0/24", &format!("10.{high}.{low}.0/24"));
        text.push_str(&item.replace("192.0.2.21", &format!("172.16.{high}.{low}")));
    }
    text.push_str("kind: List\n");
    let topology = topology(&list::parse(&text).unwrap());
    assert_eq!(topology.rejected, []);
    assert_eq!(topology.nodes.len(), 1_200);
}

// === Any input ===

fn any_json() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        any::<String>(),
        prop::sample::select(vec!["Node", "InternalIP", "10.244.1.0/24", "192.0.2.1", "fd00::/64", "null", "2026-01-05T08:00:11Z"])
            .prop_map(str::to_owned),
    ];
    let key = prop_oneof![
        any::<String>(),
        prop::sample::select(vec![
            "metadata",
            "name",
            "spec",
            "podCIDR",
            "podCIDRs",
            "status",
            "addresses",
            "address",
            "type",
            "annotations",
            "kind",
            "items",
            "creationTimestamp",
            "uid",
            PUBLIC_IP,
            BACKEND_DATA,
        ])
        .prop_map(str::to_owned),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..8).prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

/// A real item with some of its places overwritten by anything.
fn mutated_item() -> impl Strategy<Value = Value> {
    const PLACES: [&str; 12] = [
        "/kind",
        "/metadata",
        "/metadata/name",
        "/metadata/uid",
        "/metadata/creationTimestamp",
        "/metadata/annotations",
        "/spec",
        "/spec/podCIDR",
        "/spec/podCIDRs",
        "/status",
        "/status/addresses",
        "/status/addresses/0",
    ];
    prop::collection::vec((prop::sample::select(PLACES.to_vec()), any_json()), 1..4).prop_map(|changes| {
        let mut item = item();
        for (place, value) in changes {
            if let Some(target) = item.pointer_mut(place) {
                *target = value;
            }
        }
        item
    })
}

proptest! {
    #[test]
    fn no_json_makes_it_panic(items in prop::collection::vec(prop_oneof![any_json(), mutated_item()], 0..6)) {
        let text = json!({ "kind": "List", "items": items }).to_string();
        if let Ok(candidates) = list::parse(&text) {
            let topology = topology(&candidates);
            prop_assert_eq!(topology.nodes.len() + topology.rejected.len(), items.len());
            for node in topology.nodes.values() {
                prop_assert!(node.pod_cidr.contains(&node.gateway()) && node.gateway() != node.pod_cidr.network());
            }
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in ".{0,400}") {
        let _ = list::parse(&text);
    }

    #[test]
    fn no_damage_to_a_real_list_makes_it_panic(damage in prop::collection::vec((0..TROUBLED.len(), any::<u8>()), 1..8), cut in 0..TROUBLED.len()) {
        let mut bytes = TROUBLED.as_bytes().to_vec();
        for (place, byte) in damage {
            bytes[place] = byte;
        }
        bytes.truncate(cut.max(1));
        if let Ok(candidates) = list::parse(&String::from_utf8_lossy(&bytes)) {
            let _ = topology(&candidates);
        }
    }
}
