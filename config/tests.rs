//! The crate as its callers see it: spellings, precedence, refusals, files, and what `minisgl config` prints.
use std::time::Duration;

use clap::Args;
use proptest::prelude::*;

use super::*;
use crate::field::Settings;
use crate::sources::ConfigFile;
use crate::table::SETTINGS;

/// `words` through clap, as a command with `A`'s flags would read them.
fn typed<A: Args>(words: &[&str]) -> Result<A, String> {
    let command = A::augment_args(clap::Command::new("minisgl").no_binary_name(true));
    let matches = command.try_get_matches_from(words).map_err(|e| e.to_string())?;
    A::from_arg_matches(&matches).map_err(|e| e.to_string())
}

fn variables(pairs: &[(&str, &str)]) -> Environment {
    pairs.iter().copied().collect()
}

fn serve_with(words: &[&str], pairs: &[(&str, &str)]) -> Result<Resolved<ServeSettings>, String> {
    typed::<ServeArgs>(words)?.resolve(&variables(pairs)).map_err(|e| e.to_string())
}

fn serve(words: &[&str]) -> ServeSettings {
    serve_with(words, &[]).unwrap_or_else(|e| panic!("{words:?}: {e}")).settings
}

fn engine(change: impl FnOnce(&mut EngineSettings)) -> ServeSettings {
    changed(|settings| change(&mut settings.engine))
}

fn changed(change: impl FnOnce(&mut ServeSettings)) -> ServeSettings {
    let mut settings = ServeSettings::default();
    change(&mut settings);
    settings
}

