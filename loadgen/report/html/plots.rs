//! The plots of one run.
//!
//! Owns what is drawn of which records and series, and how many points at most.
use crate::plot::{self, Axis, Cell, Figure};
use crate::report::data::{RequestLine, RunData};
use crate::scrape::ServerSample;
use crate::series::{GapsOverTime, Sample};

/// Most points of a scatter: of more, every so-manieth is drawn, and the plot says so.
const MOST_POINTS: usize = 2000;

/// Most steps of a rate over time: samples are taken together, or each step would count a handful of chunks.
const MOST_RATES: usize = 150;

/// The plots of the `nth` run, whose ids begin with it: those of which there are values.
pub(super) fn of(nth: usize, run: &RunData) -> Vec<Figure> {
    let plots = Plots { nth, run };
    let parts = [plots.cdfs(), plots.sampled(), plots.gaps(), plots.scheduled(), plots.server()];
    parts.into_iter().flatten().collect()
}

struct Plots<'a> {
    nth: usize,
    run: &'a RunData,
}

type Points = Vec<(f64, f64)>;

/// How a value is found in a request's line.
type OfRequest = fn(&RequestLine) -> Option<f64>;

fn seconds() -> Axis {
    Axis::linear("s after the run's start")
}

/// An axis of latencies: logarithmic where they span more than a decade, or ticks would be few and far between.
fn milliseconds(bounds: Option<(f64, f64)>) -> Axis {
    match bounds {
        Some((least, most)) if most > 10.0 * least => Axis::log("ms"),
        _ => Axis::linear("ms"),
    }
}

/// The x of the first and the last point.
fn bounds_of(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    Some((points.first()?.0, points.last()?.0))
}

