//! When the requests of a run are sent.
//!
//! Owns what each load makes of a workload: trace times, drawn times, or places; turns that wait; the end by time. Which
//! requests there are, `traced.rs` and `drawn.rs` say.
use std::time::Duration;

use minisgl_config::loadgen::settings::Load;

use super::drawn::Drawn;
use super::traced::{Replayed, Traced};
use super::{Common, MOST_REQUESTS};
use crate::arrivals::{self, AtRate};
use crate::error::LoadgenError;
use crate::request::{Places, Request, RunPlan, Start};
use crate::rng::SplitMix;

/// Marks the draws of arrivals apart from all others.
const ARRIVALS: u64 = u64::MAX - 3;

/// What a fast server takes for an answer and for each token of it: so many requests are prepared for a closed loop that
/// ends by time. For a faster one, more are made while the loop runs.
const LEAST_ANSWER_S: f64 = 0.02;
const LEAST_TOKEN_S: f64 = 0.002;

/// Prompt tokens that are prepared for such a loop at most: about a quarter of a gigabyte of text.
const MOST_PREPARED_TOKENS: usize = 1 << 26;

fn arrivals_of(load: &Load, seed: u64, repeat: u64) -> Option<impl Iterator<Item = Duration> + use<>> {
    match *load {
        Load::Rate { per_s, arrival, ramp } => {
            Some(AtRate { per_s, arrival, ramp }.times(SplitMix::of(seed, &[ARRIVALS, repeat])))
        }
        Load::TraceTimes { .. } | Load::Closed { .. } => None,
    }
}

fn places(load: &Load) -> Option<Places> {
    match *load {
        Load::Closed { concurrency, ramp } => Some(Places { count: concurrency, ramp }),
        Load::TraceTimes { .. } | Load::Rate { .. } => None,
    }
}

/// A trace under a load. Requests that would begin too late are left out, and with them the turns that wait for them. At a
/// drawn rate, what is drawn is when chats begin.
pub(super) fn traced(traced: &Traced, common: &Common, load: &Load, repeat: u64) -> RunPlan {
    let mut drawn = arrivals_of(load, common.seed, repeat);
    let places = places(load);
    let scale = if let Load::TraceTimes { scale } = *load { Some(scale) } else { None };
    let mut requests: Vec<Request> = Vec::with_capacity(traced.replayed.len());
    // Where each of the trace's requests is in this run; none of those that are left out.
    let mut moved: Vec<Option<usize>> = Vec::with_capacity(traced.replayed.len());
    for Replayed { request, at_s, delay_s, .. } in &traced.replayed {
        let parent = request.parent.map(|parent| moved[parent]);
        let own = scale.map_or(Duration::ZERO, |scale| arrivals::scaled(*at_s, scale));
        let (start, begins) = match (parent, &mut drawn) {
            (Some(None), _) => {
                moved.push(None);
                continue;
            }
            (Some(Some(parent)), _) => {
                let delay = arrivals::scaled(*delay_s, scale.unwrap_or(1.0));
                (Start::After { parent, delay, not_before: own }, own)
            }
            (None, Some(times)) => {
                let at = times.next().expect("arrivals never end");
                (Start::At(at), at)
            }
            (None, None) if places.is_some() => (Start::WhenFree, Duration::ZERO),
            (None, None) => (Start::At(own), own),
        };
        if common.until.is_some_and(|until| begins > until) {
            moved.push(None);
            continue;
        }
        moved.push(Some(requests.len()));
        requests.push(Request { start, parent: parent.flatten(), ..request.clone() });
    }
    RunPlan { requests, places, until: common.until, clamped: traced.clamped, endless: false }
}

/// Drawn requests under a load.
pub(super) fn drawn(drawn: &Drawn, common: &Common, load: &Load, repeat: u64) -> Result<RunPlan, LoadgenError> {
    let places = places(load);
    let most = drawn.num_requests.unwrap_or(MOST_REQUESTS).min(MOST_REQUESTS);
    let mut requests: Vec<Request> = match (arrivals_of(load, common.seed, repeat), places) {
        (Some(times), _) => {
            // One more than there may be tells whether there would be.
            let most = most + usize::from(drawn.num_requests.is_none());
            let times: Vec<Duration> =
                times.take_while(|&at| common.until.is_none_or(|until| at <= until)).take(most).collect();
            if times.len() > MOST_REQUESTS {
                return Err(LoadgenError::Workload(format!(
                    "more than {MOST_REQUESTS} requests begin within the duration: give a shorter --duration, a lower rate or \
                     --num-requests"
                )));
            }
            let at = |(index, &at)| Request { start: Start::At(at), ..drawn.request(common, index) };
            times.iter().enumerate().map(at).collect()
        }
        (None, Some(places)) if drawn.num_requests.is_none() => enough(drawn, common, places.count),
        (None, _) => (0..most).map(|index| drawn.request(common, index)).collect(),
    };
    let clamped = common.fit(&mut requests);
    let endless = places.is_some() && drawn.num_requests.is_none();
    Ok(RunPlan { requests, places, until: common.until, clamped, endless })
}

/// As many requests as a fast server could answer in time.
fn enough(drawn: &Drawn, common: &Common, places: usize) -> Vec<Request> {
    let mut left_s = common.until.unwrap_or_default().as_secs_f64() * places as f64;
    let (mut tokens, mut requests) = (0, Vec::new());
    while (left_s > 0.0 && tokens < MOST_PREPARED_TOKENS && requests.len() < MOST_REQUESTS) || requests.len() < places {
        let request = drawn.request(common, requests.len());
        left_s -= LEAST_ANSWER_S + LEAST_TOKEN_S * request.lengths.output as f64;
        tokens += request.lengths.input;
        requests.push(request);
    }
    requests
}
