//! From settings to runs: which requests, how long, when.
//!
//! Owns what `--trace`, `--concurrency` and `--simple` mean. Reads traces, and makes no connection.
use minisgl_config::LengthRange;
use minisgl_config::loadgen::{LengthRules, Workload};

use crate::ConsoleOptions;
use crate::arrivals::{self, Arrivals};
use crate::error::LoadgenError;
use crate::lengths::Lengths;
use crate::public;
use crate::rng::SplitMix;
use crate::traces::{Trace, TraceRequest};

/// What is to be sent.
pub(crate) struct Planned {
    /// What each request of a run asks for; every run's are the same.
    pub(crate) lengths: Vec<Lengths>,
    /// The runs.
    pub(crate) runs: Vec<Run>,
    /// The workload in a few words, for the report.
    pub(crate) name: String,
    /// The trace's format, if it is one.
    pub(crate) format: Option<String>,
    /// Whether one small request comes first.
    pub(crate) connection_test: bool,
}

/// One run of it.
pub(crate) struct Run {
    /// What the trace's times were multiplied by.
    pub(crate) time_scale: Option<f64>,
    /// When its requests are sent.
    pub(crate) arrivals: Arrivals,
}

/// Marks the draws of lengths apart from those of prompts, whose paths begin with a run's number.
const LENGTHS: u64 = u64::MAX;

/// Reads and plans `workload`.
pub(crate) fn plan(workload: &Workload, seed: u64, console: ConsoleOptions) -> Result<Planned, LoadgenError> {
    match workload {
        Workload::Trace { source, time_scales, limit, lengths } => {
            let trace = public::open(source, *limit, console)?;
            note_trace(&trace, console);
            Ok(Planned {
                lengths: trace.requests.iter().map(|r| known(lengths, r)).collect(),
                runs: time_scales.iter().map(|&scale| Run::of_trace(&trace, scale)).collect(),
                name: trace.name + &described(lengths),
                format: Some(trace.format.to_string()),
                connection_test: false,
            })
        }
        Workload::Closed { concurrency, num_requests, input_len, output_len } => Ok(Planned {
            lengths: drawn(*num_requests, [*input_len, *output_len], &LengthRules::default(), seed),
            runs: vec![Run { time_scale: None, arrivals: Arrivals::Closed(*concurrency) }],
            name: format!("closed loop of {concurrency}, input {input_len}, output {output_len}"),
            format: None,
            connection_test: false,
        }),
        Workload::Simple { num_requests, input_len, output_len, lengths } => {
            let at_once = vec![std::time::Duration::ZERO; *num_requests];
            Ok(Planned {
                lengths: drawn(*num_requests, [*input_len, *output_len], lengths, seed),
                runs: vec![Run { time_scale: None, arrivals: Arrivals::Schedule(at_once) }],
                name: format!(
                    "simple: {num_requests} at once, input {input_len}, output {output_len}{}",
                    described(lengths)
                ),
                format: None,
                connection_test: true,
            })
        }
    }
}

/// The lengths of a request, which every format that is read gives.
fn known(rules: &LengthRules, request: &TraceRequest) -> Lengths {
    Lengths::by(rules, request.input_length.unwrap_or(0), request.output_length.unwrap_or(0))
}

/// What `rules` change, in a few words; nothing where they change nothing.
fn described(rules: &LengthRules) -> String {
    let one = |what, scale: f64, max: Option<usize>| {
        let scaled = if scale == 1.0 { String::new() } else { format!(" x {scale}") };
        let capped = max.map_or(String::new(), |max| format!(" at most {max}"));
        if scaled.is_empty() && capped.is_empty() { String::new() } else { format!(", {what}{scaled}{capped}") }
    };
    one("inputs", rules.input_scale, rules.max_input) + &one("outputs", rules.output_scale, rules.max_output)
}

impl Run {
    fn of_trace(trace: &Trace, scale: f64) -> Self {
        Self { time_scale: Some(scale), arrivals: Arrivals::Schedule(arrivals::scaled(&trace.requests, scale)) }
    }
}

