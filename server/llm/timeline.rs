//! A sequence's times: from its request's head to its events' commit instants, told to the metrics.
//!
//! A slow reader is not our latency, so an event's own instant counts, not when it was read. Every accepted sequence is
//! observed exactly once at its end, also when its caller drops it. Does not know text or channels.
use std::time::Instant;

use crate::metrics::{Ended, Metrics, SequenceTimes};
use crate::request::FinishReason;

/// `head → queued → started → first token → last token → end`, as far as it came.
#[derive(Debug)]
pub(crate) struct Timeline {
    metrics: Metrics,
    head: Instant,
    queued: Option<Instant>,
    started: Option<Instant>,
    first: Option<Instant>,
    last: Option<Instant>,
    prompt_tokens: usize,
    tokens: usize,
    ended: bool,
}

impl Timeline {
    /// `head` is when the request's head was read, or when an offline caller asked.
    pub(crate) fn new(metrics: Metrics, head: Instant) -> Self {
        Self {
            metrics,
            head,
            queued: None,
            started: None,
            first: None,
            last: None,
            prompt_tokens: 0,
            tokens: 0,
            ended: false,
        }
    }

    pub(crate) fn queued(&mut self, prompt_tokens: usize, at: Instant) {
        self.queued = Some(at);
        self.prompt_tokens = prompt_tokens;
    }

    pub(crate) fn started(&mut self, cached_tokens: usize, at: Instant) {
        self.started = Some(at);
        self.metrics.count_prompt(self.prompt_tokens, cached_tokens);
    }

    pub(crate) fn token(&mut self, at: Instant) {
        match self.last {
            None => {
                self.first = Some(at);
                self.metrics.observe_first_token(at.saturating_duration_since(self.head));
            }
            Some(last) => self.metrics.observe_next_token(at.saturating_duration_since(last)),
        }
        self.last = Some(at);
        self.tokens += 1;
    }

    pub(crate) fn finished(&mut self, reason: FinishReason, at: Instant) {
        let ended = match reason {
            FinishReason::Stop => Ended::Stop,
            FinishReason::Length => Ended::Length,
        };
        self.end(ended, at);
    }

    pub(crate) fn failed(&mut self) {
        self.end(Ended::Error, Instant::now());
    }

    /// Never accepted: not a sequence that ended.
    pub(crate) fn refused(&mut self) {
        self.ended = true;
    }

    fn end(&mut self, ended: Ended, at: Instant) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let between = |from: Option<Instant>, to: Option<Instant>| Some(to?.saturating_duration_since(from?));
        self.metrics.observe_end(
            ended,
            &SequenceTimes {
                e2e: at.saturating_duration_since(self.head),
                queue: between(self.queued, self.started),
                prefill: between(self.started, self.first),
                decode: between(self.first, self.last),
                inference: between(self.started, self.last),
                prompt_tokens: self.prompt_tokens,
                generation_tokens: self.tokens,
            },
        );
    }
}

/// Its caller left before the end.
impl Drop for Timeline {
    fn drop(&mut self) {
        self.end(Ended::Abort, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use minisgl_config::MetricsPrefix;
    use std::time::Duration;

    fn value(metrics: &Metrics, series: &str) -> f64 {
        let text = metrics.encode();
        let line = text.lines().find(|line| line.starts_with(&format!("minisgl_{series}"))).expect("the series");
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    fn ended(metrics: &Metrics, reason: &str) -> f64 {
        value(metrics, &format!("request_success_total{{engine=\"0\",finished_reason=\"{reason}\""))
    }

    #[test]
    fn each_phase_is_measured_between_its_own_instants() {
        let metrics = Metrics::new(MetricsPrefix::Minisgl, "tiny");
        let head = Instant::now();
        let at = |ms| head + Duration::from_millis(ms);
        let mut timeline = Timeline::new(metrics.clone(), head);
        timeline.queued(7, at(1));
        timeline.started(4, at(5));
        timeline.token(at(25));
        timeline.token(at(45));
        timeline.token(at(125));
        timeline.finished(FinishReason::Length, at(126));
        drop(timeline);
        for (name, seconds) in [
            ("time_to_first_token_seconds", 0.025),
            ("inter_token_latency_seconds", 0.1),
            ("request_time_per_output_token_seconds", 0.05),
            ("e2e_request_latency_seconds", 0.126),
            ("request_queue_time_seconds", 0.004),
            ("request_prefill_time_seconds", 0.02),
            ("request_decode_time_seconds", 0.1),
            ("request_inference_time_seconds", 0.12),
        ] {
            let sum = value(&metrics, &format!("{name}_sum"));
            assert!((sum - seconds).abs() < 1e-9, "{name}: {sum}, not {seconds}");
        }
        assert_eq!(value(&metrics, "prompt_tokens_total"), 7.0);
        assert_eq!(value(&metrics, "prompt_tokens_cached_total"), 4.0);
        assert_eq!(value(&metrics, "generation_tokens_total"), 3.0);
        assert_eq!((ended(&metrics, "length"), ended(&metrics, "abort")), (1.0, 0.0), "observed once");
    }

    #[test]
    fn a_dropped_sequence_is_an_abort_and_a_refused_one_is_nothing() {
        let metrics = Metrics::new(MetricsPrefix::Minisgl, "tiny");
        let mut timeline = Timeline::new(metrics.clone(), Instant::now());
        timeline.queued(7, Instant::now());
        drop(timeline);
        Timeline::new(metrics.clone(), Instant::now()).refused();
        Timeline::new(metrics.clone(), Instant::now()).failed();
        assert_eq!((ended(&metrics, "abort"), ended(&metrics, "error"), ended(&metrics, "stop")), (1.0, 1.0, 0.0));
        assert_eq!(value(&metrics, "request_prefill_time_seconds_count"), 0.0);
    }
}
