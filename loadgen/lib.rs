//! The load generator: a workload into measurements, against any OpenAI-compatible server.
//!
//! Owns everything between a trace and a report. Shares with the server what a token is and nothing else: no wire type,
//! statistic or runtime, so that a bug in one cannot hide in the other.
//!
//! ```text
//!  settings ─▶ session.rs: one command, in this order
//!                  ▼
//!              workload.rs ─▶ which requests, how long, when             traces/ reads and names what is wrong
//!                  │           (no connection is made before this)        lengths.rs, arrivals.rs, draw.rs, rng.rs
//!                  ▼
//!              models.rs ─▶ prompts.rs, bodies.rs: every request's JSON, before its run begins (parallel.rs)
//!                  ▼
//!              run.rs, the launcher ─▶ client/: one connection, one answer, stamped at the socket ─▶ records.rs
//!                  │ request.rs: what it is given        counters.rs ─▶ progress.rs, sampler.rs, off the hot path
//!                  ▼                                     scrape.rs: the server's own /metrics; series.rs: over time
//!              report/ ◀─ statistics.rs, plot/           raw.rs, compare.rs: earlier runs read back
//! ```
//!
//! Beside runs: `inspect/` looks into a trace, `self_test/` measures this crate against a server of known timings,
//! `datasets/` reads recorded questions for `bench offline`, `public.rs` fetches the public trace.
//!
//! # Exit codes
//! `minisgl loadgen` ends with 0 where every request completed, 1 where a run could not begin or be written, 2 for bad flags,
//! 3 where requests failed, 4 where `--strict` finds a run INVALID, 130 where it was interrupted; `compare` with 1 where B
//! is worse: [`exit_code`].
mod arrivals;
mod bodies;
mod client;
mod compare;
mod counters;
pub mod datasets;
mod draw;
mod error;
pub mod inspect;
mod interrupt;
mod lengths;
mod models;
mod parallel;
pub mod plot;
mod progress;
mod prompts;
mod public;
mod raw;
mod records;
mod report;
mod request;
mod rng;
mod run;
mod sampler;
mod scrape;
mod self_test;
mod series;
mod session;
mod statistics;
mod traces;
mod workload;

pub use compare::{Comparison, Difference, PointComparison, Verdict, compare, compare_files};
pub use error::LoadgenError;
pub use interrupt::Interrupt;
pub use progress::{ConsoleOptions, Progress};
pub use public::{DownloadError, open as open_trace};
pub use records::Interrupted;
pub use report::{
    About, Burst, ClientFigures, CountedBy, EXIT_FAILED_REQUESTS, EXIT_INTERRUPTED, EXIT_INVALID, EXIT_NOT_COMPARED,
    Goodput, Group, OutputTokens, Repeats, RunReport, ServerFigures, SloMs, Window, Windows, exit_code, report_file,
};
pub use self_test::self_test;
pub use statistics::{Interval, LEAST_FOR_P99, Summary};
pub use traces::{
    Conversation, IdealHits, LONGEST_LINE, Message, PrefixOptions, Trace, TraceError, TraceFormat, TracePrompt,
    TraceRequest, Turn, block_ranges, ideal_hits, ideal_hits_of, read as read_trace, read_file as read_trace_file,
};

use minisgl_config::loadgen::LoadgenSettings;

/// Runs the workload of `settings` and reports each run. Prints as `console` says, and writes what the settings ask for.
///
/// # Errors
/// Whatever keeps the runs from happening: a trace's bad line, a file that cannot be written (both before any connection
/// is made), a server that cannot be reached, no tokenizer. A request that fails is none of them: it is counted in its
/// run's report, and [`exit_code`] says so.
///
/// `interrupt` ends it early: what was measured until then is reported and written, and [`RunReport::interrupted`] says so.
pub fn run(
    settings: &LoadgenSettings,
    console: ConsoleOptions,
    interrupt: &Interrupt,
) -> Result<Vec<RunReport>, LoadgenError> {
    session::run(settings, console, interrupt)
}

/// Most threads that read answers by default.
const MOST_THREADS: usize = 4;

/// Reading threads: as many as asked for; else half of the cores, since the server or the launcher wants the others.
fn reading_threads(asked: usize) -> usize {
    match asked {
        0 => (std::thread::available_parallelism().map_or(1, usize::from) / 2).clamp(1, MOST_THREADS),
        n => n,
    }
}
