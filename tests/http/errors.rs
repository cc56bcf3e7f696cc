//! What is refused: the status, OpenAI's body, and the field that it names.
use serde_json::{Value, json};

use super::{Server, client, with};
use crate::fake::FakeModel;

/// Checks the envelope; its `(status, type, param, code)`.
fn refused(reply: client::Reply) -> (u16, Value, Value, Value) {
    let status = reply.status;
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let body = reply.json();
    let error = body["error"].as_object().unwrap_or_else(|| panic!("an error in {body}"));
    assert_eq!(error.keys().collect::<Vec<_>>(), ["message", "type", "param", "code"]);
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()));
    (status, error["type"].clone(), error["param"].clone(), error["code"].clone())
}

fn bad(param: &str, code: &str) -> (u16, Value, Value, Value) {
    (400, json!("invalid_request_error"), json!(param), json!(code))
}

#[test]
fn a_bad_field_is_a_400_that_names_it() {
    let server = Server::start(FakeModel::default());
    let (kind, value, unknown, unsupported) =
        ("invalid_type", "invalid_value", "unknown_parameter", "unsupported_parameter");
    for (fields, param, code) in [
        (json!({"temperature": 2.1}), "temperature", value),
        (json!({"temperature": -0.1}), "temperature", value),
        (json!({"temperature": "1"}), "temperature", kind),
        (json!({"top_p": 0}), "top_p", value),
        (json!({"top_p": 1.5}), "top_p", value),
        (json!({"top_k": -2}), "top_k", value),
        (json!({"top_k": 1.5}), "top_k", kind),
        (json!({"min_p": 2}), "min_p", value),
        (json!({"n": 0}), "n", value),
        (json!({"n": 17}), "n", value),
        (json!({"n": -1}), "n", kind),
        (json!({"n": true}), "n", kind),
        (json!({"max_tokens": 0}), "max_tokens", value),
        (json!({"max_completion_tokens": 0}), "max_completion_tokens", value),
        (json!({"max_tokens": 3, "max_completion_tokens": 4}), "max_tokens", value),
        (json!({"max_tokens": "3"}), "max_tokens", kind),
        (json!({"seed": 1.5}), "seed", kind),
        (json!({"stop": ""}), "stop", value),
        (json!({"stop": ["a", ""]}), "stop", value),
        (json!({"stop": ["a", 1]}), "stop[1]", kind),
        (json!({"stop": 1}), "stop", kind),
        (json!({"stream": "yes"}), "stream", kind),
        (json!({"stream_options": {"include_usage": true}}), "stream_options", value),
        (json!({"stream": true, "stream_options": {"include_usage": 1}}), "stream_options.include_usage", kind),
        (json!({"stream": true, "stream_options": {"often": true}}), "stream_options.often", unknown),
        (json!({"ignore_eos": 1}), "ignore_eos", kind),
        (json!({"input_length_override": -1}), "input_length_override", kind),
        (json!({"temprature": 1}), "temprature", unknown),
        (json!({"logprobs": true}), "logprobs", unsupported),
        (json!({"top_logprobs": 3}), "top_logprobs", unsupported),
        (json!({"frequency_penalty": 0.5}), "frequency_penalty", unsupported),
        (json!({"presence_penalty": -1}), "presence_penalty", unsupported),
        (json!({"logit_bias": {"5": 1}}), "logit_bias", unsupported),
        (json!({"tools": [{"type": "function"}]}), "tools", unsupported),
        (json!({"response_format": {"type": "json_object"}}), "response_format", unsupported),
        (json!({"service_tier": "flex"}), "service_tier", unsupported),
        (json!({"prompt": "and a prompt"}), "prompt", value),
        (json!({"messages": "hi"}), "messages", kind),
        (json!({"messages": []}), "messages", value),
        (json!({"messages": null}), "messages", "missing_required_parameter"),
        (json!({"messages": ["hi"]}), "messages[0]", kind),
        (json!({"messages": [{"content": "hi"}]}), "messages[0].role", "missing_required_parameter"),
        (json!({"messages": [{"role": "king", "content": "hi"}]}), "messages[0].role", value),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content", "missing_required_parameter"),
        (json!({"messages": [{"role": "user", "content": 5}]}), "messages[0].content", kind),
        (json!({"messages": [{"role": "user", "content": []}]}), "messages[0].content", value),
        (json!({"messages": [{"role": "user", "content": "hi", "mood": 1}]}), "messages[0].mood", unknown),
        (
            json!({"messages": [{"role": "tool", "content": "4"}]}),
            "messages[0].tool_call_id",
            "missing_required_parameter",
        ),
        (
            json!({"messages": [{"role": "user", "content": "4", "tool_call_id": "x"}]}),
            "messages[0].tool_call_id",
            value,
        ),
        (json!({"messages": [{"role": "user", "content": "refuse"}]}), "messages", "invalid_prompt"),
    ] {
        let said = fields.to_string();
        assert_eq!(refused(server.chat("hi", fields)), bad(param, code), "{said}");
    }
    let image = json!([
        {"role": "user", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "image_url", "image_url": {"url": "x"}}]},
    ]);
    assert_eq!(
        refused(server.chat("hi", json!({ "messages": image }))),
        bad("messages[1].content[1].type", "unsupported_value")
    );
}

