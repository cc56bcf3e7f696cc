//! `--out DIR`: `summary.json`, `records.jsonl`, `metrics.csv` and `report.html`; and all of them but the last read back.
//!
//! Owns the files' forms. `metrics.csv` is long: `run,at_s,series,label,value`, one value a row, so that a series more
//! changes no reader.
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use super::data::{RequestLine, RunData, Series};
use super::{RunReport, Terms, html};
use crate::error::LoadgenError;
use crate::scrape::ServerSample;
use crate::series::{GapsOverTime, Sample};

const SUMMARY: &str = "summary.json";
const RECORDS: &str = "records.jsonl";
const METRICS: &str = "metrics.csv";
const PAGE: &str = "report.html";

/// Longest line of a file that is read: a record has a few hundred bytes.
const LONGEST_LINE: u64 = 64 << 10;

/// Largest summary that is read: a run has a few kilobytes.
const LARGEST_SUMMARY: u64 = 256 << 20;

/// A folder that can be written to.
pub(crate) struct OutFolder(PathBuf);

impl OutFolder {
    /// Makes the folder where it is not there, and checks that a file can be written into it: before anything is sent.
    pub(crate) fn open(path: &Path) -> Result<Self, LoadgenError> {
        let folder = Self(path.to_owned());
        let probe = path.join(".minisgl-loadgen");
        let made = std::fs::create_dir_all(path).and_then(|()| File::create(&probe)).map(drop);
        made.and_then(|()| std::fs::remove_file(&probe)).map_err(|source| folder.error(path, source))?;
        Ok(folder)
    }

    /// Writes the four files, in place of those that are there.
    pub(crate) fn write(&self, runs: &[RunData]) -> Result<(), LoadgenError> {
        let reports: Vec<&RunReport> = runs.iter().map(|run| &run.report).collect();
        self.file(SUMMARY, |out| {
            out.write_all(&summary_json(&reports))?;
            Ok(())
        })?;
        self.file(RECORDS, |out| {
            for line in runs.iter().flat_map(|run| &run.requests) {
                serde_json::to_writer(&mut *out, line)?;
                out.write_all(b"\n")?;
            }
            Ok(())
        })?;
        self.file(METRICS, |out| out.write_all(metrics_csv(runs).as_bytes()))?;
        self.file(PAGE, |out| out.write_all(html::page(runs).as_bytes()))
    }

    fn file(
        &self,
        name: &str,
        write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
    ) -> Result<(), LoadgenError> {
        let path = self.0.join(name);
        let written = File::create(&path).map(BufWriter::new).and_then(|mut out| {
            write(&mut out)?;
            out.flush()
        });
        written.map_err(|source| self.error(&path, source))
    }

    fn error(&self, path: &Path, source: std::io::Error) -> LoadgenError {
        LoadgenError::Write { flag: "--out", path: path.to_owned(), source }
    }
}

/// One report as an object, several as an array.
pub(super) fn summary_json(reports: &[&RunReport]) -> Vec<u8> {
    let mut json = match reports {
        [one] => serde_json::to_vec_pretty(one),
        several => serde_json::to_vec_pretty(several),
    }
    .expect("a report is plain data");
    json.push(b'\n');
    json
}

type OfSample = fn(&mut Sample) -> &mut u64;
type OfServer = fn(&mut ServerSample) -> &mut Option<f64>;

/// Series of the client, of [`Sample`].
const OF_CLIENT: [(&str, OfSample); 4] = [
    ("sent", |s| &mut s.sent),
    ("done", |s| &mut s.done),
    ("queued", |s| &mut s.queued),
    ("chunks", |s| &mut s.chunks),
];

/// Series of the server, of [`ServerSample`].
const OF_SERVER: [(&str, OfServer); 6] = [
    ("server_running", |s| &mut s.running),
    ("server_waiting", |s| &mut s.waiting),
    ("server_kv_usage", |s| &mut s.kv_usage),
    ("server_prefix_queries", |s| &mut s.prefix_queries),
    ("server_prefix_hits", |s| &mut s.prefix_hits),
    ("server_preemptions", |s| &mut s.preemptions),
];

const HEADING: &str = "run,at_s,series,label,value";

