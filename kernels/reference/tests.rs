//! The reference's own pieces against torch's.
use super::*;
use crate::golden;

#[test]
fn rotation_is_torchs_in_both_layouts_and_partial() {
    let x = golden::op("x");
    let positions = golden::op("positions");
    for name in ["whole", "partial"] {
        let inv_freq = golden::op(&format!("{name}.freq"));
        for (layout, suffix) in [(RopeLayout::Halves, "halves"), (RopeLayout::Pairs, "pairs")] {
            let expected = golden::op(&format!("{name}.{suffix}"));
            let mut got = x.clone();
            for (i, head) in got.chunks_exact_mut(16).enumerate() {
                rotate(head, positions[i / 3] as usize, &inv_freq, layout, 1.25);
            }
            for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
                assert!((got - expected).abs() < 1e-5, "{name}.{suffix}[{i}]: {got}, {expected}");
            }
        }
    }
}

#[test]
fn activations_are_torchs() {
    let x = golden::op("act.x");
    for (act, name) in
        [(Activation::Silu, "act.silu"), (Activation::Gelu, "act.gelu"), (Activation::GeluTanh, "act.gelu_tanh")]
    {
        for (&x, expected) in x.iter().zip(golden::op(name)) {
            assert!((activate(act, x) - expected).abs() <= 2e-7 * x.abs().max(1e-3), "{act:?}({x})");
        }
    }
}

#[test]
fn norm_by_hand() {
    // mean square of (3, 4) is 12.5
    let y = rms_norm(&[3.0, 4.0], &[1.0, 2.0], 0.0);
    assert!((y[0] - 3.0 / 12.5f32.sqrt()).abs() < 1e-6 && (y[1] - 8.0 / 12.5f32.sqrt()).abs() < 1e-6);
}

#[test]
fn experts_are_chosen_by_probability_and_equals_by_index() {
    let logits = [0.0, 2.0, 1.0, 2.0, -1.0, 2.0].map(|x: f32| x * std::f32::consts::LN_2);
    // Probabilities: (1, 4, 2, 4, 0.5, 4) / 15.5
    let close = |got: Vec<(usize, f32)>, expected: &[(usize, f32)]| {
        assert_eq!(got.len(), expected.len());
        for ((at, p), (expected_at, expected_p)) in got.into_iter().zip(expected) {
            assert!(at == *expected_at && (p - expected_p).abs() < 1e-6, "{at} {p}, not {expected_at} {expected_p}");
        }
    };
    close(moe::choose(&logits, 2, false), &[(1, 4.0 / 15.5), (3, 4.0 / 15.5)]);
    close(moe::choose(&logits, 4, true), &[(1, 4.0 / 14.0), (3, 4.0 / 14.0), (5, 4.0 / 14.0), (2, 2.0 / 14.0)]);
    close(moe::choose(&logits, 6, false)[5..].to_vec(), &[(4, 0.5 / 15.5)]);
}
