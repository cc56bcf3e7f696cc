//! What a person sees while it runs: bars on a terminal, plain lines elsewhere, always on stderr.
//!
//! Owns the display and its thread, which reads counters a few times a second: nothing that is measured waits for a
//! terminal. Knows nothing of requests. `metrics.rs` shows the same counters to Prometheus.
pub(crate) mod metrics;

use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::counters::Counters;

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    /// Bars where stderr is a terminal, plain lines elsewhere.
    #[default]
    Auto,
    /// A plain line every few seconds.
    Plain,
    /// Nothing.
    Off,
}

/// What is printed besides the returned reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsoleOptions {
    /// Progress, on stderr.
    pub progress: Progress,
    /// What was found and decided (model, trace format, shortened requests), on stderr.
    pub notes: bool,
    /// The table of each run, on stdout, or on stderr where the JSON is on stdout.
    pub table: bool,
}

impl Default for ConsoleOptions {
    fn default() -> Self {
        Self { progress: Progress::Auto, notes: true, table: true }
    }
}

impl ConsoleOptions {
    /// Prints nothing at all.
    pub fn silent() -> Self {
        Self { progress: Progress::Off, notes: false, table: false }
    }

    /// As it is, without the tables.
    pub(crate) fn without_table(self) -> Self {
        Self { table: false, ..self }
    }

    /// Prints a note.
    pub(crate) fn note(self, text: &str) {
        if self.notes {
            eprintln!("loadgen: {text}");
        }
    }

