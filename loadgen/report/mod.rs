//! What a run's records say: the figures of one run, in JSON and as a table.
//!
//! Owns the definitions of the figures. Takes records as they are; knows nothing of how they came to be.
//!
//! | figure | of | from … to |
//! |---|---|---|
//! | TTFT | a completed request | sent → first non-empty content or reasoning delta |
//! | TPOT | a completed request of N ≥ 2 tokens | (E2E − TTFT) / (N − 1) |
//! | ITL | a gap | a content chunk → the next, from the first token on |
//! | E2E | a completed request | sent → last content chunk |
//! | schedule lag | a request of an open loop | intended → sent |
//!
//! *Sent* is before the connection is opened. N is the server's `usage.completion_tokens`, else the number of content
//! chunks. Percentiles are nearest-rank: [`Summary`].
mod json;
mod table;

pub(crate) use json::JsonSink;
pub(crate) use table::{DEFINITIONS, table};

use std::collections::BTreeMap;

use serde::Serialize;

use crate::records::Record;
use crate::run::Ledger;
use crate::statistics::Summary;

/// The report of one run. Serialises to the JSON of `--json`; a figure of which there is no value is null.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunReport {
    /// Requests whose answer came whole.
    pub completed: u64,
    /// Requests that failed, whatever the reason.
    pub failed: u64,
    /// From the first send to the last end, in seconds.
    pub duration_s: f64,
    /// Output tokens of completed requests over the duration.
    pub output_tok_s: Option<f64>,
    /// Completed requests over the duration.
    pub request_s: Option<f64>,
    /// Time to the first token.
    pub ttft_ms: Option<Summary>,
    /// Time per output token after the first.
    pub tpot_ms: Option<Summary>,
    /// Gaps between content chunks.
    pub itl_ms: Option<Summary>,
    /// Time to the last token.
    pub e2e_ms: Option<Summary>,
    /// How late requests were sent; null in a closed loop, which has no schedule.
    pub schedule_lag_ms: Option<Summary>,
    /// Requests in all.
    pub requests: u64,
    /// Tokens of the completed requests' messages, chat template apart.
    pub input_tokens: u64,
    /// Tokens of the completed answers.
    pub output_tokens: u64,
    /// Who counted the output tokens: `usage`, `chunks`, or `mixed` where the server counted some answers only.
    pub output_tokens_by: &'static str,
    /// Output tokens per content chunk; more than 1 where the server sends several at once.
    pub tokens_per_chunk: Option<f64>,
    /// Most requests in flight at once.
    pub max_in_flight: u64,
    /// Most requests that waited for their first token at once.
    pub max_queued: u64,
    /// What the server counts beyond the message in most prompts: the chat template's tokens.
    pub template_tokens: Option<i64>,
    /// Completed requests whose prompt the server counts otherwise than that: another tokenizer, or a shortened prompt.
    pub prompt_token_mismatch: u64,
    /// Completed requests with more or fewer output tokens than asked for.
    pub output_token_mismatch: u64,
    /// Failures by reason.
    pub failures: BTreeMap<String, u64>,
    /// What was said of one failure of each reason.
    pub failure_examples: BTreeMap<String, String>,
    /// What was run.
    #[serde(flatten)]
    pub about: About,
}

/// What a run was of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct About {
    /// The workload in a few words; a trace's is its file.
    pub workload: String,
    /// The format that the trace's content showed, if it was a trace.
    pub trace_format: Option<String>,
    /// What the trace's times were multiplied by, if it was a trace.
    pub time_scale: Option<f64>,
    /// The server.
    pub url: String,
    /// The model asked for.
    pub model: String,
    /// The tokenizer that made the prompts.
    pub tokenizer: String,
    /// The seed of prompts and drawn lengths.
    pub seed: u64,
}

impl RunReport {
    /// Whether the run shall count as a success: every request completed. The command's exit code is 0 then, else 1.
    pub fn exit_ok(&self) -> bool {
        self.failed == 0
    }

