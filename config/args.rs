//! Settings as typed: the flags of each command that runs an engine, and what each resolves to.
//!
//! Owns which command takes which flags and a command's own defaults. Names and bounds are `table.rs`'s.
use std::marker::PhantomData;
use std::path::PathBuf;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command, Error, FromArgMatches};

use crate::error::ConfigError;
use crate::field::{Form, Settings};
use crate::length::{LONGEST, LengthRange};
use crate::resolve::{Outcome, apply_shell_mode, one_running, refuse_dummy_weights, resolve};
use crate::settings::{
    BenchAccuracySettings, BenchBatchedSettings, BenchDataset, BenchOfflineSettings, CacheType, ChatSettings,
    LogSettings, ServeSettings,
};
use crate::sources::{ConfigFile, Environment, Given, Origin};
use crate::table::{Group, SETTINGS};

/// Settings with every question decided, and what a person should know about them.
#[derive(Clone, Debug)]
pub struct Resolved<S> {
    /// What to run with.
    pub settings: S,
    /// How to log meanwhile.
    pub log: LogSettings,
    /// A line each: variables that nothing reads, wishes that could not be met.
    pub warnings: Vec<String>,
}

impl<S> Resolved<S> {
    fn new(outcome: Outcome, of: impl FnOnce(Settings) -> S) -> Self {
        let log = outcome.settings.log.clone();
        Self { settings: of(outcome.settings), log, warnings: outcome.warnings }
    }
}

/// A part of the table whose flags a command takes.
pub trait FlagGroup {
    /// Which.
    const GROUP: Group;
}

/// Flags that say what computes, and how.
#[derive(Clone, Copy, Debug, Default)]
pub struct EngineFlags;

/// Flags that say where and how the server listens.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerFlags;

/// Flags that say how the shell samples.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShellFlags;

/// Flags that say what is logged.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogFlags;

impl FlagGroup for EngineFlags {
    const GROUP: Group = Group::Engine;
}

impl FlagGroup for ServerFlags {
    const GROUP: Group = Group::Server;
}

impl FlagGroup for ShellFlags {
    const GROUP: Group = Group::Shell;
}

impl FlagGroup for LogFlags {
    const GROUP: Group = Group::Log;
}

/// The flags of one group, as typed: read from the table, so that a setting is declared once.
#[derive(Clone, Debug, Default)]
pub struct Flags<G> {
    given: Vec<Given>,
    group: PhantomData<G>,
}

