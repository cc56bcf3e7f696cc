//! All that is kept of a run beside its figures: what plots, comparisons and other programs read.
//!
//! Owns the lines of `records.jsonl` and the bounded series. Knows nothing of files.
use serde::{Deserialize, Serialize};

use super::request::{e2e, lag, tokens, tpot, ttft};
use super::{RunReport, between_tokens};
use crate::records::{End, Failure, Finish, Ledger, Reason, Record, Usage};
use crate::scrape::ServerSample;
use crate::series::{GapsOverTime, Sample};
use crate::statistics::Gaps;

/// A run: its figures and what they were made from.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RunData {
    pub(crate) report: RunReport,
    /// One of each request; empty where the records are not at hand.
    pub(crate) requests: Vec<RequestLine>,
    pub(crate) series: Series,
}

/// What is kept over time.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Series {
    pub(crate) samples: Vec<Sample>,
    pub(crate) server: Vec<ServerSample>,
    /// Seconds a column of `gap_cells`.
    pub(crate) gap_column_s: f64,
    /// Gaps between chunks by column of time and bin of length ([`GapsOverTime::bin_start_us`]).
    pub(crate) gap_cells: Vec<(usize, usize, u32)>,
    /// Lengths in ms that shares of all gaps between tokens do not exceed.
    pub(crate) itl_quantiles: Vec<(f64, f64)>,
    /// The same of gaps between chunks.
    pub(crate) icl_quantiles: Vec<(f64, f64)>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    #[default]
    Completed,
    Cancelled,
    Failed,
}

/// One request, as a line of `records.jsonl`. Times are nanoseconds after the run's start, on one monotonic clock.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RequestLine {
    /// Which run of the command, from 1.
    pub(crate) run: usize,
    pub(crate) index: usize,
    pub(crate) class: u16,
    pub(crate) turn: u32,
    pub(crate) status: Status,
    pub(crate) reason: Option<String>,
    pub(crate) detail: Option<String>,
    pub(crate) finish: Option<String>,
    pub(crate) intended_ns: Option<u64>,
    pub(crate) sent_ns: u64,
    pub(crate) written_ns: Option<u64>,
    pub(crate) head_ns: Option<u64>,
    pub(crate) first_token_ns: Option<u64>,
    pub(crate) last_token_ns: Option<u64>,
    pub(crate) ended_ns: u64,
    pub(crate) input_len: usize,
    pub(crate) output_len: usize,
    pub(crate) chunks: u64,
    pub(crate) reasoning_chunks: u64,
    pub(crate) tool_call_chunks: u64,
    pub(crate) usage_prompt_tokens: Option<u64>,
    pub(crate) usage_completion_tokens: Option<u64>,
    pub(crate) usage_cached_tokens: Option<u64>,
    pub(crate) usage_reasoning_tokens: Option<u64>,
    pub(crate) tokenizer_tokens: Option<u64>,
    /// N, by whoever counts.
    pub(crate) output_tokens: u64,
    pub(crate) ttft_ms: Option<f64>,
    pub(crate) tpot_ms: Option<f64>,
    pub(crate) e2e_ms: Option<f64>,
    pub(crate) lag_ms: Option<f64>,
}

impl RunData {
    /// Of the `run`th run of a command, from 1.
    pub(crate) fn of(run: usize, ledger: &Ledger, server: &[ServerSample], report: RunReport) -> Self {
        let completed: Vec<&Record> = ledger.records.iter().filter(|record| record.is_completed()).collect();
        Self {
            report,
            requests: ledger.records.iter().map(|record| RequestLine::of(run, record)).collect(),
            series: Series {
                samples: ledger.samples.clone(),
                server: server.to_vec(),
                gap_column_s: ledger.gaps_over_time.column_s(),
                gap_cells: ledger.gaps_over_time.cells().collect(),
                itl_quantiles: quantiles(&between_tokens(&ledger.gaps, &completed)),
                icl_quantiles: quantiles(&ledger.gaps),
            },
        }
    }
}

/// A curve of a histogram: every half percent, and the tail finer.
fn quantiles(gaps: &Gaps) -> Vec<(f64, f64)> {
    if gaps.len() == 0 {
        return Vec::new();
    }
    let tail = [0.999, 0.9995, 0.9999, 1.0];
    (0..=199).map(|half| f64::from(half) / 200.0).chain(tail).map(|share| (share, gaps.quantile_ms(share))).collect()
}

