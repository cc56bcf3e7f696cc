//! `minisgl loadgen` and the commands below it: parse, run, exit code. What they do is the load generator's own crate.
use std::process::ExitCode;

use minisgl_config::loadgen::LoadgenArgs;
use minisgl_config::loadgen::command::{CommandArgs, LoadgenCommand};
use minisgl_config::loadgen::inspect::InspectArgs;
use minisgl_loadgen::inspect::InspectOptions;
use minisgl_loadgen::{ConsoleOptions, Interrupt};

use super::{Outcome, plan};

/// Dispatches; the exit codes are those of the crate's documentation.
pub(crate) fn run(args: CommandArgs) -> Outcome {
    let console = ConsoleOptions::default();
    match args.command {
        None => workload(args.run, console),
        Some(LoadgenCommand::Inspect(args)) => inspect(args, console),
        Some(LoadgenCommand::Plan(args)) => plan::run(*args),
        Some(LoadgenCommand::SelfTest(args)) => Ok(ExitCode::from(minisgl_loadgen::self_test(&args, console)?)),
        Some(LoadgenCommand::Compare(args)) => match minisgl_loadgen::compare_files(&args) {
            Ok((text, code)) => {
                say!("{}", text.trim_end());
                Ok(ExitCode::from(code))
            }
            // 1 says that B is worse: what cannot be compared says something else.
            Err(error) => {
                eprintln!("minisgl: {error}");
                Ok(ExitCode::from(minisgl_loadgen::EXIT_NOT_COMPARED))
            }
        },
        Some(LoadgenCommand::Report(args)) => {
            say!("{}", minisgl_loadgen::report_file(&args)?.trim_end());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn workload(args: LoadgenArgs, console: ConsoleOptions) -> Outcome {
    let settings = args.resolve()?;
    let reports = minisgl_loadgen::run(&settings, console, &Interrupt::on_signals()?)?;
    Ok(ExitCode::from(minisgl_loadgen::exit_code(&reports, settings.report.strict)))
}

fn inspect(args: InspectArgs, console: ConsoleOptions) -> Outcome {
    let options = InspectOptions {
        source: args.trace,
        limit: args.limit.map(|limit| limit as usize),
        contexts: args.contexts,
        html: args.html,
    };
    let inspection = minisgl_loadgen::inspect::inspect(&options, console)?;
    match args.json {
        true => say!("{}", serde_json::to_string_pretty(&inspection)?),
        false => say!("{}", inspection.to_string().trim_end()),
    }
    Ok(ExitCode::SUCCESS)
}
