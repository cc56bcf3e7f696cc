//! Settings as text: what holds and who decided it, whether a file is right, and a file with every default.
//!
//! Owns the words of `minisgl config`. Decides nothing.
use std::fmt::Write;
use std::path::PathBuf;

use crate::args::ServeArgs;
use crate::error::ConfigError;
use crate::field::Settings;
use crate::resolve::{Outcome, apply_shell_mode, resolve};
use crate::sources::{ConfigFile, Environment, Origin, literal};
use crate::table::{Group, SETTINGS, Setting};

/// Show, check or start settings (`minisgl config`)
#[derive(clap::Args, Clone, Debug)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

/// What to do about settings.
#[derive(clap::Subcommand, Clone, Debug)]
enum ConfigCommand {
    /// Print what `serve` with the same flags would run with, as TOML, and who decided each value
    Show(Box<ServeArgs>),
    /// Say whether a TOML file of settings is right, and if not where
    Check {
        /// The file
        file: PathBuf,
    },
    /// Print a TOML file with every setting at its default, to start from
    Example,
}

/// What to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// For stdout; ends in a newline.
    pub text: String,
    /// For stderr, a line each.
    pub warnings: Vec<String>,
}

impl ConfigArgs {
    /// What the command prints, or all that is wrong.
    pub fn run(self, environment: &Environment) -> Result<Report, ConfigError> {
        match self.command {
            ConfigCommand::Show(args) => {
                let outcome = args.outcome(environment)?;
                Ok(Report { text: shown(&outcome), warnings: outcome.warnings })
            }
            ConfigCommand::Check { file } => {
                let file = ConfigFile::read(&file)?;
                // The file alone: another machine's variables are not this one's.
                let outcome = resolve(Settings::default(), Some(&file), &Environment::default(), Vec::new());
                apply_shell_mode(&mut outcome?)?;
                Ok(Report { text: format!("{}: OK\n", file.name), warnings: Vec::new() })
            }
            ConfigCommand::Example => Ok(Report { text: example(), warnings: Vec::new() }),
        }
    }
}

/// The settings as TOML that resolves to the same, with each one's origin.
fn shown(outcome: &Outcome) -> String {
    let mut text = "# What `minisgl serve` runs with: flag > environment > file > default.\n".to_owned();
    for_each_group(&mut text, |text, setting| {
        let (line, note) = match setting.value(&outcome.settings) {
            Some(value) => (format!("{} = {}", setting.key(), literal(setting.field.form(), &value)), String::new()),
            None => (format!("# {} =", setting.key()), format!(": {}", setting.field.unset())),
        };
        let origin = match outcome.origin(setting.name) {
            Origin::Default => format!("default{note}"),
            Origin::File(file, number) => format!("file {}:{number}", file.escape_debug()),
            Origin::Variable(variable) => format!("environment {variable}"),
            Origin::Flag => format!("flag --{}", setting.name),
            Origin::Forced(by) => format!("because of {by}"),
        };
        let _ = writeln!(text, "{line:<38} # {origin}");
    });
    text
}

/// A file of every setting, each commented out at its default: `config/minisgl.toml`.
fn example() -> String {
    let defaults = Settings::default();
    let mut text = "\
# Settings of minisgl, each at its default: `minisgl serve --config minisgl.toml`.
# A flag goes before its variable (--page-size, MINISGL_PAGE_SIZE), a variable before this file.
# `minisgl config check minisgl.toml` says whether it is right, `minisgl config show` what holds.
"
    .to_owned();
    for_each_group(&mut text, |text, setting| {
        let _ = writeln!(text, "\n# {}.", setting.words());
        let _ = match setting.value(&defaults) {
            Some(value) => writeln!(text, "# {} = {}", setting.key(), literal(setting.field.form(), &value)),
            None => writeln!(text, "# {} = … (not set: {})", setting.key(), setting.field.unset()),
        };
    });
    text
}

fn for_each_group(text: &mut String, mut each: impl FnMut(&mut String, &Setting)) {
    for group in [Group::Engine, Group::Server, Group::Shell, Group::Log] {
        let _ = writeln!(text, "\n# {}", group.title());
        SETTINGS.iter().filter(|setting| setting.group == group).for_each(|setting| each(text, setting));
    }
}
