//! `minisgl loadgen`'s settings, as typed ([`LoadgenArgs`]) and as resolved ([`LoadgenSettings`]), and the traces that ship.
//!
//! Owns the flags, their bounds, which of them exclude each other, and the public trace's address. Reads no trace and
//! makes no connection: what a workload means is the load generator's to know.
//!
//! ```text
//!   args.rs      the flags as typed           values.rs   how their values are spelled, and their bounds
//!   resolve.rs   which go together ─▶ settings.rs: plain data that is consistent, whatever was typed
//!   presets.rs   whole experiments by name    command.rs  the commands below `loadgen`, a file each
//! ```
mod args;
pub mod command;
pub mod compare;
pub mod inspect;
pub mod plan;
mod presets;
pub mod report;
mod resolve;
pub mod self_test;
pub mod settings;
mod url;
mod values;

pub use args::LoadgenArgs;
pub use resolve::LoadgenArgsError;
pub use settings::{JsonOutput, LengthRules, Settings as LoadgenSettings, TraceSource};
pub use url::ServerUrl;

/// The trace that ships: 32 requests over 20 s in the Qwen-Bailian format, made by `config/traces/make_demo.py`.
pub const SHIPPED_TRACE: &str = include_str!("traces/demo.jsonl");

/// The shipped trace's name in messages.
pub const SHIPPED_TRACE_NAME: &str = "config/traces/demo.jsonl";

/// A trace that is published, too large to ship.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicTrace {
    /// Where it is.
    pub url: String,
    /// Its file name in the cache.
    pub file: String,
}

impl PublicTrace {
    /// The trace that mini-sglang's `bench_qwen.py` replays: `config/traces/qwen.toml`.
    pub fn qwen() -> Self {
        toml::from_str(include_str!("traces/qwen.toml")).expect("config/traces/qwen.toml is part of this program")
    }
}

#[cfg(test)]
mod tests;
