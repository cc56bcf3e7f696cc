//! What `plan` says: a table, JSON, and a page with a plot. Each says that it is simulated.
use std::fmt::Write as _;
use std::path::Path;

use minisgl::sizing::{Course, Point, Seen};
use minisgl_config::loadgen::JsonOutput;
use minisgl_config::loadgen::plan::PlanSettings;
use minisgl_config::loadgen::settings::Slo;
use minisgl_loadgen::plot::{self, Axis, Figure};
use serde_json::{Value, json};

use super::{Answer, Demand, hit_rate};
use crate::cli::Failed;

/// Under the table and on the page.
const DEFINITIONS: &str = "\
Simulated: no GPU was measured; latencies are a roofline's under the real scheduler (config/sim/README.md). HTTP, tokenisation and
the network are not in them. Rate: the highest at which so many requests keep within the SLO, to 2 %, the trace's arrivals closer
together or farther apart. Replicas: the rate to serve over it, rounded up; each is taken to see the trace's own prefix hits,
which needs routing by prefix.";

const HEADING: [&str; 9] = [
    "profile (simulated)",
    "GPUs",
    "rate req/s",
    "SLO met",
    "TTFT p50/p99 ms",
    "TPOT p50/p99 ms",
    "prefix hits",
    "K/V peak",
    "replicas (GPUs)",
];

/// Prints the table, and writes what the settings ask for.
pub(super) fn write(settings: &PlanSettings, demand: &Demand, answers: &[Answer]) -> Result<(), Failed> {
    let text = text(settings, demand, answers);
    let mut json = serde_json::to_string_pretty(&json_of(settings, demand, answers))?;
    json.push('\n');
    let put = |path: &Path, flag: &str, text: &str| {
        std::fs::write(path, text).map_err(|error| format!("{flag} {}: {error}", path.display()))
    };
    match &settings.json {
        Some(JsonOutput::Stdout) => {
            eprint!("{text}");
            say!("{}", json.trim_end());
        }
        Some(JsonOutput::File(path)) => {
            put(path, "--json", &json)?;
            say!("{}", text.trim_end());
        }
        None => say!("{}", text.trim_end()),
    }
    if let Some(folder) = &settings.out {
        std::fs::create_dir_all(folder).map_err(|error| format!("--out {}: {error}", folder.display()))?;
        put(&folder.join("plan.json"), "--out", &json)?;
        put(&folder.join("plan.html"), "--out", &page(settings, demand, answers))?;
    }
    Ok(())
}

fn slo_text(slo: &Slo) -> String {
    let bounds = [("TTFT", slo.ttft), ("TPOT", slo.tpot), ("E2E", slo.e2e)];
    let bounds = bounds.into_iter().filter_map(|(name, bound)| bound.map(|bound| format!("{name} <= {bound:?}")));
    bounds.collect::<Vec<_>>().join(", ")
}

/// What is asked, in a line.
fn question(settings: &PlanSettings, demand: &Demand) -> String {
    format!(
        "{} ({}), {} arrivals: {} requests, {:.3} req/s to serve; {} % of them within {}",
        demand.trace.name,
        demand.trace.format,
        format!("{:?}", settings.arrival).to_lowercase(),
        demand.load.len(),
        demand.rate,
        settings.share * 100.0,
        slo_text(&settings.slo),
    )
}

/// What a reader must know of single profiles.
fn notes(demand: &Demand, answers: &[Answer]) -> Vec<String> {
    let mut notes = Vec::new();
    if demand.coarse {
        let why =
            "most requests share their instant with others: where that is its clock's doing, use --arrival poisson";
        notes.push(format!("{}: {why}", demand.trace.name));
    }
    for Answer { label, .. } in answers.iter().filter(|answer| !answer.sizing.limited) {
        notes
            .push(format!("{label}: all requests at once keep within the SLO: the trace is too short to find a limit"));
    }
    let raised = answers.iter().filter_map(|answer| {
        let context = answer.raised_context?;
        let label = &answer.label;
        Some(format!(
            "{label}: requests longer than the model's {context} tokens, so its context was taken to be longer"
        ))
    });
    notes.extend(raised);
    notes
}

