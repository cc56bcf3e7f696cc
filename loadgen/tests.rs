//! The whole generator against a scripted server on a real socket: counts and reasons, never wall-clock values.
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use minisgl_config::LengthRange;
use minisgl_config::loadgen::{LengthRules, ServerUrl, TraceSource, Workload};
use serde_json::{Value, json};

use super::*;

/// Answers each connection by what its request asks for; ends with the test.
struct Scripted {
    url: ServerUrl,
    /// Bodies of the chat requests so far.
    asked: Arc<Mutex<Vec<Value>>>,
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

impl Scripted {
    /// `answer` gets the request's body and the socket to write its whole response to.
    fn start(max_model_len: Option<usize>, answer: impl Fn(&Value, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap()).parse().unwrap();
        let (asked, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(answer));
        let server = Self { url, asked: asked.clone() };
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let (mut socket, asked, answer) = (socket.unwrap(), asked.clone(), answer.clone());
                socket.set_nodelay(true).unwrap();
                std::thread::spawn(move || match request(&socket) {
                    Some((path, body)) if path == "/v1/chat/completions" => {
                        asked.lock().unwrap().push(body.clone());
                        answer(&body, &mut socket);
                    }
                    Some((path, _)) if path == "/v1/models" => {
                        let list = json!({"data": [{"id": "scripted", "max_model_len": max_model_len}]}).to_string();
                        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length:";
                        write!(socket, "{head} {}\r\n\r\n{list}", list.len()).unwrap();
                    }
                    other => assert!(other.is_none(), "unexpected request {other:?}"),
                });
            }
        });
        server
    }

    fn settings(&self, workload: Workload) -> LoadgenSettings {
        LoadgenSettings { workload, ..LoadgenSettings::shipped(self.url.clone()) }
    }

    /// Runs `workload` with prompts of one letter a token.
    fn run(&self, workload: Workload) -> Vec<RunReport> {
        run_with(&self.settings(workload)).unwrap()
    }
}

fn letters() -> Prompts {
    let make =
        |n: usize, rng: &mut rng::SplitMix| Ok((0..n).map(|_| (b'a' + rng.between(0, 25) as u8) as char).collect());
    Prompts { name: "letters".to_owned(), make: Box::new(make) }
}

fn run_with(settings: &LoadgenSettings) -> Result<Vec<RunReport>, LoadgenError> {
    let console = ConsoleOptions::silent();
    let mut planned = workload::plan(&settings.workload, settings.seed, console)?;
    let session = Session::open(settings, console)?;
    session.fit(&mut planned)?;
    session.runs(&planned, &letters())
}

/// Path and JSON body of a request; nothing where the peer only tried the port.
fn request(socket: &TcpStream) -> Option<(String, Value)> {
    let mut reader = BufReader::new(socket.try_clone().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&n| n > 0)?;
    let path = line.split(' ').nth(1).unwrap().to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        match header.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().unwrap(),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    Some((path, if length == 0 { Value::Null } else { serde_json::from_slice(&body).unwrap() }))
}

fn event(json: Value) -> String {
    format!("data: {json}\n\n")
}

fn delta(delta: Value, finish: Value) -> String {
    event(json!({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}))
}

/// A good answer of the length asked for, a role-only delta first.
fn good(body: &Value) -> Vec<String> {
    let (n, prompt) = (body["max_tokens"].as_u64().unwrap(), body["messages"][0]["content"].as_str().unwrap());
    let mut events = vec![delta(json!({"role": "assistant", "content": ""}), Value::Null)];
    events.extend((0..n).map(|i| delta(json!({"content": if i % 3 == 1 { "" } else { "wörd" }}), Value::Null)));
    events.push(delta(json!({}), json!("length")));
    events.push(event(json!({"choices": [], "usage": {"prompt_tokens": prompt.len() + 7, "completion_tokens": n}})));
    events.push("data: [DONE]\n\n".to_owned());
    events
}

/// Writes every byte by itself, so that characters, events and line ends are cut everywhere.
fn trickle(socket: &mut TcpStream, bytes: &[u8]) {
    bytes.chunks(1).for_each(|byte| socket.write_all(byte).unwrap());
}

/// One piece in HTTP's chunked coding.
fn chunked(piece: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()
}

