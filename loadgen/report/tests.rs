//! Figures worked by hand, and the JSON's names.
use std::collections::BTreeMap;
use std::time::Duration;

use minisgl_config::loadgen::settings::Slo;

use super::table::table;
use super::*;
use crate::records::{Failure, Finish, Reason, Usage};
use crate::series::{ClientCost, GapsOverTime};

const MS: u64 = 1_000_000;

pub(super) fn usage(prompt_tokens: u64, completion_tokens: u64) -> Option<Usage> {
    Some(Usage { prompt_tokens, completion_tokens, ..Usage::default() })
}

/// A completed request: times in ms after the start.
pub(super) fn record(sent: u64, first: u64, last: u64, n: u64) -> Record {
    Record {
        intended: Some((sent - 1) * MS),
        sent: sent * MS,
        written: Some(sent * MS + MS / 4),
        head: Some(first * MS - MS / 2),
        first_token: Some(first * MS),
        last_token: Some(last * MS),
        ended: last * MS,
        chunks: n,
        usage: usage(40, n),
        input_len: 10,
        output_len: n as usize,
        finish: Some(Finish::Length),
        ..Record::default()
    }
}

pub(super) fn failed(sent: u64, ended: u64, reason: Reason) -> Record {
    let end = End::Failed(Failure::new(reason, "said\nthis"));
    Record { ended: ended * MS, usage: None, end, ..record(sent, sent + 1, sent + 2, 3) }
}

pub(super) fn about() -> About {
    About {
        workload: "w".into(),
        time_scale: Some(0.4),
        url: "http://a:1".into(),
        model: "m".into(),
        tokenizer: "t".into(),
        seed: 3,
        repeat: 1,
        ..About::default()
    }
}

pub(super) fn ledger(records: Vec<Record>) -> Ledger {
    let mut gaps = Gaps::new();
    gaps.add(2000);
    Ledger {
        records,
        gaps,
        gaps_over_time: GapsOverTime::new(),
        samples: Vec::new(),
        max_in_flight: 2,
        max_queued: 1,
        connections: Some(2),
        cost: ClientCost { cpu_s: 0.5, wall_s: 2.0, peak_rss_bytes: 50_000_000, chunks: 100_000 },
        started_unix_s: 951_782_400.0,
        answers: BTreeMap::new(),
        interrupted: None,
    }
}

fn terms() -> Terms<'static> {
    Terms { max_lag: Duration::from_millis(10), ..Terms::default() }
}

pub(super) fn report(records: Vec<Record>) -> RunReport {
    RunReport::of(&ledger(records), &terms(), about())
}

/// All of few values: p99 is not given.
fn few(mean: f64, p50: f64, max: f64, n: u64, sd: Option<f64>) -> Option<Summary> {
    Some(Summary { mean, p50, p90: max, p99: None, max, n, sd })
}

#[test]
fn figures_by_hand() {
    let report = report(vec![
        record(1, 11, 51, 5),
        record(101, 131, 131, 1),
        failed(201, 1001, Reason::Status(429)),
        failed(202, 300, Reason::Status(429)),
        failed(203, 301, Reason::Timeout),
        Record { end: End::Cancelled, ..failed(204, 210, Reason::Timeout) },
    ]);
    assert_eq!((report.completed, report.failed, report.cancelled, report.requests), (2, 3, 1, 6));
    assert_eq!(report.duration_s, 1.0);
    assert_eq!((report.output_tok_s, report.request_s), (Some(6.0), Some(2.0)));
    assert_eq!(report.ttft_ms, few(20.0, 10.0, 30.0, 2, Some(2e14f64.sqrt() / 1e6)));
    assert_eq!(report.tpot_ms, few(10.0, 10.0, 10.0, 1, None));
    assert_eq!((report.itl_ms, report.icl_ms), (few(2.0, 2.0, 2.0, 1, None), few(2.0, 2.0, 2.0, 1, None)));
    assert_eq!(report.e2e_ms, few(40.0, 30.0, 50.0, 2, Some(2e14f64.sqrt() / 1e6)));
    assert_eq!(report.schedule_lag_ms, few(1.0, 1.0, 1.0, 6, Some(0.0)));
    assert_eq!(report.ttft_from_intended_ms, few(21.0, 11.0, 31.0, 2, Some(2e14f64.sqrt() / 1e6)));
    assert_eq!(report.connect_ms, few(0.25, 0.25, 0.25, 6, Some(0.0)));
    assert_eq!((report.achieved_requested, report.valid), (Some(1.0), true));
    assert_eq!((report.input_tokens, report.output_tokens, report.output_tokens_by), (20, 6, CountedBy::Usage));
    assert_eq!((report.template_tokens, report.prompt_token_mismatch, report.output_token_mismatch), (Some(30), 0, 0));
    assert_eq!(report.failures, BTreeMap::from([("HTTP 429".to_owned(), 2), ("timeout".to_owned(), 1)]));
    assert_eq!(report.failure_examples["HTTP 429"], "said this");
    assert_eq!(report.finish_reasons, BTreeMap::from([("length".to_owned(), 2)]));
    let client = ClientFigures { cpu_s: 0.5, cpu_share: Some(0.25), us_a_chunk: Some(5.0), peak_rss_bytes: 50_000_000 };
    assert_eq!((&report.client, report.about.started.as_str()), (&client, "2000-02-29T00:00:00Z"));
    assert!(!report.exit_ok());
}

