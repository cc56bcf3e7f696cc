//! Runs against a small server in this process: turns that fail, runs that are interrupted, TLS of an authority of one's
//! own. Counts and reasons, never times.
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use minisgl_config::loadgen::ServerUrl;
use minisgl_config::loadgen::settings::CaCert;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned, crypto};

use super::*;
use crate::client::{HeadOptions, Trust};
use crate::lengths::Lengths;

const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n\
    data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"},\"finish_reason\":null}]}\n\n\
    data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
/// The same, and the connection stays.
const KEPT: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n\
    51\r\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"},\"finish_reason\":\"stop\"}]}\n\n\r\n\
    e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
const BROKEN: &str = "HTTP/1.1 500 Oh\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const MODELS: &str = "HTTP/1.1 200 OK\r\ncontent-length: 11\r\nconnection: close\r\n\r\n{\"data\":[]}";

/// A server that answers a body with `fail` in it by 500, and one with `stall` never.
struct Small {
    url: ServerUrl,
    /// Bodies in the order of their arrival.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Small {
    fn start(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (scheme, port) = (if tls.is_some() { "https" } else { "http" }, listener.local_addr().unwrap().port());
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let seen = asked.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let (seen, tls) = (seen.clone(), tls.clone());
                std::thread::spawn(move || match tls {
                    None => answer(BufReader::new(socket), &seen),
                    Some(config) => {
                        let session = ServerConnection::new(config).unwrap();
                        answer(BufReader::new(StreamOwned::new(session, socket)), &seen);
                    }
                });
            }
        });
        Self { url: format!("{scheme}://localhost:{port}").parse().unwrap(), asked }
    }

    fn run(&self, jobs: Vec<Job>, trust: &Trust, interrupt: &Interrupt) -> Ledger {
        self.run_on(true, jobs, trust, interrupt)
    }

    fn run_on(&self, keep_alive: bool, jobs: Vec<Job>, trust: &Trust, interrupt: &Interrupt) -> Ledger {
        let head = HeadOptions { path: "/v1/chat/completions", api_key: None, headers: &[], keep_alive };
        execute(RunOptions {
            target: &Target::find(&self.url, head, trust).unwrap(),
            endpoint: Endpoint::Chat,
            jobs,
            places: None,
            until: None,
            more: None,
            timeout: Duration::from_secs(60),
            threads: 1,
            keep_tics: false,
            counters: Arc::default(),
            interrupt,
        })
        .unwrap()
    }
}

/// Answers the requests of a connection; a client that only tries the port or refuses the certificate sends none.
fn answer<S: Read + Write>(mut socket: BufReader<S>, seen: &Mutex<Vec<String>>) {
    while answer_one(&mut socket, seen) {}
}

/// Whether the connection stays.
fn answer_one<S: Read + Write>(socket: &mut BufReader<S>, seen: &Mutex<Vec<String>>) -> bool {
    let (mut first, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if socket.read_line(&mut line).unwrap_or(0) == 0 {
            return false;
        }
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
        match line.trim().is_empty() {
            true => break,
            false if first.is_empty() => first = line,
            false => {}
        }
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body).unwrap();
    let body = String::from_utf8(body).unwrap();
    if body.contains("stall") {
        seen.lock().unwrap().push(body);
        // Until the client leaves.
        let _ = socket.read(&mut [0]);
        return false;
    }
    let stays = body.contains("stay");
    let said = match first.starts_with("GET") {
        true => MODELS,
        false if body.contains("fail") => BROKEN,
        false if body.contains("kept") => KEPT,
        false => STREAM,
    };
    if !body.is_empty() {
        seen.lock().unwrap().push(body);
    }
    // A client that has gone is nobody's loss.
    let _ = socket.get_mut().write_all(said.as_bytes()).and_then(|()| socket.get_mut().flush());
    stays
}

fn job(start: Start, body: Body) -> Job {
    let lengths = Lengths { input: 1, output: 1 };
    Job { start, body, lengths, cancel_after: None, class: 0, keep_answer: false }
}

fn at_once(body: &str) -> Job {
    job(Start::At(Duration::ZERO), Body::Whole(Bytes::from(body.to_owned())))
}

fn after(parent: usize, name: &str) -> Job {
    let pieces = vec![Piece::Json(Bytes::from(format!("{name} "))), Piece::AnswerOf(parent)];
    job(Start::After { parent, delay: Duration::ZERO, not_before: Duration::ZERO }, Body::Quoting(pieces))
}

#[test]
fn a_turn_whose_parent_failed_is_never_sent() {
    let server = Small::start(None);
    // A chat of three turns that breaks at its first, and one of two that does not.
    let jobs = vec![at_once("fail"), after(0, "second"), after(1, "third"), at_once("fine"), after(3, "next")];
    let ledger = server.run(jobs, &Trust::default(), &Interrupt::never());
    let reasons: Vec<Option<Reason>> =
        ledger.records.iter().map(|record| record.failure().map(|failure| failure.reason.clone())).collect();
    let parent = Some(Reason::Parent);
    assert_eq!(reasons, [Some(Reason::Status(500)), parent.clone(), parent, None, None]);
    assert_eq!(ledger.records[2].turn, 3);
    assert!(ledger.records[..3].iter().map(Record::was_sent).eq([true, false, false]));
    let mut asked = server.asked.lock().unwrap().clone();
    asked.sort();
    assert_eq!(asked, ["fail", "fine", "next hi"]);
}