/// The answer that `max_tokens` chooses.
fn scripts(body: &Value, socket: &mut TcpStream) {
    let events = good(body);
    let all = events.concat();
    let cut = |n: usize, rest: &str| [OK, &events[..n].concat(), rest].concat().into_bytes();
    let head = |line: &str, rest: &str| format!("HTTP/1.1 {line}\r\nconnection: close\r\n{rest}").into_bytes();
    let chunked_head = OK.replace("connection: close", "transfer-encoding: chunked").into_bytes();
    let answer = match body["max_tokens"].as_u64().unwrap() {
        1 => return trickle(socket, &[OK, &all.replace('\n', "\r\n")].concat().into_bytes()),
        2 => return trickle(socket, &[OK, "\u{feff}: hi\n\n", &all].concat().into_bytes()),
        3 => {
            let pieces: Vec<u8> = all.as_bytes().chunks(11).flat_map(chunked).collect();
            [chunked_head, pieces, chunked(b"")].concat()
        }
        4 => cut(3, ""),
        5 => cut(3, "data: {\"choices\":[{\"delta\":{\"content\":\"w"),
        6 => [chunked_head, chunked(events[..3].concat().as_bytes())].concat(),
        7 => head("500 Internal Server Error", "\r\n{\"error\":{\"message\":\"kaput\"}}"),
        8 => head("429 Too Many Requests", "retry-after: 3\r\ncontent-length: 4\r\n\r\nbusy"),
        9 => cut(2, &event(json!({"error": {"message": "out of pages"}}))),
        10 => cut(2, "event: error\ndata: plain\n\n"),
        11 => cut(2, "data: {not json\n\n"),
        12 => head("200 OK", "content-type: application/json\r\n\r\n{}"),
        13 => cut(1, "data: [DONE]\n\n"),
        14 => Vec::new(),
        15 => cut(2, &"data: {\"choices\":[]}\n\n".repeat(2000)),
        _ => cut(events.len(), ""),
    };
    // A client that has seen enough may be gone.
    let _ = socket.write_all(&answer);
}

/// A trace whose requests all come at once, with these output lengths.
fn trace(outputs: impl IntoIterator<Item = usize>) -> (tempfile::NamedTempFile, Workload) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for output in outputs {
        let line = json!({"timestamp": 5, "input_length": 10, "output_length": output, "hash_ids": [1]});
        writeln!(file, "{line}").unwrap();
    }
    let source = TraceSource::File(file.path().to_owned());
    let workload = Workload::Trace { source, time_scales: vec![1.0], limit: None, lengths: LengthRules::default() };
    (file, workload)
}

#[test]
fn every_answer_is_counted_under_its_own_reason() {
    let server = Scripted::start(None, scripts);
    let (_file, workload) = trace([1, 2, 20, 30].into_iter().chain(4..=15));
    let report = server.run(workload).remove(0);
    let expected = [
        ("HTTP 429", 1),
        ("HTTP 500", 1),
        ("endless stream", 1),
        ("error event", 2),
        ("no response", 1),
        ("no token", 1),
        ("not an event stream", 1),
        ("stream ended early", 3),
        ("unreadable event", 1),
    ];
    assert_eq!(report.failures, BTreeMap::from(expected.map(|(reason, n)| (reason.to_owned(), n))));
    assert_eq!((report.completed, report.failed, report.requests), (4, 12, 16));
    assert_eq!((report.output_tokens, report.output_tokens_by, report.output_token_mismatch), (53, "usage", 0));
    assert_eq!((report.input_tokens, report.template_tokens, report.prompt_token_mismatch), (40, Some(7), 0));
    assert_eq!(report.tokens_per_chunk, Some(1.0));
    assert_eq!(report.failure_examples["HTTP 500"], "kaput");
    assert_eq!(report.failure_examples["HTTP 429"], "busy (Retry-After: 3)");
    assert!(report.max_in_flight >= 1 && report.max_in_flight <= 16 && report.max_queued <= report.max_in_flight);
    assert!(report.ttft_ms.is_some() && report.itl_ms.is_some() && report.schedule_lag_ms.is_some());
    assert!(!report.exit_ok());
}

#[test]
fn a_chunked_answer_cut_anywhere_is_whole() {
    let server = Scripted::start(None, scripts);
    let (_file, workload) = trace([3, 3]);
    let report = server.run(workload).remove(0);
    assert_eq!((report.completed, report.output_tokens, &report.failures), (2, 6, &BTreeMap::new()));
}

#[test]
fn each_run_of_a_trace_has_fresh_prompts_and_the_same_command_the_same() {
    let server = Scripted::start(None, scripts);
    let workload = || Workload::Trace {
        source: TraceSource::Shipped,
        time_scales: vec![0.0, 0.001],
        limit: Some(12),
        lengths: LengthRules { output_scale: 10.0, ..LengthRules::default() },
    };
    let reports = server.run(workload());
    assert_eq!(
        reports.iter().map(|r| (r.completed, r.about.time_scale)).collect::<Vec<_>>(),
        [(12, Some(0.0)), (12, Some(0.001))]
    );
    let contents = |asked: Vec<Value>| -> std::collections::BTreeSet<String> {
        asked.iter().map(|body| body["messages"][0]["content"].as_str().unwrap().to_owned()).collect()
    };
    let first = contents(std::mem::take(&mut *server.asked.lock().unwrap()));
    assert_eq!(first.len(), 24, "no prompt twice");
    server.run(workload());
    assert_eq!(contents(std::mem::take(&mut *server.asked.lock().unwrap())), first);
}

