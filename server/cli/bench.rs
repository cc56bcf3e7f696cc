//! `minisgl bench offline|batched`: the engine's own speed, through the library's API and no HTTP.
//!
//! Prompts are distinct random token ids, nothing ends early, and no prefix is cached (that is `bench`'s default); with
//! `--dataset` they are recorded questions, and answers end by themselves.
mod questions;

use std::process::ExitCode;
use std::time::Instant;

use minisgl::llm::{Llm, SamplingParams, TextEvent};
use minisgl_config::{BenchBatchedSettings, BenchOfflineSettings, LengthRange};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::{Failed, Outcome, load};

/// mini-sglang's bound: its benchmarks draw token ids from 0 to 10,000.
const LARGEST_ID: u32 = 10_000;

/// `minisgl bench offline`
pub(crate) fn offline(settings: &BenchOfflineSettings) -> Outcome {
    if let Some(dataset) = &settings.dataset {
        return questions::run(settings, dataset);
    }
    let llm = load::load(&settings.engine)?;
    let mut random = StdRng::seed_from_u64(settings.seed);
    let mut prompts = Vec::with_capacity(settings.num_seqs);
    let mut params = Vec::with_capacity(settings.num_seqs);
    for index in 0..settings.num_seqs {
        let (input, output) = (draw(&mut random, settings.input_len), draw(&mut random, settings.output_len));
        fits(&llm, input, output)?;
        prompts.push(random_prompt(&mut random, &llm, input));
        params.push(SamplingParams {
            temperature: settings.temperature as f32,
            max_tokens: output,
            ignore_eos: true,
            seed: Some(settings.seed.wrapping_add(index as u64)),
            ..SamplingParams::default()
        });
    }
    let input: usize = prompts.iter().map(Vec::len).sum();
    warm_up(&llm, &mut random)?;

    eprintln!("{} sequences, {input} prompt tokens, on {}", prompts.len(), llm.device());
    let started = Instant::now();
    let output: usize = llm.generate(prompts, params)?.iter().map(|done| done.token_ids.len()).sum();
    let seconds = started.elapsed().as_secs_f64();

    let (output_rate, total_rate) = (output as f64 / seconds, (input + output) as f64 / seconds);
    if settings.json {
        say!(
            "{}",
            json!({
                "num_seqs": settings.num_seqs, "input_tokens": input, "output_tokens": output, "duration_s": seconds,
                "output_tok_s": output_rate, "total_tok_s": total_rate,
            })
        );
    } else {
        say!("{output} output tokens in {seconds:.2} s: {output_rate:.1} output tok/s, {total_rate:.1} total tok/s");
    }
    llm.shutdown();
    Ok(ExitCode::SUCCESS)
}

/// `minisgl bench batched`
pub(crate) fn batched(settings: &BenchBatchedSettings) -> Outcome {
    let llm = load::load(&settings.engine)?;
    fits(&llm, settings.prompt_len, settings.output_len)?;
    let mut random = StdRng::seed_from_u64(0);
    // The largest batch first, and not counted: a page of the K/V cache is memory that the system hands out, zeroed, when it is
    // first written, which a server that has run for a while does no more.
    if let Some(&largest) = settings.batch.iter().max() {
        let prompts = (0..largest).map(|_| random_prompt(&mut random, &llm, settings.prompt_len)).collect();
        timed(&llm, prompts, settings.output_len)?;
    }
    eprintln!(
        "{} prompt and {} output tokens a sequence, on {}",
        settings.prompt_len,
        settings.output_len,
        llm.device()
    );
    if !settings.json {
        say!("{:>6} {:>15} {:>15}", "batch", "prefill tok/s", "decode tok/s");
    }
    for &batch in &settings.batch {
        let (prefill, decode) = phases(&llm, &mut random, batch, settings)?;
        let prefill_rate = (batch * settings.prompt_len) as f64 / prefill;
        let decode_rate = (batch * (settings.output_len - 1)) as f64 / decode;
        if settings.json {
            say!("{}", json!({"batch": batch, "prefill_tok_s": prefill_rate, "decode_tok_s": decode_rate}));
        } else {
            say!("{batch:>6} {prefill_rate:>15.1} {decode_rate:>15.1}");
        }
    }
    llm.shutdown();
    Ok(ExitCode::SUCCESS)
}

/// Seconds of prefill and of decode. A sequence alone has one after the other. Of several, some decode while others' prompts
/// are fed, so a run to the first tokens is prefill, and what a whole run takes longer is decode.
fn phases(llm: &Llm, random: &mut StdRng, batch: usize, settings: &BenchBatchedSettings) -> Result<(f64, f64), Failed> {
    let mut run = |output| {
        let prompts = (0..batch).map(|_| random_prompt(random, llm, settings.prompt_len)).collect();
        timed(llm, prompts, output)
    };
    let (mut prefill, whole) = run(settings.output_len)?;
    if batch > 1 {
        prefill = prefill.min(run(1)?.0);
    }
    Ok((prefill, whole - prefill))
}

/// Seconds to the last first token, and to the end.
fn timed(llm: &Llm, prompts: Vec<Vec<u32>>, output: usize) -> Result<(f64, f64), Failed> {
    let params = SamplingParams { temperature: 0.0, max_tokens: output, ignore_eos: true, ..SamplingParams::default() };
    let mut tokens = vec![0_usize; prompts.len()];
    let mut without_token = prompts.len();
    let started = Instant::now();
    let mut prefilled = started;
    for event in llm.generate_stream(prompts, params)? {
        match event? {
            (index, TextEvent::Token { .. }) => {
                tokens[index] += 1;
                if tokens[index] == 1 {
                    without_token -= 1;
                    if without_token == 0 {
                        prefilled = Instant::now();
                    }
                }
            }
            (_, TextEvent::Finished { .. }) => {}
            (_, TextEvent::Failed(failure)) => return Err(failure.into()),
        }
    }
    let ended = Instant::now();
    assert!(tokens.iter().all(|&tokens| tokens == output), "every sequence has all its tokens");
    Ok(((prefilled - started).as_secs_f64(), (ended - started).as_secs_f64()))
}

/// A first small run touches weights and buffers, so that the measured one does not pay for it.
fn warm_up(llm: &Llm, random: &mut StdRng) -> Result<(), Failed> {
    let room = llm.capacity().longest_sequence();
    let params = SamplingParams { temperature: 0.0, max_tokens: 4, ignore_eos: true, ..SamplingParams::default() };
    let input = 32.min(room.saturating_sub(4)).max(1);
    llm.generate(vec![random_prompt(random, llm, input), random_prompt(random, llm, input)], params)?;
    Ok(())
}

fn draw(random: &mut StdRng, range: LengthRange) -> usize {
    random.random_range(range.min()..=range.max())
}

fn random_prompt(random: &mut StdRng, llm: &Llm, tokens: usize) -> Vec<u32> {
    let largest = LARGEST_ID.min(llm.capacity().vocabulary as u32 - 1);
    (0..tokens).map(|_| random.random_range(0..=largest)).collect()
}

/// A length that would be clamped would make the figures mean something else.
fn fits(llm: &Llm, input: usize, output: usize) -> Result<(), Failed> {
    let room = llm.capacity().longest_sequence();
    if input + output > room {
        return Err(format!(
            "{input} prompt and {output} output tokens do not fit: the model's context and the K/V cache hold {room} \
             (--max-seq-len-override, --num-pages)"
        )
        .into());
    }
    Ok(())
}
