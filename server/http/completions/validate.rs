//! Completions' checks: a typed body becomes one whose every value is good, or an error that names the field.
use super::types::CompletionBody;
use crate::http::error::ApiError;
use crate::http::sampling::SamplingFields;
use crate::request::Prompt;

/// A checked body. Sampling ranges are checked as the requests are made.
#[derive(Debug)]
pub(super) struct CompletionAsk {
    /// At least one.
    pub(super) prompts: Vec<Prompt>,
    /// Choices a prompt.
    pub(super) n: usize,
    /// `None` is the default of 16.
    pub(super) max_tokens: Option<usize>,
    pub(super) sampling: SamplingFields,
}

/// `permits` is how many sequences there may be at once.
pub(super) fn check(body: CompletionBody, served: &str, permits: usize) -> Result<CompletionAsk, ApiError> {
    if body.model != served {
        return Err(ApiError::no_such_model(&body.model, served));
    }
    if body.prompts.is_empty() {
        let message = "Invalid value: 'prompt' must have at least one prompt.";
        return Err(ApiError::bad_field("prompt", "invalid_value", message));
    }
    let n = body.sampling.n.unwrap_or(1);
    if n > permits {
        let message = format!("Invalid value: n must be at most {permits}, not {n}.");
        return Err(ApiError::bad_field("n", "invalid_value", message));
    }
    // Before a request is made of each: a body has room for millions.
    if body.prompts.len().saturating_mul(n) > permits {
        let message = format!("Invalid value: prompts times n must be at most {permits}.");
        return Err(ApiError::bad_field("prompt", "invalid_value", message));
    }
    Ok(CompletionAsk { prompts: body.prompts, n, max_tokens: body.max_tokens, sampling: body.sampling })
}
