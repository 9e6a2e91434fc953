//! The report as one HTML page. Pure.
//!
//! It needs nothing but itself: no script, no font, no picture from elsewhere. Texts reach the page through maud, which escapes them; only
//! our own style sheets are put in as they are.

use super::svg::{self, CHART, PALETTE, Placement, class, goal_line, side_words};
use super::unit::{self, Scale};
use super::verdict::Judged;
use super::{Figure, Report, Row, Side};
use maud::{DOCTYPE, Markup, PreEscaped, html};

const PAGE: &str = include_str!("page.css");

/// The page.
#[must_use]
pub fn html(report: &Report) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "Bench, " (report.started) }
                style { (PreEscaped(PALETTE)) (PreEscaped(CHART)) (PreEscaped(PAGE)) }
            }
            body {
                (head(report))
                (contents(report))
                main {
                    (goals(report))
                    (run(report))
                    (systems(report))
                    @for (number, (group, rows)) in report.groups().iter().enumerate() {
                        section {
                            (heading(2, &group_id(number), group))
                            @for row in rows { (work(report, row)) }
                        }
                    }
                }
                footer { "Made by " code { (report.command) } " from revision " code { (report.revision) } ". All samples are in " code { "report.json" } " beside this page." }
            }
        }
    };
    page.into_string()
}

fn head(report: &Report) -> Markup {
    let (machine, tally) = (&report.machine, report.tally());
    html! {
        header {
            h1 { "What the packet path can do" }
            p class="quiet" { (machine.cores) " cores of " (machine.cpu) ", Linux " (machine.kernel) ", " (report.started) }
            @if !report.verdicts().is_empty() {
                ul class="tiles" {
                    li class="met" { b { "✓ " (tally.met) } "goals met" }
                    li class="missed" { b { "✗ " (tally.missed) } "goals missed" }
                    li class="not-measured" { b { "– " (tally.not_measured) } "not measured" }
                }
            }
        }
    }
}

fn contents(report: &Report) -> Markup {
    html! {
        nav aria-label="Contents" {
            ul {
                li { a href="#goals" { "Goals" } }
                li { a href="#run" { "The run, and how to read it" } }
                li { a href="#systems" { "Who was measured" } }
                @for (number, (group, rows)) in report.groups().iter().enumerate() {
                    li {
                        a href={ "#" (group_id(number)) } { (group) }
                        ul { @for row in rows { li { a href={ "#" (row_id(row)) } { (row.title) } } } }
                    }
                }
            }
        }
    }
}

fn goals(report: &Report) -> Markup {
    let verdicts = report.verdicts();
    html! {
        section {
            (heading(2, "goals", "Goals"))
            @if verdicts.is_empty() {
                p { "The rows of this run have no goals." }
            } @else {
                p class="quiet" { "A goal is on the median of the ratios that two systems had in the same round." }
                div class="wide" { table {
                    thead { tr { th { "Work" } th { "Ratio" } th class="number" { "Goal" } th class="number" { "Measured" } th class="number" { "Range" } th { "" } } }
                    tbody { @for judged in &verdicts { (goal(report, judged)) } }
                } }
            }
        }
    }
}

fn goal(report: &Report, judged: &Judged<'_>) -> Markup {
    let goal = judged.goal;
    html! {
        tr {
            td { a href={ "#" (row_id(judged.row)) } { (judged.row.title) } br; span class="quiet" { (judged.figure.title) } }
            td { (report.title(&goal.contender)) " / " (report.title(&goal.rival)) }
            td class="number" { (goal.bound) }
            td class="number" { (judged.measured()) }
            td class="number" { @if let Some(ratio) = &judged.ratio { (unit::ratio(ratio.lowest)) "–" (unit::ratio(ratio.highest)) } }
            td class=(class(judged.verdict)) { (judged.verdict.mark()) " " (judged.verdict.word()) }
        }
    }
}

fn run(report: &Report) -> Markup {
    let machine = &report.machine;
    html! {
        section {
            (heading(2, "run", "The run, and how to read it"))
            dl {
                dt { "Command" } dd { code { (report.command) } }
                dt { "Started" } dd { time datetime=(report.started) { (report.started) } }
                dt { "Revision" } dd { code { (report.revision) } }
                dt { "Machine" } dd { (machine.cores) " cores of " (machine.cpu) ", " (machine.memory_mib) " MiB of memory" }
                dt { "Kernel" } dd { "Linux " (machine.kernel) }
                dt { "Samples" } dd { (report.rounds) " rounds of " (report.seconds) " s each" }
            }
            p {
                "All systems stand side by side on this machine, each between two nodes of its own. A row measures one after the other, then begins again: "
                "that is a round. When the machine drifts, it drifts for all of them."
            }
            p {
                "A bar ends at the " strong { "median" } " of the rounds. The thin line goes from the lowest to the highest, each dot is a round, the first one at the top. The "
                strong { "spread" } " is that line's length in percent of the median. " strong { "Ratios" }
                " are taken within each round; their median is shown. A dashed line shows where a goal lies."
            }
        }
    }
}

fn systems(report: &Report) -> Markup {
    html! {
        section {
            (heading(2, "systems", "Who was measured"))
            div class="wide" { table { tbody {
                @for info in &report.contenders {
                    tr { td { strong { (info.title) } br; code { (info.id) } } td { (info.what) } td class="quiet" { (side_words(Side::of(&info.id))) } }
                }
            } } }
        }
    }
}

