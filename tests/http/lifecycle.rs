//! Loading, full queues, clients that leave, an engine that breaks, and the drain.
use std::time::Duration;

use serde_json::json;

use super::{Server, client, wait_until};
use crate::fake::{FakeModel, assert_no_page_lost, value};

/// A stream that has been accepted and stays, since the gate is shut.
fn held_stream(server: &Server) -> client::Reply {
    let reply = server.chat("hello", json!({"stream": true, "max_tokens": 100, "ignore_eos": true}));
    assert_eq!(reply.status, 200);
    reply
}

fn ended(server: &Server, reason: &str) -> f64 {
    value(&server.metrics, "request_success_total", &[&format!("finished_reason=\"{reason}\"")])
}

#[test]
fn until_the_model_is_loaded_requests_get_503() {
    let (go, wait) = flume::bounded::<()>(1);
    let load = move || {
        wait.recv().expect("told to load");
        Ok(FakeModel::default())
    };
    let mut server = Server::loading(load, Duration::from_secs(60));
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.get("/ready").status, 503);
    assert_eq!(server.get("/metrics").status, 200);
    assert_eq!(server.get("/v1").status, 200);
    assert_eq!(server.get("/v1/models").status, 503);
    let reply = server.chat("hello", json!({}));
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("5")));
    let error = reply.json();
    assert!(error["error"]["message"].as_str().unwrap().contains("loading"), "{error}");
    assert_eq!(value(&server.metrics, "admission_rejections_total", &["loading"]), 2.0);
    go.send(()).unwrap();
    server.permits = Some(server.loaded.recv().unwrap());
    assert_eq!(server.get("/ready").status, 200);
    assert_eq!(server.chat("hello", json!({})).status, 200);
}

#[test]
fn a_model_that_does_not_load_ends_the_server() {
    let mut server = Server::loading(|| Err("no such file".into()), Duration::from_secs(60));
    assert_eq!(server.join(), Err("no such file".into()));
}

#[test]
fn a_signal_ends_a_load() {
    let (never, wait) = flume::bounded::<()>(1);
    let load = move || {
        let _ = wait.recv();
        Err("never loaded".into())
    };
    let mut server = Server::loading(load, Duration::from_secs(60));
    server.stop.blocking_send(()).unwrap();
    assert_eq!(server.join(), Ok(()));
    drop(never);
}

#[test]
fn more_than_the_permits_is_a_429_until_one_is_free() {
    // 8 slots and 8 places to wait.
    let server = Server::start(FakeModel::held());
    let mut streams: Vec<_> = (0..16).map(|_| held_stream(&server)).collect();
    let reply = server.chat("hello", json!({}));
    assert_eq!((reply.status, reply.header("retry-after")), (429, Some("1")));
    let error = reply.json();
    assert_eq!((&error["error"]["type"], &error["error"]["code"]), (&json!("rate_limit_error"), &json!("queue_full")));
    assert_eq!(value(&server.metrics, "admission_rejections_total", &["queue_full"]), 1.0);
    assert_eq!(server.get("/ready").status, 200, "full is not unready");

    drop(streams.pop());
    wait_until(|| server.permits.as_ref().unwrap().taken() < 16);
    streams.push(held_stream(&server));
    server.gate.open();
    for stream in streams {
        assert_eq!(stream.chunks().len(), 101);
    }
}

#[test]
fn a_client_that_leaves_frees_its_permit_and_its_pages() {
    let server = Server::start(FakeModel::held());
    let stream = held_stream(&server);
    // This one waits for its whole answer.
    let address = server.address;
    let body = super::with(json!({"messages": [{"role": "user", "content": "x"}], "n": 3}), json!({}));
    let text = body.to_string();
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n", text.len());
    let mut waits = std::net::TcpStream::connect(address).unwrap();
    std::io::Write::write_all(&mut waits, (head + &text).as_bytes()).unwrap();
    wait_until(|| server.permits.as_ref().unwrap().taken() == 4);

    drop(stream);
    drop(waits);
    wait_until(|| ended(&server, "abort") == 4.0);
    server.gate.open();
    server.wait_idle();
    assert_eq!(ended(&server, "length") + ended(&server, "stop"), 0.0, "nobody was left to finish for");
    // Dropping the server checks that every page came back.
}

#[test]
fn an_engine_that_breaks_fails_what_runs_and_unreadies_the_server() {
    let server = Server::start(FakeModel::held());
    let streamed = held_stream(&server);
    let whole = std::thread::scope(|scope| {
        let whole = scope.spawn(|| server.chat("hello", json!({})));
        wait_until(|| server.permits.as_ref().unwrap().taken() == 2);
        server.gate.break_engine();
        whole.join().unwrap()
    });
    // Before the first byte a failure is a status; after it, an event.
    assert_eq!(whole.status, 500);
    let error = whole.json();
    assert!(error["error"]["message"].as_str().unwrap().contains("err-"), "{error}");
    let events = streamed.events();
    assert!(events.last().unwrap().starts_with("{\"error\":{\"message\":"), "{events:?}");
    assert_eq!(ended(&server, "error"), 2.0);

    assert_eq!(server.get("/ready").status, 503);
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.chat("hello", json!({})).status, 503);
    let mut server = server;
    server.stop.blocking_send(()).unwrap();
    assert_eq!(server.join(), Ok(()));
}

#[test]
fn a_drain_finishes_what_is_in_flight_and_takes_no_more() {
    let mut server = Server::start(FakeModel::held());
    let stream = held_stream(&server);
    server.drain();
    let reply = server.chat("hello", json!({}));
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("5")));
    assert_eq!(server.get("/ready").status, 503);
    assert_eq!(server.get("/health").status, 200, "alive until the end");
    server.gate.open();
    let chunks = stream.chunks();
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "length");
    assert_eq!(server.join(), Ok(()));
    assert_no_page_lost(&server.metrics);
    assert_eq!(value(&server.metrics, "admission_rejections_total", &["draining"]), 1.0);
    assert!(std::net::TcpStream::connect(server.address).is_err(), "the listener is closed at the end");
}

/// Reads what still comes of a stream that is cut, which is no whole stream.
fn assert_cut(mut stream: client::Reply) {
    let rest = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        std::iter::from_fn(|| stream.chunk()).collect::<String>()
    }));
    assert!(!rest.is_ok_and(|rest| rest.contains("[DONE]")));
}

#[test]
fn a_drain_that_takes_too_long_cancels_the_rest() {
    let mut server = Server::loading(|| Ok(FakeModel::held()), Duration::ZERO);
    server.loaded.recv().unwrap();
    let stream = held_stream(&server);
    server.stop.blocking_send(()).unwrap();
    wait_until(|| ended(&server, "abort") == 1.0);
    server.gate.open();
    assert_eq!(server.join(), Ok(()));
    assert_cut(stream);
    assert_no_page_lost(&server.metrics);
}

#[test]
fn a_second_signal_cancels_at_once() {
    let mut server = Server::start(FakeModel::held());
    let stream = held_stream(&server);
    server.drain();
    server.stop.blocking_send(()).unwrap();
    wait_until(|| ended(&server, "abort") == 1.0);
    server.gate.open();
    assert_eq!(server.join(), Ok(()));
    assert_cut(stream);
    assert_no_page_lost(&server.metrics);
}
