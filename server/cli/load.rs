//! Loading a model for a person who waits: downloads and layers are shown on stderr.
use indicatif::{ProgressBar, ProgressStyle};
use minisgl::health::Health;
use minisgl::llm::{Llm, LoadError, LoadOptions};
use minisgl::metrics::Metrics;
use minisgl_config::EngineSettings;

/// For commands that keep health and metrics to themselves.
pub(crate) fn load(settings: &EngineSettings) -> Result<Llm, LoadError> {
    load_with(settings, None, Health::default(), None)
}

/// For a server, which shows health and metrics while it loads.
pub(crate) fn load_with(
    settings: &EngineSettings,
    model_id: Option<String>,
    health: Health,
    metrics: Option<Metrics>,
) -> Result<Llm, LoadError> {
    let style = ProgressStyle::with_template("loading {wide_bar} {pos}/{len} layers").expect("a template of this file");
    let bar = ProgressBar::no_length().with_style(style);
    let mut progress = |done: usize, of: usize| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    };
    let options = LoadOptions { model_id, health, metrics, show_downloads: true, progress: Some(&mut progress) };
    let llm = Llm::load(settings, options);
    bar.finish_and_clear();
    llm
}
