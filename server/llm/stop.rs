//! Stop strings: which of a growing text may be shown, and where it ends.
//!
//! The match that is complete first ends the text; of those complete at once, the one that began first. So the result
//! does not depend on how the text arrived in pieces. Does not know tokens or who reads the text.

/// Watches a text for stop strings. Text that may be the start of one is held back.
#[derive(Debug)]
pub(crate) struct StopMatcher {
    patterns: Vec<Pattern>,
    /// What was pushed and not yet shown: always the longest end of the text that begins some stop string.
    held: String,
}

/// One stop string, matched as Knuth, Morris and Pratt do: time is linear in the text, whatever the string.
#[derive(Debug)]
struct Pattern {
    bytes: Vec<u8>,
    /// `border[i]`: length of the longest proper prefix of `bytes[..=i]` that also ends it.
    border: Vec<usize>,
    /// How many bytes of the pattern the text ends with.
    matched: usize,
}

/// What a push gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// This may be shown now; the text goes on.
    Text(String),
    /// This is the last of the text: a stop string followed.
    Last(String),
}

impl Pattern {
    fn new(text: &str) -> Self {
        assert!(!text.is_empty(), "stop strings were checked to be non-empty");
        let bytes = text.as_bytes().to_vec();
        let mut border = vec![0; bytes.len()];
        let mut length = 0;
        for i in 1..bytes.len() {
            while length > 0 && bytes[i] != bytes[length] {
                length = border[length - 1];
            }
            if bytes[i] == bytes[length] {
                length += 1;
            }
            border[i] = length;
        }
        Self { bytes, border, matched: 0 }
    }

    /// Takes one byte; whether the pattern is complete.
    fn push(&mut self, byte: u8) -> bool {
        while self.matched > 0 && self.bytes[self.matched] != byte {
            self.matched = self.border[self.matched - 1];
        }
        if self.bytes[self.matched] == byte {
            self.matched += 1;
        }
        self.matched == self.bytes.len()
    }
}

impl StopMatcher {
    pub(crate) fn new(stop: &[String]) -> Self {
        Self { patterns: stop.iter().map(|text| Pattern::new(text)).collect(), held: String::new() }
    }

    /// Takes more of the text. After [`Shown::Last`] it must not be used again.
    pub(crate) fn push(&mut self, text: String) -> Shown {
        if self.patterns.is_empty() {
            return Shown::Text(text);
        }
        let old = self.held.len();
        self.held += &text;
        for (i, byte) in text.bytes().enumerate() {
            let complete = self.patterns.iter_mut().filter_map(|p| p.push(byte).then_some(p.bytes.len())).max();
            if let Some(length) = complete {
                self.held.truncate(old + i + 1 - length);
                return Shown::Last(std::mem::take(&mut self.held));
            }
        }
        // A pattern is whole characters, so what it matched begins at one.
        let keep = self.patterns.iter().map(|p| p.matched).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        Shown::Text(std::mem::replace(&mut self.held, rest))
    }

    /// The text has ended: what was held back is text after all.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The meaning, in the plainest words: try every end in turn, then the longest stop string that ends there.
    fn naive(text: &str, stop: &[String]) -> (String, bool) {
        for end in (0..=text.len()).filter(|&end| text.is_char_boundary(end)) {
            if let Some(found) = stop.iter().filter(|s| text[..end].ends_with(s.as_str())).max_by_key(|s| s.len()) {
                return (text[..end - found.len()].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    fn run(pieces: &[String], stop: &[String]) -> (String, bool) {
        let mut matcher = StopMatcher::new(stop);
        let mut shown = String::new();
        for piece in pieces {
            match matcher.push(piece.clone()) {
                Shown::Text(text) => shown += &text,
                Shown::Last(text) => return (shown + &text, true),
            }
        }
        (shown + &matcher.finish(), false)
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn what_may_be_a_stop_string_is_held_back() {
        let mut matcher = StopMatcher::new(&strings(&["\nUser:", "END"]));
        assert_eq!(matcher.push("hello\nUs".into()), Shown::Text("hello".into()));
        assert_eq!(matcher.push("ual E".into()), Shown::Text("\nUsual ".into()));
        assert_eq!(matcher.push("N".into()), Shown::Text(String::new()));
        assert_eq!(matcher.push("D of".into()), Shown::Last(String::new()));
    }

    #[test]
    fn the_first_complete_match_wins_however_the_text_is_cut() {
        let stop = strings(&["abcd", "bc"]);
        for pieces in [&["xabcd"][..], &["xab", "cd"], &["x", "a", "b", "c", "d"]] {
            assert_eq!(run(&strings(pieces), &stop), ("xa".into(), true), "{pieces:?}");
        }
        assert_eq!(run(&strings(&["xyz"]), &strings(&["yz", "xyz"])), (String::new(), true));
        assert_eq!(run(&strings(&["aab", "aac"]), &strings(&["abaac"])), ("a".into(), true));
    }

    proptest! {
        #[test]
        fn equals_a_naive_search_of_the_whole_text(
            pieces in prop::collection::vec("[abé�]{0,4}", 0..12),
            stop in prop::collection::vec("[abé�]{1,4}", 0..4),
        ) {
            prop_assert_eq!(run(&pieces, &stop), naive(&pieces.concat(), &stop));
        }
    }
}
