//! What of a model is already on this disk.
use std::path::{Path, PathBuf};

use super::select::{self, Plan};
use crate::error::CheckpointError;
use crate::safetensors::{INDEX, read_index};

/// Names at the top of a directory; none where it cannot be read.
pub(super) fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The files that the directory's index names, each once.
pub(super) fn shards(directory: &Path) -> Result<Vec<String>, CheckpointError> {
    let mut files: Vec<String> = read_index(&directory.join(INDEX))?.unwrap_or_default().into_values().collect();
    files.sort();
    files.dedup();
    Ok(files)
}

/// The directory, or the GGUF file in it, where all that a run needs is there.
pub(super) fn whole(directory: &Path, file: Option<&str>, weights: bool) -> Option<PathBuf> {
    let is_there = |file: &str| directory.join(file).is_file();
    if let Some(file) = file {
        return is_there(file).then(|| directory.join(file));
    }
    match select::plan(&names(directory), None, weights).ok()? {
        Plan::Gguf(file) => is_there(&file).then(|| directory.join(file)),
        Plan::Directory(mut files) => {
            if files.iter().any(|file| file == INDEX) {
                files.extend(shards(directory).ok()?);
            }
            files.iter().all(|file| is_there(file)).then(|| directory.to_path_buf())
        }
    }
}
