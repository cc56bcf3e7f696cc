//! A JSON object, read field by field: each error names its field by its path, and no field is left unread.
//!
//! Owns types and paths. Does not know what a field means or which values are good.
use serde_json::{Map, Value};

use super::error::ApiError;

/// An object whose fields are taken one by one. What is left at [`Fields::end`] is an error.
#[derive(Debug)]
pub(crate) struct Fields {
    /// Where the object stands, with a dot after it: `messages[1].`, empty for the body.
    path: String,
    map: Map<String, Value>,
}

/// A field that this server does not have, and the value at which leaving it out means the same.
pub(crate) struct NoOp {
    pub(crate) name: &'static str,
    pub(crate) is: fn(&Value) -> bool,
}

/// A type that a field may have.
pub(crate) trait Wire: Sized {
    /// In words: `an integer`.
    const EXPECTED: &'static str;
    /// Gives the value back where it is of another type.
    fn read(value: Value) -> Result<Self, Value>;
}

impl Fields {
    /// A body: an object.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let value: Value = serde_json::from_slice(body)
            .map_err(|error| ApiError::bad_body(format!("The request's body is not valid JSON: {error}.")))?;
        match value {
            Value::Object(map) => Ok(Self { path: String::new(), map }),
            other => {
                let got = kind(&other);
                Err(ApiError::bad_body(format!("The request's body must be a JSON object, but is {got}.")))
            }
        }
    }

    /// An object inside another value; `path` is its own, without a dot.
    pub(crate) fn of(value: Value, path: String) -> Result<Self, ApiError> {
        match value {
            Value::Object(map) => Ok(Self { path: path + ".", map }),
            other => Err(wrong_type(path, "an object", &other)),
        }
    }

    /// The full path of one of its fields.
    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    /// Absent and null are the same.
    pub(crate) fn optional<T: Wire>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        match self.map.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(value, self.path(name)).map(Some),
        }
    }

    /// A field that must be there.
    pub(crate) fn required<T: Wire>(&mut self, name: &str) -> Result<T, ApiError> {
        self.optional(name)?.ok_or_else(|| missing(self.path(name)))
    }

    /// All that is known has been taken: the rest is null, or at its no-op value, or an error that names it.
    pub(crate) fn end(self, no_ops: &[&[NoOp]]) -> Result<(), ApiError> {
        for (name, value) in &self.map {
            let path = self.path(name);
            match no_ops.iter().copied().flatten().find(|no_op| no_op.name == name) {
                _ if value.is_null() => {}
                Some(no_op) if (no_op.is)(value) => {}
                Some(_) => {
                    let message =
                        format!("Unsupported value: '{path}' is not implemented by this server. Leave it out.");
                    return Err(ApiError::bad_field(path, "unsupported_parameter", message));
                }
                None => {
                    let message = format!("Unknown parameter: '{path}'.");
                    return Err(ApiError::bad_field(path, "unknown_parameter", message));
                }
            }
        }
        Ok(())
    }
}

/// A value of type `T`, or an error that says where and what.
pub(crate) fn read<T: Wire>(value: Value, path: String) -> Result<T, ApiError> {
    T::read(value).map_err(|value| wrong_type(path, T::EXPECTED, &value))
}

/// 400: the field has another type.
pub(crate) fn wrong_type(path: String, expected: &str, got: &Value) -> ApiError {
    let message = format!("Invalid type for '{path}': expected {expected}, but got {} instead.", kind(got));
    ApiError::bad_field(path, "invalid_type", message)
}

