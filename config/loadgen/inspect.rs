//! `minisgl loadgen inspect`: its flags.
use std::path::PathBuf;

use super::TraceSource;

/// Flags of a look into a trace.
#[derive(clap::Args, Clone, Debug, PartialEq)]
pub struct InspectArgs {
    /// A trace in any of the forms that --trace takes, `shipped`, or `qwen`
    #[arg(value_name = "FILE|shipped|qwen", value_parser = source)]
    pub trace: TraceSource,

    /// Look at the first N requests only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,

    /// Contexts, in tokens: how many requests need more
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "4096,8192,32768,131072")]
    pub contexts: Vec<usize>,

    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,

    /// Write a page of plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// A trace by what was typed.
pub(super) fn source(text: &str) -> Result<TraceSource, String> {
    match text {
        "" => Err("is empty: give a file, `shipped` or `qwen`".to_owned()),
        "shipped" => Ok(TraceSource::Shipped),
        "qwen" => Ok(TraceSource::Public(super::PublicTrace::qwen())),
        file => Ok(TraceSource::File(PathBuf::from(file))),
    }
}
