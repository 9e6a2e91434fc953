use super::*;
use crate::address::{Choice, Given};
use crate::backend::Way;
use crate::cluster::{SourceError, SourceKind};
use crate::datapath::Detours;
use crate::model::{AddressOrigin, NextHop};
use overlay_common::counters::Counters;
use std::os::unix::fs::PermissionsExt as _;

fn time(second: i64) -> Timestamp {
    Timestamp::from_second(1_767_600_000 + second).unwrap()
}

fn node(name: &str, address: [u8; 4], pod_cidr: &str) -> ClusterNode {
    let address = address.into();
    ClusterNode {
        name: name.to_owned(),
        address,
        given_by: AddressOrigin::InternalIp,
        internal_ip: Some(address),
        pod_cidr: pod_cidr.parse().unwrap(),
        vtep_mac: Mac::derived_from(address),
        no_tunnel: false,
        notice: None,
    }
}

fn healthy() -> Status {
    let place = "/etc/overlay/nodes.yaml".to_owned();
    let source = SourceState { health: Health::Healthy, since: time(0), ..SourceState::new(SourceKind::File, place) };
    let mut topology = Topology::default();
    for node in [
        node("a", [192, 0, 2, 1], "10.244.1.0/24"),
        node("b", [192, 0, 2, 2], "10.244.2.0/24"),
        node("c", [198, 51, 100, 3], "10.244.3.0/24"),
    ] {
        topology.nodes.insert(node.name.clone(), node);
    }
    let device =
        UnderlayDevice { name: "eth0".to_owned(), ifindex: 2, mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500, kind: Some("veth".to_owned()) };
    let next_hop = |address: [u8; 4], mac: [u8; 6], state| NextHop {
        address: address.into(),
        ifindex: 2,
        local_mac: device.mac,
        source: [192, 0, 2, 1].into(),
        mac: Some(Mac(mac)),
        state,
        mtu: None,
        on_link: true,
        node_mac: None,
    };
    let underlay = Underlay {
        device: device.clone(),
        next_hops: [
            ([192, 0, 2, 2].into(), next_hop([192, 0, 2, 2], [2, 0, 0, 0, 0, 2], NeighbourState::Reachable)),
            ([198, 51, 100, 3].into(), next_hop([192, 0, 2, 254], [2, 0, 0, 0, 0, 0xfe], NeighbourState::Stale)),
        ]
        .into(),
    };
    let mut status = Status::new("a".to_owned(), source);
    status.version = "0.1.0".to_owned();
    status.set_cluster(&topology, Some(&underlay));
    status.set_underlay(&device, 1450);
    status.set_receive(abi::receive::TC, "asked for".to_owned());
    let state = firewall::State { masquerading: true, opened: vec!["FORWARD of iptables-nft".to_owned()], ..firewall::State::default() };
    status.set_firewall(true, state);
    status.record_pass(Pass { at: time(1), actions: 14, errors: Vec::new() });
    status
}

fn read(counters: &Counters) -> Readings {
    Readings { counters: Some(*counters), ..Readings::default() }
}

fn degraded() -> Status {
    let mut status = healthy();
    status.source.health = Health::Failing;
    status.source.last_error = Some(SourceError { at: time(60), message: "the file is empty".to_owned() });
    if let Some(firewall) = &mut status.firewall {
        firewall.problems.push("chain inet firewalld filter_FORWARD stops pods".to_owned());
    }
    status.rejected.push(RejectedNode { name: "d".to_owned(), reason: "it has no podCIDR yet".to_owned() });
    status.peers[0].next_hop_state = NeighbourState::Failed;
    status.peers[0].next_hop_mac = None;
    status.peers[0].notice = Some("look at it".to_owned());
    status.peers[1].path = Way::NoRoute;
    status.peers[1].next_hop = None;
    status.record_pass(Pass { at: time(61), actions: 1, errors: vec!["cannot write NODES: no memory".to_owned()] });
    status
}

