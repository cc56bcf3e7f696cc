//! The parts of a report that are figures of their own: goodput, the burst, who counted what, own cost, the server's word.
//!
//! Owns how each is summed up. Knows nothing of print.
use minisgl_config::loadgen::settings::Slo;
use serde::{Deserialize, Serialize};

use super::RunReport;
use super::request::{e2e, tpot, ttft};
use crate::records::Record;
use crate::scrape::ServerSample;
use crate::series::ClientCost;
use crate::statistics::Interval;

/// Requests that met all SLOs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Goodput {
    /// The bounds.
    pub slo: SloMs,
    /// Requests that completed within all of them.
    pub good: u64,
    /// Of all requests but the cancelled ones.
    pub share: Option<f64>,
    /// Over the duration.
    pub request_s: Option<f64>,
}

/// The SLOs in milliseconds; null where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SloMs {
    /// Of the time to the first token.
    pub ttft: Option<f64>,
    /// Of the time per output token; an answer of one token has none and meets it.
    pub tpot: Option<f64>,
    /// Of the time to the last token.
    pub e2e: Option<f64>,
}

impl Goodput {
    pub(super) fn of(completed: &[&Record], asked: u64, slo: &Slo, duration_s: f64) -> Option<Self> {
        if !slo.is_some() {
            return None;
        }
        let within = |figure: Option<u64>, bound: Option<std::time::Duration>| match (figure, bound) {
            (Some(ns), Some(bound)) => u128::from(ns) <= bound.as_nanos(),
            _ => true,
        };
        let is_good = |record: &Record| {
            // An answer without text kept its reader waiting until it was over.
            let whole = Some(record.ended.saturating_sub(record.sent));
            within(ttft(record).or(whole), slo.ttft)
                && within(tpot(record), slo.tpot)
                && within(e2e(record).or(whole), slo.e2e)
        };
        let good = completed.iter().filter(|record| is_good(record)).count() as u64;
        let ms = |bound: Option<std::time::Duration>| bound.map(|bound| bound.as_secs_f64() * 1e3);
        Some(Self {
            slo: SloMs { ttft: ms(slo.ttft), tpot: ms(slo.tpot), e2e: ms(slo.e2e) },
            good,
            share: (asked > 0).then(|| good as f64 / asked as f64),
            request_s: (duration_s > 0.0).then(|| good as f64 / duration_s),
        })
    }
}

/// TTFT of a closed loop's beginning, when all its places are free at once, and of what follows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Burst {
    /// Requests that it is made of: the first `concurrency`.
    pub requests: u64,
    /// Their mean TTFT.
    pub ttft_ms: f64,
    /// The mean TTFT of those after them.
    pub later_ttft_ms: f64,
    /// What the run's mean TTFT has beyond theirs, over it; 0 where it has less.
    pub share_of_ttft: f64,
}

impl Burst {
    pub(super) fn of(sent: &[&Record], concurrency: u64) -> Option<Self> {
        let mut by_send: Vec<&Record> = sent.to_vec();
        by_send.sort_by_key(|record| (record.sent, record.index));
        let (first, later) = by_send.split_at_checked(usize::try_from(concurrency).ok()?)?;
        let sum = |records: &[&Record]| {
            let of = records.iter().filter(|record| record.is_completed()).filter_map(|record| ttft(record));
            of.fold((0u64, 0u128), |(n, sum), ns| (n + 1, sum + u128::from(ns)))
        };
        let mean = |(n, sum): (u64, u128)| (n > 0).then(|| sum as f64 / n as f64 / 1e6);
        let (of_first, of_later) = (sum(first), sum(later));
        let all = mean((of_first.0 + of_later.0, of_first.1 + of_later.1))?;
        let (ttft_ms, later_ttft_ms) = (mean(of_first)?, mean(of_later)?);
        let share = if all > 0.0 { ((all - later_ttft_ms) / all).max(0.0) } else { 0.0 };
        Some(Self { requests: first.len() as u64, ttft_ms, later_ttft_ms, share_of_ttft: share })
    }
}

/// Output tokens of the completed answers, by each who counted; and where they disagree, in how many answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OutputTokens {
    /// Tokens asked for.
    pub asked: u64,
    /// By the server, of the answers that it counted.
    pub usage: Option<u64>,
    /// By the client's tokenizer, of the answers that it counted.
    pub tokenizer: Option<u64>,
    /// Content chunks.
    pub chunks: u64,
    /// Of them, with reasoning.
    pub reasoning_chunks: u64,
    /// Of them, with a piece of a tool call.
    pub tool_call_chunks: u64,
    /// Of the server's count, reasoning.
    pub reasoning_usage: Option<u64>,
    /// Answers of which the server counts other than the asked tokens.
    pub usage_not_asked: u64,
    /// Answers that the server and the tokenizer count differently.
    pub usage_not_tokenizer: u64,
    /// Answers that the tokenizer counts otherwise than asked.
    pub tokenizer_not_asked: u64,
    /// Answers of which the server counts fewer tokens than chunks came: it cannot be right.
    pub usage_below_chunks: u64,
}

