use super::file::{command, parse_file};
use super::*;
use crate::backend::Backend;
use crate::cli::Places;
use crate::install::DEFAULT_LIST_NAME;

fn parse(text: &str) -> Result<Settings, String> {
    parse_file(Path::new("overlay.yaml"), text).map_err(|error| error.to_string())
}

fn resolve(settings: Settings) -> Config {
    Config::resolve(settings, || Ok("host-a".to_owned())).expect("a host name is all that can be missing")
}

#[test]
fn without_any_setting_the_documented_defaults_hold() {
    let config = resolve(Settings::default());
    assert_eq!(config.node_name, "host-a");
    assert_eq!(config.source, Source::Kubernetes { kubeconfig: None, api_server: None });
    assert_eq!((config.vni, config.port), (1, 8472));
    assert_eq!(config.receive_mode, ReceiveMode::Auto);
    assert_eq!((config.mtu, config.underlay_interface, config.ebpf_object), (None, None, None));
    assert_eq!((config.masquerade, config.direct), (true, Vec::new()));
    assert_eq!(config.directories.bpffs, Path::new("/sys/fs/bpf"));
    assert_eq!(config.directories.state_dir, Path::new("/run/overlay"));
    assert_eq!(config.directories.pods_dir, Path::new("/var/lib/overlay/ipam"));
    assert_eq!(config.resync_interval, Duration::from_secs(30));
    assert_eq!(config.listen.to_string(), "127.0.0.1:8473");
    assert_eq!(config.log_format, LogFormat::Text);
    assert_eq!((config.runtime, config.notices), (None, Vec::new()));
}

#[test]
fn what_flannels_net_conf_says_counts_where_nothing_else_is_said() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), r#"{ "network": "10.244.0.0/16", "backend": { "type": "vxlan", "vni": 9, "port": 4789, "mtu": 1400 } }"#)
        .unwrap();
    let settings = Settings { net_conf: Some(file.path().to_owned()), vni: Some(3), ..Settings::default() };
    let config = resolve(settings.clone());
    assert_eq!((config.vni, config.port, config.mtu), (3, 4789, Some(1400)));
    assert_eq!(config.direct, ["10.244.0.0/16".parse().unwrap()]);
    std::fs::write(file.path(), r#"{ "Backend": { "Type": "wireguard" } }"#).unwrap();
    let error = Config::resolve(settings, || Ok(String::new())).unwrap_err().to_string();
    assert!(error.starts_with("net-conf: ") && error.contains("Backend.Type is \"wireguard\""), "{error}");
}

#[test]
fn one_directory_of_the_runtime_without_the_other_is_refused() {
    for (text, told) in [("cni-conf-dir: /a", "cni-bin-dir is not"), ("cni-bin-dir: /a", "cni-conf-dir is not")] {
        let error = Config::resolve(parse(text).unwrap(), || Ok("host-a".to_owned())).unwrap_err();
        assert!(error.to_string().contains(told), "{text}: {error}");
    }
}

#[test]
fn the_address_is_chosen_as_said_and_a_wrong_method_is_answered_with_the_known_ones() {
    let config = |text: &str| Config::resolve(parse(text).unwrap(), || Ok("host-a".to_owned()));
    assert_eq!(config("").unwrap().address, Method::KubernetesInternalIp);
    assert_eq!(config("node-address: can-reach=192.0.2.1").unwrap().address, "can-reach=192.0.2.1".parse().unwrap());
    let both = "node-address: cidr=10.0.0.0/8\npublic-ip: 192.0.2.9";
    assert_eq!(config(both).unwrap().address, Method::Explicit("192.0.2.9".parse().unwrap()));
    let error = parse("node-address: interfaces=eth0").unwrap_err();
    assert!(error.contains("did you mean interface?") && error.contains("skip-interface=docker*,br-*"), "{error}");
    assert!(parse("public-ip: fd00::1").is_err() && parse("publish: perhaps").is_err());
    assert!(config("publish: true").unwrap().publish);
    let error = config("publish: true\nnodes-file: /nodes.yaml").unwrap_err();
    assert!(error.to_string().contains("publish"), "{error}");
}