/// A file that outlives the test's use of its path.
fn file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("settings.toml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

/// Two values of each setting that can be chosen, neither of them the default, as a flag spells them.
const SAMPLES: [(&str, [&str; 2]); 37] = [
    ("model", ["models/a.gguf", "org/b"]),
    ("model-source", ["modelscope", "MODELSCOPE"]),
    ("dummy-weight", ["true", "true"]),
    ("dtype", ["bfloat16", "float16"]),
    ("quantize", ["int8", "int4"]),
    ("kv-cache-dtype", ["bfloat16", "int8"]),
    ("generation-config", ["none", "none"]),
    ("device", ["reference", "reference"]),
    ("threads", ["1", "1024"]),
    ("max-running-requests", ["1", "65536"]),
    ("max-queued-requests", ["0", "1048576"]),
    ("max-seq-len-override", ["2", "4096"]),
    ("max-prefill-length", ["1", "16384"]),
    ("max-decode-gap", ["0", "4"]),
    ("memory-ratio", ["0.5", "1"]),
    ("num-pages", ["1", "4096"]),
    ("page-size", ["16", "1024"]),
    ("cache-type", ["naive", "naive"]),
    ("disable-overlap-scheduling", ["true", "true"]),
    ("num-tokenizer", ["1", "256"]),
    ("tensor-parallel-size", ["1", "4"]),
    ("sim-profile", ["h100", "own.toml"]),
    ("sim-ttft", ["0s", "0.25ms"]),
    ("sim-itl", ["20ms", "1.5s"]),
    ("attention-backend", ["cpu", "auto,cpu"]),
    ("host", ["0.0.0.0", "::1"]),
    ("port", ["0", "65535"]),
    ("served-model-name", ["a b", "\"quoted\" 名"]),
    ("metrics-prefix", ["vllm", "vllm"]),
    ("drain-timeout", ["0s", "90s"]),
    ("write-timeout", ["1ms", "24h"]),
    ("shell-max-tokens", ["1", "8"]),
    ("shell-top-k", ["0", "40"]),
    ("shell-top-p", ["0.1", "0.95"]),
    ("shell-temperature", ["0", "2"]),
    ("log-level", ["debug", "warning"]),
    ("log-pid", ["true", "true"]),
];

fn toml_line(setting: &crate::table::Setting, text: &str) -> String {
    format!("{} = {}\n", setting.key(), crate::sources::literal(setting.field.form(), text))
}

#[test]
fn no_flags_give_the_defaults_of_mini_sglang() {
    let settings = serve(&[]);
    assert_eq!(settings, ServeSettings::default());
    let engine = &settings.engine;
    assert_eq!((settings.host.as_str(), settings.port), ("127.0.0.1", 1919));
    assert_eq!((engine.page_size(), engine.max_running_requests, engine.max_prefill_length), (16, 256, 8192));
    let simulated = serve_with(&["--device", "sim"], &[]).unwrap().settings.engine;
    assert_eq!(simulated.page_size(), 1);
    assert_eq!((engine.memory_ratio, engine.num_tokenizer, engine.tensor_parallel_size), (0.9, 0, None));
    assert_eq!((engine.model.as_str(), engine.max_queued_requests), ("smollm2-135m", 2048));
}

#[test]
fn every_spelling_of_mini_sglang_is_taken() {
    let cases: [(&[&str], ServeSettings); 46] = [
        (&["--model-path", "m"], engine(|e| e.model = "m".into())),
        (&["--model", "m"], engine(|e| e.model = "m".into())),
        (&["--model-source", "huggingface"], engine(|_| ())),
        (&["--model-source=modelscope"], engine(|e| e.model_source = HubSource::ModelScope)),
        (&["--dtype", "auto"], engine(|_| ())),
        (&["--dtype", "float16"], engine(|e| e.dtype = DTypeChoice::Float16)),
        (&["--dtype", "bfloat16"], engine(|e| e.dtype = DTypeChoice::BFloat16)),
        (&["--dtype", "float32"], engine(|e| e.dtype = DTypeChoice::Float32)),
        (&["--quantize", "none"], engine(|_| ())),
        (&["--quantize", "int8"], engine(|e| e.quantize = Quantize::Int8)),
        (&["--quantize", "int4"], engine(|e| e.quantize = Quantize::Int4)),
        (&["--kv-cache-dtype", "auto"], engine(|_| ())),
        (&["--kv-cache-dtype", "float16"], engine(|e| e.kv_cache_dtype = KvCacheDType::Float16)),
        (&["--kv-cache-dtype", "bfloat16"], engine(|e| e.kv_cache_dtype = KvCacheDType::BFloat16)),
        (&["--kv-cache-dtype", "float32"], engine(|e| e.kv_cache_dtype = KvCacheDType::Float32)),
        (&["--kv-cache-dtype", "int8"], engine(|e| e.kv_cache_dtype = KvCacheDType::Int8)),
        (&["--dummy-weight"], engine(|e| e.dummy_weight = true)),
        (&["--tensor-parallel-size", "1"], engine(|e| e.tensor_parallel_size = Some(1))),
        (&["--tp-size", "1"], engine(|e| e.tensor_parallel_size = Some(1))),
        (&["--tp", "1"], engine(|e| e.tensor_parallel_size = Some(1))),
        (&["--max-running-requests", "8"], engine(|e| e.max_running_requests = 8)),
        (&["--max-seq-len-override", "4096"], engine(|e| e.max_seq_len_override = Some(4096))),
        (&["--max-prefill-length", "64"], engine(|e| e.max_prefill_length = 64)),
        (&["--max-extend-length", "64"], engine(|e| e.max_prefill_length = 64)),
        (&["--max-decode-gap", "1.5"], engine(|e| e.max_decode_gap = 1.5)),
        (&["--memory-ratio", "0.5"], engine(|e| e.memory_ratio = 0.5)),
        (&["--num-pages", "100"], engine(|e| e.num_pages = Some(100))),
        (&["--page-size", "16"], engine(|e| e.page_size = Some(16))),
        (&["--cache-type", "naive"], engine(|e| e.cache_type = CacheType::Naive)),
        (&["--cache", "naive"], engine(|e| e.cache_type = CacheType::Naive)),
        (&["--attention-backend", "auto"], engine(|_| ())),
        (&["--attn", "cpu"], engine(|_| ())),
        (&["--attn", "auto,cpu"], engine(|_| ())),
        (&["--device", "reference", "--attn", "reference"], engine(|e| e.device = DeviceKind::Reference)),
        (&["--moe-backend", "auto"], engine(|_| ())),
        (&["--cuda-graph-max-bs", "0"], engine(|_| ())),
        (&["--graph", "0"], engine(|_| ())),
        (&["--num-tokenizer", "2"], engine(|e| e.num_tokenizer = 2)),
        (&["--tokenizer-count", "2"], engine(|e| e.num_tokenizer = 2)),
        (&["--disable-pynccl=false"], engine(|_| ())),
        (&["--disable-overlap-scheduling"], engine(|e| e.overlap = false)),
        (&["--host", "0.0.0.0"], changed(|s| s.host = "0.0.0.0".into())),
        (&["--port", "8000"], changed(|s| s.port = 8000)),
        (&["--drain-timeout", "5"], changed(|s| s.drain_timeout = Duration::from_secs(5))),
        (&["--write-timeout", "1500ms"], changed(|s| s.write_timeout = Duration::from_millis(1500))),
        (&["--metrics-prefix", "vllm"], changed(|s| s.metrics_prefix = MetricsPrefix::Vllm)),
    ];
    for (words, expected) in cases {
        assert_eq!(serve(words), expected, "{words:?}");
    }
    for words in [["--shell-mode"], ["--shell"]] {
        let settings = serve(&words);
        assert!(settings.shell && settings.engine.max_running_requests == 1, "{words:?}");
    }
}

#[test]
fn a_setting_is_the_same_by_flag_variable_and_file() {
    let chosen: Vec<&str> = SAMPLES.iter().map(|(name, _)| *name).collect();
    for setting in SETTINGS {
        let Some((_, samples)) = SAMPLES.iter().find(|(name, _)| *name == setting.name) else {
            let fixed = ["moe-backend", "cuda-graph-max-bs", "disable-pynccl", "shell-mode"];
            assert!(fixed.contains(&setting.name), "{}: not in SAMPLES", setting.name);
            continue;
        };
        for text in samples {
            // Some are wrong without a simulated device.
            let simulated = setting.name.starts_with("sim-") || setting.name == "tensor-parallel-size";
            let device: &[&str] = if simulated { &["--device=sim"] } else { &[] };
            let by_flag = typed::<ServeArgs>(&[device, &[&format!("--{}={text}", setting.name)]].concat()).unwrap();
            let by_flag = by_flag.outcome(&Environment::default()).unwrap();
            let by_variable = typed::<ServeArgs>(device).unwrap();
            let by_variable = by_variable.outcome(&variables(&[(&setting.variable(), text)])).unwrap();
            let (_folder, path) = file(&toml_line(setting, text));
            let by_file = typed::<ServeArgs>(&[device, &["--config", &path]].concat()).unwrap();
            let by_file = by_file.outcome(&Environment::default()).unwrap();
            assert_ne!(by_flag.settings, Settings::default(), "{} {text}", setting.name);
            assert_eq!(by_flag.settings, by_variable.settings, "{} {text}", setting.name);
            assert_eq!(by_flag.settings, by_file.settings, "{} {text}", setting.name);
        }
    }
    assert_eq!(chosen.len(), SETTINGS.len() - 4, "a sample for a setting that is none");
}

#[test]
fn flag_beats_variable_beats_file_beats_default() {
    for bits in 0..8 {
        let (flag, variable, from_file) = (bits & 4 != 0, bits & 2 != 0, bits & 1 != 0);
        let (_folder, path) = file(if from_file { "page_size = 2\ndummy_weight = false\n" } else { "" });
        let mut words = vec!["--config", &path];
        let mut pairs = Vec::new();
        if variable {
            pairs.extend([("MINISGL_PAGE_SIZE", "4"), ("MINISGL_DUMMY_WEIGHT", "true")]);
        }
        if flag {
            words.extend(["--page-size", "8", "--dummy-weight=false"]);
        }
        let engine = serve_with(&words, &pairs).unwrap().settings.engine;
        let page_size = [16, 2, 4, 4, 8, 8, 8, 8][bits];
        assert_eq!(engine.page_size(), page_size, "flag {flag}, variable {variable}, file {from_file}");
        assert_eq!(engine.dummy_weight, variable && !flag);
    }
    // The file's own name follows the same order, and what is empty is not set.
    let (_a, two) = file("page_size = 2");
    let (_b, four) = file("page_size = 4");
    let by_variable = serve_with(&[], &[("MINISGL_CONFIG", &two)]).unwrap();
    assert_eq!(by_variable.settings.engine.page_size(), 2);
    let by_flag = serve_with(&["--config", &four], &[("MINISGL_CONFIG", &two), ("MINISGL_PAGE_SIZE", "")]).unwrap();
    assert_eq!(by_flag.settings.engine.page_size(), 4);
}

#[test]
fn variables_of_mini_sglang_are_read() {
    for (text, overlap) in [("1", false), ("true", false), ("YES", false), ("0", true), ("no", true), ("", true)] {
        let resolved = serve_with(&[], &[("MINISGL_DISABLE_OVERLAP_SCHEDULING", text)]).unwrap();
        assert_eq!(resolved.settings.engine.overlap, overlap, "{text}");
    }
    let shell = [
        ("MINISGL_SHELL_MAX_TOKENS", "9"),
        ("MINISGL_SHELL_TOP_K", "-1"),
        ("MINISGL_SHELL_TOP_P", "0.5"),
        ("MINISGL_SHELL_TEMPERATURE", "0"),
    ];
    let resolved = typed::<ChatArgs>(&[]).unwrap().resolve(&variables(&shell)).unwrap();
    assert_eq!(resolved.settings.shell, ShellSettings { max_tokens: 9, top_k: -1, top_p: 0.5, temperature: 0.0 });
    let shown = serve_with(&[], &[("LOG_LEVEL", "WARNING"), ("LOG_PID", "1")]).unwrap().log;
    assert_eq!(shown, LogSettings { level: LogLevel::Warn, pid: true });
    let ours_first = serve_with(&[], &[("LOG_LEVEL", "debug"), ("MINISGL_LOG_LEVEL", "error")]).unwrap().log;
    assert_eq!(ours_first.level.name(), "error");
}

#[test]
fn unknown_variables_are_warned_of() {
    let pairs = [
        ("MINISGL_PAGESIZE", "4"),
        ("MINISGL_MODEL_PATH", "m"),
        ("MINISGL_WHATEVER", "1"),
        ("MINISGL_CACHE", "/tmp"),
        ("MINISGL_TEST_PEERS", "required"),
        ("PATH", "/bin"),
    ];
    let warnings = serve_with(&[], &pairs).unwrap().warnings;
    assert_eq!(
        warnings,
        [
            "MINISGL_MODEL_PATH is not a setting and changes nothing; did you mean MINISGL_MODEL?",
            "MINISGL_PAGESIZE is not a setting and changes nothing; did you mean MINISGL_PAGE_SIZE?",
            "MINISGL_WHATEVER is not a setting and changes nothing",
        ]
    );
}

#[test]
fn what_is_not_there_yet_is_refused_with_what_to_use() {
    let cases: [(&[&str], &str); 13] = [
        (&["--device", "cuda"], "--device cuda: the CUDA device is not there yet: use cpu"),
        (&["--sim-profile", "h200"], "--sim-profile h200: only a simulated device heeds it: add --device sim"),
        (&["--tp-size", "0"], "--tensor-parallel-size 0: expected a whole number from 1 to 1024"),
        (&["--attn", "fa"], "--attention-backend fa: fa is other people's kernels, which are not used here: use auto"),
        (&["--attn", "fi"], "--attention-backend fi: fi is other people's"),
        (&["--attn", "auto,trtllm"], "--attention-backend auto,trtllm: trtllm is other people's"),
        (&["--attn", "triton"], "--attention-backend triton: expected auto or the device's own name"),
        (&["--attn", "auto,auto,auto"], "expected auto or the device's own name"),
        (&["--attn", "reference"], "reference is another device's: with --device cpu use auto or cpu"),
        (&["--moe-backend", "fused"], "--moe-backend fused: mixtures of experts are not there yet: use auto"),
        (
            &["--cuda-graph-max-bs", "160"],
            "--cuda-graph-max-bs 160: the CUDA device and its graphs are not there yet: use 0",
        ),
        (&["--graph", "8"], "--cuda-graph-max-bs 8: the CUDA device"),
        (
            &["--disable-pynccl"],
            "--disable-pynccl=true: the CUDA device and its collectives are not there yet: leave it out",
        ),
    ];
    for (words, message) in cases {
        let said = serve_with(words, &[]).unwrap_err();
        assert!(said.contains(message), "{words:?}: {said}");
    }
    for (name, value, message) in [
        ("MINISGL_PYNCCL_MAX_BUFFER_SIZE", "64M", "the CUDA device and its collectives are not there yet: unset it"),
        ("MINISGL_FLASHINFER_USE_TENSOR_CORES", "1", "FlashInfer is other people's kernels"),
        ("MINISGL_DEVICE", "cuda", "the CUDA device is not there yet"),
    ] {
        let said = serve_with(&[], &[(name, value)]).unwrap_err();
        assert!(said.starts_with(&format!("{name}={value}: ")) && said.contains(message), "{said}");
    }
}

#[test]
fn values_out_of_bounds_name_flag_and_range() {
    let cases: [(&[&str], &str); 20] = [
        (&["--page-size", "0"], "--page-size 0: expected a whole number from 1 to 1024"),
        (&["--page-size", "1025"], "--page-size 1025: expected a whole number from 1 to 1024"),
        (&["--page-size", "sixteen"], "--page-size sixteen: expected a whole number"),
        (&["--memory-ratio", "0"], "--memory-ratio 0: expected a number above 0 and at most 1"),
        (&["--memory-ratio", "1.5"], "--memory-ratio 1.5: expected a number above 0 and at most 1"),
        (&["--memory-ratio", "nan"], "--memory-ratio nan: expected"),
        (&["--max-running-requests", "0"], "--max-running-requests 0: expected a whole number from 1 to 65536"),
        (&["--max-running-requests", "-1"], "--max-running-requests -1: expected a whole number"),
        (&["--max-prefill-length", "0"], "--max-prefill-length 0: expected a whole number from 1"),
        (&["--max-queued-requests", "1048577"], "expected a whole number from 0 to 1048576"),
        (&["--max-seq-len-override", "1"], "expected a whole number from 2"),
        (&["--num-pages", "0"], "--num-pages 0: expected a whole number from 1"),
        (&["--port", "65536"], "--port 65536: expected a whole number from 0 to 65535"),
        (&["--threads", "1025"], "--threads 1025: expected a whole number from 0 to 1024"),
        (&["--drain-timeout", "soon"], "--drain-timeout soon: expected a time from 0s to 86400s, such as 500ms"),
        (&["--write-timeout", "0"], "--write-timeout 0: expected a time from 1ms"),
        (&["--shell-temperature", "2.1"], "--shell-temperature 2.1: expected a number from 0 to 2"),
        (&["--shell-top-k", "-2"], "--shell-top-k -2: expected a whole number from -1"),
        (&["--dtype", "int8"], "--dtype int8: expected auto, float16, bfloat16 or float32"),
        (&["--model", " "], "--model  : expected a text that is not empty"),
    ];
    for (words, message) in cases {
        let said = serve_with(words, &[]).unwrap_err();
        assert!(said.contains(message), "{words:?}: {said}");
    }
    // Every problem at once, and no source's mistake is hidden by a stronger one.
    let said = serve_with(&["--port", "x", "--page-size", "4"], &[("MINISGL_PAGE_SIZE", "many")]).unwrap_err();
    assert_eq!(
        said.lines().collect::<Vec<_>>(),
        [
            "MINISGL_PAGE_SIZE=many: expected a whole number from 1 to 1024",
            "--port x: expected a whole number from 0 to 65535"
        ]
    );
    let said = serve_with(&[], &[("MINISGL_DISABLE_OVERLAP_SCHEDULING", "maybe")]).unwrap_err();
    assert_eq!(said, "MINISGL_DISABLE_OVERLAP_SCHEDULING=maybe: expected true or false");
    assert!(serve_with(&["--page-sise", "4"], &[]).unwrap_err().contains("--page-size"), "clap suggests");
    assert!(serve_with(&["--dummy-weight", "m"], &[]).is_err(), "a switch takes its value after `=` only");
}

#[test]
fn files_are_checked_with_line_and_key() {
    let cases = [
        ("port = 1919\npage_sise = 16\n", ":2: unknown key page_sise; did you mean page_size?"),
        ("\n\ncolour = 1", ":3: unknown key colour"),
        ("model_path = \"m\"", ":1: unknown key model_path; did you mean model?"),
        ("[shell]\nmax_tokens = 3", ":1: unknown key shell"),
        ("page_size = 0", ":1: page_size = 0: expected a whole number from 1 to 1024"),
        ("# a comment\npage_size = \"16\"", ":2: page_size is a string: expected a whole number from 1 to 1024"),
        ("page_size = 1.5", ":1: page_size is a float: expected a whole number"),
        ("dummy_weight = 1", ":1: dummy_weight is an integer: expected true or false"),
        ("model = 3", ":1: model is an integer: expected a text that is not empty"),
        ("dtype = \"int8\"", ":1: dtype = \"int8\": expected auto, float16, bfloat16 or float32"),
        ("device = \"cuda\"", ":1: device = \"cuda\": the CUDA device is not there yet"),
        ("drain_timeout = \"soon\"", ":1: drain_timeout = \"soon\": expected a time"),
        ("page_size = 99999999999999999999999", ":1: page_size"),
        ("port = [1]", ":1: port is an array: expected"),
        ("port = 1\nport = 2\n", ":2: "),
        ("host =", ":1: "),
        ("port 1919", ":1: "),
    ];
    for (text, message) in cases {
        let (_folder, path) = file(text);
        let said = serve_with(&["--config", &path], &[]).unwrap_err();
        assert!(said.contains(&format!("settings.toml{message}")), "{text:?}: {said}");
        assert_eq!(said, check(&path).unwrap_err(), "{text:?}: `config check` says the same");
    }
    let (_folder, path) = file("page_size = 0x10\nmemory_ratio = 1\ndrain_timeout = 5\nwrite_timeout = \"2m\"\n");
    let settings = serve(&["--config", &path]);
    assert_eq!((settings.engine.page_size(), settings.engine.memory_ratio), (16, 1.0));
    assert_eq!((settings.drain_timeout.as_secs(), settings.write_timeout.as_secs()), (5, 120));
    assert!(check(&path).unwrap().ends_with("settings.toml: OK\n"));
}

fn check(path: &str) -> Result<String, String> {
    let args = typed::<ConfigArgs>(&["check", path])?;
    // The variable would be an error, were it read.
    args.run(&variables(&[("MINISGL_PORT", "x")])).map(|report| report.text).map_err(|e| e.to_string())
}

#[test]
fn files_that_cannot_be_read_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("no.toml");
    assert!(check(missing.to_str().unwrap()).unwrap_err().contains("no.toml: "));
    assert!(check(folder.path().to_str().unwrap()).is_err(), "a directory");
    let binary = folder.path().join("binary.toml");
    std::fs::write(&binary, [0xff, 0xfe, 0]).unwrap();
    assert!(check(binary.to_str().unwrap()).unwrap_err().contains("binary.toml: "));
    let large = folder.path().join("large.toml");
    std::fs::write(&large, vec![b'#'; (1 << 20) + 1]).unwrap();
    assert!(check(large.to_str().unwrap()).unwrap_err().contains("at most 1048576 bytes"));
}

