//! The status for a person, as tables, and for a program, as one JSON object.

use super::{Peer, PodStatus, Status, Wiring};
use crate::backend::{Backend, Way};
use crate::cluster::Health;
use crate::datapath::Detours;
use crate::model::NeighbourState;
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use overlay_common::counters::{Counters, Flow};
use overlay_common::reason::DropReason;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use zerocopy::IntoBytes as _;

/// How text is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Whether colours may be used: only on a terminal.
    pub colour: bool,
}

/// What is read from the kernel when somebody asks.
#[derive(Clone, Debug, Default)]
pub struct Readings {
    /// Packets and drops; absent while there are no maps.
    pub counters: Option<Counters>,
    /// Sockets that talk through the host's stack; the same.
    pub detours: Option<Detours>,
    /// Pods of this node, from the maps and from the records of `overlay-cni`.
    pub pods: Vec<PodStatus>,
}

/// The status as one JSON object: `status.json` with `running`, `healthy`, `problems`, `pods`, `counters` and `detour` added.
#[must_use]
pub fn render_json(status: &Status, running: bool, readings: &Readings) -> String {
    let problems = status.problems(running);
    let mut object = json!({ "running": running, "healthy": problems.is_empty(), "problems": problems });
    // Both are structs with string keys.
    if let (Value::Object(object), Ok(Value::Object(status))) = (&mut object, serde_json::to_value(status)) {
        object.extend(status);
        object.insert("pods".to_owned(), serde_json::to_value(&readings.pods).unwrap_or_default());
        object.insert("counters".to_owned(), readings.counters.as_ref().map_or(Value::Null, counters_json));
        object.insert("detour".to_owned(), readings.detours.as_ref().map_or(Value::Null, detours_json));
    }
    format!("{object:#}\n")
}

fn counters_json(counters: &Counters) -> Value {
    let flows: Map<String, Value> =
        flows(counters).map(|(flow, packets, bytes)| (flow.name().to_owned(), json!({ "packets": packets, "bytes": bytes }))).collect();
    let drops: Map<String, Value> = drops(counters).map(|(reason, packets)| (reason.name().to_owned(), packets.into())).collect();
    json!({ "flows": flows, "drops": drops })
}

fn detours_json(detours: &Detours) -> Value {
    let Detours { sockets, capacity, longest_silence } = detours;
    json!({ "sockets": sockets, "capacity": capacity, "longest_silence_seconds": longest_silence.as_secs() })
}

/// Every flow with its packets and bytes, by number.
pub(crate) fn flows(counters: &Counters) -> impl Iterator<Item = (Flow, u64, u64)> {
    Flow::ALL
        .iter()
        .copied()
        .zip(numbers(counters.flows.as_bytes()).chunks(2).map(|pair| (pair[0], pair[1])).collect::<Vec<_>>())
        .map(|(flow, (packets, bytes))| (flow, packets, bytes))
}

/// Every drop reason with its packets, by number.
pub(crate) fn drops(counters: &Counters) -> impl Iterator<Item = (DropReason, u64)> {
    DropReason::ALL.iter().copied().zip(numbers(counters.drops.as_bytes()))
}

/// The fields of a struct of `u64`s, in order.
fn numbers(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks().0.iter().map(|chunk| u64::from_ne_bytes(*chunk)).collect()
}

/// The status as tables.
#[must_use]
pub fn render_text(status: &Status, running: bool, readings: &Readings, style: Style) -> String {
    let problems = status.problems(running);
    let mut text = String::new();
    section(&mut text, "Node", &overview(status, &problems, style));
    if !status.peers.is_empty() {
        section(&mut text, &format!("Peers ({})", status.peers.len()), &peers(&status.peers, style));
    }
    if !readings.pods.is_empty() {
        section(&mut text, &format!("Pods ({})", readings.pods.len()), &pods(&readings.pods, style));
    }
    if let Some(counters) = &readings.counters {
        section(&mut text, "Packets", &flow_table(counters, style));
        match drop_table(counters, style) {
            Some(table) => section(&mut text, "Dropped", &table),
            None => text.push_str("\nDropped: none\n"),
        }
    }
    if let Some(detours) = readings.detours.filter(Detours::is_full) {
        let (sockets, silence) = (detours.sockets, detours.longest_silence.as_secs());
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "\nDETOUR is full ({sockets} sockets): a flow through a Service that is silent for {silence} s may be forgotten"
        );
    }
    if !problems.is_empty() {
        text.push_str("\nProblems\n");
        for problem in &problems {
            // Writing to a String does not fail.
            let _ = writeln!(text, "  - {problem}");
        }
    }
    text
}

