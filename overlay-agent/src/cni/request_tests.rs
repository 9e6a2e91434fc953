use super::*;
use proptest::prelude::*;
use serde_json::json;

const CONFIG: &str = r#"{"cniVersion":"1.1.0","name":"pods","type":"overlay-cni"}"#;

fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment::from(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
}

fn call(verb: &str, more: &[(&str, &str)], config: &str) -> Result<Request, CniError> {
    let mut variables = vec![
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", "abc"),
        ("CNI_NETNS", "/run/netns/x"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin"),
    ];
    variables.retain(|(name, _)| !more.iter().any(|(other, _)| other == name));
    variables.extend(more);
    Request::read(&environment(&variables), config.as_bytes().to_vec())
}

fn add(args: &str, config: &str) -> Result<Attachment, CniError> {
    call("ADD", &[("CNI_ARGS", args)], config).map(|request| match request {
        Request::Add(attachment) => attachment,
        other => panic!("{other:?}"),
    })
}

#[test]
fn missing_and_wrong_variables_are_named() {
    for verb in ["ADD", "CHECK", "DEL"] {
        for (name, value) in [
            ("CNI_CONTAINERID", ""),
            ("CNI_CONTAINERID", "../x"),
            ("CNI_IFNAME", ""),
            ("CNI_IFNAME", "a/b"),
            ("CNI_IFNAME", "sixteen-bytes-xx"),
        ] {
            let error = call(verb, &[(name, value)], CONFIG).unwrap_err();
            assert_eq!((error.code, error.msg.contains(name)), (4, true), "{verb}: {error}");
        }
    }
    for (verb, name) in [("ADD", "CNI_NETNS"), ("CHECK", "CNI_NETNS"), ("GC", "CNI_PATH"), ("", "CNI_COMMAND"), ("add", "CNI_COMMAND")] {
        let variable = if name == "CNI_COMMAND" { (name, verb) } else { (name, "") };
        let error = call(verb, &[variable], CONFIG.replace('}', r#","cni.dev/valid-attachments":[]}"#).as_str()).unwrap_err();
        assert_eq!((error.code, error.msg.contains(name)), (4, true), "{verb}: {error}");
    }
    assert!(call("DEL", &[("CNI_NETNS", "")], CONFIG).is_ok());
}

#[test]
fn verbs_came_with_versions() {
    for version in Version::ALL {
        let config = CONFIG.replace("1.1.0", version.name());
        for command in Command::ALL {
            let result = call(command.name(), &[], &config);
            match result {
                Ok(request) => assert!(version >= command.since() || request == Request::Version(version.name().to_owned())),
                Err(error) => assert!(version < command.since() && error.code == 1, "{error}"),
            }
        }
    }
}

#[test]
fn version_is_answered_with_what_it_was_asked_with() {
    for (input, version) in [("", "1.1.0"), (r#"{"cniVersion":"0.2.0"}"#, "0.2.0"), ("{}", "1.1.0")] {
        assert_eq!(call("VERSION", &[], input).unwrap(), Request::Version(version.to_owned()));
    }
    assert_eq!(call("VERSION", &[], "nonsense").unwrap_err().code, 6);
}

#[test]
fn arguments_of_kubernetes_are_kept() {
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-1;K8S_POD_UID=u-1;K8S_POD_INFRA_CONTAINER_ID=abc;FOO=bar";
    let pod = add(args, CONFIG).unwrap().pod;
    assert_eq!((pod.title("abc").as_str(), pod.uid.as_str()), ("default/web-1", "u-1"));
    for args in ["FOO=bar", "IgnoreUnknown=0;FOO=bar", "FOO", "IP=10.244.1", "IP=fd00::1", "MAC=ff:ff:ff:ff:ff:ff"] {
        let error = add(args, CONFIG).unwrap_err();
        assert_eq!((error.code, error.msg.contains("CNI_ARGS")), (4, true), "{args}: {error}");
        assert!(call("DEL", &[("CNI_ARGS", args)], CONFIG).is_ok(), "DEL needs none of them");
    }
}

#[test]
fn an_address_is_asked_for_in_three_ways() {
    let with = |more: Value| {
        let mut config: Value = serde_json::from_str(CONFIG).unwrap();
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config.to_string()
    };
    let asked = |args, config: &str| add(args, config).unwrap().address.map(|(_, address)| address.to_string());
    assert_eq!(asked("IP=10.244.1.9", CONFIG).as_deref(), Some("10.244.1.9"));
    assert_eq!(asked("", &with(json!({ "args": { "cni": { "ips": ["10.244.1.8/24"] } } }))).as_deref(), Some("10.244.1.8"));
    let config = with(json!({ "runtimeConfig": { "ips": ["10.244.1.7"], "mac": "0a:00:00:00:00:01" } }));
    assert_eq!(asked("IP=10.244.1.9", &config).as_deref(), Some("10.244.1.7"));
    assert_eq!(add("", &config).unwrap().mac.unwrap().to_string(), "0a:00:00:00:00:01");
    for ips in [json!(["10.244.1.7", "10.244.1.8"]), json!(["fd00::1"]), json!(["10.244.1.7/33"]), json!(["x"])] {
        let error = add("", &with(json!({ "runtimeConfig": { "ips": ips } }))).unwrap_err();
        assert_eq!((error.code, error.msg.contains("runtimeConfig.ips")), (7, true), "{error}");
    }
}

#[test]
fn names_of_wires_are_the_same_for_ever() {
    let key = |id: &str, ifname: &str| Key { container_id: id.to_owned(), ifname: ifname.to_owned() };
    // DEL may be another release's than ADD.
    assert_eq!(key("cni-a-0123456789abcdef", "eth0").host_interface(), "pod20754f65644a");
    assert_ne!(key("a", "beth0").hash(), key("ab", "eth0").hash());
    let names: std::collections::BTreeSet<String> =
        (0..10_000).map(|index| key(&format!("{index:064x}"), "eth0").host_interface()).collect();
    assert!(names.len() == 10_000 && names.iter().all(|name| is_device_name(name)));
}

proptest! {
    #[test]
    fn no_call_makes_it_panic(
        command in prop::sample::select(vec!["ADD", "DEL", "CHECK", "STATUS", "GC", "VERSION", "X"]),
        values in prop::collection::vec("\\PC{0,40}", 4),
        input in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let names = ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_ARGS"];
        let more: Vec<(&str, &str)> = names.into_iter().zip(values.iter().map(String::as_str)).collect();
        drop(call(command, &more, CONFIG));
        drop(Request::read(&environment(&[("CNI_COMMAND", command)]), input));
    }

    #[test]
    fn no_configuration_makes_it_panic(key in prop::sample::select(vec![
        "cniVersion", "name", "type", "ipam", "dns", "prevResult", "runtimeConfig", "capabilities", "args", "bpffs", "stateDir", "steerFlows",
        "cni.dev/valid-attachments", "else",
    ]), value in prop::sample::select(vec![
        json!(null), json!(1e300), json!(-1), json!("\u{0}"), json!([[]]), json!({ "type": {}, "cni": { "ips": [[]], "mac": [] } }),
        json!({ "ips": ["/"], "mac": "::" }), json!({ "interfaces": [{ "name": 5 }] }), json!({ "interfaces": null, "ips": [{ "interface": -7 }] }),
        json!({ "type": "overlay-cni", "ranges": ["-", "/", "1.1.1.1-", "255.255.255.255/0"] }),
    ]), verb in prop::sample::select(vec!["ADD", "DEL", "CHECK", "STATUS", "GC"])) {
        let mut config: Value = serde_json::from_str(CONFIG).unwrap();
        config[key] = value;
        drop(call(verb, &[], &config.to_string()));
    }
}
