//! Differences worked by hand, and what counts as a regression.
use super::*;
use crate::report::{About, Goodput};

/// A run whose requests take 100, 101, … 199 ms to the first token, times `factor`; nothing else was measured.
fn run(factor: f64) -> RunData {
    let requests: Vec<RequestLine> = (0..100)
        .map(|i| RequestLine { run: 1, ttft_ms: Some((100.0 + f64::from(i)) * factor), ..RequestLine::default() })
        .collect();
    let ns = requests.iter().filter_map(|line| Some((line.ttft_ms? * 1e6) as u64)).collect();
    let report = RunReport {
        requests: 100,
        completed: 100,
        valid: true,
        ttft_ms: Summary::exact(ns),
        output_tok_s: Some(1000.0),
        about: About { time_scale: Some(1.0), ..About::default() },
        ..RunReport::default()
    };
    RunData { report, requests, ..RunData::default() }
}

fn verdicts(comparison: &Comparison) -> Vec<(&str, Verdict)> {
    comparison.points.iter().flat_map(|p| &p.figures).map(|d| (d.figure.as_str(), d.verdict)).collect()
}

fn compared(a: &RunData, b: &RunData, tolerance: f64) -> Comparison {
    compare_runs(std::slice::from_ref(a), std::slice::from_ref(b), tolerance)
}

#[test]
fn a_run_is_the_same_as_itself() {
    let same = compared(&run(1.0), &run(1.0), 0.05);
    assert_eq!((same.regression, same.exit_code()), (false, 0));
    assert!(same.points[0].figures.iter().all(|d| d.change.is_none_or(|change| change == 0.0)), "{same:?}");
}

#[test]
fn worse_beyond_tolerance_and_chance_is_a_regression() {
    let worse = compared(&run(1.0), &run(1.2), 0.05);
    let expected = [
        ("ttft_ms_mean", Verdict::Worse),
        ("ttft_ms_p50", Verdict::Worse),
        ("ttft_ms_p90", Verdict::Worse),
        ("ttft_ms_max", Verdict::Shown),
        ("output_tok_s", Verdict::Same),
        ("failed_share", Verdict::Same),
    ];
    assert_eq!(verdicts(&worse), expected);
    assert_eq!(worse.exit_code(), 1);
    let expected = "
time scale 1 (1 and 1 runs)
                                 A           B    change        p
ttft_ms_mean                149.50      179.40    +20.0%   <0.001  WORSE
ttft_ms_p50                 149.00      178.80    +20.0%   <0.001  WORSE
ttft_ms_p90                 189.00      226.80    +20.0%   <0.001  WORSE
ttft_ms_max                 199.00      238.80    +20.0%        –
output_tok_s               1000.00     1000.00     +0.0%        –
failed_share                  0.00        0.00         –    1.000

B is worse by more than 5% and chance (p < 0.05)
";
    assert_eq!(worse.table(), expected);
    let better = compared(&run(1.2), &run(1.0), 0.05);
    assert!(!better.regression && verdicts(&better)[0].1 == Verdict::Better);
    assert!(!compared(&run(1.0), &run(1.2), 0.25).regression, "within the tolerance");
    // 1% of a mean whose standard error is 2%: chance.
    let chance = compared(&run(1.0), &run(1.01), 0.0);
    assert!(!chance.regression && chance.points[0].figures[0].p.unwrap() > 0.5, "{chance:?}");
}

