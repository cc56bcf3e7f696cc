//! What a run's records say: the figures of one run, in JSON, as a table, as a page, by others' definitions.
//!
//! Owns the definitions of the figures. Takes records as they are; knows nothing of how they came to be.
//!
//! | figure | of | from … to |
//! |---|---|---|
//! | TTFT | a completed request | sent → first non-empty content or reasoning delta |
//! | TPOT | a completed request of N ≥ 2 tokens | (E2E − TTFT) / (N − 1) |
//! | ICL | a gap between chunks | a content chunk → the next, from the first token on |
//! | ITL | a gap between tokens | the same, and N − C gaps of 0 for the tokens of N that came in C < N chunks |
//! | E2E | a completed request | sent → last content chunk |
//! | connect | a request | sent → its first byte taken by the socket |
//! | schedule lag | a request of an open loop | intended → sent |
//! | … from intended | as TTFT, E2E | intended → …: what a user waits, however late the client was |
//!
//! *Sent* is before the connection is opened. N is the server's `usage.completion_tokens`, else the client tokenizer's
//! count of the answer's text, else the number C of content chunks. Percentiles are nearest-rank: [`Summary`]. The
//! windows are in `groups.rs`.
//!
//! *Achieved/requested* is the rate at which the n scheduled requests were sent over the rate at which they were to be:
//! (n − 1)/(last sent − first sent) over (n − 1)/(last intended − first intended). *Goodput* is requests that completed
//! and met all SLOs, from the send, over the duration; its share is of all but the cancelled. A *burst's share of TTFT*
//! is what a closed loop's mean TTFT has beyond the mean of those after the first `concurrency` requests, over it.
mod about;
mod again;
pub(crate) mod compat;
pub(crate) mod data;
mod exit;
pub(crate) mod folder;
mod groups;
mod html;
mod json;
mod outputs;
mod parts;
pub(crate) mod request;
mod table;

#[cfg(test)]
mod folder_tests;
#[cfg(test)]
mod tests;

pub use about::About;
pub use again::report_file;
pub use exit::{EXIT_FAILED_REQUESTS, EXIT_INTERRUPTED, EXIT_INVALID, EXIT_NOT_COMPARED, exit_code};
pub use groups::{Group, Window, Windows};
pub(crate) use json::JsonSink;
pub(crate) use outputs::Outputs;
pub use parts::{Burst, ClientFigures, Goodput, OutputTokens, Repeats, ServerFigures, SloMs};
pub use request::CountedBy;

use std::collections::BTreeMap;
use std::time::Duration;

use minisgl_config::loadgen::settings::Slo;
use serde::{Deserialize, Serialize};

use crate::records::{End, Interrupted, Ledger, Record};
use crate::scrape::ServerSample;
use crate::statistics::{Gaps, Summary, nearest_rank};
use groups::summary;
use request::{connect, e2e, e2e_from_intended, lag, tokens, tpot, ttft, ttft_from_intended};

/// In place of the model where records are all there is.
const NOT_RECORDED: &str = "not recorded";

/// What a run's records are held against, beside themselves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terms<'a> {
    /// What is good.
    pub(crate) slo: Slo,
    /// The warm-up window; `None` is automatic.
    pub(crate) warmup_window: Option<Duration>,
    /// Highest lag p99 of a valid run.
    pub(crate) max_lag: Duration,
    /// Names of the length classes, by [`Record::class`]; empty where there is one.
    pub(crate) classes: &'a [String],
    /// What a cache that forgets nothing would have held of these prompts.
    pub(crate) ideal: Option<IdealCache>,
    /// What the server said of itself through the run.
    pub(crate) server: &'a [ServerSample],
}

/// Prompt tokens of the plan, and those of them that a cache of any size would have held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct IdealCache {
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
}

