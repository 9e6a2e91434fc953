//! What came out, beside what was aimed at: as a table for a terminal, as Markdown for docs/scale.md, and as it is for machines.

use super::measure::Figures;
use super::projection;
use crate::bench::report::Machine;
use crate::bench::report::unit::apart;
use serde::Serialize;
use std::fmt::Write as _;

/// A run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub(super) command: String,
    pub(super) revision: String,
    pub(super) started: String,
    pub(super) machine: Machine,
    /// Length of a window of heartbeats in seconds.
    pub(super) window: f64,
    pub(super) sizes: Vec<Figures>,
}

/// A figure of every size.
struct Line {
    what: &'static str,
    /// Unit, decimals and what the figure is divided by to be in it.
    unit: (&'static str, usize, f64),
    /// The largest value that is good enough.
    aim: Option<f64>,
    value: fn(&Figures) -> f64,
}

const MIB: f64 = 1024.0 * 1024.0;
const MB: f64 = 1e6;

#[expect(clippy::cast_precision_loss, reason = "bytes and counts, to be read by a person")]
const LINES: [Line; 20] = [
    Line { what: "one Node, as the API server sends it", unit: ("kB", 1, 1e3), aim: None, value: |size| size.node_bytes as f64 },
    Line { what: "start to full map", unit: ("s", 2, 1.0), aim: Some(2.0), value: |size| size.start },
    Line { what: "processor time of the agent until then", unit: ("s", 2, 1.0), aim: None, value: |size| size.start_processor },
    Line { what: "bytes from the API server until then", unit: ("MB", 1, MB), aim: None, value: |size| size.list_bytes as f64 },
    Line { what: "a node's change to the map, idle: median", unit: ("ms", 1, 1e-3), aim: None, value: |size| size.idle.p50 },
    Line { what: "the same: 99th percentile", unit: ("ms", 1, 1e-3), aim: Some(0.02), value: |size| size.idle.p99 },
    Line { what: "the same: longest", unit: ("ms", 1, 1e-3), aim: None, value: |size| size.idle.most },
    Line { what: "while every node changes: median", unit: ("ms", 0, 1e-3), aim: None, value: |size| size.burst.p50 },
    Line { what: "the same: 99th percentile", unit: ("ms", 0, 1e-3), aim: Some(1.0), value: |size| size.burst.p99 },
    Line { what: "changes per second meanwhile", unit: ("1/s", 0, 1.0), aim: None, value: |size| size.nodes as f64 / size.burst_seconds },
    Line {
        what: "memory after the start: resident",
        unit: ("MiB", 1, MIB),
        aim: Some(30.0 * MIB),
        value: |size| size.memory[0].resident as f64,
    },
    Line { what: "of that its own (anonymous)", unit: ("MiB", 1, MIB), aim: None, value: |size| size.memory[0].anonymous as f64 },
    Line {
        what: "memory after all changes: resident",
        unit: ("MiB", 1, MIB),
        aim: Some(30.0 * MIB),
        value: |size| size.memory[1].resident as f64,
    },
    Line { what: "of that its own (anonymous)", unit: ("MiB", 1, MIB), aim: None, value: |size| size.memory[1].anonymous as f64 },
    Line { what: "the most that was ever resident", unit: ("MiB", 1, MIB), aim: None, value: |size| size.memory[1].peak as f64 },
    Line {
        what: "processor, a heartbeat of each node in 5 minutes",
        unit: ("% of a core", 2, 0.01),
        aim: Some(0.01),
        value: |size| size.heartbeats[0].core,
    },
    Line {
        what: "bytes per minute from the API server meanwhile",
        unit: ("MB", 1, MB),
        aim: None,
        value: |size| size.heartbeats[0].bytes_per_minute,
    },
    Line {
        what: "processor, a heartbeat of each node in 10 s",
        unit: ("% of a core", 2, 0.01),
        aim: None,
        value: |size| size.heartbeats[1].core,
    },
    Line {
        what: "bytes per minute from the API server meanwhile",
        unit: ("MB", 1, MB),
        aim: None,
        value: |size| size.heartbeats[1].bytes_per_minute,
    },
    Line { what: "kernel memory of all maps", unit: ("MiB", 1, MIB), aim: None, value: |size| size.map_bytes as f64 },
];

impl Line {
    fn number(&self, value: f64) -> String {
        let (_, decimals, divisor) = self.unit;
        apart(&format!("{:.decimals$}", value / divisor))
    }

    fn cell(&self, size: &Figures) -> String {
        let value = (self.value)(size);
        let verdict = match self.aim {
            Some(aim) if value <= aim => " met",
            Some(_) => " MISSED",
            None => "",
        };
        format!("{}{verdict}", self.number(value))
    }

    /// The figure, its unit, the aim, and a cell for every size.
    fn cells(&self, sizes: &[Figures]) -> Vec<String> {
        let aim = self.aim.map_or_else(String::new, |aim| format!("≤ {}", self.number(aim)));
        [self.what.to_owned(), self.unit.0.to_owned(), aim].into_iter().chain(sizes.iter().map(|size| self.cell(size))).collect()
    }
}

impl Report {
    fn rows(&self) -> Vec<Vec<String>> {
        let sizes = self.sizes.iter().map(|size| apart(&size.nodes.to_string()));
        let head = ["nodes", "", "aim"].map(ToOwned::to_owned).into_iter().chain(sizes).collect();
        std::iter::once(head).chain(LINES.iter().map(|line| line.cells(&self.sizes))).collect()
    }

    /// Aims met and all of them.
    fn tally(&self) -> (usize, usize) {
        let judged = LINES.iter().filter_map(|line| Some((line, line.aim?)));
        let verdicts = judged.flat_map(|(line, aim)| self.sizes.iter().map(move |size| (line.value)(size) <= aim));
        verdicts.fold((0, 0), |(met, all), good| (met + usize::from(good), all + 1))
    }

    fn conclusion(&self) -> String {
        let (met, all) = self.tally();
        format!("{met} of {all} aims met")
    }

    /// For a terminal.
    pub(super) fn text(&self) -> String {
        let rows = self.rows();
        let columns = rows.first().map_or(0, Vec::len);
        let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &rows {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                // Words to the left, numbers to the right.
                let _ = if column < 2 { write!(line, "{cell:<width$}  ") } else { write!(line, "{cell:>width$}  ") };
            }
            let _ = writeln!(text, "{}", line.trim_end());
        }
        let _ = writeln!(text, "\n{}", self.conclusion());
        text
    }

    /// For the documentation, without a heading of the first level.
    pub(super) fn markdown(&self) -> String {
        let Machine { cpu, cores, memory_mib, kernel } = &self.machine;
        let mut text = format!(
            "- Machine: {cores} cores of {cpu}, {memory_mib} MiB of memory\n- Kernel: Linux {kernel}\n- Command: `{}`\n- Revision: `{}`, \
             started {}\n- {}; windows of heartbeats of {} s\n\n",
            self.command,
            self.revision,
            self.started,
            self.conclusion(),
            self.window
        );
        for (index, row) in self.rows().iter().enumerate() {
            let _ = writeln!(text, "| {} |", row.join(" | "));
            if index == 0 {
                let _ = writeln!(text, "|---|---|--:|{}", "--:|".repeat(self.sizes.len()));
            }
        }
        if let Some(largest) = self.sizes.iter().max_by_key(|size| size.nodes) {
            text.push_str(&projection::markdown(largest));
        }
        text
    }
}