#[test]
fn files_are_compared_and_the_json_says_it_all() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, run: &RunData| {
        let path = folder.path().join(name);
        std::fs::write(&path, serde_json::to_vec(&run.report).unwrap()).unwrap();
        path
    };
    let (before, after) = (write("a.json", &run(1.0)), write("b.json", &run(1.2)));
    let args = CompareArgs { before, after, tolerance: 0.05, json: None };
    let (text, code) = compare_files(&args).unwrap();
    assert!(code == 1 && text.contains("ttft_ms_mean") && text.contains("WORSE"), "{text}");
    let to_stdout = CompareArgs { json: Some("-".to_owned()), ..args.clone() };
    let json: serde_json::Value = serde_json::from_str(&compare_files(&to_stdout).unwrap().0).unwrap();
    assert_eq!((&json["regression"], &json["points"][0]["figures"][0]["verdict"]), (&true.into(), &"worse".into()));
    let file = folder.path().join("c.json");
    let to_file = CompareArgs { json: Some(file.to_str().unwrap().to_owned()), ..args.clone() };
    assert_eq!(compare_files(&to_file).unwrap(), (text, code));
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&std::fs::read(file).unwrap()).unwrap(), json);
    let missing = CompareArgs { after: folder.path().join("none.json"), ..args };
    assert!(compare_files(&missing).unwrap_err().to_string().contains("none.json: cannot read it"));
}

#[test]
fn throughput_falls_and_failures_rise() {
    let mut slow = run(1.0);
    slow.report.output_tok_s = Some(900.0);
    assert_eq!(verdicts(&compared(&run(1.0), &slow, 0.05))[4], ("output_tok_s", Verdict::Worse));
    assert_eq!(verdicts(&compared(&slow, &run(1.0), 0.05))[4], ("output_tok_s", Verdict::Better));
    let mut failing = run(1.0);
    failing.report.failed = 1;
    assert!(!compared(&run(1.0), &failing, 0.05).regression, "one of a hundred may be chance");
    failing.report.failed = 10;
    assert_eq!(verdicts(&compared(&run(1.0), &failing, 0.05))[5], ("failed_share", Verdict::Worse));
    let good = |share| {
        let mut run = run(1.0);
        run.report.goodput = Some(Goodput { share: Some(share), ..Goodput::default() });
        run
    };
    assert_eq!(verdicts(&compared(&good(0.9), &good(0.5), 0.05))[5], ("goodput_share", Verdict::Worse));
}

#[test]
fn repeated_runs_are_judged_by_how_runs_differ() {
    // Each pair of runs differs by far more than its requests would say: 20% between the sides is chance then.
    let sides = [[run(0.5), run(1.5)], [run(0.7), run(1.7)]];
    let comparison = compare_runs(&sides[0], &sides[1], 0.05);
    assert!(!comparison.regression && comparison.points[0].runs == [2, 2], "{comparison:?}");
    let steady = [[run(1.0), run(1.001)], [run(1.2), run(1.201)]];
    assert!(compare_runs(&steady[0], &steady[1], 0.05).regression);
}

#[test]
fn without_records_means_are_judged_and_percentiles_shown() {
    let bare = |factor| RunData { requests: Vec::new(), ..run(factor) };
    let comparison = compared(&bare(1.0), &bare(1.2), 0.05);
    assert_eq!(verdicts(&comparison)[..2], [("ttft_ms_mean", Verdict::Worse), ("ttft_ms_p50", Verdict::Shown)]);
    assert_eq!(comparison.notes, ["percentiles have no significance without records"]);
}

#[test]
fn points_are_paired_by_what_they_are() {
    let at = |scale, factor| {
        let mut run = run(factor);
        run.report.about.time_scale = Some(scale);
        run
    };
    let comparison = compare_runs(&[at(0.4, 1.0), at(1.0, 1.0)], &[at(1.0, 1.0), at(1.6, 1.0)], 0.05);
    assert_eq!(comparison.points.iter().map(|p| p.point.as_str()).collect::<Vec<_>>(), ["time scale 1"]);
    assert_eq!(comparison.notes, ["only A has time scale 0.4", "only B has time scale 1.6"]);
    let single = compared(&at(0.4, 1.0), &at(0.8, 1.0), 0.05);
    assert_eq!((single.points.len(), single.notes), (1, vec!["A is time scale 0.4, B is time scale 0.8".to_owned()]));
}
