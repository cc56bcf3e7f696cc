//! A run's report as a person reads it.
use std::fmt::Write;

use super::RunReport;
use crate::statistics::Summary;

/// What the figures are, for under the tables.
pub(crate) const DEFINITIONS: &str = "\
TTFT: from before the connection is opened to the first non-empty content or reasoning delta. TPOT: (E2E - TTFT) / (N - 1),
one value a request, N output tokens. ITL: gaps between content chunks. E2E: to the last content chunk.
Percentiles are nearest-rank over completed requests; lag is over all.
";

/// The table of one run.
pub(crate) fn table(report: &RunReport) -> String {
    let mut out = String::new();
    write_table(&mut out, report).expect("writing to a string");
    out
}

fn write_table(out: &mut String, report: &RunReport) -> std::fmt::Result {
    let about = &report.about;
    write!(out, "\n{}, model {}", about.workload, about.model)?;
    if let Some(scale) = about.time_scale {
        write!(out, ", time scale {scale}")?;
    }
    writeln!(out, "\n{:<12}{:>12}{:>12}{:>12}{:>12}{:>12}", "ms", "mean", "p50", "p90", "p99", "max")?;
    for (name, summary) in
        [("TTFT", report.ttft_ms), ("TPOT", report.tpot_ms), ("ITL", report.itl_ms), ("E2E", report.e2e_ms)]
    {
        write_row(out, name, summary)?;
    }
    if report.schedule_lag_ms.is_some() {
        write_row(out, "sent late by", report.schedule_lag_ms)?;
    }
    let rate = |rate: Option<f64>| rate.map_or("–".to_owned(), |rate| format!("{rate:.2}"));
    writeln!(
        out,
        "{} of {} requests completed, {} failed, in {:.2} s: {} output tok/s, {} req/s",
        report.completed,
        report.requests,
        report.failed,
        report.duration_s,
        rate(report.output_tok_s),
        rate(report.request_s),
    )?;
    writeln!(
        out,
        "{} prompt and {} output tokens (counted by {}); peak in flight {}, peak queued {}",
        report.input_tokens,
        report.output_tokens,
        match report.output_tokens_by {
            "usage" => "the server",
            "chunks" => "content chunks",
            _ => "the server, or content chunks where it does not",
        },
        report.max_in_flight,
        report.max_queued,
    )?;
    write_remarks(out, report)
}

fn write_row(out: &mut String, name: &str, summary: Option<Summary>) -> std::fmt::Result {
    write!(out, "{name:<12}")?;
    match summary {
        Some(Summary { mean, p50, p90, p99, max }) => {
            for value in [mean, p50, p90, p99, max] {
                write!(out, "{value:>12.2}")?;
            }
        }
        None => (0..5).try_for_each(|_| write!(out, "{:>12}", "–"))?,
    }
    writeln!(out)
}

fn write_remarks(out: &mut String, report: &RunReport) -> std::fmt::Result {
    if report.tokens_per_chunk.is_some_and(|tokens| (tokens - 1.0).abs() > 0.05) {
        let tokens = report.tokens_per_chunk.unwrap_or_default();
        writeln!(out, "note: {tokens:.2} tokens a content chunk: ITL is between chunks, not tokens")?;
    }
    if report.prompt_token_mismatch > 0 {
        let n = report.prompt_token_mismatch;
        writeln!(out, "note: the server counts {n} prompts otherwise than --tokenizer: is it the model's tokenizer?")?;
    }
    if report.output_token_mismatch > 0 {
        let n = report.output_token_mismatch;
        writeln!(out, "note: {n} answers have more or fewer tokens than asked for")?;
    }
    for (reason, count) in &report.failures {
        let example = report.failure_examples.get(reason).map_or("", String::as_str);
        writeln!(out, "failed: {count} x {reason}{}{example}", if example.is_empty() { "" } else { ": " })?;
    }
    Ok(())
}
