//! Which tokens of a prompt a hash id stands for.
//!
//! Owns the one rule by which prompts are made and the ideal hit rate is computed. Knows nothing of ids or tokens.
//!
//! ```text
//!  block       0         1         2           b = block_size · scale, rounded half up at each edge: at 16 · 0.4 = 6.4
//!          |─────────|─────────|────┐····|
//!  token   0         6        13   15    19    a prompt of 15 tokens ends within block 2
//! ```
//! Edges depend on the block's place and the scale alone, so two prompts that begin with the same ids begin with the same
//! tokens: a shorter last block is the beginning of the longer one.
use std::ops::Range;

/// The tokens of each block of a prompt of `tokens` tokens (as sent: scaled, perhaps capped), whose trace has ids of
/// `block_size` tokens and whose inputs are scaled by `scale`. Blocks follow each other without a gap; one may be empty
/// where the scale makes it less than a token.
///
/// The last one ends where the prompt does. To be zipped with the prompt's ids: tokens beyond these (a trace with too few
/// ids) are nobody else's, ids beyond the last block (a prompt that was capped) are not used. Nothing for a scale that is not above 0.
pub fn block_ranges(tokens: usize, block_size: usize, scale: f64) -> impl Iterator<Item = Range<usize>> {
    let block = block_size as f64 * scale;
    let blocks = if block > 0.0 { usize::MAX } else { 0 };
    let edge = move |index: usize| {
        // The cast saturates; `index as f64` is exact for as many blocks as there can be.
        ((index as f64 * block + 0.5).floor() as usize).min(tokens)
    };
    (0..blocks).map(move |index| edge(index)..edge(index + 1)).take_while(move |range| range.start < tokens)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges(tokens: usize, block_size: usize, scale: f64) -> Vec<Range<usize>> {
        block_ranges(tokens, block_size, scale).collect()
    }

    #[test]
    fn unscaled_blocks_are_whole_and_the_last_is_partial() {
        assert_eq!(ranges(33, 16, 1.0), [0..16, 16..32, 32..33]);
        assert_eq!(ranges(32, 16, 1.0), [0..16, 16..32]);
        assert!(ranges(0, 16, 1.0).is_empty());
    }

    #[test]
    fn scaled_edges_are_rounded_half_up() {
        assert_eq!(ranges(15, 16, 0.4), [0..6, 6..13, 13..15]);
        assert_eq!(ranges(4, 1, 0.5), [0..1, 1..1, 1..2, 2..2, 2..3, 3..3, 3..4]);
        assert_eq!(ranges(50, 16, 1.5), [0..24, 24..48, 48..50]);
        assert!(ranges(10, 16, 0.0).is_empty());
        assert!(ranges(10, 0, 1.0).is_empty());
        assert!(ranges(10, 16, f64::NAN).is_empty());
    }

    proptest! {
        /// Blocks partition the prompt, and a shorter prompt's are the beginning of a longer one's.
        #[test]
        fn blocks_partition_and_nest(tokens in 0usize..3000, shorter in 0usize..3000, block_size in 1usize..600, scale in 0.05f64..4.0) {
            let long = ranges(tokens, block_size, scale);
            let mut at = 0;
            for range in &long {
                prop_assert_eq!(range.start, at);
                at = range.end;
            }
            prop_assert_eq!(at, tokens);
            let shorter = shorter.min(tokens);
            for (short, long) in ranges(shorter, block_size, scale).iter().zip(&long) {
                prop_assert_eq!(short.start, long.start);
                prop_assert_eq!(short.end, long.end.min(shorter));
            }
        }
    }
}
