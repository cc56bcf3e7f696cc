//! What two engines' logits say of each other: KL divergence, the best token, perplexity.
//!
//! Pure arithmetic on logits. Knows no engine and no text.

/// How close the two were, over all positions.
#[derive(Clone, Debug, PartialEq)]
pub struct Accuracy {
    /// Next-token distributions that were compared.
    pub positions: usize,
    /// Of `Σ p ln(p / q)`, in nats: `p` is exact, `q` is measured.
    pub kl_mean: f64,
    /// Half of the positions are below.
    pub kl_median: f64,
    /// 99% of the positions are below.
    pub kl_p99: f64,
    /// The worst.
    pub kl_max: f64,
    /// Share of positions, 0 to 1, where both have the same best token.
    pub same_top: f64,
    /// Of the text, by the measured distributions.
    pub perplexity: f64,
    /// Of the text, by the exact ones.
    pub perplexity_exact: f64,
}

/// Sums in the making.
pub(super) struct Figures {
    vocabulary: usize,
    divergences: Vec<f64>,
    same_top: usize,
    /// `-ln p` of the tokens that follow.
    surprise: f64,
    surprise_exact: f64,
}

impl Figures {
    pub(super) fn new(vocabulary: usize) -> Self {
        Self { vocabulary, divergences: Vec::new(), same_top: 0, surprise: 0.0, surprise_exact: 0.0 }
    }

    /// Takes logits, `[positions, vocabulary]`, measured and exact, and the token that follows each position.
    pub(super) fn add(&mut self, measured: &[f32], exact: &[f32], following: &[u32]) {
        let rows = measured.chunks_exact(self.vocabulary).zip(exact.chunks_exact(self.vocabulary));
        assert_eq!(rows.len(), following.len(), "logits for each position");
        for ((q, p), &next) in rows.zip(following) {
            let (q, p) = (Distribution::of(q), Distribution::of(p));
            self.divergences.push(p.divergence_from(&q));
            self.same_top += usize::from(p.top == q.top);
            self.surprise -= q.log(next as usize);
            self.surprise_exact -= p.log(next as usize);
        }
    }

    /// The figures of all positions, of which there is one at least.
    pub(super) fn finish(self) -> Accuracy {
        let Self { mut divergences, same_top, surprise, surprise_exact, .. } = self;
        divergences.sort_by(f64::total_cmp);
        let positions = divergences.len();
        let below = |share: f64| divergences[((positions as f64 * share).ceil() as usize).clamp(1, positions) - 1];
        Accuracy {
            positions,
            kl_mean: divergences.iter().sum::<f64>() / positions as f64,
            kl_median: below(0.5),
            kl_p99: below(0.99),
            kl_max: below(1.0),
            same_top: same_top as f64 / positions as f64,
            perplexity: (surprise / positions as f64).exp(),
            perplexity_exact: (surprise_exact / positions as f64).exp(),
        }
    }
}

/// Logits, and what makes probabilities of them.
struct Distribution<'a> {
    logits: &'a [f32],
    top: usize,
    /// `ln Σ e^x`
    log_sum: f64,
}

impl<'a> Distribution<'a> {
    fn of(logits: &'a [f32]) -> Self {
        let mut top = 0;
        for (index, x) in logits.iter().enumerate() {
            if *x > logits[top] {
                top = index;
            }
        }
        let most = logits[top];
        // A term is good to 1e-7 of itself in f32; only the sum needs more.
        let sum: f64 = logits.iter().map(|x| f64::from((x - most).exp())).sum();
        Self { logits, top, log_sum: f64::from(most) + sum.ln() }
    }

    fn log(&self, token: usize) -> f64 {
        f64::from(self.logits[token]) - self.log_sum
    }

    fn divergence_from(&self, other: &Self) -> f64 {
        let term = |(&p, &q): (&f32, &f32)| {
            let (p, q) = (f64::from(p) - self.log_sum, f64::from(q) - other.log_sum);
            f64::from((p as f32).exp()) * (p - q)
        };
        self.logits.iter().zip(other.logits).map(term).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_distributions_known_by_hand() {
        let logits = |p: [f64; 2]| p.map(|p| (p.ln() + 3.0) as f32);
        let (halves, quarter) = (logits([0.5, 0.5]), logits([0.25, 0.75]));
        let mut figures = Figures::new(2);
        figures.add(&[quarter, quarter].concat(), &[halves, quarter].concat(), &[0, 1]);
        let said = figures.finish();
        let kl = 0.5 * (0.5f64 / 0.25).ln() + 0.5 * (0.5f64 / 0.75).ln();
        assert!((said.kl_max - kl).abs() < 1e-6 && (said.kl_p99 - kl).abs() < 1e-6, "{said:?}");
        assert!((said.kl_mean - kl / 2.0).abs() < 1e-6 && said.kl_median.abs() < 1e-12, "{said:?}");
        // 0 is the best of the halves (the first of equals), 1 of the other.
        assert_eq!((said.positions, said.same_top), (2, 0.5));
        assert!((said.perplexity - (1.0f64 / (0.25 * 0.75)).sqrt()).abs() < 1e-6, "{said:?}");
        assert!((said.perplexity_exact - (1.0f64 / (0.5 * 0.75)).sqrt()).abs() < 1e-6, "{said:?}");
    }

    #[test]
    fn equal_logits_do_not_diverge_and_shifted_ones_neither() {
        let a: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin() * 8.0).collect();
        let shifted: Vec<f32> = a.iter().map(|x| x + 1.0).collect();
        let mut figures = Figures::new(1000);
        figures.add(&a, &a, &[5]);
        figures.add(&shifted, &a, &[5]);
        let said = figures.finish();
        assert!(said.kl_max.abs() < 1e-6 && said.same_top == 1.0, "{said:?}");
    }
}
