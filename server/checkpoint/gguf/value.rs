//! GGUF metadata: values as the file states them, and typed access with errors that name the key.
//!
//! Strings and arrays stay in the file; a value only says where they lie.
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use super::cursor::{Cursor, Why, check_count};
use crate::error::CheckpointError;
use crate::limits::MAX_LAYERS;

/// A type of metadata value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl Type {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Why> {
        use Type::*;
        const ALL: [Type; 13] = [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64];
        let id = cursor.u32()?;
        match ALL.get(id as usize) {
            Some(ty) => Ok(*ty),
            None => Err(format!("type {id} is not one of GGUF's 0 to {}", ALL.len() - 1)),
        }
    }

    /// Bytes of a value, at least: a string has its length in front.
    fn least_bytes(self) -> usize {
        match self {
            Type::U8 | Type::I8 | Type::Bool => 1,
            Type::U16 | Type::I16 => 2,
            Type::U32 | Type::I32 | Type::F32 => 4,
            Type::U64 | Type::I64 | Type::F64 | Type::String => 8,
            Type::Array => 12,
        }
    }
}

/// A value; integers and floats widened.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(Range<usize>),
    Array(Array),
}

/// An array that lies at `range` in the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Array {
    of: Type,
    len: usize,
    range: Range<usize>,
}

impl Value {
    /// Reads a type and a value of it.
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self, Why> {
        let ty = Type::read(cursor)?;
        Self::of_type(ty, cursor)
    }

    fn of_type(ty: Type, cursor: &mut Cursor<'_>) -> Result<Self, Why> {
        Ok(match ty {
            Type::U8 => Value::Unsigned(cursor.u8()?.into()),
            Type::I8 => Value::Signed((cursor.u8()? as i8).into()),
            Type::U16 => Value::Unsigned(cursor.u16()?.into()),
            Type::I16 => Value::Signed((cursor.u16()? as i16).into()),
            Type::U32 => Value::Unsigned(cursor.u32()?.into()),
            Type::I32 => Value::Signed((cursor.u32()? as i32).into()),
            Type::F32 => Value::Float(f32::from_bits(cursor.u32()?).into()),
            Type::Bool => Value::Bool(cursor.u8()? != 0),
            Type::String => Value::String(cursor.string()?),
            Type::Array => Value::Array(Array::read(cursor)?),
            Type::U64 => Value::Unsigned(cursor.u64()?),
            Type::I64 => Value::Signed(cursor.u64()? as i64),
            Type::F64 => Value::Float(f64::from_bits(cursor.u64()?)),
        })
    }

    fn words(&self) -> &'static str {
        match self {
            Value::Unsigned(_) | Value::Signed(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Bool(_) => "a bool",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
        }
    }
}

impl Array {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Why> {
        let of = Type::read(cursor)?;
        if of == Type::Array {
            return Err("an array of arrays is not supported".into());
        }
        let n = cursor.u64()?;
        check_count(n, of.least_bytes(), cursor.left(), "array elements")?;
        let len = n as usize;
        let start = cursor.at();
        if of == Type::String {
            for _ in 0..len {
                cursor.string()?;
            }
        } else {
            cursor.range((len * of.least_bytes()) as u64)?;
        }
        Ok(Self { of, len, range: start..cursor.at() })
    }
}

/// All metadata of a file.
#[derive(Clone, Copy)]
pub(super) struct Metadata<'a> {
    pub(super) path: &'a Path,
    pub(super) bytes: &'a [u8],
    pub(super) values: &'a HashMap<String, Value>,
}

impl<'a> Metadata<'a> {
    pub(super) fn error(&self, key: &str, why: impl Into<String>) -> CheckpointError {
        CheckpointError::field(self.path, key, why)
    }

