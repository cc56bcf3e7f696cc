//! The load generator measured: its own error, CPU and memory, against a server of known timings in another process.
//!
//! Owns the steps and what is compared. The server's clock is the truth: its times from a request's arrival to writing
//! the first token, and between tokens. What is reported beyond that is the load generator's error, with the network's and
//! the sockets' share in it, on a machine that both share.
mod bounds;
mod server;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use minisgl_config::loadgen::self_test::{SelfTestArgs, Step};
use minisgl_config::loadgen::settings::{Arrival, Endpoint};
use minisgl_config::loadgen::{JsonOutput, ServerUrl};
use serde::Serialize;
use serde_json::{Value, json};

use crate::arrivals::AtRate;
use crate::client::{HeadOptions, Target, Trust};
use crate::counters::Counters;
use crate::interrupt::Interrupt;
use crate::lengths::Lengths;
use crate::records::{Ledger, Record};
use crate::report::{JsonSink, achieved_requested, request};
use crate::request::{Body, Job, Places, Start};
use crate::rng::SplitMix;
use crate::run::{self, RunOptions};
use crate::statistics::nearest_rank;
use crate::{ConsoleOptions, EXIT_INVALID, LoadgenError, reading_threads, sampler};
use server::{Server, Timings};

/// Answers of a stream in a closed step.
const ANSWERS_A_STREAM: u64 = 4;

/// The pacing step's length, and its answers' tokens.
const PACING: Duration = Duration::from_secs(20);
const PACING_TOKENS: u64 = 2;

/// What a step is of.
#[derive(Clone, Copy, Debug)]
enum What {
    Streams(Step),
    /// So many requests a second.
    Pacing(u64),
}

impl What {
    fn name(self) -> String {
        match self {
            Self::Streams(Step { streams, itl, burst }) => {
                format!("{streams}:{}{}", itl.as_millis(), if burst { ":burst" } else { "" })
            }
            Self::Pacing(rate) => format!("pacing {rate}/s"),
        }
    }
}

/// One step's outcome.
#[derive(Clone, Debug, Serialize)]
struct Outcome {
    #[serde(skip)]
    what: What,
    step: String,
    requests: usize,
    failed: usize,
    max_in_flight: u64,
    chunks: u64,
    chunks_per_s: f64,
    /// What the load generator says, and what was so; milliseconds.
    ttft_ms: Compared,
    tpot_ms: Compared,
    lag_ms_p99: Option<f64>,
    lag_ms_max: Option<f64>,
    achieved_requested: Option<f64>,
    /// Of the server's arrivals: standard deviation of the gaps over their mean.
    arrival_cv: Option<f64>,
    /// How long requests lay in the server's sockets until it read them.
    server_read_lag_ms_p99: f64,
    client_cpu_share: f64,
    client_cpu_us_per_chunk: f64,
    server_cpu_us_per_chunk: f64,
    client_peak_rss_mb: f64,
    /// What is beyond its bound, in words.
    beyond: Vec<String>,
}

/// A figure as measured, and the truth.
#[derive(Clone, Copy, Debug, Serialize)]
struct Compared {
    measured_mean: f64,
    true_mean: f64,
    error_mean: f64,
    measured_p99: f64,
    true_p99: f64,
    error_p99: f64,
}

/// Mean and 99th percentile (nearest rank, as everywhere) of nanoseconds. A self-test's steps have thousands of samples.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    mean: f64,
    p99: f64,
}

impl Figures {
    fn of(mut values: Vec<u64>) -> Self {
        values.sort_unstable();
        let n = values.len();
        if n == 0 {
            return Self::default();
        }
        let sum: u128 = values.iter().map(|&value| u128::from(value)).sum();
        Self { mean: sum as f64 / n as f64, p99: nearest_rank(&values, 99) as f64 }
    }

    fn json(self) -> Value {
        json!({"mean": self.mean, "p99": self.p99})
    }

    fn read(value: &Value) -> Self {
        let number = |name: &str| value[name].as_f64().unwrap_or(0.0);
        Self { mean: number("mean"), p99: number("p99") }
    }
}

impl Compared {
    fn new(measured: Figures, truth: Figures) -> Self {
        let ms = |nanoseconds: f64| nanoseconds / 1e6;
        Self {
            measured_mean: ms(measured.mean),
            true_mean: ms(truth.mean),
            error_mean: ms(measured.mean - truth.mean),
            measured_p99: ms(measured.p99),
            true_p99: ms(truth.p99),
            error_p99: ms(measured.p99 - truth.p99),
        }
    }
}