#[test]
fn a_bad_completion_names_its_field_too() {
    let server = Server::start(FakeModel::default());
    for (fields, param, code) in [
        (json!({}), "prompt", "missing_required_parameter"),
        (json!({"prompt": 5}), "prompt", "invalid_type"),
        (json!({"prompt": []}), "prompt", "invalid_value"),
        (json!({"prompt": ["a", 1]}), "prompt[1]", "invalid_type"),
        (json!({"prompt": [1, "a"]}), "prompt[1]", "invalid_type"),
        (json!({"prompt": [[1], [1.5]]}), "prompt[1][0]", "invalid_type"),
        (json!({"prompt": [-1]}), "prompt[0]", "invalid_type"),
        (json!({"prompt": [null]}), "prompt[0]", "invalid_type"),
        (json!({"prompt": ""}), "prompt", "invalid_prompt"),
        (json!({"prompt": [[]]}), "prompt", "invalid_prompt"),
        (json!({"prompt": [259]}), "prompt", "invalid_prompt"),
        (json!({"prompt": "x".repeat(512)}), "prompt", "context_length_exceeded"),
        (json!({"prompt": "x".repeat(300_000)}), "prompt", "context_length_exceeded"),
        (json!({"prompt": vec!["x"; 17]}), "prompt", "invalid_value"),
        (json!({"prompt": ["x", "y"], "n": 9}), "prompt", "invalid_value"),
        (json!({"prompt": "x", "n": 17}), "n", "invalid_value"),
        (json!({"prompt": "x", "echo": true}), "echo", "unsupported_parameter"),
        (json!({"prompt": "x", "logprobs": 1}), "logprobs", "unsupported_parameter"),
        (json!({"prompt": "x", "suffix": "y"}), "suffix", "unsupported_parameter"),
        (json!({"prompt": "x", "best_of": 2}), "best_of", "unsupported_parameter"),
        (json!({"prompt": "x", "messages": []}), "messages", "unknown_parameter"),
    ] {
        let said: String = fields.to_string().chars().take(100).collect();
        assert_eq!(refused(server.post("/v1/completions", &with(json!({}), fields))), bad(param, code), "{said}");
    }
    for (body, param, code) in [
        (json!({"prompt": "x"}), "max_tokens", "missing_required_parameter"),
        (json!({"prompt": "x", "max_tokens": 0}), "max_tokens", "invalid_value"),
        (json!({"max_tokens": 1}), "prompt", "missing_required_parameter"),
        (json!({"prompt": "x", "max_tokens": 1, "temperature": 1}), "temperature", "unknown_parameter"),
    ] {
        assert_eq!(refused(server.post("/generate", &body)), bad(param, code), "{body}");
    }
}

