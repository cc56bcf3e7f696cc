//! The HTTP server in this process, on a port of its own, over a model that repeats what it was told.
mod client;
mod errors;
mod lifecycle;
mod routes;

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use minisgl::health::{Health, Phase};
use minisgl::http::{ServeOptions, serve};
use minisgl::metrics::Metrics;
use minisgl::request::Permits;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::fake::{FakeModel, Gate, MODEL, assert_no_page_lost};

/// A server on its own thread. Dropping it stops it and holds it to what must always be true then.
struct Server {
    address: SocketAddr,
    gate: Gate,
    health: Health,
    metrics: Metrics,
    /// Set once the model is loaded.
    permits: Option<Permits>,
    stop: mpsc::Sender<()>,
    loaded: flume::Receiver<Permits>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

impl Server {
    fn start(model: FakeModel) -> Self {
        let mut server = Self::loading(move || Ok(model), Duration::from_secs(60));
        server.permits = Some(server.loaded.recv().expect("the model loads"));
        server
    }

    /// Listens; `load` makes the model when it will.
    fn loading(load: impl FnOnce() -> Result<FakeModel, String> + Send + 'static, drain_timeout: Duration) -> Self {
        let FakeModel { gate, health, metrics, .. } = FakeModel::default();
        let (shared_gate, shared_health, shared_metrics) = (gate.clone(), health.clone(), metrics.clone());
        let load = move || {
            let model = load()?;
            if model.gate.is_shut() {
                shared_gate.shut();
            }
            Ok(FakeModel { gate: shared_gate, health: shared_health, metrics: shared_metrics, ..model }.start())
        };
        let (stop, stopped) = mpsc::channel(1);
        let (told, loaded) = flume::bounded(1);
        let (bound, address) = flume::bounded(1);
        let (server_health, server_metrics) = (health.clone(), metrics.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                bound.send(listener.local_addr().unwrap()).unwrap();
                let options = ServeOptions {
                    listener,
                    health: server_health,
                    metrics: server_metrics,
                    drain_timeout,
                    write_timeout: Duration::from_secs(60),
                    stop: stopped,
                };
                serve(options, load, |llm, _| told.send(llm.permits().clone()).unwrap()).await
            })
        });
        let address = address.recv().unwrap();
        Self { address, gate, health, metrics, permits: None, stop, loaded, thread: Some(thread) }
    }

    fn post(&self, path: &str, body: &Value) -> client::Reply {
        client::post(self.address, path, body)
    }

    /// Asks for a chat about this text, with these fields too.
    fn chat(&self, text: &str, fields: Value) -> client::Reply {
        self.post("/v1/chat/completions", &with(json!({"messages": [{"role": "user", "content": text}]}), fields))
    }

    fn get(&self, path: &str) -> client::Reply {
        client::ask(self.address, "GET", path)
    }

    /// Waits for every permit: nothing has a sequence any more.
    fn wait_idle(&self) {
        let permits = self.permits.as_ref().expect("the model is loaded");
        drop(permits.acquire(permits.total()));
    }

    /// Starts the drain and waits until it has begun.
    fn drain(&self) {
        self.stop.blocking_send(()).expect("the server runs");
        wait_until(|| self.health.phase() == Phase::Draining);
    }

    /// Waits for the end.
    fn join(&mut self) -> Result<(), String> {
        self.thread.take().expect("joined once").join().expect("the server does not panic")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.thread.is_some() && !std::thread::panicking() {
            self.gate.open();
            self.stop.blocking_send(()).expect("the server runs");
            self.join().expect("it loaded");
            assert_no_page_lost(&self.metrics);
        }
    }
}

/// For what another thread will do and has no way to tell.
fn wait_until(condition: impl Fn() -> bool) {
    while !condition() {
        std::thread::yield_now();
    }
}

/// `body` for the one model, with `fields` added.
fn with(mut body: Value, fields: Value) -> Value {
    body["model"] = json!(MODEL);
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}
