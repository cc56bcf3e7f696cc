//! What ranks tell each other of a step's end: the tokens that rank 0 chose.
use crate::collective::Collective;
use crate::device::{RowError, SampleRow, TokenId};

/// Rank 0's end of it: `last` has the tokens by slot.
pub(crate) fn lead(ranks: &mut Collective, rows: &[SampleRow<'_>], last: &[TokenId]) {
    let mut tokens: Vec<TokenId> = rows.iter().map(|row| last[row.slot.0 as usize]).collect();
    ranks.broadcast(&mut tokens);
}

/// Another rank's: what rank 0 chose becomes its `last` too. Whether a row failed is rank 0's to say.
pub(crate) fn follow(
    ranks: &mut Collective,
    rows: &[SampleRow<'_>],
    last: &mut [TokenId],
) -> Vec<Result<TokenId, RowError>> {
    let mut tokens = vec![0; rows.len()];
    ranks.broadcast(&mut tokens);
    rows.iter().zip(&tokens).for_each(|(row, token)| last[row.slot.0 as usize] = *token);
    tokens.into_iter().map(Ok).collect()
}
