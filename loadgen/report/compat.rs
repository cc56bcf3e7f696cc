//! `--metrics-compat`: the same run by the definitions and under the labels of another load generator.
//!
//! Owns what each of them measures, as far as the records hold it, and a line on every difference that remains. Their
//! printed names are kept so that their readers find them.
//!
//! What a client library hands out (role, content, finish, usage) has times of its own only where `--raw` kept them
//! (`Record::tics`); without them content chunks stand in, and the output says so.
use std::fmt::{Result, Write};

use minisgl_config::loadgen::settings::Compat;

use super::RunReport;
use super::request::{e2e, tokens, ttft};
use super::table::figure;
use crate::records::{Ledger, Record};
use crate::statistics::Gaps;

/// The run as `by` would print it.
pub(crate) fn table(by: Compat, ledger: &Ledger, report: &RunReport) -> String {
    let run = Run::of(ledger, report);
    let mut out = String::new();
    if let Some(what) = &report.about.simulated {
        writeln!(out, "SIMULATED: {what}; no figure here is of real hardware").expect("writing to a string");
    }
    match by {
        Compat::Vllm => run.vllm(&mut out),
        Compat::Sglang => run.sglang(&mut out),
        Compat::Aiperf => run.aiperf(&mut out),
        Compat::MiniSglang => run.mini_sglang(&mut out),
    }
    .expect("writing to a string");
    out
}

struct Run<'a> {
    ledger: &'a Ledger,
    report: &'a RunReport,
    completed: Vec<&'a Record>,
    /// Whether every completed answer's events have their times.
    has_tics: bool,
}

/// Durations in milliseconds: all of them, or gaps in a histogram.
enum Values<'a> {
    Sorted(Vec<f64>),
    Pooled(&'a Gaps),
}

impl Values<'_> {
    fn of(nanoseconds: impl Iterator<Item = u64>) -> Self {
        let mut ms: Vec<f64> = nanoseconds.map(|ns| ns as f64 / 1e6).collect();
        ms.sort_by(f64::total_cmp);
        Self::Sorted(ms)
    }

    fn mean(&self) -> Option<f64> {
        match self {
            Self::Sorted(ms) => (!ms.is_empty()).then(|| ms.iter().sum::<f64>() / ms.len() as f64),
            Self::Pooled(gaps) => Some(gaps.summary()?.mean),
        }
    }

    /// numpy's percentile: between the two nearest ranks, by how near they are.
    fn percentile(&self, percent: f64) -> Option<f64> {
        match self {
            Self::Sorted(ms) => {
                let at = percent / 100.0 * ms.len().checked_sub(1)? as f64;
                let (low, high) = (ms[at.floor() as usize], ms[at.ceil() as usize]);
                Some(low + (high - low) * at.fract())
            }
            Self::Pooled(gaps) => (gaps.len() > 0).then(|| gaps.quantile_ms(percent / 100.0)),
        }
    }

    /// mini-sglang's: the value at index ⌊n · share⌋.
    fn at_index(&self, share: f64) -> Option<f64> {
        match self {
            Self::Sorted(ms) => ms.get((ms.len() as f64 * share) as usize).copied(),
            Self::Pooled(gaps) => (gaps.len() > 0).then(|| gaps.quantile_ms(share)),
        }
    }

    fn min(&self) -> Option<f64> {
        self.percentile(0.0)
    }

    fn max(&self) -> Option<f64> {
        match self {
            Self::Sorted(ms) => ms.last().copied(),
            Self::Pooled(gaps) => Some(gaps.summary()?.max),
        }
    }

    /// Of a population, as numpy's.
    fn sd(&self) -> Option<f64> {
        match self {
            Self::Sorted(ms) => {
                let mean = self.mean()?;
                Some((ms.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / ms.len() as f64).sqrt())
            }
            Self::Pooled(gaps) => gaps.summary()?.sd,
        }
    }
}

fn tics(record: &Record) -> &[u64] {
    record.tics.as_deref().unwrap_or_default()
}

