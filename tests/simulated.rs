//! `--device sim` as a user meets it: labelled, without weights, with a real cache and real usage.
use serde_json::{Value, json};

use crate::support::{Server, run, run_err, run_ok, tiny_chat};

fn tokens(from: usize, count: usize, body: Value) -> Value {
    let mut body = body;
    body["model"] = json!("tiny-chat");
    body["prompt"] = json!((from..from + count).map(|i| i % 200).collect::<Vec<_>>());
    body
}

#[test]
fn it_says_what_it_simulates_and_needs_no_weights() {
    // Config and tokenizer alone.
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("tiny-chat");
    std::fs::create_dir(&model).unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        let from = std::path::Path::new(&tiny_chat()).join(name);
        if from.exists() {
            std::fs::copy(from, model.join(name)).unwrap();
        }
    }
    let model = model.to_str().unwrap();
    let server = Server::start(&[
        "--model",
        model,
        "--device",
        "sim",
        "--sim-profile",
        "4xh200-qwen3-32b",
        "--page-size",
        "16",
        "--max-seq-len-override",
        "131072",
        "--sim-ttft",
        "0",
        "--sim-itl",
        "0ms",
    ]);
    let (_, models) = server.get("/v1/models");
    let models: Value = serde_json::from_str(&models).unwrap();
    assert_eq!(models["data"][0]["simulated"], "4xh200-qwen3-32b, exactly ttft 0ns, itl 0ns");
    assert_eq!(models["data"][0]["max_model_len"], 131_072);
    assert_eq!(server.metric("minisgl_simulated_info", &["profile=\"4xh200-qwen3-32b"]), 1.0);
    // 105,399 pages of 16: (4 * 141 GB * 0.9 - weights) / 4 MiB.
    assert_eq!(server.metric("minisgl_kv_pages", &["total"]), 105_399.0);

    // Usage has what the cache held, in plain and in streamed answers.
    let cached = |answer: &Value| answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("usage");
    let ask = |from, count| {
        let (status, answer) =
            server.post("/v1/completions", &tokens(from, count, json!({"max_tokens": 5, "seed": 9})));
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let first = ask(0, 100_000);
    assert_eq!(cached(&first), 0);
    assert_eq!(first["usage"]["completion_tokens"], 5);
    let text = first["choices"][0]["text"].as_str().unwrap();
    assert!(!text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() || b == b' '), "{text:?}");
    assert_eq!(cached(&ask(0, 100_000)), 99_984, "all whole pages but the last token's");
    assert_eq!(ask(0, 100_000)["choices"], ask(0, 100_000)["choices"], "the text is seeded");
    let body = json!({"max_tokens": 2, "stream": true, "stream_options": {"include_usage": true}});
    let chunks: Vec<String> = server.stream("/v1/completions", &tokens(0, 1000, body)).collect();
    let last: Value = serde_json::from_str(&chunks[chunks.len() - 2]).expect("usage before [DONE]");
    assert_eq!(cached(&last), 992, "{last}");
    let chat = json!({"model": "tiny-chat", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]});
    let (status, answer) = server.post("/v1/chat/completions", &chat);
    assert_eq!((status, cached(&answer)), (200, 0), "{answer}");
    assert_eq!(server.metric("minisgl_prefix_cache_hits_total", &[]), 3.0 * 99_984.0 + 992.0);
    server.wait_idle();
    server.assert_no_page_lost();
    assert!(server.terminate());
}

/// Streams of different phase, some of whose clients leave: each hears its own length, and nothing is lost.
#[test]
fn exact_timings_serve_many_and_lose_nothing() {
    let model = tiny_chat();
    let args = ["--model", &model, "--device", "sim", "--sim-ttft", "3ms", "--sim-itl", "1.5ms", "--num-pages", "5000"];
    let server = Server::start(&args);
    std::thread::scope(|scope| {
        for i in 0..32 {
            let server = &server;
            scope.spawn(move || {
                let body = json!({"max_tokens": 20 + i, "stream": true, "ignore_eos": true});
                let mut events = server.stream("/v1/completions", &tokens(i, 40, body));
                if i % 4 == 0 {
                    assert!(events.by_ref().take(3).count() == 3);
                } else {
                    assert!(events.count() >= 20 + i);
                }
            });
        }
    });
    server.wait_idle();
    server.assert_no_page_lost();
    assert!(server.terminate());
}

#[test]
fn what_cannot_be_simulated_names_its_flag() {
    let model = tiny_chat();
    let refused = |args: &[&str]| run_err(&[&["serve", "--port", "0", "--model", &model], args].concat());
    for name in ["h100", "h200", "4xh200-qwen3-32b"] {
        assert!(refused(&["--device", "sim", "--sim-profile", "list"]).contains(name));
    }
    assert!(refused(&["--sim-itl", "1ms"]).contains("--sim-itl 1ms: only a simulated device heeds it"));
    assert!(refused(&["--device", "sim", "--tp", "1000"]).contains("1000 ranks cannot share"));
}

#[test]
fn plan_sizes_a_trace_and_says_that_it_is_simulated() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace.jsonl");
    let line = |i: usize| {
        // Everyone shares a first block of 512 tokens.
        json!({"timestamp": i * 100, "input_length": 2048, "output_length": 100, "hash_ids": [0, 3 * i + 1, 3 * i + 2, 3 * i + 3]})
    };
    std::fs::write(&trace, (0..200).map(|i| format!("{}\n", line(i))).collect::<String>()).unwrap();
    let (trace, out) = (trace.to_str().unwrap(), folder.path().join("out"));
    fn plan<'a>(trace: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        [&["loadgen", "plan", "--trace", trace], more].concat()
    }
    let args = plan(trace, &["--slo", "ttft=400ms,tpot=40ms", "--profile", "1xh200-qwen3-14b", "--rate", "100"]);
    let text = run_ok(&[&args[..], &["--out", out.to_str().unwrap()]].concat());
    assert!(text.contains("1xh200-qwen3-14b") && text.contains("Simulated: no GPU was measured"), "{text}");
    let json: Value = serde_json::from_str(&std::fs::read_to_string(out.join("plan.json")).unwrap()).unwrap();
    let profile = &json["profiles"][0];
    let (rate, replicas) = (profile["best"]["rate_req_s"].as_f64().unwrap(), profile["replicas"].as_u64().unwrap());
    assert_eq!((&json["simulated"], &profile["limit_found"]), (&json!(true), &json!(true)));
    assert!(rate > 1.0 && replicas as f64 >= 99.0 / rate && (replicas - 1) as f64 <= 100.0 / rate, "{rate} {replicas}");
    assert!(profile["best"]["slo_share"].as_f64().unwrap() >= 0.99);
    assert!((profile["best"]["prefix_hit_rate"].as_f64().unwrap() - 0.25).abs() < 0.01, "{}", profile["best"]);
    let page = std::fs::read_to_string(out.join("plan.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("Sizing (simulated)") && !page.contains("src=\"http"));

    // To stdout, the JSON alone; no rate at all is told by the exit code.
    let args = plan(trace, &["--slo", "ttft=1ms", "--profile", "1xh200-qwen3-14b", "--limit", "3", "--json", "-"]);
    let output = run(&args);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &json["profiles"][0]["best"]), (Some(1), &Value::Null));
    let said = run_err(&plan(trace, &["--slo", "ttft=1s", "--profile", "h200"]));
    assert!(said.contains("h200 is hardware alone"), "{said}");
}
