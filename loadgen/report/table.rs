//! A run's report as a person reads it, and several runs beside each other.
//!
//! Owns the layout. A figure that is not there is `–`.
use std::fmt::{Result, Write};

use super::{Repeats, RunReport, Window};
use crate::records::Interrupted;
use crate::statistics::{Interval, Summary};

/// What the figures are, for under the tables.
pub(crate) const DEFINITIONS: &str = "\
TTFT: from before a connection is taken or opened to the first non-empty content or reasoning delta. TPOT: (E2E - TTFT) / (N - 1),
one value a request, N output tokens. ITL: gaps between tokens; those that share a chunk are 0 apart. ICL: gaps between
content chunks. E2E: to the last content chunk. \"From intended\" counts from when a request was to be sent.
Percentiles are nearest-rank over completed requests (ITL, ICL: over all gaps; lag: over all requests); a p99 of fewer than
662 values is not given. Warm-up ends with the ramp and the first answer, or as --warmup-window says; steady ends with the
last send; latencies are of the requests sent in a window, throughput is of what came in it. Goodput: requests that met all
SLOs, from the send, over the duration. Achieved/requested: rate of the sends over the schedule's.
";

/// The table of one run.
pub(crate) fn table(report: &RunReport) -> String {
    let mut out = String::new();
    write_table(&mut out, report).expect("writing to a string");
    out
}

/// A row a run: the points of a sweep beside each other, and the intervals of repeated points.
pub(crate) fn points(reports: &[RunReport]) -> String {
    let mut out = String::new();
    write_points(&mut out, reports).expect("writing to a string");
    out
}

/// A figure with so many decimals, or a dash.
pub(super) fn figure(value: Option<f64>, decimals: usize) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.decimals$}"))
}

fn percent(share: Option<f64>) -> String {
    share.map_or("–".to_owned(), |share| format!("{:.1}%", share * 100.0))
}

fn write_table(out: &mut String, report: &RunReport) -> Result {
    write_head(out, report)?;
    writeln!(out, "{:<20}{:>12}{:>12}{:>12}{:>12}{:>12}", "ms", "mean", "p50", "p90", "p99", "max")?;
    let mut rows = vec![("TTFT", report.ttft_ms), ("TPOT", report.tpot_ms), ("ITL", report.itl_ms)];
    if report.icl_ms != report.itl_ms {
        rows.push(("ICL", report.icl_ms));
    }
    rows.push(("E2E", report.e2e_ms));
    for (name, summary) in rows {
        write_row(out, name, summary)?;
    }
    for (name, summary) in [
        ("TTFT from intended", report.ttft_from_intended_ms),
        ("E2E from intended", report.e2e_from_intended_ms),
        ("sent late by", report.schedule_lag_ms),
        ("connect", report.connect_ms),
    ] {
        if summary.is_some() {
            write_row(out, name, summary)?;
        }
    }
    write_counts(out, report)?;
    write_windows(out, report)?;
    for (kind, groups) in [("class", report.classes.clone()), ("turn", by_turn(report))] {
        for (name, group) in groups {
            let (ttft, tpot, e2e) = (mean(group.ttft_ms), mean(group.tpot_ms), mean(group.e2e_ms));
            let n = group.requests;
            writeln!(out, "{kind} {name}: {n} requests, mean TTFT {ttft} ms, TPOT {tpot} ms, E2E {e2e} ms")?;
        }
    }
    write_client_and_server(out, report)?;
    write_repeats(out, report)?;
    write_remarks(out, report)
}

fn by_turn(report: &RunReport) -> std::collections::BTreeMap<String, super::Group> {
    report.turns.iter().map(|(turn, group)| (format!("{turn:>3}"), group.clone())).collect()
}

fn mean(summary: Option<Summary>) -> String {
    figure(summary.map(|summary| summary.mean), 2)
}

fn write_head(out: &mut String, report: &RunReport) -> Result {
    let about = &report.about;
    write!(out, "\n{}, model {}", about.workload, about.model)?;
    if about.axis().is_some() && !about.workload.contains(&about.point()) {
        write!(out, ", {}", about.point())?;
    }
    if about.repeat > 1 || report.repeats.is_some() {
        write!(out, ", repeat {}", about.repeat)?;
    }
    writeln!(out)?;
    if let Some(what) = &about.simulated {
        writeln!(out, "SIMULATED: {what}; no figure here is of real hardware")?;
    }
    if let Some(reason) = &report.invalid_reason {
        writeln!(out, "INVALID: {reason}")?;
    }
    if let Some(interrupted) = report.interrupted {
        writeln!(out, "{}", said_of(interrupted))?;
    }
    Ok(())
}

