//! A trace's requests as they are replayed.
//!
//! Owns what becomes of a trace's lengths, ids, texts and turns. When they are sent, `schedule.rs` says; how a file is
//! read, `traces/`.

use minisgl_config::loadgen::LoadgenSettings;
use minisgl_config::loadgen::settings::{Endpoint, Load, PromptKind, Source, Turns, Workload};

use super::{AboutTrace, AboutWorkload, Common, changed, request};
use crate::ConsoleOptions;
use crate::error::LoadgenError;
use crate::lengths::{Clamped, Lengths, TEMPLATE_ROOM};
use crate::parallel;
use crate::prompts::Prompts;
use crate::request::{Prompt, Request};
use crate::traces::{self, PrefixOptions, Trace, TracePrompt, TraceRequest};

/// A trace that was read, its texts not counted yet.
pub(super) struct Reading {
    trace: Trace,
    replayed: Vec<Replayed>,
    /// Prompts follow the trace's ids.
    hashed: bool,
}

/// A trace whose every request is known.
pub(super) struct Traced {
    /// In the trace's order.
    pub(super) replayed: Vec<Replayed>,
    /// What the model's context made shorter.
    pub(super) clamped: Clamped,
}

/// One request, and where it stands in time.
#[derive(Clone, Debug)]
pub(super) struct Replayed {
    /// Its start is to be filled in.
    pub(super) request: Request,
    /// Seconds after the trace's first.
    pub(super) at_s: f64,
    /// Seconds from the end of its parent's answer.
    pub(super) delay_s: f64,
    /// Its place in the trace.
    source: usize,
}

impl Traced {
    /// Of the request at a place, the trace begun again after its end.
    pub(super) fn lengths(&self, index: usize) -> Lengths {
        self.replayed[index % self.replayed.len()].request.lengths
    }
}

/// Reads the trace of `settings` and says what was found.
pub(super) fn read(
    settings: &LoadgenSettings,
    console: ConsoleOptions,
) -> Result<(AboutWorkload, Reading), LoadgenError> {
    let workload = &settings.workload;
    let Source::Trace { file, limit } = &workload.source else {
        unreachable!("the source is a trace");
    };
    let trace = crate::public::open(file, *limit, console)?;
    let refused = |problem: String| LoadgenError::Workload(format!("{}: {problem}", trace.name));
    if !trace.timed && settings.points.iter().any(|load| matches!(load, Load::TraceTimes { .. })) {
        let problem = format!("{} says nothing of when requests arrive: give --rate or --concurrency", trace.format);
        return Err(refused(problem));
    }
    let kind = kind(&trace, workload).map_err(refused)?;
    let replayed = replayed(&trace, workload, kind);
    if replayed.is_empty() {
        return Err(refused("every request in it is recorded as failed: there is none to replay".to_owned()));
    }
    unbounded(&replayed, settings.server.endpoint).map_err(refused)?;
    let about = about(&trace, &replayed, workload, kind);
    note(&trace, &replayed, workload, console);
    let hashed = kind == Some(PromptKind::Hash) && workload.turns == Turns::Open;
    Ok((about, Reading { trace, replayed, hashed }))
}

/// What the prompts that must be made are made of; none where all are texts.
fn kind(trace: &Trace, workload: &Workload) -> Result<Option<PromptKind>, String> {
    let is_text = |request: &TraceRequest| request.prompt != TracePrompt::Lengths;
    let texts = trace.requests.iter().any(is_text);
    let rules = &workload.lengths;
    if texts && (rules.input_scale != 1.0 || rules.max_input.is_some()) {
        return Err(
            "its prompts are texts, sent as they are: --input-len-scale and --max-input-len have no meaning for it"
                .to_owned(),
        );
    }
    match workload.prompts {
        Some(PromptKind::Hash) if trace.block_size.is_none() => {
            Err(format!("--prompts hash: {} has no hash ids; give --prompts random or shared", trace.format))
        }
        Some(kind @ (PromptKind::Random | PromptKind::Shared)) if texts => {
            let kind = if kind == PromptKind::Random { "random" } else { "shared" };
            Err(format!("--prompts {kind}: its prompts are texts, which say themselves what is sent"))
        }
        Some(kind) => Ok(Some(kind)),
        None if trace.requests.iter().all(is_text) => Ok(None),
        None if trace.block_size.is_some() => Ok(Some(PromptKind::Hash)),
        None => Ok(Some(PromptKind::Random)),
    }
}