/// 400: the field must be there.
pub(crate) fn missing(path: String) -> ApiError {
    let message = format!("Missing required parameter: '{path}'.");
    ApiError::bad_field(path, "missing_required_parameter", message)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(n) if n.is_f64() => "a decimal",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

impl Wire for Value {
    const EXPECTED: &'static str = "a value";
    fn read(value: Value) -> Result<Self, Value> {
        Ok(value)
    }
}

impl Wire for String {
    const EXPECTED: &'static str = "a string";
    fn read(value: Value) -> Result<Self, Value> {
        match value {
            Value::String(text) => Ok(text),
            other => Err(other),
        }
    }
}

impl Wire for Vec<Value> {
    const EXPECTED: &'static str = "an array";
    fn read(value: Value) -> Result<Self, Value> {
        match value {
            Value::Array(values) => Ok(values),
            other => Err(other),
        }
    }
}

impl Wire for bool {
    const EXPECTED: &'static str = "a boolean";
    fn read(value: Value) -> Result<Self, Value> {
        value.as_bool().ok_or(value)
    }
}

impl Wire for f64 {
    const EXPECTED: &'static str = "a number";
    fn read(value: Value) -> Result<Self, Value> {
        value.as_f64().ok_or(value)
    }
}

impl Wire for i64 {
    const EXPECTED: &'static str = "an integer";
    fn read(value: Value) -> Result<Self, Value> {
        value.as_i64().ok_or(value)
    }
}

impl Wire for usize {
    const EXPECTED: &'static str = "an integer that is not negative";
    fn read(value: Value) -> Result<Self, Value> {
        value.as_u64().and_then(|n| n.try_into().ok()).ok_or(value)
    }
}

impl Wire for u32 {
    const EXPECTED: &'static str = "an integer from 0 to 4294967295";
    fn read(value: Value) -> Result<Self, Value> {
        value.as_u64().and_then(|n| n.try_into().ok()).ok_or(value)
    }
}

/// A seed: any 64 bits. OpenAI's are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seed(pub(crate) u64);

impl Wire for Seed {
    const EXPECTED: &'static str = "an integer of 64 bits";
    fn read(value: Value) -> Result<Self, Value> {
        value.as_u64().or(value.as_i64().map(|n| n as u64)).map(Seed).ok_or(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn body(value: &Value) -> Fields {
        Fields::parse(value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn an_error_names_the_field_and_both_types() {
        let mut fields = body(&json!({"a": "text", "b": 1.5, "c": -1, "d": null}));
        let said = |error: ApiError| error.json();
        assert!(said(fields.optional::<f64>("a").unwrap_err()).contains("'a': expected a number, but got a string"));
        assert!(said(fields.optional::<i64>("b").unwrap_err()).contains("'b': expected an integer, but got a decimal"));
        assert!(said(fields.optional::<usize>("c").unwrap_err()).contains("not negative, but got an integer"));
        assert!(said(fields.required::<bool>("d").unwrap_err()).contains("Missing required parameter: 'd'"));
        fields.end(&[]).unwrap();
    }

    #[test]
    fn what_is_left_is_null_or_a_no_op_or_an_error() {
        let echo = [NoOp { name: "echo", is: |value| *value == json!(false) }];
        let no_ops = [&echo[..]];
        body(&json!({"anything": null, "echo": false})).end(&no_ops).unwrap();
        let error = body(&json!({"echo": true})).end(&no_ops).unwrap_err().json();
        assert!(error.contains("\"param\":\"echo\"") && error.contains("unsupported_parameter"), "{error}");
        let nested = Fields::of(json!({"sort": 1}), "messages[2]".into()).unwrap();
        let error = nested.end(&no_ops).unwrap_err().json();
        assert!(error.contains("\"param\":\"messages[2].sort\"") && error.contains("unknown_parameter"), "{error}");
    }

    #[test]
    fn a_body_that_is_no_object_says_where() {
        for (text, word) in
            [("{\"a\": }", "line 1 column 7"), ("[1]", "an array"), ("", "line 1 column 0"), ("{} x", "trailing")]
        {
            let error = Fields::parse(text.as_bytes()).unwrap_err().json();
            assert!(error.contains(word) && error.contains("invalid_json"), "{text}: {error}");
        }
    }

    #[test]
    fn seeds_are_any_64_bits() {
        for (text, seed) in [("-1", u64::MAX), ("18446744073709551615", u64::MAX), ("7", 7)] {
            assert_eq!(Seed::read(serde_json::from_str(text).unwrap()), Ok(Seed(seed)));
        }
        assert!(Seed::read(json!(1.0)).is_err());
    }
}
