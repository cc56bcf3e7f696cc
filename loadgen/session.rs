//! One command against one server: finds it, prepares every run, runs them, hands them to the outputs.
//!
//! Owns the order of things, what is asked of the server besides the workload (its list of models), and the search for the
//! highest rate. Knows nothing of how requests are planned, sent or summed up.
use std::sync::Arc;
use std::time::{Duration, Instant};

use minisgl_config::loadgen::LoadgenSettings;
use minisgl_config::loadgen::settings::{Arrival, Endpoint, FindMaxRate, Load};
use serde_json::Value;

use crate::bodies::Batch;
use crate::client::{HeadOptions, Target, Trust, plain};
use crate::counters::Counters;
use crate::error::LoadgenError;
use crate::interrupt::Interrupt;
use crate::models::{self, Served};
use crate::parallel;
use crate::progress::metrics::MetricsServer;
use crate::progress::{ConsoleOptions, Progress, RunDisplay, Steps};
use crate::prompts::{Prompts, Wanted};
use crate::reading_threads;
use crate::records::Ledger;
use crate::report::{About, IdealCache, Outputs, RunReport, Terms};
use crate::request::{Job, Request, RunPlan, Start};
use crate::run::{self, More, RunOptions};
use crate::scrape::{Scraped, Scraper};
use crate::workload::{self, Settled, described};

/// A server that does not answer `/v1/models` within this has hung.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Prompts of more tokens than this take seconds to make.
const WORTH_A_NOTE: usize = 500_000;

/// Most steps of the search for the highest rate: each is a run.
const MOST_STEPS: usize = 24;

/// Highest rate that is tried, in requests a second or times the trace's own: a command that holds there sends too few
/// requests to find a limit.
const HIGHEST_RATE: f64 = 20_000.0;

/// Runs of their own, apart from those that are reported; each has prompts of its own.
const WARM_UP: u64 = u64::MAX - 2;
const CONNECTION_TEST: u64 = u64::MAX - 1;

/// Runs what `settings` ask for, see [`crate::run`].
pub(crate) fn run(
    settings: &LoadgenSettings,
    console: ConsoleOptions,
    interrupt: &Interrupt,
) -> Result<Vec<RunReport>, LoadgenError> {
    let outputs = Outputs::open(&settings.report, console)?;
    let planned = workload::plan(settings, console)?;
    let metrics = settings.report.metrics_port.map(MetricsServer::start).transpose().map_err(LoadgenError::Runtime)?;
    if let Some(metrics) = &metrics {
        console.note(&format!("own metrics at {}", metrics.url()));
    }
    let trust = Trust::open(settings.server.ca_cert.as_ref())?;
    let (target, served) = find(settings, &trust, console)?;
    let prompts = Prompts::open(Wanted {
        asked: settings.server.tokenizer.as_deref(),
        root: served.root.as_deref(),
        needed: planned.needs_tokenizer(),
        progress: console.progress != Progress::Off,
    })?;
    note_server(settings, &served, &prompts, console);
    let settled = planned.settle(&prompts, served.max_model_len, console)?;
    let mut session =
        Session { settings, console, interrupt, trust, target, served, prompts, settled, metrics, outputs, runs: 0 };
    session.before_all()?;
    match &settings.runs.find_max_rate {
        Some(find) => session.find_max_rate(find)?,
        None => session.points()?,
    }
    session.outputs.finish()
}

