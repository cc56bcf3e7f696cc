//! What a user would notice, in one test binary: wire bytes, tokens against references, cancellation, real counterparts.
//!
//! Each module says what it holds; `support` starts servers and finds counterparts.
#![allow(unreachable_pub)] // nothing is exported from a test binary: `pub` is for sibling modules

mod accuracy;
mod commands;
mod fake;
mod golden;
mod http;
mod layering;
mod llm;
mod loadgen;
mod serving;
mod simulated;
mod support;
