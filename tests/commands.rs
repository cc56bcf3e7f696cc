//! The other commands as a user runs them: loadgen, bench, chat, config, and what they say of bad input.
use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::{Server, minisgl, root, run_err, run_ok, tiny_chat};

#[test]
fn loadgen_replays_a_trace_against_the_server() {
    let server = Server::start(&["--model", &tiny_chat(), "--page-size", "16"]);
    let trace = root().join("config/traces/demo.jsonl");
    let json = tempfile::NamedTempFile::new().expect("a temporary file");
    let json_path = json.path().to_str().expect("a UTF-8 path");
    let table = run_ok(&[
        "loadgen",
        "--trace",
        trace.to_str().unwrap(),
        "--url",
        &server.url,
        "--time-scale",
        "0.02,0.05",
        "--json",
        json_path,
    ]);
    for word in ["TTFT", "TPOT", "ITL", "E2E", "p99"] {
        assert!(table.contains(word), "{word} in the table:\n{table}");
    }
    let requests = std::fs::read_to_string(&trace).unwrap().lines().count();
    let runs: Value = serde_json::from_str(&std::fs::read_to_string(json.path()).unwrap()).expect("JSON");
    let runs = runs.as_array().expect("several runs are an array");
    assert_eq!(runs.len(), 2);
    for run in runs {
        assert_eq!((run["completed"].as_u64(), run["failed"].as_u64()), (Some(requests as u64), Some(0)), "{run}");
        for figure in ["ttft_ms", "tpot_ms", "itl_ms", "e2e_ms", "schedule_lag_ms"] {
            for part in ["mean", "p50", "p90", "max"] {
                assert!(run[figure][part].is_number(), "{figure}.{part} in {run}");
            }
        }
    }
    // The trace's lengths are what the server was asked for, twice.
    let lengths = std::fs::read_to_string(&trace).unwrap();
    let total: u64 = lengths
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["output_length"].as_u64().unwrap())
        .sum();
    assert_eq!(server.metric("minisgl_generation_tokens_total", &[]), 2.0 * total as f64);
    server.wait_idle();
    server.assert_no_page_lost();
}

#[test]
fn loadgen_closed_loop() {
    let server = Server::start(&["--model", &tiny_chat()]);
    let out = run_ok(&[
        "loadgen",
        "--url",
        &format!("{}/v1", server.url),
        "--concurrency",
        "4",
        "--num-requests",
        "12",
        "--input-len",
        "5-40",
        "--output-len",
        "7",
    ]);
    assert!(out.contains("TTFT"), "{out}");
    assert_eq!(server.metric("minisgl_generation_tokens_total", &[]), 12.0 * 7.0);
}

#[test]
fn loadgen_names_the_bad_line_before_it_connects() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("bad.jsonl");
    let good = std::fs::read_to_string(root().join("config/traces/demo.jsonl")).unwrap();
    let mut lines: Vec<&str> = good.lines().take(3).collect();
    lines.push("{\"chat_id\": 1, \"timestamp\": -5}");
    std::fs::write(&trace, lines.join("\n")).unwrap();
    // Port 9 has no listener: an error of the connection would say so.
    let said = run_err(&["loadgen", "--trace", trace.to_str().unwrap(), "--url", "http://127.0.0.1:9"]);
    assert!(said.contains("bad.jsonl:4"), "{said}");
}

