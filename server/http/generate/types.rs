//! `/generate`'s wire type: the body as read. What it sends is text.
use crate::http::error::ApiError;
use crate::http::fields::Fields;

/// A body, typed, unchecked.
#[derive(Debug)]
pub(super) struct GenerateBody {
    pub(super) prompt: String,
    pub(super) max_tokens: usize,
    pub(super) ignore_eos: Option<bool>,
}

impl GenerateBody {
    pub(super) fn read(mut fields: Fields) -> Result<Self, ApiError> {
        let body = Self {
            prompt: fields.required("prompt")?,
            max_tokens: fields.required("max_tokens")?,
            ignore_eos: fields.optional("ignore_eos")?,
        };
        fields.end(&[])?;
        Ok(body)
    }
}
