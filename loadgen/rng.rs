//! Seeded draws that are the same on every machine and in every version: splitmix64 (Steele, Lea and Flood, 2014).
//!
//! Owns how a seed becomes the numbers of one purpose. No crate's generator promises its sequence for good; this does.

/// A sequence of 64-bit numbers.
#[derive(Clone, Debug)]
pub(crate) struct SplitMix(u64);

impl SplitMix {
    /// The sequence of `seed` for one purpose, named by a path of numbers (which run, which request, …). Paths that
    /// differ give sequences that have nothing to do with each other.
    pub(crate) fn of(seed: u64, path: &[u64]) -> Self {
        let mut state = SplitMix(seed).next();
        for &step in path {
            state = SplitMix(state.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(step)).next();
        }
        Self(state)
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform from `min` to `max`, both included. The bias of a range of 2^24 in 2^64 cannot be measured.
    pub(crate) fn between(&mut self, min: usize, max: usize) -> usize {
        min + (self.next() % (max - min + 1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_sequence() {
        let mut rng = SplitMix(1234567);
        let first: Vec<u64> = (0..3).map(|_| rng.next()).collect();
        assert_eq!(first, [6457827717110365317, 3203168211198807973, 9817491932198370423]);
    }

    #[test]
    fn paths_and_seeds_part() {
        let firsts: std::collections::BTreeSet<u64> = [
            SplitMix::of(0, &[]),
            SplitMix::of(1, &[]),
            SplitMix::of(0, &[0]),
            SplitMix::of(0, &[1]),
            SplitMix::of(0, &[0, 1]),
            SplitMix::of(0, &[1, 0]),
            SplitMix::of(1, &[0]),
        ]
        .into_iter()
        .map(|mut rng| rng.next())
        .collect();
        assert_eq!(firsts.len(), 7);
    }

    #[test]
    fn draws_cover_their_range_and_no_more() {
        let mut rng = SplitMix::of(3, &[]);
        let mut seen = [0; 4];
        (0..400).for_each(|_| seen[rng.between(2, 5) - 2] += 1);
        assert!(seen.iter().all(|&n| n > 50), "{seen:?}");
        assert_eq!(rng.between(9, 9), 9);
    }
}