    fn wrong(&self, key: &str, expected: &str, found: &Value) -> CheckpointError {
        self.error(key, format!("expected {expected}, found {}", found.words()))
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    pub(super) fn string(&self, key: &str) -> Result<Option<&'a str>, CheckpointError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::String(range)) => match std::str::from_utf8(&self.bytes[range.clone()]) {
                Ok(text) => Ok(Some(text)),
                Err(e) => Err(self.error(key, format!("not UTF-8 text: {e}"))),
            },
            Some(v) => Err(self.wrong(key, "a string", v)),
        }
    }

    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>, CheckpointError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(v) => Err(self.wrong(key, "a bool", v)),
        }
    }

    /// A finite number above zero.
    pub(super) fn positive(&self, key: &str) -> Result<Option<f64>, CheckpointError> {
        match self.number(key)? {
            Some(n) if n <= 0.0 => Err(self.error(key, format!("{n} must be more than 0"))),
            n => Ok(n),
        }
    }

    /// A finite number.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, CheckpointError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Float(n)) if n.is_finite() => Ok(Some(*n)),
            Some(Value::Float(n)) => Err(self.error(key, format!("{n} is not a finite number"))),
            Some(Value::Unsigned(n)) => Ok(Some(*n as f64)),
            Some(Value::Signed(n)) => Ok(Some(*n as f64)),
            Some(v) => Err(self.wrong(key, "a number", v)),
        }
    }

    /// A whole number from 1 to `most`. An array is right where all its entries are equal: one value a layer.
    pub(super) fn size(&self, key: &str, most: usize) -> Result<Option<usize>, CheckpointError> {
        let n = match self.values.get(key) {
            None => return Ok(None),
            Some(Value::Unsigned(n)) => *n,
            Some(Value::Signed(n)) => u64::try_from(*n).unwrap_or(0),
            Some(Value::Array(_)) => self.constant(key)?,
            Some(v) => return Err(self.wrong(key, "a whole number", v)),
        };
        match usize::try_from(n) {
            Ok(n) if (1..=most).contains(&n) => Ok(Some(n)),
            _ => Err(self.error(key, format!("{n} must be from 1 to {most}"))),
        }
    }

    fn constant(&self, key: &str) -> Result<u64, CheckpointError> {
        let len = self.array_len(key)?;
        if len > MAX_LAYERS {
            return Err(self.error(key, format!("{len} values; a model has at most {MAX_LAYERS} layers")));
        }
        let list = self.integers(key)?.unwrap_or_default();
        match list.first() {
            Some(first) if list.iter().all(|n| n == first) => Ok(u64::try_from(*first).unwrap_or(0)),
            Some(_) => Err(self.error(key, "differs from layer to layer, which is not supported")),
            None => Err(self.error(key, "an empty array")),
        }
    }

    pub(super) fn token(&self, key: &str) -> Result<Option<u32>, CheckpointError> {
        let id = match self.values.get(key) {
            None => return Ok(None),
            Some(Value::Unsigned(n)) => u32::try_from(*n).ok(),
            // llama.cpp's "no such token" is -1
            Some(Value::Signed(-1)) => return Ok(None),
            Some(Value::Signed(n)) => u32::try_from(*n).ok(),
            Some(v) => return Err(self.wrong(key, "a token id", v)),
        };
        match id {
            Some(u32::MAX) => Ok(None), // the same -1
            Some(id) => Ok(Some(id)),
            None => Err(self.error(key, "not a token id (a whole number from 0)")),
        }
    }

    fn array(&self, key: &str) -> Result<Option<&'a Array>, CheckpointError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Array(array)) => Ok(Some(array)),
            Some(v) => Err(self.wrong(key, "an array", v)),
        }
    }

    /// Elements of an array; zero where there is none.
    pub(super) fn array_len(&self, key: &str) -> Result<usize, CheckpointError> {
        Ok(self.array(key)?.map_or(0, |array| array.len))
    }

    pub(super) fn strings(&self, key: &str) -> Result<Option<Vec<String>>, CheckpointError> {
        let Some(array) = self.array(key)? else { return Ok(None) };
        if array.of != Type::String {
            return Err(self.error(key, format!("expected an array of strings, found one of {:?}", array.of)));
        }
        let mut cursor = Cursor::new(&self.bytes[array.range.clone()]);
        let mut list = Vec::with_capacity(array.len);
        for i in 0..array.len {
            let text = cursor.name(usize::MAX).map_err(|why| self.error(&format!("{key}[{i}]"), why))?;
            list.push(text.to_string());
        }
        Ok(Some(list))
    }

    /// Each element of an array of numbers.
    fn elements(&self, key: &str) -> Result<Option<impl Iterator<Item = Value>>, CheckpointError> {
        let Some(array) = self.array(key)? else { return Ok(None) };
        if matches!(array.of, Type::String | Type::Bool) {
            return Err(self.error(key, format!("expected an array of numbers, found one of {:?}", array.of)));
        }
        let mut cursor = Cursor::new(&self.bytes[array.range.clone()]);
        let of = array.of;
        Ok(Some((0..array.len).map(move |_| Value::of_type(of, &mut cursor).expect("lengths were checked when read"))))
    }

    pub(super) fn floats(&self, key: &str) -> Result<Option<Vec<f32>>, CheckpointError> {
        let Some(elements) = self.elements(key)? else { return Ok(None) };
        let floats = elements.map(|v| match v {
            Value::Float(n) => n as f32,
            Value::Unsigned(n) => n as f32,
            Value::Signed(n) => n as f32,
            Value::Bool(_) | Value::String(_) | Value::Array(_) => unreachable!("elements are numbers"),
        });
        Ok(Some(floats.collect()))
    }

    pub(super) fn integers(&self, key: &str) -> Result<Option<Vec<i64>>, CheckpointError> {
        let Some(elements) = self.elements(key)? else { return Ok(None) };
        let mut list = Vec::new();
        for (i, v) in elements.enumerate() {
            let n = match v {
                Value::Signed(n) => Some(n),
                Value::Unsigned(n) => i64::try_from(n).ok(),
                _ => None,
            };
            list.push(n.ok_or_else(|| self.error(&format!("{key}[{i}]"), "expected a whole number"))?);
        }
        Ok(Some(list))
    }
}