#[test]
fn an_interrupted_run_keeps_what_completed() {
    let server = Small::start(None);
    let hour = job(Start::At(Duration::from_secs(3600)), Body::Whole(Bytes::from_static(b"never")));
    let jobs = vec![at_once("fine"), at_once("stall"), after(1, "next"), hour];
    let interrupt = Interrupt::never();
    let ledger = std::thread::scope(|scope| {
        scope.spawn(|| {
            // Both are there, and the first is over soon after.
            while server.asked.lock().unwrap().len() < 2 {
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(Duration::from_millis(300));
            interrupt.ask();
        });
        server.run(jobs, &Trust::default(), &interrupt)
    });
    assert_eq!(ledger.interrupted, Some(Interrupted { left: 1, unsent: 2 }));
    let ends: Vec<&End> = ledger.records.iter().map(|record| &record.end).collect();
    assert_eq!(ends, [&End::Completed, &End::Cancelled]);
}

/// What trusts the authority of a certificate.
fn trusting(pem: &str) -> Trust {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, pem).unwrap();
    Trust::open(Some(&CaCert { path, named_by: "--ca-cert" })).unwrap()
}

#[test]
fn a_connection_carries_the_next_request() {
    let (pem, config) = authority();
    let trusting = trusting(&pem);
    let opened = |server: &Small, keep_alive, says: [&str; 3]| {
        // One after the other: a turn waits for the one before it.
        let mut jobs = vec![at_once(says[0])];
        jobs.extend((0..2).map(|parent| after(parent, says[parent + 1])));
        let ledger = server.run_on(keep_alive, jobs, &trusting, &Interrupt::never());
        assert!(ledger.records.iter().all(Record::is_completed), "{:?}", ledger.records);
        ledger.connections
    };
    for tls in [None, Some(config)] {
        let server = Small::start(tls);
        assert_eq!(opened(&server, true, ["kept stay"; 3]), Some(1));
        assert_eq!(opened(&server, false, ["kept stay"; 3]), Some(3));
        // A body that ends with the connection, and one whose head says that it will be closed.
        assert_eq!(opened(&server, true, ["kept stay", "stream", "kept stay"]), Some(2));
    }
}

#[test]
fn a_connection_that_the_server_closed_is_not_used() {
    let server = Small::start(None);
    // It answers as if the connection stayed, and closes it.
    let later = job(Start::At(Duration::from_millis(400)), Body::Whole(Bytes::from_static(b"kept stay")));
    let ledger = server.run(vec![at_once("kept"), later], &Trust::default(), &Interrupt::never());
    assert!(ledger.records.iter().all(Record::is_completed), "{:?}", ledger.records);
    assert_eq!(ledger.connections, Some(2));
}

/// An authority's certificate in PEM, and a server of a certificate that it signed for `localhost`.
fn authority() -> (String, Arc<ServerConfig>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let own = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&own, &issuer).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    (pem, Arc::new(config))
}

#[test]
fn https_trusts_whom_it_was_told_to_and_nobody_else() {
    let (pem, config) = authority();
    let server = Small::start(Some(config));
    let trusting = trusting(&pem);
    let jobs = || (0..3).map(|i| at_once(&format!("fine {i}"))).collect::<Vec<_>>();
    let ledger = server.run(jobs(), &trusting, &Interrupt::never());
    assert!(ledger.records.iter().all(Record::is_completed), "{:?}", ledger.records);
    let models = format!("{}/v1/models", server.url);
    let asked = |trust: &Trust| trust.agent(Duration::from_secs(60)).get(&models).call().map(|answer| answer.status());
    assert!(asked(&trusting).unwrap().is_success());

    // The public authorities have not signed for it.
    assert!(asked(&Trust::default()).is_err());
    let before = server.asked.lock().unwrap().len();
    let ledger = server.run(jobs(), &Trust::default(), &Interrupt::never());
    for record in &ledger.records {
        let failure = record.failure().expect("it does not trust the server");
        assert!(matches!(&failure.reason, Reason::Connect(why) if why.contains("certificate")), "{failure:?}");
    }
    assert_eq!(server.asked.lock().unwrap().len(), before, "nothing was sent");
    let (_, other) = authority();
    assert!(!Small::start(Some(other)).run(jobs(), &trusting, &Interrupt::never()).records[0].is_completed());
}

#[test]
fn a_loop_that_ends_by_time_asks_for_more_as_long_as_it_lasts() {
    let server = Small::start(None);
    let made = Arc::new(AtomicUsize::new(0));
    let counted = made.clone();
    let more: More<'_> = Box::new(move |n| {
        counted.fetch_add(n, Relaxed);
        (0..n).map(|i| job(Start::WhenFree, Body::Whole(Bytes::from(format!("more {i}"))))).collect()
    });
    let head = HeadOptions { path: "/v1/chat/completions", api_key: None, headers: &[], keep_alive: true };
    let until = Duration::from_secs(1);
    let ledger = execute(RunOptions {
        target: &Target::find(&server.url, head, &Trust::default()).unwrap(),
        endpoint: Endpoint::Chat,
        jobs: vec![job(Start::WhenFree, Body::Whole(Bytes::from_static(b"first")))],
        places: Some(Places { count: 2, ramp: Duration::ZERO }),
        until: Some(until),
        more: Some(more),
        timeout: Duration::from_secs(60),
        threads: 1,
        keep_tics: false,
        counters: Arc::default(),
        interrupt: &Interrupt::never(),
    })
    .unwrap();
    // However slow the machine: more were sent than were there at first, and none after the time.
    assert!(ledger.records.len() > 1 && ledger.records.len() <= made.load(Relaxed) + 1, "{}", ledger.records.len());
    assert!(
        ledger.records.iter().all(|record| record.is_completed() && record.sent <= nanoseconds(until) + 50_000_000)
    );
    let indices: Vec<usize> = ledger.records.iter().map(|record| record.index).collect();
    assert_eq!(indices, (0..indices.len()).collect::<Vec<_>>());
}