#[test]
fn the_help_tells_the_defaults_that_hold() {
    let help = command().get_arguments().filter_map(|argument| argument.get_help()).map(ToString::to_string).collect::<String>();
    for default in [
        DEFAULT_VNI.to_string(),
        DEFAULT_PORT.to_string(),
        DEFAULT_BPFFS.to_owned(),
        DEFAULT_STATE_DIR.to_owned(),
        DEFAULT_LIST_NAME.to_owned(),
        DEFAULT_RESYNC_INTERVAL.as_secs().to_string(),
    ] {
        assert!(help.contains(&format!("[default: {default}]")), "{default} is not in the help");
    }
}

#[test]
fn every_setting_can_stand_in_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let net_conf = file("net-conf.json", r#"{ "Backend": { "Type": "vxlan", "VNI": 5, "Learning": true } }"#);
    let list = r#"{ "cniVersion": "0.3.1", "name": "own", "plugins": [{ "type": "flannel" }] }"#;
    let cni_conf = file("cni-conf.json", list);
    let text = &format!(
        "
node-name: node-7
nodes-file: /etc/overlay/nodes.yaml
kubeconfig: /etc/kubernetes/kubelet.conf
api-server: https://192.0.2.1:6443
public-ip: 192.0.2.9
node-address: interface=eth1,ens*
publish: false
underlay-interface: eth1
backend: host-gw
vni: 77
port: 4789
receive-mode: tc
mtu: 1400
masquerade: false
cluster-cidr: 10.244.0.0/16
non-masquerade-cidrs: [192.0.2.0/24, 198.51.100.0/24]
bpffs: /bpf
state-dir: /state
pods-dir: /pods
cni-conf-dir: /net.d
cni-bin-dir: /bin
cni-conf-name: 05-first.conflist
net-conf: {net_conf}
cni-conf: {cni_conf}
ebpf-object: /o.bin
resync-interval: 5
listen: 192.0.2.7:9100
log-format: json
"
    );
    let settings = parse(text).unwrap();
    assert_eq!(text.lines().filter(|line| line.contains(':')).count(), known_names().len(), "a setting is missing in this test");
    let config = resolve(settings);
    assert_eq!(
        config,
        Config {
            node_name: "node-7".to_owned(),
            source: Source::File("/etc/overlay/nodes.yaml".into()),
            address: Method::Explicit("192.0.2.9".parse().unwrap()),
            publish: false,
            underlay_interface: Some("eth1".to_owned()),
            backend: Backend::HostGw,
            vni: 77,
            port: 4789,
            receive_mode: ReceiveMode::Tc,
            mtu: Some(1400),
            masquerade: false,
            direct: ["10.244.0.0/16", "192.0.2.0/24", "198.51.100.0/24"].map(|net| net.parse().unwrap()).into(),
            directories: Directories { bpffs: "/bpf".into(), state_dir: "/state".into(), pods_dir: "/pods".into() },
            runtime: Some((
                RuntimePlaces { configurations: "/net.d".into(), plugins: "/bin".into(), list_name: "05-first.conflist".to_owned() },
                Template::parse(list).unwrap(),
            )),
            notices: vec!["Backend.Learning is true: the list of nodes says all there is to learn".to_owned()],
            ebpf_object: Some("/o.bin".into()),
            resync_interval: Duration::from_secs(5),
            listen: "192.0.2.7:9100".parse().unwrap(),
            log_format: LogFormat::Json,
        }
    );
}

#[test]
fn flags_win_over_the_file() {
    let flags =
        Settings { vni: Some(5), places: Places { bpffs: Some("/flag".into()), state_dir: None, pods_dir: None }, ..Settings::default() };
    let config = resolve(flags.or(parse("vni: 6\nport: 4789\nbpffs: /file\nstate-dir: /file\n").unwrap()));
    assert_eq!((config.vni, config.port), (5, 4789));
    assert_eq!((config.directories.bpffs, config.directories.state_dir), ("/flag".into(), "/file".into()));
}