/// An interrupted run, in words.
pub(super) fn said_of(interrupted: Interrupted) -> String {
    let Interrupted { left, unsent } = interrupted;
    format!(
        "INTERRUPTED: {left} requests on their way were left (cancelled), {unsent} were never sent; figures are of the rest"
    )
}

fn write_row(out: &mut String, name: &str, summary: Option<Summary>) -> Result {
    let of = |value: fn(Summary) -> Option<f64>| figure(summary.and_then(value), 2);
    let [mean, p50, p90] = [of(|s| Some(s.mean)), of(|s| Some(s.p50)), of(|s| Some(s.p90))];
    writeln!(out, "{name:<20}{mean:>12}{p50:>12}{p90:>12}{:>12}{:>12}", of(|s| s.p99), of(|s| Some(s.max)))
}

fn write_counts(out: &mut String, report: &RunReport) -> Result {
    let cancelled = if report.cancelled > 0 { format!(", {} cancelled", report.cancelled) } else { String::new() };
    writeln!(
        out,
        "{} of {} requests completed, {} failed{cancelled}, in {:.2} s: {} output tok/s, {} req/s",
        report.completed,
        report.requests,
        report.failed,
        report.duration_s,
        figure(report.output_tok_s, 2),
        figure(report.request_s, 2),
    )?;
    writeln!(
        out,
        "{} prompt and {} output tokens (counted by {}); peak in flight {}, peak queued {}{}",
        report.input_tokens,
        report.output_tokens,
        report.output_tokens_by.words(),
        report.max_in_flight,
        report.max_queued,
        report.connections.map_or(String::new(), |n| format!("; {n} connections opened")),
    )?;
    if let Some(ratio) = report.achieved_requested {
        writeln!(out, "achieved/requested rate {ratio:.4}")?;
    }
    if let Some(goodput) = &report.goodput {
        let bounds = [("TTFT", goodput.slo.ttft), ("TPOT", goodput.slo.tpot), ("E2E", goodput.slo.e2e)];
        let bounds = bounds.iter().filter_map(|(name, ms)| Some(format!("{name} ≤ {} ms", (*ms)?)));
        let bounds = bounds.collect::<Vec<_>>().join(", ");
        let (rate, share) = (figure(goodput.request_s, 2), percent(goodput.share));
        writeln!(out, "goodput ({bounds}): {} requests, {share}, {rate} req/s", goodput.good)?;
    }
    if report.cached_tokens.is_some() || report.ideal_hit_rate.is_some() {
        let said = report.cached_tokens.map_or("–".to_owned(), |tokens| tokens.to_string());
        let (rate, ideal) = (percent(report.hit_rate), percent(report.ideal_hit_rate));
        writeln!(out, "prefix cache: {said} prompt tokens cached by the server's count, {rate}; ideal {ideal}")?;
    }
    Ok(())
}

fn write_windows(out: &mut String, report: &RunReport) -> Result {
    let windows = &report.windows;
    if windows.steady.of.requests == 0 {
        return Ok(());
    }
    for (name, window) in [("warm-up", &windows.warmup), ("steady", &windows.steady), ("drain", &windows.drain)] {
        let Window { from_s, to_s, request_s, output_tok_s, of } = window;
        writeln!(
            out,
            "{name:<8}{from_s:>8.2}–{to_s:<8.2} s: {:>6} sent, mean TTFT {} ms, TPOT {} ms; {} output tok/s, {} req/s",
            of.requests,
            mean(of.ttft_ms),
            mean(of.tpot_ms),
            figure(*output_tok_s, 2),
            figure(*request_s, 2),
        )?;
    }
    Ok(())
}

fn write_client_and_server(out: &mut String, report: &RunReport) -> Result {
    if let Some(burst) = &report.burst {
        let (n, share) = (burst.requests, percent(Some(burst.share_of_ttft)));
        let (first, later) = (burst.ttft_ms, burst.later_ttft_ms);
        writeln!(
            out,
            "start: the first {n} requests' mean TTFT is {first:.2} ms, the later ones' {later:.2} ms: {share} of TTFT is the \
             burst"
        )?;
    }
    let client = &report.client;
    if client.peak_rss_bytes > 0 {
        let (share, us) = (percent(client.cpu_share), figure(client.us_a_chunk, 1));
        let mb = client.peak_rss_bytes as f64 / 1e6;
        writeln!(out, "client: {share} of a core, {us} µs of CPU a chunk, peak RSS {mb:.0} MB")?;
    }
    if let Some(server) = &report.server {
        writeln!(
            out,
            "server's own metrics: at most {} running, {} waiting, K/V {} full; prefix hits {}, {} preemptions",
            figure(server.max_running, 0),
            figure(server.max_waiting, 0),
            percent(server.max_kv_usage),
            percent(server.prefix_hit_rate),
            figure(server.preemptions, 0),
        )?;
    }
    Ok(())
}

