//! The real binary with the real default model: its answers, its streams under cancellation, a cache of few pages.
use serde_json::{Value, json};

use crate::support::{Server, run_python, tiny_chat};

const QUESTION: &str = "What is the capital of Japan?";
const ANSWER: &str = "The capital of Japan is Tokyo.";

fn chat(question: &str, max_tokens: usize) -> Value {
    json!({
        "model": "smollm2-135m", "temperature": 0, "max_tokens": max_tokens,
        "messages": [{"role": "user", "content": question}],
    })
}

fn streamed(mut body: Value) -> Value {
    body["stream"] = json!(true);
    body
}

/// One start of the default model for all that only ask it.
#[test]
fn the_default_model_serves_its_clients() {
    let server = Server::start(&["--max-seq-len-override", "2048"]);
    let (status, answer) = server.post("/v1/chat/completions", &chat(QUESTION, 32));
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["choices"][0]["message"]["content"], ANSWER);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");

    let (text, reason) = server.stream("/v1/chat/completions", &streamed(chat(QUESTION, 32))).chat_text();
    assert_eq!((text.as_str(), reason.as_str()), (ANSWER, "stop"));

    let base_url = format!("{}/v1", server.url);
    run_python("openai_client.py", &["--base-url", &base_url]);
    run_python("minisgl_client.py", &["--base-url", &base_url]);
    server.wait_idle();
    server.assert_no_page_lost();
}

/// A distinct question a stream, so that each has its own answer to be right.
fn numbered(stream: usize, max_tokens: usize) -> Value {
    let mut body =
        chat(&format!("Question {stream}: say something about the number {}.", stream * 37 + 11), max_tokens);
    body["model"] = json!("tiny-chat");
    body["ignore_eos"] = json!(true);
    body
}

#[test]
fn streams_stay_right_while_clients_leave() {
    clients_leave(&[]);
}

#[test]
fn two_ranks_serve_as_one_does() {
    clients_leave(&["--tp", "2"]);
}

fn clients_leave(args: &[&str]) {
    const STREAMS: usize = 64;
    const TOKENS: usize = 160;
    let model = tiny_chat();
    let server = Server::start(&[&["--model", &model, "--page-size", "16"], args].concat());
    let alone: Vec<String> = (0..STREAMS)
        .map(|i| {
            let (status, answer) = server.post("/v1/chat/completions", &numbered(i, TOKENS));
            assert_eq!(status, 200, "{answer}");
            answer["choices"][0]["message"]["content"].as_str().expect("content").to_owned()
        })
        .collect();
    std::thread::scope(|scope| {
        for (i, expected) in alone.iter().enumerate() {
            let server = &server;
            scope.spawn(move || {
                let mut events = server.stream("/v1/chat/completions", &streamed(numbered(i, TOKENS)));
                if i % 3 == 0 {
                    // This client leaves after a few tokens, each at another.
                    assert!(events.by_ref().take(1 + i / 2).count() > 0);
                    drop(events);
                } else {
                    assert_eq!(&events.chat_text(), &(expected.clone(), "length".to_owned()), "stream {i}");
                }
            });
        }
    });
    server.wait_idle();
    server.assert_no_page_lost();
    assert!(server.metric("minisgl_request_success_total", &["finished_reason=\"abort\""]) > 0.0, "nobody left");
    assert!(server.terminate(), "a server without clients drains and exits with 0");
}

#[test]
fn few_pages_change_when_not_what() {
    const STREAMS: usize = 24;
    const TOKENS: usize = 120;
    let model = tiny_chat();
    let large = Server::start(&["--model", &model, "--page-size", "4", "--num-pages", "4096"]);
    // About three of the 24 sequences fit at once.
    let small = Server::start(&["--model", &model, "--page-size", "4", "--num-pages", "150"]);
    let answers = |server: &Server| -> Vec<Value> {
        std::thread::scope(|scope| {
            let asked: Vec<_> = (0..STREAMS)
                .map(|i| {
                    scope.spawn(move || {
                        let mut body = numbered(i, TOKENS);
                        if i % 2 == 1 {
                            body["temperature"] = json!(0.9);
                            body["seed"] = json!(i);
                        }
                        let (status, answer) = server.post("/v1/chat/completions", &body);
                        assert_eq!(status, 200, "{answer}");
                        answer["choices"].clone()
                    })
                })
                .collect();
            asked.into_iter().map(|thread| thread.join().expect("a client")).collect()
        })
    };
    assert_eq!(answers(&small), answers(&large));
    assert!(small.metric("minisgl_num_preemptions_total", &[]) > 0.0, "150 pages were enough: nothing was retracted");
    assert_eq!(large.metric("minisgl_num_preemptions_total", &[]), 0.0);
    small.wait_idle();
    small.assert_no_page_lost();
}

#[test]
fn prometheus_finds_data_for_every_panel() {
    let install = "install Debian's package prometheus";
    if !(crate::support::counterpart("prometheus", install) && crate::support::counterpart("promtool", install)) {
        return;
    }
    let model = tiny_chat();
    // Few pages, so that preemptions happen; a short queue, so that rejections do.
    let server = Server::start(&["--model", &model, "--max-queued-requests", "8", "--max-running-requests", "4"]);
    run_python("prometheus.py", &["--server", &server.url]);
}

#[test]
fn sigterm_drains() {
    drains(&[]);
    drains(&["--tp", "2"]);
}

fn drains(args: &[&str]) {
    let model = tiny_chat();
    let server = Server::start(&[&["--model", &model], args].concat());
    let mut events = server.stream("/v1/chat/completions", &streamed(numbered(1, 400)));
    assert!(events.next().is_some(), "the first chunk");
    server.signal_term();
    let (text, reason) = events.chat_text();
    assert!(!text.is_empty());
    assert_eq!(reason, "length", "what was in flight ended as it would have");
    assert!(server.terminate(), "exit code 0");
}
