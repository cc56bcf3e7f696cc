//! A GGUF file (version 3, and 2, which reads the same): metadata and where its tensors lie, all checked before use.
//!
//! ```text
//!   "GGUF" | version | tensors | keys | key, type, value … | name, dims, type, offset … | padding | data
//! ```
//! Nothing is allocated by a count that the file cannot hold; strings and arrays stay in the mapped file until asked for.
mod config;
mod cursor;
#[cfg(test)]
mod tests;
mod tokenizer;
mod value;

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use minisgl_kernels::DType;
use minisgl_kernels::mmap::MappedFile;

use crate::config::{GenerationConfig, ModelConfig};
use crate::error::{CheckpointError, quoted};
use crate::file;
use crate::tensor::{Tensor, byte_len, check_shape};
use crate::tokenizer::GgufTokenizer;
use cursor::{Cursor, Why};
use value::{Metadata, Value};

const MAGIC: [u8; 4] = *b"GGUF";
const MAX_KEYS: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 16;
const MAX_KEY_BYTES: usize = 1 << 16;
const MAX_NAME_BYTES: usize = 1 << 10;
const MAX_DIMS: u32 = 4;
const DEFAULT_ALIGNMENT: usize = 32;
const MAX_ALIGNMENT: usize = 1 << 20;
/// key length, type, value: what an entry takes at least; likewise name length, dims, one dim, type and offset.
const LEAST_KEY_BYTES: usize = 8 + 4 + 1;
const LEAST_TENSOR_BYTES: usize = 8 + 4 + 8 + 4 + 8;

/// An open GGUF file.
pub(crate) struct Gguf {
    path: PathBuf,
    map: MappedFile,
    values: HashMap<String, Value>,
    tensors: HashMap<String, Entry>,
}

/// A tensor in the file.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    /// Rows first: the file's dims reversed.
    shape: Vec<usize>,
    stored: Stored,
}

#[derive(Clone, Debug, PartialEq)]
enum Stored {
    Known(DType, Range<usize>),
    /// A type of GGML that this project does not read: an error for whoever asks.
    Unsupported(u32),
}

impl Gguf {
    /// Maps and checks the file.
    pub(crate) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let map = file::map(path)?;
        let Parsed { values, tensors } = parse(path, &map)?;
        Ok(Self { path: path.to_path_buf(), map, values, tensors })
    }

    fn metadata(&self) -> Metadata<'_> {
        Metadata { path: &self.path, bytes: &self.map, values: &self.values }
    }

    pub(crate) fn config(&self) -> Result<ModelConfig, CheckpointError> {
        config::model_config(&self.metadata(), &self.tensors)
    }

    pub(crate) fn generation(&self) -> Result<GenerationConfig, CheckpointError> {
        config::generation(&self.metadata())
    }

    pub(crate) fn tokenizer(&self) -> Result<GgufTokenizer, CheckpointError> {
        tokenizer::read(&self.metadata())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Bytes of all tensors.
    pub(crate) fn bytes(&self) -> u64 {
        self.tensors
            .values()
            .map(|t| if let Stored::Known(_, range) = &t.stored { range.len() as u64 } else { 0 })
            .sum()
    }

    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor<'_>, CheckpointError> {
        let wrong = |why: String| CheckpointError::tensor(&self.path, name, why);
        let Some(entry) = self.tensors.get(name) else { return Err(wrong("not in the file".into())) };
        check_shape(shape, &entry.shape).map_err(wrong)?;
        match &entry.stored {
            Stored::Known(dtype, range) => {
                let data = Cow::Borrowed(&self.map[range.clone()]);
                Ok(Tensor { name: name.into(), dtype: *dtype, shape: shape.into(), data })
            }
            Stored::Unsupported(id) => Err(wrong(format!(
                "stored as {}, which is not supported; F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K are",
                ggml_name(*id)
            ))),
        }
    }
}