fn write_repeats(out: &mut String, report: &RunReport) -> Result {
    match &report.repeats {
        Some(repeats) => writeln!(out, "{}", repeats_in_words(repeats)),
        None => Ok(()),
    }
}

/// A line on each point that was repeated.
pub(crate) fn repeats(reports: &[RunReport]) -> String {
    let mut seen = Vec::new();
    let mut out = String::new();
    for report in reports {
        let point = report.about.point();
        if let Some(repeats) = report.repeats.as_ref().filter(|_| !seen.contains(&point)) {
            writeln!(out, "{point}: {}", repeats_in_words(repeats)).expect("writing to a string");
            seen.push(point);
        }
    }
    out
}

fn repeats_in_words(repeats: &Repeats) -> String {
    let of = |interval: Option<Interval>| {
        interval.map_or("–".to_owned(), |i| format!("{:.2} [{:.2}, {:.2}]", i.mean, i.low, i.high))
    };
    format!(
        "over {} runs, means with 95% confidence (Student's t): TTFT {} ms, TPOT {} ms, E2E {} ms, {} output tok/s",
        repeats.runs,
        of(repeats.ttft_ms),
        of(repeats.tpot_ms),
        of(repeats.e2e_ms),
        of(repeats.output_tok_s),
    )
}

fn write_remarks(out: &mut String, report: &RunReport) -> Result {
    if report.tokens_per_chunk.is_some_and(|tokens| (tokens - 1.0).abs() > 0.05) {
        writeln!(out, "note: {} tokens a content chunk: ITL and ICL differ", figure(report.tokens_per_chunk, 2))?;
    }
    if report.prompt_token_mismatch > 0 {
        let n = report.prompt_token_mismatch;
        writeln!(out, "note: the server counts {n} prompts otherwise than --tokenizer: is it the model's tokenizer?")?;
    }
    if report.output_token_mismatch > 0 {
        let n = report.output_token_mismatch;
        writeln!(out, "note: {n} answers have more or fewer tokens than asked for")?;
    }
    if report.without_text > 0 {
        let n = report.without_text;
        writeln!(out, "note: {n} answers are without text (an end-of-sequence token has none), and so without TTFT")?;
    }
    let counts = &report.output_counts;
    if counts.usage_not_tokenizer > 0 {
        let n = counts.usage_not_tokenizer;
        writeln!(out, "note: usage and the client's tokenizer disagree about the tokens of {n} answers")?;
    }
    if counts.usage_below_chunks > 0 {
        let n = counts.usage_below_chunks;
        writeln!(out, "note: usage has fewer tokens than content chunks came in {n} answers")?;
    }
    for (reason, count) in &report.failures {
        let example = report.failure_examples.get(reason).map_or("", String::as_str);
        writeln!(out, "failed: {count} x {reason}{}{example}", if example.is_empty() { "" } else { ": " })?;
    }
    Ok(())
}

fn write_points(out: &mut String, reports: &[RunReport]) -> Result {
    let name = reports.iter().map(|report| report.about.point().chars().count()).max().unwrap_or(0).max(8) + 2;
    writeln!(
        out,
        "\n{:<name$}{:>11}{:>11}{:>11}{:>11}{:>11}{:>11}{:>10}{:>9}{:>10}{:>8}",
        "point",
        "TTFT mean",
        "TTFT p99",
        "TPOT mean",
        "TPOT p99",
        "E2E mean",
        "E2E p99",
        "tok/s",
        "req/s",
        "lag p99",
        "failed",
    )?;
    for report in reports {
        let of =
            |summary: Option<Summary>| [figure(summary.map(|s| s.mean), 2), figure(summary.and_then(|s| s.p99), 2)];
        let ([ttft, ttft99], [tpot, tpot99]) = (of(report.ttft_ms), of(report.tpot_ms));
        let ([e2e, e2e99], [_, lag99]) = (of(report.e2e_ms), of(report.schedule_lag_ms));
        write!(out, "{:<name$}{ttft:>11}{ttft99:>11}{tpot:>11}{tpot99:>11}{e2e:>11}{e2e99:>11}", report.about.point())?;
        let (tokens, requests) = (figure(report.output_tok_s, 1), figure(report.request_s, 2));
        write!(out, "{tokens:>10}{requests:>9}{lag99:>10}{:>8}", report.failed)?;
        let invalid = if report.valid { "" } else { "  INVALID" };
        writeln!(out, "{invalid}")?;
    }
    if reports.iter().any(|report| report.about.simulated.is_some()) {
        writeln!(out, "SIMULATED: no figure here is of real hardware")?;
    }
    Ok(())
}