impl<G: FlagGroup> clap::Args for Flags<G> {
    fn augment_args(command: Command) -> Command {
        let defaults = Settings::default();
        SETTINGS.iter().filter(|setting| setting.group == G::GROUP).fold(command, |command, setting| {
            let default = setting.value(&defaults).unwrap_or_else(|| setting.field.unset().to_owned());
            let help = format!("{} [default: {default}] [env: {}]", setting.words(), setting.variable());
            let arg = Arg::new(setting.name)
                .long(setting.name)
                .visible_aliases(setting.aliases)
                .value_name(setting.field.placeholder())
                .help(help)
                .help_heading(G::GROUP.title())
                .action(ArgAction::Set)
                .value_parser(ValueParser::string())
                .allow_negative_numbers(true);
            command.arg(match setting.field.form() {
                Form::Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
                _ => arg,
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<G: FlagGroup> FromArgMatches for Flags<G> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut flags = Self { given: Vec::new(), group: PhantomData };
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        for setting in SETTINGS.iter().filter(|setting| setting.group == G::GROUP) {
            if let Some(text) = matches.get_one::<String>(setting.name) {
                self.given.push(Given { setting, text: text.clone(), origin: Origin::Flag });
            }
        }
        Ok(())
    }
}

/// What every command that runs an engine takes.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct EngineArgs {
    #[command(flatten)]
    engine: Flags<EngineFlags>,
    #[command(flatten)]
    log: Flags<LogFlags>,
    /// A TOML file of settings; flags and variables go before it [env: MINISGL_CONFIG]
    #[arg(long, value_name = "FILE", help_heading = "Settings")]
    config: Option<PathBuf>,
}

impl EngineArgs {
    fn resolve(self, base: Settings, environment: &Environment, others: Vec<Given>) -> Result<Outcome, ConfigError> {
        let path = self.config.or_else(|| environment.get("MINISGL_CONFIG").map(PathBuf::from));
        let file = path.map(|path| ConfigFile::read(&path)).transpose()?;
        let flags = [self.engine.given, self.log.given, others].concat();
        resolve(base, file.as_ref(), environment, flags)
    }
}

/// Serve a model over HTTP (`minisgl serve`)
#[derive(clap::Args, Clone, Debug, Default)]
pub struct ServeArgs {
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    server: Flags<ServerFlags>,
    #[command(flatten)]
    shell: Flags<ShellFlags>,
}

impl ServeArgs {
    /// Decides every setting, or says everything that is wrong.
    pub fn resolve(self, environment: &Environment) -> Result<Resolved<ServeSettings>, ConfigError> {
        self.outcome(environment).map(|outcome| Resolved::new(outcome, |settings| settings.serve))
    }

    pub(crate) fn outcome(self, environment: &Environment) -> Result<Outcome, ConfigError> {
        let others = [self.server.given, self.shell.given].concat();
        let mut outcome = self.engine.resolve(Settings::default(), environment, others)?;
        apply_shell_mode(&mut outcome)?;
        Ok(outcome)
    }
}

/// Fetch the default model, serve it on a free port and replay the shipped trace against it (`minisgl demo`)
#[derive(clap::Args, Clone, Debug, Default)]
pub struct DemoArgs {
    #[command(flatten)]
    engine: EngineArgs,
}

impl DemoArgs {
    /// Decides every setting. The port is a free one unless variable or file set it; there is no shell.
    pub fn resolve(self, environment: &Environment) -> Result<Resolved<ServeSettings>, ConfigError> {
        let mut base = Settings::default();
        base.serve.port = 0;
        let outcome = self.engine.resolve(base, environment, Vec::new())?;
        Ok(Resolved::new(outcome, |settings| ServeSettings { shell: false, ..settings.serve }))
    }
}

/// Talk to a model in a shell (`minisgl chat`)
#[derive(clap::Args, Clone, Debug, Default)]
pub struct ChatArgs {
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    shell: Flags<ShellFlags>,
}

impl ChatArgs {
    /// Decides every setting: one running request, and no random weights.
    pub fn resolve(self, environment: &Environment) -> Result<Resolved<ChatSettings>, ConfigError> {
        let mut outcome = self.engine.resolve(Settings::default(), environment, self.shell.given)?;
        refuse_dummy_weights(&outcome)?;
        one_running(&mut outcome, "the shell");
        Ok(Resolved::new(outcome, |settings| ChatSettings {
            engine: settings.serve.engine,
            shell: settings.serve.shell_sampling,
        }))
    }
}

const BENCH_DEFAULTS: &str = "Defaults of bench that differ from serve's: --page-size 256, --max-prefill-length 16384, \
                              --max-decode-gap 0, --cache-type naive (prompts are random: there is nothing to share).";

/// mini-sglang's `bench.py`: large pages and chunks, and no prefix cache. Nobody waits for a single token.
fn bench_defaults() -> Settings {
    let mut base = Settings::default();
    base.serve.engine.page_size = Some(256);
    base.serve.engine.max_prefill_length = 16_384;
    base.serve.engine.max_decode_gap = 0.0;
    base.serve.engine.cache_type = CacheType::Naive;
    base
}

/// How many tokens a second, all sequences at once (`minisgl bench offline`)
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = BENCH_DEFAULTS)]
pub struct BenchOfflineArgs {
    #[command(flatten)]
    engine: EngineArgs,
    /// Sequences
    #[arg(long, value_name = "N", default_value = "256", value_parser = sequences)]
    num_seqs: usize,
    /// Prompt tokens of a sequence: a number, or A-B for uniform draws
    #[arg(long, value_name = "A[-B]", default_value = "100-1024")]
    input_len: LengthRange,
    /// Output tokens of a sequence: a number, or A-B for uniform draws
    #[arg(long, value_name = "A[-B]", default_value = "100-1024")]
    output_len: LengthRange,
    /// Ask recorded questions instead, and let answers end by themselves: a parquet or JSON file of chats, or `wildchat`
    /// (downloaded once); the first --num-seqs questions in English or Chinese that are neither redacted nor toxic
    #[arg(long, value_name = "FILE|wildchat", conflicts_with_all = ["input_len", "output_len"])]
    dataset: Option<String>,
    /// Most output tokens of an answer to the dataset's questions
    #[arg(long, value_name = "N", default_value = "4096", value_parser = prompt_length, requires = "dataset")]
    max_output_len: usize,
    /// Seed of lengths, prompts and sampling
    #[arg(long, value_name = "N", default_value = "0")]
    seed: u64,
    /// Temperature; 0 is greedy
    #[arg(long, value_name = "X", default_value = "0.6", value_parser = temperature)]
    temperature: f64,
    /// One JSON object a line on stdout, all else on stderr
    #[arg(long)]
    json: bool,
}

impl BenchOfflineArgs {
    /// Decides every setting.
    pub fn resolve(self, environment: &Environment) -> Result<Resolved<BenchOfflineSettings>, ConfigError> {
        let outcome = self.engine.resolve(bench_defaults(), environment, Vec::new())?;
        Ok(Resolved::new(outcome, |settings| BenchOfflineSettings {
            engine: settings.serve.engine,
            num_seqs: self.num_seqs,
            input_len: self.input_len,
            output_len: self.output_len,
            dataset: self.dataset.map(|source| BenchDataset { source, max_output_len: self.max_output_len }),
            seed: self.seed,
            temperature: self.temperature,
            json: self.json,
        }))
    }
}

/// How many tokens a second in prefill and in decode, for each batch size (`minisgl bench batched`)
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = BENCH_DEFAULTS)]
pub struct BenchBatchedArgs {
    #[command(flatten)]
    engine: EngineArgs,
    /// Prompt tokens of a sequence
    #[arg(long, value_name = "N", default_value = "128", value_parser = prompt_length)]
    prompt_len: usize,
    /// Output tokens of a sequence, at least 2: the first is prefill's, the rest are decode's
    #[arg(long, value_name = "N", default_value = "128", value_parser = output_length)]
    output_len: usize,
    /// Batch sizes, in the order they are run
    #[arg(long, value_name = "N,…", default_value = "1,8,32", value_delimiter = ',', value_parser = batch_size)]
    batch: Vec<usize>,
    /// One JSON object a line on stdout, all else on stderr
    #[arg(long)]
    json: bool,
}

