//! SentencePiece's BPE: of all neighbouring symbols that together are a piece, the pair whose piece scores highest is
//! merged first, the leftmost of equals.
//!
//! The merge lists of the tokenizers library rank pairs, and rank the several ways to make one piece apart, so ties
//! would break differently: hence this. Owns merging, byte fallback, the space prefix and the tokens that are matched
//! whole; knows nothing of files.
use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use minisgl_kernels::TokenId;

/// What stands for a space in pieces.
pub(crate) const SPACE: char = '\u{2581}';

/// What a SentencePiece model is built from.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// Pieces that merging may make, with their scores.
    pub(crate) pieces: Vec<(String, TokenId, f32)>,
    /// The token of each byte, where there is one.
    pub(crate) bytes: Vec<(u8, TokenId)>,
    /// Tokens that are matched whole, in the text as it came.
    pub(crate) whole: Vec<(String, TokenId)>,
    /// For characters that are neither a piece nor bytes.
    pub(crate) unknown: Option<TokenId>,
    /// A space goes before each stretch of text.
    pub(crate) add_space_prefix: bool,
}

/// An encoder.
#[derive(Debug)]
pub(crate) struct SentencePiece {
    pieces: HashMap<String, (TokenId, f32)>,
    bytes: [Option<TokenId>; 256],
    whole: WholeTokens,
    unknown: Option<TokenId>,
    add_space_prefix: bool,
    /// No piece holds a space after something else, so that no merge crosses a word's start and words are merged each
    /// by itself.
    words_stand_alone: bool,
}

impl SentencePiece {
    pub(crate) fn new(parts: Parts) -> Self {
        let mut bytes = [None; 256];
        for (byte, id) in parts.bytes {
            bytes[byte as usize] = Some(id);
        }
        let words_stand_alone = parts.pieces.iter().all(|(piece, ..)| !piece.trim_start_matches(SPACE).contains(SPACE));
        let pieces = parts.pieces.into_iter().map(|(piece, id, score)| (piece, (id, score))).collect();
        Self {
            pieces,
            bytes,
            whole: WholeTokens::new(parts.whole),
            unknown: parts.unknown,
            add_space_prefix: parts.add_space_prefix,
            words_stand_alone,
        }
    }

    /// The id of a token by its own text.
    pub(crate) fn token_to_id(&self, token: &str) -> Option<TokenId> {
        let by_byte = || crate::vocabulary::fallback_byte(token).and_then(|byte| self.bytes[byte as usize]);
        self.pieces.get(token).map(|&(id, _)| id).or_else(|| self.whole.find(token)).or_else(by_byte)
    }

