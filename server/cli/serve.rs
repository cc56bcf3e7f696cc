//! `minisgl serve`: listens, loads, serves, drains.
use std::net::SocketAddr;
use std::process::ExitCode;

use minisgl::health::Health;
use minisgl::http::{self, ServeOptions};
use minisgl::llm::Llm;
use minisgl::metrics::Metrics;
use minisgl_config::{DeviceKind, ServeSettings};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::{Failed, Outcome, chat, load};

/// Serves until SIGTERM or SIGINT, and drains; or runs the shell.
pub(crate) fn run(settings: ServeSettings) -> Outcome {
    if settings.shell {
        return chat::run(&settings.engine, &settings.shell_sampling);
    }
    serve(settings, None, |llm, address| {
        say!("{}", ready_line(llm, address));
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Serves on a runtime of its own. It stops by `stop`, or by signals where there is none.
pub(crate) fn serve(
    settings: ServeSettings,
    stop: Option<mpsc::Receiver<()>>,
    ready: impl FnOnce(&Llm, SocketAddr),
) -> Result<(), Failed> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = http_threads(settings.engine.device) {
        runtime.worker_threads(threads);
    }
    let runtime = runtime.thread_name("http").enable_all().build()?;
    runtime.block_on(async {
        let address = format!("{}:{}", bracketed(&settings.host), settings.port);
        let listener = TcpListener::bind(&address).await.map_err(|error| {
            format!("cannot listen on {address} (--host, --port): {error}; is another server running there?")
        })?;
        let health = Health::default();
        let name = settings.served_model_name.clone();
        let name = name.unwrap_or_else(|| minisgl_checkpoint::name_of(&settings.engine.model));
        let metrics = Metrics::new(settings.metrics_prefix, &name);
        let stop = match stop {
            Some(stop) => stop,
            None => http::signals()?,
        };
        let options = ServeOptions {
            listener,
            health: health.clone(),
            metrics: metrics.clone(),
            drain_timeout: settings.drain_timeout,
            write_timeout: settings.write_timeout,
            stop,
        };
        let loading = move || load::load_with(&settings.engine, Some(name), health, Some(metrics));
        http::serve(options, loading, ready).await?;
        Ok(())
    })
}

/// Threads that answer; `None` is one a core. Beside an engine that computes on every core each one that wakes takes its core from a
/// product that the other cores then wait for, and one thread can write tens of thousands of tokens a second.
fn http_threads(device: DeviceKind) -> Option<usize> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (device == DeviceKind::Cpu).then_some((cores / 4).max(1))
}

/// `ready`, then what a person or a script needs to know: URL, model, device, K/V capacity.
fn ready_line(llm: &Llm, address: SocketAddr) -> String {
    let capacity = llm.capacity();
    format!(
        "ready: http://{address}/v1  model {}  device {}  K/V {} tokens ({} pages of {}), {} a sequence, {} at once",
        llm.model().id,
        llm.device(),
        capacity.pages * capacity.page_size,
        capacity.pages,
        capacity.page_size,
        capacity.longest_sequence(),
        capacity.slots,
    )
}

/// An IPv6 address needs brackets before a port.
fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}
