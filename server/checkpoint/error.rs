//! What can be wrong with a checkpoint: always which file, which part of it, and what would be right.
use std::path::{Path, PathBuf};

/// A checkpoint cannot be opened, or lacks what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file as a whole is not what it should be.
    #[error("{}: {why}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong and what would be right.
        why: String,
    },
    /// One field of a JSON file or one key of GGUF metadata.
    #[error("{}: {field}: {why}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field as the file spells it, with dots where nested.
        field: String,
        /// What is wrong and what would be right.
        why: String,
    },
    /// One tensor.
    #[error("{}: tensor '{name}': {why}", path.display())]
    Tensor {
        /// The file; the directory where no file of it holds the tensor.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// What is wrong and what would be right.
        why: String,
    },
}

impl CheckpointError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn file(path: &Path, why: impl Into<String>) -> Self {
        Self::File { path: path.to_path_buf(), why: why.into() }
    }

    pub(crate) fn field(path: &Path, field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Field { path: path.to_path_buf(), field: field.into(), why: why.into() }
    }

    pub(crate) fn tensor(path: &Path, name: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Tensor { path: path.to_path_buf(), name: name.into(), why: why.into() }
    }
}

/// A name from a file as an error may quote it: escaped, and cut where it is long.
pub(crate) fn quoted(name: &str) -> String {
    const LONGEST: usize = 120;
    let mut text: String = name.escape_debug().take(LONGEST).collect();
    if text.len() >= LONGEST {
        text.push('…');
    }
    text
}