    /// Encodes a text. Tokens that are matched whole cut it into stretches; each gets its own space prefix.
    pub(crate) fn encode(&self, text: &str) -> Vec<TokenId> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        let mut rest = text;
        while !rest.is_empty() {
            let next = self.whole.next_in(rest);
            let stretch = next.map_or(rest, |(at, ..)| &rest[..at]);
            if !stretch.is_empty() {
                self.encode_stretch(stretch, &mut ids);
            }
            let Some((at, len, id)) = next else { break };
            ids.push(id);
            rest = &rest[at + len..];
        }
        ids
    }

    fn encode_stretch(&self, stretch: &str, ids: &mut Vec<TokenId>) {
        let mut escaped = String::with_capacity(stretch.len() * 2);
        if self.add_space_prefix {
            escaped.push(SPACE);
        }
        escaped.extend(stretch.chars().map(|c| if c == ' ' { SPACE } else { c }));
        let first = ids.len();
        if !self.words_stand_alone {
            return self.merge(&escaped, first, ids);
        }
        let mut start = 0;
        let mut before = SPACE;
        for (at, c) in escaped.char_indices() {
            if c == SPACE && before != SPACE {
                self.merge(&escaped[start..at], first, ids);
                start = at;
            }
            before = c;
        }
        self.merge(&escaped[start..], first, ids);
    }

    /// Merges one word; unknown characters next to each other, back to `first`, are one unknown token.
    fn merge(&self, word: &str, first: usize, ids: &mut Vec<TokenId>) {
        let mut symbols = Symbols::new(word);
        let mut queue = BinaryHeap::new();
        let offer = |symbols: &Symbols, left: usize, queue: &mut BinaryHeap<Pair>| {
            if let Some(right) = symbols.next(left) {
                let len = symbols.list[left].len + symbols.list[right].len;
                let start = symbols.list[left].start;
                if let Some(&(_, score)) = self.pieces.get(&word[start..start + len]) {
                    queue.push(Pair { score, left, len });
                }
            }
        };
        for left in 0..symbols.list.len() {
            offer(&symbols, left, &mut queue);
        }
        while let Some(pair) = queue.pop() {
            if !symbols.merge(&pair) {
                continue;
            }
            if let Some(before) = symbols.previous(pair.left) {
                offer(&symbols, before, &mut queue);
            }
            offer(&symbols, pair.left, &mut queue);
        }
        for symbol in symbols.list.iter().filter(|symbol| symbol.len > 0) {
            self.emit(&word[symbol.start..symbol.start + symbol.len], first, ids);
        }
    }

    fn emit(&self, symbol: &str, first: usize, ids: &mut Vec<TokenId>) {
        if let Some(&(id, _)) = self.pieces.get(symbol) {
            ids.push(id);
        } else if symbol.bytes().all(|byte| self.bytes[byte as usize].is_some()) {
            ids.extend(symbol.bytes().filter_map(|byte| self.bytes[byte as usize]));
        } else if let Some(unknown) = self.unknown
            && ids[first..].last() != Some(&unknown)
        {
            ids.push(unknown);
        }
    }
}

/// A merge that may be made.
#[derive(Debug)]
struct Pair {
    score: f32,
    /// Index of the left symbol.
    left: usize,
    /// Bytes of both: it is out of date where they have other lengths by now.
    len: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left)).then(other.len.cmp(&self.len))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

/// A stretch of the word; its length is 0 once it is merged into the one on its left.
#[derive(Clone, Copy, Debug)]
struct Symbol {
    start: usize,
    len: usize,
    /// Index of the symbol before and after, `list.len()` where there is none.
    previous: usize,
    next: usize,
}

/// A word's symbols, one a character at first: a linked list in an array.
#[derive(Debug)]
struct Symbols {
    list: Vec<Symbol>,
}

impl Symbols {
    fn new(word: &str) -> Self {
        let count = word.chars().count();
        let list = word.char_indices().enumerate().map(|(i, (start, c))| Symbol {
            start,
            len: c.len_utf8(),
            previous: i.checked_sub(1).unwrap_or(count),
            next: i + 1,
        });
        Self { list: list.collect() }
    }

    fn next(&self, i: usize) -> Option<usize> {
        Some(self.list[i].next).filter(|&next| next < self.list.len())
    }

    fn previous(&self, i: usize) -> Option<usize> {
        Some(self.list[i].previous).filter(|&previous| previous < self.list.len())
    }

    /// Makes a merge, unless it is out of date.
    fn merge(&mut self, pair: &Pair) -> bool {
        let left = self.list[pair.left];
        let Some(right) =
            self.next(pair.left).filter(|&right| left.len > 0 && left.len + self.list[right].len == pair.len)
        else {
            return false;
        };
        let after = self.list[right].next;
        self.list[pair.left].len = pair.len;
        self.list[pair.left].next = after;
        self.list[right].len = 0;
        if let Some(after) = self.list.get_mut(after) {
            after.previous = pair.left;
        }
        true
    }
}

/// Tokens that are found in a text as they are: the leftmost first, of those the longest.
#[derive(Debug)]
struct WholeTokens {
    /// By first byte, the longest first.
    by_first: HashMap<u8, Vec<(String, TokenId)>>,
}

