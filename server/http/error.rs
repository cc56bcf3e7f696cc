//! OpenAI's error body, and which status each failure has.
//!
//! `{"error":{"message","type","param","code"}}`. Every answer that is not a success is made here.
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::llm::{BadParam, NotAccepted, SubmitError};
use crate::metrics::{Metrics, Rejection};
use crate::request::{Failure, Refusal};

/// Seconds until a queue that is full is worth another try: a place frees whenever a sequence ends.
const RETRY_QUEUE_SECONDS: u16 = 1;
/// Seconds until a server that loads or drains is worth another try.
const RETRY_UNREADY_SECONDS: u16 = 5;

/// An answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    status: StatusCode,
    retry_after_seconds: Option<u16>,
    body: ErrorBody,
}

/// What stands under `error`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct ErrorBody {
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<String>,
    code: Option<&'static str>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: &'a ErrorBody,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        let body = ErrorBody { message: message.into(), kind, param: None, code: None };
        Self { status, retry_after_seconds: None, body }
    }

    fn code(mut self, code: &'static str) -> Self {
        self.body.code = Some(code);
        self
    }

    fn param(mut self, param: impl Into<String>) -> Self {
        self.body.param = Some(param.into());
        self
    }

    /// 400 that names no field: the body is not JSON, or not an object.
    pub(crate) fn bad_body(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message).code("invalid_json")
    }

    /// 400: this field, this reason. `code` is what programs may match.
    pub(crate) fn bad_field(param: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message).param(param).code(code)
    }

    /// 404: no such model.
    pub(crate) fn no_such_model(asked: &str, served: &str) -> Self {
        let message = format!("The model '{asked}' does not exist: this server has '{served}'.");
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message).param("model").code("model_not_found")
    }

    /// 404: no such path.
    pub(crate) fn no_such_path(method: &str, path: &str) -> Self {
        let message = format!("Invalid URL ({method} {path})");
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message).code("unknown_url")
    }

    /// 405: the path is there, the method is not.
    pub(crate) fn bad_method(method: &str, path: &str) -> Self {
        let message = format!("Not allowed to {method} on {path}.");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", message).code("method_not_supported")
    }

    /// 408: the body did not come.
    pub(crate) fn slow_body(seconds: u64) -> Self {
        let message = format!("The request's body did not arrive within {seconds} s.");
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", message).code("body_timeout")
    }

    /// 413: the body is larger than this many bytes.
    pub(crate) fn body_too_large(limit: usize) -> Self {
        let message = format!("The request's body is larger than {limit} bytes.");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message).code("body_too_large")
    }

    /// 500. The detail goes to the log under an id, and the id to the client.
    pub(crate) fn internal(detail: &str) -> Self {
        let id = super::random_id("err-");
        tracing::error!(id, "{detail}");
        let message = format!("The server failed to answer this request; its log has the reason under {id}.");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message).code("internal_error")
    }

    /// 503: loading, draining, or dead.
    pub(crate) fn unready(why: &str) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", format!("Not ready: {why}."));
        Self { retry_after_seconds: Some(RETRY_UNREADY_SECONDS), ..error.code("not_ready") }
    }

    /// What `Llm::submit` says; `param` is the field that asks for several sequences. Counts the rejection.
    pub(crate) fn submit(error: &SubmitError, param: &str, metrics: &Metrics) -> Self {
        match error {
            SubmitError::QueueFull => {
                metrics.count_rejection(Rejection::QueueFull);
                let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", error.to_string());
                Self { retry_after_seconds: Some(RETRY_QUEUE_SECONDS), ..error.code("queue_full") }
            }
            SubmitError::Draining => {
                metrics.count_rejection(Rejection::Draining);
                Self::unready("the server is draining")
            }
            SubmitError::Failed => {
                metrics.count_rejection(Rejection::Failed);
                Self::unready("the engine has stopped")
            }
            SubmitError::TooMany { .. } => Self::bad_field(param, "invalid_value", error.to_string()),
        }
    }

    /// What a first event says; `param` is the field that holds the prompt. Counts the rejection.
    pub(crate) fn not_accepted(error: NotAccepted, param: &str, metrics: &Metrics) -> Self {
        let refusal = match error {
            NotAccepted::Failed(failure) => return failure.into(),
            NotAccepted::Refused(refusal) => refusal,
        };
        let (reason, code) = match refusal {
            Refusal::PromptTooLong { .. } | Refusal::TextTooLong { .. } => {
                (Rejection::PromptTooLong, "context_length_exceeded")
            }
            _ => (Rejection::BadPrompt, "invalid_prompt"),
        };
        metrics.count_rejection(reason);
        Self::bad_field(param, code, refusal.to_string())
    }

    /// The body, as JSON: also the payload of an event in a stream that has begun.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(&Envelope { error: &self.body }).expect("strings become JSON")
    }
}

impl From<BadParam> for ApiError {
    fn from(bad: BadParam) -> Self {
        Self::bad_field(bad.param, "invalid_value", format!("Invalid value: {bad}."))
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        Self::internal(&failure.0)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let headers = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        let mut response = (self.status, headers, self.json()).into_response();
        if let Some(seconds) = self.retry_after_seconds {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