fn find(settings: &LoadgenSettings, trust: &Trust, console: ConsoleOptions) -> Result<(Target, Served), LoadgenError> {
    let server = &settings.server;
    let path = server.endpoint.path(&server.url);
    let head = HeadOptions {
        path: &path,
        api_key: server.api_key.as_deref(),
        headers: &server.headers,
        keep_alive: server.keep_alive,
    };
    let target = Target::find(&server.url, head, trust)
        .map_err(|error| LoadgenError::Connect { url: server.url.clone(), problem: plain(&error) })?;
    let problem = match list_models(settings, trust) {
        Ok(list) => match models::choose(&list, server.model.as_deref()) {
            Ok(served) => return Ok((target, served)),
            Err(problem) => problem,
        },
        Err(problem) => problem,
    };
    let url = server.url.clone();
    match &server.model {
        Some(id) => {
            console.note(&format!(
                "{url}/v1/models: {problem}; asking for `{id}` all the same, its context length unknown"
            ));
            Ok((target, Served::named(id)))
        }
        None => Err(LoadgenError::Models { url, problem }),
    }
}

fn list_models(settings: &LoadgenSettings, trust: &Trust) -> Result<Value, String> {
    let server = &settings.server;
    let mut request = trust.agent(ANSWER_WITHIN).get(format!("{}/v1/models", server.url));
    if let Some(key) = &server.api_key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    for (name, value) in &server.headers {
        request = request.header(name, value);
    }
    let text = request.call().and_then(|mut response| response.body_mut().read_to_string());
    serde_json::from_str(&text.map_err(|error| error.to_string())?).map_err(|error| format!("not JSON: {error}"))
}

fn note_server(settings: &LoadgenSettings, served: &Served, prompts: &Prompts, console: ConsoleOptions) {
    let holds = served.max_model_len.map_or(String::new(), |n| format!(", which holds {n} tokens"));
    let tokenizer = if prompts.name.is_empty() { "none" } else { &prompts.name };
    console.note(&format!("{}: model {}{holds}; tokenizer {tokenizer}", settings.server.url, served.id));
    if let Some(simulated) = &served.simulated {
        console.note(&format!(
            "SIMULATED: the server answers for {simulated}; no figure of it is a measurement of hardware"
        ));
    }
    if settings.server.endpoint == Endpoint::Chat
        && let Some(template) = prompts.template_tokens()
    {
        console.note(&format!("the chat template adds {template} tokens to each prompt, beside its own"));
    }
}

struct Session<'a> {
    settings: &'a LoadgenSettings,
    console: ConsoleOptions,
    interrupt: &'a Interrupt,
    trust: Trust,
    target: Target,
    served: Served,
    prompts: Prompts,
    settled: Settled,
    metrics: Option<MetricsServer>,
    outputs: Outputs,
    /// Runs so far: each has fresh prompts.
    runs: u64,
}

/// Which run it is.
#[derive(Clone, Copy)]
struct Which {
    load: Load,
    /// Of its point, from 1.
    repeat: u64,
}

/// What a run sends.
struct Work<'a> {
    jobs: Vec<Job>,
    more: Option<More<'a>>,
}

/// What one run says to a search.
struct Outcome {
    /// Of its requests, those that met all SLOs, where there are any.
    share: Option<f64>,
    valid: bool,
}

