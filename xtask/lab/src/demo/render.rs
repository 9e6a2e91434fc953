//! The report as text for a person: aligned tables, units, colour only on a terminal.

use super::report::{Cell, Departure, MapReport, NodeReport, PodReport, Report};
use comfy_table::{Cell as TableCell, CellAlignment, Color, ContentArrangement, LineStyle, Table, TableStyle};
use serde_json::Value;
use std::fmt::Write as _;

/// Entries of a map that are shown.
const EXCERPT: usize = 8;

/// Where lines of map entries are broken, in characters.
const WIDTH: usize = 110;

/// The whole report.
pub(super) fn text(report: &Report) -> String {
    let mut text = format!("\nWho is who (underlay {}, MTU {})\n{}", report.underlay, report.mtu, nodes(&report.nodes));
    let _ = writeln!(text, " pods are {}\n nodes are known from {}", report.runtime, report.source);
    let _ = write!(text, "\nEvery pod pings every other pod: round trip in ms, from the row to the column\n{}", matrix(&report.pods));
    let _ = write!(text, "\nEvery node pings every pod: round trip in ms, from the row to the column\n{}", matrix(&report.hosts));
    let transfer = &report.transfer;
    let _ = match &transfer.error {
        None => writeln!(
            text,
            "\nTCP, {} to {}: {} MiB in {:.2} s, {:.2} Gbit/s, every byte compared",
            transfer.from,
            transfer.to,
            transfer.bytes >> 20,
            transfer.seconds,
            transfer.gbit_per_second
        ),
        Some(error) => writeln!(text, "\nTCP, {} to {}: FAILED: {error}", transfer.from, transfer.to),
    };
    for map in &report.maps {
        text.push_str(&excerpt(map));
    }
    text.push_str(&departure(&report.departure));
    text.push_str(&verdict(report));
    text
}

fn table() -> Table {
    let mut table = Table::new();
    table
        .load_style(TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─')))
        .set_content_arrangement(ContentArrangement::Disabled);
    if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
        table.force_no_tty();
    }
    table
}

/// The table without the blanks comfy-table pads lines with.
fn lines(table: &Table) -> String {
    table.lines().fold(String::new(), |text, line| text + line.trim_end() + "\n")
}

fn nodes(nodes: &[NodeReport]) -> String {
    let mut table = table();
    table.set_header(["node", "address", "pod network", "gateway", "tunnel MAC", "receives", "pods", "", "MTU"]);
    for node in nodes {
        let column = |text: fn(&PodReport) -> String| node.pods.iter().map(text).collect::<Vec<_>>().join("\n");
        table.add_row([
            node.name.clone(),
            node.address.clone(),
            node.pod_cidr.clone(),
            node.gateway.clone(),
            node.vtep_mac.clone(),
            format!("by {}", node.receive),
            column(|pod| pod.name.clone()),
            column(|pod| pod.address.clone()),
            column(|pod| pod.mtu.to_string()),
        ]);
    }
    let mut text = lines(&table);
    let mut told: Vec<&str> = Vec::new();
    for node in nodes.iter().filter(|node| !node.receive_reason.is_empty()) {
        // Once for all nodes that say the same.
        if !told.contains(&node.receive_reason.as_str()) {
            let _ = writeln!(text, " {} receives by {}: {}", node.name, node.receive, node.receive_reason);
            told.push(&node.receive_reason);
        }
    }
    text
}

/// Rows and columns in the order they first occur.
fn matrix(cells: &[Cell]) -> String {
    let names = |name: fn(&Cell) -> &str| {
        let mut names: Vec<&str> = Vec::new();
        for cell in cells {
            if !names.contains(&name(cell)) {
                names.push(name(cell));
            }
        }
        names
    };
    let (rows, mut columns) = (names(|cell| &cell.from), names(|cell| &cell.to));
    // A pod does not ping itself, so the first column of a square matrix is first met in the second row.
    if columns.iter().all(|column| rows.contains(column)) {
        columns.clone_from(&rows);
    }
    let mut table = table();
    let header = columns.iter().map(|name| TableCell::new(name.replace("-pod-", "\npod-")).set_alignment(CellAlignment::Right));
    table.set_header(std::iter::once(TableCell::new("")).chain(header));
    for row in rows {
        let line = columns.iter().map(|column| {
            let cell = cells.iter().find(|cell| cell.from == row && cell.to == *column);
            cell.map_or_else(|| TableCell::new("·"), verdict_of).set_alignment(CellAlignment::Right)
        });
        table.add_row(std::iter::once(TableCell::new(row)).chain(line));
    }
    lines(&table)
}

fn verdict_of(cell: &Cell) -> TableCell {
    match cell.rtt_ms {
        Some(rtt) if cell.ok() => TableCell::new(format!("{rtt:.3} ok")).fg(Color::Green),
        _ => TableCell::new(format!("{} of {} lost", cell.sent - cell.received, cell.sent)).fg(Color::Red),
    }
}

fn excerpt(map: &MapReport) -> String {
    let mut text = format!("\n{} of {} ({})\n", map.map, map.node, map.command);
    let mut entries: Vec<(String, &Value)> = map.entries.iter().map(|entry| (key(&entry["key"]), &entry["value"])).collect();
    entries.sort_by_key(|(key, _)| key.clone());
    let width = entries.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    for (key, value) in entries.iter().take(EXCERPT) {
        let mut line = format!(" {key:width$}");
        for field in fields(value) {
            if line.len() + 2 + field.len() > WIDTH {
                let _ = writeln!(text, "{line}");
                line = format!(" {:width$}", "");
            }
            let _ = write!(line, "  {field}");
        }
        let _ = writeln!(text, "{line}");
    }
    if let Some(more @ 1..) = entries.len().checked_sub(EXCERPT) {
        let _ = writeln!(text, " … {more} more");
    }
    text
}

