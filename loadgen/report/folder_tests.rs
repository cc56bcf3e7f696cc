//! The folder: what is written reads back, what is wrong in it is named, and the page has its plots.
use std::time::Duration;

use super::data::{RequestLine, RunData, Status};
use super::folder::{OutFolder, read};
use super::tests::{about, failed, ledger, record};
use super::*;
use crate::records::Reason;
use crate::series::Sample;

/// A run of 40 requests that has something of everything.
pub(super) fn data(run: usize, scale: f64) -> RunData {
    let slower = run as u64;
    let mut records: Vec<Record> =
        (0..40).map(|i| record(1 + i * 50, 12 + i * 50 + (i * 7) % 13 * slower, 100 + i * 50 + i % 5, 20)).collect();
    records.push(failed(2100, 2120, Reason::Status(500)));
    records.push(Record { sent: 0, ..failed(2100, 2120, Reason::Parent) });
    records.push(Record {
        end: End::Cancelled,
        first_token: None,
        last_token: None,
        ..failed(2101, 2110, Reason::Reset)
    });
    records.iter_mut().enumerate().for_each(|(i, record)| record.index = i);
    let mut ledger = ledger(records);
    for i in 0..2000 {
        let us = 4_000 + (i * 37) % 900 + if i % 100 == 0 { 20_000 } else { 0 };
        ledger.gaps.add(us);
        ledger.gaps_over_time.add(i * 1_000_000, us);
    }
    ledger.samples = (0..25)
        .map(|i| Sample { at_s: i as f64 / 10.0, sent: i * 2, done: i * 2 - i.min(3), queued: i % 2, chunks: i * 40 })
        .collect();
    let server: Vec<ServerSample> = (0..4)
        .map(|i| {
            let n = f64::from(i);
            ServerSample {
                at_s: n,
                running: Some(n),
                waiting: Some(0.0),
                kv_usage: Some(n / 10.0),
                prefix_queries: Some(100.0 + 40.0 * n),
                prefix_hits: Some(50.0 + 10.0 * n),
                preemptions: None,
            }
        })
        .collect();
    let slo = Slo { ttft: Some(Duration::from_millis(20)), ..Slo::default() };
    let terms = Terms { max_lag: Duration::from_millis(10), server: &server, slo, ..Terms::default() };
    let about = About { time_scale: Some(scale), command: "minisgl loadgen --trace a<b".into(), ..about() };
    RunData::of(run, &ledger, &server, RunReport::of(&ledger, &terms, about))
}

