//! From `minisgl loadgen`'s flags to its settings.
//!
//! Owns which flags go together, what each lacks, and the defaults. What one value may be, clap has checked (`values.rs`).
use std::path::PathBuf;
use std::time::Duration;

use super::args::{ArrivalKind, LoadgenArgs};
use super::settings::{
    Arrival, CaCert, Cancel, FindMaxRate, JsonOutput, LengthClass, LengthRules, Load, Preset, PromptKind, Report, Runs,
    Server, Settings, Source, TraceSource, Turns, Workload,
};
use super::{PublicTrace, presets};

/// Flags that do not go together, or that lack one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LoadgenArgsError(pub(super) String);

type Checked<T> = Result<T, LoadgenArgsError>;

fn wrong<T>(problem: impl Into<String>) -> Checked<T> {
    Err(LoadgenArgsError(problem.into()))
}

/// What a command finds around it.
pub(super) struct Surroundings<'a> {
    /// The environment.
    pub(super) variable: &'a dyn Fn(&str) -> Option<String>,
    /// The words of the command.
    pub(super) words: Vec<String>,
}

/// A closed loop's places open one after another, so far apart, within this time at most: a burst's own queueing would
/// stand in every figure of its first requests.
const RAMP_A_PLACE: Duration = Duration::from_millis(10);
const LONGEST_RAMP: Duration = Duration::from_secs(10);

/// Flags that only a trace gives a meaning.
const TRACE_FLAGS: [&str; 5] = ["--time-scale", "--limit", "--turns", "--input-len-scale", "--output-len-scale"];

/// An error if any of `flags` was given beside `mode`, for which it has no meaning; `instead` says what has.
pub(super) fn refused(args: &LoadgenArgs, mode: &str, flags: &[&str], instead: &str) -> Checked<()> {
    match flags.iter().find(|flag| args.given(flag)) {
        Some(flag) => wrong(format!("{flag} does not go with {mode}: {instead}")),
        None => Ok(()),
    }
}

impl LoadgenArgs {
    /// Checks the flags against each other; everything else clap has checked. An API key that was not typed is looked for
    /// in the environment.
    pub fn resolve(self) -> Result<Settings, LoadgenArgsError> {
        let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
        self.resolve_in(&Surroundings { variable: &|name| std::env::var(name).ok(), words })
    }

    pub(super) fn resolve_in(mut self, around: &Surroundings<'_>) -> Checked<Settings> {
        let preset = presets::apply(&mut self)?;
        self.spread_sweep()?;
        self.one_of_each()?;
        let workload = self.workload()?;
        let points = self.points(&workload)?;
        let runs = self.runs(&points, preset)?;
        let seed = self.seed;
        let report = self.report(around)?;
        let server = self.server(around)?;
        Ok(Settings { server, workload, points, runs, seed, report, preset })
    }

    pub(super) fn given(&self, flag: &str) -> bool {
        match flag {
            "--trace" => self.trace.is_some(),
            "--num-requests" => self.num_requests.is_some(),
            "--duration" => self.duration.is_some(),
            "--input-len" => self.input_len.is_some(),
            "--output-len" => self.output_len.is_some(),
            "--length-mix" => self.length_mix.is_some(),
            "--shared-prefix" => self.shared_prefix.is_some(),
            "--time-scale" => !self.time_scale.is_empty(),
            "--rate" => !self.rate.is_empty(),
            "--concurrency" => !self.concurrency.is_empty(),
            "--sweep" => self.sweep.is_some(),
            "--find-max-rate" => self.find_max_rate,
            "--arrival" => self.arrival.is_some(),
            "--burstiness" => self.burstiness.is_some(),
            "--ramp" => self.ramp.is_some(),
            "--limit" => self.limit.is_some(),
            "--turns" => self.turns.is_some(),
            "--input-len-scale" => self.input_len_scale.is_some(),
            "--output-len-scale" => self.output_len_scale.is_some(),
            "--slo-share" => self.slo_share.is_some(),
            "--precision" => self.precision.is_some(),
            "--temperature" => self.temperature.is_some(),
            "--strict-openai" => self.strict_openai,
            _ => unreachable!("a flag of this command"),
        }
    }

    /// A sweep is its flag with several values.
    fn spread_sweep(&mut self) -> Checked<()> {
        use super::values::Sweep;
        let Some(sweep) = &self.sweep else {
            return Ok(());
        };
        let flag = sweep.flag();
        if self.given(flag) {
            return wrong(format!("--sweep has {flag}'s values already: leave {flag} out"));
        }
        match sweep.clone() {
            Sweep::Rate(rates) => self.rate = rates,
            Sweep::Scale(scales) => self.time_scale = scales,
            Sweep::Concurrency(places) => self.concurrency = places,
        }
        Ok(())
    }

