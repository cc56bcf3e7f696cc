//! A bounded reader over a GGUF file's bytes. Every length is checked against what the file still has before it is used.
use std::ops::Range;

/// Why a read failed, in words.
pub(super) type Why = String;

pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Passes over `n` bytes and says where they lie.
    pub(super) fn range(&mut self, n: u64) -> Result<Range<usize>, Why> {
        match usize::try_from(n) {
            Ok(n) if n <= self.left() => {
                let range = self.at..self.at + n;
                self.at += n;
                Ok(range)
            }
            _ => Err(format!("needs {n} bytes at offset {}, but the file has {}", self.at, self.bytes.len())),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Why> {
        let range = self.range(N as u64)?;
        Ok(self.bytes[range].try_into().expect("a range of N bytes"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, Why> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, Why> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Why> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Why> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Where a string's bytes lie: a u64 length, then as many bytes.
    pub(super) fn string(&mut self) -> Result<Range<usize>, Why> {
        let n = self.u64()?;
        self.range(n)
    }

    /// A string that must be UTF-8 of at most `most` bytes.
    pub(super) fn name(&mut self, most: usize) -> Result<&'a str, Why> {
        let range = self.string()?;
        if range.len() > most {
            return Err(format!("a name of {} bytes at offset {}; at most {most} are right", range.len(), range.start));
        }
        std::str::from_utf8(&self.bytes[range.clone()])
            .map_err(|e| format!("a name at offset {} is not UTF-8: {e}", range.start))
    }

    /// A count of things that take at least `each` bytes of the file: refused where the file cannot hold them.
    pub(super) fn count(&mut self, each: usize, most: u64, what: &str) -> Result<usize, Why> {
        let n = self.u64()?;
        check_count(n, each, self.left(), what)?;
        if n > most {
            return Err(format!("{n} {what}; at most {most} are read"));
        }
        Ok(n as usize)
    }
}

/// Whether `n` things of at least `each` bytes fit in `left` bytes.
pub(super) fn check_count(n: u64, each: usize, left: usize, what: &str) -> Result<(), Why> {
    match n.checked_mul(each as u64) {
        Some(bytes) if bytes <= left as u64 => Ok(()),
        _ => Err(format!("{n} {what} of at least {each} bytes each, but the file has {left} bytes left")),
    }
}
