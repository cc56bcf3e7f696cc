//! GGUF's K formats: blocks of 256 elements whose sub-blocks of 32 (or 16) have small integer scales of their own.
#![allow(non_camel_case_types)] // the names are GGUF's own
use super::{DType, Format};

/// `[d: f16][dmin: f16][6-bit scales and minima: 12][nibbles: 128]`, `q * (d * scale) - dmin * min`.
///
/// A run of 32 bytes holds sub-block `2g` in its low nibbles and `2g + 1` in its high ones.
pub(super) struct Q4_K;
/// As [`Q4_K`], with `[fifth bits: 32]` before the nibbles: bit `s` of byte `l` belongs to element `l` of sub-block `s`.
pub(super) struct Q5_K;
/// `[low nibbles: 128][high bit pairs: 64][scales: i8 * 16][d: f16]`, `(q - 32) * (d * scale)`, a scale for 16 elements.
///
/// Each half of 128 elements is four runs of 32: nibbles low, low, high, high of 64 bytes; bit pairs 0 to 3 of 32 bytes.
pub(super) struct Q6_K;

impl Format for Q4_K {
    const DTYPE: DType = DType::Q4_K;
    const SHARE: usize = 32;
    const MIN: bool = true;

    #[inline(always)]
    fn unpack(block: &[u8], q: &mut [i8; 256]) {
        for (q, nibbles) in q.as_chunks_mut::<64>().0.iter_mut().zip(block[16..144].as_chunks::<32>().0) {
            for l in 0..32 {
                q[l] = (nibbles[l] & 15) as i8;
                q[l + 32] = (nibbles[l] >> 4) as i8;
            }
        }
    }

    #[inline(always)]
    fn scale(block: &[u8], s: usize, half: impl Fn(usize) -> f32) -> (f32, f32) {
        scale_and_min(block, s, half)
    }
}

impl Format for Q5_K {
    const DTYPE: DType = DType::Q5_K;
    const SHARE: usize = 32;
    const MIN: bool = true;

    #[inline(always)]
    fn unpack(block: &[u8], q: &mut [i8; 256]) {
        let high = &block[16..48];
        for (g, q) in q.as_chunks_mut::<64>().0.iter_mut().enumerate() {
            let nibbles = &block[48 + 32 * g..][..32];
            for l in 0..32 {
                let bits = high[l] >> (2 * g);
                q[l] = ((nibbles[l] & 15) | ((bits & 1) << 4)) as i8;
                q[l + 32] = ((nibbles[l] >> 4) | ((bits & 2) << 3)) as i8;
            }
        }
    }

    #[inline(always)]
    fn scale(block: &[u8], s: usize, half: impl Fn(usize) -> f32) -> (f32, f32) {
        scale_and_min(block, s, half)
    }
}

impl Format for Q6_K {
    const DTYPE: DType = DType::Q6_K;
    const SHARE: usize = 16;
    const MIN: bool = false;

    #[inline(always)]
    fn unpack(block: &[u8], q: &mut [i8; 256]) {
        for (h, q) in q.as_chunks_mut::<128>().0.iter_mut().enumerate() {
            let low = &block[64 * h..][..64];
            let high = &block[128 + 32 * h..][..32];
            for l in 0..32 {
                q[l] = ((low[l] & 15) | ((high[l] & 3) << 4)) as i8 - 32;
                q[l + 32] = ((low[l + 32] & 15) | (((high[l] >> 2) & 3) << 4)) as i8 - 32;
                q[l + 64] = ((low[l] >> 4) | (((high[l] >> 4) & 3) << 4)) as i8 - 32;
                q[l + 96] = ((low[l + 32] >> 4) | ((high[l] >> 6) << 4)) as i8 - 32;
            }
        }
    }

    #[inline(always)]
    fn scale(block: &[u8], s: usize, half: impl Fn(usize) -> f32) -> (f32, f32) {
        (half(208) * f32::from(block[192 + s] as i8), 0.0)
    }
}

/// Sub-block `s`'s scale and minimum (to add) of a Q4_K or Q5_K block, times the block's own.
///
/// The twelve bytes hold eight 6-bit scales and eight 6-bit minima: the first four of each in the low six bits of bytes
/// 0..4 and 4..8; of the last four, low bits in the nibbles of bytes 8..12 and high bits in the top pairs of 0..8.
#[inline(always)]
fn scale_and_min(block: &[u8], s: usize, half: impl Fn(usize) -> f32) -> (f32, f32) {
    let packed = &block[4..16];
    let (scale, min) = if s < 4 {
        (packed[s] & 63, packed[s + 4] & 63)
    } else {
        let (nibbles, scale, min) = (packed[s + 4], packed[s - 4], packed[s]);
        ((nibbles & 15) | ((scale >> 6) << 4), (nibbles >> 4) | ((min >> 6) << 4))
    };
    (half(0) * f32::from(scale), -(half(2) * f32::from(min)))
}
