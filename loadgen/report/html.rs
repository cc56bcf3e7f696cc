//! `report.html`: the figures and plots of a command's runs, one file that needs no network.
//!
//! Owns what is plotted against what. How a plot looks is [`crate::plot`]'s.
mod plots;

use std::fmt::Write;

use super::data::RunData;
use super::table::{DEFINITIONS, figure};
use super::{RunReport, Summary};
use crate::plot::{self, Axis, Figure, escape};

/// The page of these runs.
pub(crate) fn page(runs: &[RunData]) -> String {
    let mut body = String::new();
    let reports: Vec<&RunReport> = runs.iter().map(|run| &run.report).collect();
    let title =
        reports.first().map_or("Load report".to_owned(), |report| format!("Load report: {}", report.about.workload));
    write_warnings(&mut body, &reports).expect("writing to a string");
    if runs.len() > 1 {
        write_overview(&mut body, &reports).expect("writing to a string");
    }
    for (i, run) in runs.iter().enumerate() {
        write_run(&mut body, i + 1, runs.len(), run).expect("writing to a string");
    }
    write_provenance(&mut body, &reports).expect("writing to a string");
    plot::page(&title, &body)
}

fn write_warnings(body: &mut String, reports: &[&RunReport]) -> std::fmt::Result {
    let mut simulated: Vec<&str> = reports.iter().filter_map(|report| report.about.simulated.as_deref()).collect();
    simulated.dedup();
    for what in simulated {
        writeln!(body, "<p><strong>SIMULATED: {}; no figure here is of real hardware.</strong></p>", escape(what))?;
    }
    for (i, report) in reports.iter().enumerate() {
        if let Some(reason) = &report.invalid_reason {
            let point = escape(&report.about.point());
            writeln!(body, "<p><strong>Run {} ({point}) is INVALID: {}</strong></p>", i + 1, escape(reason))?;
        }
        if let Some(interrupted) = report.interrupted {
            let (point, said) = (escape(&report.about.point()), super::table::said_of(interrupted));
            writeln!(body, "<p><strong>Run {} ({point}) was {}.</strong></p>", i + 1, escape(&said))?;
        }
    }
    Ok(())
}

fn write_overview(body: &mut String, reports: &[&RunReport]) -> std::fmt::Result {
    writeln!(body, "<h2>All runs</h2>")?;
    let heading = [
        "run",
        "TTFT mean ms",
        "TTFT p99",
        "TPOT mean ms",
        "TPOT p99",
        "E2E mean ms",
        "tok/s",
        "req/s",
        "lag p99",
        "failed",
    ];
    let p99 = |summary: Option<Summary>| figure(summary.and_then(|s| s.p99), 2);
    let rows: Vec<[String; 10]> = reports
        .iter()
        .enumerate()
        .map(|(i, report)| {
            [
                format!("{}: {}", i + 1, report.about.point()),
                mean(report.ttft_ms),
                p99(report.ttft_ms),
                mean(report.tpot_ms),
                p99(report.tpot_ms),
                mean(report.e2e_ms),
                figure(report.output_tok_s, 1),
                figure(report.request_s, 2),
                p99(report.schedule_lag_ms),
                report.failed.to_string(),
            ]
        })
        .collect();
    body.push_str(&plot::table(&heading, &rows));
    let Some((_, axis)) = reports[0].about.axis() else { return Ok(()) };
    type OfReport = fn(&RunReport) -> Option<Summary>;
    let summaries: [(&str, &str, OfReport); 4] = [
        ("ttft", "Time to first token", |r| r.ttft_ms),
        ("tpot", "Time per output token", |r| r.tpot_ms),
        ("e2e", "Time to the last token", |r| r.e2e_ms),
        ("lag", "Schedule lag", |r| r.schedule_lag_ms),
    ];
    for (id, caption, of) in summaries {
        let curve = |value: fn(Summary) -> Option<f64>| by_axis(reports, |report| value(of(report)?));
        let figure = Figure::new(&format!("points-{id}"), caption, Axis::linear(axis), Axis::linear("ms").from(0.0));
        let curves = [
            ("mean", curve(|s| Some(s.mean))),
            ("p50", curve(|s| Some(s.p50))),
            ("p90", curve(|s| Some(s.p90))),
            ("p99", curve(|s| s.p99)),
        ];
        let drawn = curves.iter().filter(|(_, points)| !points.is_empty());
        let figure = drawn.fold(figure, |figure, (name, points)| figure.line(name, points));
        if !curve(|s| Some(s.mean)).is_empty() {
            body.push_str(&figure.render());
        }
    }
    let tokens = by_axis(reports, |report| report.output_tok_s);
    let throughput =
        Figure::new("points-tokens", "Output tokens a second", Axis::linear(axis), Axis::linear("tok/s").from(0.0));
    body.push_str(&throughput.line("output tok/s", &tokens).render());
    let requests = by_axis(reports, |report| report.request_s);
    let good = by_axis(reports, |report| report.goodput.as_ref()?.request_s);
    let figure =
        Figure::new("points-requests", "Requests a second", Axis::linear(axis), Axis::linear("req/s").from(0.0));
    let figure = figure.line("completed", &requests);
    body.push_str(&if good.is_empty() { figure } else { figure.line("within all SLOs", &good) }.render());
    Ok(())
}

/// A figure of each point by its place on the axis; that of repeats is their mean.
fn by_axis(reports: &[&RunReport], of: impl Fn(&RunReport) -> Option<f64>) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = reports.iter().filter_map(|r| Some((r.about.axis()?.0, of(r)?))).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let same = points.chunk_by(|a, b| a.0 == b.0);
    same.map(|runs| (runs[0].0, runs.iter().map(|run| run.1).sum::<f64>() / runs.len() as f64)).collect()
}