#[test]
fn a_folder_reads_back_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/out");
    let runs = vec![data(1, 0.5), data(2, 1.0)];
    OutFolder::open(&path).unwrap().write(&runs).unwrap();
    let mut names: Vec<_> = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["metrics.csv", "records.jsonl", "report.html", "summary.json"]);
    for (back, run) in read(&path).unwrap().iter().zip(&runs) {
        // Piece by piece: the whole of it would fill pages when it fails.
        assert_eq!(back.report, run.report);
        assert!(back.requests == run.requests && back.series.samples == run.series.samples);
        assert_eq!(back.series.server, run.series.server);
        assert!(back.series == run.series);
    }
    // One line a request, each of its run.
    let lines = std::fs::read_to_string(path.join("records.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 86);
    let first: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    for (key, value) in [("run", 1), ("intended_ns", 0), ("sent_ns", 1_000_000), ("first_token_ns", 12_000_000)] {
        assert_eq!(first[key], value, "{key} in {first}");
    }
    assert_eq!((&first["status"], &first["ttft_ms"]), (&"completed".into(), &11.0.into()));
    // The summary alone, and the records alone.
    let summary = read(&path.join("summary.json")).unwrap();
    assert_eq!(summary.iter().map(|run| &run.report).collect::<Vec<_>>(), [&runs[0].report, &runs[1].report]);
    let alone = read(&path.join("records.jsonl")).unwrap();
    assert_eq!((alone.len(), &alone[1].requests), (2, &runs[1].requests));
    let (ours, whole) = (&alone[1].report, &runs[1].report);
    assert_eq!((ours.ttft_ms, ours.tpot_ms, ours.e2e_ms), (whole.ttft_ms, whole.tpot_ms, whole.e2e_ms));
    assert_eq!((&ours.failures, ours.cancelled, ours.duration_s), (&whole.failures, 1, whole.duration_s));
}

#[test]
fn lines_of_what_has_no_answer_have_no_latencies() {
    let requests = data(1, 1.0).requests;
    let of = |line: &RequestLine| (line.status, line.ttft_ms, line.e2e_ms, line.lag_ms);
    assert_eq!(of(&requests[40]), (Status::Failed, None, None, Some(1.0)));
    assert_eq!(of(&requests[41]), (Status::Failed, None, None, None));
    assert_eq!(of(&requests[42]), (Status::Cancelled, None, None, Some(1.0)));
    assert_eq!(requests[40].reason.as_deref(), Some("HTTP 500"));
}

#[test]
fn what_is_no_report_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let good = String::from_utf8(super::folder::summary_json(&[&data(1, 1.0).report])).unwrap();
    for (name, text, said) in [
        ("a.json", "{", "a.json: not JSON"),
        ("b.json", "{\"completed\": 1}", "b.json: not a report of `minisgl loadgen`"),
        ("c.json", "[]", "c.json: an empty array"),
        ("d.jsonl", "{\"run\":1}\n{\"run\":0}\n", "d.jsonl:2: `run` must be at least 1"),
        ("e.jsonl", "{\"run\":1}\nx\n", "e.jsonl:2: not a record"),
        ("f.jsonl", "", "f.jsonl: no record"),
    ] {
        let error = read(&write(name, text)).unwrap_err().to_string();
        assert!(error.contains(said), "{name}: {error}");
    }
    assert!(read(&folder.path().join("none.json")).unwrap_err().to_string().contains("none.json: cannot read it"));
    write("summary.json", &good);
    for (metrics, said) in [
        ("x\n", "metrics.csv:1: the heading must be"),
        ("run,at_s,series,label,value\n1,2,sent\n", "metrics.csv:2: must have five fields"),
        ("run,at_s,series,label,value\n2,2,sent,,1\n", "metrics.csv:2: run 2 is not in summary.json"),
        ("run,at_s,series,label,value\n1,x,sent,,1\n", "metrics.csv:2: at_s must be a number"),
        ("run,at_s,series,label,value\n1,1e300,gaps,1024us,1\n", "is beyond the columns"),
        ("run,at_s,series,label,value\n1,1,gap_column_s,,1\n1,9999,gaps,1024us,1\n", "metrics.csv:3: 9999 s is beyond"),
    ] {
        write("metrics.csv", metrics);
        match read(folder.path()) {
            Err(error) => assert!(error.to_string().contains(said), "{error}"),
            Ok(_) => assert_eq!(said, "is beyond the columns", "{metrics}"),
        }
    }
    let file = write("plain", "");
    assert!(OutFolder::open(&file.join("x")).err().unwrap().to_string().starts_with("--out "));
}

#[test]
fn the_page_has_every_plot_of_every_run() {
    let page = super::html::page(&[data(1, 0.5), data(2, 1.0)]);
    for id in ["points-ttft", "points-tpot", "points-e2e", "points-lag", "points-tokens", "points-requests"] {
        assert!(page.contains(&format!("<figure id=\"{id}\" class=\"plot\">")), "{id}");
    }
    for run in [1, 2] {
        for id in [
            "ttft-cdf",
            "tpot-cdf",
            "e2e-cdf",
            "itl-cdf",
            "ttft-time",
            "chunks",
            "requests",
            "in-flight",
            "lag-time",
            "lag-cdf",
            "itl-time",
            "gaps",
            "server",
            "server-cache",
        ] {
            assert!(page.contains(&format!("<figure id=\"run{run}-{id}\" class=\"plot\">")), "run{run}-{id}");
        }
    }
    assert!(page.contains("minisgl loadgen --trace a&lt;b") && !page.contains("a<b"));
    assert!(!page.contains("<script") && !page.contains("src=\"http"));
}
