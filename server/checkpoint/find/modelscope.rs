//! The ModelScope hub, by its public HTTP API.
//!
//! `GET /api/v1/models/{id}/repo/files` lists names, sizes and SHA-256s; `GET /api/v1/models/{id}/repo?FilePath=…` gives a
//! file. A file is kept under its name once it has the size and the hash that the listing states.
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::places::ModelScopePlaces;
use super::progress::Progress;
use super::select::{self, HubId, Plan};
use super::{FindError, FindOptions, local};
use crate::safetensors::{INDEX, is_inside};

const REVISION: &str = "master";
const MAX_LISTING_BYTES: u64 = 16 << 20;
/// A kept file up to this size is hashed again at each start; a larger one is known by its size.
const MAX_REHASHED_BYTES: u64 = 64 << 20;
/// A connection, a first byte and every later one are waited for this long.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    data: Option<Listing>,
    message: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listing {
    files: Vec<Entry>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    path: String,
    size: u64,
    #[serde(default, rename = "Type")]
    kind: String,
    #[serde(default)]
    sha256: Option<String>,
}

/// A model on the hub and where it is kept here.
struct Remote<'a> {
    agent: ureq::Agent,
    /// `{endpoint}/api/v1/models/{id}/repo`
    url: String,
    model: String,
    directory: PathBuf,
    listing: HashMap<String, Entry>,
    options: &'a FindOptions<'a>,
}

/// The model's path in the cache, fetched where files are missing or have changed. Where the hub cannot be asked, a complete
/// copy serves.
pub(super) fn fetch(id: &HubId, places: &ModelScopePlaces, options: &FindOptions<'_>) -> Result<PathBuf, FindError> {
    let config = ureq::Agent::config_builder()
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .timeout_per_read(Some(PATIENCE));
    let mut remote = Remote {
        agent: config.build().into(),
        url: format!("{}/api/v1/models/{}/repo", places.endpoint, id.repository),
        model: id.text(),
        directory: places.cache.join("models").join(&id.repository),
        listing: HashMap::new(),
        options,
    };
    if let Err(e) = remote.list() {
        let Some(path) = local::whole(&remote.directory, id.file.as_deref(), options.weights) else { return Err(e) };
        tracing::warn!("{e}: using the copy in {}", path.display());
        return Ok(path);
    }
    let names: Vec<String> = remote.listing.keys().cloned().collect();
    let plan = select::plan(&names, id.file.as_deref(), options.weights).map_err(|why| remote.failed(why))?;
    match plan {
        Plan::Gguf(file) => remote.get(&file),
        Plan::Directory(files) => {
            for file in &files {
                remote.get(file)?;
            }
            if files.iter().any(|file| file == INDEX) {
                for file in local::shards(&remote.directory)? {
                    remote.get(&file)?;
                }
            }
            Ok(remote.directory)
        }
    }
}

impl Remote<'_> {
    fn failed(&self, why: impl Into<String>) -> FindError {
        FindError::fetch(&self.model, why)
    }

    /// Learns what files there are. Names that would leave the directory are as if not there.
    fn list(&mut self) -> Result<(), FindError> {
        let url = format!("{}/files", self.url);
        let at = |e: &dyn std::fmt::Display| self.failed(format!("{url}: {e}"));
        let request = self.agent.get(&url).query("Recursive", "true").query("Revision", REVISION);
        let mut response = request.call().map_err(|e| at(&e))?;
        let body = response.body_mut().with_config().limit(MAX_LISTING_BYTES).read_to_vec().map_err(|e| at(&e))?;
        let answer: Answer =
            serde_json::from_slice(&body).map_err(|e| at(&format!("not the listing that it should be: {e}")))?;
        let Some(listing) = answer.data else {
            return Err(at(&crate::error::quoted(&answer.message.unwrap_or_else(|| "no listing".into()))));
        };
        let files = listing.files.into_iter().filter(|f| f.kind != "tree" && is_inside(&f.path));
        self.listing = files.map(|f| (f.path.clone(), f)).collect();
        Ok(())
    }

    /// The file's path here, fetched where it is not here as listed.
    fn get(&self, file: &str) -> Result<PathBuf, FindError> {
        let Some(entry) = self.listing.get(file) else {
            return Err(self.failed(format!("the index names {file}, which the hub does not have")));
        };
        let target = self.directory.join(file);
        if is_kept(&target, entry) {
            return Ok(target);
        }
        let directory = target.parent().expect("it is below the cache");
        fs::create_dir_all(directory).map_err(FindError::io(&self.model, directory))?;
        let scratch = tempfile::Builder::new().prefix(".fetch-").tempdir_in(directory);
        let scratch = scratch.map_err(FindError::io(&self.model, directory))?;
        let whole = scratch.path().join("whole");
        self.download(entry, &whole).map_err(|why| self.failed(format!("{file}: {why}")))?;
        fs::rename(&whole, &target).map_err(FindError::io(&self.model, &target))?;
        Ok(target)
    }

    fn download(&self, entry: &Entry, into: &Path) -> Result<(), String> {
        let request = self.agent.get(&self.url).query("Revision", REVISION).query("FilePath", &entry.path);
        let response = request.call().map_err(|e| format!("{}: {e}", self.url))?;
        // One byte more than listed, so that a longer body shows.
        let mut body = response.into_body().into_reader().take(entry.size.saturating_add(1));
        let mut out = File::create(into).map_err(|e| format!("{}: {e}", into.display()))?;
        let mut progress = Progress::new(self.options.progress, &entry.path, entry.size);
        let (mut size, mut sha256, mut buffer) = (0, Sha256::new(), vec![0; 1 << 16]);
        loop {
            let n = body.read(&mut buffer).map_err(|e| format!("after {size} bytes: {e}"))?;
            if n == 0 {
                break;
            }
            out.write_all(&buffer[..n]).map_err(|e| format!("{}: {e}", into.display()))?;
            sha256.update(&buffer[..n]);
            size += n as u64;
            progress.add(n as u64);
        }
        if size != entry.size {
            let least = if size > entry.size { "at least " } else { "" };
            return Err(format!("{least}{size} bytes came, where {} were listed", entry.size));
        }
        let sha256 = format!("{:x}", sha256.finalize());
        if let Some(listed) = entry.listed_sha256()
            && sha256 != listed
        {
            return Err(format!("its SHA-256 is {sha256}, where {} was listed", crate::error::quoted(&listed)));
        }
        out.sync_all().map_err(|e| format!("{}: {e}", into.display()))?;
        progress.finish();
        Ok(())
    }
}

impl Entry {
    fn listed_sha256(&self) -> Option<String> {
        self.sha256.as_ref().filter(|sha| !sha.is_empty()).map(|sha| sha.to_ascii_lowercase())
    }
}

fn is_kept(target: &Path, entry: &Entry) -> bool {
    match fs::metadata(target) {
        Ok(meta) if meta.is_file() && meta.len() == entry.size => match entry.listed_sha256() {
            Some(listed) if entry.size <= MAX_REHASHED_BYTES => {
                fs::read(target).is_ok_and(|bytes| format!("{:x}", Sha256::digest(&bytes)) == listed)
            }
            _ => true,
        },
        _ => false,
    }
}
