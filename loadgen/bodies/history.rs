//! Where a prompt stands in a body, and the turns before it.
//!
//! Owns the form of each endpoint's prompt and the places where live answers are spliced in. What earlier turns asked is
//! one piece of memory, however many later bodies quote it.
use bytes::Bytes;
use minisgl_config::loadgen::settings::Endpoint;

use super::OwnPart;
use crate::request::{Body, Piece, Prompt, Request};

/// Of each request, the turn before it whose answer its prompt quotes. A recorded chat whose history is not the parent's
/// quotes nobody: it is sent as it was recorded.
pub(super) fn links(requests: &[Request]) -> Vec<Option<usize>> {
    let link = |request: &Request| {
        let parent = request.parent?;
        match (&request.prompt, &requests[parent].prompt) {
            (Prompt::Messages(own), Prompt::Messages(before)) => {
                let (own, before) = (own.prompt(), before.prompt());
                let answer = own.get(before.len())?;
                (own.starts_with(before) && answer.role == "assistant").then_some(parent)
            }
            (Prompt::Messages(_), _) => None,
            _ => Some(parent),
        }
    };
    requests.iter().map(link).collect()
}

/// What stands in front of a prompt that has one part, and behind it.
pub(super) fn around(endpoint: Endpoint, part: &OwnPart) -> [&'static str; 2] {
    match (endpoint, part) {
        (_, OwnPart::Ids(_)) => [r#""prompt":"#, ""],
        (Endpoint::Chat, OwnPart::Text(_)) => [r#""messages":[{"role":"user","content":""#, r#""}]"#],
        (_, OwnPart::Messages(_)) => [r#""messages":["#, "]"],
        (Endpoint::Completions | Endpoint::Generate, OwnPart::Text(_)) => [r#""prompt":""#, "\""],
    }
}

/// The bodies of turns.
pub(super) struct Chats<'a> {
    pub(super) endpoint: Endpoint,
    /// See [`links`].
    pub(super) links: &'a [Option<usize>],
    /// What each request asks itself; there for every one that is quoted or quotes.
    pub(super) parts: &'a [Option<OwnPart>],
}

impl Chats<'_> {
    /// The body of the request at a place; `fields` is everything behind the prompt.
    pub(super) fn body(&self, index: usize, fields: String) -> Body {
        let mut turns = vec![index];
        while let Some(before) = self.links[turns[turns.len() - 1]] {
            turns.push(before);
        }
        turns.reverse();
        let mut pieces = Pieces::default();
        let chat = self.endpoint == Endpoint::Chat;
        pieces.fixed(if chat { r#"{"messages":["# } else { r#"{"prompt":""# });
        for (at, &turn) in turns.iter().enumerate() {
            if at > 0 {
                pieces.fixed(if chat { r#",{"role":"assistant","content":""# } else { "" });
                pieces.answer(turns[at - 1]);
                pieces.fixed(if chat { r#""}"# } else { "" });
            }
            match self.parts[turn].as_ref() {
                Some(OwnPart::Text(text)) if chat => {
                    pieces.fixed(if at > 0 { "," } else { "" });
                    pieces.fixed(r#"{"role":"user","content":""#);
                    pieces.shared(text);
                    pieces.fixed(r#""}"#);
                }
                Some(OwnPart::Messages(messages)) if !messages.is_empty() => {
                    pieces.fixed(if at > 0 { "," } else { "" });
                    pieces.shared(messages);
                }
                Some(OwnPart::Text(text) | OwnPart::Ids(text) | OwnPart::Messages(text)) => pieces.shared(text),
                None => unreachable!("the parts of turns are kept"),
            }
        }
        pieces.fixed(if chat { "]" } else { "\"" });
        pieces.fixed(&fields);
        pieces.body()
    }
}

/// Pieces of a body, small ones that follow each other joined.
#[derive(Default)]
struct Pieces {
    pieces: Vec<Piece>,
    open: Vec<u8>,
}

impl Pieces {
    fn fixed(&mut self, json: &str) {
        self.open.extend_from_slice(json.as_bytes());
    }

    fn shared(&mut self, json: &Bytes) {
        self.close();
        self.pieces.push(Piece::Json(json.clone()));
    }

    fn answer(&mut self, of: usize) {
        self.close();
        self.pieces.push(Piece::AnswerOf(of));
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.pieces.push(Piece::Json(Bytes::from(std::mem::take(&mut self.open))));
        }
    }

    fn body(mut self) -> Body {
        self.close();
        if self.pieces.iter().any(|piece| matches!(piece, Piece::AnswerOf(_))) {
            return Body::Quoting(self.pieces);
        }
        let whole: Vec<u8> = self
            .pieces
            .iter()
            .flat_map(|piece| match piece {
                Piece::Json(json) => json.as_ref(),
                Piece::AnswerOf(_) => unreachable!("there is none"),
            })
            .copied()
            .collect();
        Body::Whole(Bytes::from(whole))
    }
}
