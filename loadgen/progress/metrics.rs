//! The load generator's own `/metrics` (`--metrics-port`): what it has sent and seen so far, as Prometheus reads it.
//!
//! Owns the names, the text and a thread that answers one connection at a time, each within a bounded time and a bounded
//! number of bytes: a slow client delays the next one and nothing that is measured.
use std::fmt::{Result as Written, Write};
use std::io::{self, Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::counters::{Counters, GAP_BOUNDS_US};
use crate::statistics::Gaps;

/// Upper bounds of the requests' histograms, in milliseconds.
const REQUEST_BOUNDS_MS: [u64; 18] =
    [1, 5, 10, 20, 40, 60, 80, 100, 250, 500, 750, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000];

/// How long a client may take to ask and to read, and how much it may say.
const PATIENCE: Duration = Duration::from_secs(1);
const LONGEST_HEAD: usize = 8 << 10;

/// The server of `/metrics`, until dropped.
pub(crate) struct MetricsServer {
    address: SocketAddr,
    shown: Arc<Shown>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shown {
    counters: Mutex<Arc<Counters>>,
    ended: AtomicBool,
}

impl MetricsServer {
    /// Listens on every address of this machine; port 0 lets the system choose.
    pub(crate) fn start(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, listener.local_addr()?.port()));
        let shown = Arc::new(Shown::default());
        let of_thread = shown.clone();
        let serve = move || {
            for stream in listener.incoming() {
                if of_thread.ended.load(Relaxed) {
                    return;
                }
                let counters = of_thread.counters.lock().unwrap_or_else(PoisonError::into_inner).clone();
                // A client that cannot be answered has lost its answer; there is nobody else to tell.
                let _ = stream.and_then(|stream| answer(stream, &counters));
            }
        };
        Ok(Self { address, shown, thread: Some(std::thread::Builder::new().name("metrics".into()).spawn(serve)?) })
    }

    /// Where it listens, seen from this machine.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/metrics", self.address)
    }

    /// Shows these from now on: the next run's. Counters begin at 0 again, which Prometheus takes for a restart.
    pub(crate) fn show(&self, counters: Arc<Counters>) {
        *self.shown.counters.lock().unwrap_or_else(PoisonError::into_inner) = counters;
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.shown.ended.store(true, Relaxed);
        // Wakes the thread from `accept`. If no connection can be made, it is left to end with the process.
        if TcpStream::connect_timeout(&self.address, PATIENCE).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

fn answer(mut stream: TcpStream, counters: &Counters) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let head = read_head(&mut stream)?;
    let mut words = head.split(|&byte| byte == b' ');
    let (status, body) = match (words.next(), words.next()) {
        (Some(b"GET"), Some(b"/metrics")) => ("200 OK", render(counters)),
        (Some(b"GET"), Some(_)) => ("404 Not Found", "only /metrics is here\n".to_owned()),
        _ => ("405 Method Not Allowed", "only GET /metrics is here\n".to_owned()),
    };
    let kind =
        if status == "200 OK" { "text/plain; version=0.0.4; charset=utf-8" } else { "text/plain; charset=utf-8" };
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    stream.write_all((head + &body).as_bytes())
}

/// Reads to the end of the head, which may take only so long in all, however slowly it drips.
fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let until = Instant::now() + PATIENCE;
    let (mut head, mut part) = (Vec::new(), [0; 1024]);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || head.len() > LONGEST_HEAD {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut part)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => head.extend_from_slice(&part[..n]),
        }
    }
    Ok(head)
}

/// The text of `counters`.
pub(crate) fn render(counters: &Counters) -> String {
    let mut out = String::new();
    write(&mut out, counters).expect("writing to a string");
    out
}

