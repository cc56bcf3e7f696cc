//! The flags: which combinations stand, and what is said of the others.
use clap::Parser;

use std::time::Duration;

use super::resolve::Surroundings;
use super::settings::*;
use super::*;
use crate::LengthRange;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    args: LoadgenArgs,
}

/// The settings of flags in an environment; words are parted by spaces, `~` within a word stands for one.
fn resolve_with(flags: &str, variables: &[(&str, &str)]) -> Result<LoadgenSettings, String> {
    let words: Vec<String> = flags.split_whitespace().map(|word| word.replace('~', " ")).collect();
    let cli = Cli::try_parse_from(std::iter::once("loadgen".to_owned()).chain(words.iter().cloned()))
        .map_err(|error| error.to_string())?;
    let variable = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    cli.args.resolve_in(&Surroundings { variable: &variable, words }).map_err(|error| error.to_string())
}

/// Without a record of the command, which every test would have to repeat.
fn resolve(flags: &str) -> Result<LoadgenSettings, String> {
    resolve_with(flags, &[]).map(|mut settings| {
        settings.report.command.clear();
        settings
    })
}

fn range(min: usize, max: usize) -> LengthDistribution {
    LengthDistribution::Uniform(LengthRange::new(min, max).unwrap())
}

fn one_class(input: LengthDistribution, output: LengthDistribution) -> Vec<LengthClass> {
    vec![LengthClass { name: String::new(), weight: 1.0, input, output }]
}

#[test]
fn a_trace_with_its_scales_and_caps() {
    let flags = "--trace a/b.jsonl --time-scale 0.4,0.8 --limit 10 --input-len-scale 0.5 --output-len-scale 2 \
                 --max-input-len 100 --max-output-len 50 --url https://example.org/api/v1/ --model m --tokenizer t \
                 --timeout 1.5 --seed 7 --json - --turns causal --prompts hash --duration 1m";
    let expected = LoadgenSettings {
        server: Server {
            url: ServerUrl { https: true, host: "example.org".into(), port: 443, prefix: "/api".into() },
            model: Some("m".into()),
            tokenizer: Some("t".into()),
            timeout: Duration::from_millis(1500),
            ..Server::default()
        },
        workload: Workload {
            source: Source::Trace { file: TraceSource::File("a/b.jsonl".into()), limit: Some(10) },
            duration: Some(Duration::from_secs(60)),
            lengths: LengthRules { input_scale: 0.5, output_scale: 2.0, max_input: Some(100), max_output: Some(50) },
            prompts: Some(PromptKind::Hash),
            turns: Turns::Causal,
            cancel: None,
        },
        points: vec![Load::TraceTimes { scale: 0.4 }, Load::TraceTimes { scale: 0.8 }],
        runs: Runs::default(),
        seed: 7,
        report: Report { json: Some(JsonOutput::Stdout), ..Report::default() },
        preset: None,
    };
    assert_eq!(resolve(flags), Ok(expected));
}

#[test]
fn defaults_are_the_local_server_and_the_whole_trace() {
    assert_eq!(resolve("--trace shipped"), Ok(LoadgenSettings::shipped(ServerUrl::default())));
    let qwen = resolve("--trace qwen").unwrap().workload.source;
    assert_eq!(qwen, Source::Trace { file: TraceSource::Public(PublicTrace::qwen()), limit: None });
}

