//! The requests' JSON, made before a run begins.
//!
//! Owns the fields of each endpoint's body, where a prompt stands in it, and that no two prompts that share nothing are the
//! same. A prompt is a function of seed, run and place in the run: each run of a command has fresh ones, so that no run is
//! served from what the last one left in a prefix cache. Knows nothing of how a prompt of so many tokens is made, of
//! connections or of heads.
//!
//! ```text
//!  {"messages":[{"role":"user","content":"│ own text │"},{"role":"assistant","content":"│ answer of 0 │"}, … ],"max_tokens":9,…}
//!                                           prompts.rs                                  spliced in when it is there
//! ```
mod fields;
mod history;

use std::collections::HashSet;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use minisgl_config::loadgen::settings::{Endpoint, Server};
use minisgl_tokenizer::TokenId;

use crate::error::LoadgenError;
use crate::parallel;
use crate::prompts::Prompts;
use crate::prompts::content::{Own, Salt};
use crate::request::{Body, Job, Prompt, Request};
use crate::traces::Message;
use fields::Fields;

/// How often a prompt that already exists is made anew: of one token there are only so many.
const ATTEMPTS: u64 = 32;

/// One run's requests, and what they are asked of.
pub(crate) struct Batch<'a> {
    /// The server's settings: endpoint and fields.
    pub(crate) server: &'a Server,
    /// The model to ask for.
    pub(crate) model: &'a str,
    /// The command's seed.
    pub(crate) seed: u64,
    /// Which of the command's runs, counted over all points and repeats: each has fresh prompts.
    pub(crate) run: u64,
    /// What each request asks for.
    pub(crate) requests: &'a [Request],
    /// Where the first of them is in the run.
    pub(crate) first: usize,
    /// Threads that make them.
    pub(crate) threads: usize,
}

/// The part of a prompt that is a request's own, as JSON.
#[derive(Clone, Debug)]
enum OwnPart {
    /// `[1,2,3]`
    Ids(Bytes),
    /// Of one text, escaped and without quotation marks.
    Text(Bytes),
    /// Messages, separated by commas: those that no earlier turn has.
    Messages(Bytes),
}

impl Batch<'_> {
    /// Makes every body; `on_step` is called after each prompt.
    pub(crate) fn prepare(&self, prompts: &Prompts, on_step: &(dyn Fn() + Sync)) -> Result<Vec<Job>, LoadgenError> {
        let links = history::links(self.requests);
        let mut quoted = vec![false; self.requests.len()];
        links.iter().flatten().for_each(|&parent| quoted[parent] = true);
        // Where answers are quoted in texts, what stands before them must be a text too.
        let as_ids = self.server.endpoint == Endpoint::Completions && links.iter().all(Option::is_none);
        let fields = Fields::new(self.server, self.model);
        let maker = Maker { batch: self, prompts, links: &links, fields, as_ids };
        let made = parallel::in_order_on(self.threads, self.requests.len(), |index| {
            let part = maker.part(index, 0)?;
            on_step();
            Ok::<_, LoadgenError>(Made::of(part, &maker, index, quoted[index]))
        })?;
        let mut seen = HashSet::with_capacity(made.len());
        let (mut parts, mut wholes) = (Vec::with_capacity(made.len()), Vec::with_capacity(made.len()));
        for (index, mut made) in made.into_iter().enumerate() {
            // Only where nothing is to be shared: two turns may well ask the same.
            let mut attempt = 1;
            while self.requests[index].prompt == Prompt::Random && !seen.insert(made.hash) && attempt <= ATTEMPTS {
                made = Made::of(maker.part(index, attempt)?, &maker, index, quoted[index]);
                attempt += 1;
            }
            parts.push(made.part);
            wholes.push(made.whole);
        }
        let chats = history::Chats { endpoint: self.server.endpoint, links: &links, parts: &parts };
        let job = |(index, whole): (usize, Option<Bytes>)| {
            let request = &self.requests[index];
            Job {
                start: request.start,
                body: whole.map_or_else(|| chats.body(index, maker.fields.around(request)), Body::Whole),
                lengths: request.lengths,
                cancel_after: request.cancel_after,
                class: request.class,
                keep_answer: quoted[index],
            }
        };
        Ok(wholes.into_iter().enumerate().map(job).collect())
    }
}

