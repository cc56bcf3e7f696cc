//! Logits and tokens held to transformers': tiny models of every architecture, and the default model on real text.
//!
//! The expectations are files that scripts made (`fixtures/models/*.py`, `fixtures/smollm2_reference.py`).
mod feed;
mod mixes;
mod models;
mod ranks;
mod reference;