#[test]
fn drawn_workloads() {
    let closed = resolve("--concurrency 4 --num-requests 12 --input-len 5-40 --output-len 7").unwrap();
    let source = |mix, num_requests| Source::Drawn { mix, shared_prefix: None, num_requests };
    assert_eq!(closed.workload.source, source(one_class(range(5, 40), range(7, 7)), Some(12)));
    assert_eq!(closed.points, [Load::Closed { concurrency: 4, ramp: Duration::from_millis(30) }]);

    let rate = resolve(
        "--rate 2,8 --burstiness 0.5 --ramp 10s --duration 2m --input-len normal:500,100 \
         --output-len lognormal:50,0.7 --max-input-len 900 --shared-prefix 8:1000 --cancel-rate 0.1 --cancel-after 500ms",
    )
    .unwrap();
    let lengths = one_class(
        LengthDistribution::Normal { mean: 500.0, sd: 100.0 },
        LengthDistribution::LogNormal { median: 50.0, sigma: 0.7 },
    );
    let shared_prefix = Some(SharedPrefix { groups: 8, tokens: 1000 });
    assert_eq!(rate.workload.source, Source::Drawn { mix: lengths, shared_prefix, num_requests: None });
    assert_eq!(rate.workload.lengths, LengthRules { max_input: Some(900), ..LengthRules::default() });
    assert_eq!(rate.workload.duration, Some(Duration::from_secs(120)));
    assert_eq!(rate.workload.cancel, Some(Cancel { rate: 0.1, after: Duration::from_millis(500) }));
    let arrival = Arrival::Gamma { burstiness: 0.5 };
    assert_eq!(rate.points, [2.0, 8.0].map(|per_s| Load::Rate { per_s, arrival, ramp: Duration::from_secs(10) }));

    let mixed =
        resolve("--rate 1 --num-requests 9 --length-mix chat=3:lognormal:300,0.8:50-400;code=1:4000:file:x.txt");
    let class = |name: &str, weight, input, output| LengthClass { name: name.into(), weight, input, output };
    let lognormal = LengthDistribution::LogNormal { median: 300.0, sigma: 0.8 };
    let classes = vec![
        class("chat", 3.0, lognormal, range(50, 400)),
        class("code", 1.0, range(4000, 4000), LengthDistribution::File("x.txt".into())),
    ];
    assert_eq!(mixed.unwrap().workload.source, source(classes, Some(9)));
}

#[test]
fn when_requests_are_sent() {
    let lengths = "--num-requests 100 --input-len 1 --output-len 1";
    let points = |flags: &str| resolve(&format!("{flags} {lengths}")).unwrap().points;
    let traced = |flags: &str| resolve(&format!("--trace a {flags}")).unwrap().points;
    let closed = |concurrency, ramp_ms| Load::Closed { concurrency, ramp: Duration::from_millis(ramp_ms) };
    let rate = |per_s, arrival| Load::Rate { per_s, arrival, ramp: Duration::ZERO };
    assert_eq!(points("--sweep concurrency=1,64"), [closed(1, 0), closed(64, 630)]);
    assert_eq!(points("--concurrency 64 --ramp 0s"), [closed(64, 0)]);
    assert_eq!(traced("--concurrency 5000"), [closed(5000, 10_000)]);
    assert_eq!(points("--rate 3 --arrival constant"), [rate(3.0, Arrival::Constant)]);
    assert_eq!(points("--rate 3"), [rate(3.0, Arrival::Poisson)]);
    let gamma = rate(3.0, Arrival::Gamma { burstiness: 2.0 });
    assert_eq!(points("--rate 3 --arrival gamma --burstiness 2"), [gamma]);
    assert_eq!(traced("--sweep rate=1,2"), [rate(1.0, Arrival::Poisson), rate(2.0, Arrival::Poisson)]);
    assert_eq!(traced("--sweep scale=0,2"), [Load::TraceTimes { scale: 0.0 }, Load::TraceTimes { scale: 2.0 }]);
}

#[test]
fn a_search_begins_at_a_rate_or_at_the_traces_own() {
    let search = "--find-max-rate --slo ttft=500ms,tpot=0.05 --slo-share 0.9 --precision 0.1";
    let drawn = resolve(&format!("{search} --rate 8 --duration 30s --input-len 1 --output-len 1")).unwrap();
    let find = FindMaxRate { share: 0.9, start: 8.0, precision: 0.1, arrival: Arrival::Poisson };
    assert_eq!(drawn.runs.find_max_rate, Some(find));
    let ms = |ms| Some(Duration::from_millis(ms));
    assert_eq!(drawn.report.slo, Slo { ttft: ms(500), tpot: ms(50), e2e: None });
    let rate = |per_s| Load::Rate { per_s, arrival: Arrival::Poisson, ramp: Duration::ZERO };
    assert_eq!((drawn.points.as_slice(), drawn.load_at(4.0)), ([rate(8.0)].as_slice(), rate(4.0)));
    let traced = resolve(&format!("--trace a {search}")).unwrap();
    assert_eq!(traced.load_at(2.0), Load::TraceTimes { scale: 0.5 });
    assert_eq!(resolve(&format!("--trace a --rate 2 {search}")).unwrap().load_at(3.0), rate(3.0));
}

