//! Prompts of exactly so many tokens, by the tokenizer of the model that is served.
//!
//! Owns which tokenizer that is and how it is opened: the only file here that knows of model files. Knows nothing of
//! requests.
use std::path::PathBuf;

use minisgl_checkpoint::{FindError, FindOptions, Hub, TokenizerSource};
use minisgl_tokenizer::Tokenizer;

use crate::bodies::MakePrompt;
use crate::error::LoadgenError;

/// What makes the prompts, and the tokenizer's name.
pub(crate) struct Prompts {
    /// As it was asked for, or the server's `root`.
    pub(crate) name: String,
    /// Exact in the message's own tokens, whatever a chat template adds.
    pub(crate) make: Box<MakePrompt<'static>>,
}

impl Prompts {
    /// Opens the tokenizer that was `asked` for, else that of the server's `root`, where it can be had here.
    pub(crate) fn open(asked: Option<&str>, root: Option<&str>, progress: bool) -> Result<Self, LoadgenError> {
        let (name, path) = match (asked, root) {
            (Some(asked), _) => {
                let problem =
                    |error: FindError| LoadgenError::Tokenizer { name: asked.to_owned(), problem: error.to_string() };
                (asked, find(asked, progress).map_err(problem)?)
            }
            (None, Some(root)) => {
                let why = |error| {
                    LoadgenError::NoTokenizer(format!("the server's is `{root}`, which cannot be had here ({error})"))
                };
                (root, find(root, progress).map_err(why)?)
            }
            (None, None) => {
                return Err(LoadgenError::NoTokenizer("/v1/models does not say (it has no `root`)".to_owned()));
            }
        };
        let wrong = |problem: String| LoadgenError::Tokenizer { name: name.to_owned(), problem };
        let source = TokenizerSource::open(&path).map_err(|error| wrong(error.to_string()))?;
        let tokenizer = Tokenizer::new(source).map_err(|error| wrong(error.to_string()))?;
        let make: Box<MakePrompt<'static>> = Box::new(move |n, rng| {
            let (text, _) = tokenizer.exact_prompt(n, || rng.next()).map_err(|error| error.to_string())?;
            Ok(text)
        });
        Ok(Self { name: name.to_owned(), make })
    }
}

/// The files of a path, an alias or a hub id; of a hub's, those of the tokenizer only.
fn find(model: &str, progress: bool) -> Result<PathBuf, FindError> {
    let options = FindOptions { model, hub: Hub::HuggingFace, weights: false, progress };
    Ok(minisgl_checkpoint::find(&options)?.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_says_what_to_give() {
        let error = |asked, root| Prompts::open(asked, root, false).err().unwrap().to_string();
        assert!(error(None, None).contains("give --tokenizer"));
        let elsewhere = error(None, Some("/elsewhere/model.gguf"));
        assert!(elsewhere.contains("/elsewhere/model.gguf") && elsewhere.contains("give --tokenizer"), "{elsewhere}");
        assert!(error(Some("/elsewhere"), None).contains("tokenizer /elsewhere"));
        assert!(error(Some("no-such-alias"), Some("/")).contains("no-such-alias"));
    }
}
