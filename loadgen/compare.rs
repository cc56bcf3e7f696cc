//! `minisgl loadgen compare A B`: what changed between two commands' runs, and whether by more than chance.
//!
//! Owns which figures are judged, which direction is worse, and the tests:
//! - **Runs of one point on both sides, two or more each**: Welch's t of the runs' own figures, the one test that knows how
//!   runs differ from run to run.
//! - **Else a mean**: Welch's t of the values' number, mean and deviation. It takes requests for independent, which those
//!   of one run are not quite, so it finds differences rather too easily: the tolerance stands beside it.
//! - **Else a percentile**, where records are at hand: its error is half the distance of the order statistics √(n·p·(1−p))
//!   ranks to either side (Woodruff).
//! - **Else a share of requests**: the two-proportion z test. Throughput of a single run has no test.
//!
//! A regression is a figure worse by more than the tolerance with p < 0.05; one that has no test at all, by more than the
//! tolerance. Percentiles without records are shown and not judged. Maxima are one value: neither.
mod workload;

use std::fmt::Write;
use std::path::Path;

use minisgl_config::loadgen::compare::CompareArgs;
use serde::Serialize;

use crate::error::LoadgenError;
use crate::report::data::{RequestLine, RunData};
use crate::report::{RunReport, folder};
use crate::statistics::{Moments, Summary, normal_two_sided, welch};

/// Chance below which a difference is called one.
const SIGNIFICANCE: f64 = 0.05;

/// What changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Share by which a figure may be worse.
    pub tolerance: f64,
    /// Whether anything is worse by more than that.
    pub regression: bool,
    /// How the workloads differ, point by point: their figures then answer different questions. Empty where they were the
    /// same, as far as is recorded.
    pub different_workloads: Vec<String>,
    /// Every point that both have.
    pub points: Vec<PointComparison>,
    /// What cannot be compared, and what to know of what can.
    pub notes: Vec<String>,
}

/// What changed at one point of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PointComparison {
    /// Which.
    pub point: String,
    /// A's runs of it and B's.
    pub runs: [usize; 2],
    /// Figure by figure.
    pub figures: Vec<Difference>,
}

/// One figure, before and after.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Its name, unit last.
    pub figure: String,
    /// A's; of several runs, their mean.
    pub before: f64,
    /// B's.
    pub after: f64,
    /// Change as a share of A's; none where that is 0.
    pub change: Option<f64>,
    /// Chance of a difference like this if there were none; null where there is no test.
    pub p: Option<f64>,
    /// What that makes it.
    pub verdict: Verdict,
}

/// What a difference is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Within the tolerance, or by chance.
    Same,
    /// Better by more than the tolerance and more than chance.
    Better,
    /// Worse by more than the tolerance and more than chance.
    Worse,
    /// Shown, not judged.
    Shown,
}

/// Compares what was written with `--out` or `--json`, or records. `tolerance` is a share.
pub fn compare(before: &Path, after: &Path, tolerance: f64) -> Result<Comparison, LoadgenError> {
    Ok(compare_runs(&folder::read(before)?, &folder::read(after)?, tolerance))
}

/// `minisgl loadgen compare`: the text for stdout and the exit code, after the JSON was written where that was asked for.
pub fn compare_files(args: &CompareArgs) -> Result<(String, u8), LoadgenError> {
    let comparison = compare(&args.before, &args.after, args.tolerance)?;
    let json = || serde_json::to_string_pretty(&comparison).expect("a comparison is plain data") + "\n";
    let text = match args.json.as_deref() {
        None => comparison.table(),
        Some("-") => json(),
        Some(path) => {
            let error = |source| LoadgenError::Write { flag: "--json", path: path.into(), source };
            std::fs::write(path, json()).map_err(error)?;
            comparison.table()
        }
    };
    Ok((text, comparison.exit_code()))
}