#[test]
fn a_prompt_must_leave_room_for_a_token() {
    let mut model = FakeModel::default();
    // 5 pages of 4 tokens: less than the context. The last token needs no place.
    model.capacity.pages = 5;
    let server = Server::start(model);
    let reply = |n: usize| server.post("/v1/completions", &with(json!({"prompt": "x".repeat(n)}), json!({})));
    assert_eq!(refused(reply(21)), bad("prompt", "context_length_exceeded"));
    let answer = reply(20).json();
    assert_eq!(
        (&answer["usage"]["completion_tokens"], &answer["choices"][0]["finish_reason"]),
        (&json!(1), &json!("length"))
    );
    let metrics = server.get("/metrics").text();
    assert!(metrics.contains("reason=\"prompt_too_long\"} 1"), "{metrics}");
}

#[test]
fn unknown_models_paths_and_methods() {
    let server = Server::start(FakeModel::default());
    let model = (404, json!("invalid_request_error"), json!("model"), json!("model_not_found"));
    assert_eq!(refused(server.chat("hi", json!({"model": "gpt-4"}))), model);
    assert_eq!(refused(server.post("/v1/completions", &json!({"model": "gpt-4", "prompt": "x"}))), model);
    assert_eq!(refused(server.get("/v1/models/org/other")), model);
    let reply = server.post("/v1/completions", &json!({"prompt": "x"}));
    assert_eq!(refused(reply), bad("model", "missing_required_parameter"));
    let (status, _, param, code) = refused(server.get("/v2/chat"));
    assert_eq!((status, param, code), (404, json!(null), json!("unknown_url")));
    let reply = server.get("/v1/chat/completions");
    assert_eq!(reply.header("allow"), Some("POST"));
    let (status, _, param, code) = refused(reply);
    assert_eq!((status, param, code), (405, json!(null), json!("method_not_supported")));
    assert_eq!(refused(client::ask(server.address, "DELETE", "/metrics")).0, 405);
}

#[test]
fn a_body_that_is_not_json_says_where() {
    let server = Server::start(FakeModel::default());
    for (body, word) in [
        ("{\"model\": \"parrot\",\n \"messages\": }", "line 2 column 14"),
        ("", "line 1 column 0"),
        ("[]", "an array"),
        ("{\"model\": \"\\ud800\"}", "hex escape"),
    ] {
        let reply = client::post_text(server.address, "/v1/chat/completions", body);
        assert_eq!(reply.status, 400);
        let error = reply.json();
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(word), "{body}: {message}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(client::post_text(server.address, "/v1/completions", &deep).status, 400);
    // Large and bad: parsed elsewhere, answered the same.
    let large = format!("{{\"model\": \"parrot\", \"prompt\": \"{}\", \"echo\": true}}", "x".repeat(1 << 20));
    assert_eq!(
        refused(client::post_text(server.address, "/v1/completions", &large)),
        bad("echo", "unsupported_parameter")
    );
}

#[test]
fn a_body_that_is_too_large_is_a_413() {
    let server = Server::start(FakeModel::default());
    let over = (64 << 20) + 1;
    let head =
        |more: &str| format!("POST /v1/completions HTTP/1.1\r\nhost: test\r\ncontent-length: {over}\r\n{more}\r\n");
    // A client that asks first is told first.
    let asked = client::raw(server.address, head("expect: 100-continue\r\nconnection: close\r\n").as_bytes());
    assert_eq!(refused(asked).0, 413);
    // One that does not can finish writing, and then hears it.
    let mut whole = head("connection: close\r\n").into_bytes();
    whole.resize(whole.len() + over, b' ');
    let (status, kind, _, code) = refused(client::raw(server.address, &whole));
    assert_eq!((status, kind, code), (413, json!("invalid_request_error"), json!("body_too_large")));
}
