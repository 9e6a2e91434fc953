//! The report for a person at a terminal: a block per row, all goals at the end. Pure, but for [`Style::of_stdout`].

use super::unit::{self, Scale};
use super::verdict::{Judged, Verdict};
use super::{Figure, Report, Row};
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, LineStyle, Table, TableStyle, presets};
use std::fmt::Write as _;
use std::io::IsTerminal as _;

/// Columns where the width of the terminal is not known.
const WIDTH: u16 = 100;

/// Wider lines than this are hard to follow.
const WIDEST: u16 = 120;

/// How text is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Whether colours may be used.
    pub colour: bool,
    /// Characters in a line.
    pub width: u16,
}

impl Style {
    /// Colours only on a terminal, and there only without `NO_COLOR`; as wide as the terminal.
    #[must_use]
    pub fn of_stdout() -> Self {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let width = Table::new().set_content_arrangement(ContentArrangement::Dynamic).width().unwrap_or(WIDTH);
        Self { colour, width: width.min(WIDEST) }
    }
}

/// The whole report: what ran where, a block per row, and all goals.
#[must_use]
pub fn text(report: &Report, style: Style) -> String {
    let mut text = head(report, style);
    for (group, rows) in report.groups() {
        text.push('\n');
        text.push_str(&line(Cell::new(group.to_uppercase()).add_attribute(Attribute::Bold), style));
        for each in rows {
            text.push('\n');
            text.push_str(&row(report, each, style));
        }
    }
    text.push('\n');
    text.push_str(&goals(report, style));
    text
}

/// One row: what was done, a table per figure with its goals, and what there is to remark.
#[must_use]
pub fn row(report: &Report, row: &Row, style: Style) -> String {
    let mut text = line(Cell::new(&row.title).add_attribute(Attribute::Bold), style);
    text.push_str(&indented(&line(Cell::new(&row.what).add_attribute(Attribute::Dim), inside(style))));
    for figure in &row.figures {
        text.push('\n');
        let direction = format!("{}, {}", figure.title, figure.better.words());
        text.push_str(&indented(&line(Cell::new(direction), inside(style))));
        text.push_str(&indented(&contenders(report, figure, inside(style))));
        let judged = row.judge(figure);
        if !judged.is_empty() {
            text.push('\n');
            text.push_str(&indented(&goal_lines(report, &judged, inside(style))));
        }
    }
    if !row.remarks.is_empty() {
        text.push('\n');
    }
    for remark in &row.remarks {
        text.push_str(&indented(&line(Cell::new(format!("! {}", report.remark_for_people(remark))).fg(Color::Yellow), inside(style))));
    }
    text
}

/// Every goal of the run, and how many were met.
#[must_use]
pub fn goals(report: &Report, style: Style) -> String {
    let judged = report.verdicts();
    let rung = report.rung_check().map(|check| line(Cell::new(format!("RUNG: {check}")), style)).unwrap_or_default();
    if judged.is_empty() {
        return rung;
    }
    let mut text = line(Cell::new("GOALS").add_attribute(Attribute::Bold), style);
    text.push('\n');
    text.push_str(&indented(&goal_table(report, &judged, inside(style))));
    let tally = report.tally();
    let colour = if tally.missed > 0 { Color::Red } else { Color::Green };
    text.push('\n');
    text.push_str(&indented(&line(Cell::new(tally).fg(colour).add_attribute(Attribute::Bold), inside(style))));
    text.push_str(&rung);
    text
}

fn head(report: &Report, style: Style) -> String {
    let machine = &report.machine;
    let mut text = String::new();
    let mut add = |said: String| text.push_str(&line(Cell::new(said), style));
    add(format!("{} cores of {}, {} MiB, Linux {}", machine.cores, machine.cpu, machine.memory_mib, machine.kernel));
    add(format!("revision {}, started {}, {}", report.revision, report.started, report.command));
    add(format!(
        "{} rounds, contenders in turn in each, {} s per sample. Shown: the median; spread = (highest − lowest) / median; \
         the median of the ratios round by round, with their range",
        report.rounds, report.seconds
    ));
    text
}