fn metrics_csv(runs: &[RunData]) -> String {
    let mut csv = format!("{HEADING}\n");
    for (run, data) in runs.iter().enumerate() {
        let (run, series) = (run + 1, &data.series);
        let mut row = |at_s: f64, name: &str, label: &str, value: f64| {
            writeln!(csv, "{run},{at_s},{name},{label},{value}").expect("writing to a string");
        };
        for sample in &series.samples {
            OF_CLIENT.iter().for_each(|(name, of)| row(sample.at_s, name, "", *of(&mut { *sample }) as f64));
        }
        for sample in &series.server {
            for (name, of) in OF_SERVER {
                if let Some(value) = *of(&mut { *sample }) {
                    row(sample.at_s, name, "", value);
                }
            }
        }
        row(0.0, "gap_column_s", "", series.gap_column_s);
        for &(column, bin, count) in &series.gap_cells {
            let from_us = GapsOverTime::bin_start_us(bin);
            row(column as f64 * series.gap_column_s, "gaps", &format!("{from_us}us"), f64::from(count));
        }
        for (name, quantiles) in [("itl_ms", &series.itl_quantiles), ("icl_ms", &series.icl_quantiles)] {
            quantiles.iter().for_each(|(share, ms)| row(0.0, name, &format!("q{share}"), *ms));
        }
    }
    csv
}

/// Runs that were written with `--out`, `--json`, or as records alone.
pub(crate) fn read(path: &Path) -> Result<Vec<RunData>, LoadgenError> {
    if path.is_dir() {
        let mut runs = read_summary(&path.join(SUMMARY))?;
        let records = path.join(RECORDS);
        if records.exists() {
            place_records(&records, &mut runs)?;
        }
        let metrics = path.join(METRICS);
        if metrics.exists() {
            place_metrics(&metrics, &mut runs)?;
        }
        return Ok(runs);
    }
    if path.extension().is_some_and(|extension| extension == "jsonl") { read_records(path) } else { read_summary(path) }
}

fn wrong(path: &Path, line: Option<usize>, problem: impl std::fmt::Display) -> LoadgenError {
    LoadgenError::ReportFile { path: path.to_owned(), line, problem: problem.to_string() }
}

/// The text of a JSON file of ours, within bounds.
pub(crate) fn read_text(path: &Path) -> Result<String, LoadgenError> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| wrong(path, None, format!("cannot read it: {error}")))?;
    let read = file.take(LARGEST_SUMMARY + 1).read_to_string(&mut text);
    read.map_err(|error| wrong(path, None, format!("cannot read it: {error}")))?;
    if text.len() as u64 > LARGEST_SUMMARY {
        return Err(wrong(path, None, format!("larger than {LARGEST_SUMMARY} bytes: it is no summary")));
    }
    Ok(text)
}

fn read_summary(path: &Path) -> Result<Vec<RunData>, LoadgenError> {
    let json: serde_json::Value =
        serde_json::from_str(&read_text(path)?).map_err(|error| wrong(path, None, format!("not JSON: {error}")))?;
    let reports = match json {
        serde_json::Value::Array(reports) => reports,
        one => vec![one],
    };
    let mut runs = Vec::with_capacity(reports.len());
    for report in reports {
        if !["completed", "requests", "ttft_ms"].iter().all(|key| report.get(key).is_some()) {
            return Err(wrong(path, None, "not a report of `minisgl loadgen` (summary.json, or the file of --json)"));
        }
        let report = serde_json::from_value(report).map_err(|error| wrong(path, None, error))?;
        runs.push(RunData { report, ..RunData::default() });
    }
    if runs.is_empty() {
        return Err(wrong(path, None, "an empty array: no run is in it"));
    }
    Ok(runs)
}

/// Calls `each` for the lines of a file, from 1.
fn lines(path: &Path, mut each: impl FnMut(usize, &str) -> Result<(), String>) -> Result<(), LoadgenError> {
    let file = File::open(path).map_err(|error| wrong(path, None, format!("cannot read it: {error}")))?;
    let (mut file, mut line) = (BufReader::new(file), String::new());
    for number in 1.. {
        line.clear();
        let read = file.by_ref().take(LONGEST_LINE).read_line(&mut line);
        let n = read.map_err(|error| wrong(path, Some(number), format!("cannot read it: {error}")))?;
        if n == 0 {
            break;
        }
        if n as u64 == LONGEST_LINE {
            return Err(wrong(path, Some(number), format!("longer than {LONGEST_LINE} bytes")));
        }
        each(number, line.trim_end()).map_err(|problem| wrong(path, Some(number), problem))?;
    }
    Ok(())
}

fn record(line: &str) -> Result<RequestLine, String> {
    let record: RequestLine = serde_json::from_str(line).map_err(|error| format!("not a record: {error}"))?;
    if record.run == 0 { Err("`run` must be at least 1".to_owned()) } else { Ok(record) }
}

