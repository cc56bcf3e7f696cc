//! Text into tokens and back: encoding, chat templates, text as tokens come.
//!
//! Owns what a model's tokenizer files mean, all of them untrusted; knows nothing of requests, models or devices.
//!
//! ```text
//!   hf.rs  decoder.rs          Hugging Face files: the tokenizers library encodes, pieces are decoded here
//!   gguf.rs  pretokenizer.rs   GGUF metadata: byte-level BPE through the same library, or
//!   sentencepiece.rs           SentencePiece's BPE, merged by score
//!   vocabulary.rs              what each id says
//!   detokenizer.rs             pieces into text, a token at a time
//!   chat.rs  python.rs         templates, in an environment like transformers'
//!   exact_prompt.rs            made-up text of an exact length
//! ```
mod chat;
mod decoder;
mod detokenizer;
mod error;
mod exact_prompt;
mod gguf;
mod hf;
mod pretokenizer;
mod python;
mod sentencepiece;
mod vocabulary;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

pub use chat::{ChatMessage, ChatOptions};
pub use detokenizer::{Detokenizer, DetokenizerOptions};
pub use error::TokenizerError;
pub use minisgl_checkpoint::TokenizerSource;
pub use minisgl_kernels::TokenId;

/// A model's tokenizer. Cheap to clone, and shared between threads.
#[derive(Clone, Debug)]
pub struct Tokenizer(Arc<Inner>);

/// Whether the tokens that a model wants around a text (BOS) are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddSpecial {
    /// As the model wants: for a prompt that is text.
    Yes,
    /// The text alone: for what a chat template rendered, and for pieces of text.
    No,
}

#[derive(Debug)]
struct Inner {
    encoder: Encoder,
    vocabulary: vocabulary::Vocabulary,
    decoding: detokenizer::Decoding,
    affixes: Affixes,
    eos: Option<TokenId>,
    template: Option<chat::ChatTemplate>,
    /// See `exact_prompt.rs`.
    words: OnceLock<Vec<TokenId>>,
}

#[derive(Debug)]
enum Encoder {
    Library(Box<tokenizers::Tokenizer>),
    SentencePiece(Box<sentencepiece::SentencePiece>),
}

/// The tokens around an encoded text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Affixes {
    /// As the library's post-processor says.
    Processor,
    /// These.
    Fixed { bos: Option<TokenId>, eos: Option<TokenId> },
}

impl Tokenizer {
    /// Builds a tokenizer from a model's files. A chat template that does not compile is reported when it is used: the
    /// model can complete without it.
    ///
    /// # Errors
    /// [`TokenizerError::File`] names the file and what in it is wrong or not supported.
    pub fn new(source: TokenizerSource) -> Result<Self, TokenizerError> {
        let inner = match source {
            TokenizerSource::HuggingFace(source) => hf::build(source)?,
            TokenizerSource::Gguf(source) => gguf::build(source)?,
        };
        Ok(Self(Arc::new(inner)))
    }

    /// Encodes `text`. Special tokens written out in it become those tokens, as in Hugging Face's tokenizers.
    pub fn encode(&self, text: &str, special: AddSpecial) -> Result<Vec<TokenId>, TokenizerError> {
        let inner = &*self.0;
        match (inner.affixes, special) {
            (_, AddSpecial::No) => inner.encoder.encode(text, false),
            (Affixes::Processor, AddSpecial::Yes) => inner.encoder.encode(text, true),
            (Affixes::Fixed { bos, eos }, AddSpecial::Yes) => {
                let mut ids = inner.encoder.encode(text, false)?;
                if let Some(bos) = bos {
                    ids.insert(0, bos);
                }
                ids.extend(eos);
                Ok(ids)
            }
        }
    }

