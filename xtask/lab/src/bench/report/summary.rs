//! The report as Markdown: the generated part of docs/performance.md. Touches only the file that [`update`] is told.

use super::unit::{self, Scale};
use super::verdict::Verdict;
use super::{Figure, Report, Row};
use anyhow::{Context as _, Result, bail};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// The line the generated part begins behind.
pub const BEGIN: &str = "<!-- bench:begin -->";

/// The line it ends before.
pub const END: &str = "<!-- bench:end -->";

/// Puts the report between the two markers of a document; everything else in it stays.
pub fn update(path: &Path, report: &Report) -> Result<()> {
    replace_part(path, &markdown(report))
}

/// Puts Markdown between the two markers of a document.
pub fn replace_part(path: &Path, part: &str) -> Result<()> {
    let shown = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    let text = replaced(&text, part).with_context(|| format!("cannot update {shown}"))?;
    fs::write(path, text).with_context(|| format!("cannot write {shown}"))
}

fn replaced(document: &str, part: &str) -> Result<String> {
    let marker = |marker: &str| {
        let mut lines = document.match_indices(marker).filter(|(at, _)| alone_in_line(document, *at, marker));
        match (lines.next(), lines.next()) {
            (Some((at, _)), None) => Ok(at),
            (None, _) => bail!("no line is `{marker}`: the generated part goes between `{BEGIN}` and `{END}`"),
            _ => bail!("several lines are `{marker}`: one of them is too many"),
        }
    };
    let (begin, end) = (marker(BEGIN)? + BEGIN.len(), marker(END)?);
    if end < begin {
        bail!("`{END}` comes before `{BEGIN}`");
    }
    Ok(format!("{}\n\n{}\n{}", &document[..begin], part, &document[end..]))
}

fn alone_in_line(document: &str, at: usize, marker: &str) -> bool {
    let (before, after) = (&document[..at], &document[at + marker.len()..]);
    (before.is_empty() || before.ends_with('\n')) && (after.is_empty() || after.starts_with('\n'))
}

/// The report as Markdown, without a heading of the first level.
#[must_use]
pub fn markdown(report: &Report) -> String {
    let mut text = head(report);
    if let Some(check) = report.rung_check() {
        let _ = writeln!(text, "- The rung: {}", inline(&check.to_string()));
    }
    text.push_str(&goals(report));
    for (group, rows) in report.groups() {
        let reference = one_reference(&rows);
        let ratio = reference.map_or_else(|| "Ratio".to_owned(), |reference| format!("Ratio to {}", inline(report.title(reference))));
        let _ = write!(text, "\n### {}\n\n| Work | System | Median | Spread | {ratio} |\n|---|---|--:|--:|--:|\n", inline(group));
        for row in &rows {
            for figure in &row.figures {
                text.push_str(&lines(report, row, figure, reference.is_none()));
            }
        }
        for row in rows.iter().filter(|row| !row.remarks.is_empty()) {
            for remark in &row.remarks {
                let _ = write!(text, "\n- {}: {}", inline(&row.title), inline(&report.remark_for_people(remark)));
            }
            text.push('\n');
        }
    }
    text
}

fn head(report: &Report) -> String {
    let machine = &report.machine;
    format!(
        "- Machine: {} cores of {}, {} MiB of memory\n- Kernel: Linux {}\n- Command: {}\n- Revision: {}, started {}\n\
         - {} rounds with the systems in turn, {} s per sample; medians, and ratios round by round with their range\n",
        machine.cores,
        inline(&machine.cpu),
        machine.memory_mib,
        inline(&machine.kernel),
        code(&report.command),
        code(&report.revision),
        inline(&report.started),
        report.rounds,
        report.seconds
    )
}

fn goals(report: &Report) -> String {
    let verdicts = report.verdicts();
    if verdicts.is_empty() {
        return String::new();
    }
    let mut text = format!("\n### Goals: {}\n\n| Work | Ratio | Goal | Measured | |\n|---|---|--:|--:|---|\n", report.tally());
    for judged in verdicts {
        let ratio =
            judged.ratio.map(|ratio| format!(" ({}–{})", unit::ratio(ratio.lowest), unit::ratio(ratio.highest))).unwrap_or_default();
        // Bold, because a table on GitHub has no colours.
        let word = if matches!(judged.verdict, Verdict::Missed(_)) {
            format!("**{}**", judged.verdict.word())
        } else {
            judged.verdict.word().to_owned()
        };
        let _ = writeln!(
            text,
            "| {}: {} | {} / {} | {} | {}{ratio} | {word} |",
            inline(&judged.row.title),
            inline(&judged.figure.title),
            inline(report.title(&judged.goal.contender)),
            inline(report.title(&judged.goal.rival)),
            judged.goal.bound,
            judged.measured(),
        );
    }
    text
}

