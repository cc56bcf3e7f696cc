//! What the server says of itself while it is measured: its `/metrics`, once a second.
//!
//! Owns the thread, the few series that are kept and their names at minisgl, vLLM and SGLang. Knows nothing of requests:
//! nothing that is measured waits for this, and a server without `/metrics` is no error.
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::client::Trust;

/// The server at one instant, as it says; `None` where it has no such series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ServerSample {
    /// Seconds after the run's start.
    pub(crate) at_s: f64,
    /// Sequences that run.
    pub(crate) running: Option<f64>,
    /// Sequences that wait.
    pub(crate) waiting: Option<f64>,
    /// Share of the K/V cache in use.
    pub(crate) kv_usage: Option<f64>,
    /// Prompt tokens looked up in the prefix cache, ever.
    pub(crate) prefix_queries: Option<f64>,
    /// Prompt tokens found there, ever.
    pub(crate) prefix_hits: Option<f64>,
    /// Sequences that lost their pages, ever.
    pub(crate) preemptions: Option<f64>,
}

/// One kept series: how to reach it, and its names without prefix.
type Series = (fn(&mut ServerSample) -> &mut Option<f64>, &'static [&'static str]);

/// `minisgl_`, `minisgl:`, `vllm:`, `vllm_` and `sglang:` come before these; newer names first.
const SERIES: [Series; 6] = [
    (|s| &mut s.running, &["num_requests_running", "num_running_reqs"]),
    (|s| &mut s.waiting, &["num_requests_waiting", "num_queue_reqs"]),
    (|s| &mut s.kv_usage, &["kv_cache_usage_perc", "gpu_cache_usage_perc", "token_usage"]),
    (
        |s| &mut s.prefix_queries,
        &["prefix_cache_queries_total", "gpu_prefix_cache_queries_total", "prompt_tokens_total"],
    ),
    (|s| &mut s.prefix_hits, &["prefix_cache_hits_total", "gpu_prefix_cache_hits_total", "cached_tokens_total"]),
    (|s| &mut s.preemptions, &["num_preemptions_total", "num_retracted_reqs_total"]),
];
const PREFIXES: [&str; 5] = ["minisgl_", "minisgl:", "vllm:", "vllm_", "sglang:"];

impl ServerSample {
    /// Reads Prometheus text: of each series the first name that is there, summed over its labels (ranks, engines), or
    /// for the share of the cache the highest.
    pub(crate) fn parse(text: &str, at_s: f64) -> Self {
        let mut sample = Self { at_s, ..Self::default() };
        for (nth, (of, names)) in SERIES.into_iter().enumerate() {
            // A pair of hits and queries must be of one kind: the fallbacks stand at the same place in both lists.
            let found = names.iter().find_map(|name| {
                let values = text.lines().filter_map(|line| value(line, name));
                values.reduce(|a, b| if nth == 2 { a.max(b) } else { a + b })
            });
            *of(&mut sample) = found;
        }
        sample
    }

    /// Whether it holds anything.
    fn is_empty(&self) -> bool {
        *self == Self { at_s: self.at_s, ..Self::default() }
    }
}

/// The value of a line of series `name`, with one of the prefixes and any labels.
fn value(line: &str, name: &str) -> Option<f64> {
    let rest = PREFIXES.iter().find_map(|prefix| line.strip_prefix(prefix))?.strip_prefix(name)?;
    let value = match rest.strip_prefix('{') {
        // A quoted label value may hold `}`, so the last one ends the labels; a timestamp may follow the value.
        Some(labelled) => &labelled[labelled.rfind('}')? + 1..],
        None => rest.strip_prefix([' ', '\t'])?,
    };
    value.split_whitespace().next()?.parse().ok().filter(|value: &f64| value.is_finite())
}

/// How often it is read, and how long an answer may take.
const EVERY: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_millis(800);

/// Largest answer that is read.
const LARGEST: u64 = 8 << 20;

/// Most samples that are kept; then every other one is dropped and they come half as often.
const MOST_SAMPLES: usize = 4096;

/// The thread that reads, until it is stopped.
pub(crate) struct Scraper {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<Scraped>,
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Scraped {
    /// In time's order.
    pub(crate) samples: Vec<ServerSample>,
    /// What went wrong, where nothing was ever read: for a note, once.
    pub(crate) problem: Option<String>,
}

impl Scraper {
    /// Reads `url` (the server's `/metrics`) from now on; times are after `start`.
    pub(crate) fn start(url: String, trust: &Trust, start: Instant) -> Self {
        let (stop, stopped) = mpsc::channel();
        let agent = trust.agent(PATIENCE);
        Self { stop, thread: std::thread::spawn(move || scrape(&agent, &url, start, &stopped)) }
    }

