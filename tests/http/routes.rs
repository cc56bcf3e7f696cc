//! What each route answers, to the byte.
use serde_json::{Value, json};

use super::{Server, client, with};
use crate::fake::{EOS, FakeModel, MODEL};
use minisgl::llm::SamplingParams;

/// Takes out what differs from run to run, after a look at its form.
fn fixed(mut object: Value, prefix: &str) -> Value {
    let id = object["id"].as_str().expect("an id");
    assert!(id.strip_prefix(prefix).is_some_and(|rest| rest.len() == 24), "{id}");
    assert!(object["created"].as_u64().is_some_and(|seconds| seconds > 1_700_000_000));
    object["id"] = json!("ID");
    object["created"] = json!(0);
    object
}

fn usage(prompt: usize, completion: usize, cached: usize) -> Value {
    json!({
        "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    })
}

#[test]
fn chat_whole() {
    let server = Server::start(FakeModel::default());
    let reply = server.chat("hello", json!({}));
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let expected = json!({
        "id": "ID", "object": "chat.completion", "created": 0, "model": MODEL,
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": "hello", "refusal": null},
            "logprobs": null,
            "finish_reason": "stop",
        }],
        "usage": usage(7, 6, 0),
    });
    assert_eq!(fixed(reply.json(), "chatcmpl-"), expected);
    // The same again: its first page is in the prefix cache.
    assert_eq!(server.chat("hello", json!({})).json()["usage"], usage(7, 6, 4));
}

#[test]
fn chat_stream_is_a_chunk_a_token() {
    let server = Server::start(FakeModel::default());
    let chunks = server.chat("hé", json!({"stream": true, "stream_options": {"include_usage": true}})).chunks();
    let ids: Vec<_> = chunks.iter().map(|chunk| &chunk["id"]).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let chunk = |delta: Value, finish_reason: Value| {
        json!({
            "id": "ID", "object": "chat.completion.chunk", "created": 0, "model": MODEL,
            "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason}],
            "usage": null,
        })
    };
    let mut last = chunk(json!({}), json!(null));
    last["choices"] = json!([]);
    last["usage"] = usage(5, 4, 0);
    let expected = [
        chunk(json!({"role": "assistant", "content": "h"}), json!(null)),
        chunk(json!({"content": ""}), json!(null)), // half of é
        chunk(json!({"content": "é"}), json!(null)),
        chunk(json!({"content": ""}), json!(null)), // the end-of-sequence token
        chunk(json!({}), json!("stop")),
        last,
    ];
    let chunks: Vec<_> = chunks.into_iter().map(|chunk| fixed(chunk, "chatcmpl-")).collect();
    assert_eq!(chunks, expected);
    // Without include_usage no chunk has the field.
    let chunks = server.chat("hi", json!({"stream": true})).chunks();
    assert!(chunks.len() == 4 && chunks.iter().all(|chunk| chunk.get("usage").is_none()));
}

#[test]
fn each_token_is_sent_as_it_comes() {
    let server = Server::start(FakeModel::default());
    let mut reply = server.chat("hello", json!({"stream": true}));
    let frames: Vec<_> = std::iter::from_fn(|| reply.chunk()).collect();
    assert_eq!(frames.len(), 8, "{frames:?}");
    assert!(frames.iter().all(|frame| frame.starts_with("data: ") && frame.ends_with("\n\n")));
}