fn cells(answer: &Answer, demand: &Demand) -> [String; 9] {
    let (label, ranks) = (answer.label.clone(), answer.ranks.to_string());
    let Some((best, course)) = answer.best() else {
        let most = answer.sizing.points.iter().map(|point| point.share).fold(0.0, f64::max);
        let none = || "-".to_owned();
        let met = format!("{:.1} % at most", most * 100.0);
        return [label, ranks, "none".to_owned(), met, none(), none(), none(), none(), none()];
    };
    let replicas = answer.replicas(demand.rate).map(|replicas| format!("{replicas} ({})", replicas * answer.ranks));
    let (ttft, tpot) = (sorted(course, |seen| Some(seen.ttft_s)), sorted(course, |seen| seen.tpot_s));
    let pair = |values: &[f64]| match (percentile(values, 0.5), percentile(values, 0.99)) {
        (Some(p50), Some(p99)) => format!("{:.1} / {:.1}", p50 * 1e3, p99 * 1e3),
        _ => "-".to_owned(),
    };
    [
        label,
        ranks,
        if answer.sizing.limited { format!("{:.3}", best.rate) } else { "all at once".to_owned() },
        format!("{:.1} %", best.share * 100.0),
        pair(&ttft),
        pair(&tpot),
        format!("{:.1} %", hit_rate(course, &demand.load) * 100.0),
        format!("{:.0} %", peak(course) * 100.0),
        replicas.unwrap_or_else(|| "-".to_owned()),
    ]
}

fn sorted(course: &Course, of: impl Fn(&Seen) -> Option<f64>) -> Vec<f64> {
    let mut values: Vec<f64> = course.seen().filter_map(of).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The nearest rank.
fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = ((sorted.len() as f64 * share).ceil() as usize).max(1);
    sorted.get(rank - 1).copied()
}

/// The points from where load begins to tell: at lower rates, down to a millionth, each request has the server for itself,
/// and a search that finds no rate has tried them all.
fn loaded(points: &[Point]) -> &[Point] {
    let alone = points.first().map(|point| point.share);
    let same = points.iter().take_while(|point| Some(point.share) == alone).count();
    &points[same.saturating_sub(2)..]
}

fn peak(course: &Course) -> f64 {
    course.samples.iter().map(|sample| sample.pages_used).fold(0.0, f64::max)
}

fn text(settings: &PlanSettings, demand: &Demand, answers: &[Answer]) -> String {
    let mut rows = vec![HEADING.map(str::to_owned)];
    rows.extend(answers.iter().map(|answer| cells(answer, demand)));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 9] = std::array::from_fn(width);
    let mut text = format!("{}\n\n", question(settings, demand));
    for row in &rows {
        let line: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "{}", line.join("  ").trim_end());
    }
    text.push('\n');
    for note in notes(demand, answers) {
        let _ = writeln!(text, "{note}");
    }
    text + DEFINITIONS + "\n"
}

fn json_of(settings: &PlanSettings, demand: &Demand, answers: &[Answer]) -> Value {
    let ms = |bound: Option<std::time::Duration>| bound.map(|bound| bound.as_secs_f64() * 1e3);
    let slo = &settings.slo;
    json!({
        "simulated": true,
        "trace": demand.trace.name,
        "trace_format": demand.trace.format.to_string(),
        "trace_sha256": demand.trace.sha256_hex(),
        "requests": demand.load.len(),
        "trace_rate_req_s": demand.own_rate,
        "arrival": format!("{:?}", settings.arrival).to_lowercase(),
        "seed": settings.seed,
        "rate_req_s": demand.rate,
        "slo": { "ttft_ms": ms(slo.ttft), "tpot_ms": ms(slo.tpot), "e2e_ms": ms(slo.e2e), "share": settings.share },
        "profiles": answers.iter().map(|answer| answer_json(answer, demand)).collect::<Vec<_>>(),
    })
}

