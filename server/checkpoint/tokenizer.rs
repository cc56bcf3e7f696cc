//! A tokenizer's files as they stand on disk: read and bounded here, understood by the tokenizer crate.
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::CheckpointError;
use crate::file;
use crate::gguf::Gguf;
use crate::json;

/// What a tokenizer is built from.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenizerSource {
    /// A Hugging Face directory's files.
    HuggingFace(HfTokenizer),
    /// A GGUF file's metadata.
    Gguf(GgufTokenizer),
}

/// A Hugging Face directory's files.
#[derive(Clone, Debug, PartialEq)]
pub struct HfTokenizer {
    /// `tokenizer.json`, unparsed.
    pub tokenizer_json: Vec<u8>,
    /// `tokenizer_config.json`, an object; empty where there is none. `bos_token`, `eos_token` and the like are in it.
    pub tokenizer_config: Value,
    /// `chat_template.jinja`, else what `tokenizer_config.json` says (of several named templates, `default`), else
    /// `chat_template.json`.
    pub chat_template: Option<String>,
    /// The directory.
    pub path: PathBuf,
}

/// A GGUF file's `tokenizer.*` metadata, with the keys' own names.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the names are GGUF's
pub struct GgufTokenizer {
    /// `gpt2` (byte-level BPE) or `llama` (SentencePiece).
    pub model: String,
    /// The pre-tokenizer's name.
    pub pre: Option<String>,
    /// The text of each token, by id.
    pub tokens: Vec<String>,
    /// A score a token, or empty.
    pub scores: Vec<f32>,
    /// A type a token, or empty: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
    pub token_types: Vec<i32>,
    /// `left right`, by rank.
    pub merges: Vec<String>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unk: Option<u32>,
    pub pad: Option<u32>,
    /// End of a turn.
    pub eot: Option<u32>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    pub add_space_prefix: Option<bool>,
    pub chat_template: Option<String>,
    /// The file.
    pub path: PathBuf,
}

impl TokenizerSource {
    /// Reads the tokenizer of a GGUF file or a Hugging Face directory; the model's config and weights may be absent or
    /// of a kind that cannot be served.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        if path.is_dir() {
            read_directory(path).map(Self::HuggingFace)
        } else {
            Gguf::open(path)?.tokenizer().map(Self::Gguf)
        }
    }
}

/// A Hugging Face directory's tokenizer files.
fn read_directory(directory: &Path) -> Result<HfTokenizer, CheckpointError> {
    let Some(tokenizer_json) = file::read(&directory.join("tokenizer.json"), json::MAX_TOKENIZER_BYTES)? else {
        let why =
            "no tokenizer.json there; transformers' AutoTokenizer.from_pretrained(…).save_pretrained(…) writes one";
        return Err(CheckpointError::file(directory, why));
    };
    let config_path = directory.join("tokenizer_config.json");
    let config = json::read_json::<Value>(&config_path, json::MAX_TOKENIZER_CONFIG_BYTES)?;
    let tokenizer_config = config.unwrap_or_else(|| Value::Object(Default::default()));
    if !tokenizer_config.is_object() {
        return Err(CheckpointError::file(&config_path, "expected an object"));
    }
    let chat_template = match file::read_text(&directory.join("chat_template.jinja"), json::MAX_TEMPLATE_BYTES)? {
        Some(template) => Some(template),
        None => match template_of(&config_path, &tokenizer_config)? {
            Some(template) => Some(template),
            None => {
                let path = directory.join("chat_template.json");
                match json::read_json::<Value>(&path, json::MAX_TEMPLATE_BYTES)? {
                    Some(value) => template_of(&path, &value)?,
                    None => None,
                }
            }
        },
    };
    Ok(HfTokenizer { tokenizer_json, tokenizer_config, chat_template, path: directory.to_path_buf() })
}

/// `chat_template` of a JSON object: a string, or a list of named ones.
fn template_of(path: &Path, object: &Value) -> Result<Option<String>, CheckpointError> {
    const FIELD: &str = "chat_template";
    match object.get(FIELD) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(template)) => Ok(Some(template.clone())),
        Some(Value::Array(named)) => {
            let default = named.iter().find(|t| t.get("name").and_then(Value::as_str) == Some("default"));
            Ok(default.and_then(|t| t.get("template")).and_then(Value::as_str).map(str::to_string))
        }
        Some(_) => Err(CheckpointError::field(path, FIELD, "expected a string or a list of {name, template}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{tiny_gguf, write};

    fn template(files: &[(&str, &str)]) -> Option<String> {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), "tokenizer.json", "{}");
        files.iter().for_each(|(name, text)| write(directory.path(), name, text));
        match TokenizerSource::open(directory.path()).unwrap() {
            TokenizerSource::HuggingFace(tokenizer) => tokenizer.chat_template,
            TokenizerSource::Gguf(_) => panic!("a directory"),
        }
    }

    #[test]
    fn the_template_is_where_the_newest_convention_puts_it() {
        let config = ("tokenizer_config.json", r#"{"chat_template":"config","eos_token":"</s>"}"#);
        let named = r#"{"chat_template":[{"name":"tool_use","template":"t"},{"name":"default","template":"d"}]}"#;
        let json = ("chat_template.json", r#"{"chat_template":"json"}"#);
        assert_eq!(template(&[]), None);
        assert_eq!(template(&[json]).as_deref(), Some("json"));
        assert_eq!(template(&[json, config]).as_deref(), Some("config"));
        assert_eq!(template(&[json, config, ("chat_template.jinja", "jinja")]).as_deref(), Some("jinja"));
        assert_eq!(template(&[("tokenizer_config.json", named)]).as_deref(), Some("d"));
        assert_eq!(template(&[("tokenizer_config.json", r#"{"chat_template":[]}"#)]), None);
    }

    #[test]
    fn bad_files_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let error = || TokenizerSource::open(directory.path()).unwrap_err().to_string();
        assert!(error().contains("no tokenizer.json there"));
        write(directory.path(), "tokenizer.json", "{}");
        write(directory.path(), "tokenizer_config.json", "[1");
        assert!(error().contains("tokenizer_config.json: not the JSON that it should be"));
        write(directory.path(), "tokenizer_config.json", "[1]");
        assert!(error().contains("tokenizer_config.json: expected an object"));
        write(directory.path(), "tokenizer_config.json", r#"{"chat_template":1}"#);
        assert!(error().contains("tokenizer_config.json: chat_template: expected a string"));
        write(directory.path(), "chat_template.jinja", [0xff, 0xfe]);
        assert!(error().contains("chat_template.jinja: not UTF-8 text"));
    }

    #[test]
    fn a_gguf_file_has_its_own() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), "m.gguf", tiny_gguf().bytes());
        let path = directory.path().join("m.gguf");
        let TokenizerSource::Gguf(tokenizer) = TokenizerSource::open(&path).unwrap() else { panic!("a GGUF file") };
        assert_eq!((tokenizer.path, tokenizer.tokens.len()), (path, 3));
    }
}