#[test]
fn a_healthy_status_as_text() {
    let mut counters = Counters::default();
    counters.flows.pod_encap_packets = 12;
    counters.flows.pod_encap_bytes = 1_600_000;
    counters.flows.deliver_host_packets = 1;
    counters.flows.deliver_host_bytes = 84;
    let text = render_text(&healthy(), true, &read(&counters), Style { colour: false });
    assert!(
        text.starts_with(
            "\
Node
  name         a
  health       healthy
  address      192.0.2.1
  pods         10.244.1.0/24, gateway 10.244.1.1
  VTEP MAC     0e:4f:c0:00:02:01
  underlay     eth0 (index 2, veth), 02:00:00:00:00:01, MTU 1500 bytes
  pod MTU      1450 bytes
  sends by     vxlan, outer UDP checksum zero: a super-packet can carry no other
  receives by  tc: asked for
  masquerade   on, table ip overlay
  pods pass    FORWARD of iptables-nft, which would drop them but for our rules
  nodes from   file /etc/overlay/nodes.yaml, current since 2026-01-05T08:00:00Z
  last change  2026-01-05T08:00:01Z, 14 actions, no error
  agent        version 0.1.0

Peers (2)
  NAME  PODS           ADDRESS       VTEP MAC           PATH   NEXT HOP     STATE      NEXT HOP MAC
  b     10.244.2.0/24  192.0.2.2     0e:4f:c0:00:02:02  vxlan  192.0.2.2    reachable  02:00:00:00:00:02
  c     10.244.3.0/24  198.51.100.3  0e:4f:c6:33:64:03  vxlan  192.0.2.254  stale      02:00:00:00:00:fe

Packets
  FLOW          PACKETS    BYTES
  pod_encap          12  1.5 MiB
  host_encap          0      0 B
"
        ),
        "{text}"
    );
    assert!(text.contains("  deliver_host        1     84 B\n"), "{text}");
    assert!(text.ends_with("\nDropped: none\n"), "{text}");
}

#[test]
fn a_degraded_status_tells_every_problem() {
    let mut counters = Counters::default();
    counters.drops.outer_src_unknown = 3;
    let text = render_text(&degraded(), false, &read(&counters), Style { colour: false });
    assert!(text.contains("  health       degraded: 7 problems\n"), "{text}");
    assert!(text.contains("\nDropped\n  REASON             PACKETS\n  outer_src_unknown        3\n"), "{text}");
    assert!(
        text.ends_with(
            "
Problems
  - the agent is not running; what follows is what it last knew
  - the list of nodes cannot be followed: the file is empty
  - cannot write NODES: no memory
  - chain inet firewalld filter_FORWARD stops pods
  - node d is left out: it has no podCIDR yet
  - node b cannot be reached: next hop 192.0.2.2 does not answer ARP
  - node c cannot be reached: this host has no route to 198.51.100.3
"
        ),
        "{text}"
    );
}

#[test]
fn colours_are_used_when_allowed_and_only_then() {
    assert!(!render_text(&degraded(), true, &Readings::default(), Style { colour: false }).contains('\u{1b}'));
    assert!(render_text(&degraded(), true, &Readings::default(), Style { colour: true }).contains('\u{1b}'));
}

#[test]
fn a_full_detour_is_told_with_what_it_means() {
    let seconds = std::time::Duration::from_secs;
    let text = |sockets| {
        let detours = Some(Detours { sockets, capacity: 65_536, longest_silence: seconds(75) });
        let readings = Readings { detours, ..Readings::default() };
        (render_text(&healthy(), true, &readings, Style { colour: false }), render_json(&healthy(), true, &readings))
    };
    assert!(!text(61_000).0.contains("DETOUR"));
    let (full, json) = text(65_000);
    assert!(
        full.ends_with("\nDETOUR is full (65000 sockets): a flow through a Service that is silent for 75 s may be forgotten\n"),
        "{full}"
    );
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["detour"], serde_json::json!({ "sockets": 65_000, "capacity": 65_536, "longest_silence_seconds": 75 }));
}

#[test]
fn json_has_everything_and_reads_back() {
    let mut counters = Counters::default();
    counters.flows.tc_decap_packets = 5;
    counters.flows.tc_decap_bytes = 500;
    counters.drops.vni = 2;
    let text = render_json(&degraded(), true, &read(&counters));
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["running"], true);
    assert_eq!(value["healthy"], false);
    assert_eq!(value["problems"].as_array().unwrap().len(), 6);
    assert_eq!(value["counters"]["flows"]["tc_decap"], serde_json::json!({ "packets": 5, "bytes": 500 }));
    assert_eq!(value["counters"]["drops"]["vni"], 2);
    assert_eq!(value["counters"]["drops"].as_object().unwrap().len(), overlay_common::reason::DropReason::ALL.len());
    assert_eq!(value["node"]["pod_cidr"], "10.244.1.0/24");
    assert_eq!(value["peers"][0]["next_hop_state"], "failed");
    assert_eq!(serde_json::from_value::<Status>(value).unwrap(), degraded());
    let without: serde_json::Value = serde_json::from_str(&render_json(&healthy(), true, &Readings::default())).unwrap();
    assert_eq!((&without["healthy"], &without["counters"]), (&true.into(), &serde_json::Value::Null));
}

#[test]
fn what_makes_a_status_degraded() {
    assert_eq!(healthy().problems(true), [""; 0]);
    let mut starting = healthy();
    starting.source.health = Health::Starting;
    assert_eq!(starting.problems(true), ["there is no list of nodes yet"]);
    let mut absent = healthy();
    absent.node = None;
    assert_eq!(absent.problems(true), ["the list of nodes does not have this node, a"]);
    let mut unpassed = healthy();
    unpassed.last_pass = None;
    assert_eq!(unpassed.problems(true), ["no pass has been made yet"]);
}