fn mean(summary: Option<Summary>) -> String {
    figure(summary.map(|summary| summary.mean), 2)
}

fn write_run(body: &mut String, nth: usize, of: usize, run: &RunData) -> std::fmt::Result {
    let report = &run.report;
    if of > 1 {
        writeln!(body, "<h2>Run {nth}: {}</h2>", escape(&report.about.point()))?;
    }
    write_latencies(body, report);
    write_counts(body, report);
    plots::of(nth, run).iter().for_each(|figure| body.push_str(&figure.render()));
    Ok(())
}

fn write_latencies(body: &mut String, report: &RunReport) {
    let mut rows: Vec<[String; 7]> = Vec::new();
    for (name, summary) in [
        ("TTFT", report.ttft_ms),
        ("TPOT", report.tpot_ms),
        ("ITL", report.itl_ms),
        ("ICL", report.icl_ms),
        ("E2E", report.e2e_ms),
        ("TTFT from intended", report.ttft_from_intended_ms),
        ("E2E from intended", report.e2e_from_intended_ms),
        ("sent late by", report.schedule_lag_ms),
        ("connect", report.connect_ms),
    ] {
        if let Some(s) = summary {
            let values = [Some(s.mean), Some(s.p50), Some(s.p90), s.p99, Some(s.max)].map(|value| figure(value, 2));
            let [mean, p50, p90, p99, max] = values;
            rows.push([name.to_owned(), mean, p50, p90, p99, max, s.n.to_string()]);
        }
    }
    body.push_str(&plot::table(&["ms", "mean", "p50", "p90", "p99", "max", "values"], &rows));
}

fn write_counts(body: &mut String, report: &RunReport) {
    let percent = |share: Option<f64>| figure(share.map(|share| share * 100.0), 1) + "%";
    let mut rows = vec![
        ["requests".to_owned(), report.requests.to_string()],
        ["completed".to_owned(), report.completed.to_string()],
        ["failed".to_owned(), report.failed.to_string()],
        ["cancelled".to_owned(), report.cancelled.to_string()],
        ["duration, s".to_owned(), figure(Some(report.duration_s), 2)],
        ["output tokens a second".to_owned(), figure(report.output_tok_s, 2)],
        ["requests a second".to_owned(), figure(report.request_s, 2)],
        ["prompt tokens".to_owned(), report.input_tokens.to_string()],
        [format!("output tokens, by {}", report.output_tokens_by.words()), report.output_tokens.to_string()],
        ["tokens a chunk".to_owned(), figure(report.tokens_per_chunk, 2)],
        ["peak in flight, queued".to_owned(), format!("{}, {}", report.max_in_flight, report.max_queued)],
    ];
    if let Some(connections) = report.connections {
        rows.push(["connections opened".to_owned(), connections.to_string()]);
    }
    if report.achieved_requested.is_some() {
        rows.push(["achieved/requested rate".to_owned(), figure(report.achieved_requested, 4)]);
    }
    if report.cached_tokens.is_some() || report.ideal_hit_rate.is_some() {
        let both = format!("{}, {}", percent(report.hit_rate), percent(report.ideal_hit_rate));
        rows.push(["prefix hit rate by the server, ideal".to_owned(), both]);
    }
    if let Some(goodput) = &report.goodput {
        let both = format!("{} req/s, {}", figure(goodput.request_s, 2), percent(goodput.share));
        rows.push(["within all SLOs".to_owned(), both]);
    }
    if let Some(burst) = &report.burst {
        rows.push(["share of TTFT that the burst at the start is".to_owned(), percent(Some(burst.share_of_ttft))]);
    }
    let client = &report.client;
    if client.peak_rss_bytes > 0 {
        let mb = client.peak_rss_bytes as f64 / 1e6;
        let all = format!("{}, {} µs, {mb:.0} MB", percent(client.cpu_share), figure(client.us_a_chunk, 1));
        rows.push(["client: of a core, CPU a chunk, peak RSS".to_owned(), all]);
    }
    for (reason, count) in &report.failures {
        let example = report.failure_examples.get(reason).map_or("", String::as_str);
        rows.push([format!("failed: {reason}"), format!("{count}: {example}")]);
    }
    body.push_str(&plot::table(&["", ""], &rows));
}

fn write_provenance(body: &mut String, reports: &[&RunReport]) -> std::fmt::Result {
    writeln!(body, "<h2>What was run</h2>")?;
    if let Some(about) = reports.first().map(|report| &report.about) {
        let optional = |text: &Option<String>| text.clone().unwrap_or_default();
        let rows = [
            ("command", about.command.clone()),
            ("workload", about.workload.clone()),
            ("trace format", optional(&about.trace_format)),
            ("trace SHA-256", optional(&about.trace_sha256)),
            ("prompts", about.prompts.clone()),
            ("server", format!("{} {}", about.url, about.endpoint)),
            ("model", about.model.clone()),
            ("tokenizer", about.tokenizer.clone()),
            ("seed", about.seed.to_string()),
            ("minisgl", about.version.clone()),
            ("began", about.started.clone()),
        ];
        let rows: Vec<[String; 2]> =
            rows.into_iter().filter(|(_, what)| !what.is_empty()).map(|(name, what)| [name.to_owned(), what]).collect();
        body.push_str(&plot::table(&["", ""], &rows));
    }
    writeln!(body, "<h2>Definitions</h2>\n<p>{}</p>", escape(DEFINITIONS))?;
    let cancelled: u64 = reports.iter().map(|report| report.cancelled).sum();
    if cancelled > 0 {
        writeln!(body, "<p>{cancelled} requests were cancelled as planned; no latency is theirs.</p>")?;
    }
    Ok(())
}
