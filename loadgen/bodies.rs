//! The requests' JSON, made before a run begins.
//!
//! Owns the fields of a request and that no two prompts are the same. A prompt is a function of seed, run and place in the
//! run: each run of a command has fresh ones, so that no run is served from what the last one left in a prefix cache.
//! Knows nothing of how a prompt of so many tokens is made.
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use serde::Serialize;

use crate::lengths::Lengths;
use crate::rng::SplitMix;

/// Makes a prompt of exactly so many tokens from a sequence of numbers; the same prompt from the same sequence.
pub(crate) type MakePrompt<'a> = dyn Fn(usize, &mut SplitMix) -> Result<String, String> + Sync + 'a;

/// How often a prompt that already exists is made anew: of one token there are only so many.
const ATTEMPTS: u64 = 32;

/// One run's requests.
pub(crate) struct Batch<'a> {
    /// The model to ask for.
    pub(crate) model: &'a str,
    /// The command's seed.
    pub(crate) seed: u64,
    /// Which of the command's runs.
    pub(crate) run: u64,
    /// What each request asks for.
    pub(crate) lengths: &'a [Lengths],
}

#[derive(Serialize)]
struct ChatBody<'a> {
    model: &'a str,
    messages: [Message<'a>; 1],
    max_tokens: usize,
    temperature: u8,
    ignore_eos: bool,
    stream: bool,
    stream_options: StreamOptions,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

impl Batch<'_> {
    /// Makes every body, on all cores; `on_step` is called after each.
    pub(crate) fn prepare(&self, make: &MakePrompt<'_>, on_step: &(dyn Fn() + Sync)) -> Result<Vec<Bytes>, String> {
        let (next, made) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(self.lengths.len())));
        let work = || -> Result<(), String> {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= self.lengths.len() {
                    return Ok(());
                }
                let body = self.body(make, index, 0)?;
                made.lock().expect("no panic while it is held").push((index, body));
                on_step();
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(self.lengths.len().max(1));
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mine = work();
            let others = others.into_iter().map(|thread| thread.join().expect("a prompt maker does not panic"));
            others.fold(mine, Result::and)
        })?;
        let mut made = made.into_inner().expect("no panic while it was held");
        made.sort_unstable_by_key(|&(index, _)| index);
        self.distinct(make, made.into_iter().map(|(_, body)| body).collect())
    }

    /// Replaces bodies whose prompt stands earlier in the run.
    fn distinct(&self, make: &MakePrompt<'_>, made: Vec<(u64, Bytes)>) -> Result<Vec<Bytes>, String> {
        let mut seen = HashSet::with_capacity(made.len());
        let fresh = made.into_iter().enumerate().map(|(index, (mut hash, mut body))| {
            let mut attempt = 1;
            while !seen.insert(hash) && attempt <= ATTEMPTS {
                (hash, body) = self.body(make, index, attempt)?;
                attempt += 1;
            }
            Ok(body)
        });
        fresh.collect()
    }

    /// The hash of a prompt, and the body it is in.
    fn body(&self, make: &MakePrompt<'_>, index: usize, attempt: u64) -> Result<(u64, Bytes), String> {
        let Lengths { input, output } = self.lengths[index];
        let prompt = make(input, &mut SplitMix::of(self.seed, &[self.run, index as u64, attempt]))?;
        let mut hasher = DefaultHasher::new();
        prompt.hash(&mut hasher);
        let body = ChatBody {
            model: self.model,
            messages: [Message { role: "user", content: &prompt }],
            max_tokens: output,
            temperature: 0,
            ignore_eos: true,
            stream: true,
            stream_options: StreamOptions { include_usage: true },
        };
        let json = serde_json::to_vec(&body).map_err(|error| error.to_string())?;
        Ok((hasher.finish(), Bytes::from(json)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words of one letter: easily the same.
    fn letters(n: usize, rng: &mut SplitMix) -> Result<String, String> {
        Ok((0..n).map(|_| (b'a' + rng.between(0, 9) as u8) as char).collect())
    }

    fn contents(run: u64, lengths: &[Lengths]) -> Vec<String> {
        let batch = Batch { model: "m", seed: 1, run, lengths };
        let bodies = batch.prepare(&letters, &|| {}).unwrap();
        let json = |body: &Bytes| serde_json::from_slice::<serde_json::Value>(body).unwrap();
        bodies.iter().map(|body| json(body)["messages"][0]["content"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_body_has_the_fields_that_every_server_takes() {
        let batch = Batch { model: "m\"1", seed: 0, run: 0, lengths: &[Lengths { input: 3, output: 7 }] };
        let bodies = batch.prepare(&|_, _| Ok("a \"b\"\n".to_owned()), &|| {}).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&bodies[0]).unwrap();
        let expected = serde_json::json!({
            "model": "m\"1", "messages": [{"role": "user", "content": "a \"b\"\n"}], "max_tokens": 7, "temperature": 0,
            "ignore_eos": true, "stream": true, "stream_options": {"include_usage": true},
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn prompts_are_distinct_in_order_and_the_same_again() {
        let lengths: Vec<Lengths> = (0..60).map(|i| Lengths { input: 2 + i % 3, output: 1 }).collect();
        let first = contents(0, &lengths);
        assert!(first.iter().zip(&lengths).all(|(content, lengths)| content.len() == lengths.input));
        assert_eq!(first.iter().collect::<HashSet<_>>().len(), 60);
        assert_eq!(first, contents(0, &lengths));
        let shared = contents(1, &lengths).iter().zip(&first).filter(|(a, b)| a == b).count();
        assert!(shared < 10, "a second run has fresh prompts");
    }

    #[test]
    fn where_no_distinct_prompt_is_left_it_ends_all_the_same() {
        assert_eq!(contents(0, &[Lengths { input: 1, output: 1 }; 30]).len(), 30);
    }

    #[test]
    fn an_error_of_any_thread_is_the_result() {
        let lengths = [Lengths { input: 1, output: 1 }; 20];
        let batch = Batch { model: "m", seed: 0, run: 0, lengths: &lengths };
        assert_eq!(batch.prepare(&|_, _| Err("no".to_owned()), &|| {}).unwrap_err(), "no");
    }
}