fn contenders(report: &Report, figure: &Figure, style: Style) -> String {
    let summaries: Vec<_> = figure.series.iter().map(|series| (series, figure.summary(&series.contender))).collect();
    let scale = Scale::of(figure.unit, summaries.iter().filter_map(|(_, summary)| Some(summary.as_ref()?.median)));
    let mut table = table(style);
    let mut header = vec![Cell::new(""), Cell::new(if scale.name.is_empty() { "number" } else { scale.name }), Cell::new("spread")];
    if let Some(reference) = &figure.reference {
        header.push(Cell::new(format!("to {}", report.title(reference))));
        header.push(Cell::new("range"));
    }
    table.set_header(header);
    for (series, summary) in summaries {
        let mut cells = vec![Cell::new(report.title(&series.contender))];
        match &summary {
            Some(summary) => cells.extend([Cell::new(scale.number(summary.median)), Cell::new(unit::percent(summary.spread()))]),
            None => cells.extend([Cell::new("not measured").fg(Color::Yellow), Cell::new("")]),
        }
        if figure.reference.as_deref() == Some(series.contender.as_str()) {
            cells.extend([Cell::new("1"), Cell::new("")]);
        } else if let Some(ratio) = figure.ratio_to_reference(&series.contender) {
            cells.push(Cell::new(unit::ratio(ratio.median)).add_attribute(Attribute::Bold));
            cells.push(Cell::new(range(&ratio)));
        }
        table.add_row(cells);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    flush_left(&mut table);
    lines(&table)
}

fn range(ratio: &super::stats::Summary) -> String {
    format!("{}–{}", unit::ratio(ratio.lowest), unit::ratio(ratio.highest))
}

/// The goals of one figure, a line each.
fn goal_lines(report: &Report, judged: &[Judged<'_>], style: Style) -> String {
    let mut table = table(style);
    for judged in judged {
        table.add_row(goal_cells("goal ", report, judged));
    }
    flush_left(&mut table);
    lines(&table)
}

/// All goals, below the work they are on.
fn goal_table(report: &Report, judged: &[Judged<'_>], style: Style) -> String {
    let mut table = table(style);
    table.set_header(["", "goal", "measured", "range", ""]);
    let mut before = None;
    for judged in judged {
        let work = format!("{}: {}, {}", judged.row.group, judged.row.title, judged.figure.title);
        if before.as_ref() != Some(&work) {
            table.add_row([&work]);
        }
        table.add_row(goal_cells("  ", report, judged));
        before = Some(work);
    }
    flush_left(&mut table);
    lines(&table)
}

fn goal_cells(indent: &str, report: &Report, judged: &Judged<'_>) -> [Cell; 5] {
    let goal = judged.goal;
    [
        Cell::new(format!("{indent}{} / {}", report.title(&goal.contender), report.title(&goal.rival))),
        Cell::new(goal.bound),
        Cell::new(judged.measured()).set_alignment(CellAlignment::Right),
        Cell::new(judged.ratio.as_ref().map(range).unwrap_or_default()).set_alignment(CellAlignment::Right),
        Cell::new(format!("{} {}", judged.verdict.mark(), judged.verdict.word())).fg(verdict_colour(judged.verdict)),
    ]
}

fn verdict_colour(verdict: Verdict) -> Color {
    match verdict {
        Verdict::Met(_) => Color::Green,
        Verdict::Missed(_) => Color::Red,
        Verdict::NotMeasured => Color::Yellow,
    }
}

fn table(style: Style) -> Table {
    let mut table = Table::new();
    table
        .load_style(TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─')))
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(style.width);
    if style.colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table
}

/// Prose, wrapped to the width.
fn line(cell: Cell, style: Style) -> String {
    let mut table = table(style);
    table.load_style(presets::NOTHING).add_row([cell]);
    flush_left(&mut table);
    lines(&table)
}

/// Takes away what comfy-table puts before the first column.
fn flush_left(table: &mut Table) {
    if let Some(column) = table.column_mut(0) {
        column.set_padding((0, 1));
    }
}

/// The table without the blanks comfy-table pads lines with.
fn lines(table: &Table) -> String {
    table.lines().fold(String::new(), |text, line| text + line.trim_end() + "\n")
}

fn inside(style: Style) -> Style {
    Style { width: style.width.saturating_sub(2), ..style }
}

fn indented(text: &str) -> String {
    text.lines().fold(String::new(), |mut indented, line| {
        // Writing to a String does not fail.
        let _ = writeln!(indented, "  {line}");
        indented
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    const PLAIN: Style = Style { colour: false, width: 100 };

    #[test]
    fn a_missed_goal_says_so_without_colour_and_lines_keep_to_the_width() {
        for width in [80, 100, 120] {
            let text = text(&fixture::report(), Style { width, ..PLAIN });
            assert!(text.contains("✗ MISSED") && text.contains("✓ met") && text.contains("– not measured"), "{text}");
            let longest = text.lines().map(|line| line.chars().count()).max();
            assert!(longest <= Some(usize::from(width)), "{longest:?} in\n{text}");
        }
    }

    #[test]
    fn the_last_line_counts_the_goals() {
        let report = fixture::report();
        let text = text(&report, PLAIN);
        assert_eq!(text.lines().last().map(str::trim), Some(report.tally().to_string().as_str()), "{text}");
    }

    #[test]
    fn who_was_not_measured_is_listed_with_the_reason() {
        let report = fixture::report();
        let text = row(&report, &report.rows[0], PLAIN);
        let line = text.lines().find(|line| line.contains("XDP redirect") && line.contains("not measured"));
        assert!(line.is_some(), "{text}");
        assert!(text.contains("! XDP redirect: the NIC's driver has no XDP"), "{text}");
    }

    #[test]
    fn ratios_and_units_stand_in_the_line_of_their_contender() {
        let report = fixture::report();
        let text = row(&report, &report.rows[0], PLAIN);
        let line = text.lines().find(|line| line.trim_start().starts_with("TC ")).unwrap_or_default();
        assert!(text.contains("Mpps") && text.contains("to flannel"), "{text}");
        assert!(line.contains("3.05") && line.contains("2.56"), "{text}");
    }

    #[test]
    fn colours_only_where_they_are_wanted() {
        let report = fixture::report();
        assert!(!text(&report, PLAIN).contains('\u{1b}'));
        assert!(text(&report, Style { colour: true, ..PLAIN }).contains('\u{1b}'));
    }
}
