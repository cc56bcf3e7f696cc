//! Sampling parameters as a caller gives them, and the checks that turn them into a [`Request`].
//!
//! One place for the ranges, whoever asks: the library's own callers or http. Does not know models or prompts.
use minisgl_kernels::Sampling;

use crate::request::{MaxTokens, Prompt, Request};

/// How to generate. `SamplingParams { max_tokens: 100, ..Default::default() }`
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 (greedy) to 2.
    pub temperature: f32,
    /// Keep the best k; −1 or 0 keeps all.
    pub top_k: i64,
    /// Keep the smallest set of best tokens whose probability reaches this; above 0, 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less probable than this times the best; 0 to 1, 0 keeps all.
    pub min_p: f32,
    /// Output bound, at least 1, clamped to the room that the context leaves.
    pub max_tokens: usize,
    /// Makes the output reproducible; random where absent.
    pub seed: Option<u64>,
    /// An end-of-sequence token does not end it.
    pub ignore_eos: bool,
    /// Texts that end the output, which is what stands before the first of them.
    pub stop: Vec<String>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: -1,
            top_p: 1.0,
            min_p: 0.0,
            max_tokens: 16,
            seed: None,
            ignore_eos: false,
            stop: Vec::new(),
        }
    }
}

/// Stop strings a request may have. OpenAI's own limit is 4.
pub const MAX_STOPS: usize = 16;
/// Bytes a stop string may have.
pub const MAX_STOP_BYTES: usize = 4096;

/// A parameter out of its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{param} must be {wanted}, not {got}")]
pub struct BadParam {
    /// Its name.
    pub param: &'static str,
    /// What would be right.
    pub wanted: String,
    /// What it is.
    pub got: String,
}

fn bad(param: &'static str, wanted: impl Into<String>, got: impl ToString) -> BadParam {
    BadParam { param, wanted: wanted.into(), got: got.to_string() }
}

impl SamplingParams {
    /// A request for `n` choices, or the parameter that is out of range.
    pub fn request(self, prompt: Prompt, n: usize) -> Result<Request, BadParam> {
        self.check()?;
        if n == 0 {
            return Err(bad("n", "at least 1", n));
        }
        let sampling = Sampling {
            temperature: self.temperature,
            top_k: u32::try_from(self.top_k.max(0)).unwrap_or(u32::MAX),
            top_p: self.top_p,
            min_p: self.min_p,
            seed: self.seed.unwrap_or_else(rand::random),
        };
        Ok(Request {
            prompt,
            n,
            max_tokens: MaxTokens::AtMost(self.max_tokens),
            sampling,
            ignore_eos: self.ignore_eos,
            stop: self.stop,
            expected_content_tokens: None,
        })
    }

    fn check(&self) -> Result<(), BadParam> {
        // Written so that a NaN is out of every range.
        if !(0.0..=2.0).contains(&self.temperature) {
            return Err(bad("temperature", "between 0 and 2", self.temperature));
        }
        if self.top_k < -1 {
            return Err(bad("top_k", "-1 or 0 (off), or at least 1", self.top_k));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(bad("top_p", "above 0 and at most 1", self.top_p));
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return Err(bad("min_p", "between 0 and 1", self.min_p));
        }
        if self.max_tokens == 0 {
            return Err(bad("max_tokens", "at least 1", self.max_tokens));
        }
        if self.stop.len() > MAX_STOPS {
            return Err(bad("stop", format!("at most {MAX_STOPS} strings"), self.stop.len()));
        }
        for stop in &self.stop {
            if stop.is_empty() || stop.len() > MAX_STOP_BYTES {
                let got = format!("one of {} bytes", stop.len());
                return Err(bad("stop", format!("strings of 1 to {MAX_STOP_BYTES} bytes"), got));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(change: impl FnOnce(&mut SamplingParams)) -> Result<Request, BadParam> {
        let mut params = SamplingParams::default();
        change(&mut params);
        params.request(Prompt::Tokens(vec![1]), 1)
    }

    #[test]
    fn ranges_are_checked_and_the_error_names_the_parameter() {
        type Change = fn(&mut SamplingParams);
        let changes: [(&str, Change); 12] = [
            ("temperature", |p| p.temperature = -0.1),
            ("temperature", |p| p.temperature = 2.1),
            ("temperature", |p| p.temperature = f32::NAN),
            ("top_k", |p| p.top_k = -2),
            ("top_p", |p| p.top_p = 0.0),
            ("top_p", |p| p.top_p = 1.1),
            ("top_p", |p| p.top_p = f32::NAN),
            ("min_p", |p| p.min_p = 1.1),
            ("max_tokens", |p| p.max_tokens = 0),
            ("stop", |p| p.stop = vec![String::new()]),
            ("stop", |p| p.stop = vec!["x".repeat(MAX_STOP_BYTES + 1)]),
            ("stop", |p| p.stop = vec!["x".into(); MAX_STOPS + 1]),
        ];
        for (param, change) in changes {
            let error = request(change).expect_err(param);
            assert_eq!(error.param, param, "{error}");
            assert!(error.to_string().contains("must be"), "{error}");
        }
    }

    #[test]
    fn off_is_zero_past_this_type() {
        for (asked, kept) in [(-1, 0), (0, 0), (1, 1), (40, 40), (i64::MAX, u32::MAX)] {
            assert_eq!(request(|p| p.top_k = asked).unwrap().sampling.top_k, kept);
        }
        assert_eq!(request(|p| p.seed = Some(7)).unwrap().sampling.seed, 7);
        assert_ne!(request(|_| ()).unwrap().sampling.seed, request(|_| ()).unwrap().sampling.seed);
    }
}