#[test]
fn the_shell_runs_one_and_needs_weights() {
    let resolved = serve_with(&["--shell", "--max-running-requests", "8"], &[]).unwrap();
    assert_eq!(resolved.settings.engine.max_running_requests, 1);
    assert_eq!(resolved.warnings, ["--max-running-requests 8: the shell has one conversation: 1 is used"]);
    assert!(serve_with(&["--shell"], &[]).unwrap().warnings.is_empty());
    let said = serve_with(&["--shell", "--dummy-weight"], &[]).unwrap_err();
    assert!(said.starts_with("--dummy-weight=true: random weights have nothing to say"), "{said}");

    let chat = |words: &[&str]| typed::<ChatArgs>(words).unwrap().resolve(&Environment::default());
    assert_eq!(chat(&["--shell-max-tokens", "3"]).unwrap().settings.engine.max_running_requests, 1);
    assert!(chat(&["--dummy-weight"]).is_err());
}

#[test]
fn demo_takes_a_free_port_unless_told() {
    let demo = |pairs| typed::<DemoArgs>(&[]).unwrap().resolve(&variables(pairs)).unwrap().settings;
    assert_eq!(demo(&[]), changed(|s| s.port = 0));
    assert_eq!(demo(&[("MINISGL_PORT", "1919")]).port, 1919);
    assert_eq!(demo(&[("MINISGL_SHELL_MODE", "1")]), changed(|s| s.port = 0));
}

