//! A figure as a bar chart in SVG. Pure.
//!
//! Written out by hand, because what a reader of a benchmark needs is all here and no library draws it so: a bar up to the median, a line
//! from the lowest to the highest sample, a dot per round (the first at the top, so drift shows as a slant), numbers in columns, a mark where
//! a goal lies, and colours that follow the reader's light or dark mode. Nothing is told by colour alone, nothing is loaded from elsewhere.

use super::stats::Summary;
use super::unit::{self, Scale};
use super::verdict::{Judged, Verdict};
use super::{Figure, Report, Row, Side};
use maud::{Markup, PreEscaped, html};

/// Colours of the charts and the page, light and dark.
pub(super) const PALETTE: &str = include_str!("palette.css");

/// Looks of the charts.
pub(super) const CHART: &str = include_str!("chart.css");

/// Where a chart stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Alone in a file: it brings its colours and a background.
    File,
    /// In a page that has [`PALETTE`] and [`CHART`].
    Page,
}

// Everything in pixels of a chart that is not scaled.
const WIDTH: f64 = 860.0;
const MARGIN: f64 = 16.0;
const TOP: f64 = 64.0;
const PITCH: f64 = 32.0;
const BAR: f64 = 20.0;
const LINE: f64 = 20.0;
/// The column of the medians and that of the ratios.
const MEDIANS: f64 = 112.0;
const RATIOS: f64 = 74.0;
/// A character of 13 pixels is about so wide; labels longer than the column are cut.
const CHARACTER: f64 = 6.9;
const LABELS: (f64, f64) = (90.0, 230.0);

/// Name of a chart's file. Characters that are not for file names become dashes.
#[must_use]
pub fn file_name(row: &Row, figure: &Figure) -> String {
    format!("{}.svg", name(row, figure))
}

fn name(row: &Row, figure: &Figure) -> String {
    safe(&format!("{}-{}", row.id, figure.id))
}

/// An id as part of a file's name or of a link.
pub(super) fn safe(id: &str) -> String {
    id.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

/// What the parts of a drawing share.
struct Drawing<'a> {
    report: &'a Report,
    row: &'a Row,
    figure: &'a Figure,
    bars: Vec<Bar<'a>>,
    goals: Vec<Judged<'a>>,
    scale: Scale,
    /// Where bars begin and how long they may be.
    left: f64,
    span: f64,
    /// What is as long as `span`, in the figure's unit.
    full: f64,
}

struct Bar<'a> {
    contender: &'a str,
    samples: &'a [f64],
    summary: Option<Summary>,
    /// Upper edge.
    y: f64,
}

/// The chart of a figure.
#[must_use]
pub fn chart(report: &Report, row: &Row, figure: &Figure, placement: Placement) -> Markup {
    let drawing = Drawing::new(report, row, figure);
    let name = name(row, figure);
    let (title, about) = (format!("{name}-title"), format!("{name}-about"));
    let bottom = TOP + PITCH * count(drawing.bars.len());
    let notes = bottom + 44.0;
    let height = notes + LINE * count(drawing.goals.len() + 1) + 6.0;
    html! {
        svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-labelledby=(format!("{title} {about}")) {
            title id=(title) { (row.title) ": " (figure.title) }
            desc id=(about) { (drawing.words()) }
            @if placement == Placement::File {
                style { (PreEscaped(PALETTE)) (PreEscaped(CHART)) }
                rect class="paper" width=(WIDTH) height=(height) {}
            }
            (drawing.heading(placement))
            (drawing.axis(bottom))
            @for bar in &drawing.bars { (drawing.bar(bar)) }
            @for judged in &drawing.goals { (drawing.aim(judged)) }
            (drawing.legend(notes))
            @for (number, judged) in drawing.goals.iter().enumerate() {
                text class=(class(judged.verdict)) x=(MARGIN) y=(notes + LINE * count(number + 1)) { (goal_line(report, judged)) }
            }
        }
    }
}

/// A goal and what became of it, in a line.
pub(super) fn goal_line(report: &Report, judged: &Judged<'_>) -> String {
    let (contender, rival) = (report.title(&judged.goal.contender), report.title(&judged.goal.rival));
    let measured = if judged.ratio.is_some() { format!(", measured {}", judged.measured()) } else { String::new() };
    format!("{} goal {}: {contender} {} × {rival}{measured}", judged.verdict.mark(), judged.verdict.word(), judged.goal.bound)
}

/// The class of a verdict in the style sheets.
pub(super) fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Met(_) => "met",
        Verdict::Missed(_) => "missed",
        Verdict::NotMeasured => "not-measured",
    }
}