fn replayed(trace: &Trace, workload: &Workload, kind: Option<PromptKind>) -> Vec<Replayed> {
    let causal = workload.turns == Turns::Causal;
    let first = trace.requests.iter().find(|request| !request.failed).map_or(0.0, |request| request.timestamp_s);
    let mut replayed: Vec<Replayed> = Vec::with_capacity(trace.requests.len());
    // Where each of the trace's requests is now; none of those that are not replayed.
    let mut places: Vec<Option<usize>> = Vec::with_capacity(trace.requests.len());
    for (source, asked) in trace.requests.iter().enumerate() {
        if asked.failed {
            places.push(None);
            continue;
        }
        places.push(Some(replayed.len()));
        let (lengths, ends_itself) = lengths(asked, workload);
        let parent = asked.session.and_then(|turn| turn.parent).filter(|_| causal).and_then(|parent| places[parent]);
        replayed.push(Replayed {
            request: Request { parent, ends_itself, ..request(lengths, prompt(trace, asked, workload, kind)) },
            at_s: asked.timestamp_s - first,
            delay_s: asked.session.and_then(|turn| turn.delay_s).unwrap_or(0.0),
            source,
        });
    }
    replayed
}

/// The lengths as far as the trace says them, and whether the model ends the answer.
fn lengths(asked: &TraceRequest, workload: &Workload) -> (Lengths, bool) {
    let rules = &workload.lengths;
    let scaled = Lengths::by(rules, asked.input_length.unwrap_or(0), asked.output_length.unwrap_or(0));
    let input = asked.input_length.map_or(0, |_| scaled.input);
    match (asked.output_length, asked.prompt.answer()) {
        (Some(_), _) => (Lengths { input, output: scaled.output }, false),
        // To be counted.
        (None, Some(_)) => (Lengths { input, output: 0 }, false),
        (None, None) => (Lengths { input, output: rules.max_output.unwrap_or(0) }, true),
    }
}

fn prompt(trace: &Trace, asked: &TraceRequest, workload: &Workload, kind: Option<PromptKind>) -> Prompt {
    match (&asked.prompt, kind, trace.block_size) {
        (TracePrompt::Text(text), ..) => Prompt::Text(text.as_str().into()),
        (TracePrompt::Messages(conversation), ..) => Prompt::Messages(conversation.clone()),
        (TracePrompt::Lengths, Some(PromptKind::Shared), _) => Prompt::Shared,
        (TracePrompt::Lengths, Some(PromptKind::Hash), Some(block_size)) if !asked.hash_ids.is_empty() => {
            // The ids come when the trace is no longer needed: see `Reading::settle`.
            Prompt::Blocks { ids: [].into(), block_size, scale: workload.lengths.input_scale }
        }
        (TracePrompt::Lengths, ..) => Prompt::Random,
    }
}

/// `/generate` has no answer without a bound.
fn unbounded(replayed: &[Replayed], endpoint: Endpoint) -> Result<(), String> {
    let open = replayed.iter().filter(|replayed| replayed.request.ends_itself && replayed.request.lengths.output == 0);
    match (endpoint, open.count()) {
        (Endpoint::Generate, n) if n > 0 => Err(format!(
            "{n} requests say no output length, which --endpoint generate asks for: give --max-output-len N"
        )),
        _ => Ok(()),
    }
}

fn about(trace: &Trace, replayed: &[Replayed], workload: &Workload, kind: Option<PromptKind>) -> AboutWorkload {
    let turns = if workload.turns == Turns::Causal { ", turns causal" } else { "" };
    let prompts = match (kind, trace.block_size) {
        (Some(PromptKind::Hash), Some(size)) => {
            format!("hash: each id is one block of {size} tokens; fresh tokens and the same sharing in each run")
        }
        (Some(PromptKind::Shared), _) => "shared: prefixes of one text, another one in each run".to_owned(),
        (Some(_), _) => "random, fresh in each run".to_owned(),
        (None, _) => "the trace's texts, the same in each run".to_owned(),
    };
    AboutWorkload {
        name: format!("{}{}{turns}", trace.name, changed(&workload.lengths)),
        prompts,
        classes: Vec::new(),
        trace: Some(AboutTrace {
            format: trace.format.to_string(),
            sha256: trace.sha256_hex(),
            requests: replayed.len(),
            failed: trace.requests.len() - replayed.len(),
            ideal_hit_rate: None,
            ideal_hit_rate_page_16: None,
        }),
    }
}

