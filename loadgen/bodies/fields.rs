//! A body's fields beside its prompt.
//!
//! Owns which fields each endpoint gets, and what the user adds or leaves out. Knows nothing of prompts.
use std::fmt::Write;

use minisgl_config::loadgen::settings::{Endpoint, Server};
use serde_json::{Map, Value, json};

use crate::request::Request;

/// What stands behind the prompt in every body of a run.
pub(super) struct Fields {
    /// Of answers that go on to their length, and of those that the model ends: `,"name":value` of each.
    goes_on: String,
    ends_itself: String,
    /// Whether the user says how long answers are.
    says_length: bool,
}

impl Fields {
    pub(super) fn new(server: &Server, model: &str) -> Self {
        let mut fields = Map::new();
        if server.endpoint != Endpoint::Generate {
            fields.insert("model".to_owned(), model.into());
            fields.insert("temperature".to_owned(), number(server.temperature));
            fields.insert("stream".to_owned(), true.into());
            fields.insert("stream_options".to_owned(), json!({"include_usage": true}));
        }
        let ends_itself = with(fields.clone(), &server.extra_body);
        if server.ignore_eos && !server.strict_openai {
            fields.insert("ignore_eos".to_owned(), true.into());
        }
        let goes_on = with(fields, &server.extra_body);
        Self { goes_on, ends_itself, says_length: server.extra_body.contains_key("max_tokens") }
    }

    /// Everything of `request`'s body from behind its prompt to the end.
    pub(super) fn around(&self, request: &Request) -> String {
        let mut around = String::new();
        if request.lengths.output > 0 && !self.says_length {
            write!(around, r#","max_tokens":{}"#, request.lengths.output).expect("a string takes everything");
        }
        around.push_str(if request.ends_itself { &self.ends_itself } else { &self.goes_on });
        around.push('}');
        around
    }
}

/// `fields`, replaced and added to by `extra`, of which null leaves one out.
fn with(mut fields: Map<String, Value>, extra: &Map<String, Value>) -> String {
    extra.iter().for_each(|(name, value)| drop(fields.insert(name.clone(), value.clone())));
    let given = fields.iter().filter(|(_, value)| !value.is_null());
    given.map(|(name, value)| format!(",{}:{value}", Value::from(name.as_str()))).collect()
}

/// A whole number as one: there are servers that ask for no more.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 { json!(value as i64) } else { json!(value) }
}
