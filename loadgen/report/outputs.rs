//! Where a command's reports go: checked before anything is sent, written when all is done.
//!
//! Owns the order of what is printed and written. Keeps of a run what its outputs need: a few kilobytes, and with `--out`
//! or `--raw` a record a request.
use std::io::Write;
use std::path::PathBuf;

use minisgl_config::loadgen::settings::{Compat, JsonOutput, Report};

use super::data::RunData;
use super::folder::OutFolder;
use super::table::{DEFINITIONS, points, repeats, table};
use super::{JsonSink, Repeats, RunReport, compat};
use crate::ConsoleOptions;
use crate::error::LoadgenError;
use crate::raw;
use crate::records::Ledger;
use crate::scrape::ServerSample;

/// The outputs of one command, and its runs so far.
pub(crate) struct Outputs {
    json: Option<JsonSink>,
    out: Option<OutFolder>,
    raw: Option<PathBuf>,
    compat: Vec<Compat>,
    printer: Printer,
    runs: Vec<RunData>,
    ledgers: Vec<Ledger>,
}

/// Prints tables, where they are wanted: on stdout, or on stderr where the JSON is on stdout.
struct Printer {
    prints: bool,
    to_stderr: bool,
}

impl Printer {
    fn print(&self, text: &str) {
        if self.prints {
            // A reader that has gone (`| head`) is no error of the run.
            let _ = match self.to_stderr {
                true => std::io::stderr().write_all(text.as_bytes()),
                false => std::io::stdout().write_all(text.as_bytes()),
            };
        }
    }
}

impl Outputs {
    /// Checks that everything asked for can be written.
    pub(crate) fn open(settings: &Report, console: ConsoleOptions) -> Result<Self, LoadgenError> {
        if let Some(path) = &settings.raw {
            let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
            opened.map_err(|source| LoadgenError::Write { flag: "--raw", path: path.clone(), source })?;
        }
        Ok(Self {
            json: settings.json.as_ref().map(JsonSink::open).transpose()?,
            out: settings.out.as_deref().map(OutFolder::open).transpose()?,
            raw: settings.raw.clone(),
            compat: settings.compat.clone(),
            printer: Printer { prints: console.table, to_stderr: settings.json == Some(JsonOutput::Stdout) },
            runs: Vec::new(),
            ledgers: Vec::new(),
        })
    }

    /// Prints what is no table of a run.
    pub(crate) fn say(&self, text: &str) {
        self.printer.print(text);
    }

    /// Whether the client must keep each event's time ([`crate::records::Record::tics`]).
    pub(crate) fn wants_tics(&self) -> bool {
        self.raw.is_some()
    }

    /// Prints a run's table and keeps what the files need.
    pub(crate) fn add(&mut self, ledger: Ledger, server: &[ServerSample], report: RunReport) {
        self.printer.print(&table(&report));
        for &by in &self.compat {
            self.printer.print(&compat::table(by, &ledger, &report));
        }
        let run = self.runs.len() + 1;
        self.runs.push(match &self.out {
            Some(_) => RunData::of(run, &ledger, server, report),
            None => RunData { report, ..RunData::default() },
        });
        if self.raw.is_some() {
            self.ledgers.push(ledger);
        }
    }

    /// Prints what stands below the tables, writes the files and returns the reports.
    pub(crate) fn finish(mut self) -> Result<Vec<RunReport>, LoadgenError> {
        let mut reports: Vec<RunReport> = self.runs.iter().map(|run| run.report.clone()).collect();
        Repeats::fill(&mut reports);
        for (run, report) in self.runs.iter_mut().zip(&reports) {
            run.report.repeats.clone_from(&report.repeats);
        }
        if reports.len() > 1 {
            self.printer.print(&points(&reports));
            self.printer.print(&repeats(&reports));
        }
        self.printer.print(&format!("\n{DEFINITIONS}"));
        if let Some(json) = self.json {
            json.write(&reports)?;
        }
        if let Some(out) = &self.out {
            out.write(&self.runs)?;
        }
        if let Some(path) = &self.raw {
            raw::write(path, &self.ledgers.iter().collect::<Vec<_>>())?;
        }
        Ok(reports)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{about, ledger, record, report};
    use super::*;
    use crate::report::folder;

    #[test]
    fn every_output_of_two_repeats() {
        let folder = tempfile::tempdir().unwrap();
        let (json, raw, out) =
            (folder.path().join("r.json"), folder.path().join("raw.json"), folder.path().join("out"));
        let settings = Report {
            json: Some(JsonOutput::File(json.clone())),
            raw: Some(raw.clone()),
            out: Some(out.clone()),
            ..Report::default()
        };
        let mut outputs = Outputs::open(&settings, ConsoleOptions::silent()).unwrap();
        assert!(outputs.wants_tics());
        for first in [11, 13] {
            let tics = Some(vec![first * 1_000_000, 51_000_000]);
            let record = crate::records::Record { tics, ..record(1, first, 51, 5) };
            outputs.add(ledger(vec![record.clone()]), &[], report(vec![record]));
        }
        let reports = outputs.finish().unwrap();
        assert_eq!(reports[0].repeats.as_ref().unwrap().ttft_ms.unwrap().mean, 11.0);
        let back = |path| folder::read(path).unwrap().into_iter().map(|run| run.report).collect::<Vec<_>>();
        assert!(back(&json) == reports && back(&out) == reports);
        let expected =
            "[\n[10, 5, 0.010500000, 0.011000000, 0.051000000],\n[10, 5, 0.012500000, 0.013000000, 0.051000000]\n]\n";
        assert_eq!(std::fs::read_to_string(&raw).unwrap(), expected);
        assert!(repeats(&reports).starts_with("time scale 0.4: over 2 runs"));
        assert_eq!(about().point(), "time scale 0.4");

        let nowhere = Report { raw: Some(folder.path().join("none/raw")), ..Report::default() };
        let error = Outputs::open(&nowhere, ConsoleOptions::silent()).err().unwrap().to_string();
        assert!(error.starts_with("--raw ") && error.contains("none/raw: cannot write it"), "{error}");
    }
}
