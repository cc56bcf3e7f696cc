//! The safetensors files of a Hugging Face directory: one, or shards named by an index, as one set of tensors.
//!
//! Maps the files and checks their headers; a tensor's type is checked when it is asked for, so that tensors nobody asks
//! for (a vision tower's) may be of any.
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use minisgl_kernels::DType;
use minisgl_kernels::mmap::MappedFile;
use safetensors::tensor::{Dtype, Metadata};

use crate::error::{CheckpointError, quoted};
use crate::file;
use crate::hf::NESTED_PREFIX;
use crate::json;
use crate::tensor::{Tensor, byte_len, check_shape};

pub(crate) const SINGLE: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";
const MAX_SHARDS: usize = 4096;
const HEADER_LENGTH_BYTES: usize = 8;
/// Real headers take at most a few MiB; parsing takes several times the header's size.
const MAX_HEADER_BYTES: usize = 32 << 20;

struct Shard {
    path: PathBuf,
    map: MappedFile,
}

struct Entry {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// All tensors of a directory.
pub(crate) struct Shards {
    directory: PathBuf,
    shards: Vec<Shard>,
    entries: HashMap<String, Entry>,
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

impl Shards {
    /// Opens the directory's files. Names are normalised by `prefix` (see [`normalised`]).
    pub(crate) fn open(directory: &Path, prefix: &str) -> Result<Self, CheckpointError> {
        let mut set = Self { directory: directory.to_path_buf(), shards: Vec::new(), entries: HashMap::new() };
        let index_path = directory.join(INDEX);
        let index = if directory.join(SINGLE).is_file() { None } else { read_index(&index_path)? };
        let files = match &index {
            Some(index) => index.values().cloned().collect::<BTreeSet<_>>().into_iter().collect(),
            None => unindexed(directory)?,
        };
        for file in files {
            set.add(directory.join(file), prefix)?;
        }
        for (name, file) in index.iter().flatten() {
            if !set.entries.contains_key(normalised(name, prefix).as_ref()) {
                let why =
                    format!("{} does not hold the tensor '{}' that the index says it does", quoted(file), quoted(name));
                return Err(CheckpointError::field(&index_path, "weight_map", why));
            }
        }
        Ok(set)
    }

    fn add(&mut self, path: PathBuf, prefix: &str) -> Result<(), CheckpointError> {
        let map = file::map(&path)?;
        let (data, metadata) = read_header(&map)
            .map_err(|why| CheckpointError::file(&path, format!("not a whole safetensors file: {why}")))?;
        let shard = self.shards.len();
        for (name, info) in metadata.tensors() {
            let (start, end) = info.data_offsets;
            let entry = Entry { shard, dtype: info.dtype, shape: info.shape.clone(), range: data + start..data + end };
            let name = normalised(&name, prefix).into_owned();
            if let Some(other) = self.entries.insert(name.clone(), entry) {
                let also = match self.shards.get(other.shard) {
                    Some(shard) => shard.path.display().to_string(),
                    None => "the same file".into(),
                };
                return Err(CheckpointError::tensor(&path, quoted(&name), format!("also in {also}")));
            }
        }
        self.shards.push(Shard { path, map });
        Ok(())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Bytes of the tensors that the text model may ask for.
    pub(crate) fn bytes(&self, prefix: &str) -> u64 {
        let ours = self.entries.iter().filter(|(name, _)| name.starts_with(prefix));
        ours.map(|(_, entry)| entry.range.len() as u64).sum()
    }

    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor<'_>, CheckpointError> {
        let Some(entry) = self.entries.get(name) else {
            return Err(CheckpointError::tensor(&self.directory, name, "in none of the safetensors files"));
        };
        let Shard { path, map } = &self.shards[entry.shard];
        let wrong = |why: String| CheckpointError::tensor(path, name, why);
        let dtype = match entry.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => return Err(wrong(format!("stored as {other}, which is not supported; F32, F16 and BF16 are"))),
        };
        check_shape(shape, &entry.shape).map_err(wrong)?;
        let data = &map[entry.range.clone()];
        let bytes = byte_len(dtype, shape).map_err(wrong)?;
        assert_eq!(data.len(), bytes, "the header's check compares sizes");
        Ok(Tensor { name: name.into(), dtype, shape: shape.into(), data: Cow::Borrowed(data) })
    }
}

/// Where the tensors' bytes start, and the checked header: all tensors lie within the file, without gap or overlap.
///
/// `SafeTensors::read_metadata` would do, but it adds up sizes of untrusted tensors unchecked.
fn read_header(file: &[u8]) -> Result<(usize, Metadata), String> {
    let Some((length, rest)) = file.split_first_chunk::<HEADER_LENGTH_BYTES>() else {
        return Err(format!("{} bytes cannot hold the header's length", file.len()));
    };
    let length = u64::from_le_bytes(*length);
    let Some(header) = usize::try_from(length).ok().and_then(|n| rest.get(..n)) else {
        return Err(format!("the header needs {length} bytes, but {} follow its length", rest.len()));
    };
    if header.len() > MAX_HEADER_BYTES {
        return Err(format!("the header has {length} bytes; at most {MAX_HEADER_BYTES} are read"));
    }
    let metadata: Metadata = serde_json::from_slice(header).map_err(|e| format!("the header: {e}"))?;
    let (needs, has) = (metadata.data_len(), rest.len() - header.len());
    if needs != has {
        return Err(format!("the tensors need {needs} bytes, but {has} follow the header"));
    }
    Ok((HEADER_LENGTH_BYTES + header.len(), metadata))
}

/// The name that a tensor is looked up by. Under the prefix `language_model.`, transformers 5's own naming
/// (`model.language_model.layers…`, `lm_head.weight`) becomes the older (`language_model.model.layers…`).
fn normalised<'n>(name: &'n str, prefix: &str) -> Cow<'n, str> {
    if prefix != NESTED_PREFIX {
        return Cow::Borrowed(name);
    }
    if let Some(rest) = name.strip_prefix("model.language_model.") {
        return Cow::Owned(format!("{prefix}model.{rest}"));
    }
    if name.starts_with("lm_head.") { Cow::Owned(format!("{prefix}{name}")) } else { Cow::Borrowed(name) }
}