impl WholeTokens {
    fn new(tokens: Vec<(String, TokenId)>) -> Self {
        let mut by_first: HashMap<u8, Vec<(String, TokenId)>> = HashMap::new();
        for (text, id) in tokens {
            if let Some(&first) = text.as_bytes().first() {
                by_first.entry(first).or_default().push((text, id));
            }
        }
        for tokens in by_first.values_mut() {
            tokens.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        }
        Self { by_first }
    }

    /// The first in `text`: where it starts, its length, its id.
    fn next_in(&self, text: &str) -> Option<(usize, usize, TokenId)> {
        text.bytes().enumerate().find_map(|(at, byte)| {
            let found =
                self.by_first.get(&byte)?.iter().find(|(token, _)| text.as_bytes()[at..].starts_with(token.as_bytes()));
            found.map(|(token, id)| (at, token.len(), *id))
        })
    }

    fn find(&self, token: &str) -> Option<TokenId> {
        let tokens = self.by_first.get(token.as_bytes().first()?)?;
        tokens.iter().find(|(text, _)| text == token).map(|&(_, id)| id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, followed to the letter.
    fn by_definition(pieces: &[(String, TokenId, f32)], unknown: TokenId, text: &str) -> Vec<TokenId> {
        let find = |text: &str| pieces.iter().rev().find(|(piece, ..)| piece == text);
        let mut symbols: Vec<String> = text.chars().map(String::from).collect();
        loop {
            let mut best: Option<(f32, usize)> = None;
            for (at, pair) in symbols.windows(2).enumerate() {
                if let Some(&(_, _, score)) = find(&pair.concat())
                    && best.is_none_or(|(highest, _)| score > highest)
                {
                    best = Some((score, at));
                }
            }
            let Some((_, at)) = best else { break };
            let right = symbols.remove(at + 1);
            symbols[at] += &right;
        }
        let mut ids: Vec<TokenId> =
            symbols.iter().map(|symbol| find(symbol).map_or(unknown, |&(_, id, _)| id)).collect();
        ids.dedup_by(|a, b| *a == unknown && *b == unknown);
        ids
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        /// Few scores, so that many are equal; half of the vocabularies have pieces that cross words.
        #[test]
        fn merges_by_the_definition(
            pieces in prop::collection::btree_map("▁{0,2}[abc]{1,4}|▁{1,3}", 0u8..4, 1..25),
            crossing in prop::option::of("[ab]▁[ab]?"),
            text in "[abcd ]{0,30}",
            add_space_prefix: bool,
        ) {
            let names = pieces.into_iter().chain(crossing.map(|piece| (piece, 9)));
            let pieces: Vec<_> = names.enumerate().map(|(id, (piece, score))| (piece, id as TokenId, f32::from(score))).collect();
            let unknown = 99;
            let parts = Parts { pieces: pieces.clone(), unknown: Some(unknown), add_space_prefix, ..Parts::default() };
            let escaped = format!("{}{text}", if add_space_prefix && !text.is_empty() { " " } else { "" }).replace(' ', "▁");
            prop_assert_eq!(SentencePiece::new(parts).encode(&text), by_definition(&pieces, unknown, &escaped));
        }
    }

    #[test]
    fn whole_tokens_are_the_leftmost_and_of_those_the_longest() {
        let whole = [("<a>", 1), ("<a>b", 2), ("c<", 3), ("", 9)].map(|(text, id)| (text.to_owned(), id)).to_vec();
        let model = SentencePiece::new(Parts { whole, unknown: Some(0), ..Parts::default() });
        assert_eq!(model.encode("<a>b<a>c<a>"), [2, 1, 3, 0]);
        assert_eq!(model.encode("é<a>é"), [0, 1, 0]);
        assert_eq!(model.token_to_id("<a>b"), Some(2));
        assert_eq!(model.token_to_id(""), None);
    }
}
