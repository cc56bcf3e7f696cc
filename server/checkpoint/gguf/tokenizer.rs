//! GGUF metadata's tokenizer, as it stands there.
use super::value::Metadata;
use crate::error::{CheckpointError, quoted};
use crate::limits::MAX_VOCAB;
use crate::tokenizer::GgufTokenizer;

const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TYPES: &str = "tokenizer.ggml.token_type";

/// Reads it. Per-token arrays are as long as the tokens, or empty where the file has none.
pub(super) fn read(metadata: &Metadata<'_>) -> Result<GgufTokenizer, CheckpointError> {
    let model = match metadata.string(MODEL)? {
        Some(model @ ("gpt2" | "llama")) => model.to_string(),
        Some(other) => {
            let why = format!("'{}' is not supported; gpt2 and llama are", quoted(other));
            return Err(metadata.error(MODEL, why));
        }
        None => return Err(metadata.error(MODEL, "missing; the file has no tokenizer")),
    };
    let count = metadata.array_len(TOKENS)?;
    if count == 0 || count > MAX_VOCAB {
        return Err(metadata.error(TOKENS, format!("{count} tokens; 1 to {MAX_VOCAB} are right")));
    }
    for key in [SCORES, TYPES] {
        let len = metadata.array_len(key)?;
        if metadata.has(key) && len != count {
            return Err(metadata.error(key, format!("{len} entries, but there are {count} tokens")));
        }
    }
    let token = |name: &str| -> Result<Option<u32>, CheckpointError> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        match metadata.token(&key)? {
            Some(id) if id as usize >= count => {
                Err(metadata.error(&key, format!("{id} is not one of the {count} tokens")))
            }
            id => Ok(id),
        }
    };
    let types = metadata.integers(TYPES)?.unwrap_or_default();
    let types =
        types.into_iter().map(|n| i32::try_from(n).map_err(|_| metadata.error(TYPES, format!("{n} is no type"))));
    Ok(GgufTokenizer {
        model,
        pre: metadata.string("tokenizer.ggml.pre")?.map(str::to_string),
        token_types: types.collect::<Result<_, _>>()?,
        scores: metadata.floats(SCORES)?.unwrap_or_default(),
        merges: metadata.strings("tokenizer.ggml.merges")?.unwrap_or_default(),
        bos: token("bos")?,
        eos: token("eos")?,
        unk: token("unknown")?,
        pad: token("padding")?,
        eot: token("eot")?,
        add_bos: metadata.bool("tokenizer.ggml.add_bos_token")?,
        add_eos: metadata.bool("tokenizer.ggml.add_eos_token")?,
        add_space_prefix: metadata.bool("tokenizer.ggml.add_space_prefix")?,
        chat_template: metadata.string("tokenizer.chat_template")?.map(str::to_string),
        path: metadata.path.to_path_buf(),
        tokens: metadata.strings(TOKENS)?.unwrap_or_default(),
    })
}
