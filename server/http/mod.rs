//! HTTP: OpenAI's API over [`Llm`](crate::llm::Llm), and what operators ask.
//!
//! ```text
//!   server.rs socket.rs      listen, connections, write deadline, drain
//!   app.rs error.rs          what handlers share; OpenAI's error body
//!   fields.rs sampling.rs    bodies field by field; the fields that chat and completions share
//!   choices.rs sse.rs        several sequences as one answer or one stream; framing
//!   chat/ completions/ generate/   a route is three files: wire types, checks, conversion
//!   models.rs probes.rs      /v1/models; /v1, /health, /ready, /metrics
//! ```
//! A field is honoured or it is a 400 that names it. Does not know tokens, queues or devices.
mod app;
mod chat;
mod choices;
mod completions;
mod error;
mod fields;
mod generate;
mod models;
mod probes;
mod sampling;
mod server;
mod socket;
mod sse;

use axum::Router;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::{get, post};
use tower_http::catch_panic::CatchPanicLayer;

pub use server::{ServeOptions, serve, signals};

use app::App;
use error::ApiError;

fn router(app: App) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/generate", post(generate::create))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/v1", get(probes::root).post(probes::root).options(probes::root))
        .route("/health", get(probes::health))
        .route("/ready", get(probes::ready))
        .route("/metrics", get(probes::metrics))
        .fallback(
            |request: Request| async move { ApiError::no_such_path(request.method().as_str(), request.uri().path()) },
        )
        .method_not_allowed_fallback(|request: Request| async move {
            ApiError::bad_method(request.method().as_str(), request.uri().path())
        })
        .layer(CatchPanicLayer::custom(|panic: Box<dyn std::any::Any + Send>| {
            use axum::response::IntoResponse;
            let said = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            ApiError::internal(&format!("a handler panicked: {}", said.unwrap_or("without words"))).into_response()
        }))
        .layer(axum::middleware::from_fn(log))
        .with_state(app)
}

/// At the debug level a line a request, once its answer begins: a stream's length is not known yet.
async fn log(request: Request, next: Next) -> Response {
    let asked = tracing::enabled!(tracing::Level::DEBUG).then(|| (request.method().clone(), request.uri().clone()));
    let head = std::time::Instant::now();
    let response = next.run(request).await;
    if let Some((method, uri)) = asked {
        let (status, ms) = (response.status().as_u16(), head.elapsed().as_millis() as u64);
        tracing::debug!(status, ms, "{method} {}", uri.path());
    }
    response
}

/// An id that no other object has: the prefix and 96 random bits.
fn random_id(prefix: &str) -> String {
    format!("{prefix}{:016x}{:08x}", rand::random::<u64>(), rand::random::<u32>())
}

fn unix_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
