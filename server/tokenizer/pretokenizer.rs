//! How byte-level vocabularies cut text before merging, by the names that GGUF files give.
//!
//! The expressions are the models' own (`tokenizer.json` of GPT-2, Llama 3, Qwen2, SmolLM), except the default, which is
//! llama.cpp's for files from before there were names.
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{SplitDelimiterBehavior, Tokenizer as Library};

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";

/// A way to cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pretokenizer {
    /// No name in the file.
    Default,
    Gpt2,
    Llama3,
    Qwen2,
    SmolLm,
}

impl Pretokenizer {
    /// By `tokenizer.ggml.pre`.
    pub(crate) fn named(name: Option<&str>) -> Result<Self, String> {
        match name {
            None | Some("default") => Ok(Self::Default),
            Some("gpt-2") => Ok(Self::Gpt2),
            Some("llama-bpe" | "llama3" | "llama-v3") => Ok(Self::Llama3),
            Some("qwen2" | "deepseek-r1-qwen") => Ok(Self::Qwen2),
            Some("smollm") => Ok(Self::SmolLm),
            Some(other) => Err(format!(
                "tokenizer.ggml.pre '{other}' is not supported: default, gpt-2, llama-bpe, qwen2 and smollm are"
            )),
        }
    }

    /// A word that is a token is not merged up from its bytes.
    pub(crate) fn ignores_merges(self) -> bool {
        self == Self::Llama3
    }

    /// BOS comes first, where the file does not say.
    pub(crate) fn adds_bos(self) -> bool {
        self == Self::Llama3
    }

    /// Sets `library` up to cut so.
    pub(crate) fn install(self, library: &mut Library) -> Result<(), String> {
        let split = |expression: &str| {
            Split::new(SplitPattern::Regex(expression.into()), SplitDelimiterBehavior::Isolated, false)
                .map(PreTokenizerWrapper::Split)
                .map_err(|e| e.to_string())
        };
        let bytes = PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, false));
        let steps = match self {
            Self::Default => {
                vec![split(r"[\p{P}\$\+<=>\^~\|]+")?, split(GPT2)?, split(r"\p{N}+")?, split("[0-9][0-9][0-9]")?, bytes]
            }
            Self::Gpt2 => vec![PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true))],
            Self::Llama3 => vec![split(LLAMA3)?, bytes],
            Self::Qwen2 => vec![split(QWEN2)?, bytes],
            Self::SmolLm => vec![
                PreTokenizerWrapper::Digits(Digits::new(true)),
                PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true)),
            ],
        };
        library.with_pre_tokenizer(Some(PreTokenizerWrapper::Sequence(Sequence::new(steps))));
        if self == Self::Qwen2 {
            library.with_normalizer(Some(NFC));
        }
        Ok(())
    }
}