impl RequestLine {
    fn of(run: usize, record: &Record) -> Self {
        let ms = |ns: Option<u64>| ns.map(|ns| ns as f64 / 1e6);
        let usage = record.usage;
        let completed = record.is_completed();
        Self {
            run,
            index: record.index,
            class: record.class,
            turn: record.turn,
            status: match &record.end {
                End::Completed => Status::Completed,
                End::Cancelled => Status::Cancelled,
                End::Failed(_) => Status::Failed,
            },
            reason: record.failure().map(|failure| failure.reason.to_string()),
            detail: record.failure().map(|failure| failure.detail.clone()),
            finish: record.finish.map(|finish| finish.to_string()),
            intended_ns: record.intended,
            sent_ns: record.sent,
            written_ns: record.written,
            head_ns: record.head,
            first_token_ns: record.first_token,
            last_token_ns: record.last_token,
            ended_ns: record.ended,
            input_len: record.input_len,
            output_len: record.output_len,
            chunks: record.chunks,
            reasoning_chunks: record.reasoning_chunks,
            tool_call_chunks: record.tool_call_chunks,
            usage_prompt_tokens: usage.map(|usage| usage.prompt_tokens),
            usage_completion_tokens: usage.map(|usage| usage.completion_tokens),
            usage_cached_tokens: usage.and_then(|usage| usage.cached_tokens),
            usage_reasoning_tokens: usage.and_then(|usage| usage.reasoning_tokens),
            tokenizer_tokens: record.tokenizer_count,
            output_tokens: tokens(record).0,
            ttft_ms: ms(ttft(record).filter(|_| completed)),
            tpot_ms: ms(tpot(record).filter(|_| completed)),
            e2e_ms: ms(e2e(record).filter(|_| completed)),
            lag_ms: ms(lag(record).filter(|_| record.was_sent())),
        }
    }

    /// The record that it is a line of, but for the kind of a failure, whose name alone is kept.
    fn record(&self) -> Record {
        let finish = match self.finish.as_deref() {
            None => None,
            Some("stop") => Some(Finish::Stop),
            Some("length") => Some(Finish::Length),
            Some("tool_calls") => Some(Finish::ToolCalls),
            Some(_) => Some(Finish::Other),
        };
        let named = |text: &Option<String>| text.clone().unwrap_or_default();
        Record {
            index: self.index,
            class: self.class,
            turn: self.turn,
            intended: self.intended_ns,
            sent: self.sent_ns,
            written: self.written_ns,
            head: self.head_ns,
            first_token: self.first_token_ns,
            last_token: self.last_token_ns,
            ended: self.ended_ns,
            chunks: self.chunks,
            reasoning_chunks: self.reasoning_chunks,
            tool_call_chunks: self.tool_call_chunks,
            usage: self.usage_completion_tokens.map(|completion_tokens| Usage {
                prompt_tokens: self.usage_prompt_tokens.unwrap_or(0),
                completion_tokens,
                cached_tokens: self.usage_cached_tokens,
                reasoning_tokens: self.usage_reasoning_tokens,
            }),
            tokenizer_count: self.tokenizer_tokens,
            input_len: self.input_len,
            output_len: self.output_len,
            finish,
            usage_alone: false,
            end: match self.status {
                Status::Completed => End::Completed,
                Status::Cancelled => End::Cancelled,
                Status::Failed if self.lag_ms.is_none() && self.reason == Some(Reason::Parent.to_string()) => {
                    End::Failed(Failure::new(Reason::Parent, named(&self.detail)))
                }
                Status::Failed => End::Failed(Failure::new(Reason::Recorded(named(&self.reason)), named(&self.detail))),
            },
            tics: None,
        }
    }

    /// The ledger of these lines: no gap between chunks is in it, nor what was counted through the run.
    pub(crate) fn ledger(lines: &[Self]) -> Ledger {
        Ledger {
            records: lines.iter().map(Self::record).collect(),
            gaps: Gaps::new(),
            gaps_over_time: GapsOverTime::new(),
            samples: Vec::new(),
            max_in_flight: 0,
            max_queued: 0,
            connections: None,
            cost: Default::default(),
            started_unix_s: 0.0,
            answers: Default::default(),
            interrupted: None,
        }
    }
}
