//! The command line: a file a command, each thin. Owns flags' parsing, logging to stderr and exit codes.
//!
//! The one place that sees both the server and the load generator, which even here meet over TCP only.
use std::error::Error;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use minisgl_config::{Environment, LogSettings, Resolved};

/// `println!` for a stdout whose reader may have gone (`| head`): what it no longer reads is dropped, which is no panic.
macro_rules! say {
    ($($what:tt)*) => {{
        let _ = std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{}\n", format_args!($($what)*)));
    }};
}

mod accuracy;
mod bench;
mod chat;
mod demo;
mod kernels;
mod load;
mod loadgen;
mod plan;
mod serve;

/// An OpenAI-compatible LLM inference server, and the load generator that measures such servers
#[derive(Parser)]
#[command(name = "minisgl", version, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Serve a model over HTTP, as OpenAI's API does
    Serve(Box<minisgl_config::ServeArgs>),
    /// Replay a trace, or generate a load, against a server, and report what its clients saw
    Loadgen(Box<minisgl_config::loadgen::command::CommandArgs>),
    /// Fetch the default model, serve it, ask it a question and replay the shipped trace against it
    Demo(Box<minisgl_config::DemoArgs>),
    /// Measure the engine without HTTP
    Bench {
        #[command(subcommand)]
        command: BenchCommand,
    },
    /// Measure the CPU device's operations
    Kernels {
        #[command(subcommand)]
        command: KernelsCommand,
    },
    /// Talk to a model in the terminal (/reset starts anew, /exit leaves)
    Chat(Box<minisgl_config::ChatArgs>),
    /// Show or check settings
    Config(minisgl_config::ConfigArgs),
}

#[derive(clap::Subcommand)]
enum BenchCommand {
    /// Many sequences of drawn lengths at once: output tokens a second
    Offline(Box<minisgl_config::BenchOfflineArgs>),
    /// Equal sequences, a line a batch size: prefill and decode apart
    Batched(Box<minisgl_config::BenchBatchedArgs>),
    /// Next-token distributions against those of float32 on the same weights: KL divergence, perplexity
    Accuracy(Box<minisgl_config::BenchAccuracyArgs>),
}

#[derive(clap::Subcommand)]
enum KernelsCommand {
    /// Every operation against its reference, a copy and the machine's measured ceilings
    Bench(minisgl_config::KernelsBenchArgs),
}

/// What a command ends with; the error is printed, and the exit code is 1.
type Outcome = Result<ExitCode, Failed>;

/// Any error: it may have crossed a thread.
type Failed = Box<dyn Error + Send + Sync>;

/// Parses, runs, and turns the outcome into an exit code: 0, 1 for an error, 2 for bad flags.
pub(crate) fn main() -> ExitCode {
    let command = Cli::parse().command;
    let environment = Environment::of_process();
    let outcome = match command {
        Command::Serve(args) => args.resolve(&environment).map_err(Into::into).and_then(|r| serve::run(announce(r))),
        Command::Loadgen(args) => loadgen::run(*args),
        Command::Demo(args) => args.resolve(&environment).map_err(Into::into).and_then(|r| demo::run(announce(r))),
        Command::Bench { command: BenchCommand::Offline(args) } => {
            args.resolve(&environment).map_err(Into::into).and_then(|r| bench::offline(&announce(r)))
        }
        Command::Bench { command: BenchCommand::Batched(args) } => {
            args.resolve(&environment).map_err(Into::into).and_then(|r| bench::batched(&announce(r)))
        }
        Command::Bench { command: BenchCommand::Accuracy(args) } => {
            args.resolve(&environment).map_err(Into::into).and_then(|r| accuracy::run(&announce(r)))
        }
        Command::Kernels { command: KernelsCommand::Bench(args) } => kernels::bench(&args),
        Command::Chat(args) => args.resolve(&environment).map_err(Into::into).and_then(|r| {
            let settings = announce(r);
            chat::run(&settings.engine, &settings.shell)
        }),
        Command::Config(args) => args.run(&environment).map_err(Into::into).map(|report| {
            report.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
            say!("{}", report.text.trim_end());
            ExitCode::SUCCESS
        }),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {}", with_causes(error.as_ref()));
        ExitCode::FAILURE
    })
}

/// Starts logging as the settings say, prints what a person should know about them, and hands them on.
fn announce<S>(resolved: Resolved<S>) -> S {
    log_to_stderr(&resolved.log);
    for warning in &resolved.warnings {
        tracing::warn!("{warning}");
    }
    resolved.settings
}

fn log_to_stderr(settings: &LogSettings) {
    let level = settings.level.name();
    // What dependencies say below a warning is theirs to know.
    let filter = tracing_subscriber::EnvFilter::new(format!("warn,minisgl={level}"));
    let format = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let format = format.with_ansi(std::io::stderr().is_terminal());
    let started = if settings.pid {
        let format = format.event_format(WithPid(tracing_subscriber::fmt::format().with_target(false)));
        format.try_init()
    } else {
        format.try_init()
    };
    started.expect("logging is started once, by the one command that runs");
}

/// Log lines that start with the process's id: several servers may write to one file.
struct WithPid<F>(F);

impl<S, N, F> tracing_subscriber::fmt::FormatEvent<S, N> for WithPid<F>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    N: for<'a> tracing_subscriber::fmt::FormatFields<'a> + 'static,
    F: tracing_subscriber::fmt::FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &tracing_subscriber::fmt::FmtContext<'_, S, N>,
        mut writer: tracing_subscriber::fmt::format::Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> std::fmt::Result {
        write!(writer, "[{}] ", std::process::id())?;
        self.0.format_event(context, writer, event)
    }
}

/// An error and what caused it, each once.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}