impl Comparison {
    /// 0 without a regression, else 1.
    pub fn exit_code(&self) -> u8 {
        u8::from(self.regression)
    }

    /// The table that a person reads.
    pub fn table(&self) -> String {
        let mut out = String::new();
        self.write(&mut out).expect("writing to a string");
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        self.write_different(out)?;
        for point in &self.points {
            let [a, b] = point.runs;
            writeln!(out, "\n{} ({a} and {b} runs)", point.point)?;
            writeln!(out, "{:<22}{:>12}{:>12}{:>10}{:>9}", "", "A", "B", "change", "p")?;
            for d in &point.figures {
                let change = d.change.map_or("–".to_owned(), |change| format!("{:+.1}%", change * 100.0));
                let p = match d.p {
                    None => "–".to_owned(),
                    Some(p) if p < 0.001 => "<0.001".to_owned(),
                    Some(p) => format!("{p:.3}"),
                };
                let verdict = match d.verdict {
                    Verdict::Same | Verdict::Shown => "",
                    Verdict::Better => "  better",
                    Verdict::Worse => "  WORSE",
                };
                writeln!(out, "{:<22}{:>12.2}{:>12.2}{change:>10}{p:>9}{verdict}", d.figure, d.before, d.after)?;
            }
        }
        writeln!(out)?;
        self.notes.iter().try_for_each(|note| writeln!(out, "note: {note}"))?;
        let tolerance = self.tolerance * 100.0;
        let said = if self.regression { "B is worse by more than" } else { "nothing is worse by more than" };
        writeln!(out, "{said} {tolerance}% and chance (p < {SIGNIFICANCE})")?;
        // Below too: a long table's first lines are out of sight.
        match self.different_workloads.is_empty() {
            true => Ok(()),
            false => writeln!(out, "{DIFFERENT}"),
        }
    }

    fn write_different(&self, out: &mut String) -> std::fmt::Result {
        if !self.different_workloads.is_empty() {
            writeln!(out, "\n{DIFFERENT}")?;
        }
        self.different_workloads.iter().try_for_each(|how| writeln!(out, "  {how}"))
    }
}

/// What stands above and below a table of two workloads.
const DIFFERENT: &str =
    "DIFFERENT WORKLOADS: A and B were not asked the same, so no difference below is the server's alone";

fn compare_runs(before: &[RunData], after: &[RunData], tolerance: f64) -> Comparison {
    let mut notes = Vec::new();
    let [mut a, b] = [points(before), points(after)];
    // One point on each side is the same question, whatever it is called.
    if a.len() == 1 && b.len() == 1 && a[0].0 != b[0].0 {
        notes.push(format!("A is {}, B is {}", a[0].0, b[0].0));
        a[0].0.clone_from(&b[0].0);
    }
    let (mut compared, mut different_workloads) = (Vec::new(), Vec::new());
    for (name, runs) in &a {
        match b.iter().find(|(other, _)| other == name) {
            Some((_, others)) => {
                compared.push(point(name, [runs, others], tolerance));
                different_workloads.extend(workload::difference(runs, others).map(|how| format!("{name}: {how}")));
            }
            None => notes.push(format!("only A has {name}")),
        }
    }
    notes.extend(
        b.iter()
            .filter(|(name, _)| a.iter().all(|(other, _)| other != name))
            .map(|(name, _)| format!("only B has {name}")),
    );
    let reports = || before.iter().chain(after).map(|run| &run.report);
    for (differs, what) in [
        (reports().any(|report| !report.valid), "a run is INVALID: its client sent late"),
        (reports().any(|report| report.about.simulated.is_some()), "figures are SIMULATED, of no real hardware"),
        (differ(reports().map(|report| &report.about.model)), "the models differ"),
        (
            reports().any(|report| report.interrupted.is_some()),
            "a run was INTERRUPTED: it has the beginning of its workload",
        ),
        (
            before.iter().chain(after).any(|run| run.requests.is_empty()),
            "percentiles have no significance without records",
        ),
    ] {
        if differs {
            notes.push(what.to_owned());
        }
    }
    let worse = |point: &PointComparison| point.figures.iter().any(|figure| figure.verdict == Verdict::Worse);
    let regression = compared.iter().any(worse);
    Comparison { tolerance, regression, different_workloads, points: compared, notes }
}

