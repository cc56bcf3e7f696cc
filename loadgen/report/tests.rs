//! Figures worked by hand, and the JSON's names.
use super::*;
use crate::client::Usage;
use crate::records::{Failure, Reason};
use crate::statistics::Gaps;

const MS: u64 = 1_000_000;

/// A completed request: times in ms after the start.
fn record(sent: u64, first: u64, last: u64, n: u64) -> Record {
    Record {
        intended: Some((sent - 1) * MS),
        sent: sent * MS,
        first_token: Some(first * MS),
        last_token: Some(last * MS),
        ended: last * MS,
        chunks: n,
        usage: Some(Usage { prompt_tokens: 40, completion_tokens: n }),
        input_len: 10,
        output_len: n as usize,
        failure: None,
    }
}

fn failed(sent: u64, ended: u64, reason: Reason) -> Record {
    let failure = Some(Failure::new(reason, "said\nthis"));
    Record { ended: ended * MS, usage: None, failure, ..record(sent, sent + 1, sent + 2, 3) }
}

fn about() -> About {
    About {
        workload: "w".into(),
        trace_format: None,
        time_scale: Some(0.4),
        url: "http://a:1".into(),
        model: "m".into(),
        tokenizer: "t".into(),
        seed: 3,
    }
}

fn report(records: Vec<Record>) -> RunReport {
    let mut gaps = Gaps::new();
    gaps.add(2000);
    RunReport::of(&Ledger { records, gaps, max_in_flight: 2, max_queued: 1 }, about())
}

#[test]
fn figures_by_hand() {
    let report = report(vec![
        record(1, 11, 51, 5),
        record(101, 131, 131, 1),
        failed(201, 1001, Reason::Status(429)),
        failed(202, 300, Reason::Status(429)),
        failed(203, 301, Reason::Timeout),
    ]);
    assert_eq!((report.completed, report.failed, report.requests), (2, 3, 5));
    assert_eq!(report.duration_s, 1.0);
    assert_eq!((report.output_tok_s, report.request_s), (Some(6.0), Some(2.0)));
    assert_eq!(report.ttft_ms, Some(Summary { mean: 20.0, p50: 10.0, p90: 30.0, p99: 30.0, max: 30.0 }));
    assert_eq!(report.tpot_ms, Some(Summary { mean: 10.0, p50: 10.0, p90: 10.0, p99: 10.0, max: 10.0 }));
    assert_eq!(report.itl_ms, Some(Summary { mean: 2.0, p50: 2.0, p90: 2.0, p99: 2.0, max: 2.0 }));
    assert_eq!(report.e2e_ms, Some(Summary { mean: 40.0, p50: 30.0, p90: 50.0, p99: 50.0, max: 50.0 }));
    assert_eq!(report.schedule_lag_ms, Some(Summary { mean: 1.0, p50: 1.0, p90: 1.0, p99: 1.0, max: 1.0 }));
    assert_eq!((report.input_tokens, report.output_tokens, report.output_tokens_by), (20, 6, "usage"));
    assert_eq!((report.template_tokens, report.prompt_token_mismatch, report.output_token_mismatch), (Some(30), 0, 0));
    assert_eq!(report.failures, BTreeMap::from([("HTTP 429".to_owned(), 2), ("timeout".to_owned(), 1)]));
    assert_eq!(report.failure_examples["HTTP 429"], "said this");
    assert!(!report.exit_ok());
}

#[test]
fn tokens_are_the_servers_or_else_chunks() {
    let uncounted = Record { usage: None, ..record(1, 2, 8, 4) };
    let by_usage = Record { usage: Some(Usage { prompt_tokens: 0, completion_tokens: 7 }), ..record(1, 2, 8, 4) };
    let both = report(vec![uncounted.clone(), by_usage.clone()]);
    assert_eq!((both.output_tokens, both.output_tokens_by), (11, "mixed"));
    assert_eq!(both.tpot_ms.unwrap(), Summary { mean: 1.5, p50: 1.0, p90: 2.0, p99: 2.0, max: 2.0 });
    assert_eq!(report(vec![uncounted]).output_tokens_by, "chunks");
    let counted = report(vec![by_usage]);
    assert_eq!((counted.output_token_mismatch, counted.tokens_per_chunk), (1, Some(1.75)));
    assert!(counted.exit_ok());
}

#[test]
fn prompts_that_the_server_counts_otherwise() {
    let counted =
        |prompt_tokens| Record { usage: Some(Usage { prompt_tokens, completion_tokens: 5 }), ..record(1, 2, 8, 5) };
    let mixed = report(vec![counted(17), counted(17), counted(18)]);
    assert_eq!((mixed.template_tokens, mixed.prompt_token_mismatch), (Some(7), 1));
    let fewer = report(vec![counted(9), counted(9)]);
    assert_eq!((fewer.template_tokens, fewer.prompt_token_mismatch), (None, 2));
}

#[test]
fn json_has_the_names_and_nulls_where_nothing_was_measured() {
    let json = serde_json::to_value(report(vec![record(1, 11, 51, 5)])).unwrap();
    for name in ["completed", "failed", "duration_s", "output_tok_s", "request_s", "time_scale", "model", "failures"] {
        assert!(!json[name].is_null(), "{name} in {json}");
    }
    for name in ["ttft_ms", "tpot_ms", "itl_ms", "e2e_ms", "schedule_lag_ms"] {
        let parts: Vec<&String> = json[name].as_object().unwrap().keys().collect();
        assert_eq!(parts, ["mean", "p50", "p90", "p99", "max"], "{name}");
    }
    let unscheduled = Record { intended: None, ..failed(1, 2, Reason::Reset) };
    let ledger = Ledger { records: vec![unscheduled], gaps: Gaps::new(), max_in_flight: 1, max_queued: 1 };
    let json = serde_json::to_value(RunReport::of(&ledger, about())).unwrap();
    for name in ["ttft_ms", "tpot_ms", "itl_ms", "e2e_ms", "schedule_lag_ms", "tokens_per_chunk"] {
        assert!(json[name].is_null(), "{name} in {json}");
    }
    assert_eq!(json["output_tok_s"], 0.0);
}

#[test]
fn the_table_shows_figures_failures_and_doubts() {
    let text = table(&report(vec![record(1, 11, 51, 5), failed(3, 4, Reason::Status(500))]));
    for part in
        ["TTFT", "TPOT", "ITL", "E2E", "p99", "10.00", "1 of 2 requests completed", "failed: 1 x HTTP 500: said this"]
    {
        assert!(text.contains(part), "{part} in:\n{text}");
    }
    assert!(text.contains("time scale 0.4") && !text.contains("note:"), "{text}");
}

#[test]
fn a_sink_is_checked_first_and_leaves_nothing_unwritten() {
    use minisgl_config::loadgen::JsonOutput;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.json");
    let missing = JsonOutput::File(folder.path().join("none/r.json"));
    assert!(JsonSink::open(&missing).err().unwrap().to_string().contains("none/r.json"));
    let output = JsonOutput::File(path.clone());
    drop(JsonSink::open(&output).unwrap());
    assert!(!path.exists());

    let one = report(vec![record(1, 11, 51, 5)]);
    JsonSink::open(&output).unwrap().write(&[one.clone(), one.clone()]).unwrap();
    drop(JsonSink::open(&output).unwrap());
    let read = || serde_json::from_slice::<serde_json::Value>(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(read().as_array().map(Vec::len), Some(2));
    JsonSink::open(&output).unwrap().write(&[one]).unwrap();
    assert_eq!(read()["completed"], 1);
}