fn section(text: &mut String, title: &str, table: &Table) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(title);
    text.push('\n');
    for line in table.lines() {
        text.push(' ');
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

fn overview(status: &Status, problems: &[String], style: Style) -> Table {
    let mut table = table(style);
    let mut row = |name: &str, cell: Cell| {
        table.add_row([Cell::new(name), cell]);
    };
    row("name", Cell::new(&status.node_name));
    row(
        "health",
        match problems.len() {
            0 => Cell::new("healthy").fg(Color::Green),
            1 => Cell::new("degraded: 1 problem").fg(Color::Red),
            count => Cell::new(format!("degraded: {count} problems")).fg(Color::Red),
        },
    );
    if let Some(node) = &status.node {
        let how = status.address.as_ref().map(|address| format!(": {}", address.how)).unwrap_or_default();
        row("address", Cell::new(format!("{}{how}", node.address)));
        row("pods", Cell::new(format!("{}, gateway {}", node.pod_cidr, node.gateway)));
        row("VTEP MAC", Cell::new(node.vtep_mac));
        if let Some(notice) = &node.notice {
            row("notice", Cell::new(notice).fg(Color::Yellow));
        }
    }
    if let Some(underlay) = &status.underlay {
        let kind = underlay.kind.as_ref().map(|kind| format!(", {kind}")).unwrap_or_default();
        row(
            "underlay",
            Cell::new(format!("{} (index {}{kind}), {}, MTU {} bytes", underlay.device, underlay.ifindex, underlay.mac, underlay.mtu)),
        );
        row("pod MTU", Cell::new(format!("{} bytes", underlay.overlay_mtu)));
        row("sends by", Cell::new(sends_by(status.backend, &underlay.outer_checksum)));
    }
    if let Some(receive) = &status.receive {
        row("receives by", Cell::new(format!("{}: {}", receive.mode, receive.reason)));
    }
    if let Some(runtime) = &status.runtime {
        row("pods by", Cell::new(format!("{}, {}", runtime.list.display(), runtime.plugin.display())));
        for notice in &runtime.notices {
            row("notice", Cell::new(notice).fg(Color::Yellow));
        }
    }
    if let Some(firewall) = &status.firewall {
        row(
            "masquerade",
            match (&firewall.table, firewall.masquerade) {
                (Some(table), _) => Cell::new(format!("on, table {table}")),
                (None, false) => Cell::new("off"),
                (None, true) => Cell::new("asked for, and not there").fg(Color::Red),
            },
        );
        if !firewall.opened.is_empty() {
            row("pods pass", Cell::new(format!("{}, which would drop them but for our rules", firewall.opened.join(" and "))));
        }
    }
    row("nodes from", source(status));
    if let Some(publish) = &status.publish {
        row(
            "publishes",
            match publish.since {
                Some(since) => Cell::new(format!("on this node's Node, since {since}")),
                None => Cell::new("not written to this node's Node yet").fg(Color::Yellow),
            },
        );
    }
    if let Some(pass) = &status.last_pass {
        let errors = match pass.errors.len() {
            0 => "no error".to_owned(),
            1 => "1 error".to_owned(),
            count => format!("{count} errors"),
        };
        let actions = if pass.actions == 1 { "1 action".to_owned() } else { format!("{} actions", pass.actions) };
        row("last change", Cell::new(format!("{}, {actions}, {errors}", pass.at)));
    }
    row("agent", Cell::new(format!("version {}", status.version)));
    table
}

/// How packets get to other nodes, in general.
fn sends_by(backend: Backend, checksum: &str) -> String {
    let vxlan = format!("vxlan, outer UDP checksum {checksum}: a super-packet can carry no other");
    match backend {
        Backend::Vxlan => vxlan,
        Backend::Direct => format!("direct, without a tunnel to neighbours, to others {vxlan}"),
        Backend::HostGw => "host-gw, without a tunnel, to neighbours only".to_owned(),
    }
}

fn source(status: &Status) -> Cell {
    let source = &status.source;
    let (health, colour) = match source.health {
        Health::Starting => ("starting", Color::Yellow),
        Health::Healthy => ("current", Color::Green),
        Health::Failing => ("failing", Color::Red),
    };
    let mut text = format!("{} {}, {health} since {}", source.kind, source.place, source.since);
    for (what, since) in [("stale since", source.stale_since), ("from disk, saved at", source.from_disk)] {
        if let Some(since) = since {
            // Writing to a String does not fail.
            let _ = write!(text, ", {what} {since}");
        }
    }
    if let Some(waiting_for) = &source.waiting_for {
        // Writing to a String does not fail.
        let _ = write!(text, "; waits for {waiting_for}");
    }
    Cell::new(text).fg(colour)
}

fn peers(peers: &[Peer], style: Style) -> Table {
    let mut table = table(style);
    table.set_header(header(&["name", "pods", "address", "VTEP MAC", "path", "next hop", "state", "next hop MAC"]));
    for peer in peers {
        let (path, path_colour) = match peer.path {
            Way::Encap => ("vxlan", Color::Green),
            Way::Direct => ("direct", Color::Green),
            Way::NoRoute => ("no route", Color::Red),
            Way::BehindRouter => ("behind a router", Color::Red),
        };
        let (state, state_colour) = match peer.next_hop_state {
            NeighbourState::Reachable => ("reachable", Color::Green),
            NeighbourState::Stale => ("stale", Color::Green),
            NeighbourState::Incomplete => ("incomplete", Color::Yellow),
            NeighbourState::Failed => ("failed", Color::Red),
            NeighbourState::Absent => ("absent", Color::Yellow),
        };
        table.add_row([
            Cell::new(&peer.name),
            Cell::new(peer.pod_cidr),
            Cell::new(peer.address),
            Cell::new(peer.vtep_mac),
            Cell::new(path).fg(path_colour),
            Cell::new(or_dash(peer.next_hop)),
            Cell::new(state).fg(state_colour),
            Cell::new(or_dash(peer.next_hop_mac)),
        ]);
        if let Some(notice) = &peer.notice {
            table.add_row([Cell::new(""), Cell::new(notice).fg(Color::Yellow)]);
        }
    }
    table
}

fn pods(pods: &[PodStatus], style: Style) -> Table {
    /// As many digits of a container's id as other tools show.
    const SHORT_ID: usize = 12;
    let mut table = table(style);
    table.set_header(header(&["address", "pod", "container", "device", "state", "since"]));
    for pod in pods {
        let record = pod.record.as_ref();
        let colour = if pod.wiring == Wiring::Wired { Color::Green } else { Color::Yellow };
        table.add_row([
            Cell::new(pod.address),
            Cell::new(or_dash(record.map(|record| &record.title))),
            Cell::new(or_dash(record.map(|record| record.container_id.chars().take(SHORT_ID).collect::<String>()))),
            Cell::new(
                record
                    .map_or_else(|| or_dash(pod.ifindex.map(|ifindex| format!("index {ifindex}"))), |record| record.host_interface.clone()),
            ),
            Cell::new(pod.wiring.words()).fg(colour),
            Cell::new(or_dash(record.map(|record| record.since))),
        ]);
    }
    table
}

fn flow_table(counters: &Counters, style: Style) -> Table {
    let mut table = table(style);
    table.set_header(header(&["flow", "packets", "bytes"]));
    align_numbers(&mut table);
    for (flow, packets, bytes) in flows(counters) {
        table.add_row([Cell::new(flow.name()), Cell::new(packets), Cell::new(with_unit(bytes))]);
    }
    table
}

/// Only reasons that occurred: most never do.
fn drop_table(counters: &Counters, style: Style) -> Option<Table> {
    let mut table = table(style);
    table.set_header(header(&["reason", "packets"]));
    align_numbers(&mut table);
    for (reason, packets) in drops(counters).filter(|(_, packets)| *packets > 0) {
        table.add_row([Cell::new(reason.name()), Cell::new(packets)]);
    }
    (!table.is_empty()).then_some(table)
}

fn table(style: Style) -> Table {
    let mut table = Table::new();
    // One line per row whatever the width: a wrapped table cannot be searched with grep.
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if style.colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table
}

fn header(names: &[&str]) -> Vec<Cell> {
    names.iter().map(|name| Cell::new(name.to_uppercase()).add_attribute(Attribute::Bold)).collect()
}

/// Every column but the first to the right.
fn align_numbers(table: &mut Table) {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Bytes with a binary unit, to one decimal: `1.5 MiB`.
fn with_unit(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}
