//! Fields that chat and completions share: sampling, choices, streaming, and those that this server lacks.
//!
//! Owns their names and types; ranges are `llm`'s. Does not know prompts.
use serde_json::{Value, json};

use super::error::ApiError;
use super::fields::{Fields, NoOp, Seed, read, wrong_type};
use crate::llm::SamplingParams;

/// As on the wire.
#[derive(Debug)]
pub(crate) struct SamplingFields {
    pub(crate) temperature: Option<f64>,
    pub(crate) top_p: Option<f64>,
    pub(crate) top_k: Option<i64>,
    pub(crate) min_p: Option<f64>,
    pub(crate) seed: Option<Seed>,
    pub(crate) stop: Vec<String>,
    pub(crate) ignore_eos: Option<bool>,
    pub(crate) n: Option<usize>,
}

/// How the answer is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// One JSON object.
    Whole,
    /// A chunk a token.
    Stream {
        /// A last chunk has the usage.
        include_usage: bool,
    },
}

impl SamplingFields {
    pub(crate) fn read(fields: &mut Fields) -> Result<Self, ApiError> {
        Ok(Self {
            temperature: fields.optional("temperature")?,
            top_p: fields.optional("top_p")?,
            top_k: fields.optional("top_k")?,
            min_p: fields.optional("min_p")?,
            seed: fields.optional("seed")?,
            stop: stop(fields)?,
            ignore_eos: fields.optional("ignore_eos")?,
            n: fields.optional("n")?,
        })
    }

    /// Absent fields are the model's defaults. Ranges are not checked yet.
    pub(crate) fn params(self, defaults: &SamplingParams) -> SamplingParams {
        let or = |asked: Option<f64>, default: f32| asked.map_or(default, |value| value as f32);
        SamplingParams {
            temperature: or(self.temperature, defaults.temperature),
            top_p: or(self.top_p, defaults.top_p),
            top_k: self.top_k.unwrap_or(defaults.top_k),
            min_p: or(self.min_p, defaults.min_p),
            seed: self.seed.map(|Seed(seed)| seed),
            stop: self.stop,
            ignore_eos: self.ignore_eos.unwrap_or(defaults.ignore_eos),
            max_tokens: defaults.max_tokens,
        }
    }
}

/// A string, or an array of them.
fn stop(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    match fields.optional("stop")? {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text]),
        Some(Value::Array(values)) => {
            let texts = values.into_iter().enumerate().map(|(i, value)| read(value, format!("stop[{i}]")));
            texts.collect()
        }
        Some(other) => Err(wrong_type(fields.path("stop"), "a string or an array of strings", &other)),
    }
}

impl Delivery {
    pub(crate) fn read(fields: &mut Fields) -> Result<Self, ApiError> {
        let stream = fields.optional("stream")?.unwrap_or(false);
        let options: Option<Value> = fields.optional("stream_options")?;
        match (stream, options) {
            (false, None) => Ok(Self::Whole),
            (true, None) => Ok(Self::Stream { include_usage: false }),
            (false, Some(_)) => {
                let message = "'stream_options' is only allowed when 'stream' is true.";
                Err(ApiError::bad_field("stream_options", "invalid_value", message))
            }
            (true, Some(options)) => {
                let mut options = Fields::of(options, "stream_options".into())?;
                let include_usage = options.optional("include_usage")?.unwrap_or(false);
                options.end(&[STREAM_NO_OPS])?;
                Ok(Self::Stream { include_usage })
            }
        }
    }
}

pub(crate) fn is_false(value: &Value) -> bool {
    *value == json!(false)
}

fn is_true(value: &Value) -> bool {
    *value == json!(true)
}

fn is_zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
}

fn is_one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}

pub(crate) fn is_empty(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// Fields of OpenAI, vLLM and SGLang that clients send at values that change nothing. `user` and its successor name the
/// client's own user: information, not a wish.
pub(crate) const NO_OPS: &[NoOp] = &[
    NoOp { name: "frequency_penalty", is: is_zero },
    NoOp { name: "presence_penalty", is: is_zero },
    NoOp { name: "repetition_penalty", is: is_one },
    NoOp { name: "length_penalty", is: is_one },
    NoOp { name: "logit_bias", is: is_empty },
    NoOp { name: "best_of", is: is_one },
    NoOp { name: "use_beam_search", is: is_false },
    NoOp { name: "min_tokens", is: is_zero },
    NoOp { name: "echo", is: is_false },
    NoOp { name: "stop_token_ids", is: is_empty },
    NoOp { name: "include_stop_str_in_output", is: is_false },
    NoOp { name: "skip_special_tokens", is: is_true },
    NoOp { name: "response_format", is: |value| *value == json!({"type": "text"}) },
    NoOp { name: "store", is: is_false },
    NoOp { name: "metadata", is: is_empty },
    NoOp { name: "service_tier", is: |value| *value == json!("auto") || *value == json!("default") },
    NoOp { name: "user", is: Value::is_string },
    NoOp { name: "safety_identifier", is: Value::is_string },
];

/// Those of `stream_options`.
const STREAM_NO_OPS: &[NoOp] =
    &[NoOp { name: "include_obfuscation", is: is_false }, NoOp { name: "continuous_usage_stats", is: is_false }];

/// Those of chat alone.
pub(crate) const CHAT_NO_OPS: &[NoOp] = &[
    NoOp { name: "logprobs", is: is_false },
    NoOp { name: "top_logprobs", is: is_zero },
    NoOp { name: "tools", is: is_empty },
    NoOp { name: "tool_choice", is: |value| *value == json!("none") || *value == json!("auto") },
    NoOp { name: "parallel_tool_calls", is: Value::is_boolean },
    NoOp { name: "functions", is: is_empty },
    NoOp { name: "function_call", is: |value| *value == json!("none") || *value == json!("auto") },
    NoOp { name: "modalities", is: |value| *value == json!(["text"]) },
    NoOp { name: "add_generation_prompt", is: is_true },
    NoOp { name: "continue_final_message", is: is_false },
];

/// Those of completions alone. `logprobs: 0` asks for the sampled token's own, so no value but null is a no-op.
pub(crate) const COMPLETION_NO_OPS: &[NoOp] =
    &[NoOp { name: "suffix", is: is_empty }, NoOp { name: "logprobs", is: |_| false }];
