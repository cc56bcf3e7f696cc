//! From what `--model` says to files on this disk: an alias, a path, or a hub id, fetched where needed.
//!
//! Fetches what a run needs and no more, into caches that several processes may share: a file gets its name only once it is
//! whole. Names that a listing or an index states are untrusted. Knows nothing of what the files mean.
//!
//! ```text
//!   places.rs   caches, endpoints and programs, from the environment     select.rs  which files of a listing
//!   alias.rs    config/aliases.toml                                      wheel.rs   a file out of a wheel, by pip
//!   hugging_face.rs modelscope.rs  the hubs                              local.rs   what is here already
//!   progress.rs a bar, or lines
//! ```
mod alias;
mod hugging_face;
mod local;
mod modelscope;
mod places;
mod progress;
mod select;
#[cfg(test)]
mod server;
#[cfg(test)]
mod tests;
mod wheel;

use std::path::{Path, PathBuf};

pub use minisgl_config::HubSource as Hub;
pub use places::cache_folder;

use crate::error::{CheckpointError, quoted};
use places::Places;
use select::{HubId, Plan};

/// What to find.
#[derive(Clone, Copy, Debug)]
pub struct FindOptions<'a> {
    /// An alias, a GGUF file, a directory (`~` is home), or a hub id: `org/name`, or `org/name:file.gguf` for one of several.
    pub model: &'a str,
    /// Which hub an id is of.
    pub hub: Hub,
    /// Fetch weights. Without, config and tokenizer suffice; a GGUF file has all in one and is fetched whole.
    pub weights: bool,
    /// Show downloads on stderr: a bar, or lines where that is no terminal.
    pub progress: bool,
}

/// A model on this disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// A GGUF file or a directory, for [`Checkpoint::open`](crate::Checkpoint::open).
    pub path: PathBuf,
    /// The absolute path or the hub id: `root` of `/v1/models`. Finding it again gives the same files.
    pub root: String,
    /// The alias, the file's stem, the directory's name, or the hub id without a file.
    pub name: String,
}

/// A model cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// Neither an alias, nor a path that is there, nor a hub id.
    #[error(
        "model '{model}' is not known. It may be an alias ({aliases}), a GGUF file, a directory in Hugging Face form, or a hub \
         id: org/name, or org/name:file.gguf"
    )]
    Unknown {
        /// What was asked for.
        model: String,
        /// The aliases there are.
        aliases: String,
    },
    /// A path, by its look, that is not there.
    #[error("model '{}': no such file or directory", path.display())]
    NoSuchPath {
        /// The path, `~` expanded.
        path: PathBuf,
    },
    /// It exists somewhere, but cannot be fetched.
    #[error("fetching model '{model}': {why}")]
    Fetch {
        /// The alias or hub id.
        model: String,
        /// What failed and what would help.
        why: String,
    },
    /// A fetched file that says what else to fetch is bad.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

impl FindError {
    fn fetch(model: &str, why: impl Into<String>) -> Self {
        Self::Fetch { model: quoted(model), why: why.into() }
    }

    fn io(model: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let (model, path) = (model.to_string(), path.to_path_buf());
        move |e| Self::fetch(&model, format!("{}: {e}", path.display()))
    }
}

/// Finds the model, fetching what is not here yet.
///
/// The environment is honoured: `MINISGL_CACHE`, `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`,
/// `MODELSCOPE_CACHE`, `MODELSCOPE_ENDPOINT`, `MODELSCOPE_DOMAIN`, and whatever pip reads.
pub fn find(options: &FindOptions<'_>) -> Result<Found, FindError> {
    find_in(options, &Places::from_env())
}

/// One file of a data set on the Hugging Face hub, fetched into the cache if it is not there yet; the environment is
/// honoured as by [`find`].
pub fn find_dataset_file(repository: &str, file: &str, progress: bool) -> Result<PathBuf, FindError> {
    hugging_face::dataset_file(repository, file, &Places::from_env().hugging_face, progress)
}

/// The name that [`find`] would give the model, without fetching anything: for what must be named before it is loaded.
/// A model that cannot be found is named as it was asked for.
pub fn name_of(model: &str) -> String {
    if alias::table().contains_key(model) {
        return model.into();
    }
    let path = Places::from_env().expand(model);
    if path.exists() {
        return found_path(path).name;
    }
    HubId::parse(model).map_or_else(|| model.into(), |id| id.repository)
}

fn find_in(options: &FindOptions<'_>, places: &Places) -> Result<Found, FindError> {
    let model = options.model;
    let aliases = alias::table();
    if let Some(source) = aliases.get(model) {
        let path = source.fetch(model, places, options.progress)?;
        return Ok(Found { root: absolute(&path).display().to_string(), path, name: model.into() });
    }
    let path = places.expand(model);
    if path.exists() {
        return Ok(found_path(path));
    }
    let looks_like_path = Path::new(model).is_absolute() || model.starts_with(['.', '~']) || model.ends_with('/');
    if looks_like_path {
        return Err(FindError::NoSuchPath { path });
    }
    let Some(id) = HubId::parse(model) else {
        let aliases = aliases.into_keys().collect::<Vec<_>>().join(", ");
        return Err(FindError::Unknown { model: quoted(model), aliases });
    };
    let path = match options.hub {
        Hub::HuggingFace => hugging_face::fetch(&id, &places.hugging_face, options)?,
        Hub::ModelScope => modelscope::fetch(&id, &places.modelscope, options)?,
    };
    Ok(Found { path, root: model.into(), name: id.repository })
}

/// A path that is there. A directory that is not in Hugging Face form and holds one GGUF file stands for that file.
fn found_path(path: PathBuf) -> Found {
    let absolute = absolute(&path);
    let named = if path.is_dir() { absolute.file_name() } else { absolute.file_stem() };
    let name = named.map_or_else(|| absolute.display().to_string(), |name| name.to_string_lossy().into_owned());
    let mut found = Found { path, root: absolute.display().to_string(), name };
    if found.path.is_dir()
        && !found.path.join("config.json").exists()
        && let Ok(Plan::Gguf(file)) = select::plan(&local::names(&found.path), None, true)
    {
        found.path = found.path.join(file);
    }
    found
}

/// The path from the root, `.` and `..` resolved where the file system can.
fn absolute(path: &Path) -> PathBuf {
    match path.file_name() {
        Some(_) => std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()),
        None => std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf()),
    }
}