#[test]
fn choices_have_their_own_seeds() {
    let server = Server::start(FakeModel::default());
    let fields = json!({"n": 3, "temperature": 1, "seed": 6});
    let answer = server.chat("hello", fields.clone()).json();
    let texts: Vec<_> = (0..3).map(|i| answer["choices"][i]["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(texts, ["hello", "HELLO", "hello"]);
    assert_eq!(answer["choices"][2]["index"], 2);
    assert_eq!(answer["usage"], usage(7, 18, 0), "the prompt counts once");

    let streamed = server.chat("hello", super::with(fields, json!({"stream": true}))).chunks();
    let mut texts = vec![String::new(); 3];
    let (mut roles, mut ends) = (0, 0);
    for chunk in &streamed {
        let choice = &chunk["choices"][0];
        let index = choice["index"].as_u64().unwrap() as usize;
        roles += usize::from(choice["delta"].get("role").is_some());
        ends += usize::from(choice["finish_reason"] == "stop");
        texts[index] += choice["delta"]["content"].as_str().unwrap_or_default();
    }
    assert_eq!((roles, ends), (3, 3));
    assert_eq!(texts, ["hello", "HELLO", "hello"]);
}

#[test]
fn chat_takes_every_form_of_message() {
    let server = Server::start(FakeModel::default());
    let messages = json!([
        {"role": "system", "content": "be brief"},
        {"role": "developer", "content": [{"type": "text", "text": "be kind"}], "name": "dev"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ho", "refusal": null, "tool_calls": [], "annotations": [], "audio": null},
        {"role": "tool", "content": "42", "tool_call_id": "call_1"},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
    ]);
    let answer = server.post("/v1/chat/completions", &with(json!({ "messages": messages }), json!({}))).json();
    assert_eq!(answer["choices"][0]["message"]["content"], "one\ntwo");
    // mini-sglang's plain text: no template.
    let answer = server.post("/v1/chat/completions", &with(json!({"prompt": "hm<|reply|>"}), json!({}))).json();
    assert_eq!(answer["choices"][0]["message"]["content"], "hm");
    assert_eq!(answer["usage"]["prompt_tokens"], 3);
}

#[test]
fn bounds_and_ends() {
    let server = Server::start(FakeModel::default());
    let end = |fields: Value| {
        let answer = server.chat("hello world", fields).json();
        let choice = &answer["choices"][0];
        let text = choice["message"]["content"].as_str().unwrap().to_owned();
        (text, choice["finish_reason"].as_str().unwrap().to_owned(), answer["usage"]["completion_tokens"].clone())
    };
    let is = |text: &str, reason: &str, tokens: usize| (text.to_owned(), reason.to_owned(), json!(tokens));
    assert_eq!(end(json!({"max_tokens": 4})), is("hell", "length", 4));
    assert_eq!(end(json!({"max_completion_tokens": 5, "max_tokens": null})), is("hello", "length", 5));
    assert_eq!(end(json!({"max_tokens": 14, "ignore_eos": true})), is("hello world..", "length", 14));
    assert_eq!(end(json!({"stop": " wo"})), is("hello", "stop", 8), "the stop string's tokens count");
    assert_eq!(end(json!({"stop": ["xyz", "rl", "wor"]})), is("hello ", "stop", 9));
    assert_eq!(end(json!({"stop": "worlds"})), is("hello world", "stop", 12), "held back, then said after all");
    assert_eq!(end(json!({"max_tokens": 8, "stop": "world"})), is("hello wo", "length", 8));
    // Absent in chat: what room the context (512 tokens) leaves.
    let answer = server.chat("hello", json!({"ignore_eos": true})).json();
    assert_eq!(answer["usage"]["total_tokens"], 512);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}

#[test]
fn a_stop_string_is_held_back_from_a_stream() {
    let server = Server::start(FakeModel::default());
    let chunks = server.chat("ab stop c", json!({"stream": true, "stop": "stop"})).chunks();
    let texts: Vec<_> =
        chunks.iter().map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().unwrap_or("-")).collect();
    assert_eq!(texts, ["a", "b", " ", "", "", "", "", "-"]);
    server.wait_idle();
}

#[test]
fn completions_of_every_form_of_prompt() {
    let server = Server::start(FakeModel::default());
    let complete = |fields: Value| server.post("/v1/completions", &with(json!({}), fields)).json();
    let expected = json!({
        "id": "ID", "object": "text_completion", "created": 0, "model": MODEL,
        "choices": [{"index": 0, "text": "hi", "logprobs": null, "finish_reason": "stop"}],
        "usage": usage(3, 3, 0),
    });
    assert_eq!(fixed(complete(json!({"prompt": "hi<|reply|>"})), "cmpl-"), expected);
    assert_eq!(complete(json!({"prompt": [104, 105, 257]}))["choices"], expected["choices"]);

    let texts = |answer: &Value| -> Vec<String> {
        let choices = answer["choices"].as_array().unwrap().iter().enumerate();
        let text = |(i, choice): (usize, &Value)| {
            assert_eq!(choice["index"], i);
            choice["text"].as_str().unwrap().to_owned()
        };
        choices.map(text).collect()
    };
    let batch = complete(json!({"prompt": ["one<|reply|>", "two<|reply|>"]}));
    assert_eq!(texts(&batch), ["one", "two"]);
    assert_eq!(batch["usage"], usage(8, 8, 0));
    assert_eq!(texts(&complete(json!({"prompt": [[97, 257], [98, 257]]}))), ["a", "b"]);
    // Choices stand beside their prompt.
    let batch = complete(json!({"prompt": ["x<|reply|>", "y<|reply|>"], "n": 2, "temperature": 0.5, "seed": 2}));
    assert_eq!(texts(&batch), ["x", "X", "y", "Y"]);
    // Absent: 16 tokens.
    assert_eq!(complete(json!({"prompt": "no marker"}))["usage"]["completion_tokens"], 16);
}

#[test]
fn completions_stream() {
    let server = Server::start(FakeModel::default());
    let body = with(
        json!({"prompt": ["a<|reply|>", "b<|reply|>"], "stream": true, "stream_options": {"include_usage": true}}),
        json!({}),
    );
    let mut chunks = server.post("/v1/completions", &body).chunks();
    let last = fixed(chunks.pop().unwrap(), "cmpl-");
    assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &usage(4, 4, 0)));
    let mut texts = [String::new(), String::new()];
    for chunk in chunks {
        let chunk = fixed(chunk, "cmpl-");
        assert_eq!((&chunk["object"], &chunk["usage"]), (&json!("text_completion"), &json!(null)));
        let choice = &chunk["choices"][0];
        texts[choice["index"].as_u64().unwrap() as usize] +=
            &format!("{}{};", choice["text"].as_str().unwrap(), choice["finish_reason"].as_str().unwrap_or_default());
    }
    assert_eq!(texts, ["a;;stop;", "b;;stop;"]);
}

