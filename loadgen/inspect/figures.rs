//! The figures of a trace.
//!
//! Owns their definitions; percentiles are the nearest rank. Knows nothing of how they are shown.
use std::collections::HashSet;

use serde::Serialize;

use super::times;
use crate::traces::{PrefixOptions, Trace, TracePrompt, TraceRequest, ideal_hits};

/// What is in a trace.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// The file.
    pub file: String,
    /// Its format, detected from its content.
    pub format: String,
    /// SHA-256 of the file as it is stored.
    pub sha256: String,
    /// Requests in it.
    pub requests: usize,
    /// Of these, recorded as failed.
    pub failed: usize,
    /// Records that hold no request.
    pub skipped: usize,
    /// From the first request to the last; `None` without times.
    pub span_s: Option<f64>,
    /// How they arrive; `None` without times, or with all at one.
    pub arrivals: Option<ArrivalFigures>,
    /// Prompt tokens, where the trace says.
    pub input_tokens: Option<Spread>,
    /// Answer tokens, where the trace says; those of failed requests not among them.
    pub output_tokens: Option<Spread>,
    /// Characters of prompts that are text, history included where the trace has it.
    pub prompt_chars: Option<Spread>,
    /// Chats; `None` where the trace links no requests.
    pub turns: Option<TurnFigures>,
    /// What prompts share; `None` where they have no ids.
    pub prefix: Option<PrefixFigures>,
    /// For each context asked for: the share of requests whose prompt and answer need more, of those whose lengths are known.
    pub above_context: Vec<(usize, f64)>,
}

/// How requests arrive.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ArrivalFigures {
    /// Requests over the span: gaps over seconds.
    pub rate_per_s: f64,
    /// Standard deviation of the gaps between requests over their mean: 1 for Poisson arrivals, 0 for even ones.
    pub gap_cv: f64,
    /// Requests in each second.
    pub per_second: Counts,
    /// Requests in each minute; `None` where the trace spans no whole one.
    pub per_minute: Option<Counts>,
}

/// Requests in windows of one length; the last window, which the trace may not fill, is left out where there are others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Counts {
    /// The most in a window.
    pub peak: u64,
    /// The mean.
    pub mean: f64,
    /// Variance over mean: 1 for Poisson arrivals whatever their rate, more for bursts.
    pub dispersion: f64,
}

/// How some whole numbers are spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// How many there are.
    pub n: usize,
    /// Their sum.
    pub total: u64,
    /// Their mean.
    pub mean: f64,
    /// The least.
    pub min: u64,
    /// Median.
    pub p50: u64,
    /// 90th percentile.
    pub p90: u64,
    /// 99th percentile.
    pub p99: u64,
    /// The most.
    pub max: u64,
}

impl Spread {
    /// Of these numbers; `None` of none.
    pub fn of(values: impl Iterator<Item = u64>) -> Option<Self> {
        let mut values: Vec<u64> = values.collect();
        values.sort_unstable();
        let (n, &min, &max) = (values.len(), values.first()?, values.last()?);
        let rank = |percent: usize| values[(percent * n).div_ceil(100) - 1];
        let total: u64 = values.iter().fold(0, |sum, &value| sum.saturating_add(value));
        let mean = total as f64 / n as f64;
        Some(Self { n, total, mean, min, p50: rank(50), p90: rank(90), p99: rank(99), max })
    }
}

/// Chats and their turns.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TurnFigures {
    /// Chats: requests that follow no other in the trace.
    pub chats: usize,
    /// Turns of each that are in the trace.
    pub turns_a_chat: Spread,
    /// Requests that follow another.
    pub follow_ups: usize,
    /// Requests that say they are a later turn, of which no earlier one is in the trace.
    pub without_parent: usize,
}

/// What prompts share.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PrefixFigures {
    /// Tokens that an id stands for.
    pub block_size: usize,
    /// Ids in the trace.
    pub ids: usize,
    /// How many of them differ.
    pub distinct_ids: usize,
    /// Requests with fewer or more ids than their length asks for.
    pub length_mismatch: usize,
    /// Share of prompt tokens that a cache without bounds serves, requests one after another; token-exact.
    pub ideal_hit_rate: f64,
    /// The same in whole pages of 16 tokens.
    pub ideal_hit_rate_page_16: f64,
}

