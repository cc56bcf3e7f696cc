//! A step as a device keeps it: inputs copied and checked, so that operations index without asking again.
use std::ops::Range;

use crate::device::{KvShape, Limits, Step, TokenId, TokenSource, Want};

/// Where one input token comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// This token.
    Token(TokenId),
    /// What this slot sampled last.
    Last(usize),
}

/// One input token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StagedToken {
    /// Index of its row.
    pub row: usize,
    /// Position in its sequence.
    pub position: usize,
    /// What it is.
    pub source: Source,
}

/// One row: tokens `first .. first + len` of the step.
#[derive(Clone, Debug)]
pub(crate) struct StagedRow {
    /// Its first token's index.
    pub first: usize,
    /// Its tokens.
    pub len: usize,
    /// What it gives back.
    pub want: Want,
    /// Its logits: indices into `wanted`.
    pub logits: Range<usize>,
    pages: Range<usize>,
}

/// The step in hand. Its vectors are kept from step to step.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    /// The input, in order.
    pub tokens: Vec<StagedToken>,
    /// The rows, in order.
    pub rows: Vec<StagedRow>,
    /// Token indices whose logits are wanted, in order.
    pub wanted: Vec<usize>,
    pages: Vec<u32>,
    /// For each page the step that last wrote it, so that two rows of one step never write the same memory.
    written: Vec<u64>,
    slots: Vec<u64>,
    step: u64,
    pages_used: usize,
}

impl Staged {
    /// Stages a step.
    ///
    /// # Panics
    /// Where it breaks its contract: more than the limits, two rows of a slot, page tables too short or out of the cache,
    /// a page written by two rows. Whoever plans steps has a bug then, and going on would mix up sequences.
    pub(crate) fn stage(&mut self, step: &Step<'_>, limits: &Limits, shape: &KvShape) {
        self.step += 1;
        self.written.resize(shape.pages, 0);
        self.slots.resize(limits.slots, 0);
        self.tokens.clear();
        self.rows.clear();
        self.wanted.clear();
        self.pages.clear();
        for (index, row) in step.rows.iter().enumerate() {
            let (slot, len, first) = (row.slot.0 as usize, row.len(), self.tokens.len());
            assert!(slot < limits.slots, "slot {slot} of {}", limits.slots);
            assert!(self.slots[slot] != self.step, "two rows of slot {slot} in one step");
            self.slots[slot] = self.step;
            assert!(len > 0, "row {index} is empty");
            assert!(first + len <= limits.tokens, "a step of more than {} tokens", limits.tokens);
            let end = row.start + len;
            let needed = end.div_ceil(shape.page_size);
            assert!(row.pages.len() >= needed, "row {index} ends at {end}: {} pages of {needed}", row.pages.len());
            for (i, page) in row.pages[..needed].iter().map(|page| page.0 as usize).enumerate() {
                assert!(page < shape.pages, "page {page} of {}", shape.pages);
                if (i + 1) * shape.page_size > row.start {
                    assert!(self.written[page] != self.step, "page {page} is written by two rows of one step");
                    self.written[page] = self.step;
                    self.pages_used = self.pages_used.max(page + 1);
                }
            }
            let page_start = self.pages.len();
            self.pages.extend(row.pages[..needed].iter().map(|page| page.0));
            let source = |i: usize| match row.tokens {
                TokenSource::Tokens(tokens) => Source::Token(tokens[i]),
                TokenSource::LastSampled => Source::Last(slot),
            };
            self.tokens.extend((0..len).map(|i| StagedToken {
                row: index,
                position: row.start + i,
                source: source(i),
            }));
            let logits = self.wanted.len();
            match row.want {
                Want::Nothing => {}
                Want::Sample => self.wanted.push(first + len - 1),
                Want::Scores => self.wanted.extend(first..first + len),
            }
            self.rows.push(StagedRow {
                first,
                len,
                want: row.want,
                logits: logits..self.wanted.len(),
                pages: page_start..self.pages.len(),
            });
        }
    }

    /// Which step this is: no two that a device stages have the same number.
    pub(crate) fn number(&self) -> u64 {
        self.step
    }

    /// One more than the last page that a step has written.
    pub(crate) fn pages_used(&self) -> usize {
        self.pages_used
    }

    /// A row's page table, as far as its last token.
    pub(crate) fn pages(&self, row: usize) -> &[u32] {
        &self.pages[self.rows[row].pages.clone()]
    }

    /// Index into `wanted` of the logits to sample from, for each row that wants any.
    pub(crate) fn sampled(&self) -> impl Iterator<Item = usize> {
        self.rows.iter().filter(|row| row.want != Want::Nothing).map(|row| row.logits.end - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{PageId, Slot, StepRow};

    const LIMITS: Limits = Limits { tokens: 8, slots: 2, context: 64 };
    const SHAPE: KvShape = KvShape { layers: 1, pages: 6, page_size: 4, kv_heads: 1, head_dim: 8 };

    fn row<'a>(slot: u32, start: usize, tokens: &'a [u32], pages: &'a [PageId], want: Want) -> StepRow<'a> {
        StepRow { slot: Slot(slot), start, tokens: TokenSource::Tokens(tokens), pages, want }
    }

    fn stage(rows: &[StepRow<'_>]) -> Staged {
        let mut staged = Staged::default();
        staged.stage(&Step { rows }, &LIMITS, &SHAPE);
        staged
    }

    #[test]
    fn rows_are_laid_out_in_order() {
        let (a, b) = ([PageId(0), PageId(3), PageId(5)], [PageId(0), PageId(1)]);
        let last = StepRow { tokens: TokenSource::LastSampled, ..row(0, 5, &[], &b, Want::Sample) };
        let staged = stage(&[row(1, 3, &[7, 8, 9], &a[..2], Want::Scores), last]);
        assert_eq!(staged.tokens.iter().map(|t| t.position).collect::<Vec<_>>(), [3, 4, 5, 5]);
        assert_eq!(staged.tokens[3].source, Source::Last(0));
        assert_eq!(staged.wanted, [0, 1, 2, 3]);
        assert_eq!(staged.sampled().collect::<Vec<_>>(), [2, 3]);
        assert_eq!((staged.pages(0), staged.pages(1)), (&[0, 3][..], &[0, 1][..]));
    }

    #[test]
    #[should_panic(expected = "page 2 is written by two rows")]
    fn two_rows_may_not_write_a_page() {
        let pages = [PageId(2)];
        stage(&[row(0, 0, &[1], &pages, Want::Nothing), row(1, 2, &[1], &pages, Want::Nothing)]);
    }

    #[test]
    #[should_panic(expected = "1 pages of 2")]
    fn a_page_table_covers_its_row() {
        stage(&[row(0, 3, &[1, 2], &[PageId(0)], Want::Nothing)]);
    }

    #[test]
    #[should_panic(expected = "page 6 of 6")]
    fn pages_are_in_the_cache() {
        stage(&[row(0, 0, &[1], &[PageId(6)], Want::Nothing)]);
    }

    #[test]
    #[should_panic(expected = "two rows of slot 1")]
    fn a_slot_has_one_row() {
        let (a, b) = ([PageId(0)], [PageId(1)]);
        stage(&[row(1, 0, &[1], &a, Want::Nothing), row(1, 0, &[1], &b, Want::Nothing)]);
    }

    #[test]
    #[should_panic(expected = "more than 8 tokens")]
    fn a_step_keeps_its_limit() {
        let pages = [PageId(0), PageId(1), PageId(2)];
        stage(&[row(1, 0, &[1; 9], &pages, Want::Nothing)]);
    }
}
