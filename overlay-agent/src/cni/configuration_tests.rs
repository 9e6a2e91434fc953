use super::*;
use serde_json::json;

fn read(value: &Value, reading: Reading) -> Result<NetworkConfig, CniError> {
    NetworkConfig::read(value.as_object().unwrap(), reading)
}

fn error(value: &Value) -> (u32, String) {
    let error = read(value, Reading::Strict).unwrap_err();
    (error.code, error.msg)
}

/// A configuration with more keys.
fn with(more: &Value) -> Value {
    let mut object = json!({ "cniVersion": "1.0.0", "name": "pods", "type": "overlay-cni" });
    object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    object
}

#[test]
fn defaults_need_nothing_but_a_name() {
    let config = read(&with(&json!({})), Reading::Strict).unwrap();
    assert_eq!((config.bpffs.to_str(), config.state_dir.to_str()), (Some("/sys/fs/bpf"), Some("/var/lib/overlay/ipam")));
    assert_eq!((config.ipam, config.previous, config.valid), (Ipam::Own(Vec::new()), None, None));
}

#[test]
fn keys_of_the_specification_are_taken() {
    let more = json!({
        "ipam": { "type": "overlay-cni", "ranges": ["10.244.1.64/27", "10.244.1.100-10.244.1.120"] },
        "dns": { "nameservers": ["10.96.0.10"] }, "prevResult": null, "capabilities": { "ips": true }, "args": { "cni": { "labels": [] } },
        "runtimeConfig": { "ips": ["10.244.1.70/24"], "mac": "0a:00:00:00:00:01", "io.kubernetes.cri.pod-annotations": {} },
        "disableCheck": true, "disableGC": false, "cni.dev/valid-attachments": [{ "containerID": "a", "ifname": "eth0" }],
        "cni.dev/attachments": [], "bpffs": "/run/bpf", "stateDir": "/run/ipam", "steerFlows": true
    });
    let config = read(&with(&more), Reading::Strict).unwrap();
    let Ipam::Own(ranges) = &config.ipam else { panic!("{config:?}") };
    assert_eq!((ranges.len(), config.steer_flows), (2, true));
    assert_eq!(config.asked_ips, Some(("runtimeConfig.ips", vec!["10.244.1.70/24".to_owned()])));
    assert_eq!(config.dns["nameservers"], json!(["10.96.0.10"]));
    assert_eq!(config.valid.unwrap()[0].container_id, "a");
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known_one() {
    let cases = [
        (json!({ "statedirs": "/x" }), "unknown key statedirs with value \"/x\"; did you mean stateDir?"),
        (json!({ "steer-flows": 1 }), "unknown key steer-flows with value 1; did you mean steerFlows?"),
        (json!({ "ipam": { "range": [] } }), "unknown key ipam.range with value []; did you mean ipam.ranges?"),
        (json!({ "kubeconfig": "x" }), "unknown key kubeconfig with value \"x\"; known are cniVersion, name,"),
    ];
    for (more, start) in cases {
        let (code, msg) = error(&with(&more));
        assert!(code == 2 && msg.starts_with(start), "{code}: {msg}");
        assert!(read(&with(&more), Reading::Lenient).is_ok());
    }
}

#[test]
fn capabilities_of_other_plugins_are_refused_and_not_swallowed() {
    let (code, msg) = error(&with(&json!({ "runtimeConfig": { "portMappings": [{ "hostPort": 80 }] } })));
    assert_eq!((code, msg.contains("portMappings") && msg.contains("portmap plugin")), (2, true), "{msg}");
}

#[test]
fn values_are_checked_and_their_key_is_named() {
    let cases = [
        (json!({ "name": null }), 7, "name is missing"),
        (json!({ "name": "-a" }), 7, "name is \"-a\""),
        (json!({ "name": 5 }), 7, "name is 5"),
        (json!({ "bpffs": [] }), 7, "bpffs is []"),
        (json!({ "steerFlows": "yes" }), 7, "steerFlows is \"yes\""),
        (json!({ "ipam": "host-local" }), 7, "ipam is \"host-local\""),
        (json!({ "ipam": { "type": "../sh" } }), 7, "ipam.type is \"../sh\""),
        (json!({ "ipam": { "ranges": ["10.0.0.0/99"] } }), 7, "ipam.ranges has \"10.0.0.0/99\""),
        (json!({ "prevResult": 5 }), 7, "prevResult is 5"),
        (json!({ "runtimeConfig": { "ips": "10.0.0.1" } }), 7, "runtimeConfig.ips"),
        (json!({ "cni.dev/valid-attachments": {} }), 7, "cni.dev/valid-attachments is {}"),
        (json!({ "cniVersion": "0.2.0" }), 1, "cniVersion is \"0.2.0\", and this plugin speaks 0.3.1, 0.4.0, 1.0.0, 1.1.0"),
        (json!({ "cniVersion": null }), 1, "cniVersion is null"),
        (json!({ "cniVersion": 1 }), 6, "cniVersion is 1"),
    ];
    for (more, code, part) in cases {
        let (found, msg) = error(&with(&more));
        assert!(found == code && msg.contains(part), "{found}: {msg}; expected {part}");
    }
    assert_eq!(parse(b"[]").unwrap_err().code, 6);
    assert_eq!(parse(b"{").unwrap_err().code, 6);
}