    /// What says when requests are sent is said once.
    fn one_of_each(&self) -> Checked<()> {
        let loads = ["--time-scale", "--rate", "--concurrency"];
        let mut given = loads.iter().filter(|flag| self.given(flag));
        if let (Some(one), Some(other)) = (given.next(), given.next()) {
            return wrong(format!("{one} and {other} exclude each other: both say when requests are sent"));
        }
        if self.length_mix.is_some() {
            refused(self, "--length-mix", &["--input-len", "--output-len"], "each class has its own lengths")?;
        }
        Ok(())
    }

    fn workload(&self) -> Checked<Workload> {
        let source = match &self.trace {
            Some(trace) => self.trace_source(trace)?,
            None => self.drawn_source()?,
        };
        let drawn = matches!(source, Source::Drawn { .. });
        let turns = self.turns.unwrap_or_default();
        match self.prompts {
            Some(PromptKind::Hash) if drawn => {
                return wrong("--prompts hash takes a trace's ids: give --trace with one that has them");
            }
            Some(PromptKind::Shared) if turns == Turns::Causal => {
                return wrong(
                    "--prompts shared does not go with --turns causal: a turn's prompt quotes the answer before it",
                );
            }
            Some(PromptKind::Shared) if self.shared_prefix.is_some() => {
                return wrong("--prompts shared does not go with --shared-prefix: give one kind of sharing");
            }
            _ => {}
        }
        let cancel = match (self.cancel_rate, self.cancel_after) {
            (Some(rate), Some(after)) => Some(Cancel { rate, after }),
            (None, None) => None,
            (Some(_), None) => return wrong("--cancel-rate needs --cancel-after D: when those clients leave"),
            (None, Some(_)) => return wrong("--cancel-after needs --cancel-rate P: which share of clients leaves"),
        };
        Ok(Workload {
            source,
            lengths: self.length_rules(),
            prompts: self.prompts,
            turns,
            duration: self.duration,
            cancel,
        })
    }

    fn trace_source(&self, trace: &str) -> Checked<Source> {
        refused(self, "--trace", &["--num-requests"], "--limit N takes a trace's first N requests")?;
        let lengths = ["--input-len", "--output-len", "--length-mix"];
        let own = "a trace has its own lengths; see --input-len-scale, --max-input-len and theirs for outputs";
        refused(self, "--trace", &lengths, own)?;
        refused(self, "--trace", &["--shared-prefix"], "a trace's ids say what is shared (--prompts)")?;
        let file = match trace {
            "" => return wrong("--trace is empty: give a file, `shipped` or `qwen`"),
            "shipped" => TraceSource::Shipped,
            "qwen" => TraceSource::Public(PublicTrace::qwen()),
            file => TraceSource::File(PathBuf::from(file)),
        };
        Ok(Source::Trace { file, limit: self.limit.map(|limit| limit as usize) })
    }

    fn drawn_source(&self) -> Checked<Source> {
        let Some(mode) = ["--concurrency", "--rate", "--find-max-rate"].into_iter().find(|flag| self.given(flag))
        else {
            if let Some(flag) = TRACE_FLAGS.iter().find(|flag| self.given(flag)) {
                return wrong(format!("{flag} is for --trace, which is not given"));
            }
            return wrong(
                "nothing to send: give --trace FILE (or `--trace shipped`, the small trace inside this program), or \
                 --concurrency N or --rate R with --num-requests M --input-len A-B --output-len A-B, or --preset NAME",
            );
        };
        refused(self, mode, &TRACE_FLAGS, "it is for --trace")?;
        let lacks = |what: &str| LoadgenArgsError(format!("{mode} needs {what} beside it, or --trace"));
        if self.num_requests.is_none() && self.duration.is_none() {
            return Err(lacks("--num-requests M or --duration D"));
        }
        let most = self.concurrency.iter().max().copied().unwrap_or(0);
        if let Some(n) = self.num_requests.filter(|&n| n < most) {
            return wrong(format!(
                "--num-requests {n} cannot keep --concurrency {most} in flight: give at least as many"
            ));
        }
        let mix = match &self.length_mix {
            Some(mix) => mix.0.clone(),
            None => vec![LengthClass {
                name: String::new(),
                weight: 1.0,
                input: self.input_len.clone().ok_or_else(|| lacks("--input-len"))?,
                output: self.output_len.clone().ok_or_else(|| lacks("--output-len"))?,
            }],
        };
        let num_requests = self.num_requests.map(|n| n as usize);
        Ok(Source::Drawn { mix, shared_prefix: self.shared_prefix, num_requests })
    }