/// The report of one run. Serialises to the JSON of `--json` and back; a figure of which there is no value is null.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunReport {
    /// Requests whose answer came whole.
    pub completed: u64,
    /// Of them, those without text, which have no TTFT: an end-of-sequence token may be all of an answer.
    pub without_text: u64,
    /// Requests that failed, whatever the reason.
    pub failed: u64,
    /// Requests that our side left, as planned.
    pub cancelled: u64,
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
    /// Gaps between tokens.
    pub itl_ms: Option<Summary>,
    /// Gaps between content chunks.
    pub icl_ms: Option<Summary>,
    /// Time to the last token.
    pub e2e_ms: Option<Summary>,
    /// How late requests were sent; null in a closed loop, which has no schedule.
    pub schedule_lag_ms: Option<Summary>,
    /// TTFT from the intended time; null without a schedule.
    pub ttft_from_intended_ms: Option<Summary>,
    /// E2E from the intended time; null without a schedule.
    pub e2e_from_intended_ms: Option<Summary>,
    /// From before the connection to its first byte.
    pub connect_ms: Option<Summary>,
    /// Rate at which requests were sent over the schedule's; null without a schedule.
    pub achieved_requested: Option<f64>,
    /// Whether the load was the one asked for: the lag's p99, by nearest rank however few there are, is within bounds.
    pub valid: bool,
    /// Why not.
    pub invalid_reason: Option<String>,
    /// What was left undone, where the run was interrupted: its figures are of what completed.
    pub interrupted: Option<Interrupted>,
    /// Requests in all.
    pub requests: u64,
    /// Tokens of the completed requests' messages, chat template apart.
    pub input_tokens: u64,
    /// Tokens of the completed answers.
    pub output_tokens: u64,
    /// Who counted the output tokens.
    pub output_tokens_by: CountedBy,
    /// The same answers' tokens by each who counted.
    pub output_counts: OutputTokens,
    /// Output tokens per content chunk; more than 1 where the server sends several at once.
    pub tokens_per_chunk: Option<f64>,
    /// Most requests in flight at once.
    pub max_in_flight: u64,
    /// Most requests that waited for their first token at once.
    pub max_queued: u64,
    /// Connections that were opened for the requests; null in a report that was read back from records.
    pub connections: Option<u64>,
    /// What the server counts beyond the message in most prompts: the chat template's tokens.
    pub template_tokens: Option<i64>,
    /// Completed requests whose prompt the server counts otherwise than that: another tokenizer, or a shortened prompt.
    pub prompt_token_mismatch: u64,
    /// Completed requests with more or fewer output tokens than asked for.
    pub output_token_mismatch: u64,
    /// Prompt tokens that the server says its cache held; null where it does not say.
    pub cached_tokens: Option<u64>,
    /// Of the prompt tokens of the answers that say so.
    pub hit_rate: Option<f64>,
    /// Prompt tokens that a cache of any size would have held, were requests served one at a time.
    pub ideal_cached_tokens: Option<u64>,
    /// Of the plan's prompt tokens.
    pub ideal_hit_rate: Option<f64>,
    /// Requests that met all SLOs, where any was given.
    pub goodput: Option<Goodput>,
    /// What the burst at a closed loop's start cost.
    pub burst: Option<Burst>,
    /// The run in three windows.
    pub windows: Windows,
    /// Figures of each length class, where there are several.
    pub classes: BTreeMap<String, Group>,
    /// Figures of each turn of a conversation, where turns are told apart.
    pub turns: BTreeMap<u32, Group>,
    /// Why completed answers ended, in the server's word.
    pub finish_reasons: BTreeMap<String, u64>,
    /// Failures by reason.
    pub failures: BTreeMap<String, u64>,
    /// What was said of one failure of each reason.
    pub failure_examples: BTreeMap<String, String>,
    /// What the load generator itself took.
    pub client: ClientFigures,
    /// What the server said of itself, where it has `/metrics`.
    pub server: Option<ServerFigures>,
    /// Confidence intervals over the repeats of this run's point, where it was repeated.
    pub repeats: Option<Repeats>,
    /// What was run.
    #[serde(flatten)]
    pub about: About,
}