fn differ<T: PartialEq>(mut values: impl Iterator<Item = T>) -> bool {
    values.next().is_some_and(|first| values.any(|value| value != first))
}

type Point<'a> = (String, Vec<&'a RunData>);

/// Runs by their point, in the order of the first of each.
fn points(runs: &[RunData]) -> Vec<Point<'_>> {
    let mut points: Vec<Point<'_>> = Vec::new();
    for run in runs {
        let name = run.report.about.point();
        match points.iter_mut().find(|(point, _)| *point == name) {
            Some((_, of)) => of.push(run),
            None => points.push((name, vec![run])),
        }
    }
    points
}

/// How a figure is found in a report.
type OfReport = Box<dyn Fn(&RunReport) -> Option<f64>>;

/// How a value is found in a request's line.
type OfRequest = fn(&RequestLine) -> Option<f64>;

/// A figure that is judged.
struct Judged {
    name: String,
    of: OfReport,
    more_is_worse: bool,
    test: Test,
}

/// What tells a single run's figure from chance.
enum Test {
    /// The mean of a summary.
    Mean(fn(&RunReport) -> Option<Summary>),
    /// A percentile of a value that each request has.
    Percentile(OfRequest, f64),
    /// A share of so many requests.
    Share(fn(&RunReport) -> u64),
    /// Nothing; judged by the tolerance alone.
    None,
    /// Nothing; not judged.
    Shown,
}

fn judged() -> Vec<Judged> {
    type OfSummary = fn(&RunReport) -> Option<Summary>;
    let mut all = Vec::new();
    let of_requests: [(&str, OfSummary, Option<OfRequest>); 5] = [
        ("ttft_ms", |r| r.ttft_ms, Some(|l| l.ttft_ms)),
        ("tpot_ms", |r| r.tpot_ms, Some(|l| l.tpot_ms)),
        ("itl_ms", |r| r.itl_ms, None),
        ("icl_ms", |r| r.icl_ms, None),
        ("e2e_ms", |r| r.e2e_ms, Some(|l| l.e2e_ms)),
    ];
    for (name, summary, of_line) in of_requests {
        let mut add = |part: &str, value: fn(Summary) -> Option<f64>, test| {
            let of = Box::new(move |report: &RunReport| value(summary(report)?));
            all.push(Judged { name: format!("{name}_{part}"), of, more_is_worse: true, test });
        };
        add("mean", |s| Some(s.mean), Test::Mean(summary));
        let percentile = |share| of_line.map_or(Test::Shown, |of| Test::Percentile(of, share));
        add("p50", |s| Some(s.p50), percentile(0.5));
        add("p90", |s| Some(s.p90), percentile(0.9));
        add("p99", |s| s.p99, percentile(0.99));
        add("max", |s| Some(s.max), Test::Shown);
    }
    type Of = fn(&RunReport) -> Option<f64>;
    let ratio = |part: u64, all: u64| (all > 0).then(|| part as f64 / all as f64);
    let others: [(&str, Of, bool, Test); 6] = [
        ("output_tok_s", |r| r.output_tok_s, false, Test::None),
        ("request_s", |r| r.request_s, false, Test::None),
        ("goodput_share", |r| r.goodput.as_ref()?.share, false, Test::Share(|r| r.requests - r.cancelled)),
        ("failed_share", |_| None, true, Test::Share(|r| r.requests)),
        ("hit_rate", |r| r.hit_rate, false, Test::Shown),
        ("lag_ms_max", |r| Some(r.schedule_lag_ms?.max), true, Test::Shown),
    ];
    for (name, of, more_is_worse, test) in others {
        let of: OfReport = match name {
            "failed_share" => Box::new(move |report| ratio(report.failed, report.requests)),
            _ => Box::new(of),
        };
        all.push(Judged { name: name.to_owned(), of, more_is_worse, test });
    }
    all
}

