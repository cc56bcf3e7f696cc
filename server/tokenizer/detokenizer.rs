//! Tokens into text, a token at a time: text is given out once no later token can change it.
//!
//! Owns what is held back (an incomplete character, at most three bytes) and what happens at a text's start. A token
//! costs its own length: nothing is decoded twice.
use std::sync::Arc;

use minisgl_kernels::TokenId;

use crate::Inner;
use crate::vocabulary::{Joins, Role, Vocabulary};

/// How many U+FFFD stand for bytes that are no character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Invalid {
    /// One for each longest beginning of a character (byte-level vocabularies, as Hugging Face's decoder).
    PerSequence,
    /// One for each byte (byte fallback, as SentencePiece).
    PerByte,
}

/// What a decoder takes away where a text starts: the space that encoding put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtStart {
    /// Nothing.
    Keep,
    /// Up to so many of this character.
    Strip(char, usize),
    /// Every space of the first piece.
    DropSpaces,
}

/// A vocabulary's decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decoding {
    pub(crate) invalid: Invalid,
    pub(crate) at_start: AtStart,
}

/// What to leave out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DetokenizerOptions {
    /// Special tokens (BOS, EOS, turn markers) give no text.
    pub skip_special: bool,
}

/// Turns a sequence's tokens into text as they come. What [`push`](Self::push) and [`finish`](Self::finish) give,
/// joined, is [`Tokenizer::decode`](crate::Tokenizer::decode) of all ids.
#[derive(Clone, Debug)]
pub struct Detokenizer {
    tokenizer: Arc<Inner>,
    state: State,
}

impl Detokenizer {
    pub(crate) fn new(tokenizer: Arc<Inner>, options: DetokenizerOptions) -> Self {
        let state = State::new(tokenizer.decoding, options.skip_special);
        Self { tokenizer, state }
    }

    /// As if these tokens' text had been given out already: text goes on after a prompt, so a leading space stays, and
    /// a character that the prompt left incomplete is completed.
    pub fn with_prefix(mut self, prefix: &[TokenId]) -> Self {
        let mut given = String::new();
        for &id in prefix {
            self.state.push(&self.tokenizer.vocabulary, id, &mut given);
            given.clear();
        }
        self
    }

    /// Takes the next token; returns the text that became certain: empty while a character is incomplete, for a special
    /// token that is skipped and for an id that the vocabulary lacks.
    pub fn push(&mut self, id: TokenId) -> String {
        let mut text = String::new();
        self.state.push(&self.tokenizer.vocabulary, id, &mut text);
        text
    }

    /// The end: what is still held back, as U+FFFD.
    pub fn finish(&mut self) -> String {
        let mut text = String::new();
        self.state.finish(&mut text);
        text
    }
}

/// All of it at once.
pub(crate) fn decode(vocabulary: &Vocabulary, decoding: Decoding, ids: &[TokenId], skip_special: bool) -> String {
    let mut state = State::new(decoding, skip_special);
    let mut text = String::with_capacity(ids.len() * 4);
    for &id in ids {
        state.push(vocabulary, id, &mut text);
    }
    state.finish(&mut text);
    text
}

#[derive(Clone, Debug)]
struct State {
    invalid: Invalid,
    /// What is still to be taken away; `Keep` once text was given out.
    at_start: AtStart,
    skip_special: bool,
    /// Bytes that begin a character: none to three of them between calls.
    held: Vec<u8>,
}

impl State {
    fn new(decoding: Decoding, skip_special: bool) -> Self {
        Self { invalid: decoding.invalid, at_start: decoding.at_start, skip_special, held: Vec::new() }
    }

    fn push(&mut self, vocabulary: &Vocabulary, id: TokenId, text: &mut String) {
        let Some(piece) = vocabulary.piece(id) else { return };
        if self.skip_special && piece.role == Role::Special {
            return;
        }
        if piece.joins == Joins::Text {
            self.give_held(true, text);
        }
        self.held.extend_from_slice(piece.bytes);
        self.give_held(piece.joins == Joins::Text, text);
        if self.at_start == AtStart::DropSpaces {
            self.at_start = AtStart::Keep;
        }
    }

    fn finish(&mut self, text: &mut String) {
        self.give_held(true, text);
    }

    /// Moves what is certain from `held` to `text`, all of it where nothing can complete it any more.
    fn give_held(&mut self, whole: bool, text: &mut String) {
        let held = std::mem::take(&mut self.held);
        let mut rest: &[u8] = &held;
        let mut ready = String::new();
        while !rest.is_empty() {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    ready.push_str(valid);
                    rest = &[];
                }
                Err(error) => {
                    let (valid, bad) = rest.split_at(error.valid_up_to());
                    ready.push_str(std::str::from_utf8(valid).expect("checked just above"));
                    rest = bad;
                    let bad = match error.error_len() {
                        Some(n) => n,
                        None if whole => rest.len(),
                        None => break,
                    };
                    let marks = if self.invalid == Invalid::PerByte { bad } else { 1 };
                    ready.extend(std::iter::repeat_n(char::REPLACEMENT_CHARACTER, marks));
                    rest = &rest[bad..];
                }
            }
        }
        self.held = rest.to_vec();
        self.give(&ready, text);
    }

    /// Appends to `text`, less what a start takes away.
    fn give(&mut self, mut ready: &str, text: &mut String) {
        match self.at_start {
            AtStart::Keep => text.push_str(ready),
            AtStart::DropSpaces => text.extend(ready.chars().filter(|&c| c != ' ')),
            AtStart::Strip(c, mut left) => {
                while left > 0 && ready.starts_with(c) {
                    ready = &ready[c.len_utf8()..];
                    left -= 1;
                }
                text.push_str(ready);
                self.at_start = if ready.is_empty() && left > 0 { AtStart::Strip(c, left) } else { AtStart::Keep };
            }
        }
    }
}
