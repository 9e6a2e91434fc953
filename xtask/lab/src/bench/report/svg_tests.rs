use super::super::fixture;
use super::*;
use roxmltree::{Document, Node};

fn charts(report: &Report) -> Vec<String> {
    let figures = report.rows.iter().flat_map(|row| row.figures.iter().map(move |figure| (row, figure)));
    figures.map(|(row, figure)| chart(report, row, figure, Placement::File).into_string()).collect()
}

fn of_class<'a>(document: &'a Document<'_>, class: &str) -> Vec<Node<'a, 'a>> {
    document.descendants().filter(|node| node.attribute("class").is_some_and(|has| has.split(' ').any(|has| has == class))).collect()
}

fn text(node: Node<'_, '_>) -> String {
    node.descendants().filter(Node::is_text).filter_map(|node| node.text()).collect()
}

fn number(node: Node<'_, '_>, attribute: &str) -> f64 {
    node.attribute(attribute).unwrap().parse().unwrap()
}

#[test]
fn every_chart_is_xml_with_a_title_and_a_description() {
    for report in [fixture::report(), fixture::hostile()] {
        for chart in charts(&report) {
            let document = Document::parse(&chart).unwrap_or_else(|error| panic!("{error} in {chart}"));
            let svg = document.root_element();
            assert_eq!(svg.tag_name().namespace(), Some("http://www.w3.org/2000/svg"));
            let ids: Vec<&str> = document.descendants().filter_map(|node| node.attribute("id")).collect();
            assert_eq!(svg.attribute("aria-labelledby").map(|ids| ids.split(' ').collect::<Vec<_>>()), Some(ids));
            assert!(document.descendants().all(|node| !matches!(node.tag_name().name(), "script" | "image" | "use")), "{chart}");
        }
    }
}

#[test]
fn hostile_texts_stay_texts() {
    let report = fixture::hostile();
    for chart in charts(&report) {
        let document = Document::parse(&chart).unwrap();
        assert!(text(of_class(&document, "heading")[0]).contains("<script>alert(\"1\")</script>"), "{chart}");
    }
}

#[test]
fn a_bar_is_as_long_as_its_median_and_every_sample_has_a_dot() {
    let report = fixture::report();
    let (row, figure) = (&report.rows[0], &report.rows[0].figures[0]);
    let chart = chart(&report, row, figure, Placement::File).into_string();
    let document = Document::parse(&chart).unwrap();
    let samples: usize = figure.series.iter().map(|series| series.samples.len()).sum();
    assert_eq!(of_class(&document, "sample").len(), samples);
    // In the chart, in the order of the series; the legend's squares come behind.
    let lengths: Vec<f64> = of_class(&document, "bar").iter().take(6).map(|bar| number(*bar, "width")).collect();
    let medians: Vec<f64> = figure.series.iter().filter_map(|series| Some(figure.summary(&series.contender)?.median)).collect();
    for (length, median) in lengths.iter().zip(&medians) {
        assert!((length / lengths[0] - median / medians[0]).abs() < 0.01, "{lengths:?} for {medians:?}");
    }
}

#[test]
fn everything_lies_inside_the_chart() {
    for chart in charts(&fixture::report()) {
        let document = Document::parse(&chart).unwrap();
        let size: Vec<f64> = document.root_element().attribute("viewBox").unwrap().split(' ').map(|part| part.parse().unwrap()).collect();
        for node in document.descendants() {
            for (attribute, limit) in [("x", size[2]), ("x1", size[2]), ("cx", size[2]), ("y", size[3]), ("y2", size[3]), ("cy", size[3])] {
                let Some(place) = node.attribute(attribute) else { continue };
                let place: f64 = place.parse().unwrap();
                assert!((0.0..=limit).contains(&place), "{attribute}={place} beyond {limit} in {chart}");
            }
        }
    }
}

#[test]
fn who_was_not_measured_and_which_goal_was_missed_is_said_in_words() {
    let report = fixture::report();
    let chart = charts(&report).swap_remove(0);
    let document = Document::parse(&chart).unwrap();
    let said: Vec<String> = of_class(&document, "not-measured").into_iter().map(text).collect();
    assert_eq!(said, ["not measured: the NIC's driver has no XDP", "– goal not measured: XDP redirect ≥ 3.5 × flannel"]);
    let missed: Vec<String> = of_class(&document, "missed").into_iter().map(text).filter(|text| text.starts_with('✗')).collect();
    assert!(missed.iter().any(|text| text.starts_with("✗ goal MISSED: XDP ≥ 3.5 × flannel, measured 2.8")), "{missed:?}");
}

#[test]
fn counts_that_are_all_zero_can_be_drawn() {
    let mut report = fixture::report();
    let row = &mut report.rows[3];
    for series in &mut row.figures[2].series {
        series.samples.fill(0.0);
    }
    let chart = chart(&report, &report.rows[3], &report.rows[3].figures[2], Placement::File).into_string();
    assert!(Document::parse(&chart).is_ok() && !chart.contains("NaN") && !chart.contains("inf\""), "{chart}");
}

#[test]
fn ticks_are_round_and_few() {
    for (full, expected) in [(17.5, 5.0), (1.0, 0.2), (0.87, 0.2), (3.4, 1.0), (45_210.0, 10_000.0), (99.0, 20.0)] {
        assert!((step(full) / expected - 1.0).abs() < 1e-9, "{full}: {}", step(full));
        assert!((3.0..=10.0).contains(&(full / step(full)).floor()), "{full}");
    }
    assert_eq!(plain(0.1 + 0.2), "0.3");
    assert_eq!(plain(5.0), "5");
}
