//! `POST /v1/completions`
mod convert;
mod types;
mod validate;

use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

use super::app::App;
use super::choices::Choices;
use super::error::ApiError;
use super::sampling::Delivery;

/// Takes a request of one prompt or many, waits until all are accepted, then answers whole or as a stream.
pub(super) async fn create(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let head = Instant::now();
    let body = app.read(request, types::CompletionBody::read).await?;
    let (llm, guard) = app.enter()?;
    let delivery = body.delivery;
    let ask = validate::check(body, &llm.model().id, llm.permits().total())?;
    let requests = convert::requests(ask, llm.defaults())?;
    let submitted =
        llm.submit_all(requests, head).map_err(|error| ApiError::submit(&error, "prompt", app.metrics()))?;
    let choices = Choices::accept(submitted, guard)
        .await
        .map_err(|error| ApiError::not_accepted(error, "prompt", app.metrics()))?;
    let answer = convert::Answerer::new(&llm.model().id);
    match delivery {
        Delivery::Whole => {
            let (answers, usage) = choices.whole().await?;
            Ok(axum::Json(answer.whole(answers, usage)).into_response())
        }
        Delivery::Stream { include_usage } => Ok(choices.stream(answer.stream(include_usage))),
    }
}
