//! The load generator as a user runs it, against a mock server that answers well, badly or not at all.
//!
//! Asserts what is counted and where it ends, never how long it took: what a slow machine changes is given a wide margin.
mod mock;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use self::mock::{Act, Answer, Mock};
use crate::support::{counterpart, root, run, run_ok};

/// Runs `minisgl loadgen --url URL ARGS --json FILE`: the exit code and the JSON.
fn loadgen(mock: &Mock, args: &[&str]) -> (i32, Value) {
    let json = tempfile::NamedTempFile::new().expect("a temporary file");
    let mut all = vec!["loadgen", "--url", &mock.url, "--json", json.path().to_str().expect("UTF-8")];
    all.extend(args);
    let output = run(&all);
    let text = std::fs::read_to_string(json.path()).expect("the file");
    let report = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e} in {text:?} of {}", said(&output)));
    (output.status.code().expect("an exit code"), report)
}

fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!text.contains("panicked"), "{text}");
    format!("{}\n{text}{}", output.status, String::from_utf8_lossy(&output.stdout))
}

/// A drawn workload of one request after another.
const ONE_BY_ONE: [&str; 8] = ["--concurrency", "1", "--input-len", "10", "--output-len", "4", "--num-requests", "7"];

#[test]
fn every_failure_is_counted_under_its_own_reason() {
    let mock = Mock::start(|number, _| match number {
        1 => Act::Reset,
        2 => Act::Stall,
        3 => Act::HalfEvent,
        4 => Act::Status(429, "retry-after: 7\r\n", json!({"error": {"message": "slow down", "type": "rate_limit"}})),
        5 => Act::Status(500, "", json!({"error": {"message": "out of pages", "type": "server_error"}})),
        _ => Act::Answer(Answer::default()),
    });
    let (code, report) = loadgen(&mock, &[&ONE_BY_ONE[..], &["--timeout", "1"]].concat());
    assert_eq!(code, 3, "{report}");
    assert_eq!((&report["completed"], &report["failed"]), (&json!(2), &json!(5)), "{report}");
    let expected = json!({"connection reset": 1, "timeout": 1, "stream ended early": 1, "HTTP 429": 1, "HTTP 500": 1});
    assert_eq!(report["failures"], expected);
    let example = |reason: &str| report["failure_examples"][reason].as_str().unwrap_or_default().to_owned();
    assert!(example("HTTP 429").contains("slow down") && example("HTTP 429").contains('7'), "{report}");
    assert!(example("HTTP 500").contains("out of pages"), "{report}");
    // What failed is in no figure of the answers.
    assert_eq!((&report["ttft_ms"]["n"], &report["output_tokens"]), (&json!(2), &json!(8)), "{report}");
    assert_eq!(mock.bodies().len(), 7, "each request is sent once");
}

#[test]
fn usage_that_disagrees_is_a_mismatch_and_no_failure() {
    // The second says one token more than was asked for, the third counts the prompt otherwise than all others.
    let mock = Mock::start(|number, _| {
        Act::Answer(Answer {
            overcount: u64::from(number == 1),
            prompt_tokens: if number == 2 { 25 } else { 30 },
            ..Answer::default()
        })
    });
    let (code, report) = loadgen(&mock, &ONE_BY_ONE);
    assert_eq!((code, &report["completed"], &report["failed"]), (0, &json!(7), &json!(0)), "{report}");
    let mismatches = (&report["output_token_mismatch"], &report["prompt_token_mismatch"]);
    assert_eq!(mismatches, (&json!(1), &json!(1)), "{report}");
    assert_eq!(report["output_tokens"], 7 * 4 + 1, "the server's count stands: {report}");
}

/// Answers everything, the first token after so many milliseconds.
fn steady(ttft_ms: u64) -> Mock {
    Mock::start(move |_, _| {
        let (ttft, itl) = (Duration::from_millis(ttft_ms), Duration::from_millis(10));
        Act::Answer(Answer { ttft, itl, ..Answer::default() })
    })
}

