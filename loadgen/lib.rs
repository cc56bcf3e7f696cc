//! The load generator: a workload into measurements, against any OpenAI-compatible server.
//!
//! Owns everything between a trace and a report. Shares with the server what a token is and nothing else: no wire type,
//! statistic or runtime, so that a bug in one cannot hide in the other.
//!
//! ```text
//!  settings ─▶ workload.rs ─▶ lengths, arrivals, one plan a time scale       traces/ reads and names what is wrong
//!                  │           (no connection is made before this)           lengths.rs scales, caps, fits to the model
//!                  ▼
//!              models.rs ─▶ prompts.rs, bodies.rs: every request's JSON, before its run begins
//!                  ▼
//!              run.rs ─▶ client/: one connection, one answer, stamped at the socket ─▶ records.rs
//!                  ▼                                      counters.rs ─▶ progress.rs, off the hot path
//!              report/ ◀─ statistics.rs
//! ```
mod arrivals;
mod bodies;
mod client;
mod counters;
pub mod datasets;
mod error;
pub mod inspect;
mod lengths;
mod models;
pub mod plot;
mod progress;
mod prompts;
mod public;
mod records;
mod report;
mod rng;
mod run;
mod statistics;
mod traces;
mod workload;

pub use error::LoadgenError;
pub use progress::{ConsoleOptions, Progress};
pub use public::DownloadError;
pub use report::{About, RunReport};
pub use statistics::Summary;
pub use traces::{
    Conversation, IdealHits, LONGEST_LINE, Message, PrefixOptions, Trace, TraceError, TraceFormat, TracePrompt,
    TraceRequest, Turn, block_ranges, ideal_hits, ideal_hits_of, read as read_trace, read_file as read_trace_file,
};

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use minisgl_config::loadgen::{JsonOutput, LoadgenSettings};
use tokio::runtime::Runtime;

use arrivals::Arrivals;
use bodies::Batch;
use client::Target;
use lengths::{Lengths, TEMPLATE_ROOM};
use models::Served;
use progress::Steps;
use prompts::Prompts;
use report::JsonSink;
use run::{Job, Ledger};
use workload::Planned;

/// Replays the workload of `settings` and reports each run (one for each time scale). Prints as `console` says, and writes the
/// JSON that the settings ask for.
///
/// Blocks; makes a tokio runtime of its own, so it must not be called from async code (`spawn_blocking` is fine).
///
/// # Errors
/// Whatever keeps the runs from happening: a trace's bad line, a file that cannot be written (both before any connection
/// is made), a server that cannot be reached, no tokenizer. A request that fails is none of them: it is counted in its
/// run's report, and [`RunReport::exit_ok`] says no.
pub fn run(settings: LoadgenSettings, console: ConsoleOptions) -> Result<Vec<RunReport>, LoadgenError> {
    let sink = settings.json.as_ref().map(JsonSink::open).transpose()?;
    let mut planned = workload::plan(&settings.workload, settings.seed, console)?;
    let session = Session::open(&settings, console)?;
    let progress = console.progress != Progress::Off;
    let prompts = Prompts::open(settings.tokenizer.as_deref(), session.served.root.as_deref(), progress)?;
    session.note_server(&prompts.name);
    session.fit(&mut planned)?;
    let reports = session.runs(&planned, &prompts)?;
    if console.table {
        session.print(report::DEFINITIONS);
    }
    if let Some(sink) = sink {
        sink.write(&reports)?;
    }
    Ok(reports)
}

/// A server that was found, and what it takes to send to it.
struct Session<'a> {
    settings: &'a LoadgenSettings,
    console: ConsoleOptions,
    runtime: Runtime,
    target: Target,
    served: Served,
}

/// Prompts of more tokens than this take seconds to make.
const WORTH_A_NOTE: usize = 500_000;

/// Most threads of the client: beyond these, a socket's stamp waits for no other thread.
const MOST_THREADS: usize = 8;

impl<'a> Session<'a> {
    fn open(settings: &'a LoadgenSettings, console: ConsoleOptions) -> Result<Self, LoadgenError> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("loadgen")
            .enable_all()
            .build()
            .map_err(LoadgenError::Runtime)?;
        let url = &settings.url;
        let target = runtime
            .block_on(Target::find(url))
            .map_err(|error| LoadgenError::Connect { url: url.clone(), problem: client::plain(&error) })?;
        let (served, note) = runtime.block_on(models::ask(&target, settings.model.as_deref()))?;
        if let Some(note) = note {
            console.note(&note);
        }
        Ok(Self { settings, console, runtime, target, served })
    }

