//! What a user would notice, in one test binary: wire bytes, tokens against references, cancellation, real counterparts.
//!
//! Each module says what it holds; `support` starts servers and finds counterparts.
mod golden;
mod layering;
