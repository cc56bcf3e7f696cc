//! Text of an exact number of tokens, for load generators: random words that are one token each.
//!
//! Almost every vocabulary has thousands of tokens that are a space and a word. They neither merge nor split next to
//! each other, so `n` of them are `n` tokens at the first try. Nothing is taken on trust: the text is encoded, and
//! mended where the count is off.
use minisgl_kernels::TokenId;

use crate::vocabulary::Role;
use crate::{AddSpecial, Tokenizer, TokenizerError};

/// Fewer words than this are too few to draw from.
const FEW: usize = 16;
/// Rounds of mending before giving up. Real vocabularies need none; letters that merge take a few.
const ROUNDS: usize = 64;

/// See [`Tokenizer::exact_prompt`].
pub(crate) fn make(
    tokenizer: &Tokenizer,
    n: usize,
    mut rng: impl FnMut() -> u64,
) -> Result<(String, Vec<TokenId>), TokenizerError> {
    let words = words(tokenizer);
    if words.is_empty() && n > 0 {
        return Err(TokenizerError::ExactPrompt { n });
    }
    let mut draw = || words[(rng() % words.len() as u64) as usize];
    let mut drawn: Vec<TokenId> = (0..n).map(|_| draw()).collect();
    for round in 0..ROUNDS {
        let text = tokenizer.decode(&drawn, false);
        let ids = tokenizer.encode(&text, AddSpecial::No)?;
        if ids.len() == n {
            return Ok((text, ids));
        }
        let missing = if round == 0 {
            drawn.retain(|&id| stands(tokenizer, id));
            n - drawn.len()
        } else if ids.len() > n {
            let excess = ((ids.len() - n) * drawn.len() / ids.len()).max(1);
            drawn.truncate(drawn.len().saturating_sub(excess));
            0
        } else {
            n - ids.len()
        };
        for _ in 0..missing {
            let mut next = draw();
            for _ in 0..ROUNDS {
                if stands(tokenizer, next) {
                    break;
                }
                next = draw();
            }
            drawn.push(next);
        }
    }
    Err(TokenizerError::ExactPrompt { n })
}

/// What prompts are made of: see [`Tokenizer::words`].
pub(crate) fn words(tokenizer: &Tokenizer) -> &[TokenId] {
    tokenizer.0.words.get_or_init(|| candidates(tokenizer))
}

/// Whether a token stays itself next to itself.
fn stands(tokenizer: &Tokenizer, id: TokenId) -> bool {
    let three = [id; 3];
    tokenizer.encode(&tokenizer.decode(&three, false), AddSpecial::No).is_ok_and(|ids| ids == three)
}

/// What to draw from: words after a space; where there are few, printable ASCII; where there is none, any text.
fn candidates(tokenizer: &Tokenizer) -> Vec<TokenId> {
    let word = |text: &str| {
        text.strip_prefix(' ').is_some_and(|word| word.len() > 1 && word.bytes().all(|b| b.is_ascii_alphabetic()))
    };
    let printable = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
    let choose = |wanted: &dyn Fn(&str) -> bool| -> Vec<TokenId> {
        let vocabulary = &tokenizer.0.vocabulary;
        let chosen = (0..vocabulary.len() as TokenId).filter(|&id| {
            let piece = vocabulary.piece(id).filter(|piece| piece.role == Role::Ordinary && !piece.bytes.is_empty());
            piece.is_some_and(|piece| std::str::from_utf8(piece.bytes).is_ok_and(wanted))
        });
        chosen.collect()
    };
    let words = choose(&word);
    if words.len() >= FEW {
        return words;
    }
    let printable = choose(&printable);
    if printable.is_empty() { choose(&|text| !text.trim().is_empty()) } else { printable }
}
