//! The Hugging Face hub, by `hf-hub`, into the cache that Python's `huggingface_hub` shares.
//!
//! All files of a run are of one commit: the one that the listing names. Without a network, a complete older snapshot serves.
use std::path::PathBuf;

use hf_hub::api::RepoInfo;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};

use super::places::HuggingFacePlaces;
use super::progress::Progress;
use super::select::{self, HubId, Plan};
use super::{FindError, FindOptions, local};
use crate::safetensors::INDEX;

const RETRIES: usize = 3;

/// The model's path in the cache, fetched where files are missing.
pub(super) fn fetch(id: &HubId, places: &HuggingFacePlaces, options: &FindOptions<'_>) -> Result<PathBuf, FindError> {
    let failed = |why: String| FindError::fetch(&id.text(), why);
    let kept = || kept_snapshot(id, places, options.weights);
    if places.offline {
        let why = || format!("HF_HUB_OFFLINE is set, and {} does not hold it whole", places.cache.display());
        return kept().ok_or_else(|| failed(why()));
    }
    let cache = Cache::new(places.cache.clone());
    let api = api(&cache, places).map_err(|e| failed(e.to_string()))?;
    let info = match api.model(id.repository.clone()).info() {
        Ok(info) => info,
        Err(e) if !is_refusal(&e) => {
            let path = kept().ok_or_else(|| failed(format!("{}: {e}", places.endpoint)))?;
            tracing::warn!("{} cannot be reached ({e}): using the copy in {}", places.endpoint, path.display());
            return Ok(path);
        }
        Err(e) => {
            let hint = "is the name right, and if the model is gated, is HF_TOKEN set?";
            return Err(failed(format!("{}: {e}; {hint}", places.endpoint)));
        }
    };
    let path = fetch_commit(&api, &cache, id, &info, options)?;
    let main = cache.repo(Repo::model(id.repository.clone()));
    main.create_ref(&info.sha).map_err(FindError::io(&id.text(), &places.cache))?;
    Ok(path)
}

/// One file of a data set in the cache, fetched if it is not there: data sets do not change as models do, so what is there
/// serves without asking.
pub(super) fn dataset_file(
    repository: &str,
    file: &str,
    places: &HuggingFacePlaces,
    progress: bool,
) -> Result<PathBuf, FindError> {
    let failed = |why: String| FindError::Fetch { model: format!("{repository}:{file}"), why };
    let cache = Cache::new(places.cache.clone());
    if let Some(path) = cache.dataset(repository.to_owned()).get(file) {
        return Ok(path);
    }
    if places.offline {
        return Err(failed(format!("HF_HUB_OFFLINE is set, and {} does not hold it", places.cache.display())));
    }
    let api = api(&cache, places).map_err(|e| failed(e.to_string()))?;
    let fetched = api.dataset(repository.to_owned()).download_with_progress(file, Progress::new(progress, file, 0));
    fetched.map_err(|e| failed(format!("{}: {e}", places.endpoint)))
}

fn api(cache: &Cache, places: &HuggingFacePlaces) -> Result<Api, ApiError> {
    let mut builder = ApiBuilder::from_cache(cache.clone())
        .with_endpoint(places.endpoint.clone())
        .with_retries(RETRIES)
        .with_progress(false);
    if let Some(token) = &places.token {
        builder = builder.with_token(Some(token.clone()));
    }
    builder.build()
}

/// The hub answered, and said no.
fn is_refusal(error: &ApiError) -> bool {
    matches!(error, ApiError::RequestError(e) if matches!(**e, ureq::Error::StatusCode(400..500)))
}

fn fetch_commit(
    api: &Api,
    cache: &Cache,
    id: &HubId,
    info: &RepoInfo,
    options: &FindOptions<'_>,
) -> Result<PathBuf, FindError> {
    let failed = |why: String| FindError::fetch(&id.text(), why);
    let sha = &info.sha;
    if !(7..=64).contains(&sha.len()) || !sha.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(failed(format!("the hub's commit '{}' is not one", crate::error::quoted(sha))));
    }
    let names: Vec<String> = info.siblings.iter().map(|file| file.rfilename.clone()).collect();
    let repo = Repo::with_revision(id.repository.clone(), RepoType::Model, sha.clone());
    let snapshot = cache.repo(repo.clone()).pointer_path(sha);
    let remote = api.repo(repo);
    let get = |file: &str| -> Result<PathBuf, FindError> {
        let path = snapshot.join(file);
        if !path.is_file() {
            let progress = Progress::new(options.progress, file, 0);
            remote.download_with_progress(file, progress).map_err(|e| failed(format!("{file}: {e}")))?;
        }
        if path.is_file() { Ok(path) } else { Err(failed(format!("{file}: the hub gave it as of another commit"))) }
    };
    match select::plan(&names, id.file.as_deref(), options.weights).map_err(failed)? {
        Plan::Gguf(file) => get(&file),
        Plan::Directory(files) => {
            for file in &files {
                get(file)?;
            }
            if files.iter().any(|file| file == INDEX) {
                for file in local::shards(&snapshot)? {
                    get(&file)?;
                }
            }
            Ok(snapshot)
        }
    }
}

/// The snapshot that `refs/main` names, or the file in it, where it holds all that is wanted.
fn kept_snapshot(id: &HubId, places: &HuggingFacePlaces, weights: bool) -> Option<PathBuf> {
    let root = places.cache.join(Repo::model(id.repository.clone()).folder_name());
    let commit = std::fs::read_to_string(root.join("refs/main")).ok()?;
    local::whole(&root.join("snapshots").join(commit.trim()), id.file.as_deref(), weights)
}