/// Runs 40 requests, 4 at once, into a folder.
fn run_into(mock: &Mock, folder: &Path, more: &[&str]) {
    let out = folder.to_str().expect("UTF-8");
    let args = ["--concurrency", "4", "--ramp", "0s", "--input-len", "8", "--output-len", "5", "--num-requests", "40"];
    let (code, report) = loadgen(mock, &[&args[..], &["--out", out], more].concat());
    assert_eq!((code, &report["completed"]), (0, &json!(40)), "{report}");
}

#[test]
fn a_folder_is_compared_shown_again_and_opened_in_a_browser() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    let text = |name: &str| path(name).to_str().expect("UTF-8").to_owned();
    let quick = steady(40);
    run_into(&quick, &path("a"), &["--raw", &text("raw.json"), "--slo", "ttft=10s"]);
    run_into(&quick, &path("b"), &["--slo", "ttft=10s"]);
    run_into(&steady(240), &path("slow"), &["--slo", "ttft=10s"]);
    for file in ["summary.json", "records.jsonl", "metrics.csv", "report.html"] {
        assert!(path("a").join(file).is_file(), "{file}");
    }
    assert_eq!(std::fs::read_to_string(path("a").join("records.jsonl")).expect("records").lines().count(), 40);

    // 200 ms more are five times as much again; a machine that is busy with other tests is not so slow.
    let compared = |b: &str| run(&["loadgen", "compare", &text("a"), &text(b), "--tolerance", "300%"]);
    let (same, slower) = (compared("b"), compared("slow"));
    assert_eq!(same.status.code(), Some(0), "{}", said(&same));
    assert_eq!(slower.status.code(), Some(1), "{}", said(&slower));
    let worse = |line: &&str| line.contains("ttft") && line.to_ascii_lowercase().contains("worse");
    let table = String::from_utf8_lossy(&slower.stdout).into_owned();
    assert!(table.lines().any(|line| worse(&line)), "{table}");
    let missing = run(&["loadgen", "compare", &text("a"), &text("nowhere")]);
    assert_eq!(missing.status.code(), Some(2), "{}", said(&missing));

    let again = run_ok(&["loadgen", "report", &text("a"), "--html", &text("again.html")]);
    for word in ["TTFT", "TPOT", "40"] {
        assert!(again.contains(word), "{word} in {again}");
    }
    let raw: Value = serde_json::from_str(&std::fs::read_to_string(path("raw.json")).expect("raw")).expect("JSON");
    assert_eq!(raw.as_array().map(Vec::len), Some(40), "{raw}");
    // A token's time of each of 5 tokens at least, behind the two lengths.
    assert!(raw[0][0] == 8 && raw[0][1] == 5 && raw[0].as_array().expect("a row").len() >= 7, "{}", raw[0]);
    let of_raw = run_ok(&["loadgen", "report", &text("raw.json")]);
    assert!(of_raw.contains("TTFT"), "{of_raw}");

    for page in [path("a").join("report.html"), path("again.html")] {
        opens_in_a_browser(&page);
    }
}

/// Every plot of a page is drawn in headless Chromium, without an error in its console.
fn opens_in_a_browser(page: &Path) {
    const INSTALL: &str = "apt-get install chromium";
    if !counterpart("python3", "install python3") || !counterpart("chromium", INSTALL) {
        return;
    }
    let mut check = Command::new("python3");
    check.arg(root().join("tests/report_page.py")).arg(page).stdin(Stdio::null());
    let output = check.output().expect("python3 starts");
    assert_eq!(output.status.code(), Some(0), "{}: {}", page.display(), said(&output));
}

#[test]
fn the_self_test_ends_well() {
    let args = ["loadgen", "self-test", "--steps", "8:20", "--seconds", "1", "--pacing-rate", "0", "--json", "-"];
    let figures: Value = serde_json::from_str(&run_ok(&args)).expect("JSON alone on stdout");
    let step = &figures["steps"][0];
    assert_eq!((figures["steps"].as_array().map(Vec::len), &step["failed"]), (Some(1), &json!(0)), "{figures}");
    let (requests, chunks) = (step["requests"].as_u64().expect("a number"), step["chunks"].as_u64().expect("a number"));
    // The load goes on for two answers' time at least: as many of each of the 8 streams, of 64 tokens each.
    assert!(requests >= 16 && chunks >= requests * 64, "{figures}");
    assert!(step["ttft_ms"]["true_mean"].as_f64().expect("a number") >= 50.0, "{figures}");
}