fn answer_json(answer: &Answer, demand: &Demand) -> Value {
    let points = &answer.sizing.points;
    let points: Vec<Value> =
        points.iter().map(|point| json!({ "rate_req_s": point.rate, "slo_share": point.share })).collect();
    let best = answer.best().map(|(best, course)| {
        let (ttft, tpot, e2e) = (
            sorted(course, |seen| Some(seen.ttft_s)),
            sorted(course, |seen| seen.tpot_s),
            sorted(course, |seen| Some(seen.e2e_s)),
        );
        let spread = |values: &[f64]| {
            let ms = |share| percentile(values, share).map(|seconds| seconds * 1e3);
            json!({ "p50": ms(0.5), "p90": ms(0.9), "p99": ms(0.99), "max": ms(1.0) })
        };
        let series = course.samples.iter().map(|s| json!([s.at_s, s.running, s.waiting, s.pages_used]));
        json!({
            "rate_req_s": best.rate, "slo_share": best.share,
            "ttft_ms": spread(&ttft), "tpot_ms": spread(&tpot), "e2e_ms": spread(&e2e),
            "prefix_hit_rate": hit_rate(course, &demand.load), "kv_used_peak": peak(course),
            "preemptions": course.preemptions, "batches": course.batches, "duration_s": course.end_s,
            "series": { "columns": ["time_s", "running", "waiting", "kv_used"], "rows": series.collect::<Vec<_>>() },
        })
    });
    json!({
        "simulated": answer.label, "gpus": answer.ranks, "raised_context_from": answer.raised_context,
        "replicas": answer.replicas(demand.rate),
        "gpus_in_all": answer.replicas(demand.rate).map(|replicas| replicas * answer.ranks),
        "limit_found": answer.sizing.limited, "best": best, "points": points,
    })
}

fn page(settings: &PlanSettings, demand: &Demand, answers: &[Answer]) -> String {
    let rows: Vec<[String; 9]> = answers.iter().map(|answer| cells(answer, demand)).collect();
    let mut body = format!("<p>{}</p>\n", plot::escape(&question(settings, demand)));
    body += &plot::table(&HEADING, &rows);
    for note in notes(demand, answers) {
        let _ = writeln!(body, "<p class=\"soft\">{}</p>", plot::escape(&note));
    }
    let _ = writeln!(body, "<p class=\"soft\">{}</p>", plot::escape(DEFINITIONS));
    let axis = Axis::linear("share within the SLO (%)").from(0.0).to(100.0);
    let mut figure = Figure::new("rate", "Load and SLO (simulated)", Axis::log("rate (requests/s)"), axis);
    for answer in answers {
        let points = loaded(&answer.sizing.points);
        let points: Vec<_> = points.iter().map(|point| (point.rate, point.share * 100.0)).collect();
        figure = figure.line(&answer.label, &points);
    }
    let figure = figure.horizontal("asked for", settings.share * 100.0).vertical("to serve", demand.rate);
    let mut figures = figure.render();
    for (number, answer) in answers.iter().enumerate() {
        let Some((best, course)) = answer.best() else { continue };
        let series = |of: &dyn Fn(&minisgl::sizing::Sample) -> f64| -> Vec<(f64, f64)> {
            course.samples.iter().map(|sample| (sample.at_s, of(sample))).collect()
        };
        let caption = format!("{} at {:.3} req/s (simulated)", answer.label, best.rate);
        let (x, y) = (Axis::linear("time (s)"), Axis::linear("sequences").from(0.0));
        let figure = Figure::new(&format!("queue-{number}"), &caption, x, y);
        let figure = figure.steps("running", &series(&|s| s.running as f64));
        figures += &figure.steps("waiting", &series(&|s| s.waiting as f64)).render();
    }
    plot::page("Sizing (simulated)", &format!("{body}<div class=\"plots\">\n{figures}</div>\n"))
}
