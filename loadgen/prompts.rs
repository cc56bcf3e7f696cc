//! Prompts of exactly so many tokens, by the tokenizer of the model that is served.
//!
//! Owns which tokenizer that is, how it is opened, and how content becomes text that it reads as the same count: the only
//! part here that knows of model files. What a prompt's content is, `content.rs` says.
pub(crate) mod content;

use std::path::PathBuf;

use minisgl_checkpoint::{FindError, FindOptions, Hub, TokenizerSource};
use minisgl_tokenizer::{AddSpecial, ChatMessage, ChatOptions, TokenId, Tokenizer};

use crate::error::LoadgenError;
use crate::rng::SplitMix;
use content::Content;

/// Words to draw from, at most. They are tried one by one when the tokenizer is opened; a vocabulary has up to a hundred
/// thousand, of which no run needs all to have prompts that differ.
const MOST_WORDS: usize = 4096;

/// Fewer words that stay themselves than this, and the others are drawn from as well.
const FEW: usize = 16;

/// Rounds of mending before giving up. Real vocabularies need none; letters that merge take a few.
const ROUNDS: usize = 64;

/// What makes the prompts and counts tokens, as far as there is a tokenizer.
pub(crate) struct Prompts {
    /// As it was asked for, or the server's `root`; empty without one.
    pub(crate) name: String,
    maker: Option<Maker>,
}

struct Maker {
    tokenizer: Tokenizer,
    words: Vec<TokenId>,
    /// Words stay themselves whatever words are beside them: see [`apart`].
    apart: bool,
}

/// Where words stay apart, a text longer than twice this is encoded at its beginning and its end only: the library takes
/// about 10 µs a token, minutes for a trace of ten million.
const ENCODED: usize = 128;

/// Which tokenizer is wanted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted<'a> {
    /// By the user.
    pub(crate) asked: Option<&'a str>,
    /// Where the server has its model.
    pub(crate) root: Option<&'a str>,
    /// Whether prompts cannot be had without.
    pub(crate) needed: bool,
    /// Show downloads.
    pub(crate) progress: bool,
}

impl Prompts {
    /// Opens the tokenizer that was asked for, else that of the server's `root`, where it can be had here. One that cannot
    /// be had is an error only where it was asked for or is needed.
    pub(crate) fn open(wanted: Wanted<'_>) -> Result<Self, LoadgenError> {
        let none = || Self { name: String::new(), maker: None };
        let found = match (wanted.asked, wanted.root) {
            (Some(asked), _) => {
                let problem =
                    |error: FindError| LoadgenError::Tokenizer { name: asked.to_owned(), problem: error.to_string() };
                Ok((asked, find(asked, wanted.progress).map_err(problem)?))
            }
            (None, Some(root)) => find(root, wanted.progress)
                .map(|path| (root, path))
                .map_err(|error| format!("the server's is `{root}`, which cannot be had here ({error})")),
            (None, None) => Err("/v1/models does not say (it has no `root`)".to_owned()),
        };
        match found {
            Ok((name, path)) => Self::read(name, &path),
            Err(why) if wanted.needed => Err(LoadgenError::NoTokenizer(why)),
            Err(_) => Ok(none()),
        }
    }

    fn read(name: &str, path: &std::path::Path) -> Result<Self, LoadgenError> {
        let wrong = |problem: String| LoadgenError::Tokenizer { name: name.to_owned(), problem };
        let source = TokenizerSource::open(path).map_err(|error| wrong(error.to_string()))?;
        let tokenizer = Tokenizer::new(source).map_err(|error| wrong(error.to_string()))?;
        Ok(Self::of(name, tokenizer))
    }

    /// By this tokenizer.
    pub(crate) fn of(name: &str, tokenizer: Tokenizer) -> Self {
        let words = words(&tokenizer);
        let apart = apart(&tokenizer, &words);
        Self { name: name.to_owned(), maker: Some(Maker { tokenizer, words, apart }) }
    }

    /// How many tokens a text has; None without a tokenizer.
    pub(crate) fn count(&self, text: &str) -> Result<Option<usize>, LoadgenError> {
        let Some(maker) = &self.maker else {
            return Ok(None);
        };
        let ids = maker.tokenizer.encode(text, AddSpecial::No).map_err(|error| self.wrong(error))?;
        Ok(Some(ids.len()))
    }

    /// How many tokens the chat template puts around one user message; None where that cannot be said.
    pub(crate) fn template_tokens(&self) -> Option<usize> {
        let tokenizer = &self.maker.as_ref()?.tokenizer;
        let message = ChatMessage::new("user", "hello");
        let whole = tokenizer.encode_chat(&[message], &ChatOptions::default()).ok()?.len();
        whole.checked_sub(tokenizer.encode("hello", AddSpecial::No).ok()?.len())
    }

    /// The content's tokens.
    pub(crate) fn ids(&self, content: Content) -> Result<Vec<TokenId>, LoadgenError> {
        Ok(self.maker()?.draw(content).0)
    }

    /// A text of as many tokens as the content has, whose beginning is the same wherever the content's is. Where `first`, it
    /// has no space at its beginning: chat templates strip it.
    pub(crate) fn text(&self, content: Content, first: bool) -> Result<String, LoadgenError> {
        let n = content.tokens();
        self.maker()?.text(content, first).map_err(|why| match why {
            Some(error) => self.wrong(error),
            None => {
                self.wrong(format!("no text of exactly {n} tokens was found: its words do not stand by themselves"))
            }
        })
    }

