//! What every handler shares: the model once it is loaded, whether requests are taken, how many are in flight.
//!
//! Owns reading and parsing bodies, within limits. Does not know routes.
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request, header};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::{Semaphore, watch};

use super::error::ApiError;
use super::fields::Fields;
use crate::health::{Health, Phase};
use crate::llm::Llm;
use crate::metrics::{Metrics, Rejection};

/// A body may have this many bytes.
pub(crate) const BODY_LIMIT: usize = 64 << 20;
/// Of a larger body this much is read and thrown away, so that the client is done writing and hears the 413.
const DISCARD_LIMIT: usize = 256 << 20;
/// A body must have come within this time.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// A body of more bytes is parsed off the runtime's threads, one such at a time: parsed JSON can be many times as large.
const LARGE_BODY: usize = 256 << 10;

/// Shared by all connections.
#[derive(Clone)]
pub(crate) struct App(Arc<Inner>);

struct Inner {
    llm: OnceLock<Arc<Llm>>,
    health: Health,
    metrics: Metrics,
    in_flight: watch::Sender<usize>,
    large_bodies: Semaphore,
}

/// A generating request that the drain waits for.
pub(crate) struct InFlight(App);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.in_flight.send_modify(|n| *n -= 1);
    }
}

impl App {
    pub(crate) fn new(health: Health, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            llm: OnceLock::new(),
            health,
            metrics,
            in_flight: watch::Sender::new(0),
            large_bodies: Semaphore::new(1),
        }))
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// The model has loaded. Called once.
    pub(crate) fn set_llm(&self, llm: Arc<Llm>) {
        assert!(self.0.llm.set(llm).is_ok(), "the model is loaded once");
    }

    /// The model, back from the last owner: none where it was never loaded.
    pub(crate) fn into_llm(self) -> Option<Llm> {
        let inner = Arc::into_inner(self.0).expect("every connection has ended, so this is the last handle");
        inner.llm.into_inner().map(|llm| Arc::into_inner(llm).expect("every request has ended"))
    }

    /// Why `/ready` says no, or nothing.
    pub(crate) fn unready(&self) -> Option<&'static str> {
        self.0.health.unready().or(if self.0.llm.get().is_none() { Some(LOADING) } else { None })
    }

    /// The model, where requests are taken.
    pub(crate) fn llm(&self) -> Result<Arc<Llm>, ApiError> {
        let (reason, why) = match (self.0.health.phase(), self.0.llm.get()) {
            (Phase::Serving, Some(llm)) => return Ok(llm.clone()),
            (Phase::Loading | Phase::Serving, _) => (Rejection::Loading, LOADING),
            (Phase::Draining, _) => (Rejection::Draining, "the server is draining"),
            (Phase::Failed, _) => (Rejection::Failed, "the engine has stopped"),
        };
        self.0.metrics.count_rejection(reason);
        Err(ApiError::unready(why))
    }

    /// The model for a generating request. In this order (count, then look), a drain either waits for the request or
    /// the request sees the drain.
    pub(crate) fn enter(&self) -> Result<(Arc<Llm>, InFlight), ApiError> {
        self.0.in_flight.send_modify(|n| *n += 1);
        let guard = InFlight(self.clone());
        Ok((self.llm()?, guard))
    }

    /// Waits until no generating request is in flight.
    pub(crate) async fn idle(&self) {
        let mut in_flight = self.0.in_flight.subscribe();
        in_flight.wait_for(|n| *n == 0).await.expect("the sender lives in self");
    }

    /// A request's body, read and made sense of by `parse`.
    pub(crate) async fn read<T, F>(&self, request: Request<Body>, parse: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: FnOnce(Fields) -> Result<T, ApiError> + Send + 'static,
    {
        let (head, body) = request.into_parts();
        let late = |_| ApiError::slow_body(BODY_TIMEOUT.as_secs());
        let body = tokio::time::timeout(BODY_TIMEOUT, collect(&head.headers, body)).await.map_err(late)??;
        if body.len() <= LARGE_BODY {
            return parse(Fields::parse(&body)?);
        }
        let _one_at_a_time = self.0.large_bodies.acquire().await.expect("the semaphore is never closed");
        let parsed = tokio::task::spawn_blocking(move || parse(Fields::parse(&body)?)).await;
        parsed.unwrap_or_else(|panic| Err(ApiError::internal(&format!("parsing a body panicked: {panic}"))))
    }
}

const LOADING: &str = "the model is loading";

async fn collect(headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|n| n > BODY_LIMIT as u64) && headers.contains_key(header::EXPECT) {
        return Err(ApiError::body_too_large(BODY_LIMIT));
    }
    let mut frames = body.into_data_stream();
    let (mut bytes, mut total) = (Vec::new(), 0);
    while let Some(frame) = frames.next().await {
        let frame =
            frame.map_err(|error| ApiError::bad_body(format!("The request's body cannot be read: {error}.")))?;
        total += frame.len();
        if total <= BODY_LIMIT {
            bytes.extend_from_slice(&frame);
        } else {
            bytes = Vec::new();
            if total > DISCARD_LIMIT {
                break;
            }
        }
    }
    if total > BODY_LIMIT { Err(ApiError::body_too_large(BODY_LIMIT)) } else { Ok(bytes.into()) }
}