fn note_trace(trace: &Trace, console: ConsoleOptions) {
    let (first, last) = (&trace.requests[0], &trace.requests[trace.requests.len() - 1]);
    let span = last.timestamp_s - first.timestamp_s;
    console.note(&format!("{}: {}, {} requests over {span:.1} s", trace.name, trace.format, trace.requests.len()));
    let empty = trace.requests.iter().filter(|r| r.input_length == Some(0) || r.output_length == Some(0)).count();
    if empty > 0 {
        console.note(&format!("{empty} requests have a length of 0 in the trace: it is sent as 1"));
    }
}

/// Uniform lengths: all inputs and outputs in turn from one sequence.
fn drawn(n: usize, [input, output]: [LengthRange; 2], rules: &LengthRules, seed: u64) -> Vec<Lengths> {
    let mut rng = SplitMix::of(seed, &[LENGTHS]);
    let mut draw = |range: LengthRange| rng.between(range.min(), range.max());
    (0..n).map(|_| Lengths::by(rules, draw(input), draw(output))).collect()
}

#[cfg(test)]
mod tests {
    use minisgl_config::loadgen::{SHIPPED_TRACE_NAME, TraceSource};

    use super::*;

    fn planned(workload: Workload, seed: u64) -> Planned {
        plan(&workload, seed, ConsoleOptions::silent()).unwrap()
    }

    #[test]
    fn a_run_for_each_scale_of_the_shipped_trace() {
        let rules = LengthRules { output_scale: 0.5, max_input: Some(20), ..LengthRules::default() };
        let workload = |limit| Workload::Trace {
            source: TraceSource::Shipped,
            time_scales: vec![0.5, 1.0],
            limit,
            lengths: rules,
        };
        let all = planned(workload(None), 0);
        assert_eq!((all.lengths.len(), all.runs.len(), all.connection_test), (32, 2, false));
        assert_eq!(all.format.as_deref(), Some("Qwen-Bailian JSONL"));
        assert!(all.lengths.iter().all(|l| l.input <= 20 && l.output <= 24 && l.output >= 4));
        let last = |run: &Run| match &run.arrivals {
            Arrivals::Schedule(times) => (times[0].as_secs_f64(), times[times.len() - 1].as_secs_f64()),
            Arrivals::Closed(_) => panic!("a trace is an open loop"),
        };
        assert_eq!((last(&all.runs[0]), last(&all.runs[1])), ((0.0, 10.0), (0.0, 20.0)));
        assert_eq!(planned(workload(Some(5)), 0).lengths.len(), 5);
        assert_eq!(all.name, format!("{SHIPPED_TRACE_NAME}, inputs at most 20, outputs x 0.5"));
    }

    #[test]
    fn drawn_lengths_are_seeded_and_in_range() {
        let workload = || Workload::Closed {
            concurrency: 3,
            num_requests: 50,
            input_len: LengthRange::new(5, 40).unwrap(),
            output_len: LengthRange::new(7, 7).unwrap(),
        };
        let first = planned(workload(), 1);
        assert!(first.lengths.iter().all(|l| (5..=40).contains(&l.input) && l.output == 7));
        assert_eq!(first.lengths, planned(workload(), 1).lengths);
        assert_ne!(first.lengths, planned(workload(), 2).lengths);
        assert_eq!(first.runs[0].arrivals, Arrivals::Closed(3));
    }

    #[test]
    fn simple_is_a_test_and_a_batch() {
        let simple = planned(
            Workload::Simple {
                num_requests: 64,
                input_len: LengthRange::new(1, 8192).unwrap(),
                output_len: LengthRange::new(16, 1024).unwrap(),
                lengths: LengthRules { max_output: Some(100), ..LengthRules::default() },
            },
            0,
        );
        assert!(simple.connection_test && simple.lengths.iter().all(|l| (16..=100).contains(&l.output)));
        assert!(simple.lengths.iter().any(|l| l.input > 4096));
    }
}
