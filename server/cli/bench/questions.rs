//! `minisgl bench offline --dataset`: recorded questions through the chat template, answers with their own ends.
use std::process::ExitCode;
use std::time::Instant;

use minisgl::llm::{Completion, Llm, SamplingParams};
use minisgl::request::{FinishReason, Prompt};
use minisgl_config::{BenchDataset, BenchOfflineSettings};
use minisgl_loadgen::datasets::{self, Dataset, DatasetSource};
use minisgl_loadgen::inspect::Spread;
use minisgl_tokenizer::{ChatMessage, ChatOptions};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;

use super::super::{Outcome, load};

/// Asks every question at once.
pub(super) fn run(settings: &BenchOfflineSettings, dataset: &BenchDataset) -> Outcome {
    // Read before the model is loaded: a bad row costs no minute.
    let source = DatasetSource::named(&dataset.source);
    let questions = datasets::first_questions(&source, settings.num_seqs, true)?;
    if questions.prompts.len() < settings.num_seqs {
        eprintln!("{}: only {} questions, not {}", questions.name, questions.prompts.len(), settings.num_seqs);
    }
    let llm = load::load(&settings.engine)?;
    let (fitting, too_long) = fitting(&llm, &questions)?;
    if fitting.is_empty() {
        return Err(format!("{}: no question fits the model's context and the K/V cache", questions.name).into());
    }
    super::warm_up(&llm, &mut StdRng::seed_from_u64(settings.seed))?;
    let params: Vec<SamplingParams> = (0..fitting.len() as u64)
        .map(|index| SamplingParams {
            temperature: settings.temperature as f32,
            max_tokens: dataset.max_output_len,
            seed: Some(settings.seed.wrapping_add(index)),
            ..SamplingParams::default()
        })
        .collect();
    let room = llm.capacity().longest_sequence();
    let budget: usize = fitting.iter().map(|(_, tokens)| dataset.max_output_len.min(room - tokens)).sum();
    eprintln!("{} questions of {}, on {}", fitting.len(), questions.name, llm.device());

    let prompts: Vec<Prompt> = fitting.into_iter().map(|(message, _)| Prompt::Chat(vec![message])).collect();
    let started = Instant::now();
    let answers = llm.generate(prompts, params)?;
    let run =
        Run { questions: &questions, too_long, answers: &answers, budget, seconds: started.elapsed().as_secs_f64() };
    if settings.json {
        say!("{}", run.json());
    } else {
        run.print();
    }
    llm.shutdown();
    Ok(ExitCode::SUCCESS)
}

/// The questions that leave room for an answer, with their tokens, and how many do not.
fn fitting(llm: &Llm, questions: &Dataset) -> Result<(Vec<(ChatMessage, usize)>, usize), super::Failed> {
    let room = llm.capacity().longest_sequence();
    let mut fitting = Vec::with_capacity(questions.prompts.len());
    for question in &questions.prompts {
        let message = ChatMessage::new("user", question.as_str());
        let tokens = llm.tokenizer().encode_chat(std::slice::from_ref(&message), &ChatOptions::default())?.len();
        if tokens < room {
            fitting.push((message, tokens));
        }
    }
    let too_long = questions.prompts.len() - fitting.len();
    Ok((fitting, too_long))
}

/// What was measured.
struct Run<'a> {
    questions: &'a Dataset,
    too_long: usize,
    answers: &'a [Completion],
    /// Output tokens that the limits allow.
    budget: usize,
    seconds: f64,
}

impl Run<'_> {
    fn lengths(&self) -> [Option<Spread>; 2] {
        let spread =
            |length: fn(&Completion) -> usize| Spread::of(self.answers.iter().map(|answer| length(answer) as u64));
        [spread(|answer| answer.prompt_tokens), spread(|answer| answer.token_ids.len())]
    }

    fn totals(&self) -> [usize; 2] {
        let sum = |length: fn(&Completion) -> usize| self.answers.iter().map(length).sum();
        [sum(|answer| answer.prompt_tokens), sum(|answer| answer.token_ids.len())]
    }

    fn stopped(&self) -> usize {
        self.answers.iter().filter(|answer| answer.finish_reason == FinishReason::Stop).count()
    }

    fn json(&self) -> serde_json::Value {
        let ([input, output], [input_tokens, output_tokens]) = (self.totals(), self.lengths());
        json!({
            "dataset": self.questions.name, "rows": self.questions.rows, "skipped": self.questions.skipped,
            "too_long": self.too_long, "num_seqs": self.answers.len(), "input_tokens": input, "output_tokens": output,
            "output_budget": self.budget, "stopped": self.stopped(), "duration_s": self.seconds,
            "output_tok_s": output as f64 / self.seconds, "total_tok_s": (input + output) as f64 / self.seconds,
            "input_lengths": input_tokens, "output_lengths": output_tokens,
        })
    }

    fn print(&self) {
        let ([input, output], lengths) = (self.totals(), self.lengths());
        let skipped = self.questions.skipped;
        say!(
            "{} rows read: {} in other languages, {} redacted, {} toxic, {} without a question, {} too long for the model",
            self.questions.rows,
            skipped.language,
            skipped.redacted,
            skipped.toxic,
            skipped.empty,
            self.too_long
        );
        say!("{:<14}{:>10}{:>10}{:>10}{:>10}{:>10}", "tokens", "mean", "p50", "p90", "p99", "max");
        for (name, spread) in ["input", "output"].into_iter().zip(lengths) {
            if let Some(Spread { mean, p50, p90, p99, max, .. }) = spread {
                say!("{name:<14}{mean:>10.1}{p50:>10}{p90:>10}{p99:>10}{max:>10}");
            }
        }
        let share = output as f64 / self.budget.max(1) as f64 * 100.0;
        say!(
            "budget {} output tokens, used {output} ({share:.1} %); {} of {} answers ended by themselves",
            self.budget,
            self.stopped(),
            self.answers.len()
        );
        let (output_rate, total_rate) = (output as f64 / self.seconds, (input + output) as f64 / self.seconds);
        say!(
            "{output} output tokens in {:.2} s: {output_rate:.1} output tok/s, {total_rate:.1} total tok/s",
            self.seconds
        );
    }
}
