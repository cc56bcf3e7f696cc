//! The edges between crates and modules, held: who may see whom is the architecture (server/ARCHITECTURE.md).
//!
//! Reads sources as text, so that an edge cannot hide behind a re-export that happens to compile.
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The file's code: comments and everything from the first `#[cfg(test)]` on are not edges.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Top-level modules that `code` names after `crate::` (or `minisgl::`), one level of braces included.
fn modules_seen(code: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let names: Vec<&str> = match rest.strip_prefix('{') {
            Some(group) => {
                let mut depth = 0;
                let end = group.find(|c| {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        _ => {}
                    }
                    depth < 0
                });
                let group = &group[..end.expect("a closing brace")];
                let mut depth = 0;
                let separates = move |c: char| {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        _ => {}
                    }
                    c == ',' && depth == 0
                };
                group.split(separates).collect()
            }
            None => vec![rest],
        };
        for name in names {
            let name: String = name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !name.is_empty() {
                seen.insert(name);
            }
        }
    }
    seen
}

#[test]
fn crates_depend_only_downwards() {
    let edges: [(&str, &[&str]); 6] = [
        ("config", &[]),
        ("kernels", &[]),
        ("server/checkpoint", &["minisgl-config", "minisgl-kernels"]),
        ("server/tokenizer", &["minisgl-checkpoint", "minisgl-kernels"]),
        ("loadgen", &["minisgl-checkpoint", "minisgl-config", "minisgl-kernels", "minisgl-tokenizer"]),
        (".", &["minisgl-checkpoint", "minisgl-config", "minisgl-kernels", "minisgl-loadgen", "minisgl-tokenizer"]),
    ];
    for (folder, allowed) in edges {
        let manifest = std::fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        for name in manifest["dependencies"].as_table().unwrap().keys().filter(|name| name.starts_with("minisgl-")) {
            assert!(allowed.contains(&name.as_str()), "{folder}/Cargo.toml must not depend on {name}");
        }
    }
}

#[test]
fn modules_of_the_server_keep_apart() {
    // module, what it may see of its own crate
    let vocabulary = ["batch", "health", "metrics", "request"];
    let edges: [(&str, &[&str]); 11] = [
        ("server/accuracy.rs", &["accuracy", "engine"]),
        ("server/accuracy", &["accuracy"]),
        ("server/sizing.rs", &["engine", "scheduler", "sizing"]),
        ("server/sizing", &["engine", "scheduler", "sizing"]),
        ("server/http", &["http", "llm"]),
        ("server/intake.rs", &[]),
        ("server/llm.rs", &["intake", "llm", "scheduler"]),
        ("server/scheduler", &["scheduler"]),
        ("server/engine", &["engine", "models"]),
        ("server/models", &["models"]),
        ("server/llm", &["intake", "llm", "scheduler", "engine"]),
    ];
    let mut checked = 0;
    for (folder, allowed) in edges {
        let path = root().join(folder);
        for path in if path.is_dir() { rust_files(folder) } else { vec![path] } {
            for module in modules_seen(&code(&path)) {
                let fine = allowed.contains(&module.as_str()) || vocabulary.contains(&module.as_str());
                assert!(fine, "{} must not see crate::{module}", path.display());
            }
            checked += 1;
        }
    }
    assert!(checked > 15, "only {checked} files were looked at: have the folders moved?");
    for leaf in vocabulary {
        let path = root().join("server").join(format!("{leaf}.rs"));
        for module in modules_seen(&code(&path)) {
            assert!(vocabulary.contains(&module.as_str()), "{} must not see crate::{module}", path.display());
        }
    }
}

#[test]
fn only_the_command_line_sees_the_load_generator() {
    for path in rust_files("server") {
        let inside = path.strip_prefix(root()).unwrap().starts_with("server/cli");
        assert!(inside || !code(&path).contains("minisgl_loadgen"), "{} must not see loadgen", path.display());
    }
    for path in rust_files("loadgen") {
        assert!(!code(&path).contains("minisgl::"), "{} must not see the server", path.display());
    }
}

#[test]
fn unsafe_lives_in_kernels_alone() {
    for folder in ["server", "loadgen", "config", "tests"] {
        for path in rust_files(folder) {
            for (number, line) in code(&path).lines().enumerate() {
                let word = concat!("un", "safe ");
                assert!(!line.contains(word), "{}:{}: {word}outside kernels/", path.display(), number + 1);
            }
        }
    }
}

/// A file that outgrows this is two files.
const LINES_A_FILE: usize = 700;

#[test]
fn files_say_what_they_own_and_stay_readable() {
    for folder in ["server", "kernels", "loadgen", "config", "tests"] {
        for path in rust_files(folder) {
            let text = std::fs::read_to_string(&path).unwrap();
            let first = text.lines().next().unwrap_or_default();
            assert!(first.starts_with("//!"), "{}: the first line must say what the file owns", path.display());
            let lines = text.lines().count();
            assert!(lines <= LINES_A_FILE, "{}: {lines} lines, at most {LINES_A_FILE}", path.display());
        }
    }
}