fn note(trace: &Trace, replayed: &[Replayed], workload: &Workload, console: ConsoleOptions) {
    let span = replayed.last().map_or(0.0, |last| last.at_s);
    let over = if trace.timed { format!(" over {span:.1} s") } else { ", which have no times".to_owned() };
    console.note(&format!("{}: {}, {} requests{over}", trace.name, trace.format, replayed.len()));
    let failed = trace.requests.len() - replayed.len();
    if failed > 0 {
        console.note(&format!("{failed} requests are recorded as failed: they are not replayed"));
    }
    if trace.skipped > 0 {
        console.note(&format!("{} records hold no request: they are left out", trace.skipped));
    }
    let zero = |length: Option<usize>| length == Some(0);
    let empty = trace.requests.iter().filter(|r| !r.failed && (zero(r.input_length) || zero(r.output_length))).count();
    if empty > 0 {
        console.note(&format!("{empty} requests have a length of 0 in the trace: it is sent as 1"));
    }
    let follows = |request: &&TraceRequest| request.session.is_some_and(|turn| turn.parent.is_some());
    let turns = trace.requests.iter().filter(follows);
    let bare = turns.filter(|request| matches!(request.prompt, TracePrompt::Text(_))).count();
    if bare > 0 && workload.turns == Turns::Open {
        console.note(&format!(
            "{bare} turns have no recorded history and are sent without: --turns causal quotes the live answers"
        ));
    }
}

impl Reading {
    pub(super) fn needs_tokenizer(&self) -> bool {
        let made = |prompt: &Prompt| !matches!(prompt, Prompt::Text(_) | Prompt::Messages(_));
        let counted = |replayed: &Replayed| !replayed.request.ends_itself && replayed.request.lengths.output == 0;
        self.replayed.iter().any(|replayed| made(&replayed.request.prompt) || counted(replayed))
    }

    /// Counts, fits, and computes what an ideal cache would serve of exactly what is sent.
    pub(super) fn settle(
        self,
        common: &Common,
        prompts: &Prompts,
        about: &mut AboutWorkload,
        console: ConsoleOptions,
    ) -> Result<Traced, LoadgenError> {
        let Self { mut trace, mut replayed, hashed } = self;
        count(&mut replayed, &trace, common, prompts)?;
        histories(&mut replayed);
        let mut requests: Vec<Request> = replayed.iter().map(|replayed| replayed.request.clone()).collect();
        let clamped = common.fit(&mut requests);
        replayed.iter_mut().zip(requests).for_each(|(replayed, fitted)| replayed.request = fitted);
        if let Some(most) = common.max_model_len.filter(|_| clamped != Clamped::default()) {
            console.note(&format!(
                "the model holds {most} tokens ({TEMPLATE_ROOM} kept for the chat template): of {} requests, {} prompts and {} \
                 outputs are shortened to fit",
                replayed.len(),
                clamped.inputs,
                clamped.outputs,
            ));
        }
        if hashed {
            ideal(&trace, &replayed, common.rules.input_scale, about);
            note_ideal(about, common.endpoint, prompts, console);
        }
        for Replayed { request, source, .. } in &mut replayed {
            if let Prompt::Blocks { ids, .. } = &mut request.prompt {
                *ids = std::mem::take(&mut trace.requests[*source].hash_ids).into();
            }
        }
        Ok(Traced { replayed, clamped })
    }
}

