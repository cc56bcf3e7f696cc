//! Why a load run could not begin or its report not be written. A request that fails is no such error: it is counted.
use std::path::PathBuf;

use minisgl_config::loadgen::ServerUrl;

use crate::public::DownloadError;
use crate::traces::TraceError;

/// What keeps a run from happening. Every message says what would be right.
#[derive(Debug, thiserror::Error)]
pub enum LoadgenError {
    /// The trace cannot be read, or a line of it.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The public trace cannot be downloaded.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// What was asked for has no meaning for this trace or these lengths.
    #[error("{0}")]
    Workload(String),
    /// `--json` names a file that cannot be written.
    #[error("--json {}: cannot write it: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A flag names a file that cannot be written.
    #[error("{flag} {}: cannot write it: {source}", path.display())]
    Write {
        /// The flag.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that holds no report that can be read.
    #[error("{}{}: {problem}", path.display(), line.map_or(String::new(), |line| format!(":{line}")))]
    ReportFile {
        /// The file.
        path: PathBuf,
        /// Line, from 1, where one is to blame.
        line: Option<usize>,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// No server at `--url`.
    #[error(
        "cannot reach {url}: {problem}; is the server running there? `minisgl serve` starts one, --url names another"
    )]
    Connect {
        /// Where it was looked for.
        url: ServerUrl,
        /// What the system said.
        problem: String,
    },
    /// The file of trusted certificates cannot be used.
    #[error("{named_by} {}: {problem}", path.display())]
    CaCert {
        /// The flag or variable.
        named_by: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// `/v1/models` does not say what is served.
    #[error("{url}/v1/models: {problem}; --model and --tokenizer say what is served where the server does not")]
    Models {
        /// The server.
        url: ServerUrl,
        /// What it answered.
        problem: String,
    },
    /// The model's context is too small for any request.
    #[error("the model holds {max_model_len} tokens, chat template included: at least {least} are needed")]
    TooSmall {
        /// What the server says.
        max_model_len: usize,
        /// What is needed.
        least: usize,
    },
    /// No tokenizer was named, and the server's `root` cannot be read here.
    #[error(
        "which tokenizer makes the prompts? {0}; give --tokenizer with an alias, a directory, a GGUF file or a hub id of the \
         model that is served"
    )]
    NoTokenizer(String),
    /// The tokenizer cannot be had or makes no prompt of the length wanted.
    #[error("tokenizer {name}: {problem}")]
    Tokenizer {
        /// What was asked for.
        name: String,
        /// Why not.
        problem: String,
    },
    /// `--simple`'s connection test failed.
    #[error("the connection test (100 tokens in, 2 out) failed: {reason}: {detail}")]
    ConnectionTest {
        /// Its kind.
        reason: String,
        /// What was said.
        detail: String,
    },
    /// The client's threads or sockets cannot be had.
    #[error("cannot start the client's threads: {0}")]
    Runtime(std::io::Error),
    /// The server of known timings cannot be started or asked.
    #[error("self-test: {0}")]
    SelfTest(std::io::Error),
}
