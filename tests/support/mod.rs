//! Starts the real binary as a user would, talks to it over TCP, and finds its real counterparts.
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{LazyLock, Mutex};

use serde_json::Value;

/// The folder of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The tiny random chat model of the fixtures: answers at once, means nothing.
pub fn tiny_chat() -> String {
    root().join("tests/fixtures/models/tiny-chat").to_str().expect("a UTF-8 path").to_owned()
}

/// The binary, with an environment that no outside setting leaks into.
pub fn minisgl(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_minisgl"));
    command.args(args);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MINISGL_") && name != "MINISGL_CACHE" {
            command.env_remove(name);
        }
    }
    command
}

/// Runs the binary to its end.
pub fn run(args: &[&str]) -> Output {
    minisgl(args).stdin(Stdio::null()).output().expect("the binary starts")
}

/// Runs the binary, which must succeed; its stdout.
pub fn run_ok(args: &[&str]) -> String {
    let output = run(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "minisgl {args:?} exited with {}:\n{stderr}", output.status);
    String::from_utf8(output.stdout).expect("UTF-8 on stdout")
}

/// Runs the binary, which must fail without a panic; its stderr.
pub fn run_err(args: &[&str]) -> String {
    let output = run(args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "minisgl {args:?} succeeded");
    assert!(!stderr.contains("panicked"), "minisgl {args:?} panicked:\n{stderr}");
    stderr
}

/// A running `minisgl serve`; killed when dropped.
pub struct Server {
    /// `http://127.0.0.1:PORT`
    pub url: String,
    child: Child,
}

impl Server {
    /// Starts `minisgl serve --port 0 ARGS` and waits for its `ready` line.
    pub fn start(args: &[&str]) -> Self {
        let mut all = vec!["serve", "--port", "0"];
        all.extend(args);
        let mut child = minisgl(&all)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the binary starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a piped stdout")).lines();
        let mut url = None;
        for line in lines.by_ref() {
            let line = line.expect("UTF-8 on stdout");
            if let Some(rest) = line.strip_prefix("ready") {
                let address = rest.split_whitespace().find(|word| word.starts_with("http://"));
                let address = address.expect("the ready line has the URL");
                url = Some(address.strip_suffix("/v1").expect("the URL of the API").to_owned());
                break;
            }
        }
        // The pipe stays open and read, so that the server never blocks on it.
        std::thread::spawn(move || lines.for_each(drop));
        let Some(url) = url else {
            panic!("minisgl {all:?} ended before it was ready: {:?}", child.wait());
        };
        Self { url, child }
    }

