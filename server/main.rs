//! The binary: parse, dispatch. What a command does stands in its file under `cli/`.
mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