fn side_class(side: Side) -> &'static str {
    match side {
        Side::Ours => "ours",
        Side::OtherBuild => "other-build",
        Side::Rival => "rival",
        Side::Limit => "limit",
    }
}

impl<'a> Drawing<'a> {
    fn new(report: &'a Report, row: &'a Row, figure: &'a Figure) -> Self {
        let bars: Vec<Bar<'a>> = figure
            .series
            .iter()
            .enumerate()
            .map(|(number, series)| Bar {
                contender: &series.contender,
                samples: &series.samples,
                summary: figure.summary(&series.contender),
                y: TOP + PITCH * count(number) + (PITCH - BAR) / 2.0,
            })
            .collect();
        let scale = Scale::of(figure.unit, bars.iter().filter_map(|bar| Some(bar.summary?.median)));
        let longest = bars.iter().map(|bar| count(report.title(bar.contender).chars().count())).fold(0.0, f64::max);
        let left = MARGIN + (longest * CHARACTER).clamp(LABELS.0, LABELS.1) + 10.0;
        let columns = MEDIANS + if figure.reference.is_some() { RATIOS } else { 0.0 };
        let goals = row.judge(figure);
        let aims = goals.iter().filter_map(|judged| aim_at(figure, judged));
        let full = bars.iter().filter_map(|bar| Some(bar.summary?.highest)).chain(aims).fold(0.0, f64::max);
        let full = if full > 0.0 { full } else { 1.0 };
        Self { report, row, figure, bars, goals, scale, left, span: WIDTH - MARGIN - columns - left, full }
    }

    fn x(&self, value: f64) -> f64 {
        tenth(self.left + value.max(0.0) / self.full * self.span)
    }

    fn heading(&self, placement: Placement) -> Markup {
        let figure = self.figure;
        let title = match placement {
            Placement::File => format!("{}: {}", self.row.title, figure.title),
            Placement::Page => figure.title.clone(),
        };
        html! {
            text class="heading" x=(MARGIN) y="26" { (title) }
            text class="quiet" x=(MARGIN) y="46" { (figure.better.words()) }
            text class="quiet" x=(self.left + self.span + MEDIANS) y="46" text-anchor="end" { "median" }
            @if let Some(reference) = &figure.reference {
                text class="quiet" x=(WIDTH - MARGIN) y="46" text-anchor="end" { "× " (cut(self.report.title(reference), 10)) }
            }
        }
    }

    fn axis(&self, bottom: f64) -> Markup {
        let step = step(self.full / self.scale.factor()) * self.scale.factor();
        let ticks: Vec<f64> = (0..=12_u8).map(|tick| f64::from(tick) * step).take_while(|value| *value <= self.full * 1.0001).collect();
        html! {
            @for value in ticks {
                line class="grid" x1=(self.x(value)) x2=(self.x(value)) y1=(TOP) y2=(bottom + 2.0) {}
                text class="quiet number" x=(self.x(value)) y=(bottom + 18.0) text-anchor="middle" { (plain(value / self.scale.factor())) }
            }
            text class="quiet" x=(self.left + self.span + MEDIANS) y=(bottom + 18.0) text-anchor="end" { (self.scale.name) }
        }
    }

    fn bar(&self, bar: &Bar<'_>) -> Markup {
        let title = self.report.title(bar.contender);
        let middle = bar.y + BAR / 2.0;
        let text = middle + 4.5;
        let strong = if Side::of(bar.contender) == Side::Ours { "strong" } else { "" };
        html! {
            text class=(strong) x=(self.left - 10.0) y=(text) text-anchor="end" { title { (title) } (cut(title, 33)) }
            @if let Some(summary) = &bar.summary {
                rect class={ "bar " (side_class(Side::of(bar.contender))) } x=(self.left) y=(bar.y) width=(tenth(self.x(summary.median) - self.left)) height=(BAR) rx="2" {
                    title { (title) ": " (self.scale.with_unit(summary.median)) ", " (self.scale.number(summary.lowest)) " to " (self.scale.with_unit(summary.highest)) }
                }
                path class="range" d=(self.whisker(summary, middle)) {}
                @for (round, sample) in bar.samples.iter().enumerate().filter(|(_, sample)| sample.is_finite()) {
                    circle class="sample" cx=(self.x(*sample)) cy=(tenth(bar.y + BAR * (count(round) + 0.5) / count(bar.samples.len()))) r="2.2" {
                        title { "round " (round + 1) ": " (self.scale.with_unit(*sample)) }
                    }
                }
                text class={ "number " (strong) } x=(self.left + self.span + MEDIANS) y=(text) text-anchor="end" { (self.scale.with_unit(summary.median)) }
                (self.ratio(bar.contender, text))
            } @else {
                text class="not-measured" x=(self.left + 6.0) y=(text) {
                    "not measured"
                    @if let Some(remark) = self.row.remark(bar.contender) { ": " (cut(remark, 70)) }
                }
            }
        }
    }