    /// POSTs JSON; the status and the JSON answer, whatever the status.
    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let mut response =
            agent().post(format!("{}{path}", self.url)).send_json(body).unwrap_or_else(|e| panic!("{path}: {e}"));
        let text = response.body_mut().read_to_string().expect("a body");
        let json = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e} in {text}"));
        (response.status().as_u16(), json)
    }

    /// POSTs JSON and returns the streamed body, a reader of SSE lines.
    pub fn stream(&self, path: &str, body: &Value) -> Events {
        let response =
            agent().post(format!("{}{path}", self.url)).send_json(body).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!(response.status().as_u16(), 200, "{path}");
        Events(BufReader::new(Box::new(response.into_body().into_reader())))
    }

    /// GETs text.
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut response = agent().get(format!("{}{path}", self.url)).call().unwrap_or_else(|e| panic!("{path}: {e}"));
        (response.status().as_u16(), response.body_mut().read_to_string().expect("a body"))
    }

    /// A metric's value, summed over the series whose text contains every one of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let (_, text) = self.get("/metrics");
        let matching = text.lines().filter(|line| {
            let (series, _) = line.rsplit_once(' ').unwrap_or((line, ""));
            series.split('{').next() == Some(name) && labels.iter().all(|label| series.contains(label))
        });
        let values: Vec<f64> = matching.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        assert!(!values.is_empty(), "no metric {name} {labels:?} in\n{text}");
        values.iter().sum()
    }

    /// Sends SIGTERM and waits for the end; whether it exited with 0.
    pub fn terminate(mut self) -> bool {
        self.signal_term();
        self.child.wait().expect("the child ends").success()
    }

    /// Sends SIGTERM.
    pub fn signal_term(&self) {
        let status = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().expect("kill runs");
        assert!(status.success(), "kill -TERM");
    }

    /// Waits until no sequence runs or waits, as the metrics tell.
    pub fn wait_idle(&self) {
        for _ in 0..600 {
            if self.metric("minisgl_num_requests_running", &[]) + self.metric("minisgl_num_requests_waiting", &[])
                == 0.0
            {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("the server still has sequences after 30 s without clients");
    }

    /// Every page is in exactly one place, and none with a sequence.
    pub fn assert_no_page_lost(&self) {
        let pages = |state: &str| self.metric("minisgl_kv_pages", &[&format!("state=\"{state}\"")]);
        assert_eq!(pages("in_use"), 0.0, "pages are still in use");
        assert_eq!(pages("free") + pages("cached"), pages("total"), "pages were lost");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The `data:` payloads of an event stream. Dropping it closes the connection.
pub struct Events(BufReader<Box<dyn Read + Send>>);

impl Iterator for Events {
    type Item = String;
    fn next(&mut self) -> Option<String> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.0.read_line(&mut line).expect("the stream reads") == 0 {
                return None;
            }
            if let Some(data) = line.strip_prefix("data:") {
                return Some(data.trim().to_owned());
            }
        }
    }
}

impl Events {
    /// The text of a chat stream to its `[DONE]`, and the finish reason.
    pub fn chat_text(self) -> (String, String) {
        let (mut text, mut reason, mut done) = (String::new(), String::new(), false);
        for data in self {
            if data == "[DONE]" {
                done = true;
                break;
            }
            let chunk: Value = serde_json::from_str(&data).unwrap_or_else(|e| panic!("{e} in {data}"));
            for choice in chunk["choices"].as_array().unwrap_or_else(|| panic!("no choices in {data}")) {
                text += choice["delta"]["content"].as_str().unwrap_or_default();
                if let Some(finish) = choice["finish_reason"].as_str() {
                    reason = finish.to_owned();
                }
            }
        }
        assert!(done, "the stream ended without [DONE], after {text:?}");
        (text, reason)
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).max_idle_connections(0).build().into()
}

/// Whether real counterparts must be here (CI) or may be missing (said on stderr, and the check is skipped).
fn counterparts_required() -> bool {
    std::env::var("MINISGL_TEST_PEERS").is_ok_and(|v| v == "required")
}

/// Whether `program` can be run; where it cannot and counterparts are required, that fails.
pub fn counterpart(program: &str, install: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        return true;
    }
    assert!(!counterparts_required(), "{program} is needed: {install}");
    eprintln!("not checked: {program} is not installed ({install})");
    false
}

/// A Python with the packages of `tests/requirements.txt`, in a virtual environment under the target folder.
/// `None` where there is no Python and counterparts are not required.
pub fn python() -> Option<PathBuf> {
    static ENVIRONMENT: LazyLock<Mutex<()>> = LazyLock::new(Mutex::default);
    if !counterpart("python3", "install python3 with venv, e.g. apt-get install python3-venv") {
        return None;
    }
    let _one_at_a_time = ENVIRONMENT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let requirements = root().join("tests/requirements.txt");
    let wanted = std::fs::read_to_string(&requirements).expect("tests/requirements.txt");
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("python");
    let (python, stamp) = (folder.join("bin/python"), folder.join("requirements.txt"));
    if std::fs::read_to_string(&stamp).ok().as_ref() != Some(&wanted) {
        must(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder));
        must(
            Command::new(&python)
                .args(["-m", "pip", "install", "-q", "--disable-pip-version-check", "-r"])
                .arg(&requirements),
        );
        std::fs::write(&stamp, wanted).expect("the stamp is written");
    }
    Some(python)
}

/// Runs a Python script of `tests/` with the environment of [`python`]; it must succeed.
pub fn run_python(script: &str, args: &[&str]) {
    if let Some(python) = python() {
        must(Command::new(python).arg(root().join("tests").join(script)).args(args));
    }
}

fn must(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?} exited with {}:\n{}", output.status, String::from_utf8_lossy(&said));
}
