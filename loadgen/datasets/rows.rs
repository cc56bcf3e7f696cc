//! A file's rows, whatever holds them.
//!
//! Owns parquet and JSON. Knows nothing of what a row means.
use std::any::Any;
use std::fs::File;
use std::io::{Read, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use serde_json::{Map, Value};

use super::DatasetError;
use crate::traces::{Broken, Fields, Records, unpacked};

/// What begins, and ends, a parquet file.
const PARQUET: &[u8; 4] = b"PAR1";

/// The columns that are read; others cost nothing.
const COLUMNS: [&str; 4] = ["conversation", "language", "redacted", "toxic"];

/// Hands every row to `take`, with its place for messages, until that says no.
pub(super) fn read(
    path: &Path,
    mut take: impl FnMut(String, &Fields) -> Result<bool, DatasetError>,
) -> Result<(), DatasetError> {
    let name = path.display().to_string();
    let failed = |problem: String| DatasetError::Read { file: name.clone(), problem };
    let io = |error: std::io::Error| failed(error.to_string());
    let mut file = File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.is_dir() {
        return Err(failed("it is a directory".to_owned()));
    }
    let mut magic = Vec::new();
    (&mut file).take(4).read_to_end(&mut magic).map_err(io)?;
    file.rewind().map_err(io)?;
    if magic != PARQUET {
        return objects(&name, file, take);
    }
    // The parquet reader asserts what a damaged file may break: such a panic is the file's fault, and named as that.
    let mut taken = Ok(());
    let read = catch_unwind(AssertUnwindSafe(|| {
        parquet(file, |number, row| {
            let fields = Fields::of(object(&row)).map_err(|problem| problem.to_string())?;
            let more = take(format!("row {number}"), &fields);
            Ok(more.unwrap_or_else(|error| {
                taken = Err(error);
                false
            }))
        })
    }));
    match read {
        Ok(Ok(())) => taken,
        Ok(Err(problem)) => Err(failed(problem)),
        Err(panic) => Err(failed(format!("a damaged parquet file: {}", said(&*panic)))),
    }
}

fn objects(
    name: &str,
    file: File,
    mut take: impl FnMut(String, &Fields) -> Result<bool, DatasetError>,
) -> Result<(), DatasetError> {
    let row = |line: usize, problem: String| DatasetError::Row {
        file: name.to_owned(),
        place: format!("line {line}"),
        problem,
    };
    let broken = |broken: Broken| match broken {
        Broken::Io(error) => DatasetError::Read { file: name.to_owned(), problem: error.to_string() },
        Broken::Line(line, problem) => row(line, problem),
    };
    let mut records = unpacked(file).and_then(Records::new).map_err(|error| broken(error.into()))?;
    while let Some((line, record)) = records.next().map_err(broken)? {
        let fields = Fields::parse(record).map_err(|problem| row(line, problem))?;
        if !take(format!("line {line}"), &fields)? {
            break;
        }
    }
    Ok(())
}

/// Hands every row, counted from 1, to `take`.
fn parquet(file: File, mut take: impl FnMut(usize, Row) -> Result<bool, String>) -> Result<(), String> {
    let reader = SerializedFileReader::new(file).map_err(|error| error.to_string())?;
    let schema = reader.metadata().file_metadata().schema();
    let there: Vec<Arc<Type>> =
        schema.get_fields().iter().filter(|field| COLUMNS.contains(&field.name())).cloned().collect();
    if !there.iter().any(|field| field.name() == COLUMNS[0]) {
        let names: Vec<&str> = schema.get_fields().iter().map(|field| field.name()).take(20).collect();
        return Err(format!("no column `{}`; there are {}", COLUMNS[0], names.join(", ")));
    }
    let columns =
        Type::group_type_builder(schema.name()).with_fields(there).build().map_err(|error| error.to_string())?;
    for (at, row) in reader.get_row_iter(Some(columns)).map_err(|error| error.to_string())?.enumerate() {
        let row = row.map_err(|error| format!("row {}: {error}", at + 1))?;
        if !take(at + 1, row)? {
            break;
        }
    }
    Ok(())
}

fn object(row: &Row) -> Value {
    Value::Object(row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect::<Map<_, _>>())
}

/// A field as JSON; of a kind that no chat needs, nothing.
fn value(field: &Field) -> Value {
    match field {
        Field::Bool(truth) => Value::Bool(*truth),
        Field::Str(text) => Value::String(text.clone()),
        Field::Group(row) => object(row),
        Field::ListInternal(list) => Value::Array(list.elements().iter().map(value).collect()),
        _ => Value::Null,
    }
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it cannot be read")
}
