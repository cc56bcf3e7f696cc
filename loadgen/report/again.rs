//! `minisgl loadgen report FILE`: the report of what an earlier run, or mini-sglang, wrote.
//!
//! Owns telling the forms apart and what each can show. Reads files; knows nothing of servers.
use std::path::Path;
use std::time::Duration;

use minisgl_config::loadgen::report::ReportArgs;

use super::data::{RequestLine, RunData};
use super::{About, NOT_RECORDED, RunReport, Terms, compat, folder, html, table};
use crate::error::LoadgenError;
use crate::raw;
use crate::records::Ledger;

/// The text of a report, after its page was written where that was asked for.
pub fn report_file(args: &ReportArgs) -> Result<String, LoadgenError> {
    let path = &args.file;
    let (runs, ledgers) = match path.is_file() && path.extension().is_none_or(|extension| extension != "jsonl") {
        true if raw::is_raw(&folder::read_text(path)?) => {
            let ledger = raw::read(path)?;
            (vec![of_raw(path, &ledger)], vec![ledger])
        }
        _ => {
            let runs = folder::read(path)?;
            let ledgers = runs.iter().map(|run| RequestLine::ledger(&run.requests)).collect();
            (runs, ledgers)
        }
    };
    let mut text: String = runs.iter().map(|run| table::table(&run.report)).collect();
    let reports: Vec<RunReport> = runs.iter().map(|run| run.report.clone()).collect();
    if reports.len() > 1 {
        text += &table::points(&reports);
    }
    for &by in &args.metrics_compat {
        for (ledger, report) in ledgers.iter().zip(&reports) {
            if ledger.records.is_empty() {
                let problem = "--metrics-compat needs the records: give the folder of --out".to_owned();
                return Err(LoadgenError::ReportFile { path: path.clone(), line: None, problem });
            }
            text += &compat::table(by, ledger, report);
        }
    }
    text += "\n";
    text += table::DEFINITIONS;
    if let Some(page) = &args.html {
        std::fs::write(page, html::page(&runs)).map_err(|source| LoadgenError::Write {
            flag: "--html",
            path: page.clone(),
            source,
        })?;
    }
    Ok(text)
}

fn of_raw(path: &Path, ledger: &Ledger) -> RunData {
    let about = About {
        workload: format!("{} (raw form: times from the response's head, every event a token)", path.display()),
        model: NOT_RECORDED.to_owned(),
        ..About::default()
    };
    let terms = Terms { max_lag: Duration::MAX, ..Terms::default() };
    let mut report = RunReport::of(ledger, &terms, about);
    report.about.started = String::new();
    RunData::of(1, ledger, &[], report)
}

#[cfg(test)]
mod tests {
    use minisgl_config::loadgen::settings::Compat;

    use super::super::folder::OutFolder;
    use super::super::folder_tests::data;
    use super::*;

    fn args(file: &Path) -> ReportArgs {
        ReportArgs { file: file.to_owned(), html: None, metrics_compat: Vec::new() }
    }

    #[test]
    fn a_folder_is_printed_and_drawn_again() {
        let folder = tempfile::tempdir().unwrap();
        let runs = [data(1, 0.5), data(2, 1.0)];
        OutFolder::open(folder.path()).unwrap().write(&runs).unwrap();
        let page = folder.path().join("again.html");
        let asked =
            ReportArgs { html: Some(page.clone()), metrics_compat: vec![Compat::Aiperf], ..args(folder.path()) };
        let text = report_file(&asked).unwrap();
        assert!(text.starts_with(&table::table(&runs[0].report)), "{text}");
        assert!(text.contains(&table::points(&[runs[0].report.clone(), runs[1].report.clone()])));
        assert!(text.contains("NVIDIA AIPerf") && text.ends_with(table::DEFINITIONS));
        let first = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
        assert!(std::fs::read_to_string(page).unwrap() == first, "the page is the same");

        let bare = ReportArgs { metrics_compat: vec![Compat::Vllm], ..args(&folder.path().join("summary.json")) };
        assert!(
            report_file(&bare).unwrap_err().to_string().contains("summary.json: --metrics-compat needs the records")
        );
    }

    #[test]
    fn mini_sglangs_raw_form_is_a_report() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("raw.json");
        std::fs::write(&file, "[[10, 3, 5.0, 5.010, 5.030, 5.050], [20, 2, 5.1, 5.115, 5.120]]").unwrap();
        let text = report_file(&ReportArgs { metrics_compat: vec![Compat::MiniSglang], ..args(&file) }).unwrap();
        assert!(text.contains("2 of 2 requests completed, 0 failed, in 0.12 s"), "{text}");
        assert!(text.contains("TTFT:  12.50 ms (p50:  15.00 ms"), "{text}");
    }
}