    fn maker(&self) -> Result<&Maker, LoadgenError> {
        match &self.maker {
            Some(maker) if maker.words.is_empty() => Err(self.wrong("its vocabulary has no text to make prompts of")),
            Some(maker) => Ok(maker),
            None => Err(LoadgenError::NoTokenizer("none was opened".to_owned())),
        }
    }

    fn wrong(&self, problem: impl ToString) -> LoadgenError {
        LoadgenError::Tokenizer { name: self.name.clone(), problem: problem.to_string() }
    }
}

impl Maker {
    /// The tokens, and the sequence that further ones come from.
    fn draw(&self, content: Content) -> (Vec<TokenId>, SplitMix) {
        let mut ids = Vec::with_capacity(content.tokens());
        for mut span in content.spans {
            ids.extend((0..span.tokens).map(|_| self.word(&mut span.from)));
        }
        (ids, content.spare)
    }

    fn word(&self, rng: &mut SplitMix) -> TokenId {
        self.words[rng.between(0, self.words.len() - 1)]
    }

    /// The text is encoded, and mended at its end where the count is off (see [`ENCODED`] for what of a long one is).
    /// `Err(None)` where that does not help.
    fn text(&self, content: Content, first: bool) -> Result<String, Option<minisgl_tokenizer::TokenizerError>> {
        let wanted = content.tokens();
        let (mut ids, mut spare) = self.draw(content);
        for _ in 0..ROUNDS {
            let text = self.tokenizer.decode(&ids, false);
            let text = if first { text.trim_start() } else { &text };
            let counted = self.count(&ids, text).map_err(Some)?;
            match counted.cmp(&wanted) {
                std::cmp::Ordering::Equal => return Ok(text.to_owned()),
                std::cmp::Ordering::Less => ids.extend((counted..wanted).map(|_| self.word(&mut spare))),
                // As many as are too many, where a token is counted as several.
                std::cmp::Ordering::Greater => {
                    let excess = ((counted - wanted) * ids.len() / counted).max(1);
                    ids.truncate(ids.len().saturating_sub(excess));
                }
            }
        }
        Err(None)
    }
}

impl Maker {
    /// The tokens of a text that was made of `ids`.
    fn count(&self, ids: &[TokenId], text: &str) -> Result<usize, minisgl_tokenizer::TokenizerError> {
        let count = |text: &str| Ok(self.tokenizer.encode(text, AddSpecial::No)?.len());
        if !self.apart || ids.len() <= 2 * ENCODED {
            return count(text);
        }
        // A word is a space and what follows up to the next one.
        let spaces = || text.char_indices().filter(|&(at, c)| c == ' ' && at > 0).map(|(at, _)| at);
        let ends = (spaces().nth(ENCODED - 1), spaces().nth_back(ENCODED - 1));
        match ends {
            (Some(beginning), Some(end))
                if count(&text[..beginning])? == ENCODED
                    && count(&text[end..])? == ENCODED
                    && spaces().count() + 1 == ids.len() =>
            {
                Ok(ids.len())
            }
            _ => count(text),
        }
    }
}

/// Whether words are encoded one by one, whatever words are beside them. No token has a space behind another character, so
/// none can reach from one word into the next, and merging within a word sees that word alone; that the library does so
/// is tried on every word beside several others.
fn apart(tokenizer: &Tokenizer, words: &[TokenId]) -> bool {
    let Some(&first) = words.first() else {
        return false;
    };
    // Behind another token: at the beginning of a text, some decoders drop a token's space.
    let before = tokenizer.decode(&[first], false);
    let text_of = |id: TokenId| {
        let both = tokenizer.decode(&[first, id], false);
        both.strip_prefix(&before).unwrap_or(&both).to_owned()
    };
    let is_word = |&id: &TokenId| {
        let text = text_of(id);
        text.strip_prefix(' ').is_some_and(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphabetic()))
    };
    let reaches = |id: TokenId| text_of(id).trim_start().contains(' ');
    if !words.iter().all(is_word) || (0..tokenizer.vocab_size() as TokenId).any(reaches) {
        return false;
    }
    let mut rng = SplitMix::of(0, &[]);
    let mut mixed: Vec<TokenId> = words.iter().copied().cycle().take(4 * words.len()).collect();
    for at in (1..mixed.len()).rev() {
        mixed.swap(at, rng.between(0, at));
    }
    tokenizer.encode(&tokenizer.decode(&mixed, false), AddSpecial::No).is_ok_and(|ids| ids == mixed)
}

/// Of the tokenizer's words, those that stay one token each, next to themselves and at the beginning of a text, evenly from
/// the whole vocabulary.
fn words(tokenizer: &Tokenizer) -> Vec<TokenId> {
    let all = tokenizer.words();
    let step = all.len().div_ceil(MOST_WORDS).max(1);
    let stands = |&id: &TokenId| {
        let text = tokenizer.decode(&[id; 3], false);
        let encoded = |text: &str| tokenizer.encode(text, AddSpecial::No);
        encoded(&text).is_ok_and(|ids| ids == [id; 3]) && encoded(text.trim_start()).is_ok_and(|ids| ids.len() == 3)
    };
    let standing: Vec<TokenId> = all.iter().copied().step_by(step).filter(stands).collect();
    if standing.len() >= FEW.min(all.len()) { standing } else { all.to_vec() }
}

/// The files of a path, an alias or a hub id; of a hub's, those of the tokenizer only.
fn find(model: &str, progress: bool) -> Result<PathBuf, FindError> {
    let options = FindOptions { model, hub: Hub::HuggingFace, weights: false, progress };
    Ok(minisgl_checkpoint::find(&options)?.path)
}

#[cfg(test)]
pub(crate) mod tests;