#[test]
fn generate_streams_lines_of_text() {
    let defaults = SamplingParams { temperature: 2.0, ..SamplingParams::default() };
    let server = Server::start(FakeModel { defaults, ..FakeModel::default() });
    let reply = server.post("/generate", &json!({"prompt": "a\nb<|reply|>", "max_tokens": 9}));
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let expected = "data: a\n\ndata: \ndata: \n\ndata: b\n\ndata: \n\ndata: [DONE]\n\n";
    assert_eq!(reply.text(), expected, "greedy, whatever the defaults");
    let body = json!({"prompt": "a<|reply|>", "max_tokens": 3, "ignore_eos": true});
    assert_eq!(server.post("/generate", &body).text(), "data: a\n\ndata: \n\ndata: .\n\ndata: [DONE]\n\n");
}

#[test]
fn a_request_that_says_nothing_gets_the_models_defaults() {
    let defaults = SamplingParams { temperature: 0.7, seed: Some(1), ..SamplingParams::default() };
    let server = Server::start(FakeModel { defaults, ..FakeModel::default() });
    // The fake says it in capitals where it samples with an odd seed.
    let content = |fields: Value| server.chat("hey", fields).json()["choices"][0]["message"]["content"].clone();
    assert_eq!(content(json!({"seed": 3})), "HEY");
    assert_eq!(content(json!({"seed": 3, "temperature": 0})), "hey");
}

