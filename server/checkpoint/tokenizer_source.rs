//! What a checkpoint's files say about its tokenizer, as data: both forms, unchecked beyond their types.
//!
//! Knows nothing of how text is split or merged: the tokenizer crate builds from it.
use std::path::PathBuf;

/// A tokenizer as a checkpoint stores it.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenizerSource {
    /// `tokenizer.json` and its neighbours.
    HuggingFace(HfTokenizer),
    /// The `tokenizer.*` metadata of a GGUF file.
    Gguf(GgufTokenizer),
}

/// The tokenizer files of a Hugging Face directory.
#[derive(Clone, Debug, PartialEq)]
pub struct HfTokenizer {
    /// The bytes of `tokenizer.json`.
    pub tokenizer_json: Vec<u8>,
    /// `tokenizer_config.json`, an empty object where there is none.
    pub tokenizer_config: serde_json::Value,
    /// From `chat_template.jinja`, `chat_template.json` or `tokenizer_config.json`.
    pub chat_template: Option<String>,
    /// `tokenizer.json`'s path, for errors.
    pub path: PathBuf,
}

/// The `tokenizer.*` metadata of a GGUF file.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufTokenizer {
    /// `tokenizer.ggml.model`: `gpt2` (byte-level BPE) or `llama` (SentencePiece).
    pub model: String,
    /// `tokenizer.ggml.pre`: how text is split before merging.
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`: the text of each id.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.scores`: empty, or one a token.
    pub scores: Vec<f32>,
    /// `tokenizer.ggml.token_type`: empty, or one a token (1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte).
    pub token_types: Vec<i32>,
    /// `tokenizer.ggml.merges`: `left right`, most frequent first.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.bos_token_id`
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`
    pub eos: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`
    pub unk: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`
    pub pad: Option<u32>,
    /// `tokenizer.ggml.eot_token_id`
    pub eot: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`
    pub add_eos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`
    pub chat_template: Option<String>,
    /// The file, for errors.
    pub path: PathBuf,
}