#[test]
fn a_pass_without_news_changes_nothing() {
    let mut status = healthy();
    let before = status.clone();
    status.record_pass(Pass { at: time(100), actions: 0, errors: Vec::new() });
    assert_eq!(status, before);
    let error = vec!["x".to_owned()];
    status.record_pass(Pass { at: time(200), actions: 0, errors: error.clone() });
    status.record_pass(Pass { at: time(300), actions: 0, errors: error });
    assert_eq!(status.last_pass.as_ref().unwrap().at, time(200));
    status.record_pass(Pass { at: time(400), actions: 0, errors: Vec::new() });
    assert_eq!(status.last_pass.unwrap().at, time(400));
}

#[test]
fn the_file_is_private_whole_and_written_only_on_change() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("overlay");
    let mut state_dir = StateDir::new(path.clone());
    assert!(matches!(state_dir.read(), Err(StatusError::Absent(_))));
    // What an agent killed in the act of writing left.
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join(".status.json.new"), "{").unwrap();

    assert!(state_dir.write(&healthy()).unwrap());
    assert_eq!(state_dir.read().unwrap(), healthy());
    let file = state_dir.status_path();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    let modified = file.metadata().unwrap().modified().unwrap();
    assert!(!state_dir.write(&healthy()).unwrap());
    assert_eq!(file.metadata().unwrap().modified().unwrap(), modified);

    assert!(state_dir.write(&degraded()).unwrap());
    assert_eq!(state_dir.read().unwrap(), degraded());
    std::fs::remove_file(&file).unwrap();
    assert!(state_dir.write(&degraded()).unwrap(), "a file somebody removed is written again");

    std::fs::write(&file, "{}").unwrap();
    assert!(matches!(state_dir.read(), Err(StatusError::Foreign { .. })));
    state_dir.remove().unwrap();
    assert!(!path.exists());
    state_dir.remove().unwrap();
}

#[test]
fn one_agent_holds_the_lock() {
    let parent = tempfile::tempdir().unwrap();
    let state_dir = StateDir::new(parent.path().join("overlay"));
    assert!(!state_dir.is_locked().unwrap());
    let lock = state_dir.lock().unwrap();
    assert!(state_dir.is_locked().unwrap());
    assert!(matches!(state_dir.lock(), Err(LockError::Held(_))));
    drop(lock);
    assert!(!state_dir.is_locked().unwrap());
    drop(state_dir.lock().unwrap());
}

#[test]
fn an_address_that_others_do_not_know_is_a_problem_with_its_mending() {
    let given = Given { address: [192, 0, 2, 1].into(), by: AddressOrigin::InternalIp, internal_ip: Some([192, 0, 2, 1].into()) };
    let choice = Choice { address: [192, 0, 2, 7].into(), how: "interface=eth1: on eth1".to_owned() };
    let mut status = healthy();
    status.address = Some(AddressStatus::of_choice(&choice, Some(given), Some(given.address), ("a", false)));
    let problem = &status.problems(true)[0];
    assert!(
        problem
            .starts_with("the address of this node is 192.0.2.7 (interface=eth1: on eth1), and other nodes send to 192.0.2.1 (InternalIP")
    );
    assert!(problem.contains("switch publish on") && problem.contains("kubectl annotate node a overlay/public-ip=192.0.2.7"), "{problem}");
    let text = render_text(&status, true, &Readings::default(), Style { colour: false });
    assert!(text.contains("address      192.0.2.1: InternalIP of the Node; 192.0.2.7 is not used until the Node says so\n"), "{text}");
    // While it is being written, nothing is to be mended.
    status.address = Some(AddressStatus::of_choice(&choice, Some(given), Some(given.address), ("a", true)));
    assert_eq!(status.problems(true), [""; 0]);
    status.publish = Some(PublishStatus { since: None, problem: Some("refused".to_owned()) });
    assert_eq!(status.problems(true), ["refused"]);
}

#[test]
fn pods_outside_the_podcidr_are_told_of() {
    let pod = |address: [u8; 4]| PodStatus { address: address.into(), wiring: Wiring::Wired, ifindex: Some(7), record: None };
    let mut status = healthy();
    assert_eq!(status.find_stray_pods(&[pod([10, 244, 1, 9])]), None);
    status.stray_pods = status.find_stray_pods(&[pod([10, 244, 1, 9]), pod([10, 244, 9, 1])]);
    let one = "pod 10.244.9.1 has an address outside this node's podCIDR 10.244.1.0/24: no other node reaches it; start it anew";
    assert_eq!(status.problems(true), [one]);
    let two = status.find_stray_pods(&[pod([10, 244, 9, 1]), pod([10, 244, 9, 2])]).unwrap();
    assert!(two.starts_with("2 pods have addresses outside this node's podCIDR 10.244.1.0/24, 10.244.9.1 among them"), "{two}");
}