fn per_token(latency: u64, first: u64, n: u64) -> Option<u64> {
    (n > 1).then(|| latency.saturating_sub(first) / (n - 1))
}

impl<'a> Run<'a> {
    fn of(ledger: &'a Ledger, report: &'a RunReport) -> Self {
        let completed: Vec<&Record> = ledger.records.iter().filter(|record| record.is_completed()).collect();
        let has_tics = !completed.is_empty() && completed.iter().all(|record| !tics(record).is_empty());
        Self { ledger, report, completed, has_tics }
    }

    fn values(&self, of: impl Fn(&Record) -> Option<u64>) -> Values<'static> {
        Values::of(self.completed.iter().filter_map(|record| of(record)))
    }

    /// Gaps between all events of an answer, or between its content chunks.
    fn event_gaps(&self) -> Values<'a> {
        if self.has_tics {
            let gaps = self.completed.iter().flat_map(|record| tics(record).windows(2)).map(|pair| pair[1] - pair[0]);
            Values::of(gaps)
        } else {
            Values::Pooled(&self.ledger.gaps)
        }
    }

    fn row(&self, out: &mut String, name: &str, value: Option<f64>, decimals: usize) -> Result {
        writeln!(out, "{name:<40} {:<10}", figure(value, decimals))
    }

    fn counts(&self, out: &mut String, names: [&str; 4]) -> Result {
        let report = self.report;
        let counts =
            [report.completed as f64, report.duration_s, report.input_tokens as f64, report.output_tokens as f64];
        names.iter().zip(counts).zip([0, 2, 0, 0]).try_for_each(|((name, n), d)| self.row(out, name, Some(n), d))
    }

    fn total_tok_s(&self) -> Option<f64> {
        let (report, all) = (self.report, self.report.input_tokens + self.report.output_tokens);
        (report.duration_s > 0.0).then(|| all as f64 / report.duration_s)
    }

    /// `vllm bench serve`.
    fn vllm(&self, out: &mut String) -> Result {
        let last = |record: &Record| tics(record).last().copied().filter(|_| self.has_tics).or(record.last_token);
        let first = |record: &Record| tics(record).first().copied().filter(|_| self.has_tics).or(record.first_token);
        let since = |record: &Record, at: Option<u64>| Some(at?.saturating_sub(record.sent));
        let ttft = self.values(|record| since(record, first(record)));
        let tpot = self.values(|r| per_token(since(r, last(r))?, since(r, first(r))?, tokens(r).0));
        writeln!(out, "\n{:=^50}", " Serving Benchmark Result ")?;
        let names =
            ["Successful requests:", "Benchmark duration (s):", "Total input tokens:", "Total generated tokens:"];
        self.counts(out, names)?;
        self.row(out, "Failed requests:", Some(self.report.failed as f64), 0)?;
        self.row(out, "Request throughput (req/s):", self.report.request_s, 2)?;
        self.row(out, "Output token throughput (tok/s):", self.report.output_tok_s, 2)?;
        self.row(out, "Total Token throughput (tok/s):", self.total_tok_s(), 2)?;
        for (title, name, values) in [
            ("Time to First Token", "TTFT", ttft),
            ("Time per Output Token (excl. 1st token)", "TPOT", tpot),
            ("Inter-token Latency", "ITL", self.event_gaps()),
        ] {
            writeln!(out, "{title:-^50}")?;
            self.row(out, &format!("Mean {name} (ms):"), values.mean(), 2)?;
            self.row(out, &format!("Median {name} (ms):"), values.percentile(50.0), 2)?;
            self.row(out, &format!("P99 {name} (ms):"), values.percentile(99.0), 2)?;
        }
        writeln!(out, "{:=^50}", "")?;
        writeln!(
            out,
            "By vLLM's definitions: a role-only chunk is a first token, latency ends with the last event, ITL is"
        )?;
        writeln!(out, "between all events, pooled; percentiles are interpolated, of however few values.")?;
        self.say_what_stands_in(out, "TTFT, latency and ITL are of content chunks: a role-only chunk is none here")
    }

    /// `python -m sglang.bench_serving`.
    fn sglang(&self, out: &mut String) -> Result {
        let tpot = self.values(|record| per_token(e2e(record)?, ttft(record)?, tokens(record).0));
        let (ttft, e2e) = (self.values(ttft), self.values(e2e));
        writeln!(out, "\n{:=^50}", " Serving Benchmark Result ")?;
        let names =
            ["Successful requests:", "Benchmark duration (s):", "Total input tokens:", "Total generated tokens:"];
        self.counts(out, names)?;
        let report = self.report;
        let a_second = |n: f64| (report.duration_s > 0.0).then(|| n / report.duration_s);
        let retokenized = report.output_counts.tokenizer.map(|n| n as f64);
        self.row(out, "Total generated tokens (retokenized):", retokenized, 0)?;
        self.row(out, "Request throughput (req/s):", report.request_s, 2)?;
        self.row(out, "Input token throughput (tok/s):", a_second(report.input_tokens as f64), 2)?;
        self.row(out, "Output token throughput (tok/s):", report.output_tok_s, 2)?;
        self.row(out, "Total token throughput (tok/s):", self.total_tok_s(), 2)?;
        // Little's law, as they print it: the latencies' sum over the duration.
        let in_flight = e2e.mean().and_then(|ms| a_second(ms / 1e3 * report.completed as f64));
        self.row(out, "Concurrency:", in_flight, 2)?;
        let itl = Values::Pooled(&self.ledger.gaps);
        for (title, name, values) in [
            ("End-to-End Latency", "E2E Latency", e2e),
            ("Time to First Token", "TTFT", ttft),
            ("Time per Output Token (excl. 1st token)", "TPOT", tpot),
            ("Inter-Token Latency", "ITL", itl),
        ] {
            writeln!(out, "{title:-^50}")?;
            self.row(out, &format!("Mean {name} (ms):"), values.mean(), 2)?;
            self.row(out, &format!("Median {name} (ms):"), values.percentile(50.0), 2)?;
            if name == "ITL" {
                self.row(out, "P95 ITL (ms):", values.percentile(95.0), 2)?;
            }
            self.row(out, &format!("P99 {name} (ms):"), values.percentile(99.0), 2)?;
            if name == "ITL" {
                self.row(out, "Max ITL (ms):", values.max(), 2)?;
            }
        }
        writeln!(out, "{:=^50}", "")?;
        writeln!(
            out,
            "By SGLang's definitions: TTFT is the first chunk with text, ITL is between chunks, pooled; percentiles"
        )?;
        writeln!(
            out,
            "are interpolated. Theirs ends E2E with the stream's last line ([DONE]); here it is the last content"
        )?;
        writeln!(out, "chunk, so E2E and TPOT are shorter by what follows it.")
    }

    /// AIPerf.
    fn aiperf(&self, out: &mut String) -> Result {
        let itl = self.values(|record| per_token(e2e(record)?, ttft(record)?, tokens(record).0));
        let (ttft, latency) = (self.values(ttft), self.values(e2e));
        writeln!(out, "\n{:^116}", "NVIDIA AIPerf | LLM Metrics")?;
        let heading = ["avg", "min", "max", "p99", "p90", "p50", "std"];
        write!(out, "{:>46}", "Metric")?;
        heading.iter().try_for_each(|name| write!(out, "{name:>10}"))?;
        for (name, values) in [
            ("Time to First Token (ms)", ttft),
            ("Request Latency (ms)", latency),
            ("Inter Token Latency (ms)", itl),
            ("Inter Chunk Latency (ms)", Values::Pooled(&self.ledger.gaps)),
            ("Output Sequence Length (tokens)", self.values(|record| Some(tokens(record).0 * 1_000_000))),
            ("Input Sequence Length (tokens)", self.values(|record| Some(record.input_len as u64 * 1_000_000))),
        ] {
            write!(out, "\n{name:>46}")?;
            let [p99, p90, p50] = [99.0, 90.0, 50.0].map(|percent| values.percentile(percent));
            for value in [values.mean(), values.min(), values.max(), p99, p90, p50, values.sd()] {
                write!(out, "{:>10}", figure(value, 2))?;
            }
        }
        let report = self.report;
        for (name, value) in [
            ("Output Token Throughput (tokens/sec)", report.output_tok_s),
            ("Request Throughput (requests/sec)", report.request_s),
            ("Request Count (requests)", Some(report.completed as f64)),
        ] {
            write!(out, "\n{name:>46}{:>10}", figure(value, 2))?;
        }
        writeln!(out)?;
        writeln!(
            out,
            "By AIPerf's definitions: Inter Token Latency is one value a request, (latency - TTFT) / (tokens - 1);"
        )?;
        writeln!(
            out,
            "Inter Chunk Latency is between chunks, pooled here; percentiles are interpolated. Theirs counts output"
        )?;
        writeln!(out, "tokens with its own tokenizer; here {} did.", report.output_tokens_by.words())
    }

    /// mini-sglang's `benchmark/client.py`.
    fn mini_sglang(&self, out: &mut String) -> Result {
        // Its times begin when the client library hands out the stream, which is when the response's head is there.
        let start = |record: &Record| record.head.or(Some(record.sent));
        let first = |record: &Record| tics(record).first().copied().filter(|_| self.has_tics).or(record.first_token);
        let last = |record: &Record| tics(record).last().copied().filter(|_| self.has_tics).or(record.last_token);
        let ttft = self.values(|record| Some(first(record)?.saturating_sub(start(record)?)));
        let e2e = self.values(|record| Some(last(record)?.saturating_sub(start(record)?)));
        let n = |record: &Record| if self.has_tics { tics(record).len() as u64 } else { record.chunks } + 1;
        let all: u64 = self.completed.iter().map(|record| n(record)).sum();
        let begin = self.completed.iter().filter_map(|record| start(record)).min().unwrap_or(0);
        let end = self.completed.iter().filter_map(|record| last(record)).max().unwrap_or(begin);
        let duration = (end.saturating_sub(begin)) as f64 / 1e9;
        let requests = self.completed.len();
        writeln!(out, "\nNum requests: #{requests}, Num tokens: #{all}")?;
        for (name, values, unit, scale) in
            [("TTFT:", ttft, "ms", 1.0), ("TPOT:", self.event_gaps(), "ms", 1.0), ("E2E: ", e2e, " s", 1e-3)]
        {
            let of = |value: Option<f64>| mini_sglang_number(value.map(|ms| ms * scale));
            let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|share| of(values.at_index(share)));
            let (mean, max) = (of(values.mean()), of(values.max()));
            writeln!(
                out,
                "{name} {mean} {unit} (p50: {p50} {unit}, p90: {p90} {unit}, p99: {p99} {unit}, max: {max} {unit})"
            )?;
        }
        let rate = |n: f64| mini_sglang_number((duration > 0.0).then(|| n / duration));
        writeln!(out, "Duration: {} s", mini_sglang_number(Some(duration)))?;
        writeln!(out, "Throughput: {} token/s, {} req/s", rate(all as f64), rate(requests as f64))?;
        writeln!(
            out,
            "By mini-sglang's definitions: times begin when the response's head is there, a role-only chunk is the"
        )?;
        writeln!(
            out,
            "first token, TPOT is the pooled gaps between events, tokens are events and one a request more."
        )?;
        self.say_what_stands_in(out, "events are content chunks only, and a role-only chunk is none here")
    }

    fn say_what_stands_in(&self, out: &mut String, what: &str) -> Result {
        if self.has_tics {
            Ok(())
        } else {
            writeln!(out, "The events' times were not kept (--raw keeps them), so {what}.")
        }
    }
}