impl Session<'_> {
    /// What comes before all runs, where it was asked for.
    fn before_all(&self) -> Result<(), LoadgenError> {
        if self.settings.runs.connection_test {
            self.connection_test()?;
        }
        let n = self.settings.runs.warmup;
        if n > 0 {
            let plan = self.settled.warm_up(n);
            let jobs = self.jobs(&plan, WARM_UP)?;
            let work = Work { jobs, more: None };
            let ledger = self.execute(plan, work, self.console.without_table(), Arc::default())?.0;
            let failed = ledger.records.iter().filter(|record| record.failure().is_some()).count();
            self.console.note(&format!("warm-up: {n} requests, {failed} failed; none is in any figure"));
        }
        Ok(())
    }

    /// One small request that must succeed before many are sent.
    fn connection_test(&self) -> Result<(), LoadgenError> {
        let plan = self.settled.connection_test();
        let jobs = self.jobs(&plan, CONNECTION_TEST)?;
        let work = Work { jobs, more: None };
        let (ledger, _) = self.execute(plan, work, ConsoleOptions::silent(), Arc::default())?;
        match ledger.records[0].failure() {
            None => {
                self.console.note("connection test: fine");
                Ok(())
            }
            Some(failure) => {
                Err(LoadgenError::ConnectionTest { reason: failure.reason.to_string(), detail: failure.detail.clone() })
            }
        }
    }

    fn points(&mut self) -> Result<(), LoadgenError> {
        for &load in &self.settings.points {
            for repeat in 1..=self.settings.runs.repeat as u64 {
                if self.one(Which { load, repeat })?.is_none() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Doubles the rate from the first one until the SLOs break, or halves it until they hold, then bisects.
    fn find_max_rate(&mut self, find: &FindMaxRate) -> Result<(), LoadgenError> {
        let (mut holds, mut breaks) = (None::<f64>, None::<f64>);
        let mut rate = find.start;
        for _ in 0..MOST_STEPS {
            if rate > HIGHEST_RATE {
                break;
            }
            let Some(Outcome { share, valid }) = self.one(Which { load: self.settings.load_at(rate), repeat: 1 })?
            else {
                self.outputs.say("\nthe search was interrupted: it found no highest rate\n");
                return Ok(());
            };
            // A run whose requests were sent late says nothing of the rate that was asked for.
            let good = valid && share.is_some_and(|share| share >= find.share);
            let percent = share.unwrap_or(0.0) * 100.0;
            let verdict = if good { "hold" } else { "do not hold" };
            self.console.note(&format!("{}: the SLOs {verdict}: {percent:.1} % of requests meet all", self.rate(rate)));
            *(if good { &mut holds } else { &mut breaks }) = Some(rate);
            rate = match (holds, breaks) {
                (Some(low), Some(high)) if high - low <= find.precision * low => break,
                (Some(low), Some(high)) => (low + high) / 2.0,
                (Some(low), None) => low * 2.0,
                (None, Some(high)) => high / 2.0,
                (None, None) => unreachable!("one of them was set"),
            };
        }
        let found = match (holds, breaks) {
            (Some(low), Some(high)) => format!("{}; at {} they do not hold", self.rate(low), self.rate(high)),
            (Some(low), None) => format!(
                "at least {}; higher ones were not tried: with --duration, more requests come as the rate grows",
                self.rate(low)
            ),
            (None, _) => "none: they did not hold at the lowest rate that was tried".to_owned(),
        };
        self.outputs
            .say(&format!("\nhighest rate at which {:.0} % of requests meet all SLOs: {found}\n", find.share * 100.0));
        Ok(())
    }

    fn rate(&self, rate: f64) -> String {
        match self.settings.load_at(rate) {
            Load::TraceTimes { .. } => format!("{rate:.3} times the trace's rate"),
            _ => format!("{rate:.3} requests/s"),
        }
    }

    /// Prepares, runs and reports one run: none where it was interrupted, or did not begin for that.
    fn one(&mut self, which: Which) -> Result<Option<Outcome>, LoadgenError> {
        self.interrupt.keep_figures();
        let plan = self.settled.run(&which.load, which.repeat)?;
        let ideal = self.ideal(&plan);
        if plan.clamped != Default::default() {
            let (n, clamped) = (plan.requests.len(), plan.clamped);
            self.console.note(&format!(
                "the model's context: of {n} requests, {} prompts and {} outputs are shortened to fit",
                clamped.inputs, clamped.outputs,
            ));
        }
        self.note_turns(&plan);
        let jobs = self.jobs(&plan, self.runs)?;
        if self.interrupt.asked() {
            self.console.note("interrupted: the next run was not begun");
            return Ok(None);
        }
        let workload_digest = workload::digest(&plan, &self.settings.server, self.settings.seed);
        let more = plan.endless.then(|| self.more(&plan, self.runs, which.repeat));
        let counters = Arc::new(Counters::default());
        if let Some(metrics) = &self.metrics {
            metrics.show(counters.clone());
        }
        let (mut ledger, scraped) = self.execute(plan, Work { jobs, more }, self.console, counters)?;
        self.runs += 1;
        self.count_answers(&mut ledger)?;
        let report = &self.settings.report;
        let terms = Terms {
            slo: report.slo.clone(),
            warmup_window: report.warmup_window,
            max_lag: report.max_lag,
            classes: &self.settled.about.classes,
            ideal,
            server: &scraped.samples,
        };
        let summed =
            RunReport::of(&ledger, &terms, About { workload_digest: Some(workload_digest), ..self.about(which) });
        let share = summed.goodput.as_ref().and_then(|goodput| goodput.share);
        if self.runs == 1
            && let Some(problem) = scraped.problem.filter(|_| scraped.samples.is_empty())
        {
            self.console.note(&format!("no series of the server's own in the report: {problem}"));
        }
        let outcome = summed.interrupted.is_none().then_some(Outcome { share, valid: summed.valid });
        self.outputs.add(ledger, &scraped.samples, summed);
        Ok(outcome)
    }

    /// How long chats take to begin: a rate is of chats, and a long trace at a low one lasts.
    fn note_turns(&self, plan: &RunPlan) {
        let waits = |request: &&Request| matches!(request.start, Start::After { .. });
        let turns = plan.requests.iter().filter(waits).count();
        let begins = plan.requests.iter().filter_map(|request| match request.start {
            Start::At(at) => Some(at),
            Start::WhenFree | Start::After { .. } => None,
        });
        if turns > 0
            && let Some(last) = begins.max()
        {
            let chats = plan.requests.len() - turns;
            self.console.note(&format!(
                "{chats} chats begin over {:.1} s, and {turns} turns wait for the one before them; --limit N takes the first N \
                 requests, --duration D begins none after D",
                last.as_secs_f64()
            ));
        }
    }

    fn jobs(&self, plan: &RunPlan, run: u64) -> Result<Vec<Job>, LoadgenError> {
        let tokens: usize = plan.requests.iter().map(|request| request.lengths.input).sum();
        if tokens > WORTH_A_NOTE {
            self.console.note(&format!("preparing {} prompts of {tokens} tokens", plan.requests.len()));
        }
        let steps = Steps::start(self.console, "Preparing prompts", plan.requests.len());
        let batch = Batch {
            server: &self.settings.server,
            model: &self.served.id,
            seed: self.settings.seed,
            run,
            requests: &plan.requests,
            first: 0,
            threads: parallel::all(),
        };
        self.prepare(&batch, &|| steps.step())
    }

    fn prepare(&self, batch: &Batch<'_>, on_step: &(dyn Fn() + Sync)) -> Result<Vec<Job>, LoadgenError> {
        let mut jobs = batch.prepare(&self.prompts, on_step)?;
        if !self.prompts.name.is_empty() {
            // To be counted where the server does not say how many tokens there were.
            jobs.iter_mut().for_each(|job| job.keep_answer = true);
        }
        Ok(jobs)
    }

    /// Makes further requests of a loop that ends by time, beside the run: on one thread.
    fn more(&self, plan: &RunPlan, run: u64, repeat: u64) -> More<'_> {
        let mut first = plan.requests.len();
        Box::new(move |n| {
            let requests = self.settled.further(first, n, repeat);
            let batch = Batch {
                server: &self.settings.server,
                model: &self.served.id,
                seed: self.settings.seed,
                run,
                requests: &requests,
                first,
                threads: 1,
            };
            first += n;
            self.prepare(&batch, &|| ()).unwrap_or_else(|error| {
                self.console.note(&format!("no more requests, the run ends early: {error}"));
                Vec::new()
            })
        })
    }

    fn execute(
        &self,
        plan: RunPlan,
        Work { jobs, more }: Work<'_>,
        console: ConsoleOptions,
        counters: Arc<Counters>,
    ) -> Result<(Ledger, Scraped), LoadgenError> {
        let settings = self.settings;
        let total = jobs.len() as u64;
        let tokens: u64 = plan.requests.iter().map(|request| request.lengths.output as u64).sum();
        let display = RunDisplay::start(console, counters.clone(), [total, total, total, tokens.saturating_sub(total)]);
        let url = format!("{}/metrics", settings.server.url);
        let scraper = settings.report.scrape.then(|| Scraper::start(url, &self.trust, Instant::now()));
        let ledger = run::execute(RunOptions {
            target: &self.target,
            endpoint: settings.server.endpoint,
            jobs,
            places: plan.places,
            until: plan.until,
            more,
            timeout: settings.server.timeout,
            threads: reading_threads(settings.server.threads),
            keep_tics: self.outputs.wants_tics(),
            counters,
            interrupt: self.interrupt,
        })
        .map_err(LoadgenError::Runtime)?;
        drop(display);
        Ok((ledger, scraper.map(Scraper::stop).unwrap_or_default()))
    }

    /// Counts the answers' tokens by the tokenizer.
    fn count_answers(&self, ledger: &mut Ledger) -> Result<(), LoadgenError> {
        let answers = std::mem::take(&mut ledger.answers);
        for record in &mut ledger.records {
            let Some(escaped) = answers.get(&record.index).filter(|_| record.is_completed()) else { continue };
            let quoted = [b"\"", escaped.as_slice(), b"\""].concat();
            // Reasoning and tool calls are tokens too, and their text is not kept.
            if record.reasoning_chunks + record.tool_call_chunks == 0
                && let Ok(text) = serde_json::from_slice::<String>(&quoted)
            {
                record.tokenizer_count = self.prompts.count(&text)?.map(|n| n as u64);
            }
        }
        Ok(())
    }

    /// What a cache without bounds would have held of the plan's prompts.
    fn ideal(&self, plan: &RunPlan) -> Option<IdealCache> {
        let rate = self.settled.about.trace.as_ref()?.ideal_hit_rate?;
        let prompt_tokens: u64 = plan.requests.iter().map(|request| request.lengths.input as u64).sum();
        Some(IdealCache { prompt_tokens, cached_tokens: (rate * prompt_tokens as f64).round() as u64 })
    }

    fn about(&self, which: Which) -> About {
        let (settings, workload) = (self.settings, &self.settled.about);
        let mut about = About {
            workload: workload.name.clone(),
            trace_format: workload.trace.as_ref().map(|trace| trace.format.clone()),
            trace_sha256: workload.trace.as_ref().map(|trace| trace.sha256.clone()),
            repeat: which.repeat,
            url: settings.server.url.to_string(),
            endpoint: endpoint(settings.server.endpoint).to_owned(),
            model: self.served.id.clone(),
            tokenizer: self.prompts.name.clone(),
            prompts: workload.prompts.clone(),
            seed: settings.seed,
            simulated: self.served.simulated.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            command: settings.report.command.clone(),
            ..About::default()
        };
        match which.load {
            Load::TraceTimes { scale } => about.time_scale = Some(scale),
            Load::Rate { per_s, arrival, ramp } => {
                about.rate = Some(per_s);
                about.arrival = Some(match arrival {
                    Arrival::Constant => "constant".to_owned(),
                    Arrival::Poisson => "poisson".to_owned(),
                    Arrival::Gamma { burstiness } => format!("gamma {burstiness}"),
                });
                about.ramp_s = Some(ramp.as_secs_f64());
            }
            Load::Closed { concurrency, ramp } => {
                about.concurrency = Some(concurrency as u64);
                about.ramp_s = Some(ramp.as_secs_f64());
            }
        }
        if !matches!(which.load, Load::TraceTimes { .. }) {
            about.workload = format!("{}; {}", about.workload, described(&which.load));
        }
        about
    }
}

fn endpoint(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Chat => "chat",
        Endpoint::Completions => "completions",
        Endpoint::Generate => "generate",
    }
}
