//! `POST /v1/chat/completions`
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

/// Takes a request, waits until it is accepted, then answers whole or as a stream.
pub(super) async fn create(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let head = Instant::now();
    let body = app.read(request, types::ChatBody::read).await?;
    let (llm, guard) = app.enter()?;
    let (delivery, prompt_param) = (body.delivery, body.prompt.param());
    let ask = validate::check(body, &llm.model().id)?;
    let request = convert::request(ask, llm.defaults())?;
    let submitted =
        llm.submit_all(vec![request], head).map_err(|error| ApiError::submit(&error, "n", app.metrics()))?;
    let choices = Choices::accept(submitted, guard)
        .await
        .map_err(|error| ApiError::not_accepted(error, prompt_param, app.metrics()))?;
    let answer = convert::Answerer::new(&llm.model().id);
    match delivery {
        Delivery::Whole => {
            let (answers, usage) = choices.whole().await?;
            Ok(axum::Json(answer.whole(answers, usage)).into_response())
        }
        Delivery::Stream { include_usage } => Ok(choices.stream(answer.stream(include_usage))),
    }
}
