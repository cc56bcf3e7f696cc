//! `minisgl demo`: the main job on one screen. Serves the model, asks it a question and replays the shipped trace, both
//! over TCP as any client would.
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Instant;

use minisgl::llm::Llm;
use minisgl_config::ServeSettings;
use minisgl_config::loadgen::LoadgenSettings;
use minisgl_loadgen::{ConsoleOptions, Interrupt, RunReport};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{Failed, Outcome, serve};

const QUESTION: &str = "What is the capital of Japan?";

/// Ends with the answer, the report, and where to look next.
pub(crate) fn run(settings: ServeSettings) -> Outcome {
    let model = settings.engine.model.clone();
    let started = Instant::now();
    let (stop, stopped) = mpsc::channel(1);
    let (told, ready) = flume::bounded(1);
    let server = std::thread::Builder::new().name("server".into()).spawn(move || {
        serve::serve(settings, Some(stopped), |llm, address| {
            // The demo may have given up: then nobody listens.
            let _ = told.send(Ready::of(llm, address));
        })
    })?;
    // An error here is the server's own end: its words come from the join.
    let outcome = ready.recv().ok().map(|ready| {
        say!("\n{} is served at {}/v1 on {}", ready.model, ready.url, ready.device);
        show(&ready, started)
    });
    let _ = stop.blocking_send(());
    server.join().map_err(|_| "the server panicked; its message is above")??;
    let fine = outcome.ok_or("the server ended before it was ready")??;
    say!("\nNext (minisgl is target/release/minisgl):");
    for (command, what) in [
        (format!("minisgl serve --model {model}"), "serve it at http://127.0.0.1:1919/v1"),
        ("minisgl loadgen --trace shipped".to_owned(), "in another terminal: replay the trace against it again"),
        ("curl -s http://127.0.0.1:1919/metrics".to_owned(), "live latency histograms; deploy/ has a dashboard"),
        (format!("minisgl chat --model {model}"), "talk to it here"),
        ("README.md, server/ARCHITECTURE.md".to_owned(), "the rest, and how it works"),
    ] {
        say!("  {command:<38} {what}");
    }
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the demo keeps of a started server.
struct Ready {
    url: String,
    model: String,
    device: String,
}

impl Ready {
    fn of(llm: &Llm, address: SocketAddr) -> Self {
        Self { url: format!("http://{address}"), model: llm.model().id.clone(), device: llm.device().to_owned() }
    }
}

/// The question and the trace; whether every run has answers.
fn show(ready: &Ready, started: Instant) -> Result<bool, Failed> {
    say!("\n> {QUESTION}");
    let first = Instant::now();
    let tokens = ask(ready)?;
    say!(
        "  ({tokens} tokens in {:.2} s, {:.1} s after the start)",
        first.elapsed().as_secs_f64(),
        started.elapsed().as_secs_f64()
    );
    say!("\nReplaying the shipped trace (config/traces/demo.jsonl) against it, each request at its time:");
    let settings = LoadgenSettings::shipped(ready.url.parse()?);
    let reports = minisgl_loadgen::run(&settings, ConsoleOptions::default(), &Interrupt::never())?;
    Ok(reports.iter().all(RunReport::exit_ok))
}

/// Streams the answer to stdout; how many tokens it had.
fn ask(ready: &Ready) -> Result<u64, Failed> {
    let body = json!({
        "model": ready.model, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 64,
        "stream": true, "stream_options": {"include_usage": true},
    });
    let response = ureq::post(format!("{}/v1/chat/completions", ready.url)).send_json(&body)?;
    let mut stdout = std::io::stdout();
    let mut tokens = 0;
    for line in BufReader::new(response.into_body().into_reader()).lines() {
        let line = line?;
        let Some(data) = line.strip_prefix("data: ").filter(|data| *data != "[DONE]") else { continue };
        let chunk: Value = serde_json::from_str(data)?;
        if let Some(text) = chunk["choices"][0]["delta"]["content"].as_str() {
            write!(stdout, "{text}")?;
            stdout.flush()?;
        }
        tokens = chunk["usage"]["completion_tokens"].as_u64().unwrap_or(tokens);
    }
    say!("");
    Ok(tokens)
}
