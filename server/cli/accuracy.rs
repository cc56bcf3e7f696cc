//! `minisgl bench accuracy`: how far an engine's next-token distributions are from float32's on the same weights.
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use minisgl::accuracy::{self, Accuracy, Comparison};
use minisgl_config::BenchAccuracySettings;
use serde_json::json;

use super::Outcome;

pub(crate) fn run(settings: &BenchAccuracySettings) -> Outcome {
    let read = settings.text.as_ref().map(|path| {
        std::fs::read_to_string(path)
            .map_err(|error| format!("--text {}: {error}; expected UTF-8 text", path.display()))
    });
    let text = read.transpose()?;
    let text = text.as_deref().unwrap_or(accuracy::TEXT);
    let style = ProgressStyle::with_template("reading {wide_bar} {pos}/{len} chunks").expect("a template of this file");
    let bar = ProgressBar::no_length().with_style(style);
    let mut progress = |done: usize, of: usize| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    };
    let comparison = Comparison { settings: &settings.engine, text, context: settings.context, show_downloads: true };
    let accuracy = accuracy::compare(comparison, &mut progress);
    bar.finish_and_clear();
    print(&accuracy?, settings.json);
    Ok(ExitCode::SUCCESS)
}

fn print(accuracy: &Accuracy, as_json: bool) {
    let Accuracy { positions, kl_mean, kl_median, kl_p99, kl_max, same_top, perplexity, perplexity_exact } = accuracy;
    if as_json {
        say!(
            "{}",
            json!({
                "positions": positions, "kl_mean": kl_mean, "kl_median": kl_median, "kl_p99": kl_p99, "kl_max": kl_max,
                "same_top": same_top, "perplexity": perplexity, "perplexity_float32": perplexity_exact,
            })
        );
    } else {
        say!("{positions} positions against float32 on the same weights");
        say!("KL divergence    mean {kl_mean:.2e}   median {kl_median:.2e}   99% {kl_p99:.2e}   max {kl_max:.2e}");
        say!("same best token  {:.2}%", same_top * 100.0);
        say!("perplexity       {perplexity:.3}, float32 {perplexity_exact:.3}");
    }
}
