//! Operations on a token's row alone: RMS norm, the gate, and the choice of the next token.
use super::simd::{WIDE, Wide, WideKernel};
use crate::device::{Activation, RowError, SampleRow, TokenId};
use crate::math::activate;
use crate::sampling;

/// `out = x / sqrt(mean(x²) + eps) * weight`
pub(super) struct RmsNorm<'a> {
    /// `[width]`
    pub x: &'a [f32],
    /// `[width]`
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
    /// As long as x.
    pub out: &'a mut [f32],
}

impl RmsNorm<'_> {
    /// Computes it; for inlining into a kernel.
    #[inline(always)]
    pub(super) fn compute(self) {
        assert!(self.x.len() == self.weight.len());
        let scale = norm_scale(self.x, self.eps);
        for ((y, x), w) in self.out.iter_mut().zip(self.x).zip(self.weight) {
            *y = x * scale * w;
        }
    }
}

/// `1 / sqrt(mean(x²) + eps)`: squares summed in sixteen lanes, then the lanes in order.
#[inline(always)]
pub(super) fn norm_scale(x: &[f32], eps: f32) -> f32 {
    let mut lanes = [0.0f32; WIDE];
    let (chunks, rest) = x.as_chunks::<WIDE>();
    for chunk in chunks {
        for (sum, x) in lanes.iter_mut().zip(chunk) {
            *sum += x * x;
        }
    }
    for (sum, x) in lanes.iter_mut().zip(rest) {
        *sum += x * x;
    }
    1.0 / (lanes.iter().sum::<f32>() / x.len() as f32 + eps).sqrt()
}

/// `out = act(gate + bias) * (up + bias)`
pub(super) struct Gated<'a> {
    /// `[gate | up]`
    pub gate_up: &'a [f32],
    /// As long, where there is one.
    pub bias: Option<&'a [f32]>,
    /// The gate's.
    pub act: Activation,
    /// Half as long.
    pub out: &'a mut [f32],
}

impl WideKernel for Gated<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Wide>(self, _isa: S) {
        let (gate, up) = self.gate_up.split_at(self.out.len());
        assert_eq!(gate.len(), up.len(), "a row of gate and up");
        // One loop an activation and bias or none: each vectorises, a choice within the loop would not.
        match (self.act, self.bias) {
            (act, Some(bias)) => {
                let (gate_bias, up_bias) = bias.split_at(gate.len());
                let gate = gate.iter().zip(gate_bias).map(|(x, b)| x + b);
                let up = up.iter().zip(up_bias).map(|(x, b)| x + b);
                self.out.iter_mut().zip(gate.zip(up)).for_each(|(y, (g, u))| *y = activate(act, g) * u);
            }
            (Activation::Silu, None) => gate_by(Activation::Silu, gate, up, self.out),
            (Activation::Gelu, None) => gate_by(Activation::Gelu, gate, up, self.out),
            (Activation::GeluTanh, None) => gate_by(Activation::GeluTanh, gate, up, self.out),
        }
    }
}

#[inline(always)]
fn gate_by(act: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((y, &g), &u) in out.iter_mut().zip(gate).zip(up) {
        *y = activate(act, g) * u;
    }
}

/// The token that [`sampling::sample`] chooses, its passes over the vocabulary compiled for the machine at hand.
pub(super) struct Sample<'a> {
    /// The vocabulary's.
    pub logits: &'a [f32],
    /// How to choose.
    pub row: &'a SampleRow<'a>,
}

impl WideKernel for Sample<'_> {
    type Out = Result<TokenId, RowError>;

    #[inline(always)]
    fn run<S: Wide>(self, _isa: S) -> Self::Out {
        sampling::sample(self.logits, self.row.sampling, self.row.position)
    }
}