#[test]
fn a_closed_loop_without_a_ramp_keeps_to_its_places() {
    let mock = steady(30);
    let args = ["--concurrency", "4", "--ramp", "0s", "--input-len", "10", "--output-len", "4", "--num-requests", "12"];
    let (code, report) = loadgen(&mock, &args);
    assert_eq!((code, &report["completed"], &report["max_in_flight"]), (0, &json!(12), &json!(4)), "{report}");
    assert!(report["schedule_lag_ms"].is_null() && report["achieved_requested"].is_null(), "no schedule: {report}");
    assert!(report["burst"].is_object(), "{report}");
}

#[test]
fn a_poisson_rate_sends_what_its_seed_says() {
    let args =
        ["--rate", "50", "--arrival", "poisson", "--num-requests", "20", "--input-len", "5-40", "--output-len", "3"];
    let sent = |seed: &str| {
        let mock = steady(2);
        let (code, report) = loadgen(&mock, &[&args[..], &["--seed", seed]].concat());
        assert_eq!((code, &report["completed"], &report["requests"]), (0, &json!(20), &json!(20)), "{report}");
        for figure in ["schedule_lag_ms", "ttft_from_intended_ms"] {
            assert_eq!(report[figure]["n"], 20, "{figure} in {report}");
        }
        assert!(report["achieved_requested"].is_number(), "{report}");
        // Requests that are due at nearly the same time may arrive in either order.
        let mut bodies: Vec<String> = mock.bodies().iter().map(Value::to_string).collect();
        bodies.sort();
        bodies
    };
    let first = sent("7");
    assert_eq!(sent("7"), first);
    assert_ne!(sent("8"), first);
}

#[test]
fn a_causal_turn_quotes_the_live_answer_before_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let trace = folder.path().join("chats.jsonl");
    let turn = |text: &str| json!({"text": text, "output_length": 3});
    let chats = [
        json!({"session_id": "s", "turns": [turn("first of s"), turn("second of s"), turn("third of s")]}),
        json!({"session_id": "t", "turns": [turn("first of t"), turn("second of t")]}),
    ];
    std::fs::write(&trace, chats.map(|chat| chat.to_string() + "\n").concat()).expect("written");
    // Quotes, line feeds and what is beyond ASCII must come through as they are.
    let mock =
        Mock::start(|number, _| Act::Answer(Answer { text: format!("\"{number}\"\né\\ "), ..Answer::default() }));
    let trace = trace.to_str().expect("UTF-8");
    let (code, report) = loadgen(&mock, &["--trace", trace, "--turns", "causal", "--concurrency", "2", "--ramp", "0s"]);
    assert_eq!((code, &report["completed"]), (0, &json!(5)), "{report}");
    assert_eq!((&report["turns"]["1"]["requests"], &report["turns"]["3"]["requests"]), (&json!(2), &json!(1)));
    let bodies = mock.bodies();
    // What was answered to the request that ended in these words.
    let answered = |words: &str| {
        let number = bodies
            .iter()
            .position(|body| body["messages"].as_array().and_then(|m| m.last()).is_some_and(|m| m["content"] == words));
        let number = number.unwrap_or_else(|| panic!("{words} was not asked in {bodies:?}"));
        (&bodies[number]["messages"], json!({"role": "assistant", "content": format!("\"{number}\"\né\\ ").repeat(3)}))
    };
    let user = |words: &str| json!({"role": "user", "content": words});
    for chat in ["s", "t"] {
        let [one, two] = ["first", "second"].map(|nth| format!("{nth} of {chat}"));
        let ((first, answer), (second, _)) = (answered(&one), answered(&two));
        assert_eq!(*first, json!([user(&one)]));
        assert_eq!(*second, json!([user(&one), answer, user(&two)]));
    }
    let (before, answer) = answered("second of s");
    let mut whole = before.as_array().expect("messages").clone();
    whole.extend([answer, user("third of s")]);
    assert_eq!(*answered("third of s").0, Value::Array(whole));
}