#[test]
fn tokens_are_the_servers_or_the_tokenizers_or_chunks() {
    let uncounted = Record { usage: None, ..record(1, 2, 8, 4) };
    let by_usage = Record { usage: usage(0, 7), tokenizer_count: Some(6), ..record(1, 2, 8, 4) };
    let by_tokenizer = Record { usage: usage(0, 0), tokenizer_count: Some(5), ..record(1, 2, 8, 4) };
    let all = report(vec![uncounted.clone(), by_usage.clone(), by_tokenizer.clone()]);
    assert_eq!((all.output_tokens, all.output_tokens_by), (16, CountedBy::Mixed));
    let counts = OutputTokens {
        asked: 12,
        usage: Some(7),
        tokenizer: Some(11),
        chunks: 12,
        usage_not_asked: 1,
        usage_not_tokenizer: 1,
        tokenizer_not_asked: 2,
        ..OutputTokens::default()
    };
    assert_eq!(all.output_counts, counts);
    // (6 / 3 + 6 / 6 + 6 / 4) / 3
    assert_eq!(all.tpot_ms.unwrap().mean, 1.5);
    assert_eq!(report(vec![uncounted]).output_tokens_by, CountedBy::Chunks);
    assert_eq!(report(vec![by_tokenizer]).output_tokens_by, CountedBy::Tokenizer);
    let counted = report(vec![by_usage]);
    assert_eq!((counted.output_token_mismatch, counted.tokens_per_chunk), (1, Some(1.75)));
    assert!(counted.exit_ok());
    // 7 tokens in 4 chunks: 3 gaps of 0 beside the one gap of 2 ms in the ledger.
    let itl = counted.itl_ms.unwrap();
    assert_eq!((itl.mean, itl.p50, itl.p90, itl.max, itl.n), (0.5, 0.0, 2.0, 2.0, 4));
    assert_eq!(counted.icl_ms.unwrap().n, 1);
}

#[test]
fn an_answer_without_text_has_no_ttft_but_counts() {
    let without = Record { first_token: None, last_token: None, chunks: 0, ..record(1, 2, 30, 1) };
    let slo = Slo { ttft: Some(Duration::from_millis(20)), ..Slo::default() };
    let records = ledger(vec![record(1, 11, 41, 1), without]);
    let report = RunReport::of(&records, &Terms { slo, ..terms() }, about());
    assert_eq!((report.completed, report.without_text, report.failed, report.output_tokens), (2, 1, 0, 2));
    assert_eq!((report.ttft_ms.map(|s| s.n), report.e2e_ms.map(|s| s.n)), (Some(1), Some(1)));
    assert_eq!((report.itl_ms, report.icl_ms), (records.gaps.summary(), records.gaps.summary()));
    // 29 ms without a word are beyond 20 ms to the first one.
    assert_eq!(report.goodput.as_ref().map(|goodput| goodput.good), Some(1));
    let windows = &report.windows;
    let tokens = |window: &Window| window.output_tok_s.unwrap_or(0.0) * (window.to_s - window.from_s);
    assert_eq!([&windows.warmup, &windows.steady, &windows.drain].map(tokens).iter().sum::<f64>().round(), 2.0);
    assert!(table(&report).contains("note: 1 answers are without text"));
}

#[test]
fn prompts_that_the_server_counts_otherwise() {
    let counted = |prompt_tokens| Record { usage: usage(prompt_tokens, 5), ..record(1, 2, 8, 5) };
    let mixed = report(vec![counted(17), counted(17), counted(18)]);
    assert_eq!((mixed.template_tokens, mixed.prompt_token_mismatch), (Some(7), 1));
    let fewer = report(vec![counted(9), counted(9)]);
    assert_eq!((fewer.template_tokens, fewer.prompt_token_mismatch), (None, 2));
}