    fn shows(self) -> Shows {
        match self.progress {
            Progress::Off => Shows::Nothing,
            Progress::Auto if std::io::stderr().is_terminal() => Shows::Bars,
            Progress::Auto | Progress::Plain => Shows::Lines,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shows {
    Bars,
    Lines,
    Nothing,
}

/// How often bars move, and how often plain lines come.
const BARS_EVERY: Duration = Duration::from_millis(100);
const LINES_EVERY: Duration = Duration::from_secs(5);

const NAMES: [&str; 4] = ["Requests sent", "Requests done", "Prefill", "Decode tokens"];

/// The display of one run, until dropped.
pub(crate) struct RunDisplay(Option<(mpsc::Sender<()>, JoinHandle<()>)>);

impl RunDisplay {
    /// Shows `counters` on their way to `totals`: sent, done, first tokens, further tokens.
    pub(crate) fn start(console: ConsoleOptions, counters: Arc<Counters>, totals: [u64; 4]) -> Self {
        let (stop, stopped) = mpsc::channel();
        let shows = console.shows();
        let work = move || match shows {
            Shows::Bars => show_bars(&counters, totals, &stopped),
            Shows::Lines => print_lines(&counters, totals, &stopped),
            Shows::Nothing => {}
        };
        Self((shows != Shows::Nothing).then(|| (stop, std::thread::spawn(work))))
    }
}

impl Drop for RunDisplay {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.0.take() {
            drop(stop);
            // A display that panicked has said so; the run's figures stand without it.
            let _ = thread.join();
        }
    }
}

fn show_bars(counters: &Counters, totals: [u64; 4], stopped: &mpsc::Receiver<()>) {
    let all = MultiProgress::new();
    let template = "{prefix:<13} {percent:>3}% {wide_bar} {pos:>7}/{len} [{rate:>10} {elapsed_precise}]";
    let rate = |state: &ProgressState, out: &mut dyn Write| {
        // The display has nowhere to report an error to.
        let _ = write!(out, "{:.1}/s", state.per_sec());
    };
    let style = ProgressStyle::with_template(template).expect("a constant template").with_key("rate", rate);
    let bar = |i: usize| all.add(ProgressBar::new(totals[i]).with_style(style.clone()).with_prefix(NAMES[i]));
    let bars: [ProgressBar; 4] = std::array::from_fn(bar);
    let line = ProgressStyle::with_template("{msg}").expect("a constant template");
    let figures = all.add(ProgressBar::new_spinner().with_style(line));
    loop {
        let last = ended(stopped, BARS_EVERY);
        for ((bar, value), total) in bars.iter().zip(counters.bars()).zip(totals) {
            bar.set_position(value.min(total));
        }
        figures.set_message(so_far(counters));
        if last {
            bars.iter().chain([&figures]).for_each(ProgressBar::abandon);
            return;
        }
    }
}

fn print_lines(counters: &Counters, totals: [u64; 4], stopped: &mpsc::Receiver<()>) {
    let start = Instant::now();
    loop {
        let last = ended(stopped, LINES_EVERY);
        let [sent, done, first, further] = counters.bars();
        eprintln!(
            "loadgen: {:>5.0} s: requests sent {sent}/{}, done {done}/{}, prefill {first}/{}, decode tokens {further}/{}; {}",
            start.elapsed().as_secs_f64(),
            totals[0],
            totals[1],
            totals[2],
            totals[3],
            so_far(counters),
        );
        if last {
            return;
        }
    }
}

/// The run's state and its latencies so far, in one line.
fn so_far(counters: &Counters) -> String {
    let (live, ttft) = (counters.live(), counters.ttft());
    let mut line = format!("in flight {}, queued {}", live.in_flight, live.queued);
    if ttft.len() > 0 {
        // A live p99 is for watching: it is shown however few values there are, and is in no report.
        let (p50, p99) = (ttft.quantile_ms(0.5), ttft.quantile_ms(0.99));
        line += &format!(", TTFT p50 {p50:.1} p99 {p99:.1} ms");
    }
    if let Some(mean) = live.gap_mean_ms() {
        line += &format!(", ICL mean {mean:.1} ms");
    }
    if live.failed > 0 {
        line += &format!(", {} failed", live.failed);
    }
    line
}

fn ended(stopped: &mpsc::Receiver<()>, wait: Duration) -> bool {
    stopped.recv_timeout(wait) == Err(RecvTimeoutError::Disconnected)
}

/// Progress of a download.
pub(crate) struct Bytes(Option<ProgressBar>);

impl Bytes {
    /// Of `total` bytes, where the server says how many.
    pub(crate) fn start(console: ConsoleOptions, what: &'static str, total: Option<u64>) -> Self {
        let template = match total {
            Some(_) => "{prefix} {percent:>3}% {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}",
            None => "{prefix} {spinner} {bytes} {bytes_per_sec}",
        };
        Self::of(console, what, template, total)
    }

    /// So many bytes are there.
    pub(crate) fn at(&self, bytes: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(bytes);
        }
    }

    fn of(console: ConsoleOptions, what: &'static str, template: &str, total: Option<u64>) -> Self {
        Self((console.shows() == Shows::Bars).then(|| {
            let style = ProgressStyle::with_template(template).expect("a constant template");
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
            bar.with_style(style).with_prefix(what)
        }))
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Progress of the preparation of prompts.
pub(crate) struct Steps(Bytes);

impl Steps {
    /// Of `total` prompts.
    pub(crate) fn start(console: ConsoleOptions, what: &'static str, total: usize) -> Self {
        Self(Bytes::of(console, what, "{prefix} {percent:>3}% {wide_bar} {pos}/{len}", Some(total as u64)))
    }

    /// One more is done.
    pub(crate) fn step(&self) {
        if let Some(bar) = &self.0.0 {
            bar.inc(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_what_is_known() {
        let counters = Counters::default();
        counters.on_sent();
        assert_eq!(so_far(&counters), "in flight 1, queued 1");
        counters.on_first_token(12_000_000);
        counters.on_chunk(Some(20_000));
        counters.on_chunk(Some(22_000));
        assert_eq!(so_far(&counters), "in flight 1, queued 0, TTFT p50 12.0 p99 12.0 ms, ICL mean 21.0 ms");
    }
}