#[test]
fn bench_prints_one_json_object_a_line() {
    let model = tiny_chat();
    let out = run_ok(&[
        "bench",
        "batched",
        "--model",
        &model,
        "--prompt-len",
        "16",
        "--output-len",
        "8",
        "--batch",
        "1,4",
        "--json",
    ]);
    let rows: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON alone on stdout")).collect();
    assert_eq!(rows.iter().map(|row| row["batch"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 4]);
    for row in &rows {
        assert!(row["prefill_tok_s"].as_f64().unwrap() > 0.0 && row["decode_tok_s"].as_f64().unwrap() > 0.0, "{row}");
    }

    let out = run_ok(&[
        "bench",
        "offline",
        "--model",
        &model,
        "--num-seqs",
        "6",
        "--input-len",
        "10-20",
        "--output-len",
        "5",
        "--json",
    ]);
    let row: Value = serde_json::from_str(out.trim()).expect("one JSON object");
    let (output, total) = (row["output_tok_s"].as_f64().unwrap(), row["total_tok_s"].as_f64().unwrap());
    assert!(output > 0.0 && total > output, "{row}");
}

#[test]
fn bench_asks_recorded_questions() {
    let model = tiny_chat();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chats.jsonl");
    let row = |language: &str, text: &str| json!({"language": language, "conversation": [{"role": "user", "content": text}, {"role": "assistant", "content": "A"}]});
    let long = "a ".repeat(50_000);
    let rows = [row("English", "Hi there"), row("French", "Salut"), row("English", &long), row("Chinese", "Hello")];
    std::fs::write(&path, rows.map(|row| row.to_string()).join("\n")).unwrap();
    let dataset = path.to_str().unwrap();
    let out = run_ok(&["bench", "offline", "--model", &model, "--dataset", dataset, "--max-output-len", "7", "--json"]);
    let figures: Value = serde_json::from_str(out.trim()).expect("one JSON object");
    assert_eq!(
        (
            &figures["num_seqs"],
            &figures["rows"],
            &figures["skipped"]["language"],
            &figures["too_long"],
            &figures["output_budget"]
        ),
        (&2.into(), &4.into(), &1.into(), &1.into(), &14.into()),
        "{figures}"
    );
    let (used, stopped) = (figures["output_tokens"].as_u64().unwrap(), figures["stopped"].as_u64().unwrap());
    // What is below the budget ended by itself.
    assert!((1..=14).contains(&used) && (stopped > 0 || used == 14), "{figures}");
    assert_eq!(figures["input_lengths"]["n"], 2);
    let table = run_ok(&["bench", "offline", "--model", &model, "--dataset", dataset, "--max-output-len", "7"]);
    assert!(table.contains("budget 14 output tokens, used") && table.contains("1 in other languages"), "{table}");

    std::fs::write(&path, "{\"conversation\": 5}").unwrap();
    let said = run_err(&["bench", "offline", "--model", &model, "--dataset", dataset]);
    assert!(said.contains("chats.jsonl: line 1: field `conversation`: 5 where an array"), "{said}");
}

#[test]
fn chat_answers_and_leaves() {
    let mut shell = minisgl(&["chat", "--model", &tiny_chat()])
        .env("MINISGL_SHELL_MAX_TOKENS", "8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    shell.stdin.take().unwrap().write_all(b"hello\n/reset\nagain\n/exit\n").unwrap();
    let output = shell.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!String::from_utf8_lossy(&output.stdout).trim().is_empty(), "{said}");
}

#[test]
fn settings_are_shown_and_checked() {
    assert!(run_ok(&["--version"]).starts_with("minisgl "));
    let shown = run_ok(&["config", "show"]);
    assert!(shown.contains("page_size") && shown.contains("1919"), "{shown}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.toml");
    std::fs::write(&file, "port = 1919\npage_sise = 16\n").unwrap();
    let said = run_err(&["config", "check", file.to_str().unwrap()]);
    assert!(said.contains("page_sise") && said.contains("bad.toml"), "{said}");
}

#[test]
fn bad_input_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = folder.path().join("cut.gguf");
    std::fs::write(&gguf, b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\x7f").unwrap();
    let said = run_err(&["serve", "--port", "0", "--model", gguf.to_str().unwrap()]);
    assert!(said.contains("cut.gguf"), "{said}");

    let empty = tempfile::tempdir().unwrap();
    let said = run_err(&["serve", "--port", "0", "--model", empty.path().to_str().unwrap()]);
    assert!(said.contains("config.json"), "{said}");

    let said = run_err(&["serve", "--port", "0", "--model", "no-such-model"]);
    assert!(said.contains("no-such-model") && said.contains("smollm2-135m"), "{said}");

    for (flags, word) in [
        (&["--device", "cuda"][..], "cuda"),
        (&["--page-size", "0"], "page-size"),
        (&["--memory-ratio", "1.5"], "memory-ratio"),
        (&["--attn", "fa"], "attention-backend"),
    ] {
        let said = run_err(&[&["serve", "--port", "0", "--model", &tiny_chat()], flags].concat());
        assert!(said.contains(word), "{flags:?}: {said}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_panic() {
    // The reading end of the pipe is closed before the first byte.
    let mut show = minisgl(&["config", "show"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(show.stdout.take());
    let output = show.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("panicked"), "{said}");
}
