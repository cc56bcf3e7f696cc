//! What a run was of: recorded with its figures, so that they can be judged and made again.
//!
//! Owns the words. Holds no secret: the command arrives with its secrets left out.
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a run was of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// The workload in a few words; a trace's is its file.
    pub workload: String,
    /// The format that the trace's content showed, if it was a trace.
    pub trace_format: Option<String>,
    /// SHA-256 of the trace file.
    pub trace_sha256: Option<String>,
    /// Of everything that the requests ask and when: runs with the same one had the same workload.
    pub workload_digest: Option<String>,
    /// What the trace's times were multiplied by, if it was a trace.
    pub time_scale: Option<f64>,
    /// Requests a second that were asked for, where a rate was.
    pub rate: Option<f64>,
    /// How they were spread: `constant`, `poisson`, `gamma 0.5`.
    pub arrival: Option<String>,
    /// Requests in flight, in a closed loop.
    pub concurrency: Option<u64>,
    /// Over how long a closed loop began, or a rate grew, in seconds.
    pub ramp_s: Option<f64>,
    /// Which repeat of its point this is, from 1.
    pub repeat: u64,
    /// The server.
    pub url: String,
    /// The endpoint that was measured.
    pub endpoint: String,
    /// The model asked for.
    pub model: String,
    /// The tokenizer that made the prompts.
    pub tokenizer: String,
    /// What the prompts were made of, and that no run saw the tokens of another.
    pub prompts: String,
    /// The seed of prompts, lengths, arrivals and cancellations.
    pub seed: u64,
    /// What was simulated, where the server answers for hardware that is not there. Printed wherever figures are.
    pub simulated: Option<String>,
    /// minisgl's version.
    pub version: String,
    /// The command as typed, secrets left out.
    pub command: String,
    /// When the run began: RFC 3339, UTC.
    pub started: String,
}

impl About {
    /// Which point of a sweep this was, in a few words.
    pub fn point(&self) -> String {
        match (self.time_scale, self.rate, self.concurrency) {
            (Some(scale), ..) => format!("time scale {scale}"),
            (_, Some(rate), _) => format!("{rate} req/s"),
            (.., Some(concurrency)) => format!("concurrency {concurrency}"),
            _ => "the run".to_owned(),
        }
    }

    /// The point's place on an axis, and what the axis is called.
    pub(crate) fn axis(&self) -> Option<(f64, &'static str)> {
        match (self.time_scale, self.rate, self.concurrency) {
            (Some(scale), ..) => Some((scale, "time scale")),
            (_, Some(rate), _) => Some((rate, "requests/s")),
            (.., Some(concurrency)) => Some((concurrency as f64, "concurrency")),
            _ => None,
        }
    }

    /// The ramp.
    pub(crate) fn ramp(&self) -> Duration {
        self.ramp_s.and_then(|s| Duration::try_from_secs_f64(s).ok()).unwrap_or_default()
    }
}

/// A wall-clock time as RFC 3339 in UTC, to the second.
pub(crate) fn rfc3339(unix_s: f64) -> String {
    let seconds = unix_s.max(0.0) as u64;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days to a date by eras of 400 years that begin on 1 March, so that the leap day is a year's last.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_for_people() {
        for (unix, text) in [
            (0.0, "1970-01-01T00:00:00Z"),
            (951_782_399.9, "2000-02-28T23:59:59Z"),
            (951_782_400.0, "2000-02-29T00:00:00Z"),
            (1_764_003_661.5, "2025-11-24T17:01:01Z"),
            (4_107_542_400.0, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(unix), text);
        }
    }
}
