//! Continuous draws over [`SplitMix`]: exponential, normal, gamma.
//!
//! Owns the methods and their exact arithmetic. Logarithms and powers are `libm`'s, not the system's: a last bit that
//! differs between machines could send another request. Knows nothing of what is drawn.
use crate::rng::SplitMix;

/// Uniform within (0, 1), neither end included.
pub(crate) fn uniform(rng: &mut SplitMix) -> f64 {
    ((rng.next() >> 11) as f64 + 0.5) * (1.0 / (1u64 << 53) as f64)
}

/// Exponential with mean 1: by inversion.
pub(crate) fn exponential(rng: &mut SplitMix) -> f64 {
    -libm::log(uniform(rng))
}

/// Normal with mean 0 and deviation 1: the polar method (Marsaglia and Bray, 1964). The second value of a pair is not
/// kept: a draw then depends on nothing but its own place in the sequence.
pub(crate) fn normal(rng: &mut SplitMix) -> f64 {
    loop {
        let (x, y) = (2.0 * uniform(rng) - 1.0, 2.0 * uniform(rng) - 1.0);
        let s = x * x + y * y;
        if s < 1.0 && s > 0.0 {
            return x * (-2.0 * libm::log(s) / s).sqrt();
        }
    }
}

/// Gamma with this shape (above 0) and mean 1: Marsaglia and Tsang (2000); shapes below 1 by their boost.
pub(crate) fn gamma(rng: &mut SplitMix, shape: f64) -> f64 {
    let boost = if shape < 1.0 { libm::pow(uniform(rng), 1.0 / shape) } else { 1.0 };
    let d = if shape < 1.0 { shape + 1.0 } else { shape } - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = normal(rng);
        let v = 1.0 + c * x;
        if v <= 0.0 {
            continue;
        }
        let v = v * v * v;
        if libm::log(uniform(rng)) < 0.5 * x * x + d - d * v + d * libm::log(v) {
            return d * v * boost / shape;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Mean and coefficient of variation of many draws.
    fn moments(mut draw: impl FnMut() -> f64) -> (f64, f64) {
        const N: usize = 40_000;
        let values: Vec<f64> = (0..N).map(|_| draw()).collect();
        let mean = values.iter().sum::<f64>() / N as f64;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / N as f64;
        (mean, variance.sqrt() / mean)
    }

    /// Bits, not nearly: these are part of what a seed promises.
    #[test]
    fn the_sequences_of_a_seed_stand() {
        let mut rng = SplitMix::of(7, &[1]);
        let drawn =
            [uniform(&mut rng), exponential(&mut rng), normal(&mut rng), gamma(&mut rng, 0.5), gamma(&mut rng, 3.0)];
        let expected =
            [4597298607886667318, 4611896168265802360, 13835141986401800807, 4575933761004893526, 4607275554029250279];
        assert_eq!(drawn.map(f64::to_bits), expected, "{drawn:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn gaps_have_mean_one_and_the_variation_asked_for(seed in any::<u64>(), shape in 0.2f64..20.0) {
            let mut rng = SplitMix::of(seed, &[]);
            let (mean, cv) = moments(|| exponential(&mut rng));
            prop_assert!((mean - 1.0).abs() < 0.04 && (cv - 1.0).abs() < 0.06, "{mean} {cv}");
            let (mean, cv) = moments(|| gamma(&mut rng, shape));
            let wanted = 1.0 / shape.sqrt();
            prop_assert!((mean - 1.0).abs() < 0.04 * wanted.max(1.0), "{mean}");
            prop_assert!((cv / wanted - 1.0).abs() < 0.12, "{cv} instead of {wanted}");
        }

        #[test]
        fn normal_draws_are_normal(seed in any::<u64>()) {
            let mut rng = SplitMix::of(seed, &[]);
            let (mean, cv) = moments(|| 10.0 + normal(&mut rng));
            prop_assert!((mean - 10.0).abs() < 0.04 && (cv * mean - 1.0).abs() < 0.04, "{mean} {cv}");
        }
    }
}