fn work(report: &Report, row: &Row) -> Markup {
    html! {
        article {
            (heading(3, &row_id(row), &row.title))
            p class="quiet" { (row.what) }
            @if !row.remarks.is_empty() {
                ul class="remarks" { @for remark in &row.remarks { li { (report.remark_for_people(remark)) } } }
            }
            @for figure in &row.figures {
                figure { (svg::chart(report, row, figure, Placement::Page)) }
                details { summary { "Numbers of every round: " (figure.title) } (numbers(report, row, figure)) }
            }
        }
    }
}

/// Everything behind a chart.
fn numbers(report: &Report, row: &Row, figure: &Figure) -> Markup {
    let rounds = figure.series.iter().map(|series| series.samples.len()).max().unwrap_or(0);
    let summaries = figure.series.iter().map(|series| figure.summary(&series.contender));
    let scale = Scale::of(figure.unit, summaries.clone().filter_map(|summary| Some(summary?.median)));
    let number = |value: f64| if value.is_finite() { scale.number(value) } else { "–".to_owned() };
    html! {
        @if !scale.name.is_empty() { p class="quiet" { "In " (scale.name) "." } }
        div class="wide" { table {
            thead { tr {
                th { "" }
                @for name in ["median", "lowest", "quartile", "quartile", "highest", "spread"] { th class="number" { (name) } }
                @if let Some(reference) = &figure.reference { th class="number" { "ratio to " (report.title(reference)) } }
            } }
            tbody { @for (series, summary) in figure.series.iter().zip(summaries) { tr {
                td { (report.title(&series.contender)) }
                @match summary {
                    Some(of) => {
                        @for value in [of.median, of.lowest, of.lower_quartile, of.upper_quartile, of.highest] { td class="number" { (number(value)) } }
                        td class="number" { (unit::percent(of.spread())) }
                    }
                    None => td colspan="6" class="not-measured" { "not measured" @if let Some(remark) = row.remark(&series.contender) { ": " (remark) } },
                }
                @if let Some(ratio) = figure.ratio_to_reference(&series.contender) {
                    td class="number" { (unit::ratio(ratio.median)) " (" (unit::ratio(ratio.lowest)) "–" (unit::ratio(ratio.highest)) ")" }
                }
            } } }
        } }
        div class="wide" { table {
            thead { tr { th { "round" } @for round in 1..=rounds { th class="number" { (round) } } } }
            tbody { @for series in &figure.series { tr {
                td { (report.title(&series.contender)) }
                @for sample in &series.samples { td class="number" { (number(*sample)) } }
            } } }
        } }
        @for judged in &row.judge(figure) { p class=(class(judged.verdict)) { (goal_line(report, judged)) } }
    }
}

/// A heading that can be linked to.
fn heading(level: u8, id: &str, text: &str) -> Markup {
    let link = html! { a class="more" href={ "#" (id) } aria-label="Link to this section" { "#" } };
    html! {
        @if level == 2 { h2 id=(id) { (text) (link) } } @else { h3 id=(id) { (text) (link) } }
    }
}

fn group_id(number: usize) -> String {
    format!("group-{number}")
}

fn row_id(row: &Row) -> String {
    format!("row-{}", svg::safe(&row.id))
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn a_missed_goal_is_shown_as_missed_before_any_chart() {
        let page = html(&fixture::report());
        let (goals, _) = page.split_once("<svg").unwrap();
        assert!(goals.contains("<td class=\"missed\">✗ MISSED</td>"), "{goals}");
        assert!(goals.contains("<td class=\"met\">✓ met</td>") && goals.contains("<td class=\"not-measured\">– not measured</td>"));
    }

    #[test]
    fn texts_of_a_report_stay_texts() {
        let page = html(&fixture::hostile());
        assert!(!page.contains("<script") && page.contains("&lt;script&gt;alert(&quot;1&quot;)"), "{page}");
        // Attributes: nothing ends a quoted value early.
        assert!(!page.contains("alert(\"1\")"));
    }

    #[test]
    fn the_page_loads_nothing() {
        let page = html(&fixture::report());
        let namespace = "xmlns=\"http://www.w3.org/2000/svg\"";
        assert_eq!(page.matches("://").count(), page.matches(namespace).count());
        for foreign in ["<link", "<img", "<script", "src=", "url(", "@import"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
    }

    #[test]
    fn every_link_has_its_place_and_every_id_is_there_once() {
        let page = html(&fixture::report());
        let values =
            |attribute: &str| page.split(attribute).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect::<Vec<_>>();
        let mut ids = values(" id=\"");
        for link in values("href=\"#") {
            assert!(ids.contains(&link), "{link}");
        }
        let all = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), all);
    }

    #[test]
    fn every_sample_and_every_reason_is_there() {
        let report = fixture::report();
        let page = html(&report);
        assert_eq!(page.matches("<details>").count(), report.rows.iter().map(|row| row.figures.len()).sum::<usize>());
        assert!(
            page.contains("not measured: the NIC&#39;s driver has no XDP") || page.contains("not measured: the NIC's driver has no XDP")
        );
    }
}