    /// The text of `ids`; bytes that are no character become U+FFFD, ids that the vocabulary lacks give nothing.
    ///
    /// As Hugging Face's decoders, without transformers' removal of spaces before punctuation. Where a run of
    /// byte-fallback tokens is not wholly UTF-8, its valid characters stay, as SentencePiece has it.
    pub fn decode(&self, ids: &[TokenId], skip_special: bool) -> String {
        detokenizer::decode(&self.0.vocabulary, self.0.decoding, ids, skip_special)
    }

    /// Decodes a sequence's tokens as they come.
    pub fn detokenizer(&self, options: DetokenizerOptions) -> Detokenizer {
        Detokenizer::new(self.0.clone(), options)
    }

    /// The highest token id, plus one. A model's embedding may have more rows, as padding.
    pub fn vocab_size(&self) -> usize {
        self.0.vocabulary.len()
    }

    /// The id of a token by its own text, as the files spell it.
    pub fn token_to_id(&self, token: &str) -> Option<TokenId> {
        match &self.0.encoder {
            Encoder::Library(library) => library.token_to_id(token),
            Encoder::SentencePiece(model) => model.token_to_id(token),
        }
    }

    /// Whether `id` is left out of text by `skip_special`.
    pub fn is_special(&self, id: TokenId) -> bool {
        self.0.vocabulary.piece(id).is_some_and(|piece| piece.role == vocabulary::Role::Special)
    }

    /// The token that ends a text, as the tokenizer's files say; a model's generation settings may name more.
    pub fn eos_token_id(&self) -> Option<TokenId> {
        self.0.eos
    }

    /// Whether the model's files hold a chat template.
    pub fn has_chat_template(&self) -> bool {
        self.0.template.is_some()
    }

    /// Renders messages through the model's chat template.
    ///
    /// # Errors
    /// [`TokenizerError::NoChatTemplate`], or [`TokenizerError::Template`] where the template is wrong or refuses.
    pub fn render_chat(&self, messages: &[ChatMessage], options: &ChatOptions) -> Result<String, TokenizerError> {
        self.0.template.as_ref().ok_or(TokenizerError::NoChatTemplate)?.render(messages, options)
    }

    /// Renders and encodes. The template writes BOS itself where the model wants it, so none is added.
    pub fn encode_chat(&self, messages: &[ChatMessage], options: &ChatOptions) -> Result<Vec<TokenId>, TokenizerError> {
        self.encode(&self.render_chat(messages, options)?, AddSpecial::No)
    }

    /// The ordinary tokens that made-up prompts are drawn from, none of them special or added: words after a space; where the
    /// vocabulary has few of them, printable text. Empty where it has neither.
    pub fn words(&self) -> &[TokenId] {
        exact_prompt::words(self)
    }

    /// A made-up text of exactly `n` tokens, and those tokens: [`encode`](Self::encode) without special tokens gives
    /// them. Random words from `rng`, none of them special.
    ///
    /// # Errors
    /// [`TokenizerError::ExactPrompt`] where the vocabulary has no tokens that stand by themselves.
    pub fn exact_prompt(&self, n: usize, rng: impl FnMut() -> u64) -> Result<(String, Vec<TokenId>), TokenizerError> {
        exact_prompt::make(self, n, rng)
    }
}

impl Encoder {
    fn encode(&self, text: &str, process: bool) -> Result<Vec<TokenId>, TokenizerError> {
        match self {
            Self::Library(library) => {
                let encoding = guarded(|| library.encode_fast(text, process)).map_err(TokenizerError::Encode)?;
                encoding.map(|e| e.get_ids().to_vec()).map_err(|e| TokenizerError::Encode(e.to_string()))
            }
            Self::SentencePiece(model) => Ok(model.encode(text)),
        }
    }
}

/// Runs a call into the tokenizers library. What a `tokenizer.json` says in one place the library looks up unchecked in
/// another (a post-processor's tokens, a normalizer's tables): a panic there is the file's fault, and must not be the
/// server's end.
fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let words =
            panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        format!("the tokenizers library gave up: {}", words.unwrap_or("no reason given"))
    })
}

#[cfg(test)]
pub(crate) mod tests;