struct Parsed {
    values: HashMap<String, Value>,
    tensors: HashMap<String, Entry>,
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Parsed, CheckpointError> {
    let whole = |why: Why| CheckpointError::file(path, why);
    let mut cursor = Cursor::new(bytes);
    check_magic(&mut cursor).map_err(whole)?;
    let tensor_count = cursor.count(LEAST_TENSOR_BYTES, MAX_TENSORS, "tensors").map_err(whole)?;
    let key_count = cursor.count(LEAST_KEY_BYTES, MAX_KEYS, "metadata entries").map_err(whole)?;

    let mut values = HashMap::with_capacity(key_count);
    for i in 0..key_count {
        let key = cursor
            .name(MAX_KEY_BYTES)
            .map_err(|why| CheckpointError::field(path, format!("metadata entry {i}"), why))?;
        let value = Value::read(&mut cursor).map_err(|why| CheckpointError::field(path, quoted(key), why))?;
        if values.insert(key.to_string(), value).is_some() {
            return Err(CheckpointError::field(path, quoted(key), "stated twice"));
        }
    }
    let metadata = Metadata { path, bytes, values: &values };
    let alignment = alignment(&metadata)?;
    if metadata.size("split.count", u16::MAX.into())?.is_some_and(|n| n > 1) {
        return Err(
            metadata.error("split.count", "a model in several files is not supported; merge it with llama-gguf-split")
        );
    }

    let mut infos = Vec::with_capacity(tensor_count);
    for i in 0..tensor_count {
        let name =
            cursor.name(MAX_NAME_BYTES).map_err(|why| CheckpointError::field(path, format!("tensor {i}"), why))?;
        let info = Info::read(&mut cursor).map_err(|why| CheckpointError::tensor(path, quoted(name), why))?;
        infos.push((name, info));
    }
    let data_start = cursor.at().next_multiple_of(alignment);
    let mut tensors = HashMap::with_capacity(tensor_count);
    for (name, info) in &infos {
        let wrong = |why: Why| CheckpointError::tensor(path, quoted(name), why);
        let entry = info.place(data_start, alignment, bytes.len()).map_err(wrong)?;
        if tensors.insert(name.to_string(), entry).is_some() {
            return Err(wrong("stated twice".into()));
        }
    }
    refuse_overlap(path, &tensors)?;
    Ok(Parsed { values, tensors })
}

fn check_magic(cursor: &mut Cursor<'_>) -> Result<(), Why> {
    let magic = cursor.u32()?.to_le_bytes();
    if magic != MAGIC {
        return Err(format!("not a GGUF file: it starts with {:?}, not \"GGUF\"", magic.escape_ascii().to_string()));
    }
    match cursor.u32()? {
        2 | 3 => Ok(()),
        version if matches!(version.swap_bytes(), 1..=3) => {
            Err("a big-endian GGUF file, which is not supported".into())
        }
        version => Err(format!("GGUF version {version} is not supported; 3 is")),
    }
}

fn alignment(metadata: &Metadata<'_>) -> Result<usize, CheckpointError> {
    const KEY: &str = "general.alignment";
    let alignment = metadata.size(KEY, MAX_ALIGNMENT)?.unwrap_or(DEFAULT_ALIGNMENT);
    if alignment.is_power_of_two() && alignment >= 8 {
        Ok(alignment)
    } else {
        Err(metadata.error(KEY, format!("{alignment} must be a power of two from 8 to {MAX_ALIGNMENT}")))
    }
}

/// A tensor as the header states it.
struct Info {
    shape: Vec<usize>,
    type_id: u32,
    offset: u64,
}

impl Info {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Why> {
        let dims = cursor.u32()?;
        if !(1..=MAX_DIMS).contains(&dims) {
            return Err(format!("{dims} dimensions; 1 to {MAX_DIMS} are right"));
        }
        let mut shape = Vec::new();
        for _ in 0..dims {
            let n = cursor.u64()?;
            shape.push(usize::try_from(n).map_err(|_| format!("a dimension of {n} is too large"))?);
        }
        shape.reverse(); // the file states columns first
        Ok(Self { shape, type_id: cursor.u32()?, offset: cursor.u64()? })
    }

    fn place(&self, data_start: usize, alignment: usize, file_len: usize) -> Result<Entry, Why> {
        let shape = self.shape.clone();
        let Some(dtype) = dtype(self.type_id) else {
            return Ok(Entry { shape, stored: Stored::Unsupported(self.type_id) });
        };
        let bytes = byte_len(dtype, &shape)?;
        if !self.offset.is_multiple_of(alignment as u64) {
            return Err(format!("offset {} is not a multiple of the alignment, {alignment}", self.offset));
        }
        let start = usize::try_from(self.offset).ok().and_then(|offset| offset.checked_add(data_start));
        let range = start.and_then(|start| Some(start..start.checked_add(bytes)?));
        match range {
            Some(range) if range.end <= file_len => Ok(Entry { shape, stored: Stored::Known(dtype, range) }),
            _ => Err(format!(
                "needs {bytes} bytes at offset {} of the data, which starts at {data_start}, but the file has {file_len}",
                self.offset
            )),
        }
    }
}

fn refuse_overlap(path: &Path, tensors: &HashMap<String, Entry>) -> Result<(), CheckpointError> {
    let mut ranges: Vec<(&Range<usize>, &str)> = Vec::with_capacity(tensors.len());
    for (name, entry) in tensors {
        if let Stored::Known(_, range) = &entry.stored {
            ranges.push((range, name));
        }
    }
    ranges.sort_by_key(|(range, name)| (range.start, *name));
    for pair in ranges.windows(2) {
        let ((before, first), (after, second)) = (pair[0], pair[1]);
        if after.start < before.end {
            let why = format!("its bytes from {} overlap those of '{}'", after.start, quoted(first));
            return Err(CheckpointError::tensor(path, quoted(second), why));
        }
    }
    Ok(())
}

fn dtype(id: u32) -> Option<DType> {
    Some(match id {
        0 => DType::F32,
        1 => DType::F16,
        2 => DType::Q4_0,
        3 => DType::Q4_1,
        6 => DType::Q5_0,
        7 => DType::Q5_1,
        8 => DType::Q8_0,
        12 => DType::Q4_K,
        13 => DType::Q5_K,
        14 => DType::Q6_K,
        30 => DType::BF16,
        _ => return None,
    })
}

/// The name of a GGML type that is not read, for errors.
fn ggml_name(id: u32) -> String {
    let name = match id {
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return format!("GGML type {id}"),
    };
    name.into()
}
