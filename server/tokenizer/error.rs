//! What can go wrong between text and tokens.
use std::path::{Path, PathBuf};

/// A tokenizer's files, a template or a text could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerError {
    /// A file says something that cannot be, or that is not supported. Found when the tokenizer is made.
    #[error("{}: {why}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong in it, and what would be right.
        why: String,
    },
    /// Messages came, but the model's files hold no template to render them with.
    #[error(
        "this model has no chat template; use /v1/completions, or add a chat_template.jinja beside the model's tokenizer.json"
    )]
    NoChatTemplate,
    /// The chat template cannot be compiled, failed, or refused these messages by `raise_exception`.
    #[error("chat template{}: {why}", at_line(*line))]
    Template {
        /// Line of the template, from 1, where one is to blame.
        line: Option<usize>,
        /// The template engine's words, or the template's own.
        why: String,
    },
    /// The text cannot be encoded.
    #[error("cannot encode the text: {0}")]
    Encode(String),
    /// No text of so many tokens was found.
    #[error(
        "no text that encodes to exactly {n} tokens was found: the vocabulary has too few ordinary tokens that stand by themselves"
    )]
    ExactPrompt {
        /// Tokens asked for.
        n: usize,
    },
}

impl TokenizerError {
    pub(crate) fn file(path: &Path, why: impl Into<String>) -> Self {
        Self::File { path: path.to_owned(), why: why.into() }
    }
}

fn at_line(line: Option<usize>) -> String {
    line.map(|line| format!(", line {line}")).unwrap_or_default()
}