#[test]
fn the_caches_count_stands_beside_the_ideal() {
    let of = |cached| Usage { prompt_tokens: 40, completion_tokens: 5, cached_tokens: cached, reasoning_tokens: None };
    let records = [Some(10), None, Some(22)].map(|cached| Record { usage: Some(of(cached)), ..record(1, 2, 8, 5) });
    let terms = Terms { ideal: Some(IdealCache { prompt_tokens: 200, cached_tokens: 50 }), ..terms() };
    let report = RunReport::of(&ledger(records.to_vec()), &terms, about());
    assert_eq!((report.cached_tokens, report.hit_rate), (Some(32), Some(0.4)));
    assert_eq!((report.ideal_cached_tokens, report.ideal_hit_rate), (Some(50), Some(0.25)));
    assert!(table(&report).contains("prefix cache: 32 prompt tokens cached by the server's count, 40.0%; ideal 25.0%"));
}

#[test]
fn goodput_meets_all_bounds() {
    let slo = Slo { ttft: Some(Duration::from_millis(10)), tpot: Some(Duration::from_millis(5)), e2e: None };
    let records = vec![
        record(1, 11, 31, 5),                                 // 10 ms and 5 ms: just good
        record(1, 12, 32, 5),                                 // TTFT 11 ms
        record(1, 11, 32, 5),                                 // TPOT 5.25 ms
        record(1, 2, 2, 1),                                   // no TPOT to miss
        failed(1, 2001, Reason::Reset),                       // not good
        Record { end: End::Cancelled, ..record(1, 2, 3, 2) }, // not asked to the end
    ];
    let report = RunReport::of(&ledger(records), &Terms { slo, ..terms() }, about());
    let expected = Goodput {
        slo: SloMs { ttft: Some(10.0), tpot: Some(5.0), e2e: None },
        good: 2,
        share: Some(0.4),
        request_s: Some(1.0),
    };
    assert_eq!(report.goodput, Some(expected));
    assert!(table(&report).contains("goodput (TTFT ≤ 10 ms, TPOT ≤ 5 ms): 2 requests, 40.0%, 1.00 req/s"));
}

#[test]
fn windows_are_by_the_send_and_throughput_by_what_came() {
    // Sent at 1, 101, 201, 301 ms; the first ends at 101, so the warm-up does.
    let records: Vec<Record> = [1, 101, 201, 301].map(|sent| record(sent, sent + 20, sent + 100, 9)).to_vec();
    let windows = report(records.clone()).windows;
    let spans = [&windows.warmup, &windows.steady, &windows.drain].map(|w| (w.from_s, w.to_s, w.of.requests));
    assert_eq!(spans, [(0.0, 0.1, 1), (0.1, 0.3, 2), (0.3, 0.4, 1)]);
    assert_eq!([windows.warmup.request_s, windows.steady.request_s], [Some(10.0), Some(10.0)]);
    // Every answer of 9 tokens falls into one window; both that were sent in the steady one came in it.
    assert_eq!([windows.steady.output_tok_s, windows.drain.output_tok_s], [Some(90.0), Some(90.0)]);
    assert_eq!(windows.steady.of.ttft_ms.unwrap().mean, 20.0);
    // A window of 150 ms ends within the second answer (first token at 121, last at 201): 29/80 of its 8 further tokens
    // and its first came by then, beside the first answer's 9.
    let terms = Terms { warmup_window: Some(Duration::from_millis(149)), ..terms() };
    let cut = RunReport::of(&ledger(records), &terms, about()).windows.warmup;
    assert_eq!((cut.to_s, cut.of.requests), (0.149, 2));
    assert!((cut.output_tok_s.unwrap() * 0.149 - (9.0 + 1.0 + 8.0 * 29.0 / 80.0)).abs() < 1e-8, "{cut:?}");
    // All at once: there is no steady time.
    let burst = report(vec![record(1, 11, 51, 5); 3]).windows;
    assert_eq!((burst.steady.of.requests, burst.steady.request_s, burst.drain.of.requests), (0, None, 3));
}

