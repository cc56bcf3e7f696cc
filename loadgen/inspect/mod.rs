//! `minisgl loadgen inspect`: what is in a trace, before anything is sent.
//!
//! Owns the figures of a trace, and how they are printed and drawn. Sends nothing, tokenises nothing and knows no server:
//! lengths that only a tokenizer could tell are given in characters.
mod figures;
mod html;
mod text;

use std::path::PathBuf;

use minisgl_config::loadgen::TraceSource;

pub use figures::{ArrivalFigures, Counts, Inspection, PrefixFigures, Spread, TurnFigures};

use crate::traces::Trace;
use crate::{ConsoleOptions, LoadgenError, public};

/// What is asked about a trace.
#[derive(Clone, Debug, PartialEq)]
pub struct InspectOptions {
    /// The trace.
    pub source: TraceSource,
    /// Only its first requests.
    pub limit: Option<usize>,
    /// Contexts, in tokens, of which the share of requests that need more is told.
    pub contexts: Vec<usize>,
    /// Where a page with plots is written.
    pub html: Option<PathBuf>,
}

impl InspectOptions {
    /// The contexts that models mostly have.
    pub const CONTEXTS: [usize; 4] = [4096, 8192, 32_768, 131_072];

    /// All of a trace against the usual contexts.
    pub fn of(source: TraceSource) -> Self {
        Self { source, limit: None, contexts: Self::CONTEXTS.to_vec(), html: None }
    }
}

/// Reads a trace and says what is in it; writes the page, if one is wanted. [`Inspection`] prints itself, and is JSON by way
/// of serde.
///
/// # Errors
/// The trace cannot be had or read, or the page not be written.
pub fn inspect(options: &InspectOptions, console: ConsoleOptions) -> Result<Inspection, LoadgenError> {
    let trace = public::open(&options.source, options.limit, console)?;
    let inspection = Inspection::of(&trace, &options.contexts);
    if let Some(path) = &options.html {
        let page = html::page(&trace, &inspection);
        std::fs::write(path, page).map_err(|source| LoadgenError::Write {
            flag: "--html",
            path: path.clone(),
            source,
        })?;
    }
    Ok(inspection)
}

/// Seconds after the first request at which each came.
fn times(trace: &Trace) -> impl Iterator<Item = f64> + Clone + '_ {
    let first = trace.requests.first().map_or(0.0, |request| request.timestamp_s);
    trace.requests.iter().map(move |request| request.timestamp_s - first)
}

#[cfg(test)]
mod tests;