fn point(name: &str, sides: [&[&RunData]; 2], tolerance: f64) -> PointComparison {
    let figures = judged().iter().filter_map(|figure| difference(figure, sides, tolerance)).collect();
    PointComparison { point: name.to_owned(), runs: sides.map(<[_]>::len), figures }
}

fn difference(figure: &Judged, sides: [&[&RunData]; 2], tolerance: f64) -> Option<Difference> {
    let [a, b] = sides.map(|runs| runs.iter().filter_map(|run| (figure.of)(&run.report)).collect::<Vec<f64>>());
    let mean = |values: &[f64]| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
    let (before, after) = (mean(&a)?, mean(&b)?);
    let by_runs = Moments::of(&a).zip(Moments::of(&b)).map(|(a, b)| welch(a, b));
    let p = by_runs.or_else(|| figure.test.p(sides, [before, after]));
    let change = (before != 0.0).then(|| (after - before) / before);
    // From nothing to something is beyond any tolerance.
    let by = change.unwrap_or(if after == before { 0.0 } else { f64::INFINITY * (after - before) });
    let is_judged = match figure.test {
        Test::Shown => false,
        Test::Percentile(..) => p.is_some(),
        Test::Mean(_) | Test::Share(_) | Test::None => true,
    };
    let verdict = match is_judged {
        false => Verdict::Shown,
        true if by.abs() <= tolerance || p.is_some_and(|p| p >= SIGNIFICANCE) => Verdict::Same,
        true if (by > 0.0) == figure.more_is_worse => Verdict::Worse,
        true => Verdict::Better,
    };
    Some(Difference { figure: figure.name.clone(), before, after, change, p, verdict })
}

impl Test {
    fn p(&self, sides: [&[&RunData]; 2], [before, after]: [f64; 2]) -> Option<f64> {
        match self {
            Self::Mean(of) => {
                let [a, b] = sides.map(|runs| of(&runs.first()?.report)?.moments());
                Some(welch(a?, b?))
            }
            Self::Percentile(of, share) => {
                let [a, b] = sides.map(|runs| error_of_percentile(&runs.first()?.requests, *of, *share));
                let error = a?.hypot(b?);
                Some(if error > 0.0 { normal_two_sided((after - before) / error) } else { f64::from(after == before) })
            }
            Self::Share(of) => {
                let [n, m] = sides.map(|runs| runs.iter().map(|run| of(&run.report)).sum::<u64>() as f64);
                let pooled = (before * n + after * m) / (n + m);
                let error = (pooled * (1.0 - pooled) * (1.0 / n + 1.0 / m)).sqrt();
                (n > 0.0 && m > 0.0).then(|| {
                    if error > 0.0 { normal_two_sided((after - before) / error) } else { f64::from(after == before) }
                })
            }
            Self::None | Self::Shown => None,
        }
    }
}

/// The standard error of a percentile, from the order statistics around it; none where they lie beyond the values.
fn error_of_percentile(requests: &[RequestLine], of: OfRequest, share: f64) -> Option<f64> {
    let mut values: Vec<f64> = requests.iter().filter_map(of).collect();
    values.sort_by(f64::total_cmp);
    let n = values.len() as f64;
    let (rank, spread) = (n * share, (n * share * (1.0 - share)).sqrt());
    let at = |rank: f64| values.get((rank.ceil() as usize).checked_sub(1)?).copied();
    Some((at(rank + spread)? - at(rank - spread)?) / 2.0)
}

#[cfg(test)]
mod tests;
