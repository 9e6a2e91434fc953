//! What charts and page look alike in: colours, the style sheets' classes, and words for what a colour says. Pure.

use super::Side;
use super::verdict::Verdict;

/// Colours of the charts and the page, light and dark.
pub(super) const PALETTE: &str = include_str!("palette.css");

/// Looks of the charts.
pub(super) const CHART: &str = include_str!("chart.css");

/// What a side is called in a legend.
pub(super) fn side_words(side: Side) -> &'static str {
    match side {
        Side::Ours => "this build",
        Side::OtherBuild => "another build",
        Side::Rival => "rival",
        Side::Limit => "limit",
    }
}

/// The class of a verdict in the style sheets.
pub(super) fn verdict_class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Met(_) => "met",
        Verdict::Missed(_) => "missed",
        Verdict::NotMeasured => "not-measured",
    }
}

/// The class of a side in the style sheets.
pub(super) fn side_class(side: Side) -> &'static str {
    match side {
        Side::Ours => "ours",
        Side::OtherBuild => "other-build",
        Side::Rival => "rival",
        Side::Limit => "limit",
    }
}

/// An id as part of a file's name or of a link.
pub(super) fn safe(id: &str) -> String {
    id.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}