impl BenchBatchedArgs {
    /// Decides every setting; a largest batch that `--max-running-requests` would cut is an error, or raises its default.
    pub fn resolve(self, environment: &Environment) -> Result<Resolved<BenchBatchedSettings>, ConfigError> {
        const NAME: &str = "max-running-requests";
        let mut outcome = self.engine.resolve(bench_defaults(), environment, Vec::new())?;
        let largest = self.batch.iter().copied().max().unwrap_or(1);
        let running = &mut outcome.settings.serve.engine.max_running_requests;
        if largest > *running {
            let running_then = std::mem::replace(running, largest);
            if *outcome.origin(NAME) != Origin::Default {
                let problem = format!("--batch {largest}: {NAME} is {running_then}, so they would not run at once");
                return Err(ConfigError::one(problem));
            }
            outcome.force(NAME, "batch");
        }
        Ok(Resolved::new(outcome, |settings| BenchBatchedSettings {
            engine: settings.serve.engine,
            prompt_len: self.prompt_len,
            output_len: self.output_len,
            batch: self.batch,
            json: self.json,
        }))
    }
}

/// How far next-token distributions are from those of float32 on the same weights (`minisgl bench accuracy`)
#[derive(clap::Args, Clone, Debug)]
pub struct BenchAccuracyArgs {
    #[command(flatten)]
    engine: EngineArgs,
    /// A text in UTF-8, cut into chunks; otherwise 19 KB of "Alice's Adventures in Wonderland"
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Tokens a chunk; each position of its second half is compared, as llama-perplexity does
    #[arg(long, value_name = "N", default_value = "512", value_parser = chunk_length)]
    context: usize,
    /// One JSON object on stdout, all else on stderr
    #[arg(long)]
    json: bool,
}

