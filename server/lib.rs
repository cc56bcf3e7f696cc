//! minisgl, the library: an LLM inference server from request to token stream.
//!
//! ```text
//!   request.rs batch.rs metrics.rs health.rs   shared vocabulary: plain data and leaves; every module sees these
//!   http/        axum routes, SSE framing, drain            sees llm and the vocabulary
//!   llm.rs       Llm, the one way in: submit -> Generation
//!   intake.rs    tokenizer workers: template, encode, refuse
//!   scheduler/   a state machine without threads or clocks, and the loop that drives it; pages/: who may use which page
//!   engine/      ModelRunner over any Device, or simulated; models/: the one forward pass
//!   accuracy.rs  a fast engine's distributions against the exact one's
//!   sizing.rs    scheduler and simulated engine in virtual time: what GPUs would a load need
//! ```
//! Offline use, in ten lines (http, chat and bench stand on the same [`Llm`](llm::Llm)):
//!
//! ```no_run
//! use minisgl::llm::{Llm, LoadOptions, SamplingParams};
//!
//! let llm = Llm::load(&Default::default(), LoadOptions::default())?;
//! let params = SamplingParams { temperature: 0.0, max_tokens: 32, ..Default::default() };
//! for completion in llm.generate(["The capital of Japan is", "2 + 2 ="], params.clone())? {
//!     println!("{} ({} tokens)", completion.text, completion.token_ids.len());
//! }
//! for event in llm.generate_stream("Once upon a time", params)? {
//!     println!("{:?}", event?); // (index of the prompt, TextEvent)
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `http`, `scheduler` and `engine` never import each other; `llm` alone sees the last two, and wires them.
pub mod accuracy;
pub mod batch;
pub mod engine;
pub mod health;
pub mod http;
pub mod intake;
pub mod llm;
pub mod metrics;
pub mod models;
pub mod request;
pub mod scheduler;
pub mod sizing;