#[test]
fn a_bursts_share_of_ttft() {
    let about = About { concurrency: Some(2), time_scale: None, ..about() };
    let records = vec![record(1, 41, 51, 5), record(2, 42, 51, 5), record(60, 80, 90, 5), record(61, 81, 90, 5)];
    let burst = RunReport::of(&ledger(records), &terms(), about.clone()).burst;
    // Mean 30 ms, 20 ms later: a third.
    let expected = Burst { requests: 2, ttft_ms: 40.0, later_ttft_ms: 20.0, share_of_ttft: 1.0 / 3.0 };
    assert_eq!(burst, Some(expected));
    assert_eq!(RunReport::of(&ledger(vec![record(1, 41, 51, 5)]), &terms(), about).burst, None);
}

#[test]
fn a_client_that_lags_makes_the_run_invalid() {
    let late = |sent: u64, by: u64| Record { intended: Some((sent - by) * MS), ..record(sent, sent + 1, sent + 2, 2) };
    let report = report(vec![late(100, 0), late(220, 20)]);
    assert_eq!((report.valid, report.achieved_requested), (false, Some(100.0 / 120.0)));
    let said = "the client sent late: lag p99 is 20.00 ms, --max-lag is 10 ms";
    assert_eq!(report.invalid_reason.as_deref(), Some(said));
    assert!(report.exit_ok() && table(&report).contains(&format!("INVALID: {said}")));
    // A turn that was never sent is no late one.
    let unsent = Record { sent: 0, intended: Some(0), ..failed(1, 0, Reason::Parent) };
    let mut with_unsent = super::tests::report(vec![late(100, 0), late(200, 0), unsent]);
    assert_eq!((with_unsent.valid, with_unsent.failed, with_unsent.requests), (true, 1, 3));
    assert_eq!(with_unsent.duration_s, 0.102);
    with_unsent.about.simulated = Some("4 x H200".into());
    assert!(table(&with_unsent).contains("SIMULATED: 4 x H200"));
}

#[test]
fn classes_and_turns_have_their_own_figures() {
    let of = |class, turn, first| Record { class, turn, ..record(1, first, 51, 5) };
    let classes = ["short".to_owned(), "long".to_owned()];
    let terms = Terms { classes: &classes, ..terms() };
    let report = RunReport::of(&ledger(vec![of(0, 1, 11), of(1, 2, 21), of(1, 0, 31)]), &terms, about());
    let means = |groups: Vec<&Group>| groups.iter().map(|g| (g.requests, g.ttft_ms.unwrap().mean)).collect::<Vec<_>>();
    assert_eq!(report.classes.keys().collect::<Vec<_>>(), ["long", "short"]);
    assert_eq!(means(report.classes.values().collect()), [(2, 25.0), (1, 10.0)]);
    assert_eq!(report.turns.keys().collect::<Vec<_>>(), [&1, &2]);
    assert_eq!(means(report.turns.values().collect()), [(1, 10.0), (1, 20.0)]);
}

#[test]
fn repeats_of_a_point_have_an_interval() {
    let mut reports = [11, 12, 13].map(|first| report(vec![record(1, first, 51, 5)])).to_vec();
    reports.push(RunReport { about: About { time_scale: Some(2.0), ..about() }, ..reports[0].clone() });
    Repeats::fill(&mut reports);
    let ttft = reports[0].repeats.as_ref().unwrap().ttft_ms.unwrap();
    assert_eq!((ttft.mean, ttft.runs), (11.0, 3));
    assert!((ttft.high - 13.484_14).abs() < 1e-4 && (ttft.low - 8.515_86).abs() < 1e-4, "{ttft:?}");
    assert!(reports[1].repeats == reports[0].repeats && reports[3].repeats.is_none());
    assert!(
        table(&reports[0])
            .contains("over 3 runs, means with 95% confidence (Student's t): TTFT 11.00 [8.52, 13.48] ms")
    );
}

