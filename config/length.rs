//! How many tokens: one length, or a range to draw from.
//!
//! Owns the spelling (`N` or `A-B`) and its bounds. Draws nothing itself: the generators differ between commands.
use std::fmt;
use std::str::FromStr;

/// No length can be more: far beyond any context, and small enough that sums and buffers of it are sane.
pub const LONGEST: usize = 1 << 24;

/// Token counts from [`min`](Self::min) to [`max`](Self::max), both included; never 0, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LengthRange {
    min: usize,
    max: usize,
}

impl LengthRange {
    /// `min` to `max`, where `1 <= min <= max <= LONGEST`; otherwise says what would be right.
    pub fn new(min: usize, max: usize) -> Result<Self, LengthError> {
        if min < 1 || max > LONGEST || min > max {
            return Err(LengthError(format!("{min}-{max}")));
        }
        Ok(Self { min, max })
    }

    /// The smallest.
    pub fn min(self) -> usize {
        self.min
    }

    /// The largest.
    pub fn max(self) -> usize {
        self.max
    }

    /// The mean of a uniform draw.
    pub fn mean(self) -> f64 {
        (self.min + self.max) as f64 / 2.0
    }
}

/// Not a length or a range of lengths.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a length: N or A-B in tokens, with 1 <= A <= B <= {LONGEST}, e.g. 128 or 100-1024")]
pub struct LengthError(String);

impl FromStr for LengthRange {
    type Err = LengthError;

    fn from_str(text: &str) -> Result<Self, LengthError> {
        let wrong = || LengthError(text.to_owned());
        let number = |part: &str| match part.bytes().all(|b| b.is_ascii_digit()) {
            true => part.parse::<usize>().map_err(|_| wrong()),
            false => Err(wrong()),
        };
        let (min, max) = match text.split_once('-') {
            Some((min, max)) => (number(min)?, number(max)?),
            None => (number(text)?, number(text)?),
        };
        Self::new(min, max).map_err(|_| wrong())
    }
}

impl fmt::Display for LengthRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.min == self.max {
            true => write!(f, "{}", self.min),
            false => write!(f, "{}-{}", self.min, self.max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_read_and_print_the_same() {
        for (text, min, max) in
            [("128", 128, 128), ("100-1024", 100, 1024), ("1-1", 1, 1), ("16777216", LONGEST, LONGEST)]
        {
            let range: LengthRange = text.parse().unwrap();
            assert_eq!((range.min(), range.max()), (min, max), "{text}");
            assert_eq!(range.to_string().parse::<LengthRange>().unwrap(), range);
        }
        assert_eq!("100-200".parse::<LengthRange>().unwrap().mean(), 150.0);
    }

    #[test]
    fn anything_else_is_an_error_that_says_what_is_right() {
        for text in
            ["", "0", "0-5", "5-4", "-5", "5-", "+5", "a", "1-2-3", "1 - 2", "16777217", "99999999999999999999999"]
        {
            let error = text.parse::<LengthRange>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")) && error.contains("N or A-B"), "{error}");
        }
    }
}
