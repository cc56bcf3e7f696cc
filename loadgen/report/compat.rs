//! `--metrics-compat`: the same run by the definitions and under the labels of another load generator.
//!
//! Owns what each of them measures, as far as the records hold it, and a line on every difference that remains. Their
//! printed names are kept so that their readers find them.
//!
//! What a client library hands out (role, content, finish, usage) has times of its own only where `--raw` kept them
//! (`Record::tics`); without them content chunks stand in, and the output says so.
//!
//! Read against vLLM's `vllm/benchmarks/serve.py` and `lib/endpoint_request_func.py`, and SGLang's `benchmark/serving.py` and
//! `backends/oai_chat_client.py`, of 2026; older versions of either differ in what ends a request and in labels.
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

/// The events that have a choice: all but a count alone.
fn with_choices(record: &Record) -> &[u64] {
    let all = tics(record);
    &all[..all.len() - usize::from(record.usage_alone && !all.is_empty())]
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

    fn rows(&self, out: &mut String, rows: &[(&str, Option<f64>, usize)]) -> Result {
        rows.iter().try_for_each(|&(name, value, decimals)| self.row(out, name, value, decimals))
    }

    fn a_second(&self, n: f64) -> Option<f64> {
        (self.report.duration_s > 0.0).then(|| n / self.report.duration_s)
    }

    /// Most requests at once, each from its send to its `end`, which is no longer in it.
    fn most_at_once(&self, end: impl Fn(&Record) -> Option<u64>) -> f64 {
        let spans = self.completed.iter().filter_map(|record| Some((record.sent, end(record)?)));
        let mut changes: Vec<(u64, i64)> = spans.flat_map(|(from, to)| [(from, 1), (to, -1)]).collect();
        changes.sort_unstable();
        let mut now = 0;
        let counts = changes.into_iter().map(|(_, change)| {
            now += change;
            now
        });
        counts.max().unwrap_or(0) as f64
    }

    /// Most events in one of the seconds after the first send; none without their times.
    fn most_a_second(&self, events: impl Fn(&'a Record) -> &'a [u64]) -> Option<f64> {
        let first = self.completed.iter().map(|record| record.sent).min()?;
        let mut seconds = std::collections::BTreeMap::<u64, u64>::new();
        for at in self.completed.iter().flat_map(|record| events(record)) {
            *seconds.entry(at.saturating_sub(first) / 1_000_000_000).or_default() += 1;
        }
        seconds.into_values().max().filter(|_| self.has_tics).map(|most| most as f64)
    }

    /// `vllm bench serve`.
    fn vllm(&self, out: &mut String) -> Result {
        let last =
            |record: &Record| with_choices(record).last().copied().filter(|_| self.has_tics).or(record.last_token);
        let first = |record: &Record| tics(record).first().copied().filter(|_| self.has_tics).or(record.first_token);
        let since = |record: &Record, at: Option<u64>| Some(at?.saturating_sub(record.sent));
        let ttft = self.values(|record| since(record, first(record)));
        let tpot = self.values(|r| per_token(since(r, last(r))?, since(r, first(r))?, tokens(r).0));
        let itl = match self.has_tics {
            true => {
                let events = self.completed.iter().map(|record| with_choices(record));
                Values::of(events.flat_map(|tics| tics.windows(2)).map(|pair| pair[1] - pair[0]))
            }
            false => Values::Pooled(&self.ledger.gaps),
        };
        // The prompt's tokens are the server's, where it says so.
        let prompt = |record: &&Record| record.usage.map(|usage| usage.prompt_tokens).filter(|&n| n > 0);
        let input: u64 = self.completed.iter().map(|r| prompt(r).unwrap_or(r.input_len as u64)).sum();
        let report = self.report;
        writeln!(out, "\n{:=^50}", " Serving Benchmark Result ")?;
        let mut rows = vec![
            ("Successful requests:", Some(report.completed as f64), 0),
            ("Failed requests:", Some(report.failed as f64), 0),
        ];
        rows.extend(report.about.concurrency.map(|n| ("Maximum request concurrency:", Some(n as f64), 0)));
        rows.extend(report.about.rate.map(|rate| ("Request rate configured (RPS):", Some(rate), 2)));
        rows.extend([
            ("Benchmark duration (s):", Some(report.duration_s), 2),
            ("Total input tokens:", Some(input as f64), 0),
            ("Total generated tokens:", Some(report.output_tokens as f64), 0),
            ("Request throughput (req/s):", report.request_s, 2),
        ]);
        rows.extend(report.goodput.as_ref().map(|goodput| ("Request goodput (req/s):", goodput.request_s, 2)));
        rows.extend([
            ("Output token throughput (tok/s):", report.output_tok_s, 2),
            ("Peak output token throughput (tok/s):", self.most_a_second(with_choices), 2),
            ("Peak concurrent requests:", Some(self.most_at_once(last)), 2),
            ("Total token throughput (tok/s):", self.a_second((input + report.output_tokens) as f64), 2),
        ]);
        self.rows(out, &rows)?;
        for (title, name, values) in [
            ("Time to First Token", "TTFT", ttft),
            ("Time per Output Token (excl. 1st token)", "TPOT", tpot),
            ("Inter-token Latency", "ITL", itl),
        ] {
            writeln!(out, "{title:-^50}")?;
            self.row(out, &format!("Mean {name} (ms):"), values.mean(), 2)?;
            self.row(out, &format!("Median {name} (ms):"), values.percentile(50.0), 2)?;
            self.row(out, &format!("P99 {name} (ms):"), values.percentile(99.0), 2)?;
        }
        writeln!(out, "{:=^50}", "")?;
        writeln!(
            out,
            "By vLLM's definitions: the first event with a choice is the first token, be it a role alone; latency ends with"
        )?;
        writeln!(
            out,
            "the last such event, be it a finish alone; ITL is between such events, pooled; the peak counts them as tokens;"
        )?;
        writeln!(out, "prompt tokens are the server's count; percentiles are interpolated, of however few values.")?;
        self.say_what_stands_in(out, "TTFT, latency and ITL are of content chunks: a role-only chunk is none here")
    }

    /// `python -m sglang.bench_serving`.
    fn sglang(&self, out: &mut String) -> Result {
        // [DONE] has no time here; what comes just before it has, where events were kept.
        let last = |record: &Record| tics(record).last().copied().filter(|_| self.has_tics).or(record.last_token);
        let e2e = |record: &Record| Some(last(record)?.saturating_sub(record.sent));
        let tpot = self.values(|record| per_token(e2e(record)?, ttft(record)?, tokens(record).0));
        let (ttft, e2e) = (self.values(ttft), self.values(e2e));
        let report = self.report;
        writeln!(out, "\n{:=^50}", " Serving Benchmark Result ")?;
        let rate = match (report.about.rate, report.about.time_scale) {
            (Some(rate), _) => rate.to_string(),
            (None, Some(_)) => "trace".to_owned(),
            (None, None) => "inf".to_owned(),
        };
        let places = report.about.concurrency.map_or("not set".to_owned(), |n| n.to_string());
        writeln!(out, "{:<40} {rate:<10}", "Traffic request rate:")?;
        writeln!(out, "{:<40} {places:<10}", "Max request concurrency:")?;
        let (input, output) = (report.input_tokens as f64, report.output_tokens as f64);
        let all = [
            ("Successful requests:", Some(report.completed as f64), 0),
            ("Benchmark duration (s):", Some(report.duration_s), 2),
            ("Total input tokens:", Some(input), 0),
            ("Total generated tokens:", Some(output), 0),
            ("Total generated tokens (retokenized):", report.output_counts.tokenizer.map(|n| n as f64), 0),
            ("Request throughput (req/s):", report.request_s, 2),
            ("Input token throughput (tok/s):", self.a_second(input), 2),
            ("Output token throughput (tok/s):", report.output_tok_s, 2),
            ("Peak concurrent requests:", Some(self.most_at_once(last)), 0),
            ("Total token throughput (tok/s):", self.a_second(input + output), 2),
            // Little's law, as they print it: the latencies' sum over the duration.
            ("Concurrency:", e2e.mean().and_then(|ms| self.a_second(ms / 1e3 * report.completed as f64)), 2),
        ];
        self.rows(out, &all)?;
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
            if name == "E2E Latency" {
                self.row(out, "P90 E2E Latency (ms):", values.percentile(90.0), 2)?;
            }
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
            "are interpolated. Theirs ends E2E with the stream's last line ([DONE]), and TPOT with it; here it is the event"
        )?;
        writeln!(out, "before that.")?;
        self.say_what_stands_in(out, "it is the last content chunk: E2E and TPOT are shorter by what follows")
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
            usage_alone: true,
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
        // TTFT 5 and 5; latency 30 and 40, to the finish; TPOT 25 / 2 and 35 / 2; gaps 5 10 10 0 and 15 10 10 0.
        for line in [
            "Successful requests:                     2         ",
            "Mean TTFT (ms):                          5.00      ",
            "Mean TPOT (ms):                          15.00     ",
            "Median TPOT (ms):                        15.00     ",
            "P99 TPOT (ms):                           17.45     ",
            "Mean ITL (ms):                           7.50      ",
            "Median ITL (ms):                         10.00     ",
            "Peak output token throughput (tok/s):    10.00     ",
            "Peak concurrent requests:                1.00      ",
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
            "Traffic request rate:                    trace     ",
            "Max request concurrency:                 not set   ",
            "Mean E2E Latency (ms):                   36.00     ",
            "P90 E2E Latency (ms):                    40.00     ",
            "Mean TTFT (ms):                          15.00     ",
            "Mean TPOT (ms):                          10.50     ",
            "Max ITL (ms):                            2.00      ",
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
