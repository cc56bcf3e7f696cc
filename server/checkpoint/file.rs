//! Files of untrusted origin: read whole up to a bound, or mapped. Only plain files: opening a pipe would hang.
use std::fs::File;
use std::io::Read;
use std::path::Path;

use minisgl_kernels::mmap::MappedFile;

use crate::error::CheckpointError;

/// The file's bytes; `None` where there is no such file.
pub(crate) fn read(path: &Path, most: u64) -> Result<Option<Vec<u8>>, CheckpointError> {
    let length = match plain_length(path) {
        Ok(length) => length,
        Err(CheckpointError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(CheckpointError::io(path))?;
    file.take(most + 1).read_to_end(&mut bytes).map_err(CheckpointError::io(path))?;
    if bytes.len() as u64 > most {
        let why = format!("{length} bytes, more than the {most} that such a file may have");
        return Err(CheckpointError::file(path, why));
    }
    Ok(Some(bytes))
}

/// The file's text; `None` where there is no such file.
pub(crate) fn read_text(path: &Path, most: u64) -> Result<Option<String>, CheckpointError> {
    let Some(bytes) = read(path, most)? else { return Ok(None) };
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(e) => Err(CheckpointError::file(path, format!("not UTF-8 text: {}", e.utf8_error()))),
    }
}

/// The file mapped read-only.
pub(crate) fn map(path: &Path) -> Result<MappedFile, CheckpointError> {
    if plain_length(path)? == 0 {
        return Err(CheckpointError::file(path, "empty"));
    }
    MappedFile::open(path).map_err(CheckpointError::io(path))
}

fn plain_length(path: &Path) -> Result<u64, CheckpointError> {
    let meta = std::fs::metadata(path).map_err(CheckpointError::io(path))?;
    if meta.is_file() { Ok(meta.len()) } else { Err(CheckpointError::file(path, "not a file")) }
}