/// The index's map from tensor to file; `None` where there is no index. The files are names inside the directory.
pub(crate) fn read_index(path: &Path) -> Result<Option<HashMap<String, String>>, CheckpointError> {
    let Some(Index { weight_map }) = json::read_json(path, json::MAX_INDEX_BYTES)? else { return Ok(None) };
    let wrong = |why: String| Err(CheckpointError::field(path, "weight_map", why));
    let mut files = BTreeSet::new();
    for file in weight_map.values() {
        if !is_inside(file) || !file.ends_with(".safetensors") {
            return wrong(format!("'{}' is not the name of a safetensors file in the directory", quoted(file)));
        }
        files.insert(file);
    }
    if files.is_empty() || files.len() > MAX_SHARDS {
        return wrong(format!("{} files, where 1 to {MAX_SHARDS} are right", files.len()));
    }
    Ok(Some(weight_map))
}

/// Whether a relative path from elsewhere stays below the directory that it is joined to.
pub(crate) fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.contains(['\\', '\0'])
        && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
}

/// Whether a file that no index names holds the model's weights: `consolidated*` repeats them in another naming,
/// `adapter_*` is another model's.
pub(crate) fn is_weights(file: &str) -> bool {
    file.ends_with(".safetensors") && !file.starts_with("consolidated") && !file.starts_with("adapter_")
}

