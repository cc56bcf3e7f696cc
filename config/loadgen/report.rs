//! `minisgl loadgen report`: its flags.
use std::path::PathBuf;

use super::settings::Compat;

/// Flags of a report that is printed again.
#[derive(clap::Args, Clone, Debug, PartialEq)]
pub struct ReportArgs {
    /// A `summary.json`, a `records.jsonl`, the folder of --out, or mini-sglang's raw form
    #[arg(value_name = "FILE|DIR")]
    pub file: PathBuf,

    /// Write the page of plots again
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// Print it by another load generator's definitions too, where the file holds what they need
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_parser = compat)]
    pub metrics_compat: Vec<Compat>,
}

/// A load generator by its name.
pub(super) fn compat(text: &str) -> Result<Compat, String> {
    match text.trim() {
        "vllm" => Ok(Compat::Vllm),
        "sglang" => Ok(Compat::Sglang),
        "aiperf" => Ok(Compat::Aiperf),
        "mini-sglang" => Ok(Compat::MiniSglang),
        _ => Err("must be vllm, sglang, aiperf or mini-sglang".to_owned()),
    }
}