#[test]
fn bench_has_its_own_defaults() {
    let offline = |words: &[&str]| {
        let args = typed::<BenchOfflineArgs>(words)?;
        args.resolve(&Environment::default()).map(|r| r.settings).map_err(|e| e.to_string())
    };
    let settings = offline(&[]).unwrap();
    assert_eq!((settings.num_seqs, settings.seed, settings.temperature, settings.json), (256, 0, 0.6, false));
    assert_eq!(
        (settings.input_len.to_string(), settings.output_len.to_string()),
        ("100-1024".into(), "100-1024".into())
    );
    let engine = &settings.engine;
    assert_eq!((engine.page_size(), engine.max_prefill_length, engine.cache_type), (256, 16_384, CacheType::Naive));
    assert_eq!(engine.max_decode_gap, 0.0);
    let told = offline(&["--page-size", "4", "--num-seqs", "6", "--input-len", "10-20", "--output-len", "5"]).unwrap();
    assert_eq!((told.engine.page_size(), told.num_seqs, told.output_len), (4, 6, LengthRange::new(5, 5).unwrap()));
    for words in [["--num-seqs", "0"], ["--input-len", "9-3"], ["--temperature", "3"], ["--seed", "x"]] {
        let said = offline(&words).unwrap_err();
        assert!(said.contains(words[0]) && said.contains(words[1]), "{said}");
    }

    // A file for the shell is a file for bench: only `serve` becomes one.
    let (_folder, path) = file("shell_mode = true\n");
    assert_eq!(offline(&["--config", &path]).unwrap().engine.max_running_requests, 256);

    let batched = |words: &[&str]| {
        let args = typed::<BenchBatchedArgs>(words)?;
        args.resolve(&Environment::default()).map(|r| r.settings).map_err(|e| e.to_string())
    };
    let settings = batched(&[]).unwrap();
    assert_eq!((settings.prompt_len, settings.output_len, settings.batch), (128, 128, vec![1, 8, 32]));
    assert_eq!(batched(&["--batch", "1,300"]).unwrap().engine.max_running_requests, 300);
    let said = batched(&["--batch", "1,8", "--max-running-requests", "4"]).unwrap_err();
    assert!(said.contains("--batch 8: max-running-requests is 4"), "{said}");
    for words in [["--batch", "0"], ["--batch", "1,,2"], ["--output-len", "1"], ["--prompt-len", "0"]] {
        assert!(batched(&words).unwrap_err().contains(words[0]), "{words:?}");
    }
    let mut command = BenchBatchedArgs::augment_args(clap::Command::new("batched"));
    assert!(command.render_long_help().to_string().contains("--page-size 256"));
}