    /// Sums up a run.
    pub(crate) fn of(ledger: &Ledger, about: About) -> Self {
        let completed: Vec<&Record> = ledger.records.iter().filter(|record| record.failure.is_none()).collect();
        let summary = |of: fn(&Record) -> Option<u64>| Summary::exact(completed.iter().filter_map(|r| of(r)).collect());
        let lags = ledger.records.iter().filter_map(|r| Some(r.sent.saturating_sub(r.intended?)));
        let duration_s = duration_ns(&ledger.records) as f64 / 1e9;
        let a_second = |count: u64| (duration_s > 0.0).then(|| count as f64 / duration_s);
        let output_tokens = completed.iter().map(|record| tokens(record)).sum();
        let chunks: u64 = completed.iter().map(|record| record.chunks).sum();
        let (template_tokens, prompt_token_mismatch) = prompt_counts(&completed);
        let (failures, failure_examples) = failures(&ledger.records);
        Self {
            completed: completed.len() as u64,
            failed: (ledger.records.len() - completed.len()) as u64,
            duration_s,
            output_tok_s: a_second(output_tokens),
            request_s: a_second(completed.len() as u64),
            ttft_ms: summary(ttft),
            tpot_ms: summary(tpot),
            itl_ms: ledger.gaps.summary(),
            e2e_ms: summary(e2e),
            schedule_lag_ms: Summary::exact(lags.collect()),
            requests: ledger.records.len() as u64,
            input_tokens: completed.iter().map(|record| record.input_len as u64).sum(),
            output_tokens,
            output_tokens_by: counted_by(&completed),
            tokens_per_chunk: (chunks > 0).then(|| output_tokens as f64 / chunks as f64),
            max_in_flight: ledger.max_in_flight,
            max_queued: ledger.max_queued,
            template_tokens,
            prompt_token_mismatch,
            output_token_mismatch: completed.iter().filter(|r| tokens(r) != r.output_len as u64).count() as u64,
            failures,
            failure_examples,
            about,
        }
    }
}

fn ttft(record: &Record) -> Option<u64> {
    Some(record.first_token?.saturating_sub(record.sent))
}

fn e2e(record: &Record) -> Option<u64> {
    Some(record.last_token?.saturating_sub(record.sent))
}

/// Nanoseconds, rounded down.
fn tpot(record: &Record) -> Option<u64> {
    let n = tokens(record);
    if n < 2 { None } else { Some((e2e(record)? - ttft(record)?) / (n - 1)) }
}

/// N: the server's count where it gives one.
fn tokens(record: &Record) -> u64 {
    record.usage.map(|usage| usage.completion_tokens).filter(|&n| n > 0).unwrap_or(record.chunks)
}

fn counted_by(completed: &[&Record]) -> &'static str {
    let by_usage =
        completed.iter().filter(|record| record.usage.is_some_and(|usage| usage.completion_tokens > 0)).count();
    match by_usage {
        0 => "chunks",
        n if n == completed.len() => "usage",
        _ => "mixed",
    }
}

fn duration_ns(records: &[Record]) -> u64 {
    let first = records.iter().map(|record| record.sent).min().unwrap_or(0);
    records.iter().map(|record| record.ended).max().unwrap_or(0).saturating_sub(first)
}

/// What the server counts beyond the message: the most frequent difference (the smallest of equally frequent ones), and how
/// many prompts differ from it. A template never has fewer tokens than none.
fn prompt_counts(completed: &[&Record]) -> (Option<i64>, u64) {
    let mut differences = BTreeMap::<i64, u64>::new();
    for record in completed {
        if let Some(usage) = record.usage.filter(|usage| usage.prompt_tokens > 0) {
            *differences.entry(usage.prompt_tokens as i64 - record.input_len as i64).or_default() += 1;
        }
    }
    let total: u64 = differences.values().sum();
    match differences.iter().rev().max_by_key(|&(_, &count)| count) {
        Some((&template, _)) if template < 0 => (None, total),
        Some((&template, &count)) => (Some(template), total - count),
        None => (None, 0),
    }
}

type ByReason<T> = BTreeMap<String, T>;

fn failures(records: &[Record]) -> (ByReason<u64>, ByReason<String>) {
    let (mut counts, mut examples) = (BTreeMap::new(), BTreeMap::new());
    for failure in records.iter().filter_map(|record| record.failure.as_ref()) {
        let reason = failure.reason.to_string();
        *counts.entry(reason.clone()).or_default() += 1;
        examples.entry(reason).or_insert_with(|| failure.detail.clone());
    }
    (counts, examples)
}

#[cfg(test)]
mod tests;
