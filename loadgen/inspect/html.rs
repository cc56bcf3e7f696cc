//! An inspection as a page with plots.
use super::{Inspection, text, times};
use crate::plot::{self, Axis, Figure};
use crate::traces::{PrefixOptions, Trace, ideal_hits};

/// Bars of a histogram.
const BINS: usize = 48;
/// Windows of a time axis.
const WINDOWS: usize = 240;
/// Requests over which the hit rate is averaged.
const RECENT: usize = 50;

/// What the page says of its definitions.
const DEFINITIONS: &str = "<p class=\"soft\">Percentiles are the nearest rank. Dispersion is variance over mean of the \
    requests in a window. The ideal hit rate is that of a cache without bounds, requests one after another in the order of \
    their times, at least one token of each prompt left to compute; answers are not counted into the cache.</p>\n";

/// The whole page.
pub(super) fn page(trace: &Trace, of: &Inspection) -> String {
    let mut body = plot::table(&["", ""], &text::rows(of));
    let heading = ["", "n", "mean", "p50", "p90", "p99", "max", "total"];
    let rows: Vec<[String; 8]> = text::spreads(of)
        .iter()
        .map(|(what, spread)| {
            let [a, b, c, d, e, f, g] = text::cells(spread);
            [(*what).to_owned(), a, b, c, d, e, f, g]
        })
        .collect();
    body += &plot::table(&heading, &rows);
    body += DEFINITIONS;
    let figures: String = figures(trace, of).iter().map(Figure::render).collect();
    plot::page(&format!("Trace {}", of.file), &format!("{body}<div class=\"plots\">\n{figures}</div>\n"))
}

fn figures(trace: &Trace, of: &Inspection) -> Vec<Figure> {
    let mut figures = vec![arrivals(trace, of), gaps(trace, of)];
    let inputs = || trace.requests.iter().filter(|r| !r.failed).filter_map(|r| r.input_length);
    let outputs = || trace.requests.iter().filter(|r| !r.failed).filter_map(|r| r.output_length);
    figures.push(lengths("input-lengths", "Input lengths", "input (tokens)", inputs()));
    figures.push(lengths("output-lengths", "Output lengths", "output (tokens)", outputs()));
    let pairs: Vec<(f64, f64)> = trace
        .requests
        .iter()
        .filter(|request| !request.failed)
        .filter_map(|request| Some((request.input_length? as f64, request.output_length? as f64)))
        .collect();
    let both =
        Figure::new("input-output", "Output over input", Axis::log("input (tokens)"), Axis::log("output (tokens)"));
    figures.push(both.scatter("request", &pairs));
    figures.push(turns(trace));
    figures.push(hits(trace));
    figures
}

fn arrivals(trace: &Trace, of: &Inspection) -> Figure {
    let figure = Figure::new("arrivals", "Arrivals", Axis::linear("time (s)"), Axis::linear("requests/s"));
    let Some(span) = of.span_s.filter(|&span| span > 0.0) else { return figure };
    let bins = plot::over_time(times(trace), span, WINDOWS);
    let width = bins.bars.first().map_or(0.0, |bar| bar.to - bar.from);
    figure.bars("arrivals", &bins.bars).note(&format!("in windows of {} s", plot::number(width)))
}

fn gaps(trace: &Trace, of: &Inspection) -> Figure {
    let figure =
        Figure::new("gaps", "Time between arrivals", Axis::log("gap (ms)"), Axis::linear("share of gaps").from(0.0));
    if of.arrivals.is_none() {
        return figure;
    }
    let times: Vec<f64> = times(trace).collect();
    let mut gaps: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]) * 1e3).collect();
    gaps.sort_by(f64::total_cmp);
    let zero = gaps.partition_point(|&gap| gap <= 0.0);
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    // Two hundred points up to ten means, from a hundredth of it or less where there are such gaps.
    let low = gaps.get(zero).copied().unwrap_or(mean).clamp(mean / 1e4, mean / 1e2);
    let poisson = (0..=200).map(|i| low * (mean * 10.0 / low).powf(f64::from(i) / 200.0));
    let poisson: Vec<(f64, f64)> = poisson.map(|gap| (gap, 1.0 - (-gap / mean).exp())).collect();
    let note = format!("{zero} of {} gaps are 0, left of the axis", gaps.len());
    figure.steps("trace", &plot::cdf(&gaps)).line("Poisson of this rate", &poisson).note(&note)
}

fn lengths(id: &str, caption: &str, axis: &str, values: impl Iterator<Item = usize> + Clone) -> Figure {
    let bins = plot::log_histogram(values.map(|n| n as f64), BINS);
    let figure = Figure::new(id, caption, Axis::log(axis), Axis::linear("requests")).bars("requests", &bins.bars);
    if bins.left_out > 0 { figure.note(&format!("{} of 0 tokens are not drawn", bins.left_out)) } else { figure }
}

fn turns(trace: &Trace) -> Figure {
    let figure = Figure::new("turns", "Turns", Axis::linear("turn of its chat").from(0.0), Axis::linear("requests"));
    let mut counts = std::collections::BTreeMap::new();
    for turn in trace.requests.iter().filter_map(|request| request.session) {
        *counts.entry(turn.number).or_insert(0u32) += 1;
    }
    let bar = |(&number, &n): (&u32, &u32)| plot::Bar {
        from: f64::from(number) - 0.5,
        to: f64::from(number) + 0.5,
        height: f64::from(n),
    };
    figure.bars("requests", &counts.iter().map(bar).collect::<Vec<_>>())
}

fn hits(trace: &Trace) -> Figure {
    let (x, y) = (Axis::linear("request"), Axis::linear("share of prompt tokens").from(0.0).to(1.0));
    let figure = Figure::new("hit-rate", "Ideal prefix hit rate, request by request", x, y);
    if trace.block_size.is_none() {
        return figure;
    }
    let ideal = ideal_hits(trace, PrefixOptions::default());
    let share = |range: std::ops::Range<usize>| {
        let total: usize = ideal.prompt_tokens[range.clone()].iter().sum();
        ideal.cached_tokens[range].iter().sum::<usize>() as f64 / total as f64
    };
    let n = ideal.cached_tokens.len();
    let recent: Vec<(f64, f64)> = (1..=n).map(|to| (to as f64, share(to.saturating_sub(RECENT)..to))).collect();
    let (mut hit, mut total) = (0, 0);
    let so_far = ideal.cached_tokens.iter().zip(&ideal.prompt_tokens).enumerate().map(|(at, (cached, prompt))| {
        (hit, total) = (hit + cached, total + prompt);
        ((at + 1) as f64, hit as f64 / total as f64)
    });
    let so_far: Vec<(f64, f64)> = so_far.collect();
    figure.line(&format!("of the last {RECENT} requests"), &recent).line("of all so far", &so_far)
}