#[test]
fn help_names_every_flag_default_and_variable() {
    let mut command = ServeArgs::augment_args(clap::Command::new("serve").term_width(400));
    command.clone().debug_assert();
    let help = command.render_long_help().to_string();
    for setting in SETTINGS {
        let words = [format!("--{}", setting.name), format!("[env: {}]", setting.variable())];
        for word in
            words.iter().chain(setting.aliases.iter().map(|alias| format!("--{alias}")).collect::<Vec<_>>().iter())
        {
            assert!(help.contains(word), "{word} in\n{help}");
        }
    }
    assert!(help.contains("[default: 1919]") && help.contains("[default: from memory_ratio]"), "{help}");
}

/// The committed example; `minisgl config example > config/minisgl.toml` makes it.
const EXAMPLE: &str = include_str!("minisgl.toml");

#[test]
fn the_example_file_has_every_setting_at_its_default() {
    let printed = typed::<ConfigArgs>(&["example"]).unwrap().run(&Environment::default()).unwrap();
    assert_eq!(printed.text, EXAMPLE, "config/minisgl.toml is not what `minisgl config example` prints");
    let keys = |text: &str| {
        let given = ConfigFile { name: "example".into(), text: text.into() }.given(&mut Vec::new());
        given.iter().map(|given| given.setting.key()).collect::<Vec<_>>()
    };
    assert!(keys(EXAMPLE).is_empty(), "as shipped it changes nothing");
    // A setting's line is `# key = value`; the others are sentences or headings.
    let is_key = |line: &&str| line.starts_with(|c: char| c.is_ascii_lowercase()) && line.contains(" = ");
    let lines = EXAMPLE.lines().filter_map(|line| line.strip_prefix("# ")).filter(is_key);
    let uncommented: String = lines.filter(|line| !line.contains('…')).map(|line| format!("{line}\n")).collect();
    let is_set = |setting: &&crate::table::Setting| setting.value(&Settings::default()).is_some();
    let all: Vec<String> = SETTINGS.iter().filter(is_set).map(|setting| setting.key()).collect();
    assert_eq!(keys(&uncommented), all);
    let (_folder, path) = file(&uncommented);
    assert_eq!(serve(&["--config", &path]), ServeSettings::default());
}

