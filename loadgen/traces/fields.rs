//! The fields of one JSON object, each taken with its bounds or refused by name.
//!
//! Owns what a field's error says. Knows nothing of which format wants which field.
use minisgl_config::LONGEST;
use serde_json::{Map, Value};

/// One record's object, or one within it.
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    /// The object that `record` holds.
    pub(crate) fn parse(record: &[u8]) -> Result<Self, String> {
        match serde_json::from_slice::<Value>(record) {
            Ok(value) => Self::of(value),
            Err(error) => {
                let mut problem = error.to_string();
                problem.truncate(problem.find(" at line ").unwrap_or(problem.len()));
                // An array's element may have many lines.
                let line = error.line().max(1) - 1;
                let begins = record.split_inclusive(|&byte| byte == b'\n').take(line).map(<[u8]>::len).sum::<usize>();
                let at = (begins + error.column()).min(record.len());
                let field = last_field(&record[..at]).map(|name| format!("field `{name}`: ")).unwrap_or_default();
                let line = if line == 0 { String::new() } else { format!(", {line} lines below the element's first") };
                Err(format!("{field}not JSON at column {}{line}: {problem}", error.column()))
            }
        }
    }

    /// The object that this value is.
    pub(crate) fn of(value: Value) -> Result<Self, String> {
        match value {
            Value::Object(map) => Ok(Self(map)),
            other => Err(format!("{} where a JSON object `{{…}}` should be", kind(&other))),
        }
    }

    /// Whether the object has this field, and not as null.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| !value.is_null())
    }

    /// What `take` finds in a field that may be missing.
    pub(crate) fn if_there<T>(
        &self,
        name: &str,
        take: impl FnOnce(&Self, &str) -> Result<T, String>,
    ) -> Result<Option<T>, String> {
        if self.has(name) { take(self, name).map(Some) } else { Ok(None) }
    }

    /// The names of the object's fields, for a message.
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
    pub(crate) fn text(&self, name: &str) -> Result<&str, String> {
        self.get(name)?.as_str().ok_or_else(|| self.wrong(name, "a string"))
    }

    /// True or false.
    pub(crate) fn truth(&self, name: &str) -> Result<bool, String> {
        self.get(name)?.as_bool().ok_or_else(|| self.wrong(name, "true or false"))
    }

    /// What names a session: a string or a whole number.
    pub(crate) fn name(&self, name: &str) -> Result<String, String> {
        match self.get(name)? {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) if number.is_u64() || number.is_i64() => Ok(number.to_string()),
            _ => Err(self.wrong(name, "a string or a whole number")),
        }
    }

    /// The objects in an array.
    pub(crate) fn objects(&self, name: &str) -> Result<Vec<Self>, String> {
        let Value::Array(values) = self.get(name)? else {
            return Err(self.wrong(name, "an array of objects"));
        };
        let object = |(at, value): (usize, &Value)| {
            Self::of(value.clone()).map_err(|problem| format!("field `{name}`: its element {at} is {problem}"))
        };
        values.iter().enumerate().map(object).collect()
    }

    /// A message's content: a string, null, or parts of which each is a text.
    pub(crate) fn content(&self, name: &str) -> Result<String, String> {
        match self.get(name)? {
            Value::String(text) => Ok(text.clone()),
            Value::Null => Ok(String::new()),
            Value::Array(parts) => {
                let text = |part: &Value| part.get("text").and_then(Value::as_str).map(str::to_owned);
                let texts: Option<Vec<String>> = parts.iter().map(text).collect();
                texts.map(|texts| texts.concat()).ok_or_else(|| {
                    format!("field `{name}`: a part without `text`: only texts can be replayed, no images or audio")
                })
            }
            _ => Err(self.wrong(name, "a string, null or an array of text parts")),
        }
    }

    /// Says that a field cannot be replayed.
    pub(crate) fn refuse(&self, names: &[&str], why: &str) -> Result<(), String> {
        match names.iter().find(|name| self.has(name)) {
            Some(name) => Err(format!("field `{name}`: {why}")),
            None => Ok(()),
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
        self.0.get(name).ok_or_else(|| format!("field `{name}` is missing; there is {}", self.names()))
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
pub(super) fn excerpt(text: &str) -> String {
    let mut short: String = text.chars().take(40).map(|c| if c.is_control() { '�' } else { c }).collect();
    if text.chars().nth(40).is_some() {
        short.push('…');
    }
    short
}
