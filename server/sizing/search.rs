//! The highest rate that meets an SLO, by doubling and bisection over virtual runs.
//!
//! More load is taken to mean no more requests within their bounds, which holds but for noise of a request or two.
use minisgl_config::EngineSettings;

use super::{Course, Load, Slo, simulate};
use crate::engine::sim::Simulation;

/// What to search for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Search {
    /// What requests must keep within.
    pub slo: Slo,
    /// Which share of them.
    pub share: f64,
    /// Requests a second of the load as it is.
    pub rate: f64,
}

/// One run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Requests a second.
    pub rate: f64,
    /// Share of the requests that kept within the SLO.
    pub share: f64,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Sizing {
    /// The highest rate that a run met, and its course; `None` where no rate does.
    pub best: Option<(Point, Course)>,
    /// Every run, by rate.
    pub points: Vec<Point>,
    /// Whether a rate was too high: a load so short that all of it at once is met has no limit to be found.
    pub limited: bool,
}

/// Doublings, and halvings, from the load's own rate: a million times as much, or as little, is no answer.
const MOST_DOUBLINGS: usize = 20;
/// The rate is found to within this factor.
const CLOSE_ENOUGH: f64 = 1.02;

/// Searches. Takes one run for each doubling from the load's own rate to the answer, and some six to narrow it down.
pub fn find_rate(simulation: &Simulation, settings: &EngineSettings, load: &[Load], search: &Search) -> Sizing {
    let mut best: Option<(Point, Course)> = None;
    let mut points = Vec::new();
    let mut met = |multiple: f64| {
        let course = simulate(simulation, settings, load, multiple);
        let point = Point { rate: search.rate * multiple, share: search.slo.share_met(&course) };
        points.push(point);
        let met = point.share >= search.share;
        if met && best.as_ref().is_none_or(|(best, _)| best.rate < point.rate) {
            best = Some((point, course));
        }
        met
    };
    let (mut low, mut high) = (1.0, 1.0);
    let first = met(1.0);
    for _ in 0..MOST_DOUBLINGS {
        let next = if first { high * 2.0 } else { low / 2.0 };
        let fine = met(next);
        if first {
            (low, high) = if fine { (next, next) } else { (high, next) };
        } else {
            (low, high) = if fine { (next, low) } else { (next, next) };
        }
        if fine != first {
            break;
        }
    }
    // Where the doublings ended without a change there is nothing between.
    while high / low > CLOSE_ENOUGH {
        let middle = (low * high).sqrt();
        if met(middle) { low = middle } else { high = middle }
    }
    let limited = points.iter().any(|point| point.share < search.share);
    points.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    Sizing { best, points, limited }
}