/// Runs the test and prints its table, or serves the known timings, as `args` say: the exit code.
///
/// # Errors
/// A server that cannot be started or asked, a JSON file that cannot be written.
pub fn self_test(args: &SelfTestArgs, console: ConsoleOptions) -> Result<u8, LoadgenError> {
    let timings = Timings {
        ttft: Duration::from_millis(args.ttft_ms),
        itl: args.steps.first().map_or(Duration::from_millis(20), |step| step.itl),
        tokens: args.tokens,
    };
    if let Some(port) = args.serve {
        return serve(port, timings).map(|()| 0).map_err(LoadgenError::SelfTest);
    }
    let json = args.json.as_ref().map(|json| JsonOutput::of(json));
    let sink = json.as_ref().map(JsonSink::open).transpose()?;
    let mut outcomes = Vec::new();
    let steps = args.steps.iter().map(|&step| What::Streams(step));
    for what in steps.chain((args.pacing_rate > 0).then_some(What::Pacing(args.pacing_rate))) {
        console.note(&format!("self-test: {}", what.name()));
        let (timings, (jobs, places)) = match what {
            What::Streams(step) => {
                let timings = Timings { itl: step.itl, ..timings };
                (timings, streams(step, timings, args.seconds))
            }
            What::Pacing(rate) => (timings, (poisson(rate), None)),
        };
        let mut outcome = measure(what, timings, jobs, places, args.threads).map_err(LoadgenError::SelfTest)?;
        if has_bounds(args) {
            outcome.beyond = bounds::beyond(&outcome);
        }
        outcomes.push(outcome);
    }
    let table = table(args, &outcomes);
    match &json {
        Some(JsonOutput::Stdout) => eprint!("{table}"),
        _ => drop(std::io::stdout().write_all(table.as_bytes())),
    }
    if let Some(sink) = sink {
        sink.write_value(&json!({"ttft_ms": args.ttft_ms, "tokens": args.tokens, "steps": outcomes}))?;
    }
    Ok(match (outcomes.iter().any(|o| o.failed > 0), outcomes.iter().any(|o| !o.beyond.is_empty())) {
        (true, _) => 1,
        (false, true) if args.strict => EXIT_INVALID,
        (false, _) => 0,
    })
}

/// Whether the test is the one that the bounds are of.
fn has_bounds(args: &SelfTestArgs) -> bool {
    (args.ttft_ms, args.tokens) == (bounds::TTFT_MS, bounds::TOKENS)
}

/// Serves until stdin ends: whoever started it is gone then.
fn serve(port: u16, timings: Timings) -> std::io::Result<()> {
    let server = Server::bind(port, timings)?;
    let mut out = std::io::stdout();
    writeln!(out, "http://{}", server.address()?)?;
    out.flush()?;
    std::thread::spawn(|| {
        let mut ignored = Vec::new();
        let _ = std::io::Read::read_to_end(&mut std::io::stdin(), &mut ignored);
        std::process::exit(0);
    });
    server.run()
}

/// The server in another process, until dropped.
struct Served {
    child: Child,
    url: ServerUrl,
}

impl Served {
    fn start(timings: Timings) -> std::io::Result<Self> {
        let program = std::env::current_exe()?;
        let mut child = Command::new(program)
            .args(["loadgen", "self-test", "--serve", "0"])
            .args(["--ttft-ms", &timings.ttft.as_millis().to_string(), "--tokens", &timings.tokens.to_string()])
            .args(["--steps", &format!("1:{}", timings.itl.as_millis())])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it was piped")).read_line(&mut line)?;
        let url =
            line.trim().parse().map_err(|problem: String| std::io::Error::other(format!("{line:?} {problem}")))?;
        Ok(Self { child, url })
    }