/// What only the tokenizer knows: the tokens of texts and of recorded answers.
fn count(replayed: &mut [Replayed], trace: &Trace, common: &Common, prompts: &Prompts) -> Result<(), LoadgenError> {
    let before = before(replayed, trace);
    let counted = parallel::in_order(replayed.len(), |index| {
        let Replayed { request, source, .. } = &replayed[index];
        let mut lengths = request.lengths;
        let mut own = 0;
        match &request.prompt {
            Prompt::Text(text) => lengths.input = prompts.count(text)?.unwrap_or(lengths.input),
            Prompt::Messages(conversation) => {
                let known = before[index].map_or(0, |(_, messages)| messages);
                for message in &conversation.prompt()[known..] {
                    own += prompts.count(&message.content)?.unwrap_or(0);
                }
            }
            _ => {}
        }
        if !request.ends_itself && lengths.output == 0 {
            let answer = trace.requests[*source].prompt.answer().unwrap_or_default();
            let tokens = prompts.count(answer)?.unwrap_or(0);
            lengths.output = Lengths::by(&common.rules, 1, tokens).output;
        }
        Ok::<_, LoadgenError>((lengths, own))
    })?;
    let mut totals = vec![0; replayed.len()];
    for (index, (mut lengths, own)) in counted.into_iter().enumerate() {
        totals[index] = own + before[index].map_or(0, |(parent, _)| totals[parent]);
        // A conversation without a message is as unknown as one that nothing counts.
        if totals[index] > 0 {
            lengths.input = totals[index];
        }
        replayed[index].request.lengths = lengths;
    }
    Ok(())
}

/// Of each recorded conversation, an earlier turn of it that is replayed and how many messages that had: they are counted
/// once, however many turns follow.
fn before(replayed: &[Replayed], trace: &Trace) -> Vec<Option<(usize, usize)>> {
    let mut places = vec![None; trace.requests.len()];
    replayed.iter().enumerate().for_each(|(index, replayed)| places[replayed.source] = Some(index));
    let before = |(index, Replayed { request, source, .. }): (usize, &Replayed)| {
        let parent = places[trace.requests[*source].session?.parent?].filter(|&parent| parent < index)?;
        match (&request.prompt, &replayed[parent].request.prompt) {
            (Prompt::Messages(own), Prompt::Messages(earlier)) if own.prompt().starts_with(earlier.prompt()) => {
                Some((parent, earlier.prompt().len()))
            }
            _ => None,
        }
    };
    replayed.iter().enumerate().map(before).collect()
}

/// A turn that quotes the answer before it is as long as that history, its answer and at least one token of its own.
fn histories(replayed: &mut [Replayed]) {
    for index in 0..replayed.len() {
        let Some(parent) = replayed[index].request.parent else {
            continue;
        };
        let before = replayed[parent].request.lengths;
        let history = before.input + before.output;
        let Request { prompt, lengths, .. } = &mut replayed[index].request;
        lengths.input = match prompt {
            // The text is the turn's own; what was counted is not its history.
            Prompt::Text(_) => history + lengths.input.max(1),
            // The recorded messages, of which the live answers take the recorded ones' place.
            Prompt::Messages(_) => lengths.input,
            _ => lengths.input.max(history + 1),
        };
    }
}

fn ideal(trace: &Trace, replayed: &[Replayed], scale: f64, about: &mut AboutWorkload) {
    let mut sent = vec![0; trace.requests.len()];
    replayed.iter().for_each(|replayed| sent[replayed.source] = replayed.request.lengths.input);
    let rate = |page_size| traces::ideal_hits_of(trace, sent.clone(), PrefixOptions { page_size, scale }).rate();
    if let Some(about) = &mut about.trace {
        (about.ideal_hit_rate, about.ideal_hit_rate_page_16) = (rate(1), rate(16));
    }
}

fn note_ideal(about: &AboutWorkload, endpoint: Endpoint, prompts: &Prompts, console: ConsoleOptions) {
    if let Some(AboutTrace { ideal_hit_rate: Some(exact), ideal_hit_rate_page_16: Some(pages), .. }) = about.trace {
        let (exact, pages) = (exact * 100.0, pages * 100.0);
        console.note(&format!("ideal prefix hit rate: {exact:.2} % of prompt tokens, {pages:.2} % in pages of 16"));
    }
    if let (Endpoint::Chat, Some(added)) = (endpoint, prompts.template_tokens()) {
        console.note(&format!(
            "the chat template adds {added} tokens to each prompt, some of them before its first block; --endpoint \
             completions sends the trace's tokens alone"
        ));
    }
}
