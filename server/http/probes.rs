//! What operators and load balancers ask: is it there, alive, ready, and how is it doing.
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::app::App;
use super::error::ApiError;

/// `/v1`, by any method: clients look here whether a server is there.
pub(super) async fn root() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// `/health`: the process answers, whatever the model does.
pub(super) async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// `/ready`: a request sent now would be taken and run.
pub(super) async fn ready(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    match app.unready() {
        None => Ok(Json(json!({"status": "ready"}))),
        Some(why) => Err(ApiError::unready(why)),
    }
}

/// `/metrics`, in Prometheus' text format.
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, format)], app.metrics().encode()).into_response()
}
