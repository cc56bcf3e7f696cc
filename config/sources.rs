//! Where values come from besides flags: the process's variables and a TOML file, read into texts with their origin.
//!
//! Owns names, lines and TOML's types. Knows nothing of bounds (`field.rs`) or precedence (`resolve.rs`).
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use crate::error::ConfigError;
use crate::field::Form;
use crate::table::{ABSENT_VARIABLES, OTHER_VARIABLES, SETTINGS, Setting};

/// A file of settings is short: what is longer is another file.
const LARGEST_FILE: u64 = 1 << 20;

/// Who gave a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Default,
    /// The file as it was named, and the line.
    File(String, usize),
    Variable(String),
    Flag,
    /// Another setting, named, leaves it no choice.
    Forced(&'static str),
}

/// A value as given, not yet read.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub(crate) setting: &'static Setting,
    pub(crate) text: String,
    pub(crate) origin: Origin,
}

impl Given {
    /// The start of an error: who gave what.
    pub(crate) fn place(&self) -> String {
        let (name, text) = (self.setting.name, shortened(&self.text));
        match &self.origin {
            Origin::File(file, line) => {
                let shown = literal(self.setting.field.form(), &text);
                format!("{file}:{line}: {} = {shown}", self.setting.key())
            }
            Origin::Variable(variable) => format!("{variable}={text}"),
            _ if self.setting.field.form() == Form::Switch => format!("--{name}={text}"),
            _ => format!("--{name} {text}"),
        }
    }
}

/// `text` as an error repeats it: one line, not too long.
fn shortened(text: &str) -> String {
    const MOST: usize = 80;
    let mut short: String = text.chars().take(MOST).flat_map(|c| c.escape_debug()).collect();
    if text.chars().count() > MOST {
        short.push('…');
    }
    short
}

/// A value as TOML writes it.
pub(crate) fn literal(form: Form, text: &str) -> String {
    match form {
        Form::Switch | Form::Integer | Form::Number => text.to_owned(),
        Form::Text | Form::Span => toml::Value::from(text).to_string(),
    }
}

/// The process's variables, or a test's.
#[derive(Clone, Debug, Default)]
pub struct Environment(Vec<(String, OsString)>);

impl Environment {
    /// The process's own. Names that are not UTF-8 are none of ours.
    pub fn of_process() -> Self {
        Self(std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect())
    }

    /// A variable's value; one that is empty counts as not set, which is how a compose file unsets one.
    pub(crate) fn get(&self, name: &str) -> Option<&OsStr> {
        let found = self.0.iter().find(|(known, _)| known == name)?;
        (!found.1.is_empty()).then_some(found.1.as_os_str())
    }

    /// Every value that a setting's variables give.
    pub(crate) fn given(&self, problems: &mut Vec<String>) -> Vec<Given> {
        for (name, why) in ABSENT_VARIABLES {
            if let Some(value) = self.get(name) {
                problems.push(format!("{name}={}: {why}", shortened(&value.to_string_lossy())));
            }
        }
        let mut given = Vec::new();
        for setting in SETTINGS {
            let names = [Some(setting.variable()), setting.other_variable.map(str::to_owned)];
            let found = names.into_iter().flatten().find_map(|name| self.get(&name).map(|value| (name, value)));
            let Some((name, value)) = found else { continue };
            match value.to_str() {
                Some(text) => {
                    given.push(Given { setting, text: text.trim().to_owned(), origin: Origin::Variable(name) });
                }
                None => problems.push(format!("{name} is not UTF-8")),
            }
        }
        given
    }

    /// Variables of ours by name that nothing reads: a misspelling, most likely. A warning each.
    pub(crate) fn unknown(&self) -> Vec<String> {
        let known = |name: &str| {
            OTHER_VARIABLES.contains(&name)
                || ABSENT_VARIABLES.iter().any(|(absent, _)| *absent == name)
                || SETTINGS.iter().any(|setting| setting.variable() == name)
        };
        let unknown = self.0.iter().map(|(name, _)| name).filter(|n| n.starts_with("MINISGL_") && !known(n));
        let mut warnings: Vec<String> = unknown
            .map(|name| {
                let key = name["MINISGL_".len()..].to_ascii_lowercase();
                let meant = nearest(&key).map(|setting| format!("; did you mean {}?", setting.variable()));
                format!("{name} is not a setting and changes nothing{}", meant.unwrap_or_default())
            })
            .collect();
        warnings.sort();
        warnings
    }
}

impl<N: Into<String>, V: Into<OsString>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// A TOML file's text and the name that errors have for it.
#[derive(Clone, Debug)]
pub(crate) struct ConfigFile {
    pub(crate) name: String,
    pub(crate) text: String,
}

