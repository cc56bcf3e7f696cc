//! A model's files: find them (alias, path, hub id), fetch them, read them.
//!
//! Owns where models live and what their bytes say: GGUF, safetensors, `config.json` and its neighbours, all from
//! untrusted input. Lends views of mapped files; knows nothing of devices, forward passes or text.
//!
//! ```text
//!   config.rs      ModelConfig: an architecture's numbers as the files state them, both forms normalised
//!   hf.rs          a Hugging Face directory     gguf.rs   a GGUF file
//!   safetensors.rs sharded tensor files         dummy.rs  tensors for --dummy-weight
//!   find/          alias, path, hub id -> files on this disk, fetched where needed
//! ```
pub mod config;
pub mod tokenizer_source;

pub use config::{GenerationConfig, HiddenActivation, ModelConfig, RopeConfig, RopeScaling};
pub use tokenizer_source::{GgufTokenizer, HfTokenizer, TokenizerSource};
