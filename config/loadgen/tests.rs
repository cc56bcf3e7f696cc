//! The flags: which combinations stand, and what is said of the others.
use clap::Parser;

use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: LoadgenArgs,
}

fn resolve(flags: &str) -> Result<LoadgenSettings, String> {
    let words = std::iter::once("loadgen").chain(flags.split_whitespace());
    let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
    cli.args.resolve().map_err(|error| error.to_string())
}

#[test]
fn a_trace_with_its_scales_and_caps() {
    let flags = "--trace a/b.jsonl --time-scale 0.4,0.8 --limit 10 --input-len-scale 0.5 --output-len-scale 2 \
                 --max-input-len 100 --max-output-len 50 --url https://example.org/api/v1/ --model m --tokenizer t \
                 --timeout 1.5 --seed 7 --json -";
    let expected = LoadgenSettings {
        url: ServerUrl { https: true, host: "example.org".into(), port: 443, prefix: "/api".into() },
        model: Some("m".into()),
        tokenizer: Some("t".into()),
        workload: Workload::Trace {
            source: TraceSource::File("a/b.jsonl".into()),
            time_scales: vec![0.4, 0.8],
            limit: Some(10),
            lengths: LengthRules { input_scale: 0.5, output_scale: 2.0, max_input: Some(100), max_output: Some(50) },
        },
        seed: 7,
        timeout: Duration::from_millis(1500),
        json: Some(JsonOutput::Stdout),
    };
    assert_eq!(resolve(flags), Ok(expected));
}

#[test]
fn defaults_are_the_local_server_and_the_whole_trace() {
    assert_eq!(resolve("--trace shipped"), Ok(LoadgenSettings::shipped(ServerUrl::default())));
    let qwen = resolve("--trace qwen").unwrap();
    assert!(matches!(qwen.workload, Workload::Trace { source: TraceSource::Qwen, .. }));
}

#[test]
fn the_other_workloads() {
    let closed = resolve("--concurrency 4 --num-requests 12 --input-len 5-40 --output-len 7").unwrap();
    let (input_len, output_len) = (LengthRange::new(5, 40).unwrap(), LengthRange::new(7, 7).unwrap());
    assert_eq!(closed.workload, Workload::Closed { concurrency: 4, num_requests: 12, input_len, output_len });
    let simple = resolve("--simple --max-input-len 100").unwrap();
    assert_eq!(
        simple.workload,
        Workload::Simple {
            num_requests: 64,
            input_len: LengthRange::new(1, 8192).unwrap(),
            output_len: LengthRange::new(16, 1024).unwrap(),
            lengths: LengthRules { max_input: Some(100), ..LengthRules::default() },
        }
    );
    assert!(matches!(resolve("--simple --num-requests 3").unwrap().workload, Workload::Simple { num_requests: 3, .. }));
}

#[test]
fn what_does_not_go_together_is_named() {
    for (flags, said) in [
        ("", "nothing to send"),
        ("--trace a --simple", "--trace, --concurrency and --simple exclude each other"),
        ("--trace a --concurrency 2", "exclude each other"),
        ("--trace a --num-requests 3", "--num-requests does not go with --trace: --limit"),
        ("--trace a --input-len 3", "--input-len does not go with --trace"),
        ("--simple --time-scale 2", "--time-scale does not go with --simple: it is for --trace"),
        ("--simple --output-len 2", "--output-len does not go with --simple"),
        ("--concurrency 2 --limit 2", "--limit does not go with --concurrency"),
        ("--concurrency 2 --max-input-len 2", "--max-input-len does not go with --concurrency"),
        ("--concurrency 2 --input-len 3 --output-len 3", "--concurrency needs --num-requests"),
        ("--concurrency 2 --num-requests 3 --output-len 3", "--concurrency needs --input-len"),
        (
            "--concurrency 4 --num-requests 3 --input-len 1 --output-len 3",
            "--num-requests 3 cannot keep --concurrency 4",
        ),
        ("--trace a --model=", "--model is empty"),
        ("--trace=", "--trace is empty"),
    ] {
        let error = resolve(flags).unwrap_err();
        assert!(error.contains(said), "{flags}: {error}");
    }
}

#[test]
fn values_out_of_bounds_name_their_flag() {
    for flags in [
        "--trace a --time-scale -1",
        "--trace a --time-scale=-1",
        "--trace a --time-scale NaN",
        "--trace a --time-scale inf",
        "--trace a --time-scale 1,",
        "--trace a --input-len-scale 0",
        "--trace a --output-len-scale=-2",
        "--trace a --limit 0",
        "--trace a --max-input-len 0",
        "--trace a --max-output-len 99999999999",
        "--trace a --timeout 0",
        "--trace a --timeout 1e300",
        "--trace a --seed=-1",
        "--concurrency 0",
        "--concurrency 1 --num-requests 1 --input-len 9-2 --output-len 1",
    ] {
        let error = resolve(flags).unwrap_err();
        let flag =
            flags.rsplit("--").find(|part| error.contains(&format!("--{}", part.split([' ', '=']).next().unwrap())));
        assert!(flag.is_some() || error.contains("unexpected argument"), "{flags}: {error}");
    }
}

#[test]
fn urls_with_and_without_v1() {
    for (text, shown, path) in [
        ("http://127.0.0.1:1919", "http://127.0.0.1:1919", "/v1/models"),
        ("http://127.0.0.1:1919/v1", "http://127.0.0.1:1919", "/v1/models"),
        ("http://localhost/v1/", "http://localhost:80", "/v1/models"),
        ("https://a.example/x/v1", "https://a.example:443/x", "/x/v1/models"),
        ("http://[::1]:8000/x/", "http://[::1]:8000/x", "/x/v1/models"),
        ("http://[::1]", "http://[::1]:80", "/v1/models"),
    ] {
        let url: ServerUrl = text.parse().unwrap();
        assert_eq!((url.to_string().as_str(), url.path("models").as_str()), (shown, path), "{text}");
        assert_eq!(url.to_string().parse::<ServerUrl>().unwrap(), url);
    }
    for text in [
        "",
        "127.0.0.1:1919",
        "localhost",
        "ftp://a",
        "http://",
        "http://:80",
        "http://a:0",
        "http://a:65536",
        "http://a:x",
        "http://u:p@a/",
        "http://a/v1?x=1",
        "http://a/ b",
        "http://[::1",
        "http://[zz]",
        "http://[::1]x",
        "http://a b",
        "http://a/\r\nx",
    ] {
        assert!(text.parse::<ServerUrl>().is_err(), "{text}");
    }
}

#[test]
fn the_public_trace_has_an_address() {
    let trace = PublicTrace::qwen();
    assert!(trace.url.starts_with("https://") && trace.url.ends_with(&trace.file), "{trace:?}");
}

/// The committed file is what its generator makes, byte for byte.
#[test]
fn the_shipped_trace_is_reproduced_by_its_generator() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/traces/make_demo.py");
    match std::process::Command::new("python3").arg(script).output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(output.stdout == SHIPPED_TRACE.as_bytes(), "run: python3 {script} > demo.jsonl");
        }
        Err(error) => eprintln!("python3 cannot be run ({error}): the generator was not compared"),
    }
}
