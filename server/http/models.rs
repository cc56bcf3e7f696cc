//! `/v1/models`: the one model that this server has.
use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;

use super::app::App;
use super::error::ApiError;
use crate::llm::Llm;

/// OpenAI's model object, with vLLM's `root` and `max_model_len`.
#[derive(Serialize)]
pub(super) struct Model {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    root: String,
    max_model_len: usize,
    /// Where no device computes: the profile that says when answers come. Whoever measures this server labels its figures so.
    #[serde(skip_serializing_if = "Option::is_none")]
    simulated: Option<String>,
}

#[derive(Serialize)]
pub(super) struct List {
    object: &'static str,
    data: [Model; 1],
}

impl Model {
    fn of(llm: &Llm) -> Self {
        Self {
            id: llm.model().id.clone(),
            object: "model",
            created: llm.model().created,
            owned_by: "minisgl",
            root: llm.model().root.clone(),
            // What a sequence may have, prompt and output: context or cache, whichever ends first.
            max_model_len: llm.capacity().longest_sequence(),
            simulated: llm.simulated().map(str::to_owned),
        }
    }
}

pub(super) async fn list(State(app): State<App>) -> Result<Json<List>, ApiError> {
    Ok(Json(List { object: "list", data: [Model::of(&*app.llm()?)] }))
}

pub(super) async fn one(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Model>, ApiError> {
    let model = Model::of(&*app.llm()?);
    if id == model.id { Ok(Json(model)) } else { Err(ApiError::no_such_model(&id, &model.id)) }
}
