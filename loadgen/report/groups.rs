//! Figures of a part of a run: its windows in time, its length classes, its turns.
//!
//! Owns which request belongs to which window. Knows nothing of print.
//!
//! ```text
//!  first sent ───── w ──────────────────────── last sent ───────── last end
//!  │─ warm-up ──────│─ steady ─────────────────│─ drain ───────────│
//! ```
//! *w* is the warm-up window given, or else whichever is later: the ramp's end, or the first end of a request. A request's
//! latencies belong to the window in which it was **sent**, so that long answers are not left out of the steady ones;
//! throughput is what **came** in the window, its end included. Tokens have no times of their own: an answer's are spread evenly from its
//! first to its last.
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::request::{e2e, tokens, tpot, ttft};
use crate::records::Record;
use crate::statistics::Summary;

/// Figures of some of a run's requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Requests.
    pub requests: u64,
    /// Of them, those whose answer came whole.
    pub completed: u64,
    /// Their output tokens.
    pub output_tokens: u64,
    /// Time to the first token.
    pub ttft_ms: Option<Summary>,
    /// Time per output token after the first.
    pub tpot_ms: Option<Summary>,
    /// Time to the last token.
    pub e2e_ms: Option<Summary>,
}

/// The three windows of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Windows {
    /// From the first send to the end of the warm-up.
    pub warmup: Window,
    /// From there to the last send.
    pub steady: Window,
    /// From the last send to the last end.
    pub drain: Window,
}

/// One window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Its beginning, in seconds after the first send.
    pub from_s: f64,
    /// Its end.
    pub to_s: f64,
    /// Requests that ended well in it, over its length.
    pub request_s: Option<f64>,
    /// Output tokens that came in it, over its length.
    pub output_tok_s: Option<f64>,
    /// Of the requests sent in it.
    #[serde(flatten)]
    pub of: Group,
}

/// Exact figures of the completed ones among `records`.
pub(crate) fn summary(records: &[&Record], of: fn(&Record) -> Option<u64>) -> Option<Summary> {
    Summary::exact(records.iter().filter(|record| record.is_completed()).filter_map(|record| of(record)).collect())
}

impl Group {
    pub(crate) fn of(records: &[&Record]) -> Self {
        let completed = || records.iter().filter(|record| record.is_completed());
        Self {
            requests: records.len() as u64,
            completed: completed().count() as u64,
            output_tokens: completed().map(|record| tokens(record).0).sum(),
            ttft_ms: summary(records, ttft),
            tpot_ms: summary(records, tpot),
            e2e_ms: summary(records, e2e),
        }
    }

    /// One of each key that there is.
    pub(crate) fn by<K: Ord>(records: &[&Record], key: impl Fn(&Record) -> Option<K>) -> BTreeMap<K, Self> {
        let mut parts = BTreeMap::<K, Vec<&Record>>::new();
        for &record in records {
            if let Some(key) = key(record) {
                parts.entry(key).or_default().push(record);
            }
        }
        parts.into_iter().map(|(key, part)| (key, Self::of(&part))).collect()
    }
}

impl Windows {
    /// Of all requests that were sent; `warmup` as given, else automatic with the ramp.
    pub(crate) fn of(records: &[&Record], warmup: Option<Duration>, ramp: Duration) -> Self {
        let Some(first) = records.iter().map(|record| record.sent).min() else { return Self::default() };
        let last = records.iter().map(|record| record.sent).max().unwrap_or(first);
        let end = records.iter().map(|record| record.ended).max().unwrap_or(last).max(last);
        let first_end = records.iter().map(|record| record.ended).min().unwrap_or(first);
        let until = match warmup {
            Some(warmup) => first.saturating_add(warmup.as_nanos() as u64),
            None => first.saturating_add(ramp.as_nanos() as u64).max(first_end),
        }
        .min(last);
        let sent_in = |from: u64, to: u64| -> Vec<&Record> {
            records.iter().copied().filter(|record| (from..to).contains(&record.sent)).collect()
        };
        let window = |from: u64, to: u64, of: Vec<&Record>| Window::of(records, (from, to), first, &of);
        Self {
            warmup: window(first, until, sent_in(first, until)),
            steady: window(until, last, sent_in(until, last)),
            drain: window(last, end, sent_in(last, u64::MAX)),
        }
    }
}

impl Window {
    fn of(records: &[&Record], (from, to): (u64, u64), origin: u64, sent: &[&Record]) -> Self {
        let seconds = (to - from) as f64 / 1e9;
        let a_second = |count: f64| (seconds > 0.0).then(|| count / seconds);
        let came = records.iter().filter(|record| record.is_completed());
        let ended = came.clone().filter(|record| record.ended > from && record.ended <= to).count();
        Self {
            from_s: (from - origin) as f64 / 1e9,
            to_s: (to - origin) as f64 / 1e9,
            request_s: a_second(ended as f64),
            output_tok_s: a_second(
                came.map(|record| parts_between(record, from, to)).sum::<u128>() as f64 / PARTS_A_TOKEN as f64,
            ),
            of: Group::of(sent),
        }
    }
}

/// Parts of a token that windows count in: whole numbers, whose sum does not depend on their order.
const PARTS_A_TOKEN: u128 = 1_000_000_000;

/// Tokens of an answer that came within a window, spread evenly from its first to its last; in [`PARTS_A_TOKEN`].
fn parts_between(record: &Record, from: u64, to: u64) -> u128 {
    // Tokens without text came with the end.
    let last = record.last_token.unwrap_or(record.ended);
    let first = record.first_token.unwrap_or(last);
    let (n, within) = (u128::from(tokens(record).0), |at: u64| u128::from(at > from && at <= to));
    if n < 2 || last <= first {
        return n * within(first) * PARTS_A_TOKEN;
    }
    let overlap = u128::from(last.min(to).saturating_sub(first.max(from)));
    within(first) * PARTS_A_TOKEN + (n - 1) * overlap * PARTS_A_TOKEN / u128::from(last - first)
}
