//! A measurement for a person.

use super::{Class, Measurement, RUNGS, Record, Series, Work};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use std::fmt::Write as _;

/// The figures as a table, and what follows from them.
#[must_use]
pub fn render_text(record: &Record) -> String {
    let Record { subject, measurement } = record;
    let mut text = format!("Measured {} on {subject}; medians, and beside tc\n", measurement.at);
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).force_no_tty();
    table.set_header(["", "TC", "XDP", "KERNEL", "XDP/TC", "KERNEL/TC", "UNIT"]);
    for series in &measurement.series {
        table.add_row(row(series));
    }
    for column in table.column_iter_mut().skip(1).take(5) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for line in table.lines() {
        let _ = writeln!(text, " {}", line.trim_end());
    }
    for (class, name) in [(Class::Virtual, "virtual"), (Class::Physical, "physical")] {
        let _ = writeln!(text, "{}", verdict(measurement, class, name));
    }
    text
}

fn row(series: &Series) -> Vec<String> {
    let (scale, unit) = match series.work {
        Work::Frames => (1e6, "Mpackets/s"),
        Work::Stream => (1e9 / 8.0, "Gbit/s"),
        Work::Requests => (1e3, "thousand/s"),
    };
    let number = |value: Option<f64>, scale: f64| value.map_or_else(|| "-".to_owned(), |value| format!("{:.2}", value / scale));
    let medians = (0..RUNGS.len()).map(|rung| number(series.median(rung), scale));
    let ratios = (1..RUNGS.len()).map(|rung| number(series.ratio(rung), 1.0));
    [series.work.title().to_owned()].into_iter().chain(medians).chain(ratios).chain([unit.to_owned()]).collect()
}

fn verdict(measurement: &Measurement, class: Class, name: &str) -> String {
    let choice = measurement.best(class);
    let speeds: Vec<String> = RUNGS.iter().zip(choice.speeds).map(|(rung, speed)| format!("{} {speed:.2}", rung.name())).collect();
    format!("On a {name} NIC: {} ({}; {} unless another is 5 % faster)", choice.rung.name(), speeds.join(", "), class.usual().name())
}