fn place_records(path: &Path, runs: &mut [RunData]) -> Result<(), LoadgenError> {
    lines(path, |_, line| {
        let record = record(line)?;
        let of = runs.get_mut(record.run - 1).ok_or_else(|| format!("run {} is not in {SUMMARY}", record.run))?;
        of.requests.push(record);
        Ok(())
    })
}

/// Records alone: the figures that they give.
fn read_records(path: &Path) -> Result<Vec<RunData>, LoadgenError> {
    let mut by_run = std::collections::BTreeMap::<usize, Vec<RequestLine>>::new();
    lines(path, |_, line| {
        let record = record(line)?;
        by_run.entry(record.run).or_default().push(record);
        Ok(())
    })?;
    if by_run.is_empty() {
        return Err(wrong(path, None, "no record is in it"));
    }
    let of = |(run, requests): (usize, Vec<RequestLine>)| {
        let terms = Terms { max_lag: std::time::Duration::MAX, ..Terms::default() };
        let workload = format!("run {run} of {}", path.display());
        let about = super::About { workload, model: super::NOT_RECORDED.to_owned(), ..super::About::default() };
        let mut report = RunReport::of(&RequestLine::ledger(&requests), &terms, about);
        report.about.started = String::new();
        RunData { report, requests, series: Series::default() }
    };
    Ok(by_run.into_iter().map(of).collect())
}

fn place_metrics(path: &Path, runs: &mut [RunData]) -> Result<(), LoadgenError> {
    lines(path, |number, line| {
        if number == 1 {
            return if line == HEADING { Ok(()) } else { Err(format!("the heading must be `{HEADING}`")) };
        }
        let fields: Vec<&str> = line.split(',').collect();
        let [run, at_s, name, label, value] = fields[..] else { return Err("must have five fields".to_owned()) };
        let number = |field: &str, text: &str| -> Result<f64, String> {
            let parsed: Option<f64> = text.parse().ok().filter(|value: &f64| value.is_finite());
            parsed.ok_or_else(|| format!("{field} must be a number, not `{text}`"))
        };
        let of = run.parse::<usize>().ok().and_then(|run| run.checked_sub(1)).and_then(|run| runs.get_mut(run));
        let series = &mut of.ok_or_else(|| format!("run {run} is not in {SUMMARY}"))?.series;
        place(series, (number("at_s", at_s)?, name, label), number("value", value)?)
    })
}

/// Puts one value where it belongs; a series of another version is passed over.
fn place(series: &mut Series, (at_s, name, label): (f64, &str, &str), value: f64) -> Result<(), String> {
    if let Some((_, of)) = OF_CLIENT.iter().find(|(series, _)| *series == name) {
        if series.samples.last().is_none_or(|last| last.at_s != at_s) {
            series.samples.push(Sample { at_s, ..Sample::default() });
        }
        *of(series.samples.last_mut().expect("one was pushed")) = value as u64;
    } else if let Some((_, of)) = OF_SERVER.iter().find(|(series, _)| *series == name) {
        if series.server.last().is_none_or(|last| last.at_s != at_s) {
            series.server.push(ServerSample { at_s, ..ServerSample::default() });
        }
        *of(series.server.last_mut().expect("one was pushed")) = Some(value);
    } else if name == "gap_column_s" {
        series.gap_column_s = value;
    } else if name == "gaps" {
        let from_us: f64 =
            label.strip_suffix("us").and_then(|us| us.parse().ok()).ok_or("a label must be like 1024us")?;
        let bin = (0..GapsOverTime::BINS).find(|&bin| GapsOverTime::bin_start_us(bin) >= from_us);
        let column = if series.gap_column_s > 0.0 { (at_s / series.gap_column_s).round() } else { 0.0 };
        let bin = bin.ok_or_else(|| format!("{label} is beyond the longest gap"))?;
        if !(0.0..GapsOverTime::COLUMNS as f64).contains(&column) {
            return Err(format!("{at_s} s is beyond the columns"));
        }
        series.gap_cells.push((column as usize, bin, value as u32));
    } else if name == "itl_ms" || name == "icl_ms" {
        let share = label.strip_prefix('q').and_then(|share| share.parse().ok()).ok_or("a label must be like q0.5")?;
        let quantiles = if name == "itl_ms" { &mut series.itl_quantiles } else { &mut series.icl_quantiles };
        quantiles.push((share, value));
    }
    Ok(())
}