    fn note_server(&self, tokenizer: &str) {
        let Served { id, max_model_len, .. } = &self.served;
        let holds = max_model_len.map_or(String::new(), |n| format!(", which holds {n} tokens"));
        self.console.note(&format!("{}: model {id}{holds}; tokenizer {tokenizer}", self.settings.url));
    }

    /// Shortens what the model cannot hold, and says so.
    fn fit(&self, planned: &mut Planned) -> Result<(), LoadgenError> {
        let Some(max_model_len) = self.served.max_model_len else {
            return Ok(());
        };
        let clamped = lengths::fit(planned.lengths.iter_mut(), max_model_len)
            .map_err(|least| LoadgenError::TooSmall { max_model_len, least })?;
        if clamped != lengths::Clamped::default() {
            self.console.note(&format!(
                "the model holds {max_model_len} tokens ({TEMPLATE_ROOM} kept for the chat template): of {} requests, {} \
                 prompts and {} outputs are shortened to fit",
                planned.lengths.len(),
                clamped.inputs,
                clamped.outputs,
            ));
        }
        Ok(())
    }

    fn runs(&self, planned: &Planned, prompts: &Prompts) -> Result<Vec<RunReport>, LoadgenError> {
        if planned.connection_test {
            self.connection_test(prompts)?;
        }
        let mut reports = Vec::with_capacity(planned.runs.len());
        for (index, run) in planned.runs.iter().enumerate() {
            let bodies = self.prepare(&planned.lengths, index as u64, prompts)?;
            let ledger = self.execute(&run.arrivals, &planned.lengths, bodies, self.console);
            let about = About {
                workload: planned.name.clone(),
                trace_format: planned.format.clone(),
                time_scale: run.time_scale,
                url: self.settings.url.to_string(),
                model: self.served.id.clone(),
                tokenizer: prompts.name.clone(),
                seed: self.settings.seed,
            };
            let report = RunReport::of(&ledger, about);
            if self.console.table {
                self.print(&report::table(&report));
            }
            reports.push(report);
        }
        Ok(reports)
    }

    fn prepare(&self, lengths: &[Lengths], run: u64, prompts: &Prompts) -> Result<Vec<Bytes>, LoadgenError> {
        let batch = Batch { model: &self.served.id, seed: self.settings.seed, run, lengths };
        let tokens: usize = lengths.iter().map(|lengths| lengths.input).sum();
        if tokens > WORTH_A_NOTE {
            self.console.note(&format!("preparing {} prompts of {tokens} tokens", lengths.len()));
        }
        let steps = Steps::start(self.console, "Preparing prompts", lengths.len());
        batch
            .prepare(&*prompts.make, &|| steps.step())
            .map_err(|problem| LoadgenError::Tokenizer { name: prompts.name.clone(), problem })
    }

    fn execute(&self, arrivals: &Arrivals, lengths: &[Lengths], bodies: Vec<Bytes>, console: ConsoleOptions) -> Ledger {
        let job = Job { target: &self.target, arrivals, lengths, bodies, timeout: self.settings.timeout };
        run::execute(&self.runtime, job, console)
    }

    /// One small request that must succeed before many are sent.
    fn connection_test(&self, prompts: &Prompts) -> Result<(), LoadgenError> {
        let mut lengths = [Lengths { input: 100, output: 2 }];
        if let Some(max_model_len) = self.served.max_model_len {
            lengths::fit(lengths.iter_mut(), max_model_len)
                .map_err(|least| LoadgenError::TooSmall { max_model_len, least })?;
        }
        let bodies = self.prepare(&lengths, CONNECTION_TEST, prompts)?;
        let at_once = Arrivals::Schedule(vec![Duration::ZERO]);
        let ledger = self.execute(&at_once, &lengths, bodies, ConsoleOptions::silent());
        match &ledger.records[0].failure {
            None => {
                self.console.note("connection test: fine");
                Ok(())
            }
            Some(failure) => {
                Err(LoadgenError::ConnectionTest { reason: failure.reason.to_string(), detail: failure.detail.clone() })
            }
        }
    }

    /// Prints a part of the report: on stdout, which is the JSON's alone where that goes there.
    fn print(&self, text: &str) {
        match self.settings.json {
            Some(JsonOutput::Stdout) => eprint!("{text}"),
            // A reader that has gone (`| head`) must not cost the JSON that is still to be written.
            _ => drop(std::io::stdout().write_all(text.as_bytes())),
        }
    }
}

/// The place of the connection test's prompt among the runs'.
const CONNECTION_TEST: u64 = u64::MAX - 1;

#[cfg(test)]
mod tests;