    /// From the lowest sample to the highest, with a cap at both ends.
    fn whisker(&self, summary: &Summary, middle: f64) -> String {
        let (low, high) = (self.x(summary.lowest), self.x(summary.highest));
        let (up, down) = (middle - 5.0, middle + 5.0);
        format!("M{low} {up}V{down}M{low} {middle}H{high}M{high} {up}V{down}")
    }

    fn ratio(&self, contender: &str, y: f64) -> Markup {
        let is_reference = self.figure.reference.as_deref() == Some(contender);
        let ratio = self.figure.ratio_to_reference(contender);
        html! {
            @if is_reference {
                text class="quiet number" x=(WIDTH - MARGIN) y=(y) text-anchor="end" { "1" }
            } @else if let Some(ratio) = ratio {
                text class="number strong" x=(WIDTH - MARGIN) y=(y) text-anchor="end" { (unit::ratio(ratio.median)) }
            }
        }
    }

    /// A dashed line over the contender's bar where the goal lies, seen from the rival's median.
    fn aim(&self, judged: &Judged<'_>) -> Markup {
        let place = aim_at(self.figure, judged).zip(self.bars.iter().find(|bar| bar.contender == judged.goal.contender));
        html! {
            @if let Some((value, bar)) = place {
                line class={ "aim " (class(judged.verdict)) } x1=(self.x(value)) x2=(self.x(value)) y1=(bar.y - 4.0) y2=(bar.y + BAR + 4.0) {
                    title { (goal_line(self.report, judged)) }
                }
            }
        }
    }

    fn legend(&self, y: f64) -> Markup {
        let present = |side: &Side| self.bars.iter().any(|bar| Side::of(bar.contender) == *side);
        let mut x = MARGIN;
        let mut keys = Vec::new();
        for side in Side::ALL.into_iter().filter(present) {
            let words = side_words(side);
            keys.push((x, side, words));
            x += 18.0 + CHARACTER * 0.92 * count(words.chars().count()) + 16.0;
        }
        let aims = if self.goals.is_empty() { "" } else { " · dashed: a goal" };
        html! {
            @for (x, side, words) in keys {
                rect class={ "bar " (side_class(side)) } x=(x) y=(y - 10.0) width="12" height="12" rx="2" {}
                text class="quiet" x=(x + 18.0) y=(y) { (words) }
            }
            text class="quiet" x=(WIDTH - MARGIN) y=(y) text-anchor="end" { "bar: median · line: lowest to highest · dot: a round" (aims) }
        }
    }

    /// The chart for someone who does not see it.
    fn words(&self) -> String {
        let medians = self.bars.iter().map(|bar| {
            let title = self.report.title(bar.contender);
            bar.summary
                .map_or_else(|| format!("{title}: not measured"), |summary| format!("{title}: {}", self.scale.with_unit(summary.median)))
        });
        format!("Medians, {}. {}.", self.figure.better.words(), medians.collect::<Vec<_>>().join("; "))
    }
}

/// What a side is called in a legend.
pub(super) fn side_words(side: Side) -> &'static str {
    match side {
        Side::Ours => "this build",
        Side::OtherBuild => "another build",
        Side::Rival => "rivals",
        Side::Limit => "limits of the machine",
    }
}

/// Where a goal's bound lies beside the rival's median; `None` if one of the two was not measured.
fn aim_at(figure: &Figure, judged: &Judged<'_>) -> Option<f64> {
    judged.ratio?;
    Some(figure.summary(&judged.goal.rival)?.median * judged.goal.bound.ratio())
}

/// A round distance of ticks that gives four to nine of them.
fn step(full: f64) -> f64 {
    let rough = full / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|step| step * power).find(|step| *step >= rough).unwrap_or(10.0 * power)
}

/// A tick's number without the dust of binary fractions.
fn plain(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A tenth of a pixel is as exact as a chart gets.
fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Numbers of bars and characters are small.
fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::MAX, f64::from)
}

fn cut(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some(_) => text.chars().take(characters - 1).chain(['…']).collect(),
        None => text.to_owned(),
    }
}

#[cfg(test)]
#[path = "svg_tests.rs"]
mod tests;
