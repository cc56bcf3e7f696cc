//! Figures hold what they were given, within bounds, whatever the values are.
use proptest::prelude::*;

use super::*;

fn figure() -> Figure {
    Figure::new("f", "A <caption>", Axis::linear("x (s)"), Axis::linear("y (\"n\")"))
}

/// How often `part` stands in `html`.
fn count(html: &str, part: &str) -> usize {
    html.matches(part).count()
}

#[test]
fn text_is_escaped_and_a_legend_stands_where_there_are_two_names() {
    let one = figure().line("a&b", &[(0.0, 1.0), (1.0, 2.0)]).note("n < 3").render();
    assert!(
        one.starts_with("<figure id=\"f\" class=\"plot\"><figcaption>A &lt;caption&gt;<p class=\"note\">n &lt; 3</p>")
    );
    assert!(one.contains("a&amp;b\nx (s): 1\ny (&quot;n&quot;): 2</title>") && !one.contains("legend"), "{one}");
    let two = figure().line("a", &[(0.0, 1.0)]).steps("b", &[(0.0, 1.0)]).horizontal("limit", 0.5).render();
    assert!(two.contains("<li class=\"c1\"><i></i>b</li>") && two.contains("<path class=\"rule c2\""), "{two}");
    assert_eq!(escape("a\u{1b}[0m"), "a�[0m");
}

#[test]
fn nothing_to_draw_says_so() {
    for empty in [
        figure(),
        figure().line("a", &[]),
        figure().line("a", &[(f64::NAN, 1.0), (1.0, f64::INFINITY)]),
        figure().bars("a", &[Bar { from: 0.0, to: 1.0, height: 0.0 }]),
        Figure::new("f", "c", Axis::log("x"), Axis::linear("y")).scatter("a", &[(0.0, 1.0), (-1.0, 1.0)]),
    ] {
        let html = empty.render();
        assert!(html.contains("nothing to draw") && !html.contains("<svg"), "{html}");
    }
}

#[test]
fn every_kind_of_mark_is_drawn_where_it_belongs() {
    let html = figure()
        .bars("b", &[Bar { from: 0.0, to: 5.0, height: 10.0 }, Bar { from: 5.0, to: 10.0, height: 5.0 }])
        .scatter("s", &[(5.0, 5.0)])
        .vertical("v", 2.5)
        .render();
    assert!(html.contains("<rect class=\"bar c0\" x=\"62.0\" y=\"12.0\" width=\"281.0\" height=\"242.0\">"), "{html}");
    assert!(html.contains("<circle class=\"dot c1\" cx=\"344.0\" cy=\"133.0\""), "{html}");
    assert!(html.contains("<path class=\"rule c2\" d=\"M203.0 12V254\""), "{html}");
    let cell = |x: f64, value| Cell { x: (x, x + 1.0), y: (0.0, 1.0), value };
    let heat = figure().heat("requests", &[cell(0.0, 4.0), cell(1.0, 1.0), cell(2.0, 0.0)]).render();
    assert!(heat.contains("fill-opacity=\"1.000\"") && heat.contains("fill-opacity=\"0.540\""), "{heat}");
    assert_eq!(count(&heat, "class=\"cell\""), 2);
    let steps = figure().steps("s", &[(0.0, 0.0), (1.0, 2.0)]).render();
    assert!(steps.contains("d=\"M62.0 254.0H626.0V12.0\""), "{steps}");
}

#[test]
fn a_million_points_are_a_small_path_that_keeps_the_spike() {
    let mut points: Vec<(f64, f64)> = (0..1_000_000).map(|i| (f64::from(i), f64::from(i % 7))).collect();
    points[777_777].1 = 1000.0;
    let html = figure().line("a", &points).scatter("b", &points).render();
    assert!(html.len() < 2_000_000, "{}", html.len());
    let spike = html.lines().find(|line| line.contains("class=\"line c0\"")).unwrap();
    assert!(spike.contains(" 12.0L"), "the highest point reaches the top");
    assert!(spike.len() < 60_000, "{}", spike.len());
}

#[test]
fn numbers_are_short_and_true() {
    for (value, text) in [
        (0.0, "0"),
        (-0.0, "0"),
        (0.25, "0.25"),
        (12.0, "12"),
        (1234.0, "1234"),
        (12_345.0, "12.3k"),
        (1e6, "1M"),
        (2.5e9, "2.5G"),
        (1e-7, "1.00e-7"),
        (-3.456, "-3.46"),
        (f64::NAN, "–"),
    ] {
        assert_eq!(number(value), text);
    }
}

