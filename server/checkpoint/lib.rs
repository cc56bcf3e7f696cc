//! A model's files: find them (alias, path, hub id), fetch them, read them.
//!
//! Owns where models live and what their bytes say: GGUF, safetensors, `config.json` and its neighbours, all from
//! untrusted input. Lends views of mapped files; knows nothing of devices, forward passes or text.
//!
//! ```text
//!   open.rs        Checkpoint: config, tensors and tokenizer of either form
//!   config.rs      ModelConfig: an architecture's numbers as the files state them, both forms normalised
//!   hf/            config.json, generation_config.json      gguf/       a GGUF file
//!   safetensors.rs sharded tensor files                     dummy.rs    tensors for --dummy-weight
//!   tokenizer.rs   a tokenizer's files                      tensor.rs   what a checkpoint lends
//!   file.rs json.rs limits.rs error.rs                      bounded reading, bounds, errors
//!   find/          alias, path, hub id -> files on this disk, fetched where needed
//! ```
pub mod config;
mod dummy;
mod error;
mod file;
pub mod find;
mod gguf;
mod hf;
mod json;
mod limits;
mod open;
mod safetensors;
mod tensor;
#[cfg(test)]
mod testing;
mod tokenizer;

pub use config::{ExpertsConfig, Format, GenerationConfig, HiddenActivation, ModelConfig, RopeConfig, RopeScaling};
pub use error::CheckpointError;
pub use find::{FindError, FindOptions, Found, Hub, cache_folder, find, find_dataset_file, name_of};
pub use open::{Checkpoint, OpenOptions};
pub use tensor::Tensor;
pub use tokenizer::{GgufTokenizer, HfTokenizer, TokenizerSource};
