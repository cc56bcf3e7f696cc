//! What `minisgl loadgen` ends with, so that a script can tell what went wrong.
//!
//! | code | a run | `compare` | `report` |
//! |---|---|---|---|
//! | 0 | every request completed, or was cancelled as planned | nothing is worse by more than the tolerance | printed |
//! | 1 | it could not begin or be written: bad trace, no server, no tokenizer | B is worse | the file cannot be read |
//! | 2 | bad flags | bad flags, or a file that cannot be read | bad flags |
//! | 3 | requests failed | | |
//! | 4 | no request failed, but the client sent late (INVALID), under `--strict` | | |
//! | 130 | interrupted by Ctrl-C or SIGTERM; the figures of what completed were printed and written | | |
//!
//! `self-test` ends with 0 where every request completed, 1 where one failed or it could not run, 2 for bad flags, and under
//! `--strict` with 4 where an error or a cost is beyond its bound.
//!
//! `compare` is as `diff` and `grep` are: 1 is an answer, 2 is trouble.
use super::RunReport;

/// Requests failed.
pub const EXIT_FAILED_REQUESTS: u8 = 3;

/// A run is INVALID, under `--strict`.
pub const EXIT_INVALID: u8 = 4;

/// A run was interrupted: what a shell says of a program that Ctrl-C ended.
pub const EXIT_INTERRUPTED: u8 = 130;

/// `compare` could not compare.
pub const EXIT_NOT_COMPARED: u8 = 2;

/// The exit code of a command whose runs were these.
pub fn exit_code(reports: &[RunReport], strict: bool) -> u8 {
    if reports.iter().any(|report| report.interrupted.is_some()) {
        EXIT_INTERRUPTED
    } else if !reports.iter().all(RunReport::exit_ok) {
        EXIT_FAILED_REQUESTS
    } else if strict && reports.iter().any(|report| !report.valid) {
        EXIT_INVALID
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interruption_comes_before_failures_and_those_before_lag() {
        let cut = RunReport { interrupted: Some(Default::default()), ..RunReport::default() };
        let report = |failed, valid| RunReport { failed, valid, ..RunReport::default() };
        for (reports, lenient, strict) in [
            (vec![report(0, true)], 0, 0),
            (vec![report(0, true), report(0, false)], 0, 4),
            (vec![report(0, false), report(1, true)], 3, 3),
            (vec![], 0, 0),
            (vec![report(1, false), cut], 130, 130),
        ] {
            assert_eq!((exit_code(&reports, false), exit_code(&reports, true)), (lenient, strict));
        }
    }
}