impl BenchAccuracyArgs {
    /// Decides every setting. One sequence runs at a time, and nothing more is held for it unless asked for.
    pub fn resolve(self, environment: &Environment) -> Result<Resolved<BenchAccuracySettings>, ConfigError> {
        let mut base = bench_defaults();
        base.serve.engine.max_running_requests = 1;
        base.serve.engine.max_prefill_length = self.context.min(512);
        base.serve.engine.num_pages = Some(self.context.div_ceil(base.serve.engine.page_size()));
        let mut outcome = self.engine.resolve(base, environment, Vec::new())?;
        if *outcome.origin("num-pages") == Origin::Default {
            let engine = &mut outcome.settings.serve.engine;
            engine.num_pages = Some(self.context.div_ceil(engine.page_size()));
        }
        Ok(Resolved::new(outcome, |settings| BenchAccuracySettings {
            engine: settings.serve.engine,
            text: self.text,
            context: self.context,
            json: self.json,
        }))
    }
}

/// How fast each operation of the CPU device is, beside the machine's ceilings and a copy (`minisgl kernels bench`)
#[derive(clap::Args, Clone, Debug)]
pub struct KernelsBenchArgs {
    /// Threads that compute; 0 is all cores
    #[arg(long, value_name = "N", default_value = "0", value_parser = threads)]
    pub threads: usize,
    /// Only cases whose name and shape contain this: `attend`, `Q4_1 8 x`, `logits`
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub only: String,
    /// Seconds of repetitions a case
    #[arg(long, value_name = "S", default_value = "0.3", value_parser = repetitions)]
    pub seconds: f64,
    /// One JSON object a line on stdout, all else on stderr
    #[arg(long)]
    pub json: bool,
}

fn within(text: &str, min: usize, max: usize) -> Result<usize, String> {
    let inside = text.parse().ok().filter(|n| (min..=max).contains(n));
    inside.ok_or_else(|| format!("expected a whole number from {min} to {max}"))
}

fn sequences(text: &str) -> Result<usize, String> {
    within(text, 1, 1 << 20)
}

fn prompt_length(text: &str) -> Result<usize, String> {
    within(text, 1, LONGEST)
}

fn output_length(text: &str) -> Result<usize, String> {
    within(text, 2, LONGEST)
}

fn chunk_length(text: &str) -> Result<usize, String> {
    within(text, 4, 1 << 20)
}

fn batch_size(text: &str) -> Result<usize, String> {
    within(text, 1, 65_536)
}

fn threads(text: &str) -> Result<usize, String> {
    within(text, 0, 1024)
}

fn repetitions(text: &str) -> Result<f64, String> {
    let inside = text.parse().ok().filter(|s| (0.001..=60.0).contains(s));
    inside.ok_or_else(|| "expected a number from 0.001 to 60".to_owned())
}

fn temperature(text: &str) -> Result<f64, String> {
    let inside = text.parse().ok().filter(|t| (0.0..=2.0).contains(t));
    inside.ok_or_else(|| "expected a number from 0 to 2".to_owned())
}
