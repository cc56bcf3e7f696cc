//! What tells one workload from another: a hash of everything that a run's plan asks for.
//!
//! Owns which parts count: each request's time, lengths, prompt and turn, and the fields of its body; not the server, nor
//! the tokens that a command's later runs have anew. Two runs with the same digest were asked the same questions.
use std::fmt::Write;

use minisgl_config::loadgen::settings::Server;
use sha2::{Digest, Sha256};

use crate::request::{Prompt, Request, RunPlan, Start};

/// Hexadecimal, of the first 16 bytes.
pub(crate) fn digest(plan: &RunPlan, server: &Server, seed: u64) -> String {
    let mut hash = Sha256::new();
    // Every part has a mark, and lists have lengths: no two plans run into each other.
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    let body = serde_json::Value::Object(server.extra_body.clone());
    let fields = (server.endpoint, server.strict_openai, server.ignore_eos, server.temperature);
    add(format!("{seed} {fields:?} {body} {:?} {:?}", plan.places, plan.until).as_bytes());
    for request in &plan.requests {
        add(outline(request).as_bytes());
        match &request.prompt {
            Prompt::Blocks { ids, .. } => ids.iter().for_each(|id| add(&id.to_le_bytes())),
            Prompt::Text(text) => add(text.as_bytes()),
            Prompt::Messages(conversation) => {
                conversation.prompt().iter().for_each(|message| {
                    add(message.role.as_bytes());
                    add(message.content.as_bytes());
                });
            }
            Prompt::Random | Prompt::Shared | Prompt::Group { .. } => {}
        }
    }
    hash.finalize().iter().take(16).fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("writing to a string");
        hex
    })
}

/// All of a request but what its prompt's content is.
fn outline(request: &Request) -> String {
    let Request { start, lengths, ends_itself, prompt, parent, cancel_after, class } = request;
    let start = match start {
        Start::At(at) => format!("at {}", at.as_nanos()),
        Start::WhenFree => "when free".to_owned(),
        Start::After { parent, delay, not_before } => {
            format!("after {parent} {} {}", delay.as_nanos(), not_before.as_nanos())
        }
    };
    let prompt = match prompt {
        Prompt::Random => "random".to_owned(),
        Prompt::Shared => "shared".to_owned(),
        Prompt::Blocks { ids, block_size, scale } => format!("{} blocks of {block_size} x {scale}", ids.len()),
        Prompt::Group { group, tokens } => format!("group {group} of {tokens}"),
        Prompt::Text(_) => "text".to_owned(),
        Prompt::Messages(conversation) => format!("{} messages", conversation.prompt().len()),
    };
    let cancel = cancel_after.map(|after| after.as_nanos());
    format!("{start} {} {} {ends_itself} {prompt} {parent:?} {cancel:?} {class}", lengths.input, lengths.output)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::lengths::Lengths;

    fn plan(n: usize, output: usize) -> RunPlan {
        let request = |i: usize| Request {
            start: Start::At(Duration::from_secs(i as u64)),
            lengths: Lengths { input: 10, output },
            ends_itself: false,
            prompt: Prompt::Blocks { ids: vec![1, i as u64].into(), block_size: 16, scale: 1.0 },
            parent: None,
            cancel_after: None,
            class: 0,
        };
        RunPlan {
            requests: (0..n).map(request).collect(),
            places: None,
            until: None,
            clamped: Default::default(),
            endless: false,
        }
    }

    #[test]
    fn a_digest_is_of_what_is_asked_and_of_nothing_else() {
        let server = Server::default();
        let one = digest(&plan(3, 4), &server, 0);
        assert_eq!(one.len(), 32);
        assert_eq!(one, digest(&plan(3, 4), &server, 0));
        let elsewhere = Server { model: Some("other".to_owned()), api_key: Some("k".to_owned()), ..Server::default() };
        assert_eq!(one, digest(&plan(3, 4), &elsewhere, 0));
        let mut others = vec![digest(&plan(2, 4), &server, 0), digest(&plan(3, 5), &server, 0)];
        others.push(digest(&plan(3, 4), &server, 1));
        others.push(digest(&plan(3, 4), &Server { ignore_eos: false, ..Server::default() }, 0));
        let mut blocks = plan(3, 4);
        blocks.requests[1].prompt = Prompt::Blocks { ids: vec![1, 7].into(), block_size: 16, scale: 1.0 };
        others.push(digest(&blocks, &server, 0));
        assert!(others.iter().all(|other| *other != one), "{others:?}");
    }
}