    fn length_rules(&self) -> LengthRules {
        LengthRules {
            input_scale: self.input_len_scale.unwrap_or(1.0),
            output_scale: self.output_len_scale.unwrap_or(1.0),
            max_input: self.max_input_len,
            max_output: self.max_output_len,
        }
    }

    fn points(&self, workload: &Workload) -> Checked<Vec<Load>> {
        let traced = matches!(workload.source, Source::Trace { .. });
        let spread = ["--arrival", "--burstiness"];
        if !self.concurrency.is_empty() {
            refused(self, "--concurrency", &spread, "a closed loop sends when a place is free")?;
            let ramp = |n: u64| self.ramp.unwrap_or(LONGEST_RAMP.min(RAMP_A_PLACE.saturating_mul(n as u32 - 1)));
            let point = |&n: &u64| Load::Closed { concurrency: n as usize, ramp: ramp(n) };
            return Ok(self.concurrency.iter().map(point).collect());
        }
        if !self.rate.is_empty() || !traced {
            let (arrival, ramp) = (self.arrival()?, self.ramp.unwrap_or_default());
            if self.find_max_rate {
                refused(self, "--find-max-rate", &["--ramp"], "each rate is held from its start")?;
            }
            let rates = if self.rate.is_empty() { &[1.0] } else { self.rate.as_slice() };
            return Ok(rates.iter().map(|&per_s| Load::Rate { per_s, arrival, ramp }).collect());
        }
        refused(self, "a trace's own times", &spread, "give --rate R to send its requests at other times")?;
        refused(self, "a trace's own times", &["--ramp"], "it is for --concurrency and --rate")?;
        let scales = if self.time_scale.is_empty() { &[1.0] } else { self.time_scale.as_slice() };
        Ok(scales.iter().map(|&scale| Load::TraceTimes { scale }).collect())
    }

    fn arrival(&self) -> Checked<Arrival> {
        match (self.arrival, self.burstiness) {
            (Some(ArrivalKind::Constant), None) => Ok(Arrival::Constant),
            (Some(ArrivalKind::Poisson) | None, None) => Ok(Arrival::Poisson),
            (Some(ArrivalKind::Gamma) | None, Some(burstiness)) => Ok(Arrival::Gamma { burstiness }),
            (Some(ArrivalKind::Gamma), None) => {
                wrong("--arrival gamma needs --burstiness SHAPE (1 is Poisson, below 1 is burstier)")
            }
            (Some(ArrivalKind::Constant | ArrivalKind::Poisson), Some(_)) => {
                wrong("--burstiness is the shape of --arrival gamma")
            }
        }
    }

    fn runs(&self, points: &[Load], preset: Option<Preset>) -> Checked<Runs> {
        let find_max_rate = match self.find_max_rate {
            true => Some(self.search(points)?),
            false => {
                let of_search = ["--slo-share", "--precision"];
                if let Some(flag) = of_search.iter().find(|flag| self.given(flag)) {
                    return wrong(format!("{flag} is for --find-max-rate"));
                }
                None
            }
        };
        Ok(Runs {
            repeat: self.repeat.unwrap_or(1) as usize,
            warmup: self.warmup.unwrap_or(0) as usize,
            connection_test: preset == Some(Preset::BenchSimple),
            find_max_rate,
        })
    }

    fn search(&self, points: &[Load]) -> Checked<FindMaxRate> {
        let own = ["--concurrency", "--sweep", "--time-scale"];
        refused(self, "--find-max-rate", &own, "it tries rates; give the first with --rate")?;
        if self.slo.is_none() {
            return wrong("--find-max-rate needs --slo, e.g. --slo ttft=500ms,tpot=50ms");
        }
        let (start, arrival) = match points {
            [Load::Rate { per_s, arrival, .. }] => (*per_s, *arrival),
            [_] => (1.0, Arrival::Poisson),
            _ => return wrong("--find-max-rate begins at one --rate: give one value"),
        };
        let (share, precision) = (self.slo_share.unwrap_or(0.99), self.precision.unwrap_or(0.05));
        Ok(FindMaxRate { share, start, precision, arrival })
    }

