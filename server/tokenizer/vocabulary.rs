//! What each token id says: its bytes, how they join their neighbours', whether it is special.
//!
//! Owns the ids-to-bytes half; knows nothing of how text is split into ids, nor of files.
use minisgl_kernels::TokenId;

/// The most ids a vocabulary may have. The largest in use have a quarter of this; the table is sized by the highest id,
/// which a hostile file chooses.
pub(crate) const MAX_VOCABULARY: usize = 1 << 20;

/// What an id is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A hole: no text, never produced.
    Absent,
    /// Text that the model learned.
    Ordinary,
    /// One raw byte, a filler or an added token: text, but not for making up prompts.
    Other,
    /// A control token: left out of text on request.
    Special,
}

/// How a piece's bytes meet their neighbours'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joins {
    /// A character may be spread over this piece and the next.
    Bytes,
    /// Whole characters: an incomplete character before it stays incomplete.
    Text,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    start: usize,
    len: usize,
    role: Role,
    joins: Joins,
}

/// A token's text as looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece<'a> {
    /// UTF-8, or a part of it where it joins as bytes.
    pub(crate) bytes: &'a [u8],
    pub(crate) role: Role,
    pub(crate) joins: Joins,
}

/// The bytes of every id.
#[derive(Debug, Default)]
pub(crate) struct Vocabulary {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

impl Vocabulary {
    /// Sets what `id` says. The last word counts. Ids are checked against [`MAX_VOCABULARY`] by whoever reads the file.
    pub(crate) fn set(&mut self, id: TokenId, bytes: &[u8], role: Role, joins: Joins) {
        let id = id as usize;
        assert!(id < MAX_VOCABULARY, "token id {id} was not checked");
        if self.entries.len() <= id {
            self.entries.resize(id + 1, Entry { start: 0, len: 0, role: Role::Absent, joins: Joins::Text });
        }
        self.entries[id] = Entry { start: self.bytes.len(), len: bytes.len(), role, joins };
        self.bytes.extend_from_slice(bytes);
    }

    /// The highest id, plus one.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What `id` says; `None` for holes and ids beyond the end.
    pub(crate) fn piece(&self, id: TokenId) -> Option<Piece<'_>> {
        let entry = self.entries.get(id as usize).filter(|entry| entry.role != Role::Absent)?;
        let bytes = &self.bytes[entry.start..entry.start + entry.len];
        Some(Piece { bytes, role: entry.role, joins: entry.joins })
    }
}

/// The byte that a character of a byte-level vocabulary stands for: GPT-2's alphabet, in which printable bytes are
/// themselves and the others follow from U+0100 on.
pub(crate) fn byte_of(c: char) -> Option<u8> {
    let printable = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    match c as u32 {
        code if printable(code) => Some(code as u8),
        code @ 0x100..=0x143 => (0..=255u32).filter(|&b| !printable(b)).nth(code as usize - 0x100).map(|b| b as u8),
        _ => None,
    }
}

/// The bytes of a token of a byte-level vocabulary. One with a character outside the alphabet is taken as it is, as
/// added tokens are.
pub(crate) fn byte_level(token: &str) -> Vec<u8> {
    token.chars().map(byte_of).collect::<Option<Vec<u8>>>().unwrap_or_else(|| token.as_bytes().to_vec())
}

/// The byte of a byte-fallback token, `<0x0A>`.
pub(crate) fn fallback_byte(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit())).then(|| u8::from_str_radix(hex, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_is_a_bijection() {
        let mut seen = [false; 256];
        for byte in ('\0'..='\u{200}').filter_map(byte_of) {
            assert!(!std::mem::replace(&mut seen[byte as usize], true), "{byte}");
        }
        assert!(seen.iter().all(|&s| s));
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
        assert_eq!(byte_of(' '), None);
    }

    #[test]
    fn byte_tokens_are_told_from_text() {
        assert_eq!(fallback_byte("<0x0A>"), Some(10));
        for text in ["<0x0A", "0x0A>", "<0x+A>", "<0xGG>", "<0x0AB>", "<0xé>", ""] {
            assert_eq!(fallback_byte(text), None, "{text}");
        }
    }
}