/// A request that was made: whole where it stands for itself, else the part that bodies of its chat are made of.
struct Made {
    hash: u64,
    part: Option<OwnPart>,
    whole: Option<Bytes>,
}

impl Made {
    fn of(part: OwnPart, maker: &Maker<'_>, index: usize, quoted: bool) -> Self {
        let mut hasher = DefaultHasher::new();
        part.json().hash(&mut hasher);
        let hash = hasher.finish();
        match quoted || maker.links[index].is_some() {
            true => Self { hash, part: Some(part), whole: None },
            false => Self { hash, whole: Some(maker.whole(index, &part)), part: None },
        }
    }
}

/// What a body is made by.
struct Maker<'a> {
    batch: &'a Batch<'a>,
    prompts: &'a Prompts,
    links: &'a [Option<usize>],
    fields: Fields,
    /// Prompts that are made are sent as token ids.
    as_ids: bool,
}

impl Maker<'_> {
    /// What a request asks beyond what earlier turns of its chat asked.
    fn part(&self, index: usize, attempt: u64) -> Result<OwnPart, LoadgenError> {
        let Batch { server, seed, run, requests, .. } = *self.batch;
        let request = &requests[index];
        let link = self.links[index];
        let (salt, own) = (Salt { seed, run }, Own { index: self.batch.first + index, attempt });
        match (&request.prompt, link) {
            (Prompt::Text(text), _) => Ok(OwnPart::Text(escaped(text))),
            (Prompt::Messages(conversation), _) => {
                // Those of the turn before, and its answer, stand in front.
                let before = link.map_or(0, |parent| requests[parent].prompt.messages() + 1);
                let new = &conversation.prompt()[before..];
                Ok(match server.endpoint {
                    Endpoint::Chat => OwnPart::Messages(messages(new)),
                    Endpoint::Completions | Endpoint::Generate => OwnPart::Text(escaped(&joined(new))),
                })
            }
            (_, Some(parent)) => {
                let history = requests[parent].lengths;
                let tokens = request.lengths.input.saturating_sub(history.input + history.output).max(1);
                let content = salt.content(&Prompt::Random, tokens, own);
                // A message of its own is stripped by chat templates, the continuation of a text by nobody.
                Ok(OwnPart::Text(escaped(&self.prompts.text(content, server.endpoint == Endpoint::Chat)?)))
            }
            (prompt, None) => {
                let content = salt.content(prompt, request.lengths.input, own);
                Ok(match self.as_ids {
                    true => OwnPart::Ids(ids(&self.prompts.ids(content)?)),
                    false => OwnPart::Text(escaped(&self.prompts.text(content, true)?)),
                })
            }
        }
    }

    fn whole(&self, index: usize, part: &OwnPart) -> Bytes {
        let fields = self.fields.around(&self.batch.requests[index]);
        let [before, after] = history::around(self.batch.server.endpoint, part);
        Bytes::from([b"{", before.as_bytes(), part.json(), after.as_bytes(), fields.as_bytes()].concat())
    }
}

impl OwnPart {
    fn json(&self) -> &Bytes {
        match self {
            Self::Ids(json) | Self::Text(json) | Self::Messages(json) => json,
        }
    }
}

/// A JSON array of token ids.
fn ids(ids: &[TokenId]) -> Bytes {
    let mut json = String::with_capacity(ids.len() * 7 + 2);
    json.push('[');
    for (at, id) in ids.iter().enumerate() {
        let comma = if at > 0 { "," } else { "" };
        write!(json, "{comma}{id}").expect("a string takes everything");
    }
    json.push(']');
    Bytes::from(json)
}

/// As the inside of a JSON string.
fn escaped(text: &str) -> Bytes {
    let quoted = Bytes::from(serde_json::Value::from(text).to_string());
    quoted.slice(1..quoted.len() - 1)
}

/// The inside of a JSON array of messages.
fn messages(messages: &[Message]) -> Bytes {
    let one = |message: &Message| serde_json::json!({"role": message.role, "content": message.content}).to_string();
    Bytes::from(messages.iter().map(one).collect::<Vec<_>>().join(","))
}

/// Messages where an endpoint takes one text: their contents, a blank line between them.
fn joined(messages: &[Message]) -> String {
    messages.iter().map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests;
