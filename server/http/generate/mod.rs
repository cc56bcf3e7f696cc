//! `POST /generate`: mini-sglang's own route. Greedy; always a stream of text, then `[DONE]`.
mod convert;
mod types;
mod validate;

use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::Response;

use super::app::App;
use super::choices::Choices;
use super::error::ApiError;

/// Takes a request, waits until it is accepted, then streams.
pub(super) async fn create(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let head = Instant::now();
    let body = app.read(request, types::GenerateBody::read).await?;
    let (llm, guard) = app.enter()?;
    let request = convert::request(validate::check(body)?)?;
    let submitted =
        llm.submit_all(vec![request], head).map_err(|error| ApiError::submit(&error, "prompt", app.metrics()))?;
    let choices = Choices::accept(submitted, guard)
        .await
        .map_err(|error| ApiError::not_accepted(error, "prompt", app.metrics()))?;
    Ok(choices.stream(convert::TextLines))
}
