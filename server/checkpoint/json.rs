//! JSON files: parsed up to a bound, and their fields as typed values or an error that names them.
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{CheckpointError, quoted};
use crate::file;

/// Bounds on whole files, several times what real ones take.
pub(crate) const MAX_CONFIG_BYTES: u64 = 2 << 20;
pub(crate) const MAX_TOKENIZER_CONFIG_BYTES: u64 = 8 << 20;
pub(crate) const MAX_INDEX_BYTES: u64 = 64 << 20;
pub(crate) const MAX_TOKENIZER_BYTES: u64 = 512 << 20;
pub(crate) const MAX_TEMPLATE_BYTES: u64 = 4 << 20;

/// The file parsed; `None` where there is no such file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path, most: u64) -> Result<Option<T>, CheckpointError> {
    let Some(bytes) = file::read(path, most)? else { return Ok(None) };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(e) => Err(CheckpointError::file(path, format!("not the JSON that it should be: {e}"))),
    }
}

/// An object in a JSON file. `null` reads as absent.
#[derive(Clone)]
pub(crate) struct Fields<'a> {
    path: &'a Path,
    /// `text_config.` and the like: what stands before a field's name in errors.
    prefix: String,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The whole file's object.
    pub(crate) fn new(path: &'a Path, map: &'a Map<String, Value>) -> Self {
        Self { path, prefix: String::new(), map }
    }

    pub(crate) fn error(&self, field: &str, why: impl Into<String>) -> CheckpointError {
        CheckpointError::field(self.path, format!("{}{field}", self.prefix), why)
    }

    fn wrong(&self, field: &str, expected: &str, found: &Value) -> CheckpointError {
        self.error(field, format!("expected {expected}, found {}", quoted(&found.to_string())))
    }

    /// Whether the field is there at all, `null` included.
    pub(crate) fn states(&self, field: &str) -> bool {
        self.map.contains_key(field)
    }

    pub(crate) fn get(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|v| !v.is_null())
    }

    /// A nested object.
    pub(crate) fn object(&self, field: &str) -> Result<Option<Fields<'a>>, CheckpointError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                Ok(Some(Fields { path: self.path, prefix: format!("{}{field}.", self.prefix), map }))
            }
            Some(v) => Err(self.wrong(field, "an object", v)),
        }
    }

    /// Whether any value is itself an object.
    pub(crate) fn nests(&self) -> bool {
        self.map.values().any(Value::is_object)
    }

    pub(crate) fn string(&self, field: &str) -> Result<Option<&'a str>, CheckpointError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(v) => Err(self.wrong(field, "a string", v)),
        }
    }

    pub(crate) fn bool(&self, field: &str) -> Result<Option<bool>, CheckpointError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(v) => Err(self.wrong(field, "true or false", v)),
        }
    }

    /// A finite number.
    pub(crate) fn number(&self, field: &str) -> Result<Option<f64>, CheckpointError> {
        match self.get(field) {
            None => Ok(None),
            Some(v) => match v.as_f64().filter(|n| n.is_finite()) {
                Some(n) => Ok(Some(n)),
                None => Err(self.wrong(field, "a number", v)),
            },
        }
    }

    /// A finite number above zero.
    pub(crate) fn positive(&self, field: &str) -> Result<Option<f64>, CheckpointError> {
        match self.number(field)? {
            Some(n) if n <= 0.0 => Err(self.error(field, format!("{n} must be more than 0"))),
            n => Ok(n),
        }
    }

    /// A whole number from 1 to `most`; Python may have written it as `32.0`.
    pub(crate) fn size(&self, field: &str, most: usize) -> Result<Option<usize>, CheckpointError> {
        let Some(v) = self.get(field) else { return Ok(None) };
        let whole = v.as_u64().or_else(|| v.as_f64().filter(|n| n.fract() == 0.0 && *n >= 0.0).map(|n| n as u64));
        match whole.and_then(|n| usize::try_from(n).ok()) {
            Some(n) if (1..=most).contains(&n) => Ok(Some(n)),
            _ => Err(self.wrong(field, &format!("a whole number from 1 to {most}"), v)),
        }
    }

    /// As [`size`](Self::size), of a field that must be there.
    pub(crate) fn required_size(&self, field: &str, most: usize) -> Result<usize, CheckpointError> {
        self.size(field, most)?.ok_or_else(|| self.error(field, "missing; the model's size cannot be known without it"))
    }

    /// A token id.
    pub(crate) fn token(&self, field: &str) -> Result<Option<u32>, CheckpointError> {
        match self.get(field) {
            None => Ok(None),
            Some(v) => self.to_token(field, v).map(Some),
        }
    }

    /// One token id or a list of them; `None` where absent.
    pub(crate) fn tokens(&self, field: &str) -> Result<Option<Vec<u32>>, CheckpointError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Array(list)) => {
                list.iter().map(|v| self.to_token(field, v)).collect::<Result<_, _>>().map(Some)
            }
            Some(v) => Ok(Some(vec![self.to_token(field, v)?])),
        }
    }

    fn to_token(&self, field: &str, v: &Value) -> Result<u32, CheckpointError> {
        let id = v.as_u64().and_then(|n| u32::try_from(n).ok());
        id.ok_or_else(|| self.wrong(field, "a token id (a whole number from 0)", v))
    }
}