/// The reference that all figures of a group have, if it is the same one for all that have any.
fn one_reference<'a>(rows: &[&'a Row]) -> Option<&'a str> {
    let mut references = rows.iter().flat_map(|row| &row.figures).filter_map(|figure| figure.reference.as_deref());
    let first = references.next()?;
    references.all(|reference| reference == first).then_some(first)
}

/// A line per contender; the work is named in the first one.
fn lines(report: &Report, row: &Row, figure: &Figure, name_reference: bool) -> String {
    let summaries: Vec<_> = figure.series.iter().map(|series| (series, figure.summary(&series.contender))).collect();
    let scale = Scale::of(figure.unit, summaries.iter().filter_map(|(_, summary)| Some(summary.as_ref()?.median)));
    let mut text = String::new();
    let mut work = format!("{}: {}", inline(&row.title), inline(&figure.title));
    for (series, summary) in summaries {
        let (median, spread) = match &summary {
            Some(summary) => (scale.with_unit(summary.median), unit::percent(summary.spread())),
            None => ("not measured".to_owned(), String::new()),
        };
        let ratio = figure.ratio_to_reference(&series.contender).map(|ratio| {
            let to = figure
                .reference
                .as_deref()
                .filter(|_| name_reference)
                .map(|to| format!(" to {}", inline(report.title(to))))
                .unwrap_or_default();
            format!("{}{to} ({}–{})", unit::ratio(ratio.median), unit::ratio(ratio.lowest), unit::ratio(ratio.highest))
        });
        let ratio =
            ratio.unwrap_or_else(|| if figure.reference.as_ref() == Some(&series.contender) { "1".to_owned() } else { String::new() });
        let _ = writeln!(text, "| {work} | {} | {median} | {spread} | {ratio} |", inline(report.title(&series.contender)));
        work.clear();
    }
    text
}

/// Text inside a line: what Markdown or HTML would read as theirs is escaped.
fn inline(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, c| {
        match c {
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' => escaped.extend(['\\', c]),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '\n' | '\r' => escaped.push(' '),
            c => escaped.push(c),
        }
        escaped
    })
}

/// A command, as it is. A backquote in it takes two around it.
fn code(text: &str) -> String {
    let text = text.replace(['\n', '\r'], " ");
    if text.contains('`') { format!("`` {text} ``") } else { format!("`{text}`") }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn a_missed_goal_is_shown_as_missed_and_what_was_not_measured_says_why() {
        let text = markdown(&fixture::report());
        assert!(text.contains("| XDP / flannel | ≥ 3.5 | 2.8") && text.contains(") | **MISSED** |"), "{text}");
        assert!(text.contains("| XDP redirect / flannel | ≥ 3.5 | – | not measured |"), "{text}");
        assert!(text.contains("|  | XDP redirect | not measured |  |  |"), "{text}");
        assert!(text.contains("- One flow of 64-byte packets: XDP redirect: the NIC's driver has no XDP"), "{text}");
    }

    #[test]
    fn a_line_of_a_table_has_as_many_cells_as_its_header_whatever_the_texts() {
        for report in [fixture::report(), fixture::hostile()] {
            let text = markdown(&report);
            let cells = |line: &str| line.replace("\\|", "").matches('|').count();
            for table in text.split("\n\n").filter(|part| part.starts_with('|')) {
                let expected = cells(table.lines().next().unwrap());
                assert!(table.lines().filter(|line| line.starts_with('|')).all(|line| cells(line) == expected), "{table}");
            }
            // In the head the command stands between backquotes, as it is.
            assert!(text.split("\n### ").skip(1).all(|part| !part.contains("<script")), "{text}");
        }
    }

    #[test]
    fn only_what_lies_between_the_markers_changes_and_again_is_the_same() {
        let document = format!("# Title\nbefore `{BEGIN}`\n\n{BEGIN}\nold\n{END}\n\nafter\n");
        let once = replaced(&document, "new\n").unwrap();
        assert_eq!(once, format!("# Title\nbefore `{BEGIN}`\n\n{BEGIN}\n\nnew\n\n{END}\n\nafter\n"));
        assert_eq!(replaced(&once, "new\n").unwrap(), once);
    }

    #[test]
    fn a_document_without_its_markers_is_left_alone() {
        for broken in ["", BEGIN, END, &format!("{END}\n{BEGIN}\n"), &format!("{BEGIN}\n{BEGIN}\n{END}\n")] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("performance.md");
            fs::write(&path, broken).unwrap();
            let error = format!("{:#}", update(&path, &fixture::report()).unwrap_err());
            assert!(error.contains("performance.md") && error.contains("bench:"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), broken);
        }
    }

    #[test]
    fn the_project_s_document_has_its_markers() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/performance.md");
        let text = fs::read_to_string(path).unwrap();
        assert!(replaced(&text, &markdown(&fixture::report())).unwrap().contains("### Goals: "));
    }
}