    fn report(&self, around: &Surroundings<'_>) -> Checked<Report> {
        let default = Report::default();
        Ok(Report {
            json: match self.json.as_deref() {
                None => None,
                Some("") => return wrong("--json is empty: give a file, or - for stdout"),
                Some("-") => Some(JsonOutput::Stdout),
                Some(file) => Some(JsonOutput::File(PathBuf::from(file))),
            },
            out: self.out.clone(),
            raw: self.raw.clone(),
            compat: self.metrics_compat.clone(),
            slo: self.slo.clone().unwrap_or_default(),
            warmup_window: self.warmup_window,
            max_lag: self.max_lag.unwrap_or(default.max_lag),
            strict: self.strict,
            metrics_port: self.metrics_port,
            scrape: !self.no_scrape,
            command: without_secrets(&around.words),
        })
    }

    fn server(self, around: &Surroundings<'_>) -> Checked<Server> {
        let named = |flag: &str, value: &Option<String>| match value {
            Some(value) if value.trim().is_empty() => wrong(format!("{flag} is empty")),
            _ => Ok(()),
        };
        named("--model", &self.model)?;
        named("--tokenizer", &self.tokenizer)?;
        if self.endpoint == super::settings::Endpoint::Generate {
            let greedy = "that route is greedy and takes prompt, max_tokens and ignore_eos only (see --extra-body)";
            refused(&self, "--endpoint generate", &["--temperature"], greedy)?;
            refused(&self, "--endpoint generate", &["--strict-openai"], "OpenAI's API has no such route")?;
        }
        let api_key = self.api_key(around)?;
        let ca_cert = self.ca_cert(around)?;
        let default = Server::default();
        Ok(Server {
            url: self.url,
            endpoint: self.endpoint,
            model: self.model,
            tokenizer: self.tokenizer,
            api_key,
            headers: self.header,
            ca_cert,
            extra_body: self.extra_body.unwrap_or_default().0,
            strict_openai: self.strict_openai,
            ignore_eos: !self.no_ignore_eos,
            temperature: self.temperature.unwrap_or(default.temperature),
            timeout: self.timeout.unwrap_or(default.timeout),
            keep_alive: !self.disable_keepalive,
            threads: self.threads.map_or(default.threads, |n| n as usize),
        })
    }

    fn ca_cert(&self, around: &Surroundings<'_>) -> Checked<Option<CaCert>> {
        match &self.ca_cert {
            Some(path) if path.as_os_str().is_empty() => wrong("--ca-cert is empty: give a PEM file"),
            Some(_) if !self.url.https => {
                wrong(format!("--ca-cert is for https, and --url is {}: give an https:// URL", self.url))
            }
            Some(path) => Ok(Some(CaCert { path: path.clone(), named_by: "--ca-cert" })),
            // Set for a whole machine: it says nothing of a server without TLS.
            None => Ok((around.variable)("SSL_CERT_FILE")
                .filter(|path| self.url.https && !path.is_empty())
                .map(|path| CaCert { path: PathBuf::from(path), named_by: "SSL_CERT_FILE" })),
        }
    }

    fn api_key(&self, around: &Surroundings<'_>) -> Checked<Option<String>> {
        let authorized = self.header.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        let (name, key) = match &self.api_key {
            Some(_) if authorized => return wrong("--api-key and --header Authorization say the same: give one"),
            Some(key) => ("--api-key", Some(key.clone())),
            None if authorized => return Ok(None),
            None => {
                let variable = |name: &str| (around.variable)(name).filter(|key| !key.trim().is_empty());
                match variable("MINISGL_API_KEY") {
                    Some(key) => ("MINISGL_API_KEY", Some(key)),
                    // Not meant for this program alone: it is kept off the wire in plain text.
                    None if self.url.https || self.url.is_loopback() => ("OPENAI_API_KEY", variable("OPENAI_API_KEY")),
                    None => ("", None),
                }
            }
        };
        match key.map(|key| key.trim().to_owned()) {
            Some(key) if key.is_empty() => wrong(format!("{name} is empty")),
            Some(key) if !key.bytes().all(|b| b.is_ascii_graphic()) => {
                wrong(format!("{name} has a space or a character that no header may have"))
            }
            key => Ok(key),
        }
    }
}

/// Flags whose values are nobody's business.
const SECRET: [&str; 2] = ["--api-key", "--header"];

/// The command as a shell would take it, secrets left out.
fn without_secrets(words: &[String]) -> String {
    let mut shown = Vec::with_capacity(words.len());
    let mut hidden = false;
    for word in words {
        let flag = word.split_once('=').map_or(word.as_str(), |(flag, _)| flag);
        shown.push(if std::mem::take(&mut hidden) {
            "***".to_owned()
        } else if SECRET.contains(&flag) {
            hidden = flag == word;
            if hidden { word.clone() } else { format!("{flag}=***") }
        } else {
            quoted(word)
        });
    }
    shown.join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_=+.,:/@%".contains(&b);
    match !word.is_empty() && word.bytes().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}