impl OutputTokens {
    pub(super) fn of(completed: &[&Record]) -> Self {
        let mut all = Self::default();
        let add = |to: &mut Option<u64>, n: u64| *to = Some(to.unwrap_or(0) + n);
        for record in completed {
            let usage = record.usage.map(|usage| usage.completion_tokens).filter(|&n| n > 0);
            let (asked, tokenizer) = (record.output_len as u64, record.tokenizer_count);
            all.asked += asked;
            all.chunks += record.chunks;
            all.reasoning_chunks += record.reasoning_chunks;
            all.tool_call_chunks += record.tool_call_chunks;
            if let Some(n) = usage {
                add(&mut all.usage, n);
                all.usage_not_asked += u64::from(n != asked);
                all.usage_not_tokenizer += u64::from(tokenizer.is_some_and(|count| count != n));
                all.usage_below_chunks += u64::from(n < record.chunks);
            }
            if let Some(n) = tokenizer {
                add(&mut all.tokenizer, n);
                all.tokenizer_not_asked += u64::from(n != asked);
            }
            if let Some(n) = record.usage.and_then(|usage| usage.reasoning_tokens) {
                add(&mut all.reasoning_usage, n);
            }
        }
        all
    }
}

/// What the load generator itself took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClientFigures {
    /// CPU seconds of the process through the run.
    pub cpu_s: f64,
    /// Over wall time: 1 is one core.
    pub cpu_share: Option<f64>,
    /// CPU microseconds a content chunk, everything included.
    pub us_a_chunk: Option<f64>,
    /// Most memory that was resident since the process began, in bytes.
    pub peak_rss_bytes: u64,
}

impl ClientFigures {
    pub(super) fn of(cost: &ClientCost) -> Self {
        Self {
            cpu_s: cost.cpu_s,
            cpu_share: (cost.wall_s > 0.0).then(|| cost.cpu_s / cost.wall_s),
            us_a_chunk: (cost.chunks > 0).then(|| cost.cpu_s * 1e6 / cost.chunks as f64),
            peak_rss_bytes: cost.peak_rss_bytes,
        }
    }
}

/// What the server's `/metrics` said through the run; null where it has no such series.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerFigures {
    /// Times that it was read.
    pub samples: u64,
    /// Most sequences that ran at once, as far as was seen.
    pub max_running: Option<f64>,
    /// Most that waited.
    pub max_waiting: Option<f64>,
    /// Highest share of its K/V cache in use.
    pub max_kv_usage: Option<f64>,
    /// Prefix-cache hits over queries, in tokens, from the first sample to the last.
    pub prefix_hit_rate: Option<f64>,
    /// Preemptions from the first sample to the last.
    pub preemptions: Option<f64>,
}

impl ServerFigures {
    pub(super) fn of(samples: &[ServerSample]) -> Option<Self> {
        let highest = |of: fn(&ServerSample) -> Option<f64>| samples.iter().filter_map(of).reduce(f64::max);
        let grown = |of: fn(&ServerSample) -> Option<f64>| {
            let mut seen = samples.iter().filter_map(of);
            let first = seen.next()?;
            Some(seen.next_back().unwrap_or(first) - first)
        };
        let (hits, queries) = (grown(|s| s.prefix_hits), grown(|s| s.prefix_queries));
        (!samples.is_empty()).then(|| Self {
            samples: samples.len() as u64,
            max_running: highest(|s| s.running),
            max_waiting: highest(|s| s.waiting),
            max_kv_usage: highest(|s| s.kv_usage),
            prefix_hit_rate: hits.zip(queries).filter(|&(_, queries)| queries > 0.0).map(|(hits, all)| hits / all),
            preemptions: grown(|s| s.preemptions),
        })
    }
}

/// 95% confidence intervals over the repeats of one point, of the runs' own figures (Student's t).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Repeats {
    /// Runs of the point.
    pub runs: u64,
    /// Of the runs' mean TTFT.
    pub ttft_ms: Option<Interval>,
    /// Of their mean TPOT.
    pub tpot_ms: Option<Interval>,
    /// Of their mean ITL.
    pub itl_ms: Option<Interval>,
    /// Of their mean E2E.
    pub e2e_ms: Option<Interval>,
    /// Of their output tokens a second.
    pub output_tok_s: Option<Interval>,
    /// Of their requests a second.
    pub request_s: Option<Interval>,
}

impl Repeats {
    fn of(runs: &[&RunReport]) -> Self {
        let interval = |of: fn(&RunReport) -> Option<f64>| {
            Interval::of(&runs.iter().filter_map(|run| of(run)).collect::<Vec<_>>())
        };
        Self {
            runs: runs.len() as u64,
            ttft_ms: interval(|run| Some(run.ttft_ms?.mean)),
            tpot_ms: interval(|run| Some(run.tpot_ms?.mean)),
            itl_ms: interval(|run| Some(run.itl_ms?.mean)),
            e2e_ms: interval(|run| Some(run.e2e_ms?.mean)),
            output_tok_s: interval(|run| run.output_tok_s),
            request_s: interval(|run| run.request_s),
        }
    }

    /// Gives every run of a point that was repeated the intervals of that point.
    pub(crate) fn fill(reports: &mut [RunReport]) {
        let points: Vec<String> = reports.iter().map(|report| report.about.point()).collect();
        for i in 0..reports.len() {
            let same = reports.iter().zip(&points).filter(|(_, point)| **point == points[i]).map(|(report, _)| report);
            let same: Vec<&RunReport> = same.collect();
            reports[i].repeats = (same.len() > 1).then(|| Self::of(&same));
        }
    }
}