impl Inspection {
    /// The figures of `trace`.
    pub(crate) fn of(trace: &Trace, contexts: &[usize]) -> Self {
        let requests = &trace.requests;
        let known = |length: fn(&TraceRequest) -> Option<usize>| {
            Spread::of(requests.iter().filter(|r| !r.failed).filter_map(length).map(|n| n as u64))
        };
        let span = trace.timed.then(|| times(trace).fold(0.0, f64::max));
        let sums: Vec<usize> =
            requests.iter().filter(|r| !r.failed).filter_map(|r| Some(r.input_length? + r.output_length?)).collect();
        let above = |&context: &usize| {
            let more = sums.iter().filter(|&&sum| sum > context).count();
            (!sums.is_empty()).then(|| (context, more as f64 / sums.len() as f64))
        };
        Self {
            file: trace.name.clone(),
            format: trace.format.to_string(),
            sha256: trace.sha256_hex(),
            requests: requests.len(),
            failed: requests.iter().filter(|request| request.failed).count(),
            skipped: trace.skipped,
            span_s: span,
            arrivals: span.filter(|&span| span > 0.0).map(|span| ArrivalFigures::of(trace, span)),
            input_tokens: known(|request| request.input_length),
            output_tokens: known(|request| request.output_length),
            prompt_chars: Spread::of(requests.iter().filter_map(chars)),
            turns: TurnFigures::of(trace),
            prefix: PrefixFigures::of(trace),
            above_context: contexts.iter().filter_map(above).collect(),
        }
    }
}

/// Characters of a prompt that is text.
fn chars(request: &TraceRequest) -> Option<u64> {
    let count = |text: &str| text.chars().count() as u64;
    match &request.prompt {
        TracePrompt::Lengths => None,
        TracePrompt::Text(text) => Some(count(text)),
        TracePrompt::Messages(chat) => Some(chat.prompt().iter().map(|message| count(&message.content)).sum()),
    }
}

impl ArrivalFigures {
    fn of(trace: &Trace, span_s: f64) -> Self {
        let times: Vec<f64> = times(trace).collect();
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        let n = (times.len() - 1) as f64;
        let mean = span_s / n;
        let variance = gaps.map(|gap| (gap - mean).powi(2)).sum::<f64>() / n;
        Self {
            rate_per_s: n / span_s,
            gap_cv: variance.sqrt() / mean,
            per_second: Counts::of(&times, 1.0),
            per_minute: (span_s >= 60.0).then(|| Counts::of(&times, 60.0)),
        }
    }
}

impl Counts {
    /// Of sorted times, in windows of so many seconds. Windows without a request are counted and never stored: a trace of two
    /// requests may span centuries.
    fn of(times: &[f64], window_s: f64) -> Self {
        let index = |time: f64| (time / window_s).floor();
        let last = times.last().map_or(0.0, |&time| index(time));
        let (windows, whole) =
            if last >= 1.0 { (last, &times[..times.partition_point(|&t| index(t) < last)]) } else { (1.0, times) };
        let (mut peak, mut squares) = (0, 0.0);
        for window in whole.chunk_by(|&a, &b| index(a) == index(b)) {
            peak = peak.max(window.len() as u64);
            squares += (window.len() as f64).powi(2);
        }
        let mean = whole.len() as f64 / windows;
        let dispersion = if mean > 0.0 { (squares / windows - mean * mean) / mean } else { 0.0 };
        Self { peak, mean, dispersion }
    }
}

impl TurnFigures {
    fn of(trace: &Trace) -> Option<Self> {
        let mut chat_of: Vec<usize> = Vec::with_capacity(trace.requests.len());
        let mut turns: Vec<u64> = Vec::new();
        let (mut linked, mut without_parent) = (false, 0);
        for request in &trace.requests {
            let parent = request.session.and_then(|turn| turn.parent);
            linked |= request.session.is_some();
            without_parent += usize::from(parent.is_none() && request.session.is_some_and(|turn| turn.number > 1));
            let chat = match parent {
                Some(parent) => chat_of[parent],
                None => {
                    turns.push(0);
                    turns.len() - 1
                }
            };
            turns[chat] += 1;
            chat_of.push(chat);
        }
        let turns_a_chat = Spread::of(turns.iter().copied()).filter(|_| linked)?;
        let (chats, follow_ups) = (turns.len(), trace.requests.len() - turns.len());
        Some(Self { chats, turns_a_chat, follow_ups, without_parent })
    }
}

impl PrefixFigures {
    fn of(trace: &Trace) -> Option<Self> {
        let block_size = trace.block_size?;
        let ids = || trace.requests.iter().flat_map(|request| &request.hash_ids);
        let off = |request: &&TraceRequest| {
            request.input_length.is_some_and(|n| n.div_ceil(block_size) != request.hash_ids.len())
        };
        let rate = |page_size| ideal_hits(trace, PrefixOptions { page_size, scale: 1.0 }).rate();
        Some(Self {
            block_size,
            ids: ids().count(),
            distinct_ids: ids().collect::<HashSet<_>>().len(),
            length_mismatch: trace.requests.iter().filter(off).count(),
            ideal_hit_rate: rate(1)?,
            ideal_hit_rate_page_16: rate(16)?,
        })
    }
}