#[test]
fn an_empty_file_says_nothing() {
    for text in ["", "\n", "# nothing\n", "{}\n", "---\n"] {
        let settings = parse(text).unwrap();
        assert_eq!(Settings { node_name: None, ..settings }, Settings::default(), "{text:?}");
    }
}

#[test]
fn unknown_names_are_answered_with_the_nearest_and_all_known_ones() {
    for (name, nearest) in [
        ("receiveMode", "receive-mode"),
        ("ReceiveMode", "receive-mode"),
        ("receive_mode", "receive-mode"),
        ("RECEIVE_MODE", "receive-mode"),
        ("recieve-mode", "receive-mode"),
        ("VNI", "vni"),
        ("nodeName", "node-name"),
        ("node-nme", "node-name"),
        ("nodesFile", "nodes-file"),
        ("resync", ""),
        ("colour", ""),
    ] {
        let error = parse(&format!("vni: 1\n{name}: 3\n")).unwrap_err();
        assert!(error.starts_with(&format!("overlay.yaml:2: unknown setting \"{name}\"")), "{error}");
        if nearest.is_empty() {
            assert!(!error.contains("did you mean"), "{error}");
        } else {
            assert!(error.contains(&format!("did you mean \"{nearest}\"?")), "{error}");
        }
        for known in known_names() {
            assert!(error.contains(&known), "{known} is not listed: {error}");
        }
    }
}

#[test]
fn bad_values_are_answered_with_name_value_and_fix() {
    for (line, message) in [
        ("vni: 16777216", "vni: \"16777216\" cannot be used: 16777216 is not in 1..=16777215"),
        ("port: http", "port: \"http\" cannot be used: invalid digit found in string"),
        ("receive-mode: skb", "receive-mode: \"skb\" cannot be used: it has to be one of auto, xdp-redirect, xdp, tc, kernel"),
        ("mtu: -5", "mtu: \"-5\" cannot be used: -5 is not in 626..=65535"),
        ("mtu:", "mtu: nothing cannot be used: give it a value or remove the line"),
        ("vni: [1, 2]", "vni: [1,2] cannot be used: it takes one value"),
        ("resync-interval: 0.5", "resync-interval: \"0.5\" cannot be used: invalid digit found in string"),
        ("node-name: \"a b\"", "node-name: \"a b\" cannot be used: a node's name has"),
        (
            "api-server: 192.0.2.1",
            "api-server: \"192.0.2.1\" cannot be used: not a URL of an API server; give it as https://192.0.2.1:6443",
        ),
    ] {
        let error = parse(&format!("{line}\n")).unwrap_err();
        assert!(error.starts_with(&format!("overlay.yaml:1: {message}")), "{error}");
    }
}

#[test]
fn all_wrong_lines_are_told_at_once() {
    let error = parse("port: 0\nvni: 3\ncolour: red\n").unwrap_err();
    let lines: Vec<_> = error.lines().collect();
    assert_eq!(lines.len(), 3, "{error}");
    assert!(lines[0].starts_with("overlay.yaml:1: port") && lines[1].starts_with("overlay.yaml:3: unknown"), "{error}");
    assert!(lines[2].starts_with("known settings: node-name, "), "{error}");
}

#[test]
fn what_is_not_a_mapping_is_refused() {
    for text in ["just words\n", "- vni\n", "vni: 1\nvni: 2\n", "vni: \"1\n", "\u{0}"] {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with("the configuration file overlay.yaml is not a list of `name: value` lines"), "{error}");
    }
}

#[test]
fn a_name_of_digits_stays_as_written() {
    assert_eq!(parse("node-name: 007\n").unwrap().node_name.as_deref(), Some("007"));
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Settings::default(), Some(Path::new("/nonexistent/overlay.yaml"))).unwrap_err().to_string();
    assert!(error.starts_with("cannot read the configuration file /nonexistent/overlay.yaml: "), "{error}");
}