#[test]
fn json_has_the_names_and_nulls_where_nothing_was_measured_and_reads_back() {
    let full = report(vec![record(1, 11, 51, 5)]);
    let json = serde_json::to_value(&full).unwrap();
    for name in ["completed", "failed", "duration_s", "output_tok_s", "request_s", "time_scale", "model", "failures"] {
        assert!(!json[name].is_null(), "{name} in {json}");
    }
    for name in ["ttft_ms", "tpot_ms", "itl_ms", "icl_ms", "e2e_ms", "schedule_lag_ms"] {
        let parts: Vec<&String> = json[name].as_object().unwrap().keys().collect();
        assert_eq!(parts, ["mean", "p50", "p90", "p99", "max", "n", "sd"], "{name}");
        assert!(json[name]["p99"].is_null());
    }
    assert_eq!((&json["output_tokens_by"], &json["valid"]), (&"usage".into(), &true.into()));
    assert_eq!(json["windows"]["steady"]["requests"], 0);
    assert_eq!(serde_json::from_value::<RunReport>(json).unwrap(), full);

    let unscheduled = Record { intended: None, ..failed(1, 2, Reason::Reset) };
    let ledger = Ledger { gaps: Gaps::new(), ..ledger(vec![unscheduled]) };
    let json = serde_json::to_value(RunReport::of(&ledger, &terms(), about())).unwrap();
    for name in [
        "ttft_ms",
        "tpot_ms",
        "itl_ms",
        "icl_ms",
        "e2e_ms",
        "schedule_lag_ms",
        "ttft_from_intended_ms",
        "tokens_per_chunk",
        "achieved_requested",
        "cached_tokens",
        "ideal_hit_rate",
        "goodput",
        "server",
    ] {
        assert!(json[name].is_null(), "{name} in {json}");
    }
    assert_eq!(json["output_tok_s"], 0.0);
}

proptest::proptest! {
    /// However requests interleave, and in whatever order their records come: the report is the same to the bit.
    #[test]
    fn any_interleaving_gives_the_same_report(
        requests in proptest::collection::vec((1u64..5000, 1u64..500, 0u64..900, 1u64..40, 0u8..6), 0..60), salt in 0u64..1000,
    ) {
        let mut records: Vec<Record> = requests
            .iter()
            .enumerate()
            .map(|(index, &(sent, first, rest, n, how))| {
                let done = record(sent, sent + first, sent + first + rest, n);
                let record = match how {
                    0 => failed(sent, sent + rest, Reason::Status(500 + (rest % 3) as u16)),
                    1 => Record { end: End::Cancelled, ..done },
                    2 => Record { usage: None, tokenizer_count: Some(n + 1), ..done },
                    _ => done,
                };
                Record { index, class: (n % 2) as u16, turn: (n % 4) as u32, ..record }
            })
            .collect();
        let slo = Slo { ttft: Some(Duration::from_millis(200)), ..Slo::default() };
        let classes = ["a".to_owned(), "b".to_owned()];
        let terms = Terms { slo, classes: &classes, ..terms() };
        let of = |records: &[Record]| RunReport::of(&ledger(records.to_vec()), &terms, About { concurrency: Some(4), ..about() });
        let in_order = of(&records);
        records.sort_by_key(|record| (record.index as u64 + 1).wrapping_mul(salt * 2 + 1) % 61);
        proptest::prop_assert_eq!(of(&records), in_order);
    }
}

#[test]
fn the_table_is_this() {
    let text = table(&report(vec![record(1, 11, 51, 5), failed(3, 4, Reason::Status(500))]));
    let expected = "
w, model m, time scale 0.4
ms                          mean         p50         p90         p99         max
TTFT                       10.00       10.00       10.00           –       10.00
TPOT                       10.00       10.00       10.00           –       10.00
ITL                         2.00        2.00        2.00           –        2.00
E2E                        50.00       50.00       50.00           –       50.00
TTFT from intended         11.00       11.00       11.00           –       11.00
E2E from intended          51.00       51.00       51.00           –       51.00
sent late by                1.00        1.00        1.00           –        1.00
connect                     0.25        0.25        0.25           –        0.25
1 of 2 requests completed, 1 failed, in 0.05 s: 100.00 output tok/s, 20.00 req/s
10 prompt and 5 output tokens (counted by the server); peak in flight 2, peak queued 1; 2 connections opened
achieved/requested rate 1.0000
client: 25.0% of a core, 5.0 µs of CPU a chunk, peak RSS 50 MB
failed: 1 x HTTP 500: said this
";
    assert_eq!(text, expected);
}

#[test]
fn several_points_stand_beside_each_other() {
    let one = report(vec![record(1, 11, 51, 5)]);
    let other = RunReport { valid: false, about: About { time_scale: Some(1.6), ..about() }, ..one.clone() };
    let expected = "
point             TTFT mean   TTFT p99  TPOT mean   TPOT p99   E2E mean    E2E p99     tok/s    req/s   lag p99  failed
time scale 0.4        10.00          –      10.00          –      50.00          –     100.0    20.00         –       0
time scale 1.6        10.00          –      10.00          –      50.00          –     100.0    20.00         –       0  INVALID
";
    assert_eq!(table::points(&[one, other]), expected);
}

#[test]
fn a_sink_is_checked_first_and_leaves_nothing_unwritten() {
    use minisgl_config::loadgen::settings::JsonOutput;
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
