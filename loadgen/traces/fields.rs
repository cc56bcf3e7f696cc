//! The fields of one JSON line, each taken with its bounds or refused by name.
//!
//! Owns what a field's error says. Knows nothing of which format wants which field.
use minisgl_config::LONGEST;
use serde_json::{Map, Value};

/// One line's object.
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    /// The object that `line` holds.
    pub(crate) fn parse(line: &[u8]) -> Result<Self, String> {
        match serde_json::from_slice::<Value>(line) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(other) => Err(format!("{} where a JSON object `{{…}}` should be", kind(&other))),
            Err(error) => {
                let at = error.column().min(line.len());
                let mut problem = error.to_string();
                problem.truncate(problem.find(" at line ").unwrap_or(problem.len()));
                let field = last_field(&line[..at]).map(|name| format!("field `{name}`: ")).unwrap_or_default();
                Err(format!("{field}not JSON at column {}: {problem}", error.column()))
            }
        }
    }

    /// Whether the line has this field.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The names of the line's fields, for a message.
    pub(crate) fn names(&self) -> String {
        const SHOWN: usize = 12;
        let names: Vec<String> = self.0.keys().take(SHOWN).map(|name| format!("`{}`", excerpt(name))).collect();
        match names.is_empty() {
            true => "none".to_owned(),
            false if self.0.len() > SHOWN => format!("{}, …", names.join(", ")),
            false => names.join(", "),
        }
    }

    /// A token count; 0 is let through, since recorders write it for answers that never came.
    pub(crate) fn length(&self, name: &str) -> Result<usize, String> {
        match self.get(name)?.as_u64() {
            Some(n) if n <= LONGEST as u64 => Ok(n as usize),
            _ => Err(self.wrong(name, &format!("a whole number of tokens from 0 to {LONGEST}"))),
        }
    }

    /// A time, from 0 to `latest`.
    pub(crate) fn time(&self, name: &str, unit: &str, latest: f64) -> Result<f64, String> {
        match self.get(name)?.as_f64() {
            Some(t) if (0.0..=latest).contains(&t) => Ok(t),
            _ => Err(self.wrong(name, &format!("a number of {unit} from 0 to {latest:e}"))),
        }
    }

    /// A whole number.
    pub(crate) fn whole(&self, name: &str) -> Result<u64, String> {
        self.get(name)?.as_u64().ok_or_else(|| self.wrong(name, "a whole number from 0 to 2^64 - 1"))
    }

    /// A whole number, or -1 for none.
    pub(crate) fn whole_or_minus_one(&self, name: &str) -> Result<Option<u64>, String> {
        match self.get(name)? {
            value if value.as_i64() == Some(-1) => Ok(None),
            value if value.is_u64() => Ok(value.as_u64()),
            _ => Err(self.wrong(name, "-1 for none, or a whole number from 0 to 2^64 - 1,")),
        }
    }

    /// A string.
    pub(crate) fn text(&self, name: &str) -> Result<(), String> {
        match self.get(name)?.is_string() {
            true => Ok(()),
            false => Err(self.wrong(name, "a string")),
        }
    }

    /// The ids of the prompt's blocks.
    pub(crate) fn hash_ids(&self) -> Result<Vec<u64>, String> {
        let Value::Array(ids) = self.get("hash_ids")? else {
            return Err(self.wrong("hash_ids", "an array of whole numbers"));
        };
        let id = |(at, id): (usize, &Value)| {
            id.as_u64().ok_or_else(|| {
                format!(
                    "field `hash_ids`: its element {at} is {}: every element must be a whole number from 0 to 2^64 - 1",
                    shown(id)
                )
            })
        };
        ids.iter().enumerate().map(id).collect()
    }

    fn get(&self, name: &str) -> Result<&Value, String> {
        self.0.get(name).ok_or_else(|| format!("field `{name}` is missing; the line has {}", self.names()))
    }

    fn wrong(&self, name: &str, right: &str) -> String {
        format!("field `{name}`: {} where {right} should be", self.0.get(name).map_or("nothing".to_owned(), shown))
    }
}

/// The last `"name":` before the place where JSON stops making sense: most likely the field that is wrong.
fn last_field(before: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(before);
    let colon = text.rfind("\":")?;
    let open = text[..colon].rfind('"')?;
    Some(excerpt(&text[open + 1..colon]))
}

/// A value as a message shows it.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Object(_) => kind(value).to_owned(),
        scalar => excerpt(&scalar.to_string()),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// At most 40 characters, none of which moves a terminal's cursor.
fn excerpt(text: &str) -> String {
    let mut short: String = text.chars().take(40).map(|c| if c.is_control() { '�' } else { c }).collect();
    if text.chars().nth(40).is_some() {
        short.push('…');
    }
    short
}
