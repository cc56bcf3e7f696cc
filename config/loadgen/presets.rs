//! Whole experiments by name: the flags that each stands for.
//!
//! Owns mini-sglang's two benchmarks as flags. What a flag means is not known here: a preset fills in what was not typed.
use super::args::LoadgenArgs;
use super::resolve::{LoadgenArgsError, refused};
use super::settings::{LengthDistribution, Preset, PromptKind};
use super::values::MOST_CONCURRENT;
use crate::LengthRange;

/// `bench_qwen.py`'s requests and time scales.
const QWEN: (u64, [f64; 6]) = (1000, [0.4, 0.5, 0.6, 0.7, 0.8, 1.6]);

/// `bench_simple.py`'s requests, its longest prompt and its outputs.
const SIMPLE: (u64, usize, (usize, usize)) = (64, 8192, (16, 1024));

/// Flags that say when requests are sent: a preset has its own times.
const LOADS: [&str; 8] =
    ["--concurrency", "--rate", "--sweep", "--find-max-rate", "--arrival", "--burstiness", "--ramp", "--duration"];

/// Fills in what the preset says and was not typed; the preset, if any.
pub(super) fn apply(args: &mut LoadgenArgs) -> Result<Option<Preset>, LoadgenArgsError> {
    let (preset, typed) = match (args.preset, args.simple) {
        (None, false) => return Ok(None),
        (None | Some(Preset::BenchSimple), true) => (Preset::BenchSimple, "--simple".to_owned()),
        (Some(preset), false) => (preset, format!("--preset {}", preset.name())),
        (Some(_), true) => {
            return Err(LoadgenArgsError("--simple is --preset bench-simple: give one preset".to_owned()));
        }
    };
    let instead = format!("it has its own times; leave {typed} out and give the flags that it stands for");
    refused(args, &typed, &LOADS, &instead)?;
    match preset {
        Preset::BenchQwen => qwen(args, &typed)?,
        Preset::BenchSimple => simple(args, &typed)?,
    }
    Ok(Some(preset))
}

fn qwen(args: &mut LoadgenArgs, typed: &str) -> Result<(), LoadgenArgsError> {
    let (requests, scales) = QWEN;
    refused(args, typed, &["--turns"], "its prompts are prefixes of one text")?;
    args.trace.get_or_insert_with(|| "qwen".to_owned());
    args.limit.get_or_insert(requests);
    args.prompts.get_or_insert(PromptKind::Shared);
    if args.time_scale.is_empty() {
        args.time_scale = scales.to_vec();
    }
    Ok(())
}

fn simple(args: &mut LoadgenArgs, typed: &str) -> Result<(), LoadgenArgsError> {
    if args.trace.is_some() {
        return Err(LoadgenArgsError(format!("--trace and {typed} exclude each other: give one")));
    }
    let drawn = ["--input-len", "--output-len", "--length-mix"];
    refused(args, typed, &drawn, "its lengths are fixed; --max-input-len and --max-output-len cap them")?;
    let of_traces = ["--time-scale", "--limit", "--input-len-scale", "--output-len-scale", "--turns"];
    refused(args, typed, &of_traces, "it is for --trace")?;
    let (requests, longest_input, (shortest_output, longest_output)) = SIMPLE;
    let requests = *args.num_requests.get_or_insert(requests);
    if requests > MOST_CONCURRENT {
        return Err(LoadgenArgsError(format!(
            "--num-requests {requests} at once are more than a system has ports for: at most {MOST_CONCURRENT}"
        )));
    }
    let range = |min, max| LengthDistribution::Uniform(LengthRange::new(min, max).expect("constants in bounds"));
    args.input_len = Some(range(1, longest_input));
    args.output_len = Some(range(shortest_output, longest_output));
    // As many places as requests, all of them open from the start, is everything at once.
    args.concurrency = vec![requests];
    args.ramp = Some(std::time::Duration::ZERO);
    Ok(())
}