#[test]
fn presets_are_the_flags_that_they_stand_for() {
    let scales = "0.4,0.5,0.6,0.7,0.8,1.6";
    let same = |preset: &str, flags: &str| {
        let preset = resolve(preset).unwrap();
        assert!(preset.preset.is_some());
        assert_eq!(LoadgenSettings { preset: None, ..preset }, resolve(flags).unwrap(), "{flags}");
    };
    same("--preset bench-qwen", &format!("--trace qwen --limit 1000 --prompts shared --time-scale {scales}"));
    same(
        "--preset bench-qwen --trace a --limit 5 --input-len-scale 0.5 --time-scale 1",
        "--trace a --limit 5 --prompts shared --time-scale 1 --input-len-scale 0.5",
    );
    assert_eq!(resolve("--preset bench-qwen").unwrap().preset.and_then(Preset::server_flag), Some("--cache naive"));
    let simple = resolve("--simple --max-input-len 100").unwrap();
    assert_eq!(simple, resolve("--preset bench-simple --max-input-len 100").unwrap());
    assert!(simple.runs.connection_test);
    assert_eq!(simple.points, [Load::Closed { concurrency: 64, ramp: Duration::ZERO }]);
    let source = |n| Source::Drawn {
        mix: one_class(range(1, 8192), range(16, 1024)),
        shared_prefix: None,
        num_requests: Some(n),
    };
    assert_eq!(simple.workload.source, source(64));
    assert_eq!(resolve("--simple --num-requests 3").unwrap().workload.source, source(3));
}

#[test]
fn the_server_and_the_body() {
    let flags = "--trace a --endpoint completions --header X-Team:~search --header a:b --strict-openai --no-ignore-eos \
                 --temperature 0.6 --threads 3 --timeout 2m --disable-keepalive --extra-body {\"top_p\":0.9,\"ignore_eos\":null}";
    let server = resolve(flags).unwrap().server;
    let extra_body = serde_json::json!({"top_p": 0.9, "ignore_eos": null}).as_object().unwrap().clone();
    let expected = Server {
        endpoint: Endpoint::Completions,
        headers: vec![("X-Team".into(), "search".into()), ("a".into(), "b".into())],
        extra_body,
        strict_openai: true,
        ignore_eos: false,
        temperature: 0.6,
        threads: 3,
        keep_alive: false,
        timeout: Duration::from_secs(120),
        ..Server::default()
    };
    assert_eq!(server, expected);
    let path = |endpoint: Endpoint| endpoint.path(&"http://a/x/v1".parse().unwrap());
    let paths = [Endpoint::Chat, Endpoint::Completions, Endpoint::Generate].map(path);
    assert_eq!(paths, ["/x/v1/chat/completions", "/x/v1/completions", "/x/generate"]);
}

#[test]
fn the_report() {
    let flags = "--trace a --out d --raw r.jsonl --metrics-compat vllm,mini-sglang --warmup-window 5s --max-lag 2ms \
                 --strict --metrics-port 0 --no-scrape --repeat 3 --warmup 8 --slo e2e=10s --json j";
    let settings = resolve(flags).unwrap();
    let expected = Report {
        json: Some(JsonOutput::File("j".into())),
        out: Some("d".into()),
        raw: Some("r.jsonl".into()),
        compat: vec![Compat::Vllm, Compat::MiniSglang],
        slo: Slo { e2e: Some(Duration::from_secs(10)), ..Slo::default() },
        warmup_window: Some(Duration::from_secs(5)),
        max_lag: Duration::from_millis(2),
        strict: true,
        metrics_port: Some(0),
        scrape: false,
        command: String::new(),
    };
    assert_eq!(settings.report, expected);
    assert_eq!(settings.runs, Runs { repeat: 3, warmup: 8, ..Runs::default() });
}