#[test]
fn no_op_values_change_nothing() {
    let server = Server::start(FakeModel::default());
    let fields = json!({
        "logprobs": false, "top_logprobs": 0, "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {},
        "tools": [], "tool_choice": "none", "parallel_tool_calls": true, "response_format": {"type": "text"}, "n": 1,
        "store": false, "metadata": {}, "service_tier": "auto", "user": "someone", "seed": null, "stop": null,
        "stream": false, "stream_options": null, "top_k": -1, "top_p": 1, "min_p": 0, "reasoning_effort": null,
        "modalities": ["text"], "max_tokens": null, "best_of": 1, "repetition_penalty": 1.0,
    });
    assert_eq!(server.chat("hi", fields).json()["choices"][0]["message"]["content"], "hi");
    let fields = json!({"prompt": "hi<|reply|>", "echo": false, "suffix": "", "best_of": 1, "logprobs": null});
    assert_eq!(server.post("/v1/completions", &with(fields, json!({}))).json()["choices"][0]["text"], "hi");
}

#[test]
fn what_operators_ask() {
    let server = Server::start(FakeModel::default());
    let model = json!({
        "id": MODEL, "object": "model", "created": 1_700_000_000, "owned_by": "minisgl", "root": "/models/parrot",
        "max_model_len": 512,
    });
    assert_eq!(server.get("/v1/models").json(), json!({"object": "list", "data": [model]}));
    assert_eq!(server.get("/v1/models/parrot").json(), model);
    for method in ["GET", "POST", "OPTIONS"] {
        let reply = client::ask(server.address, method, "/v1");
        assert_eq!((reply.status, reply.json()), (200, json!({"status": "ok"})), "{method}");
    }
    let head = client::ask(server.address, "HEAD", "/v1");
    assert_eq!((head.status, head.text().as_str()), (200, ""));
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.get("/ready").status, 200);

    server.chat("hello", json!({})).text();
    let metrics = server.get("/metrics");
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = metrics.text();
    for series in [
        "minisgl_generation_tokens_total{engine=\"0\",model_name=\"parrot\"} 6",
        "minisgl_prompt_tokens_total{engine=\"0\",model_name=\"parrot\"} 7",
        "minisgl_request_success_total{engine=\"0\",finished_reason=\"stop\",model_name=\"parrot\"} 1",
        "minisgl_time_to_first_token_seconds_count{engine=\"0\",model_name=\"parrot\"} 1",
        "minisgl_inter_token_latency_seconds_count{engine=\"0\",model_name=\"parrot\"} 5",
        "minisgl_cache_config_info{block_size=\"4\",engine=\"0\",model_name=\"parrot\",num_gpu_blocks=\"256\"} 1",
    ] {
        assert!(text.contains(series), "{series} in\n{text}");
    }
}

#[test]
fn text_goes_on_where_a_prompt_ends_inside_a_character() {
    let server = Server::start(FakeModel::default());
    // The prompt ends with é's first byte; the model says the second.
    let body = with(json!({"prompt": [0xA9, 257, 0xC3], "max_tokens": 2}), json!({}));
    let answer = server.post("/v1/completions", &body).json();
    // One token was "said" already: what follows is the end.
    assert_eq!(answer["choices"][0]["text"], "\u{FFFD}");
    let body = with(json!({"prompt": [0x20, 0xA9, 257, 0xC3], "max_tokens": 1, "stream": false}), json!({}));
    assert_eq!(server.post("/v1/completions", &body).json()["choices"][0]["text"], "é");
    assert_eq!(server.post("/v1/completions", &with(json!({"prompt": [EOS, 257]}), json!({}))).status, 200);
}

#[test]
fn one_connection_serves_many_requests() {
    let server = Server::start(FakeModel::default());
    let body = super::with(json!({"prompt": "hi<|reply|>"}), json!({})).to_string();
    let request = |path: &str, more: &str| {
        format!("POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n{more}\r\n{body}", body.len())
    };
    let both = request("/v1/nothing", "") + &request("/v1/completions", "connection: close\r\n");
    let first = client::raw(server.address, both.as_bytes());
    assert_eq!(first.status, 404);
    let rest = first.text();
    assert!(rest.contains("HTTP/1.1 200 OK") && rest.contains("\"text\":\"hi\""), "{rest}");
}
