//! `minisgl loadgen plan`'s settings: which load, which latency it must keep, which simulated GPUs are asked.
//!
//! Owns the flags and their bounds. Simulates nothing.
use std::path::PathBuf;

use super::settings::Slo;
use super::values::{self, MOST_REQUESTS};
use super::{JsonOutput, LoadgenArgsError, TraceSource, inspect};
use crate::{CacheType, DeviceKind, EngineSettings, SimSettings};

/// Size a deployment without hardware: how much of a trace each simulated profile holds within an SLO, and how many replicas
/// the load needs. Every figure is simulated
#[derive(clap::Args, Clone, Debug)]
pub struct PlanArgs {
    /// The load: a trace in any of the forms that run and inspect take, `shipped`, or `qwen`
    #[arg(long, value_name = "FILE|shipped|qwen", value_parser = inspect::source)]
    pub trace: TraceSource,

    /// What a request must keep within: ttft, tpot (its mean time a token after the first) and e2e, as ttft=500ms,tpot=50ms
    #[arg(long, value_name = "NAME=TIME,…", value_parser = values::slo)]
    pub slo: Slo,

    /// The share of requests that must keep within it
    #[arg(long, value_name = "X", default_value_t = 0.99, value_parser = values::share)]
    pub slo_share: f64,

    /// Profiles to ask: names, or files of your own [default: all that name a model]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub profile: Vec<String>,

    /// Requests a second that must be served [default: the trace's own]
    #[arg(long, value_name = "R", value_parser = values::rate)]
    pub rate: Option<f64>,

    /// When requests come: at the trace's own times, or, where its clock is too coarse for that, at random (poisson) or evenly
    #[arg(long, value_name = "trace|poisson|even", default_value = "trace", value_enum)]
    pub arrival: PlanArrival,

    /// Seed of --arrival poisson
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// The trace's first N requests only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MOST_REQUESTS))]
    pub limit: Option<u64>,

    /// Tokens a K/V page
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1024), help_heading = "Server")]
    pub page_size: u64,

    /// Sequences in the batch at once
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=65_536), help_heading = "Server")]
    pub max_running_requests: u64,

    /// Sequences that may wait beyond those; one more is refused, and so misses the SLO
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u64).range(0..=1 << 20), help_heading = "Server")]
    pub max_queued_requests: u64,

    /// Tokens a step, prefill chunks and decode rows together
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = clap::value_parser!(u64).range(1..=1 << 20), help_heading = "Server")]
    pub max_prefill_length: u64,

    /// Share of the GPUs' memory that weights and K/V take
    #[arg(long, value_name = "X", default_value_t = 0.9, value_parser = values::share, help_heading = "Server")]
    pub memory_ratio: f64,

    /// Keep no prefixes (as serve --cache-type naive)
    #[arg(long, help_heading = "Server")]
    pub no_prefix_cache: bool,

    /// Write the result as JSON; `-` is stdout (the table then goes to stderr)
    #[arg(long, value_name = "FILE|-", help_heading = "Report")]
    pub json: Option<String>,

    /// Write plan.json and plan.html, a page with the table and a plot that needs no network, into this folder
    #[arg(long, value_name = "DIR", help_heading = "Report")]
    pub out: Option<PathBuf>,
}

/// What `minisgl loadgen plan` runs with.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanSettings {
    /// The load.
    pub source: TraceSource,
    /// First requests only.
    pub limit: Option<usize>,
    /// What a request must keep within.
    pub slo: Slo,
    /// The share of requests that must.
    pub share: f64,
    /// Requests a second to serve; `None` is the trace's own.
    pub rate: Option<f64>,
    /// When requests come.
    pub arrival: PlanArrival,
    /// Of random arrivals.
    pub seed: u64,
    /// Settings of the server a profile, which [`EngineSettings::sim`] names; never empty.
    pub servers: Vec<EngineSettings>,
    /// Where the JSON goes, besides the table.
    pub json: Option<JsonOutput>,
    /// Where page and JSON go.
    pub out: Option<PathBuf>,
}

/// `--arrival`
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PlanArrival {
    /// At the trace's own times.
    Trace,
    /// At the trace's rate, independently of each other.
    Poisson,
    /// At the trace's rate, one like the other.
    Even,
}

