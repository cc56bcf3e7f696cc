//! `minisgl loadgen`: parse, run, exit code. What it does is the load generator's own crate.
use std::process::ExitCode;

use minisgl_config::loadgen::LoadgenArgs;
use minisgl_loadgen::ConsoleOptions;

use super::Outcome;

/// Exits with 0 where every request of every run completed.
pub(crate) fn run(args: LoadgenArgs) -> Outcome {
    let reports = minisgl_loadgen::run(args.resolve()?, ConsoleOptions::default())?;
    let fine = reports.iter().all(minisgl_loadgen::RunReport::exit_ok);
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