#[test]
fn a_closed_loop_keeps_its_number_in_flight() {
    let server = Scripted::start(None, scripts);
    let length = |text: &str| text.parse::<LengthRange>().unwrap();
    let report = server
        .run(Workload::Closed {
            concurrency: 3,
            num_requests: 12,
            input_len: length("5-40"),
            output_len: length("20-30"),
        })
        .remove(0);
    assert_eq!((report.completed, report.failed), (12, 0));
    assert!(report.max_in_flight <= 3 && report.schedule_lag_ms.is_none() && report.exit_ok());
    let asked = server.asked.lock().unwrap();
    assert!(asked.iter().all(|body| (20..=30).contains(&body["max_tokens"].as_u64().unwrap())));
}

#[test]
fn simple_tests_the_connection_and_fits_the_model() {
    let workload = || Workload::Simple {
        num_requests: 8,
        input_len: LengthRange::new(1, 8192).unwrap(),
        output_len: LengthRange::new(200, 1024).unwrap(),
        lengths: LengthRules::default(),
    };
    let server = Scripted::start(Some(464), |body, socket| {
        socket.write_all([OK, &good(body).concat()].concat().as_bytes()).unwrap();
    });
    let report = server.run(workload()).remove(0);
    assert_eq!(report.completed, 8);
    let asked = server.asked.lock().unwrap();
    let lengths = |body: &Value| {
        (body["messages"][0]["content"].as_str().unwrap().len(), body["max_tokens"].as_u64().unwrap() as usize)
    };
    assert_eq!((asked.len(), lengths(&asked[0])), (9, (100, 2)));
    assert!(asked[1..].iter().map(lengths).all(|(input, output)| input + output <= 400 && output >= 200));

    let broken =
        Scripted::start(None, |_, socket| socket.write_all(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").unwrap());
    let error = run_with(&broken.settings(workload())).unwrap_err().to_string();
    assert!(error.contains("connection test") && error.contains("HTTP 503"), "{error}");
}

#[test]
fn a_server_that_stalls_is_a_timeout() {
    // Waits until the client gives up.
    let server = Scripted::start(None, |body, socket| {
        socket.write_all([OK, &good(body)[..3].concat()].concat().as_bytes()).unwrap();
        let _ = socket.read_to_end(&mut Vec::new());
    });
    let (_file, workload) = trace([20, 20]);
    let settings = LoadgenSettings { timeout: Duration::from_millis(100), ..server.settings(workload) };
    let report = run_with(&settings).unwrap().remove(0);
    assert_eq!(report.failures, BTreeMap::from([("timeout".to_owned(), 2)]));
    assert!(report.output_tok_s == Some(0.0) && report.ttft_ms.is_none());
}

#[test]
fn a_server_that_is_gone_is_counted_and_one_that_never_was_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url: ServerUrl = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let target = runtime.block_on(Target::find(&url)).unwrap();
    drop(listener);
    let job = Job {
        target: &target,
        arrivals: &Arrivals::Closed(1),
        lengths: &[Lengths { input: 1, output: 1 }],
        bodies: vec![Bytes::from_static(b"{}")],
        timeout: Duration::from_secs(60),
    };
    let ledger = run::execute(&runtime, job, ConsoleOptions::silent());
    assert_eq!(ledger.records[0].failure.as_ref().unwrap().reason.to_string(), "connect: connection refused");

    let error = run(LoadgenSettings::shipped(url.clone()), ConsoleOptions::silent()).unwrap_err().to_string();
    assert!(error.contains(&url.to_string()) && error.contains("minisgl serve"), "{error}");
}

#[test]
fn inputs_are_checked_before_any_connection() {
    let url: ServerUrl = "http://127.0.0.1:9".parse().unwrap();
    let workload = |path: &std::path::Path| Workload::Trace {
        source: TraceSource::File(path.to_owned()),
        time_scales: vec![1.0],
        limit: None,
        lengths: LengthRules::default(),
    };
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("bad.jsonl");
    std::fs::write(&bad, "{\"chat_id\": 1, \"timestamp\": -5}").unwrap();
    let settings = LoadgenSettings { workload: workload(&bad), ..LoadgenSettings::shipped(url.clone()) };
    let error = run(settings, ConsoleOptions::silent()).unwrap_err().to_string();
    assert!(error.contains("bad.jsonl:1: field `parent_chat_id` is missing"), "{error}");

    let unwritable = JsonOutput::File(folder.path().join("none/r.json"));
    let settings = LoadgenSettings { json: Some(unwritable), ..LoadgenSettings::shipped(url) };
    let error = run(settings, ConsoleOptions::silent()).unwrap_err().to_string();
    assert!(error.contains("none/r.json: cannot write it"), "{error}");
}