impl PlanArgs {
    /// Decides every setting.
    ///
    /// # Errors
    /// A profile that is not there, an empty name.
    pub fn resolve(self) -> Result<PlanSettings, LoadgenArgsError> {
        let profiles = match self.profile.is_empty() {
            true => crate::sim::model_profile_names().map(str::to_owned).collect(),
            false => self.profile.clone(),
        };
        for name in &profiles {
            crate::sim::check_name(name).map_err(|why| LoadgenArgsError(format!("--profile {name}: {why}")))?;
        }
        let server = |profile: &String| EngineSettings {
            device: DeviceKind::Sim,
            page_size: Some(self.page_size as usize),
            max_running_requests: self.max_running_requests as usize,
            max_queued_requests: self.max_queued_requests as usize,
            max_prefill_length: self.max_prefill_length as usize,
            memory_ratio: self.memory_ratio,
            cache_type: if self.no_prefix_cache { CacheType::Naive } else { CacheType::Radix },
            sim: SimSettings { profile: Some(profile.clone()), ..SimSettings::default() },
            ..EngineSettings::default()
        };
        Ok(PlanSettings {
            source: self.trace,
            limit: self.limit.map(|limit| limit as usize),
            slo: self.slo,
            share: self.slo_share,
            rate: self.rate,
            arrival: self.arrival,
            seed: self.seed,
            servers: profiles.iter().map(server).collect(),
            json: self.json.map(|json| match json.as_str() {
                "-" => JsonOutput::Stdout,
                _ => JsonOutput::File(PathBuf::from(json)),
            }),
            out: self.out,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::{Args, Command, FromArgMatches};

    use super::*;
    use crate::sim::profile_names;

    fn plan(words: &[&str]) -> Result<PlanSettings, String> {
        let command = PlanArgs::augment_args(Command::new("plan").no_binary_name(true));
        let matches = command.try_get_matches_from(words).map_err(|error| error.to_string())?;
        PlanArgs::from_arg_matches(&matches).unwrap().resolve().map_err(|error| error.to_string())
    }

    #[test]
    fn trace_and_slo_suffice() {
        let settings = plan(&["--trace", "t.jsonl", "--slo", "ttft=500ms,tpot=0.05s"]).unwrap();
        let slo = Slo { ttft: Some(Duration::from_millis(500)), tpot: Some(Duration::from_millis(50)), e2e: None };
        assert_eq!((settings.slo, settings.share, settings.arrival), (slo, 0.99, PlanArrival::Trace));
        let profiles: Vec<_> = settings.servers.iter().map(|server| server.sim.profile.as_deref().unwrap()).collect();
        assert_eq!(profiles, ["1xh200-qwen3-0.6b", "1xh200-qwen3-14b", "4xh200-qwen3-32b"]);
        assert!(settings.servers.iter().all(|server| server.device == DeviceKind::Sim && server.page_size() == 16));
        let named = plan(&["--trace", "qwen", "--slo", "e2e=1m", "--profile", "mine.toml,h200", "--no-prefix-cache"]);
        let named = named.unwrap();
        assert_eq!((named.source, named.servers.len()), (TraceSource::Public(crate::loadgen::PublicTrace::qwen()), 2));
        assert_eq!(named.servers[0].cache_type, CacheType::Naive);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (slo, message) in [
            ("itl=5ms", "bounds are ttft=500ms, tpot=50ms and e2e=10s"),
            ("ttft=0", "has ttft=0, which"),
            ("ttft=1s,ttft=2s", "each at most once"),
        ] {
            let said = plan(&["--trace", "t", "--slo", slo]).unwrap_err();
            assert!(said.contains(message) && said.contains("--slo"), "{slo}: {said}");
        }
        let said = plan(&["--trace", "t", "--slo", "ttft=1s", "--profile", "list"]).unwrap_err();
        assert!(profile_names().all(|name| said.contains(name)) && said.contains("--profile list"), "{said}");
        for words in [["--slo-share", "1.1"], ["--slo-share", "0"], ["--rate", "0"], ["--page-size", "0"]] {
            let words = [&["--trace", "t", "--slo", "ttft=1s"], &words[..]].concat();
            assert!(plan(&words).unwrap_err().contains(words[4]));
        }
        assert!(plan(&["--trace", "t"]).unwrap_err().contains("--slo"));
    }
}