fn unindexed(directory: &Path) -> Result<Vec<String>, CheckpointError> {
    if directory.join(SINGLE).is_file() {
        return Ok(vec![SINGLE.into()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(CheckpointError::io(directory))? {
        let entry = entry.map_err(CheckpointError::io(directory))?;
        if let Some(name) = entry.file_name().to_str()
            && is_weights(name)
            && entry.path().is_file()
        {
            files.push(name.to_string());
        }
    }
    files.sort();
    match files.len() {
        0 => {
            let why = format!(
                "no weights: neither {SINGLE} nor {INDEX} nor another .safetensors file is there (--dummy-weight runs without)"
            );
            Err(CheckpointError::file(directory, why))
        }
        n if n > MAX_SHARDS => {
            Err(CheckpointError::file(directory, format!("{n} .safetensors files; at most {MAX_SHARDS} are read")))
        }
        _ => Ok(files),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{safetensors_bytes, write};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn directory(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, bytes)| write(directory.path(), name, bytes));
        directory
    }

    fn error(files: &[(&str, Vec<u8>)]) -> String {
        Shards::open(directory(files).path(), "").err().expect("the files are bad").to_string()
    }

    fn index(map: &str) -> (&'static str, Vec<u8>) {
        (INDEX, format!("{{\"metadata\":{{}},\"weight_map\":{map}}}").into_bytes())
    }

    #[test]
    fn shards_are_one_set() {
        let a = safetensors_bytes(&[("a", "F32", &[2, 2], &[1; 16]), ("v", "I64", &[1], &[0; 8])]);
        let b = safetensors_bytes(&[("b", "BF16", &[3], &[2; 6])]);
        let named = index(r#"{"a":"m-1.safetensors","v":"m-1.safetensors","b":"m-2.safetensors"}"#);
        let other = ("other.safetensors", b"not read".to_vec());
        for files in [
            vec![("m-1.safetensors", a.clone()), ("m-2.safetensors", b.clone()), named, other],
            vec![("x.safetensors", a), ("y.safetensors", b), ("consolidated.safetensors", vec![0; 3])],
        ] {
            let directory = directory(&files);
            let shards = Shards::open(directory.path(), "").unwrap();
            assert!(shards.has("a") && shards.has("b") && !shards.has("c"));
            assert_eq!(shards.bytes(""), 16 + 8 + 6);
            let tensor = shards.tensor("b", &[3]).unwrap();
            assert_eq!((tensor.dtype, tensor.data.as_ref()), (DType::BF16, &[2u8; 6][..]));
            assert_eq!(shards.tensor("a", &[2, 2]).unwrap().dtype, DType::F32);
            let error = |name: &str, shape: &[usize]| shards.tensor(name, shape).unwrap_err().to_string();
            assert!(error("a", &[4]).contains("safetensors: tensor 'a': expected shape [4], found [2, 2]"));
            assert!(error("v", &[1]).contains("tensor 'v': stored as I64, which is not supported"));
            assert!(error("c", &[1]).contains("tensor 'c': in none of the safetensors files"));
        }
    }

    #[test]
    fn both_spellings_of_a_nested_model_are_found_under_one() {
        for names in [
            ["language_model.model.norm.weight", "language_model.lm_head.weight"],
            ["model.language_model.norm.weight", "lm_head.weight"],
        ] {
            let [norm, head] = names;
            let bytes = safetensors_bytes(&[
                (norm, "F32", &[1], &[0; 4]),
                (head, "F32", &[1], &[0; 4]),
                ("vision_tower.x", "F32", &[1], &[0; 4]),
            ]);
            let directory = directory(&[(SINGLE, bytes)]);
            let shards = Shards::open(directory.path(), NESTED_PREFIX).unwrap();
            assert!(shards.has("language_model.model.norm.weight") && shards.has("language_model.lm_head.weight"));
            assert_eq!(shards.bytes(NESTED_PREFIX), 8);
        }
    }

    #[test]
    fn bad_files_are_named() {
        let good = safetensors_bytes(&[("a", "F32", &[1], &[0; 4])]);
        assert!(error(&[]).contains("no weights: neither model.safetensors nor"));
        assert!(error(&[(SINGLE, vec![])]).ends_with("model.safetensors: empty"));
        assert!(error(&[(SINGLE, vec![1, 2])]).contains("2 bytes cannot hold the header's length"));
        assert!(
            error(&[(SINGLE, vec![0xff; 20])]).contains("the header needs 18446744073709551615 bytes, but 12 follow")
        );
        assert!(
            error(&[(SINGLE, good[..good.len() - 1].to_vec())])
                .contains("the tensors need 4 bytes, but 3 follow the header")
        );
        assert!(
            error(&[("a.safetensors", good.clone()), ("b.safetensors", good.clone())]).contains("tensor 'a': also in ")
        );
        for bad in ["../m.safetensors", "/m.safetensors", "m.bin", "", "a/../../m.safetensors"] {
            let error = error(&[index(&format!(r#"{{"a":"{bad}"}}"#))]);
            assert!(
                error.contains("index.json: weight_map: '") && error.contains("is not the name of a safetensors file"),
                "{error}"
            );
        }
        assert!(error(&[index(r#"{"a":"gone.safetensors"}"#)]).contains("gone.safetensors: "));
        assert!(error(&[index("{}")]).contains("0 files"));
        let lacks = error(&[("m.safetensors", good), index(r#"{"a":"m.safetensors","b":"m.safetensors"}"#)]);
        assert!(lacks.contains("weight_map: m.safetensors does not hold the tensor 'b'"), "{lacks}");
    }

    #[test]
    fn sizes_that_add_up_to_more_than_can_be_counted_are_refused() {
        let end = u64::MAX / 8 + 1; // the first eight sum to 2^64
        let mut header = String::from("{");
        for i in 0..7u64 {
            header +=
                &format!(r#""t{i}":{{"dtype":"U8","shape":[{end}],"data_offsets":[{},{}]}},"#, i * end, (i + 1) * end);
        }
        header +=
            &format!(r#""t7":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}}}}"#, end - 1, 7 * end, u64::MAX);
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 8]].concat();
        let error = error(&[(SINGLE, bytes)]);
        assert!(error.contains("not a whole safetensors file"), "{error}");
    }

    #[test]
    fn truncations_and_mutations_never_panic() {
        let original = safetensors_bytes(&[("a", "F32", &[2, 2], &[1; 16]), ("b", "BF16", &[3], &[2; 6])]);
        for len in 0..original.len() {
            read_header(&original[..len]).expect_err("a truncated file");
        }
        let mut random = StdRng::seed_from_u64(7);
        for _ in 0..20_000 {
            let mut bytes = original.clone();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..bytes.len());
                bytes[at] = if random.random() { random.random() } else { b'0' + random.random_range(0..10) };
            }
            if let Ok((data, metadata)) = read_header(&bytes) {
                assert!(metadata.tensors().values().all(|t| data + t.data_offsets.1 <= bytes.len()));
            }
        }
    }
}