impl RunReport {
    /// Whether no request failed; see [`exit_code`].
    pub fn exit_ok(&self) -> bool {
        self.failed == 0
    }

    /// Sums up a run.
    pub(crate) fn of(ledger: &Ledger, terms: &Terms<'_>, about: About) -> Self {
        let records = &ledger.records;
        let completed: Vec<&Record> = records.iter().filter(|record| record.is_completed()).collect();
        let sent: Vec<&Record> = records.iter().filter(|record| record.was_sent()).collect();
        let duration_s = duration_ns(&sent) as f64 / 1e9;
        let a_second = |count: u64| (duration_s > 0.0).then(|| count as f64 / duration_s);
        let output_tokens = completed.iter().map(|record| tokens(record).0).sum();
        let chunks: u64 = completed.iter().map(|record| record.chunks).sum();
        let (template_tokens, prompt_token_mismatch) = prompt_counts(&completed);
        let (failures, failure_examples) = failures(records);
        let (cached_tokens, hit_rate) = cache(&completed);
        let ideal = terms.ideal.filter(|ideal| ideal.prompt_tokens > 0);
        let invalid_reason = invalid(&sent, terms.max_lag);
        let cancelled = records.iter().filter(|record| record.end == End::Cancelled).count() as u64;
        let failed = failures.values().sum();
        let class = |record: &Record| terms.classes.get(usize::from(record.class)).filter(|_| terms.classes.len() > 1);
        Self {
            completed: completed.len() as u64,
            without_text: completed.iter().filter(|record| record.first_token.is_none()).count() as u64,
            failed,
            cancelled,
            duration_s,
            output_tok_s: a_second(output_tokens),
            request_s: a_second(completed.len() as u64),
            ttft_ms: summary(&completed, ttft),
            tpot_ms: summary(&completed, tpot),
            itl_ms: between_tokens(&ledger.gaps, &completed).summary(),
            icl_ms: ledger.gaps.summary(),
            e2e_ms: summary(&completed, e2e),
            schedule_lag_ms: Summary::exact(sent.iter().filter_map(|record| lag(record)).collect()),
            ttft_from_intended_ms: summary(&completed, ttft_from_intended),
            e2e_from_intended_ms: summary(&completed, e2e_from_intended),
            connect_ms: Summary::exact(sent.iter().filter_map(|record| connect(record)).collect()),
            achieved_requested: achieved_requested(&sent),
            valid: invalid_reason.is_none(),
            invalid_reason,
            interrupted: ledger.interrupted,
            requests: records.len() as u64,
            input_tokens: completed.iter().map(|record| record.input_len as u64).sum(),
            output_tokens,
            output_tokens_by: counted_by(&completed),
            output_counts: OutputTokens::of(&completed),
            tokens_per_chunk: (chunks > 0).then(|| output_tokens as f64 / chunks as f64),
            max_in_flight: ledger.max_in_flight,
            max_queued: ledger.max_queued,
            connections: ledger.connections,
            template_tokens,
            prompt_token_mismatch,
            output_token_mismatch: completed.iter().filter(|r| tokens(r).0 != r.output_len as u64).count() as u64,
            cached_tokens,
            hit_rate,
            ideal_cached_tokens: ideal.map(|ideal| ideal.cached_tokens),
            ideal_hit_rate: ideal.map(|ideal| ideal.cached_tokens as f64 / ideal.prompt_tokens as f64),
            goodput: Goodput::of(&completed, records.len() as u64 - cancelled, &terms.slo, duration_s),
            burst: about.concurrency.and_then(|concurrency| Burst::of(&sent, concurrency)),
            windows: Windows::of(&sent, terms.warmup_window, about.ramp()),
            classes: Group::by(&sent, |record| class(record).cloned()),
            turns: Group::by(&sent, |record| Some(record.turn).filter(|&turn| turn > 0)),
            finish_reasons: count(completed.iter().filter_map(|record| Some(record.finish?.to_string()))),
            failures,
            failure_examples,
            client: ClientFigures::of(&ledger.cost),
            server: ServerFigures::of(terms.server),
            repeats: None,
            about: About { started: about::rfc3339(ledger.started_unix_s), ..about },
        }
    }
}

