//! The ideal prefix hit rate: what a cache without bounds would have served of a trace's prompts.
//!
//! Owns the definition: requests one after another in the trace's order, each prompt kept whole once it was computed; hit
//! tokens are the longest beginning that any earlier prompt has as well, at least one token of each prompt left to compute.
//! What answers add is not counted: a trace has no ids for them. Knows nothing of servers or tokens.
//!
//! ```text
//!  earlier prompt   |── 7 ──|── 8 ──|─ 9 ·    ids, the last block partial
//!  this prompt      |── 7 ──|── 8 ──|── 9 ──|── 4 ··
//!  hit              |────────────────────|           token exact: as much of block 9 as was there
//!  hit, pages       |────────────────|               in whole pages of it
//! ```
use std::collections::HashMap;

use super::{Trace, TraceRequest, block_ranges};

/// How a trace's prompts are looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrefixOptions {
    /// Tokens that a page of the cache holds; 1 for token-exact hits.
    pub page_size: usize,
    /// What input lengths are multiplied by.
    pub scale: f64,
}

impl Default for PrefixOptions {
    fn default() -> Self {
        Self { page_size: 1, scale: 1.0 }
    }
}

/// What an ideal cache serves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IdealHits {
    /// Tokens of each request's prompt, as given; none for a failed request, whose prompt is not sent.
    pub prompt_tokens: Vec<usize>,
    /// How many of them are hits.
    pub cached_tokens: Vec<usize>,
}

impl IdealHits {
    /// Hit tokens over prompt tokens; `None` where there is no prompt token.
    pub fn rate(&self) -> Option<f64> {
        let total: usize = self.prompt_tokens.iter().sum();
        (total > 0).then(|| self.cached_tokens.iter().sum::<usize>() as f64 / total as f64)
    }
}

/// The ideal hits of a trace whose inputs are scaled as [`PrefixOptions`] says and otherwise sent as they are.
pub fn ideal_hits(trace: &Trace, options: PrefixOptions) -> IdealHits {
    let tokens = |request: &TraceRequest| match request.input_length {
        Some(_) if request.failed => 0,
        // A length of 0 is sent as 1; one that is to be counted has no ids either.
        Some(n) => ((n as f64 * options.scale + 0.5).floor() as usize).max(1),
        None => 0,
    };
    let prompt_tokens: Vec<usize> = trace.requests.iter().map(tokens).collect();
    ideal_hits_of(trace, prompt_tokens, options)
}

/// The ideal hits of a trace whose prompts are sent with these numbers of tokens (scaled, capped, fitted to a model), one for
/// each request; 0 for one that is not sent. `options.scale` is what blocks are scaled by.
pub fn ideal_hits_of(trace: &Trace, prompt_tokens: Vec<usize>, options: PrefixOptions) -> IdealHits {
    let mut cache = Tree::default();
    let block_size = trace.block_size.unwrap_or(0);
    let page = options.page_size.max(1);
    let cached_tokens = trace.requests.iter().zip(&prompt_tokens).map(|(request, &tokens)| {
        let hit = cache.hit_and_insert(&request.hash_ids, block_ranges(tokens, block_size, options.scale));
        let most = tokens.saturating_sub(1);
        hit.min(most) / page * page
    });
    let cached_tokens = cached_tokens.collect();
    IdealHits { prompt_tokens, cached_tokens }
}

/// Every beginning of every prompt so far: a node a block, its longest content.
#[derive(Default)]
struct Tree {
    /// Of (node, id): the child, and the tokens of its block that have been computed.
    children: HashMap<(u32, u64), (u32, usize)>,
    nodes: u32,
}