    /// Reads once more and returns all. It waits for an answer under way, so at most twice the patience.
    pub(crate) fn stop(self) -> Scraped {
        drop(self.stop);
        self.thread.join().unwrap_or_default()
    }
}

fn scrape(agent: &ureq::Agent, url: &str, start: Instant, stopped: &mpsc::Receiver<()>) -> Scraped {
    let mut scraped = Scraped::default();
    let mut every = EVERY;
    loop {
        // The time of a sample is when it was asked for: the answer's is the server's to delay.
        let at_s = start.checked_duration_since(Instant::now()).map_or_else(|| start.elapsed().as_secs_f64(), |_| 0.0);
        match read(agent, url).map(|text| ServerSample::parse(&text, at_s)) {
            Ok(sample) if !sample.is_empty() => scraped.samples.push(sample),
            Ok(_) => {
                _ = scraped.problem.get_or_insert_with(|| format!("{url} has no series of minisgl, vLLM or SGLang"))
            }
            Err(problem) => _ = scraped.problem.get_or_insert(problem),
        }
        if scraped.samples.len() >= MOST_SAMPLES {
            let mut nth = 0usize;
            scraped.samples.retain(|_| {
                nth += 1;
                nth % 2 == 1
            });
            every *= 2;
        }
        if stopped.recv_timeout(every) == Err(RecvTimeoutError::Disconnected) {
            break;
        }
    }
    if let Ok(text) = read(agent, url) {
        let sample = ServerSample::parse(&text, start.elapsed().as_secs_f64());
        if !sample.is_empty() {
            scraped.samples.push(sample);
        }
    }
    if !scraped.samples.is_empty() {
        scraped.problem = None;
    }
    scraped
}

fn read(agent: &ureq::Agent, url: &str) -> Result<String, String> {
    let request = agent.get(url).config().max_redirects(0).build();
    let mut answer = request.call().map_err(|error| format!("{url}: {error}"))?;
    answer.body_mut().with_config().limit(LARGEST).read_to_string().map_err(|error| format!("{url}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    const OURS: &str = "# HELP minisgl_num_requests_running x\n# TYPE minisgl_num_requests_running gauge\n\
        minisgl_num_requests_running{model_name=\"a}b\"} 3\nminisgl_num_requests_waiting{model_name=\"m\"} 2 1700000000\n\
        minisgl_kv_cache_usage_perc 0.25\nminisgl_prefix_cache_queries_total 40\nminisgl_prefix_cache_hits_total 16\n\
        minisgl_num_preemptions_total 1\nminisgl_num_requests_running_max 99\n";

    fn sample(values: [f64; 6]) -> ServerSample {
        let [running, waiting, kv_usage, prefix_queries, prefix_hits, preemptions] = values.map(Some);
        ServerSample { at_s: 1.5, running, waiting, kv_usage, prefix_queries, prefix_hits, preemptions }
    }

    #[test]
    fn the_names_of_three_servers() {
        let expected = sample([3.0, 2.0, 0.25, 40.0, 16.0, 1.0]);
        assert_eq!(ServerSample::parse(OURS, 1.5), expected);
        assert_eq!(ServerSample::parse(&OURS.replace("minisgl_", "vllm:"), 1.5), expected);
        let two_engines = "vllm:num_requests_running{engine=\"0\"} 3.0\nvllm:num_requests_running{engine=\"1\"} 4.0\n\
            vllm:gpu_cache_usage_perc{engine=\"0\"} 0.5\nvllm:gpu_cache_usage_perc{engine=\"1\"} 0.75\n";
        let expected = ServerSample { at_s: 1.5, running: Some(7.0), kv_usage: Some(0.75), ..ServerSample::default() };
        assert_eq!(ServerSample::parse(two_engines, 1.5), expected);
        let sglang = "sglang:num_running_reqs{a=\"b\"} 5\nsglang:num_queue_reqs 6\nsglang:token_usage 0.5\n\
            sglang:prompt_tokens_total 10\nsglang:cached_tokens_total 4\nsglang:num_retracted_reqs_total 2\n";
        assert_eq!(ServerSample::parse(sglang, 1.5), sample([5.0, 6.0, 0.5, 10.0, 4.0, 2.0]));
        for text in ["", "x", "minisgl_num_requests_running", "vllm:num_requests_running{", "vllm:token_usage NaN\n}{"]
        {
            assert!(ServerSample::parse(text, 0.0).is_empty(), "{text}");
        }
    }

    #[test]
    fn a_server_is_read_at_the_start_and_at_the_end() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/metrics", server.local_addr().unwrap());
        let serve = std::thread::spawn(move || {
            for stream in server.incoming().take(2) {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 1024]);
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", OURS.len());
                stream.write_all((head + OURS).as_bytes()).unwrap();
            }
        });
        // Two connections are served: whenever the scraper is stopped, the first and the last reading are there.
        let scraped = Scraper::start(url, &Trust::default(), Instant::now()).stop();
        serve.join().unwrap();
        assert_eq!((scraped.samples.len(), scraped.problem), (2, None));
        assert_eq!(scraped.samples[1].running, Some(3.0));
    }

    #[test]
    fn no_metrics_is_said_and_no_error() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let scraped = Scraper::start(format!("http://{closed}/metrics"), &Trust::default(), Instant::now()).stop();
        assert!(scraped.samples.is_empty());
        assert!(scraped.problem.unwrap().contains(&closed.to_string()));
    }
}