#[test]
fn api_keys_come_from_the_flag_or_the_environment_and_are_never_recorded() {
    let both = [("MINISGL_API_KEY", "mine"), ("OPENAI_API_KEY", "theirs")];
    let key = |flags: &str, variables: &[(&str, &str)]| {
        let settings = resolve_with(&format!("--trace a {flags}"), variables).unwrap();
        assert!(!settings.report.command.contains("typed"), "{}", settings.report.command);
        settings.server.api_key
    };
    assert_eq!(key("--api-key typed", &both).as_deref(), Some("typed"));
    assert_eq!(key("--api-key=typed", &both).as_deref(), Some("typed"));
    assert_eq!(key("--header Authorization:~typed", &both), None);
    assert_eq!(key("", &both).as_deref(), Some("mine"));
    assert_eq!(key("--url https://a.example", &both[1..]).as_deref(), Some("theirs"));
    assert_eq!(key("--url http://localhost:1", &both[1..]).as_deref(), Some("theirs"));
    assert_eq!(key("--url http://a.example", &both[1..]), None, "in plain text to a stranger");
    assert_eq!(key("", &[("MINISGL_API_KEY", "")]), None);
    let settings = resolve_with("--trace a~b --api-key typed --url http://h --header x:typed", &[]).unwrap();
    assert_eq!(settings.report.command, "--trace 'a b' --api-key *** --url http://h --header ***");
}