#[test]
fn bins_hold_every_value() {
    let values = [1.0, 1.0, 2.0, 50.0, 1000.0, 0.0, -1.0, f64::NAN];
    let bins = log_histogram(values.into_iter(), 10);
    assert_eq!((bins.left_out, bins.bars.iter().map(|bar| bar.height).sum::<f64>()), (3, 5.0));
    assert_eq!(bins.bars[0], Bar { from: 1.0, to: 2.0, height: 2.0 });
    assert!(bins.bars.windows(2).all(|pair| pair[0].to == pair[1].from));
    assert_eq!(log_histogram([5.0].into_iter(), 10).bars.len(), 1);
    assert!(log_histogram(std::iter::empty(), 10).bars.is_empty());

    let times = over_time([0.0, 0.5, 1.2, 9.9, 10.0, 11.0].into_iter(), 10.0, 5);
    let per_second: Vec<f64> = times.bars.iter().map(|bar| bar.height * 2.0).collect();
    assert_eq!((per_second, times.left_out), (vec![3.0, 0.0, 0.0, 0.0, 1.0, 1.0], 1));
    assert_eq!(over_time([0.0].into_iter(), 0.0, 5).bars.len(), 1);
}

#[test]
fn a_cdf_rises_from_nothing_to_one() {
    assert_eq!(cdf(&[]), []);
    assert_eq!(cdf(&[1.0, 1.0, 3.0, 4.0]), [(1.0, 0.0), (1.0, 0.5), (3.0, 0.75), (4.0, 1.0)]);
    let many: Vec<f64> = (0..123_457).map(f64::from).collect();
    let points = cdf(&many);
    assert!(points.len() <= 1003 && *points.last().unwrap() == (123_456.0, 1.0));
}

#[test]
fn a_page_is_whole_and_loads_nothing() {
    let page = page("a <b>", &(table(&["", "p50"], &[["x & y".to_owned(), "1".to_owned()]]) + &figure().render()));
    assert!(page.contains("<title>a &lt;b&gt;</title>") && page.contains("<th scope=\"row\">x &amp; y</th><td>1</td>"));
    for outside in ["http:", "https:", "src=", "url(", "<script", "@import"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

/// Numbers of every size, and what is none.
fn any_value() -> impl Strategy<Value = f64> {
    prop_oneof![any::<f64>(), -10.0..10.0f64, Just(0.0), 0.0..1e6f64]
}

proptest! {
    /// Whatever the values: no panic, no place outside the picture, nothing that is not a number.
    #[test]
    fn any_values_stay_within_the_picture(
        points in prop::collection::vec((any_value(), any_value()), 0..40), log_x: bool, log_y: bool, at in any_value(),
    ) {
        let axis = |log: bool| if log { Axis::log("a") } else { Axis::linear("a") };
        let bars: Vec<Bar> = points.iter().map(|&(from, height)| Bar { from, to: from + 1.0, height }).collect();
        let cells: Vec<Cell> = points.iter().map(|&(x, y)| Cell { x: (x, x * 2.0), y: (y, y + 1.0), value: y }).collect();
        let html = Figure::new("f", "c", axis(log_x), axis(log_y))
            .line("l", &points).steps("s", &points).scatter("p", &points).bars("b", &bars).heat("u", &cells)
            .vertical("v", at).horizontal("h", at).render();
        prop_assert!(!html.contains("NaN") && !html.contains("inf"), "{}", html);
        for attribute in ["cx=\"", "cy=\"", " x=\"", " y=\"", "width=\"", "height=\""] {
            for rest in html.split(attribute).skip(1) {
                let value: f64 = rest[..rest.find('"').unwrap()].parse().unwrap();
                prop_assert!((0.0..=640.0).contains(&value), "{}{}", attribute, value);
            }
        }
    }

    /// Every value that has a place is in one bin.
    #[test]
    fn histograms_lose_nothing(values in prop::collection::vec(any_value(), 0..60), bins in 0usize..40) {
        let placed = values.iter().filter(|value| value.is_finite() && **value > 0.0).count();
        let result = log_histogram(values.iter().copied(), bins);
        prop_assert_eq!(result.left_out, values.len() - placed);
        if bins > 0 {
            prop_assert_eq!(result.bars.iter().map(|bar| bar.height).sum::<f64>(), placed as f64);
            prop_assert!(result.bars.len() <= bins + 1);
        }
    }
}