impl Plots<'_> {
    fn figure(&self, id: &str, caption: &str, x: Axis, y: Axis) -> Figure {
        Figure::new(&format!("run{}-{id}", self.nth), caption, x, y)
    }

    /// An empty CDF of values that are to lie within these bounds.
    fn cdf(&self, id: &str, caption: &str, bounds: Option<(f64, f64)>) -> Figure {
        self.figure(id, caption, milliseconds(bounds), Axis::linear("share").from(0.0).to(1.0))
    }

    /// Values of the requests that have them, sorted.
    fn values(&self, of: OfRequest) -> Vec<f64> {
        let mut values: Vec<f64> = self.run.requests.iter().filter_map(of).collect();
        values.sort_by(f64::total_cmp);
        values
    }

    /// A value of each request by when it was sent, so thinned that it can be drawn.
    fn scatter(&self, id: &str, caption: &str, of: OfRequest) -> Option<Figure> {
        let requests = self.run.requests.iter();
        let points: Points = requests.filter_map(|r| Some((r.sent_ns as f64 / 1e9, of(r)?))).collect();
        let step = points.len().div_ceil(MOST_POINTS).max(1);
        let kept: Points = points.iter().copied().step_by(step).collect();
        let figure = self.figure(id, caption, Axis::linear("sent, s"), Axis::linear("ms").from(0.0));
        let figure = figure.scatter("request", &kept);
        (!kept.is_empty())
            .then(|| if step > 1 { figure.note(&format!("one request of {step} is drawn")) } else { figure })
    }

    fn cdfs(&self) -> Vec<Figure> {
        let slo = self.run.report.goodput.as_ref().map(|goodput| goodput.slo).unwrap_or_default();
        let mut figures = Vec::new();
        let of: [(_, _, OfRequest, _); 3] = [
            ("ttft-cdf", "Time to first token", |r| r.ttft_ms, slo.ttft),
            ("tpot-cdf", "Time per output token, one value a request", |r| r.tpot_ms, slo.tpot),
            ("e2e-cdf", "Time to the last token", |r| r.e2e_ms, slo.e2e),
        ];
        for (id, caption, of, slo) in of {
            let values = self.values(of);
            if !values.is_empty() {
                let figure = self
                    .cdf(id, caption, values.first().copied().zip(values.last().copied()))
                    .steps("requests", &plot::cdf(&values));
                let figure = figure.note(&format!("{} requests", values.len()));
                figures.push(if let Some(ms) = slo { figure.vertical("SLO", ms) } else { figure });
            }
        }
        let turned = |quantiles: &[(f64, f64)]| quantiles.iter().map(|&(share, ms)| (ms, share)).collect::<Points>();
        let (itl, icl) = (turned(&self.run.series.itl_quantiles), turned(&self.run.series.icl_quantiles));
        if !itl.is_empty() {
            let figure = self.cdf("itl-cdf", "Gaps between tokens", bounds_of(&itl)).steps("tokens (ITL)", &itl);
            figures.push(if icl == itl { figure } else { figure.steps("chunks (ICL)", &icl) });
        }
        figures.extend(self.scatter("ttft-time", "Time to first token by when a request was sent", |r| r.ttft_ms));
        figures
    }

    fn sampled(&self) -> Vec<Figure> {
        let samples = &self.run.series.samples;
        if samples.len() < 2 {
            return Vec::new();
        }
        let of = |value: fn(&Sample) -> u64| samples.iter().map(|s| (s.at_s, value(s) as f64)).collect::<Points>();
        let chunks = self.figure("chunks", "Content chunks a second", seconds(), Axis::linear("chunks/s").from(0.0));
        let requests = self.figure("requests", "Requests a second", seconds(), Axis::linear("req/s").from(0.0));
        let in_flight = self.figure("in-flight", "Requests in flight", seconds(), Axis::linear("requests").from(0.0));
        vec![
            chunks.steps("chunks", &rates(samples, |s| s.chunks)),
            requests.steps("sent", &rates(samples, |s| s.sent)).steps("over", &rates(samples, |s| s.done)),
            in_flight
                .steps("in flight", &of(|s| s.sent.saturating_sub(s.done)))
                .steps("queued: no token yet", &of(|s| s.queued)),
        ]
    }

    fn scheduled(&self) -> Vec<Figure> {
        let lags = self.values(|r| r.lag_ms);
        if lags.is_empty() {
            return Vec::new();
        }
        // Linear: most lags are next to nothing, and a request may be exactly on time.
        let (x, y) = (Axis::linear("ms").from(0.0), Axis::linear("share").from(0.0).to(1.0));
        let cdf = self.figure("lag-cdf", "How late requests were sent", x, y).steps("requests", &plot::cdf(&lags));
        self.scatter("lag-time", "Schedule lag over the run", |r| r.lag_ms).into_iter().chain([cdf]).collect()
    }

    fn gaps(&self) -> Vec<Figure> {
        let (column_s, cells) = (self.run.series.gap_column_s, &self.run.series.gap_cells);
        if cells.is_empty() || column_s <= 0.0 {
            return Vec::new();
        }
        let at = |column: usize| column as f64 * column_s;
        let bounds = |bin: usize| (GapsOverTime::bin_start_us(bin) / 1e3, GapsOverTime::bin_start_us(bin + 1) / 1e3);
        let quantile = |share: f64| -> Points {
            let of = |cells: &[(usize, usize, u32)]| {
                let all: u64 = cells.iter().map(|cell| u64::from(cell.2)).sum();
                let mut below = 0;
                let reached = cells.iter().find(|cell| {
                    below += u64::from(cell.2);
                    below as f64 >= share * all as f64
                })?;
                // The bin's middle, by the ratio of its bounds.
                let (from, to) = bounds(reached.1);
                Some((at(reached.0) + column_s / 2.0, (from * to).sqrt()))
            };
            cells.chunk_by(|a, b| a.0 == b.0).filter_map(of).collect()
        };
        let cell = |&(column, bin, count): &(usize, usize, u32)| Cell {
            x: (at(column), at(column + 1)),
            y: bounds(bin),
            value: f64::from(count),
        };
        let y = Axis::linear("ms").from(0.0);
        let lines = self.figure("itl-time", "Gaps between chunks over the run", seconds(), y);
        let shortest = cells.iter().map(|cell| bounds(cell.1).0).reduce(f64::min);
        let y = milliseconds(shortest.zip(cells.iter().map(|cell| bounds(cell.1).1).reduce(f64::max)));
        let heat = self.figure("gaps", "Gaps between chunks: how many, how long, when", seconds(), y);
        vec![
            lines
                .line("p50", &quantile(0.5))
                .line("p90", &quantile(0.9))
                .line("p99", &quantile(0.99))
                .note(&format!("of each {column_s} s, right to a quarter of an octave")),
            heat.heat("gaps", &cells.iter().map(cell).collect::<Vec<_>>()),
        ]
    }

    fn server(&self) -> Vec<Figure> {
        let samples = &self.run.series.server;
        let Some(first) = samples.first().filter(|_| samples.len() > 1) else { return Vec::new() };
        let of = |value: fn(&ServerSample) -> Option<f64>| -> Points {
            samples.iter().filter_map(|s| Some((s.at_s, value(s)?))).collect()
        };
        let hit_rate = |s: &ServerSample| {
            let queries = s.prefix_queries? - first.prefix_queries?;
            (queries > 0.0).then_some((s.at_s, (s.prefix_hits? - first.prefix_hits?) / queries))
        };
        let (running, waiting, usage) = (of(|s| s.running), of(|s| s.waiting), of(|s| s.kv_usage));
        let hits: Points = samples.iter().filter_map(hit_rate).collect();
        let mut figures = Vec::new();
        if !running.is_empty() || !waiting.is_empty() {
            let y = Axis::linear("sequences").from(0.0);
            let figure = self.figure("server", "Sequences, by the server's own metrics", seconds(), y);
            figures.push(figure.steps("running", &running).steps("waiting", &waiting));
        }
        if !usage.is_empty() || !hits.is_empty() {
            let y = Axis::linear("share").from(0.0);
            let figure = self.figure("server-cache", "The server's cache, by its own metrics", seconds(), y);
            figures.push(figure.steps("K/V cache in use", &usage).steps("prefix hits so far", &hits));
        }
        figures
    }
}

/// A rate between samples that are taken together until they are few enough.
fn rates(samples: &[Sample], of: fn(&Sample) -> u64) -> Points {
    let step = samples.len().div_ceil(MOST_RATES).max(1);
    let kept: Vec<&Sample> = samples.iter().step_by(step).collect();
    let between = kept.windows(2).filter(|pair| pair[1].at_s > pair[0].at_s);
    let rate = |pair: &[&Sample]| of(pair[1]).saturating_sub(of(pair[0])) as f64 / (pair[1].at_s - pair[0].at_s);
    between.map(|pair| (pair[0].at_s, rate(pair))).collect()
}