/// As mini-sglang prints numbers: whole from 1,000 on, else with two or four decimals.
fn mini_sglang_number(value: Option<f64>) -> String {
    match value {
        None => format!("{:>6}", "–"),
        Some(x) if x >= 1000.0 => format!("{:>6}", x as i64),
        Some(x) if x >= 10.0 => format!("{x:>6.2}"),
        Some(x) => format!("{x:>6.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{about, ledger, record};
    use super::super::{RunReport, Terms};
    use super::*;

    const MS: u64 = 1_000_000;

    /// Two answers of 3 tokens: role chunk, three content chunks, finish, usage.
    fn with_tics() -> Ledger {
        let of = |sent: u64, at: [u64; 6]| Record {
            tics: Some(at.map(|ms| ms * MS).to_vec()),
            head: Some((at[0] - 1) * MS),
            ..record(sent, at[1], at[3], 3)
        };
        ledger(vec![of(1, [6, 11, 21, 31, 31, 32]), of(101, [106, 121, 131, 141, 141, 142])])
    }

    fn said(by: Compat, ledger: &Ledger) -> String {
        let report = RunReport::of(ledger, &Terms { max_lag: std::time::Duration::MAX, ..Terms::default() }, about());
        table(by, ledger, &report)
    }

    #[test]
    fn vllms_first_token_is_the_role_chunk_where_events_were_kept() {
        let text = said(Compat::Vllm, &with_tics());
        // TTFT 5 and 5; TPOT (31 - 5) / 2 and (41 - 5) / 2; gaps 5 10 10 0 1 and 15 10 10 0 1.
        for line in [
            "Successful requests:                     2         ",
            "Mean TTFT (ms):                          5.00      ",
            "Mean TPOT (ms):                          15.50     ",
            "Median TPOT (ms):                        15.50     ",
            "P99 TPOT (ms):                           17.95     ",
            "Mean ITL (ms):                           6.20      ",
            "Median ITL (ms):                         7.50      ",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in:\n{text}");
        }
        assert!(!text.contains("not kept"));
        let without = said(Compat::Vllm, &ledger(vec![record(1, 11, 31, 3)]));
        assert!(
            without.contains("Mean TTFT (ms):                          10.00") && without.contains("not kept"),
            "{without}"
        );
    }

    #[test]
    fn the_others_labels_and_figures() {
        let ledger = with_tics();
        let sglang = said(Compat::Sglang, &ledger);
        for line in [
            "Mean E2E Latency (ms):                   35.00     ",
            "Mean TTFT (ms):                          15.00     ",
            "Mean TPOT (ms):                          10.00     ",
            "Max ITL (ms):                            2.00      ",
            "Concurrency:                             0.50      ",
        ] {
            assert!(sglang.lines().any(|it| it == line), "{line} in:\n{sglang}");
        }
        let aiperf = said(Compat::Aiperf, &ledger);
        let row = aiperf.lines().find(|line| line.contains("Time to First Token")).unwrap();
        let cells: Vec<&str> = row.split_whitespace().skip(5).collect();
        assert_eq!(cells, ["15.00", "10.00", "20.00", "19.90", "19.00", "15.00", "5.00"], "{aiperf}");
        // Heads came 1 ms before the role chunks.
        let mini = said(Compat::MiniSglang, &ledger);
        assert!(mini.contains("Num requests: #2, Num tokens: #14"), "{mini}");
        assert!(
            mini.contains("TPOT: 6.2000 ms (p50:  10.00 ms, p90:  15.00 ms, p99:  15.00 ms, max:  15.00 ms)"),
            "{mini}"
        );
        let plain = said(Compat::MiniSglang, &super::super::tests::ledger(vec![record(1, 11, 31, 3)]));
        assert!(plain.contains("TTFT: 0.5000 ms") && plain.contains("E2E:  0.0205  s"), "{plain}");
        for by in [Compat::Vllm, Compat::Sglang, Compat::Aiperf, Compat::MiniSglang] {
            assert!(said(by, &super::super::tests::ledger(Vec::new())).contains('–'));
        }
    }
}
