//! mini-sglang's raw form: `[[input_len, output_len, tic, …], …]`, a request each, times in seconds.
//!
//! Owns writing (`--raw FILE`) and reading it. The first time is the response's head, each further one an event that the
//! client library handed out; the send is not in it. Nothing is made up: it can be written only of a run whose clients
//! kept their events' times, and what it lacks a report of it lacks.
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::error::LoadgenError;
use crate::records::{Finish, Ledger, Record};
use crate::report::folder::read_text;
use crate::series::GapsOverTime;
use crate::statistics::Gaps;

/// Latest time that is read: beyond any clock that a recorder could have used.
const LATEST_S: f64 = 1e10;

/// Writes the completed requests of all runs, one after the other, in the order of their sends.
pub(crate) fn write(path: &Path, ledgers: &[&Ledger]) -> Result<(), LoadgenError> {
    let error = |source| LoadgenError::Write { flag: "--raw", path: path.to_owned(), source };
    let mut out = BufWriter::new(File::create(path).map_err(error)?);
    write_to(&mut out, ledgers).and_then(|()| out.flush()).map_err(error)
}

fn write_to(out: &mut impl Write, ledgers: &[&Ledger]) -> std::io::Result<()> {
    let mut before = "[";
    for ledger in ledgers {
        let mut records: Vec<&Record> = ledger.records.iter().filter(|record| record.is_completed()).collect();
        records.sort_by_key(|record| (record.sent, record.index));
        for record in records {
            let (Some(head), Some(tics)) = (record.head, &record.tics) else { continue };
            write!(out, "{before}\n[{}, {}", record.input_len, record.output_len)?;
            for &tic in std::iter::once(&head).chain(tics) {
                write!(out, ", {}.{:09}", tic / 1_000_000_000, tic % 1_000_000_000)?;
            }
            write!(out, "]")?;
            before = ",";
        }
    }
    if before == "[" {
        write!(out, "[")?;
    }
    writeln!(out, "\n]")
}

/// Whether a file's text begins as this form does and no report of ours: an array of arrays.
pub(crate) fn is_raw(text: &str) -> bool {
    let mut significant = text.chars().filter(|c| !c.is_whitespace());
    significant.next() == Some('[') && significant.next() == Some('[')
}

/// The ledger of a raw file: its times after the earliest one.
pub(crate) fn read(path: &Path) -> Result<Ledger, LoadgenError> {
    parse(&read_text(path)?).map_err(|problem| LoadgenError::ReportFile { path: path.to_owned(), line: None, problem })
}

fn parse(text: &str) -> Result<Ledger, String> {
    let rows: Vec<Vec<f64>> =
        serde_json::from_str(text).map_err(|error| format!("not an array of arrays of numbers: {error}"))?;
    let begin_s = rows.iter().filter_map(|row| row.get(2)).copied().fold(f64::INFINITY, f64::min);
    let (mut gaps, mut gaps_over_time) = (Gaps::new(), GapsOverTime::new());
    let mut records = Vec::with_capacity(rows.len());
    for (index, row) in rows.iter().enumerate() {
        let wrong = |what: &str| format!("request {index} (from 0): {what}");
        let [input_len, output_len, times_s @ ..] = &row[..] else { return Err(wrong("must have two lengths")) };
        let length = |value: f64| {
            let whole = value.fract() == 0.0 && (0.0..=1e9).contains(&value);
            if whole { Ok(value as usize) } else { Err(wrong("a length must be a whole number of tokens")) }
        };
        if times_s.len() < 2 {
            return Err(wrong("must have the head's time and that of one event"));
        }
        if !times_s.is_sorted() || times_s.iter().any(|time| !(0.0..=LATEST_S).contains(time)) {
            return Err(wrong("times must be seconds, none before the one in front of it"));
        }
        let times: Vec<u64> = times_s.iter().map(|time| ((time - begin_s) * 1e9).round() as u64).collect();
        let (head, events) = (times[0], times[1..].to_vec());
        for pair in events.windows(2) {
            let us = (pair[1] - pair[0] + 500) / 1000;
            gaps.add(us);
            gaps_over_time.add(pair[1], us);
        }
        records.push(Record {
            index,
            // The send is not in the file: its figures begin at the head.
            sent: head,
            head: Some(head),
            first_token: events.first().copied(),
            last_token: events.last().copied(),
            ended: events.last().copied().unwrap_or(head),
            chunks: events.len() as u64,
            input_len: length(*input_len)?,
            output_len: length(*output_len)?,
            finish: Some(Finish::Length),
            tics: Some(events),
            ..Record::default()
        });
    }
    let peak = most_at_once(&records);
    Ok(Ledger {
        records,
        gaps,
        gaps_over_time,
        samples: Vec::new(),
        max_in_flight: peak,
        max_queued: 0,
        connections: None,
        cost: Default::default(),
        started_unix_s: 0.0,
        answers: Default::default(),
        interrupted: None,
    })
}

fn most_at_once(records: &[Record]) -> u64 {
    let mut changes: Vec<(u64, i64)> =
        records.iter().flat_map(|record| [(record.sent, 1), (record.ended, -1)]).collect();
    changes.sort_unstable();
    changes
        .iter()
        .scan(0, |now, (_, change)| {
            *now += change;
            Some(*now)
        })
        .max()
        .unwrap_or(0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAW: &str = "[\n[10, 3, 0.000000000, 0.010000000, 0.030500000],\n[20, 2, 1.000000000, 1.250000001]\n]\n";

    #[test]
    fn it_reads_back_as_it_was_written() {
        let ledger = parse(RAW).unwrap();
        assert_eq!((ledger.records.len(), ledger.max_in_flight, ledger.gaps.len()), (2, 1, 1));
        let first = &ledger.records[0];
        assert_eq!((first.head, first.tics.as_deref()), (Some(0), Some(&[10_000_000, 30_500_000][..])));
        let mut out = Vec::new();
        write_to(&mut out, &[&ledger]).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), RAW);
        let mut out = Vec::new();
        write_to(&mut out, &[]).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "[\n]\n");
        // As Python writes it: floats for lengths, times of its own clock.
        let python = parse("[[10.0, 3, 5000.5, 5000.51, 5000.5305]]").unwrap();
        assert_eq!(python.records[0].last_token, Some(30_500_000));
        assert!(is_raw(" [\n [1") && !is_raw("[{") && !is_raw("{") && !is_raw(""));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, said) in [
            ("x", "not an array of arrays"),
            ("[[1]]", "request 0 (from 0): must have two lengths"),
            ("[[1,2,3,4],[1.5,2,3,4]]", "request 1 (from 0): a length must be a whole number"),
            ("[[1,2,3]]", "must have the head's time"),
            ("[[1,2,3,2]]", "times must be seconds"),
            ("[[1,2,-3,2]]", "times must be seconds"),
            ("[[1,2,3,1e300]]", "times must be seconds"),
        ] {
            let problem = parse(text).unwrap_err();
            assert!(problem.contains(said), "{text}: {problem}");
        }
    }
}