#[test]
fn what_does_not_go_together_is_named() {
    let drawn = "--num-requests 3 --input-len 1 --output-len 1";
    for (flags, said) in [
        ("", "nothing to send"),
        ("--duration 3", "nothing to send"),
        ("--time-scale 1", "--time-scale is for --trace"),
        ("--trace a --simple", "--trace and --simple exclude each other"),
        ("--preset bench-qwen --simple", "give one preset"),
        ("--preset bench-qwen --rate 3", "--rate does not go with --preset bench-qwen"),
        ("--preset bench-qwen --turns causal", "--turns does not go with --preset bench-qwen"),
        ("--trace a --num-requests 3", "--num-requests does not go with --trace: --limit"),
        ("--trace a --input-len 3", "--input-len does not go with --trace"),
        ("--trace a --shared-prefix 3:3", "--shared-prefix does not go with --trace"),
        ("--trace a --rate 1 --concurrency 3", "--rate and --concurrency exclude each other"),
        ("--trace a --rate 1 --time-scale 3", "--time-scale and --rate exclude each other"),
        ("--trace a --ramp 3", "--ramp does not go with a trace's own times"),
        ("--trace a --arrival poisson", "--arrival does not go with a trace's own times: give --rate"),
        ("--trace a --sweep rate=1 --rate 3", "--sweep has --rate's values already"),
        ("--trace a --sweep rate=1 --time-scale 3", "--time-scale and --rate exclude"),
        ("--trace a --prompts shared --turns causal", "--prompts shared does not go with --turns causal"),
        ("--trace a --cancel-rate 0.1", "--cancel-rate needs --cancel-after"),
        ("--trace a --cancel-after 1", "--cancel-after needs --cancel-rate"),
        ("--trace a --find-max-rate", "--find-max-rate needs --slo"),
        ("--trace a --find-max-rate --slo ttft=1 --rate 1,2", "begins at one --rate"),
        ("--trace a --find-max-rate --slo ttft=1 --concurrency 1", "--concurrency does not go with --find-max-rate"),
        ("--trace a --find-max-rate --slo ttft=1 --sweep scale=1", "--sweep does not go with --find-max-rate"),
        ("--trace a --slo-share 0.5", "--slo-share is for --find-max-rate"),
        ("--trace a --api-key k --header authorization:x", "say the same"),
        ("--trace a --api-key k~k", "--api-key has a space"),
        ("--trace a --endpoint generate --temperature 1", "--temperature does not go with --endpoint generate"),
        ("--trace a --endpoint generate --strict-openai", "--strict-openai does not go with --endpoint generate"),
        ("--trace a --json=", "--json is empty"),
        ("--simple --time-scale 2", "--time-scale does not go with --simple: it is for --trace"),
        ("--simple --output-len 2", "--output-len does not go with --simple"),
        ("--simple --concurrency 2", "--concurrency does not go with --simple"),
        ("--simple --num-requests 70000", "at most 60000"),
        ("--concurrency 2 --limit 2", "--limit does not go with --concurrency"),
        ("--concurrency 2 --turns open", "--turns does not go with --concurrency"),
        (
            "--concurrency 2 --arrival constant --num-requests 2 --input-len 1 --output-len 1",
            "a closed loop sends when",
        ),
        ("--concurrency 2 --input-len 3 --output-len 3", "--concurrency needs --num-requests"),
        ("--concurrency 2 --num-requests 3 --output-len 3", "--concurrency needs --input-len"),
        ("--rate 2 --num-requests 3 --input-len 3", "--rate needs --output-len"),
        (&format!("--rate 1 --prompts hash {drawn}"), "--prompts hash takes a trace's ids"),
        (
            &format!("--rate 1 --prompts shared --shared-prefix 1:1 {drawn}"),
            "--prompts shared does not go with --shared",
        ),
        (&format!("--rate 1 --length-mix a=1:1:1 {drawn}"), "--input-len does not go with --length-mix"),
        (&format!("--rate 1 --arrival gamma {drawn}"), "--arrival gamma needs --burstiness"),
        (&format!("--rate 1 --arrival constant --burstiness 2 {drawn}"), "--burstiness is the shape"),
        (&format!("--concurrency 4 {drawn}"), "--num-requests 3 cannot keep --concurrency 4"),
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
        "--trace a --timeout 5y",
        "--trace a --timeout NaN",
        "--trace a --duration 0",
        "--trace a --max-lag 0ms",
        "--trace a --seed=-1",
        "--trace a --cancel-rate 1.1",
        "--trace a --cancel-rate 0",
        "--trace a --slo ttft",
        "--trace a --slo ttft=1,ttft=2",
        "--trace a --slo itl=1",
        "--trace a --slo ttft=0",
        "--trace a --header x",
        "--trace a --header :x",
        "--trace a --header Host:x",
        "--trace a --header x:\u{1}",
        "--trace a --extra-body 3",
        "--trace a --extra-body {",
        "--trace a --extra-body {\"stream\":false}",
        "--trace a --temperature=-1",
        "--trace a --threads 1000",
        "--trace a --repeat 0",
        "--trace a --sweep rate=0",
        "--trace a --sweep rate",
        "--trace a --sweep users=3",
        "--trace a --sweep concurrency=1.5",
        "--trace a --metrics-port 70000",
        "--trace a --metrics-compat me",
        "--rate 0",
        "--rate 1 --burstiness 0",
        "--rate 1 --ramp=-1",
        "--rate 1 --shared-prefix 3",
        "--rate 1 --shared-prefix 0:3",
        "--rate 1 --input-len normal:1",
        "--rate 1 --input-len normal:0,1",
        "--rate 1 --input-len lognormal:5,11",
        "--rate 1 --input-len lognormal:NaN,1",
        "--rate 1 --input-len file:",
        "--rate 1 --input-len zipf:1",
        "--rate 1 --length-mix ;",
        "--rate 1 --length-mix a=0:1:1",
        "--rate 1 --length-mix a=1:1",
        "--rate 1 --length-mix a=1:1:1:1",
        "--rate 1 --length-mix a=1:1:normal",
        "--rate 1 --length-mix =1:1:1",
        "--rate 1 --length-mix a=1:1:1;a=1:1:1",
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
fn times_and_lengths_as_typed() {
    for (typed, ms) in
        [("250ms", 250), ("2", 2000), ("2s", 2000), ("0.5m", 30_000), ("1h", 3_600_000), ("1 min", 60_000)]
    {
        assert_eq!(values::time(typed), Ok(Duration::from_millis(ms)), "{typed}");
    }
    assert_eq!(values::time("50us"), Ok(Duration::from_micros(50)));
    for typed in ["5", "5-9", "normal:500,100", "lognormal:300,0.8", "file:a/b.txt"] {
        assert_eq!(typed.parse::<LengthDistribution>().unwrap().to_string(), typed);
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

/// Every flag has a place in the help, and no two clash.
#[test]
fn the_flags_are_well_formed() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
    let help = Cli::command().render_long_help().to_string();
    for heading in ["Workload", "Trace", "Arrivals", "Runs", "Server", "Report"] {
        assert!(help.contains(&format!("{heading}:\n")), "{heading}");
    }
    assert!(!help.contains("\nOptions:\n      --"), "a flag without a heading: {help}");
}
