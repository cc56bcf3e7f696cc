//! Scalar functions without branches, so that a loop over them vectorises: e^x, erf, and the gates' activations.
//!
//! Accurate to a few units in the last place of what they add up to; `reference` computes the same by the standard
//! library and in f64, and the tests hold the two together.
use crate::device::Activation;

/// e^x. Below -87.3 the smallest normal number (not 0), above 88.7 about 3.3e38; NaN stays NaN.
///
/// Cody and Waite's reduction to `|r| <= ln(2) / 2` and the exponential series to the sixth power: 1e-7 relative.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer, left in the low bits
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.3, 88.7);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let p = 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = (p * r) * r + r + 1.0;
    // 2^n in two factors: n reaches 128, one past the largest exponent.
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    p * power_of_two(half) * power_of_two(n - half)
}

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// The error function to 1.5e-7 absolute: Abramowitz and Stegun 7.1.26.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let p = t * (0.254_829_6 + t * (-0.284_496_73 + t * (1.421_413_8 + t * (-1.453_152 + t * 1.061_405_4))));
    (1.0 - p * exp(-a * a)).copysign(x)
}

/// See [`Activation`].
#[inline(always)]
pub(crate) fn activate(act: Activation, x: f32) -> f32 {
    match act {
        Activation::Silu => x / (1.0 + exp(-x)),
        Activation::Gelu => 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)),
        Activation::GeluTanh => {
            // 0.5 (1 + tanh(u)) = 1 / (1 + e^-2u)
            let u = 0.797_884_6 * (x + 0.044_715 * x * x * x);
            x / (1.0 + exp(-2.0 * u))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

    #[test]
    fn exp_is_close_everywhere() {
        for i in -870_000..=887_000 {
            let x = i as f32 * 1e-4;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(error < 2.5e-7, "exp({x}) is off by {error}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 1.3e-38);
        assert!(exp(f32::INFINITY).is_finite());
    }

    #[test]
    fn activations_are_torchs() {
        let x = golden::op("act.x");
        let cases =
            [(Activation::Silu, "act.silu"), (Activation::Gelu, "act.gelu"), (Activation::GeluTanh, "act.gelu_tanh")];
        for (act, name) in cases {
            for (&x, expected) in x.iter().zip(golden::op(name)) {
                let error = (activate(act, x) - expected).abs();
                assert!(error <= 2e-7 * x.abs().max(1e-3), "{act:?}({x}) is off by {error}");
            }
        }
    }
}
