//! Floats into GGUF's Q8_0 and Q4_0, and into bytes with a scale: what `--quantize` makes of a checkpoint's matrices. Knows
//! values, not tensors.
use super::DType;
use crate::narrow::{f16_to_f32, f32_to_f16};

/// Values a block.
const BLOCK: usize = 32;

/// A row in `dtype`, which is Q8_0 or Q4_0: one scale for each 32 values.
///
/// Q8_0 takes the scale by which the largest value is ±127. Q4_0's values are -8 to 7: of a few scales around the one by
/// which the largest is -8 it takes that of the least squared error. A block with a value that is not finite, or too large
/// for a scale in half precision, becomes NaN, which a model's logits then say.
///
/// # Panics
/// Where `x` is not whole blocks, or `dtype` another format.
pub(crate) fn quantize_row(dtype: DType, x: &[f32], out: &mut Vec<u8>) {
    let (blocks, rest) = x.as_chunks::<BLOCK>();
    assert!(rest.is_empty(), "{} values: not whole blocks of {BLOCK}", x.len());
    out.clear();
    for block in blocks {
        match dtype {
            DType::Q8_0 => put_q8_0(block, out),
            DType::Q4_0 => put_q4_0(block, out),
            other => panic!("floats are quantised to Q8_0 or Q4_0, not to {other}"),
        }
    }
}

/// A scale as the file has it, and its reciprocal; NaN and 0 where it is no number.
fn scale(d: f32) -> (u16, f32) {
    let half = f32_to_f16(d);
    let rounded = f16_to_f32(half);
    match rounded {
        0.0 => (half, 0.0),
        d if d.is_finite() => (half, 1.0 / d),
        _ => (f32_to_f16(f32::NAN), 0.0),
    }
}

fn largest(x: &[f32]) -> f32 {
    // NaN wins, unlike in f32::max.
    x.iter().fold(0.0, |most: f32, x| if x.abs() > most.abs() || x.is_nan() { *x } else { most })
}

/// To the nearest whole number, ties to the even one, of what is small: float addition rounds so, and is one instruction on every
/// machine, where `round_ties_even` is a call of libm.
fn nearest(x: f32) -> f32 {
    const WHOLE: f32 = 12_582_912.0; // 1.5 x 2^23: its neighbours are whole numbers
    (x + WHOLE) - WHOLE
}

/// `N` values that share a scale, as Q8_0's blocks do: the scale in half precision and the integers, -127 to 127.
pub(crate) fn to_int8<const N: usize>(x: &[f32; N]) -> (u16, [i8; N]) {
    let (half, inverse) = scale(largest(x).abs() / 127.0);
    // Rounding the scale down may carry the largest past 127.
    (half, x.map(|x| nearest((x * inverse).clamp(-127.0, 127.0)) as i8))
}

fn put_q8_0(x: &[f32; BLOCK], out: &mut Vec<u8>) {
    let (half, q) = to_int8(x);
    out.extend(half.to_le_bytes());
    out.extend(q.map(|q| q as u8));
}

fn put_q4_0(x: &[f32; BLOCK], out: &mut Vec<u8>) {
    let most = largest(x);
    let integers = |inverse: f32| x.map(|x| nearest((x * inverse).clamp(-8.0, 7.0)));
    let mut best = (f32::INFINITY, scale(most / -8.0));
    for divisor in [-8.8, -8.4, -8.0, -7.6, -7.2, 7.4, 7.0] {
        let (half, inverse) = scale(most / divisor);
        let d = f16_to_f32(half);
        let error: f32 = x.iter().zip(integers(inverse)).map(|(x, q)| (x - d * q) * (x - d * q)).sum();
        if error < best.0 {
            best = (error, (half, inverse));
        }
    }
    let (half, inverse) = best.1;
    let q = integers(inverse).map(|q| (q + 8.0) as u8);
    out.extend(half.to_le_bytes());
    out.extend((0..16).map(|j| q[j] | q[j + 16] << 4));
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::dtype::dequantize_row;

    fn there_and_back(dtype: DType, x: &[f32]) -> Vec<f32> {
        let (mut bytes, mut back) = (Vec::new(), vec![0.0; x.len()]);
        quantize_row(dtype, x, &mut bytes);
        assert_eq!(Some(bytes.len()), dtype.row_bytes(x.len()));
        dequantize_row(dtype, &bytes, &mut back);
        back
    }

    #[test]
    fn values_come_back_within_half_a_step() {
        let mut random = SmallRng::seed_from_u64(3);
        for size in [1e-4, 1.0, 300.0] {
            for _ in 0..50 {
                let x: [f32; 96] = std::array::from_fn(|_| random.random_range(-size..size));
                for (block, back) in x.as_chunks::<32>().0.iter().zip(there_and_back(DType::Q8_0, &x).chunks(32)) {
                    let step = largest(block).abs() / 127.0;
                    // Half a step, and what rounding the scale to half precision costs, whose smallest place is 2^-24.
                    let bound = step * 0.5 + largest(block).abs() * 1e-3 + 127.0 * 2f32.powi(-25);
                    block.iter().zip(back).for_each(|(x, y)| assert!((x - y).abs() <= bound, "{x} became {y}"));
                }
                let error = |back: Vec<f32>| x.iter().zip(back).map(|(x, y)| (x - y) * (x - y)).sum::<f32>();
                // Uniform in ±s: a step of s / 8 has s² / 768 a value, in the mean; so few draws have up to half more.
                let bound = 96.0 * (size * size / 500.0 + 64.0 * 2f32.powi(-50));
                assert!(error(there_and_back(DType::Q4_0, &x)) < bound);
            }
        }
    }

    #[test]
    fn whole_numbers_and_zeros_are_exact() {
        let x: [f32; 32] = std::array::from_fn(|i| i as f32 % 16.0 - 8.0);
        assert_eq!(there_and_back(DType::Q4_0, &x), x);
        let x: [f32; 32] = std::array::from_fn(|i| i as f32 * 8.0 - 121.0 - 6.0);
        assert_eq!(there_and_back(DType::Q8_0, &x), x);
        for dtype in [DType::Q8_0, DType::Q4_0] {
            assert_eq!(there_and_back(dtype, &[0.0; 64]), [0.0; 64]);
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        for bad in [f32::NAN, f32::INFINITY, 1e30] {
            let mut x = [1.0; 32];
            x[7] = bad;
            for dtype in [DType::Q8_0, DType::Q4_0] {
                assert!(there_and_back(dtype, &x).iter().all(|y| y.is_nan()), "{bad} in {dtype}");
            }
        }
    }
}
