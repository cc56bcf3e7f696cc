//! Precedence: flag > environment > file > default, and the checks between settings.
//!
//! Every value that is given must be right, also one that a stronger source overrides: what is wrong is never passed
//! over in silence.
use crate::error::ConfigError;
use crate::field::Settings;
use crate::settings::DeviceKind;
use crate::sources::{ConfigFile, Environment, Given, Origin};
use crate::table::{SETTINGS, Setting};

/// Decided settings, and who decided each.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) settings: Settings,
    pub(crate) warnings: Vec<String>,
    /// The last to give a value, in [`SETTINGS`]' order.
    origins: Vec<Origin>,
}

impl Outcome {
    /// Who decided `name`.
    pub(crate) fn origin(&self, name: &str) -> &Origin {
        &self.origins[index(name)]
    }

    /// Stores what another setting leaves no choice about.
    pub(crate) fn force(&mut self, name: &'static str, by: &'static str) {
        self.origins[index(name)] = Origin::Forced(by);
    }
}

fn index(name: &str) -> usize {
    SETTINGS.iter().position(|setting| setting.name == name).expect("a setting of the table")
}

/// `base` as changed by file, environment and flags, in this order.
pub(crate) fn resolve(
    base: Settings,
    file: Option<&ConfigFile>,
    environment: &Environment,
    flags: Vec<Given>,
) -> Result<Outcome, ConfigError> {
    let mut problems = Vec::new();
    let mut given = file.map(|file| file.given(&mut problems)).unwrap_or_default();
    given.extend(environment.given(&mut problems));
    given.extend(flags);

    let mut outcome =
        Outcome { settings: base, warnings: environment.unknown(), origins: vec![Origin::Default; SETTINGS.len()] };
    for given in given {
        match given.setting.field.set(&mut outcome.settings, &given.text) {
            Ok(()) => outcome.origins[index(given.setting.name)] = given.origin,
            Err(why) => problems.push(format!("{}: {why}", given.place())),
        }
    }
    ConfigError::check(problems)?;
    check_attention(&outcome)?;
    check_simulated(&outcome)?;
    Ok(outcome)
}

/// A device attends in its own way: another device's name is a wish that nobody would grant.
fn check_attention(outcome: &Outcome) -> Result<(), ConfigError> {
    let own = match outcome.settings.serve.engine.device {
        DeviceKind::Cpu => "cpu",
        DeviceKind::Reference => "reference",
        DeviceKind::Sim => "sim",
    };
    match outcome.settings.attention_backend.split(',').find(|name| *name != "auto" && *name != own) {
        None => Ok(()),
        Some(other) => Err(ConfigError::one(format!(
            "{}: {other} is another device's: with --device {own} use auto or {own}",
            place(outcome, "attention-backend")
        ))),
    }
}

/// What a simulated device is like changes nothing for a real one.
fn check_simulated(outcome: &Outcome) -> Result<(), ConfigError> {
    let engine = &outcome.settings.serve.engine;
    if engine.device == DeviceKind::Sim {
        return Ok(());
    }
    let given = |name| *outcome.origin(name) != Origin::Default;
    let mut problems: Vec<String> = Vec::new();
    for name in ["sim-profile", "sim-ttft", "sim-itl"].into_iter().filter(|name| given(name)) {
        problems.push(format!("{}: only a simulated device heeds it: add --device sim", place(outcome, name)));
    }
    ConfigError::check(problems)
}

/// What `serve` makes of `--shell-mode`: the shell has one conversation, and something to say.
pub(crate) fn apply_shell_mode(outcome: &mut Outcome) -> Result<(), ConfigError> {
    if !outcome.settings.serve.shell {
        return Ok(());
    }
    refuse_dummy_weights(outcome)?;
    one_running(outcome, "shell-mode");
    Ok(())
}

/// A shell over random weights is refused: it would answer noise.
pub(crate) fn refuse_dummy_weights(outcome: &Outcome) -> Result<(), ConfigError> {
    match outcome.settings.serve.engine.dummy_weight {
        false => Ok(()),
        true => Err(ConfigError::one(format!(
            "{}: random weights have nothing to say in a shell: leave it out, or use minisgl serve or bench",
            place(outcome, "dummy-weight")
        ))),
    }
}

/// One running request, said in a warning where more were asked for.
pub(crate) fn one_running(outcome: &mut Outcome, by: &'static str) {
    const NAME: &str = "max-running-requests";
    if outcome.settings.serve.engine.max_running_requests != 1 && *outcome.origin(NAME) != Origin::Default {
        outcome.warnings.push(format!("{}: the shell has one conversation: 1 is used", place(outcome, NAME)));
    }
    outcome.settings.serve.engine.max_running_requests = 1;
    outcome.force(NAME, by);
}

/// Who gave the value that holds for `name`, and what it is.
fn place(outcome: &Outcome, name: &str) -> String {
    let setting: &'static Setting = &SETTINGS[index(name)];
    let text = setting.value(&outcome.settings).unwrap_or_default();
    Given { setting, text, origin: outcome.origin(name).clone() }.place()
}