fn show(words: &[&str], pairs: &[(&str, &str)]) -> String {
    let args = typed::<ConfigArgs>(&[&["show"], words].concat()).unwrap();
    args.run(&variables(pairs)).unwrap().text
}

#[test]
fn show_says_who_decided() {
    let (_folder, path) = file("host = \"0.0.0.0\"\npage_size = 2\n");
    let shown = show(&["--config", &path, "--tp", "1", "--shell"], &[("MINISGL_PAGE_SIZE", "4"), ("LOG_PID", "1")]);
    let line =
        |key: &str| shown.lines().find(|line| line.contains(&format!("{key} ="))).unwrap_or_else(|| panic!("{key}"));
    assert!(line("host").starts_with("host = \"0.0.0.0\"") && line("host").ends_with("settings.toml:1"), "{shown}");
    assert!(
        line("page_size").starts_with("page_size = 4 ")
            && line("page_size").ends_with("# environment MINISGL_PAGE_SIZE")
    );
    assert!(line("log_pid").ends_with("# environment LOG_PID"), "{shown}");
    assert!(line("tensor_parallel_size").ends_with("# flag --tensor-parallel-size"), "{shown}");
    assert!(line("port").ends_with("# default"), "{shown}");
    assert!(line("max_running_requests").ends_with("# because of shell-mode"), "{shown}");
    assert!(
        line("num_pages").starts_with('#') && line("num_pages").ends_with("# default: from memory_ratio"),
        "{shown}"
    );
}

#[test]
fn what_show_prints_resolves_to_the_same() {
    let mut words = vec!["--device=sim".to_owned()];
    for (name, [sample, _]) in SAMPLES.iter().filter(|(name, _)| !["device", "attention-backend"].contains(name)) {
        words.push(format!("--{name}={sample}"));
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (_folder, path) = file(&show(&words, &[]));
    assert_eq!(serve(&["--config", &path]), serve(&words));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(text in "\\PC*|([a-z_]{1,12} = [\"\\[{a-z0-9.\n]*\n)*", at in 0..SETTINGS.len()) {
        let mut problems = Vec::new();
        let _ = ConfigFile { name: "f".into(), text: text.clone() }.given(&mut problems);
        let setting = &SETTINGS[at];
        let _ = serve_with(&[&format!("--{}={text}", setting.name)], &[(&setting.variable(), &text)]);
    }
}