fn write(out: &mut String, counters: &Counters) -> Written {
    let live = counters.live();
    head(out, "requests_sent_total", "counter", "Requests that were sent.")?;
    writeln!(out, "minisgl_loadgen_requests_sent_total {}", live.sent)?;
    head(out, "requests_done_total", "counter", "Requests that are over, by how.")?;
    for (how, n) in [("completed", live.completed), ("cancelled", live.cancelled), ("failed", live.failed)] {
        writeln!(out, "minisgl_loadgen_requests_done_total{{outcome=\"{how}\"}} {n}")?;
    }
    head(out, "chunks_total", "counter", "Content chunks that came.")?;
    writeln!(out, "minisgl_loadgen_chunks_total {}", live.chunks())?;
    head(out, "requests_in_flight", "gauge", "Requests that were sent and are not over.")?;
    writeln!(out, "minisgl_loadgen_requests_in_flight {}", live.in_flight)?;
    head(out, "requests_queued", "gauge", "Requests in flight that wait for their first token.")?;
    writeln!(out, "minisgl_loadgen_requests_queued {}", live.queued)?;
    requests(out, "time_to_first_token_seconds", "From the send to the first token.", &counters.ttft())?;
    requests(out, "e2e_request_latency_seconds", "From the send to the end of completed requests.", &counters.e2e())?;

    let name = "inter_chunk_latency_seconds";
    head(out, name, "histogram", "Between content chunks, from the first token on.")?;
    let mut below = 0;
    for (bound, n) in GAP_BOUNDS_US.iter().zip(live.gaps) {
        below += n;
        writeln!(out, "minisgl_loadgen_{name}_bucket{{le=\"{}\"}} {below}", *bound as f64 / 1e6)?;
    }
    let all: u64 = live.gaps.iter().sum();
    ends(out, name, all, live.gap_sum_us as f64 / 1e6)
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) -> Written {
    writeln!(out, "# HELP minisgl_loadgen_{name} {help}\n# TYPE minisgl_loadgen_{name} {kind}")
}

fn requests(out: &mut String, name: &str, help: &str, values: &Gaps) -> Written {
    head(out, name, "histogram", help)?;
    for bound in REQUEST_BOUNDS_MS {
        let below = values.count_up_to(bound * 1000);
        writeln!(out, "minisgl_loadgen_{name}_bucket{{le=\"{}\"}} {below}", bound as f64 / 1e3)?;
    }
    ends(out, name, values.len(), values.sum_s())
}

fn ends(out: &mut String, name: &str, all: u64, sum_s: f64) -> Written {
    writeln!(out, "minisgl_loadgen_{name}_bucket{{le=\"+Inf\"}} {all}")?;
    writeln!(out, "minisgl_loadgen_{name}_sum {sum_s}\nminisgl_loadgen_{name}_count {all}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(server: &MetricsServer, request: &str) -> String {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn used() -> Counters {
        let counters = Counters::default();
        counters.on_sent();
        counters.on_first_token(12_000_000);
        counters.on_chunk(Some(20_000));
        counters.on_chunk(Some(21_000));
        counters
    }

    #[test]
    fn it_shows_what_is_counted_and_nothing_else_is_there() {
        let server = MetricsServer::start(0).unwrap();
        server.show(Arc::new(used()));
        // One that connects and says nothing, or leaves, is in nobody's way for long.
        drop(TcpStream::connect(server.address).unwrap());
        let answer = ask(&server, "GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n");
        let (head, text) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains(&format!("content-length: {}", text.len())));
        for line in [
            "# TYPE minisgl_loadgen_requests_sent_total counter",
            "minisgl_loadgen_requests_sent_total 1",
            "minisgl_loadgen_requests_done_total{outcome=\"failed\"} 0",
            "minisgl_loadgen_requests_in_flight 1",
            "minisgl_loadgen_requests_queued 0",
            "minisgl_loadgen_chunks_total 3",
            "minisgl_loadgen_time_to_first_token_seconds_bucket{le=\"0.01\"} 0",
            "minisgl_loadgen_time_to_first_token_seconds_bucket{le=\"0.02\"} 1",
            "minisgl_loadgen_time_to_first_token_seconds_sum 0.012",
            "minisgl_loadgen_inter_chunk_latency_seconds_bucket{le=\"0.015\"} 0",
            "minisgl_loadgen_inter_chunk_latency_seconds_bucket{le=\"0.02\"} 1",
            "minisgl_loadgen_inter_chunk_latency_seconds_bucket{le=\"+Inf\"} 2",
            "minisgl_loadgen_inter_chunk_latency_seconds_sum 0.041",
            "minisgl_loadgen_e2e_request_latency_seconds_count 0",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in:\n{text}");
        }
        assert!(ask(&server, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
        assert!(ask(&server, "POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
    }

    #[test]
    fn promtool_finds_no_fault() {
        use std::process::{Command, Stdio};
        let tool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut tool) = tool else { return eprintln!("promtool is not here: the text was not checked") };
        tool.stdin.take().unwrap().write_all(render(&used()).as_bytes()).unwrap();
        let output = tool.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{said}");
    }
}
