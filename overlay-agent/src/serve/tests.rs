//! The endpoint over a real socket, and the metrics beside their documentation.

use super::*;
use crate::clock::now;
use crate::cluster::{Health, SourceError, SourceKind, SourceState};
use crate::status::{Pass, Status, ThisNode};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Where no maps are.
fn nowhere() -> PinDir {
    PinDir::new("/nonexistent".as_ref())
}

fn status(health: Health) -> Status {
    let source = SourceState { health, ..SourceState::new(SourceKind::Kubernetes, "https://192.0.2.1:6443".to_owned()) };
    Status::new("a".to_owned(), source)
}

fn with_this_node(mut status: Status) -> Status {
    let (address, gateway) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(10, 244, 1, 1));
    let pod_cidr = "10.244.1.0/24".parse().unwrap();
    status.node = Some(ThisNode { address, pod_cidr, gateway, vtep_mac: crate::model::Mac::default(), notice: None });
    status
}

/// A free port of this host, as the setting has it.
fn free() -> Listen {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    Listen::At(listener.local_addr().unwrap())
}

async fn ask(listen: Listen, request: &str) -> String {
    let Listen::At(address) = listen else { panic!("it listens nowhere") };
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{request} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_node_is_ready_after_one_whole_pass_and_says_before_what_is_missing() {
    let listen = free();
    let report = start(listen, nowhere());
    assert_eq!(report.problem(), None);
    let wait = Duration::from_secs(30);
    let readiness = async || ask(listen, "GET /readyz").await;
    let not_ready = async |why: &str| {
        let answer = readiness().await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with(&format!("\r\n\r\n{why}\n")), "{answer}");
    };
    not_ready("the agent has just begun").await;

    let mut failing = status(Health::Failing);
    failing.source.last_error = Some(SourceError { at: now(), message: "connection refused".to_owned() });
    report.turn_begins();
    report.turn_ended(&failing, None, 0, wait);
    not_ready("no list of nodes yet: connection refused").await;

    report.turn_ended(&status(Health::Healthy), Some(true), 0, wait);
    not_ready("the list of nodes does not have this node, a").await;

    let mut incomplete = with_this_node(status(Health::Healthy));
    incomplete.record_pass(Pass { at: now(), actions: 1, errors: vec!["no route".to_owned(), "no memory".to_owned()] });
    report.turn_ended(&incomplete, Some(false), 0, wait);
    not_ready("no route\nno memory").await;

    report.turn_ended(&with_this_node(status(Health::Healthy)), Some(true), 0, wait);
    assert!(readiness().await.starts_with("HTTP/1.1 200 "));
    report.turn_ended(&incomplete, Some(false), 0, wait);
    assert!(readiness().await.starts_with("HTTP/1.1 200 "), "a later failure takes nothing from the pods");
}

#[tokio::test]
async fn answers_what_it_has_and_says_what_that_is() {
    let listen = free();
    let _report = start(listen, nowhere());
    for (request, code, text) in [
        ("GET /healthz", "200", "ok\n"),
        ("GET /healthz?verbose", "200", "ok\n"),
        ("GET /", "404", PATHS),
        ("GET /metrics/", "404", PATHS),
        ("POST /healthz", "405", "only GET is answered\n"),
        ("HEAD /healthz", "200", ""),
        ("nonsense", "400", ""),
    ] {
        let answer = ask(listen, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")) && answer.ends_with(&format!("\r\n\r\n{text}")), "{request}: {answer}");
    }
    // Without maps there are metrics all the same.
    let answer = ask(listen, "GET /metrics").await;
    assert!(answer.contains(metrics::CONTENT_TYPE) && answer.contains("\noverlay_ready 0\n") && answer.ends_with("# EOF\n"), "{answer}");
    assert!(!answer.contains("overlay_map_entries"), "{answer}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_and_tried_again() {
    let listen = free();
    let Listen::At(address) = listen else { panic!("it listens nowhere") };
    let taken = std::net::TcpListener::bind(address).unwrap();
    let report = start(listen, nowhere());
    let problem = report.problem().unwrap();
    assert!(problem.contains(&address.to_string()) && problem.contains("in use"), "{problem}");
    sleep(RETRY * 3).await;
    assert_eq!(report.problem(), Some(problem));
    drop(taken);
    sleep(RETRY * 2).await;
    assert_eq!(report.problem(), None);
    assert!(ask(listen, "GET /healthz").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn off_listens_nowhere() {
    let report = start(Listen::Off, nowhere());
    report.turn_begins();
    report.turn_ended(&status(Health::Starting), None, 0, RETRY);
    assert_eq!(report.problem(), None);
}

/// Everything there is.
fn full() -> String {
    let mut snapshot = Snapshot::new(Instant::now());
    snapshot.source = Some(status(Health::Healthy).source);
    snapshot.passes.made = 3;
    let mut counters = Counters::default();
    (counters.flows.pod_encap_packets, counters.flows.pod_encap_bytes, counters.drops.short) = (7, 700, 2);
    let fills = vec![Fill { name: "SUBNETS", entries: 5, capacity: 8 }];
    let durations = metrics::durations();
    durations.observe(0.3);
    metrics::encode(snapshot, durations, Some(Kernel { counters, fills })).unwrap()
}

#[test]
fn metrics_are_what_was_counted() {
    let text = full();
    for line in [
        "overlay_passes_total 3",
        "overlay_pass_duration_seconds_bucket{le=\"0.25\"} 0",
        "overlay_pass_duration_seconds_bucket{le=\"0.5\"} 1",
        "overlay_source_healthy{kind=\"kubernetes\"} 1",
        "overlay_map_entries{map=\"SUBNETS\"} 5",
        "overlay_map_capacity{map=\"SUBNETS\"} 8",
        "overlay_packets_total{flow=\"pod_encap\"} 7",
        "overlay_bytes_total{flow=\"pod_encap\"} 700",
        "overlay_dropped_packets_total{reason=\"short\"} 2",
        "overlay_dropped_packets_total{reason=\"helper\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

#[test]
fn docs_list_every_metric_with_its_kind_and_no_other() {
    let text = full();
    // `# TYPE overlay_passes counter`: a counter's sample has `_total` behind its name.
    let told = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let told: BTreeSet<(String, String)> =
        told.map(|(name, kind)| (if kind == "counter" { format!("{name}_total") } else { name.to_owned() }, kind.to_owned())).collect();
    // `| \`overlay_passes_total\` | counter | … |`
    let page = include_str!("../../../docs/metrics.md");
    let listed: BTreeSet<(String, String)> = page
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(|cell| cell.trim().trim_matches('`').to_owned());
            Some((cells.next()?, cells.next()?)).filter(|(name, _)| name.starts_with("overlay_"))
        })
        .collect();
    assert_eq!(listed, told);
    for name in text.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
        assert!(name.ends_with('.'), "help is a sentence: {name}");
    }
}
