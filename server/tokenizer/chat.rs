//! Chat templates: messages into the text that the model was trained on.
//!
//! Templates are untrusted programs. They run in an environment like transformers' (see `python.rs`) with bounded steps,
//! recursion and output, and reach nothing outside it.
use std::io;

use minijinja::{Environment, ErrorKind, Value};
use serde::Serialize;

use crate::TokenizerError;

/// Steps that a rendering may take; a long conversation takes thousands.
const FUEL: u64 = 20_000_000;
/// Nested blocks, calls and values.
const RECURSION: usize = 128;
/// A rendering may be so many times as long as what was put in ...
const OUTPUT_FACTOR: usize = 4;
/// ... and this many bytes: room for a template's own words.
const OUTPUT_EXTRA: usize = 1 << 20;
const NAME: &str = "chat_template";

/// One message of a conversation, as templates see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ChatMessage {
    /// `system`, `developer`, `user`, `assistant`, `tool`.
    pub role: String,
    /// Text parts joined.
    pub content: String,
    /// The speaker's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Which call a `tool` message answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

impl ChatMessage {
    /// A message with a role and a content alone.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), ..Self::default() }
    }
}

/// How to render.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatOptions {
    /// The text ends where the assistant's next message begins.
    pub add_generation_prompt: bool,
    /// Further variables for the template (`enable_thinking`). They may replace `bos_token` and the like, not the messages.
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl Default for ChatOptions {
    fn default() -> Self {
        Self { add_generation_prompt: true, extra: serde_json::Map::new() }
    }
}

/// `bos_token` and the like: what templates call them, and their text.
pub(crate) type TemplateTokens = Vec<(String, serde_json::Value)>;

/// A model's template, compiled, or why it cannot be.
#[derive(Debug)]
pub(crate) struct ChatTemplate {
    environment: Result<Environment<'static>, TokenizerError>,
    tokens: TemplateTokens,
    /// The template knows the role `developer`; elsewhere it is `system`.
    knows_developer: bool,
}

impl ChatTemplate {
    pub(crate) fn new(source: String, tokens: TemplateTokens) -> Self {
        let knows_developer = source.contains("developer");
        let mut environment = crate::python::environment();
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION);
        let compiled = environment.add_template_owned(NAME, crate::python::without_generation_tags(&source));
        Self { environment: compiled.map(|()| environment).map_err(|e| template_error(&e)), tokens, knows_developer }
    }

    pub(crate) fn render(&self, messages: &[ChatMessage], options: &ChatOptions) -> Result<String, TokenizerError> {
        let environment = self.environment.as_ref().map_err(Clone::clone)?;
        let template = environment.get_template(NAME).map_err(|e| template_error(&e))?;
        let input: usize = messages.iter().map(|m| m.content.len() + m.role.len()).sum();
        let mut output = Bounded { text: Vec::new(), limit: input.saturating_mul(OUTPUT_FACTOR) + OUTPUT_EXTRA };
        let rendered = template.render_captured_to(self.context(messages, options), &mut output).map(drop);
        rendered.map_err(|e| template_error(&e))?;
        Ok(String::from_utf8(output.text).expect("the engine writes text"))
    }

    fn context(&self, messages: &[ChatMessage], options: &ChatOptions) -> Value {
        let known = |message: &ChatMessage| {
            let role = if message.role == "developer" && !self.knows_developer { "system" } else { &message.role };
            ChatMessage { role: role.to_owned(), ..message.clone() }
        };
        let messages: Vec<ChatMessage> = messages.iter().map(known).collect();
        let nothing = ["tools", "documents"].map(|name| (name.to_owned(), Value::from(())));
        let tokens = self.tokens.iter().map(|(name, token)| (name.clone(), Value::from_serialize(token)));
        let extra = options.extra.iter().map(|(name, value)| (name.clone(), Value::from_serialize(value)));
        let ours = [
            ("messages".to_owned(), Value::from_serialize(messages)),
            ("add_generation_prompt".to_owned(), options.add_generation_prompt.into()),
        ];
        nothing.into_iter().chain(tokens).chain(extra).chain(ours).collect()
    }
}

fn template_error(error: &minijinja::Error) -> TokenizerError {
    let why = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => "it takes too many steps".to_owned(),
        (ErrorKind::WriteFailure, _) => "it writes too much text for these messages".to_owned(),
        (_, Some(detail)) => detail.to_owned(),
        (kind, None) => kind.to_string(),
    };
    TokenizerError::Template { line: error.line(), why }
}

/// Takes so many bytes and no more.
struct Bounded {
    text: Vec<u8>,
    limit: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.limit - self.text.len() {
            return Err(io::Error::other("too much text"));
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
