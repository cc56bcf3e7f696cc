//! Architectures: a checkpoint's config into one [`DecoderSpec`] and its tensors' names, and the one forward pass.
//!
//! Knows nothing of batches, requests or threads. An architecture is a file that fills in a spec; none has a forward pass
//! of its own.
//!
//! ```text
//!   spec.rs      DecoderSpec, what a forward pass needs to know; which architectures there are
//!   llama.rs mistral.rs qwen2.rs qwen3.rs qwen3_moe.rs      an architecture each: ModelConfig -> DecoderSpec
//!   rope.rs      rotary frequencies             names.rs   what tensors are called in either format
//!   weights.rs   a layer's weights, loaded      experts.rs a mixture's
//!   decoder.rs   the forward pass
//! ```
pub mod decoder;
mod experts;
mod llama;
mod mistral;
pub mod names;
mod qwen2;
mod qwen3;
mod qwen3_moe;
pub mod rope;
pub mod spec;
mod weights;

pub use decoder::{Activations, Decoder};
pub use spec::{DecoderSpec, ModelError, Rank};