/// A key of a map: an address, or the network a longest-prefix-match key stands for.
fn key(key: &Value) -> String {
    match key {
        Value::Object(prefix) => format!("{}/{}", scalar(&prefix["addr"]), prefix["prefix_len"]),
        other => scalar(other),
    }
}

/// The fields of a value with their names; padding is left out.
fn fields(value: &Value) -> Vec<String> {
    let Value::Object(fields) = value else { return vec![scalar(value)] };
    fields.iter().filter(|(name, _)| !name.starts_with("pad")).map(|(name, value)| format!("{name} {}", scalar(value))).collect()
}

fn scalar(value: &Value) -> String {
    match value {
        Value::Array(bytes) => bytes_as_written(bytes),
        other => other.to_string(),
    }
}

/// Four bytes are an address, six a MAC.
fn bytes_as_written(bytes: &[Value]) -> String {
    let numbers: Vec<u64> = bytes.iter().filter_map(Value::as_u64).collect();
    let join = |text: fn(&u64) -> String, between: &str| numbers.iter().map(text).collect::<Vec<_>>().join(between);
    match numbers.len() {
        4 => join(u64::to_string, "."),
        6 => join(|byte| format!("{byte:02x}"), ":"),
        _ => format!("{numbers:?}"),
    }
}

fn departure(departure: &Departure) -> String {
    let wait = |ms: Option<f64>| ms.map_or_else(|| "NEVER".to_owned(), |ms| format!("after {ms:.0} ms"));
    let mut text =
        format!("\n{} taken out of the list of nodes: forgotten by the others {}\n", departure.node, wait(departure.forgotten_after_ms));
    for cell in &departure.while_away {
        let said = cell.errors.first().map_or("no answer", String::as_str);
        let outcome = if cell.received == 0 { format!("fails, as it should: {said}") } else { "STILL ANSWERED".to_owned() };
        let _ = writeln!(text, "  {} → {}  {outcome}", cell.from, cell.to);
    }
    let _ = writeln!(text, "{} put back: known to the others {}", departure.node, wait(departure.returned_after_ms));
    for cell in &departure.afterwards {
        let outcome = match cell.rtt_ms {
            Some(rtt) if cell.ok() => format!("{rtt:.3} ms"),
            _ => format!("{} of {} LOST", cell.sent - cell.received, cell.sent),
        };
        let _ = writeln!(text, "  {} → {}  {outcome}", cell.from, cell.to);
    }
    text
}

fn verdict(report: &Report) -> String {
    let cells = report.pods.len() + report.hosts.len();
    match report.failures() {
        0 => format!("\nAll {cells} pairs talk, and the cluster followed the change of its nodes. {:.1} s\n", report.seconds),
        failures => format!("\nFAILED: {failures} findings are bad, see above. {:.1} s\n", report.seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cell(from: &str, to: &str, received: u32) -> Cell {
        let rtt_ms = (received > 0).then_some(0.0814);
        Cell { from: from.to_owned(), to: to.to_owned(), sent: 3, received, rtt_ms, errors: Vec::new() }
    }

    #[test]
    fn a_square_matrix_keeps_its_diagonal_free() {
        let names = ["node-1-pod-1", "node-1-pod-2", "node-2-pod-1"];
        let pairs = names.iter().flat_map(|from| names.iter().map(move |to| (from, to))).filter(|(from, to)| from != to);
        let cells: Vec<Cell> = pairs.map(|(from, to)| cell(from, to, if *to == "node-2-pod-1" { 1 } else { 3 })).collect();
        let text = matrix(&cells);
        let rows: Vec<&str> = text.lines().filter(|line| line.contains("node-") && line.contains("ok")).collect();
        assert_eq!(rows.len(), 3, "{text}");
        assert_eq!(rows[0].split_whitespace().collect::<Vec<_>>(), ["node-1-pod-1", "·", "0.081", "ok", "2", "of", "3", "lost"], "{text}");
        assert!(rows[2].trim_end().ends_with('·'), "{text}");
    }

    #[test]
    fn map_entries_are_written_as_an_operator_writes_them() {
        let value = json!({"vtep_mac": [14, 79, 192, 168, 50, 11], "pad": [0, 0], "source": [192, 168, 50, 12], "ifindex": 2});
        let text = fields(&value).join(", ");
        for part in ["vtep_mac 0e:4f:c0:a8:32:0b", "source 192.168.50.12", "ifindex 2"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("pad"), "{text}");
    }

    #[test]
    fn a_lost_reply_or_an_answer_while_away_is_a_failure() {
        let mut report = Report::default();
        report.departure.forgotten_after_ms = Some(1.0);
        report.departure.returned_after_ms = Some(1.0);
        report.pods = vec![cell("a", "b", 3)];
        assert!(report.ok());
        report.departure.while_away = vec![cell("a", "b", 1)];
        assert_eq!(report.failures(), 1);
        report.pods.push(cell("b", "a", 2));
        assert!(text(&report).contains("FAILED: 2 findings"));
    }
}
