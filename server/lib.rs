//! minisgl, the library: an LLM inference server from request to token stream.
//!
//! ```text
//!   request.rs batch.rs metrics.rs health.rs   shared vocabulary: plain data and leaves; every module sees these
//!   http/        axum routes, SSE framing, drain            sees llm and the vocabulary
//!   llm.rs       Llm, the one way in: submit -> Generation
//!   intake.rs    tokenizer workers: template, encode, refuse
//!   scheduler/   a state machine without threads or clocks, and the loop that drives it; pages/: who may use which page
//!   engine/      ModelRunner over any Device; models/: the one forward pass
//! ```
//! `http`, `scheduler` and `engine` never import each other; this file alone sees all, and only wires them.
pub mod batch;
pub mod engine;
pub mod health;
pub mod metrics;
pub mod models;
pub mod request;
pub mod scheduler;
