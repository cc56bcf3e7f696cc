//! `/generate`'s checks.
use super::types::GenerateBody;
use crate::http::error::ApiError;

/// A checked body.
#[derive(Debug)]
pub(super) struct GenerateAsk {
    pub(super) prompt: String,
    /// At least 1.
    pub(super) max_tokens: usize,
    pub(super) ignore_eos: bool,
}

pub(super) fn check(body: GenerateBody) -> Result<GenerateAsk, ApiError> {
    if body.max_tokens == 0 {
        let message = "Invalid value: max_tokens must be at least 1, not 0.";
        return Err(ApiError::bad_field("max_tokens", "invalid_value", message));
    }
    let ignore_eos = body.ignore_eos.unwrap_or(false);
    Ok(GenerateAsk { prompt: body.prompt, max_tokens: body.max_tokens, ignore_eos })
}
