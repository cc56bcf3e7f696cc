//! GGUF's K formats: blocks of 256 elements whose sub-blocks of 32 (or 16) have small integer scales of their own.
use super::half_at;

const LEN: usize = 256;

/// `[d: f16][dmin: f16][6-bit scales and minima: 12][nibbles: 128]`, `q * (d * scale) - dmin * min`.
///
/// A run of 32 bytes holds sub-block `2g` in its low nibbles and `2g + 1` in its high ones.
#[inline(always)]
pub(super) fn q4_k(block: &[u8; 144], y: &mut [f32; LEN]) {
    for (g, y) in y.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        let nibbles = &block[16 + 32 * g..][..32];
        let (d0, m0) = scale_and_min(block, 2 * g);
        let (d1, m1) = scale_and_min(block, 2 * g + 1);
        for l in 0..32 {
            y[l] = f32::from(nibbles[l] & 15) * d0 - m0;
            y[l + 32] = f32::from(nibbles[l] >> 4) * d1 - m1;
        }
    }
}

/// As [`q4_k`], with `[fifth bits: 32]` before the nibbles: bit `s` of byte `l` belongs to element `l` of sub-block `s`.
#[inline(always)]
pub(super) fn q5_k(block: &[u8; 176], y: &mut [f32; LEN]) {
    let high = &block[16..48];
    for (g, y) in y.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        let nibbles = &block[48 + 32 * g..][..32];
        let (d0, m0) = scale_and_min(block, 2 * g);
        let (d1, m1) = scale_and_min(block, 2 * g + 1);
        for l in 0..32 {
            let bits = high[l] >> (2 * g);
            y[l] = f32::from((nibbles[l] & 15) | ((bits & 1) << 4)) * d0 - m0;
            y[l + 32] = f32::from((nibbles[l] >> 4) | ((bits & 2) << 3)) * d1 - m1;
        }
    }
}

/// `[low nibbles: 128][high bit pairs: 64][scales: i8 * 16][d: f16]`, `(q - 32) * (d * scale)`, a scale for 16 elements.
///
/// Each half of 128 elements is four runs of 32: nibbles low, low, high, high of 64 bytes; bit pairs 0 to 3 of 32 bytes.
#[inline(always)]
pub(super) fn q6_k(block: &[u8; 210], y: &mut [f32; LEN]) {
    let d = half_at(block, 208);
    for (h, y) in y.as_chunks_mut::<128>().0.iter_mut().enumerate() {
        let low = &block[64 * h..][..64];
        let high = &block[128 + 32 * h..][..32];
        let scales = &block[192 + 8 * h..][..8];
        for (run, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (from, shift) = (32 * (run % 2), 4 * (run / 2));
            for (half, y) in y.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                let scale = d * f32::from(scales[2 * run + half] as i8);
                for (l, y) in y.iter_mut().enumerate() {
                    let l = 16 * half + l;
                    let q = ((low[from + l] >> shift) & 15) | (((high[l] >> (2 * run)) & 3) << 4);
                    *y = (i32::from(q) - 32) as f32 * scale;
                }
            }
        }
    }
}

/// Sub-block `s`'s scale and minimum of a Q4_K or Q5_K block, times the block's own.
///
/// The twelve bytes hold eight 6-bit scales and eight 6-bit minima: the first four of each in the low six bits of bytes
/// 0..4 and 4..8; of the last four, low bits in the nibbles of bytes 8..12 and high bits in the top pairs of 0..8.
#[inline(always)]
fn scale_and_min(block: &[u8], s: usize) -> (f32, f32) {
    let packed = &block[4..16];
    let (scale, min) = if s < 4 {
        (packed[s] & 63, packed[s + 4] & 63)
    } else {
        let (nibbles, scale, min) = (packed[s + 4], packed[s - 4], packed[s]);
        ((nibbles & 15) | ((scale >> 6) << 4), (nibbles >> 4) | ((min >> 6) << 4))
    };
    (half_at(block, 0) * f32::from(scale), half_at(block, 2) * f32::from(min))
}