impl ConfigFile {
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let failed = |e: std::io::Error| ConfigError::one(format!("{name}: {e}"));
        let mut text = String::new();
        // Bounded by what is read, not by what the file says of its size: a device or a pipe says 0.
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(LARGEST_FILE + 1).read_to_string(&mut text).map_err(failed)?;
        if text.len() as u64 > LARGEST_FILE {
            return Err(ConfigError::one(format!("{name}: a file of settings has at most {LARGEST_FILE} bytes")));
        }
        Ok(Self { name, text })
    }

    /// Every value that it gives.
    pub(crate) fn given(&self, problems: &mut Vec<String>) -> Vec<Given> {
        let table = match DeTable::parse(&self.text) {
            Ok(table) => table.into_inner(),
            Err(e) => {
                let line = self.line(e.span().map_or(0, |span| span.start));
                problems.push(format!("{}:{line}: {}", self.name, e.message().replace('\n', ", ")));
                return Vec::new();
            }
        };
        let mut given = Vec::new();
        for (key, value) in table {
            let line = self.line(key.span().start);
            let key = key.into_inner();
            let Some(setting) = SETTINGS.iter().find(|setting| setting.key() == key) else {
                let meant = nearest(&key).map(|setting| format!("; did you mean {}?", setting.key()));
                let (name, key) = (&self.name, shortened(&key));
                problems.push(format!("{name}:{line}: unknown key {key}{}", meant.unwrap_or_default()));
                continue;
            };
            match text_of(setting.field.form(), value.get_ref()) {
                Ok(text) => given.push(Given { setting, text, origin: Origin::File(self.name.clone(), line) }),
                Err(found) => {
                    let (name, expects) = (&self.name, setting.field.expects());
                    problems.push(format!("{name}:{line}: {key} is {found}: expected {expects}"));
                }
            }
        }
        given.sort_by_key(|given| match given.origin {
            Origin::File(_, line) => line,
            _ => 0,
        });
        given
    }

    /// The line of a byte, from 1.
    fn line(&self, at: usize) -> usize {
        self.text.as_bytes()[..at.min(self.text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
    }
}

/// A TOML value as a flag would spell it, where its type fits `form`; otherwise what it is.
fn text_of(form: Form, value: &DeValue<'_>) -> Result<String, &'static str> {
    match (form, value) {
        (Form::Switch, DeValue::Boolean(value)) => Ok(value.to_string()),
        (Form::Integer | Form::Number | Form::Span, DeValue::Integer(value)) => {
            let read = i128::from_str_radix(value.as_str(), value.radix());
            read.map(|n| n.to_string()).map_err(|_| "an integer beyond all bounds")
        }
        (Form::Number, DeValue::Float(value)) => Ok(value.as_str().to_owned()),
        (Form::Text | Form::Span, DeValue::String(value)) => Ok(value.clone().into_owned()),
        (_, DeValue::String(_)) => Err("a string"),
        (_, DeValue::Integer(_)) => Err("an integer"),
        (_, DeValue::Float(_)) => Err("a float"),
        (_, DeValue::Boolean(_)) => Err("a boolean"),
        (_, DeValue::Datetime(_)) => Err("a date"),
        (_, DeValue::Array(_)) => Err("an array"),
        (_, DeValue::Table(_)) => Err("a table"),
    }
}

/// The setting that `key` was likely meant for: a flag's other spelling, dashes for underscores, or up to two typos.
fn nearest(key: &str) -> Option<&'static Setting> {
    const TYPOS: usize = 2;
    const LONGEST: usize = 64;
    if key.len() > LONGEST {
        return None;
    }
    let key = key.replace('-', "_");
    let spelled = |setting: &&Setting| setting.aliases.iter().any(|alias| alias.replace('-', "_") == key);
    SETTINGS.iter().find(spelled).or_else(|| {
        let by_distance = SETTINGS.iter().map(|setting| (distance(&key, &setting.key()), setting));
        by_distance.min_by_key(|(typos, _)| *typos).filter(|(typos, _)| *typos <= TYPOS).map(|(_, setting)| setting)
    })
}

/// Letters to insert, delete or replace to make `a` of `b` (Levenshtein's).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for j in 0..b.len() {
            let replaced = diagonal + usize::from(letter != b[j]);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_names_find_their_setting() {
        for (key, name) in [
            ("page_sise", Some("page-size")),
            ("page-size", Some("page-size")),
            ("tp", Some("tensor-parallel-size")),
            ("model_path", Some("model")),
            ("max_runing_request", Some("max-running-requests")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(key).map(|setting| setting.name), name, "{key}");
        }
        assert_eq!(distance("kitten", "sitting"), 3);
        assert!(nearest(&"x".repeat(100_000)).is_none());
    }

    #[test]
    fn long_and_strange_values_are_repeated_shortly() {
        assert_eq!(shortened("a\nb"), "a\\nb");
        assert_eq!(shortened(&"x".repeat(1000)).chars().count(), 81);
    }
}