fn count(words: impl Iterator<Item = String>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    words.for_each(|word| *counts.entry(word).or_default() += 1);
    counts
}

/// The gaps between chunks, and 0 for each token that came with another.
fn between_tokens(gaps: &Gaps, completed: &[&Record]) -> Gaps {
    let mut gaps = gaps.clone();
    let together = completed.iter().map(|record| tokens(record).0.saturating_sub(record.chunks.max(1))).sum();
    gaps.add_times(0, together);
    gaps
}

fn counted_by(completed: &[&Record]) -> CountedBy {
    let mut by = completed.iter().map(|record| tokens(record).1);
    let first = by.next().unwrap_or_default();
    if by.all(|other| other == first) { first } else { CountedBy::Mixed }
}

fn duration_ns(sent: &[&Record]) -> u64 {
    let first = sent.iter().map(|record| record.sent).min().unwrap_or(0);
    sent.iter().map(|record| record.ended).max().unwrap_or(0).saturating_sub(first)
}

/// Both rates have n − 1 in common, so theirs is the ratio of the spans.
pub(crate) fn achieved_requested(sent: &[&Record]) -> Option<f64> {
    let span = |times: &[u64]| Some(times.iter().max()?.saturating_sub(*times.iter().min()?)).filter(|&ns| ns > 0);
    let (intended, actual): (Vec<u64>, Vec<u64>) = sent.iter().filter_map(|r| Some((r.intended?, r.sent))).unzip();
    Some(span(&intended)? as f64 / span(&actual)? as f64)
}

fn invalid(sent: &[&Record], max_lag: Duration) -> Option<String> {
    let mut lags: Vec<u64> = sent.iter().filter_map(|record| lag(record)).collect();
    lags.sort_unstable();
    let p99 = (!lags.is_empty()).then(|| nearest_rank(&lags, 99))?;
    let ms = |ns: u128| ns as f64 / 1e6;
    (u128::from(p99) > max_lag.as_nanos()).then(|| {
        let (p99, bound) = (ms(u128::from(p99)), ms(max_lag.as_nanos()));
        format!("the client sent late: lag p99 is {p99:.2} ms, --max-lag is {bound} ms")
    })
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

/// Cached tokens, and their share of the prompts of the answers that say how many were.
fn cache(completed: &[&Record]) -> (Option<u64>, Option<f64>) {
    let said = completed.iter().filter_map(|record| Some((record.usage?.cached_tokens?, record.usage?.prompt_tokens)));
    let (mut any, mut cached, mut prompt) = (false, 0, 0);
    said.for_each(|(of_it, all)| (any, cached, prompt) = (true, cached + of_it, prompt + all));
    (any.then_some(cached), (prompt > 0).then(|| cached as f64 / prompt as f64))
}

type ByReason<T> = BTreeMap<String, T>;

fn failures(records: &[Record]) -> (ByReason<u64>, ByReason<String>) {
    let mut examples = BTreeMap::new();
    // The example is the first request's, so that it does not depend on the order of the ends.
    let mut by_index: Vec<&Record> = records.iter().filter(|record| record.failure().is_some()).collect();
    by_index.sort_by_key(|record| record.index);
    for failure in by_index.into_iter().filter_map(Record::failure) {
        examples.entry(failure.reason.to_string()).or_insert_with(|| failure.detail.clone());
    }
    (count(records.iter().filter_map(Record::failure).map(|failure| failure.reason.to_string())), examples)
}