impl Tree {
    /// Tokens that this prompt has in common with an earlier one from its beginning, and makes it an earlier one.
    fn hit_and_insert(&mut self, ids: &[u64], blocks: impl Iterator<Item = std::ops::Range<usize>>) -> usize {
        let (mut node, mut hit, mut matching) = (0, 0, true);
        // A block that a scale left empty has no content that could differ.
        for (&id, block) in ids.iter().zip(blocks).filter(|(_, block)| !block.is_empty()) {
            let length = block.len();
            let next = self.nodes + 1;
            let (child, known) = self.children.entry((node, id)).or_insert((next, 0));
            self.nodes = self.nodes.max(*child);
            if matching {
                hit += length.min(*known);
                // A block that was cut shorter ends what is shared, whatever comes behind it.
                matching = length <= *known && *child != next;
            }
            *known = length.max(*known);
            node = *child;
        }
        hit
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{TraceFormat, TraceRequest};
    use super::*;

    fn trace(block_size: usize, prompts: &[(usize, &[u64])]) -> Trace {
        let request = |&(tokens, ids): &(usize, &[u64])| TraceRequest {
            hash_ids: ids.to_vec(),
            ..TraceRequest::of_lengths(0.0, tokens, 1)
        };
        Trace {
            name: "t".to_owned(),
            format: TraceFormat::Mooncake,
            sha256: [0; 32],
            block_size: Some(block_size),
            timed: true,
            skipped: 0,
            requests: prompts.iter().map(request).collect(),
        }
    }

    fn hits(trace: &Trace, page_size: usize) -> Vec<usize> {
        ideal_hits(trace, PrefixOptions { page_size, scale: 1.0 }).cached_tokens
    }

    #[test]
    fn worked_by_hand() {
        let trace = trace(
            10,
            &[
                (25, &[1, 2, 3]),    // nothing yet
                (40, &[1, 2, 3, 4]), // 25: half of block 3 was there
                (40, &[1, 2, 3, 4]), // 39: one is left to compute
                (20, &[1, 2]),       // 19
                (30, &[2, 3, 4]),    // none: block 2 begins no earlier prompt
                (28, &[1, 9, 3]),    // 10
                (5, &[1]),           // 4
                (0, &[]),            // sent as one token, which is computed
            ],
        );
        assert_eq!(hits(&trace, 1), [0, 25, 39, 19, 0, 10, 4, 0]);
        assert_eq!(hits(&trace, 16), [0, 16, 32, 16, 0, 0, 0, 0]);
        let ideal = ideal_hits(&trace, PrefixOptions::default());
        assert_eq!(ideal.rate(), Some(97.0 / 189.0));
        assert_eq!(IdealHits::default().rate(), None);
    }

    #[test]
    fn a_block_that_was_cut_ends_what_is_shared() {
        let trace = trace(10, &[(5, &[1]), (20, &[1, 2]), (15, &[1, 2]), (30, &[1, 2, 3])]);
        assert_eq!(hits(&trace, 1), [0, 5, 14, 20]);
    }

    #[test]
    fn failed_requests_fill_no_cache_and_too_few_ids_share_less() {
        let mut trace = trace(10, &[(20, &[1, 2]), (20, &[1, 2]), (90, &[1, 2]), (90, &[1, 2])]);
        trace.requests[0].failed = true;
        assert_eq!(hits(&trace, 1), [0, 0, 20, 20]);
    }

    /// Prompts as tokens: block `id` is a seeded stream, so that a shorter block is the beginning of a longer one.
    fn tokens(
        ids: &[u64],
        ranges: impl Iterator<Item = std::ops::Range<usize>>,
        total: usize,
        unique: u64,
    ) -> Vec<u64> {
        let mut prompt = Vec::new();
        for (id, range) in ids.iter().zip(ranges) {
            prompt.extend((0..range.len() as u64).map(|at| id * 1000 + at));
        }
        while prompt.len() < total {
            prompt.push(1_000_000 + unique * 1000 + prompt.len() as u64);
        }
        prompt
    }

    proptest! {
        /// The tree's hits are those of comparing all prompts token by token, at any scale.
        #[test]
        fn hits_are_those_of_the_tokens(
            prompts in prop::collection::vec((0usize..40, prop::collection::vec(0u64..3, 0..8)), 1..12),
            block_size in 1usize..9, scale in prop::sample::select(vec![0.1, 0.4, 1.0, 1.7]), page_size in 1usize..5,
        ) {
            let borrowed: Vec<(usize, &[u64])> = prompts.iter().map(|(n, ids)| (*n, ids.as_slice())).collect();
            let options = PrefixOptions { page_size, scale };
            let ideal = ideal_hits(&trace(block_size, &borrowed), options);
            let mut earlier: Vec<Vec<u64>> = Vec::new();
            for (index, (_, ids)) in prompts.iter().enumerate() {
                let total = ideal.prompt_tokens[index];
                let prompt = tokens(ids, block_ranges(total, block_size, scale), total, index as u64);
                let shared = |other: &Vec<u64>| prompt.iter().zip(other).take_while(|(a, b)| a == b).count();
                let longest = earlier.iter().map(shared).max().unwrap_or(0).min(total - 1);
                prop_assert_eq!(ideal.cached_tokens[index], longest / page_size * page_size);
                earlier.push(prompt);
            }
        }
    }
}
