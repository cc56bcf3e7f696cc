//! A mixture of experts for one token, step by step as [`crate::Moe`] says it.
use super::{Matrix, Reference, activate, multiply, rms_norm};
use crate::device::Moe;

/// The experts' weighted sum for a token, of the columns that this rank has.
pub(super) fn mix(op: &Moe<'_, Reference>, residual: &[f32]) -> Vec<f32> {
    let normed = rms_norm(residual, op.norm.weight, op.norm.eps);
    let mut sum = vec![0.0f64; residual.len()];
    for (expert, weight) in choose(&multiply(op.router, &normed), op.per_token, op.normalise) {
        let y = mlp(op, &op.gate_up[expert], &op.down[expert], &normed);
        for (sum, y) in sum.iter_mut().zip(y) {
            *sum += f64::from(weight) * f64::from(y);
        }
    }
    sum.into_iter().map(|sum| sum as f32).collect()
}

fn mlp(op: &Moe<'_, Reference>, gate_up: &Matrix, down: &Matrix, x: &[f32]) -> Vec<f32> {
    let gate_up = multiply(gate_up, x);
    let (gate, up) = gate_up.split_at(gate_up.len() / 2);
    let inner: Vec<f32> = gate.iter().zip(up).map(|(&gate, &up)| activate(op.act, gate) * up).collect();
    multiply(down, &inner)
}

/// The chosen experts and their weights, the likeliest first; of equals the lower index.
pub(super) fn choose(logits: &[f32], per_token: usize, normalise: bool) -> Vec<(usize, f32)> {
    assert!((1..=logits.len()).contains(&per_token), "{per_token} of {} experts", logits.len());
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = logits.iter().map(|&x| f64::from(x - best).exp()).collect();
    let total: f64 = powers.iter().sum();
    let mut chosen: Vec<(usize, f32)> = powers.iter().map(|p| (p / total) as f32).enumerate().collect();
    chosen.sort_by(|(_, a), (_, b)| b.total_cmp(a)); // stable: equals stay in the order of their indices
    chosen.truncate(per_token);
    if normalise {
        let sum: f64 = chosen.iter().map(|(_, p)| f64::from(*p)).sum();
        chosen.iter_mut().for_each(|(_, p)| *p = (f64::from(*p) / sum) as f32);
    }
    chosen
}
