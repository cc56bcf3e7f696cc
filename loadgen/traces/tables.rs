//! The traces that are CSV: BurstGPT's and Azure's.
//!
//! Owns their columns, units and dates. Knows nothing of files: it is given line by line, since no field of theirs holds a
//! line break, so that a quote that nobody closes cannot swallow the file.
use std::collections::HashMap;

use jiff::civil::DateTime;
use jiff::{Timestamp, tz::TimeZone};
use minisgl_config::LONGEST;

use super::fields::excerpt;
use super::json::{FORMATS, Found};
use super::{LATEST_S, TraceFormat, TraceRequest, Turn};

/// The reader of one file's lines.
pub(super) struct Table {
    format: TraceFormat,
    columns: Vec<String>,
    /// Where the columns that are read stand: time, input, output.
    places: [usize; 3],
    session: Option<usize>,
    requests: Vec<TraceRequest>,
    /// Nanoseconds since 1970, of dates.
    dates: Vec<i128>,
    /// Session of each request.
    sessions: Vec<Option<String>>,
}

const BURST_GPT: [&str; 3] = ["Timestamp", "Request tokens", "Response tokens"];
const AZURE: [&str; 3] = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"];

impl Table {
    /// A reader for what this header names.
    pub(super) fn detect(header: &[u8]) -> Result<Self, String> {
        let columns = cells(header)?;
        let place = |name: &str| columns.iter().position(|column| column == name);
        let all = |names: [&str; 3]| -> Option<[usize; 3]> {
            let [a, b, c] = names.map(place);
            Some([a?, b?, c?])
        };
        let (format, places) = match (all(BURST_GPT), all(AZURE)) {
            (Some(places), _) => (TraceFormat::BurstGpt, places),
            (None, Some(places)) => (TraceFormat::Azure, places),
            (None, None) => return Err(unknown(&columns)),
        };
        let session = place("Session ID").filter(|_| format == TraceFormat::BurstGpt);
        let (requests, dates, sessions) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { format, columns, places, session, requests, dates, sessions })
    }

    /// Requests so far.
    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    /// Takes one line.
    pub(super) fn take(&mut self, line: &[u8]) -> Result<(), String> {
        let cells = cells(line)?;
        if cells.len() != self.columns.len() {
            let (is, should) = (cells.len(), self.columns.len());
            let first_missing = self.columns.get(is).map_or(String::new(), |name| format!(": `{name}` is missing"));
            return Err(format!("{is} fields where the header has {should}{first_missing}"));
        }
        let cell = |at: usize| (self.columns[at].as_str(), cells[at].trim());
        let [time, input, output] = self.places.map(cell);
        let mut request = TraceRequest::of_lengths(0.0, length(input)?, length(output)?);
        match self.format {
            TraceFormat::Azure => self.dates.push(date(time)?),
            _ => {
                request.timestamp_s = seconds(time)?;
                request.failed = request.output_length == Some(0);
                self.sessions.push(self.session.map(|at| cell(at).1.to_owned()).filter(|name| !name.is_empty()));
            }
        }
        self.requests.push(request);
        Ok(())
    }

    /// Everything.
    pub(super) fn finish(mut self) -> Found {
        let first = self.dates.iter().copied().min().unwrap_or(0);
        for (request, date) in self.requests.iter_mut().zip(&self.dates) {
            // Whole nanoseconds are subtracted: as seconds since 1970, a float would have lost the seventh decimal.
            request.timestamp_s = (date - first) as f64 / 1e9;
        }
        self.link();
        Found { format: self.format, timed: true, skipped: 0, requests: self.requests }
    }

    /// Links each request to the one of its session that comes before it in time.
    fn link(&mut self) {
        let mut order: Vec<usize> = (0..self.sessions.len()).collect();
        order.sort_by(|&a, &b| self.requests[a].timestamp_s.total_cmp(&self.requests[b].timestamp_s));
        let mut last: HashMap<&str, (usize, u32)> = HashMap::new();
        for index in order {
            let Some(session) = &self.sessions[index] else { continue };
            let turn = match last.get(session.as_str()) {
                Some(&(parent, number)) => {
                    Turn { parent: Some(parent), number: number.saturating_add(1), delay_s: None }
                }
                None => Turn { parent: None, number: 1, delay_s: None },
            };
            last.insert(session, (index, turn.number));
            self.requests[index].session = Some(turn);
        }
    }
}

/// The cells of one line.
fn cells(line: &[u8]) -> Result<Vec<String>, String> {
    let reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .buffer_capacity(line.len().clamp(1, 1 << 16))
        .from_reader(line);
    // A line break within quotes was cut before: what follows a quote that is not closed is one cell.
    match reader.into_records().next() {
        Some(Ok(record)) => Ok(record.iter().map(str::to_owned).collect()),
        Some(Err(_)) => Err("not UTF-8: a trace is text".to_owned()),
        None => Ok(Vec::new()),
    }
}

/// What is said of a header that is nobody's.
fn unknown(columns: &[String]) -> String {
    for names in [BURST_GPT, AZURE] {
        if columns.iter().any(|column| names.contains(&column.as_str())) {
            let missing: Vec<_> = names.iter().filter(|name| !columns.iter().any(|column| column == *name)).collect();
            return format!("the header lacks {missing:?}; {FORMATS}");
        }
    }
    let shown = columns.iter().take(8).map(|column| excerpt(column)).collect::<Vec<_>>().join(", ");
    format!("neither JSON nor a header that is known ({}); {FORMATS}", excerpt(&shown))
}

fn wrong(name: &str, cell: &str, right: &str) -> String {
    let shown = if cell.is_empty() { "nothing".to_owned() } else { excerpt(cell) };
    format!("field `{}`: {shown} where {right} should be", excerpt(name))
}

fn length((name, cell): (&str, &str)) -> Result<usize, String> {
    let digits = !cell.is_empty() && cell.bytes().all(|byte| byte.is_ascii_digit());
    cell.parse()
        .ok()
        .filter(|&n| digits && n <= LONGEST)
        .ok_or_else(|| wrong(name, cell, &format!("a whole number of tokens from 0 to {LONGEST}")))
}

fn seconds((name, cell): (&str, &str)) -> Result<f64, String> {
    let number: Option<f64> = cell.parse().ok();
    number
        .filter(|time| (0.0..=LATEST_S).contains(time))
        .ok_or_else(|| wrong(name, cell, &format!("a number of seconds from 0 to {LATEST_S:e}")))
}

/// Nanoseconds since 1970 of a date with or without an offset; without one it is UTC's.
fn date((name, cell): (&str, &str)) -> Result<i128, String> {
    let offset: Option<Timestamp> = cell.parse().ok();
    let local = || TimeZone::UTC.to_timestamp(cell.parse::<DateTime>().ok()?).ok();
    let time = offset.or_else(local);
    let nanoseconds =
        time.map(Timestamp::as_nanosecond).filter(|&time| (0..=(LATEST_S as i128) * 1_000_000_000).contains(&time));
    nanoseconds.ok_or_else(|| {
        wrong(
            name,
            cell,
            "a date since 1970 like `2023-11-16 18:15:46.6805900`, with or without an offset like `+00:00`,",
        )
    })
}
