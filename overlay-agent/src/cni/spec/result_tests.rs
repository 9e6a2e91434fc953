use super::*;
use serde_json::json;

#[test]
fn results_have_the_form_of_their_version() {
    let attached: Attached = serde_json::from_value(json!({
        "cniVersion": "whatever",
        "interfaces": [{ "name": "podx", "mac": "0a:48:0a:f4:01:02", "mtu": 1450 }, { "name": "eth0", "mtu": 1450, "sandbox": "/run/netns/x" }],
        "ips": [{ "address": "10.244.1.2/32", "gateway": "169.254.1.1", "interface": 1 }, { "address": "fd00::2/128" }],
        "routes": [{ "dst": "0.0.0.0/0", "gw": "169.254.1.1" }]
    }))
    .unwrap();
    for version in Version::ALL {
        let report = attached.clone().report(version).unwrap();
        assert_eq!(report["cniVersion"], version.name());
        let old = version < Version::V1_0_0;
        let families = [0, 1].map(|index| report["ips"][index]["version"].as_str());
        assert_eq!(families, if old { [Some("4"), Some("6")] } else { [None; 2] });
        assert_eq!(report["interfaces"][1]["mtu"], if version < Version::V1_1_0 { Value::Null } else { json!(1450) });
        assert_eq!(report["interfaces"][1]["sandbox"], "/run/netns/x");
    }
}

#[test]
fn what_others_put_into_a_result_is_passed_on() {
    let before = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{ "name": "lo", "pciID": "0000:00:1f.6", "socketPath": "/x" }],
        "ips": [{ "address": "127.0.0.1/8", "interface": 0 }],
        "routes": [{ "dst": "10.0.0.0/8", "mtu": 1400, "table": 7 }],
        "dns": { "nameservers": ["10.96.0.10"] },
        "else": true
    });
    let attached: Attached = serde_json::from_value(before.clone()).unwrap();
    assert_eq!(attached.report(Version::V1_1_0).unwrap(), before);
    let empty: Attached = serde_json::from_value(json!({ "interfaces": null, "ips": null, "routes": null, "dns": null })).unwrap();
    assert_eq!(empty, Attached::default());
}