    /// What was really so since the last time.
    fn truth(&self) -> std::io::Result<Value> {
        let text = ureq::get(format!("{}/truth", self.url)).call().and_then(|mut r| r.body_mut().read_to_string());
        serde_json::from_str(&text.map_err(std::io::Error::other)?).map_err(std::io::Error::other)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn measure(
    what: What,
    timings: Timings,
    jobs: Vec<Job>,
    places: Option<Places>,
    threads: usize,
) -> std::io::Result<Outcome> {
    let served = Served::start(timings)?;
    let head = HeadOptions { path: "/v1/chat/completions", api_key: None, headers: &[], keep_alive: true };
    let target = Target::find(&served.url, head, &Trust::default())?;
    sampler::forget_peak_rss();
    let ledger = run::execute(RunOptions {
        target: &target,
        endpoint: Endpoint::Chat,
        jobs,
        places,
        until: None,
        more: None,
        timeout: Duration::from_secs(120),
        threads: reading_threads(threads),
        keep_tics: false,
        counters: Arc::new(Counters::default()),
        interrupt: &Interrupt::never(),
    })?;
    Ok(compare(what, &ledger, &served.truth()?))
}

fn compare(what: What, ledger: &Ledger, truth: &Value) -> Outcome {
    let completed: Vec<&Record> = ledger.records.iter().filter(|record| record.is_completed()).collect();
    let of = |value: fn(&Record) -> Option<u64>| Figures::of(completed.iter().filter_map(|r| value(r)).collect());
    let mut lags: Vec<u64> = ledger.records.iter().filter_map(request::lag).collect();
    lags.sort_unstable();
    let lag_ms_p99 = (!lags.is_empty()).then(|| nearest_rank(&lags, 99) as f64 / 1e6);
    let (cost, chunks) = (ledger.cost, ledger.cost.chunks.max(1) as f64);
    Outcome {
        what,
        step: what.name(),
        requests: ledger.records.len(),
        failed: ledger.records.len() - completed.len(),
        max_in_flight: ledger.max_in_flight,
        chunks: cost.chunks,
        chunks_per_s: busiest_second(ledger),
        ttft_ms: Compared::new(of(request::ttft), Figures::read(&truth["ttft_ns"])),
        tpot_ms: Compared::new(of(request::tpot), Figures::read(&truth["tpot_ns"])),
        lag_ms_p99,
        lag_ms_max: lags.last().map(|&lag| lag as f64 / 1e6),
        achieved_requested: achieved_requested(&ledger.records.iter().collect::<Vec<_>>()),
        arrival_cv: truth["arrival_cv"].as_f64(),
        server_read_lag_ms_p99: Figures::read(&truth["read_lag_ns"]).p99 / 1e6,
        client_cpu_share: cost.cpu_s / cost.wall_s,
        client_cpu_us_per_chunk: cost.cpu_s * 1e6 / chunks,
        server_cpu_us_per_chunk: truth["cpu_s"].as_f64().unwrap_or(0.0) * 1e6 / chunks,
        client_peak_rss_mb: cost.peak_rss_bytes as f64 / 1e6,
        beyond: Vec::new(),
    }
}

/// Chunks of the busiest second: a step's own rate, its beginning and end left out.
fn busiest_second(ledger: &Ledger) -> f64 {
    let samples = &ledger.samples;
    let rate = |i: usize| {
        let later = samples[i..].iter().find(|later| later.at_s >= samples[i].at_s + 1.0)?;
        Some((later.chunks - samples[i].chunks) as f64 / (later.at_s - samples[i].at_s))
    };
    (0..samples.len()).filter_map(rate).fold(0.0, f64::max)
}

/// Even arrivals that keep so many streams in flight, or a closed loop of as many.
fn streams(step: Step, timings: Timings, seconds: u64) -> (Vec<Job>, Option<Places>) {
    if step.burst {
        let jobs = (0..step.streams * ANSWERS_A_STREAM).map(|_| job(Start::WhenFree, timings.tokens));
        return (jobs.collect(), Some(Places { count: step.streams as usize, ramp: Duration::ZERO }));
    }
    let answer = timings.ttft + timings.itl * (timings.tokens - 1) as u32;
    let between = answer.div_f64(step.streams as f64);
    let span = Duration::from_secs(seconds).max(answer * 2);
    let n = (span.as_secs_f64() / between.as_secs_f64()).ceil() as u32;
    ((0..n).map(|i| job(Start::At(between * i), timings.tokens)).collect(), None)
}

fn poisson(rate: u64) -> Vec<Job> {
    let at_rate = AtRate { per_s: rate as f64, arrival: Arrival::Poisson, ramp: Duration::ZERO };
    let times = at_rate.times(SplitMix::of(0, &[])).take_while(|&at| at < PACING);
    times.map(|at| job(Start::At(at), PACING_TOKENS)).collect()
}

fn job(start: Start, tokens: u64) -> Job {
    let body = json!({
        "model": server::MODEL, "messages": [{"role": "user", "content": "How exact is this clock?"}],
        "max_tokens": tokens, "temperature": 0, "ignore_eos": true, "stream": true,
        "stream_options": {"include_usage": true},
    });
    Job {
        start,
        body: Body::Whole(Bytes::from(body.to_string())),
        lengths: Lengths { input: 8, output: tokens as usize },
        cancel_after: None,
        class: 0,
        keep_answer: false,
    }
}

fn table(args: &SelfTestArgs, outcomes: &[Outcome]) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    let mut line = |text: String| writeln!(out, "{text}").expect("writing to a string");
    line(format!(
        "load generator against a server of known timings (TTFT {} ms, {} tokens): its error in ms, measured - true",
        args.ttft_ms, args.tokens
    ));
    line(format!(
        "{:<16}{:>9}{:>7}{:>10}{:>11}{:>11}{:>11}{:>9}{:>9}{:>9}{:>9}{:>8}",
        "streams:itl",
        "requests",
        "failed",
        "chunks/s",
        "TTFT mean",
        "TTFT p99",
        "TPOT mean",
        "lag p99",
        "achieved",
        "us/chunk",
        "CPU %",
        "RSS MB"
    ));
    let number =
        |value: Option<f64>, digits: usize| value.map_or("–".to_owned(), |value| format!("{value:.digits$}"));
    for o in outcomes {
        line(format!(
            "{:<16}{:>9}{:>7}{:>10.0}{:>+11.3}{:>+11.3}{:>+11.4}{:>9}{:>9}{:>9.2}{:>9.1}{:>8.1}",
            o.step,
            o.requests,
            o.failed,
            o.chunks_per_s,
            o.ttft_ms.error_mean,
            o.ttft_ms.error_p99,
            o.tpot_ms.error_mean,
            number(o.lag_ms_p99, 3),
            number(o.achieved_requested, 4),
            o.client_cpu_us_per_chunk,
            o.client_cpu_share * 100.0,
            o.client_peak_rss_mb,
        ));
    }
    for o in outcomes.iter().filter(|o| matches!(o.what, What::Pacing(_))) {
        line(format!(
            "{}: the server's arrivals have a coefficient of variation of {}",
            o.step,
            number(o.arrival_cv, 3)
        ));
    }
    line(
        "us/chunk, CPU and RSS are the load generator's process alone; the server runs in another on the same cores"
            .to_owned(),
    );
    let beyond = || {
        outcomes.iter().flat_map(|o| o.beyond.iter().map(move |what| format!("BEYOND its bound: {}: {what}", o.step)))
    };
    beyond().for_each(&mut line);
    line(match has_bounds(args) {
        false => format!("no bounds: they are of --ttft-ms {} --tokens {}", bounds::TTFT_MS, bounds::TOKENS),
        true if beyond().next().is_some() => {
            "beyond the bounds of loadgen/README.md: other work on this machine does that too, so look for it first"
                .to_owned()
        }
        true => "all within the bounds of loadgen/README.md".to_owned(),
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_arrivals_keep_the_streams_in_flight() {
        let timings = Timings { ttft: Duration::from_millis(50), itl: Duration::from_millis(10), tokens: 6 };
        let step = Step { streams: 10, itl: timings.itl, burst: false };
        let (jobs, places) = streams(step, timings, 1);
        // An answer takes 100 ms, so that one every 10 ms keeps ten.
        assert_eq!((jobs.len(), places), (100, None));
        assert_eq!(jobs[7].start, Start::At(Duration::from_millis(70)));
        let (jobs, places) = streams(Step { burst: true, ..step }, timings, 1);
        assert_eq!((jobs.len(), places.map(|places| places.count)), (40, Some(10)));
    }

    #[test]
    fn poisson_arrivals_are_as_many_as_asked_for() {
        let jobs = poisson(1000);
        assert!((19_500..20_500).contains(&jobs.len()), "{}", jobs.len());
    }

    #[test]
    fn achieved_is_one_when_on_time_and_less_when_slow() {
        let record = |intended, sent| Record { intended: Some(intended), sent, ..Record::default() };
        assert_eq!(achieved_requested(&[&record(0, 5), &record(100, 105)]), Some(1.0));
        assert_eq!(achieved_requested(&[&record(0, 0), &record(100, 200)]), Some(0.5));
        assert_eq!(achieved_requested(&[&record(0, 0)]), None);
    }
}
