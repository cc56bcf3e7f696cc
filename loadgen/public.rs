//! Where a trace comes from: a file, this program, or the public one, downloaded once, checked, kept in the cache folder.
//!
//! Owns the download and what is said where the address cannot be reached. Knows nothing of the trace's meaning beyond
//! that its first line must read as one.
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use minisgl_config::loadgen::{PublicTrace, SHIPPED_TRACE, SHIPPED_TRACE_NAME, TraceSource};

use crate::progress::Bytes;
use crate::traces::{self, Trace};
use crate::{ConsoleOptions, LoadgenError};

/// A server that does not answer within this is not reachable.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Largest file that is taken.
const LARGEST: u64 = 8 << 30;

/// The public trace could not be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot download the public trace from {url}: {problem}\n\
     Where that address cannot be reached, `--trace shipped` replays the small trace inside this program \
     ({shipped}); or fetch the file elsewhere and give its path with --trace, or put it at {}", path.display()
)]
pub struct DownloadError {
    url: String,
    problem: String,
    shipped: &'static str,
    path: PathBuf,
}

/// Reads a trace from where the settings say, downloading it first where that must be.
///
/// # Errors
/// It cannot be had, or a line of it not be read.
pub fn open(source: &TraceSource, limit: Option<usize>, console: ConsoleOptions) -> Result<Trace, LoadgenError> {
    Ok(match source {
        TraceSource::Shipped => traces::read(SHIPPED_TRACE_NAME, SHIPPED_TRACE.as_bytes(), limit)?,
        TraceSource::File(path) => traces::read_file(path, limit)?,
        TraceSource::Public(public) => {
            let path = fetch(public, &minisgl_checkpoint::cache_folder(), console)?;
            traces::read_file(&path, limit)?
        }
    })
}

/// The trace's path in `cache`, downloaded if it is not there yet.
pub(crate) fn fetch(trace: &PublicTrace, cache: &Path, console: ConsoleOptions) -> Result<PathBuf, DownloadError> {
    let folder = cache.join("traces");
    let path = folder.join(&trace.file);
    if path.is_file() {
        return Ok(path);
    }
    console.note(&format!("downloading the public trace from {} to {}", trace.url, path.display()));
    // Renamed only when whole: a broken download is never mistaken for the trace.
    let partial = folder.join(format!("{}.{}.part", trace.file, std::process::id()));
    let done = std::fs::create_dir_all(&folder)
        .map_err(|error| format!("cannot make {}: {error}", folder.display()))
        .and_then(|()| download(&trace.url, &partial, console))
        .and_then(|()| {
            traces::read_file(&partial, Some(1)).map_err(|error| format!("what came is no trace: {error}"))?;
            std::fs::rename(&partial, &path).map_err(|error| error.to_string())
        });
    done.map_err(|problem| {
        // It may not exist; there is nothing more to do about one that cannot be removed.
        let _ = std::fs::remove_file(&partial);
        DownloadError {
            url: trace.url.clone(),
            problem,
            shipped: minisgl_config::loadgen::SHIPPED_TRACE_NAME,
            path: path.clone(),
        }
    })?;
    Ok(path)
}

fn download(url: &str, to: &Path, console: ConsoleOptions) -> Result<(), String> {
    let config = ureq::Agent::config_builder()
        .timeout_connect(Some(ANSWER_WITHIN))
        .timeout_recv_response(Some(ANSWER_WITHIN))
        .build();
    let response = ureq::Agent::new_with_config(config).get(url).call().map_err(|error| error.to_string())?;
    let expected = response.body().content_length();
    let mut body = response.into_body().into_reader();
    let mut file = File::create(to).map_err(|error| format!("cannot write {}: {error}", to.display()))?;
    let progress = Bytes::start(console, "Downloading", expected);
    let (mut buffer, mut total) = (vec![0; 1 << 16], 0u64);
    loop {
        let n = body.read(&mut buffer).map_err(|error| format!("after {total} bytes: {error}"))?;
        if n == 0 {
            break;
        }
        total += n as u64;
        if total > LARGEST {
            return Err(format!("more than {LARGEST} bytes come: that is no trace"));
        }
        file.write_all(&buffer[..n]).map_err(|error| format!("cannot write {}: {error}", to.display()))?;
        progress.at(total);
    }
    match expected {
        Some(expected) if expected != total => Err(format!("it ended after {total} of {expected} bytes")),
        _ => file.sync_all().map_err(|error| format!("cannot write {}: {error}", to.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    use super::*;

    /// Answers one GET with `response`, then is gone.
    fn serve(response: String) -> (String, std::thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/t.jsonl", listener.local_addr().unwrap());
        let thread = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(socket.try_clone().unwrap()).lines();
            while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            socket.write_all(response.as_bytes()).unwrap();
        });
        (url, thread)
    }

    fn fetch_from(response: String, cache: &Path) -> Result<PathBuf, String> {
        let (url, thread) = serve(response);
        let trace = PublicTrace { url, file: "t.jsonl".to_owned() };
        let result = fetch(&trace, cache, ConsoleOptions::silent());
        thread.join().unwrap();
        result.map_err(|error| error.to_string())
    }

    #[test]
    fn downloads_once_and_leaves_nothing_of_what_failed() {
        let cache = tempfile::tempdir().unwrap();
        let text = minisgl_config::loadgen::SHIPPED_TRACE;
        let ok =
            |length: usize| format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}");

        let cut = fetch_from(ok(text.len() + 5), cache.path()).unwrap_err();
        assert!(cut.contains("cannot download") && cut.contains("--trace shipped"), "{cut}");
        let missing = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned();
        assert!(fetch_from(missing, cache.path()).unwrap_err().contains("404"));
        let page = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>".to_owned();
        assert!(fetch_from(page, cache.path()).unwrap_err().contains("what came is no trace"));
        assert_eq!(std::fs::read_dir(cache.path().join("traces")).unwrap().count(), 0, "a file was left behind");

        let path = fetch_from(ok(text.len()), cache.path()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        // Nobody listens here: the cached file is enough.
        let trace = PublicTrace { url: "http://127.0.0.1:9/t.jsonl".to_owned(), file: "t.jsonl".to_owned() };
        assert_eq!(fetch(&trace, cache.path(), ConsoleOptions::silent()).unwrap(), path);
    }
}
