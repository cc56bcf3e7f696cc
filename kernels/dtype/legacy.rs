//! GGUF's formats of 32 elements a block: one scale (and one minimum) a block. Byte `j` of a block's nibbles holds
//! element `j` low and element `j + 16` high.
#![allow(non_camel_case_types)] // the names are GGUF's own
use super::{DType, Format};

/// `[d: f16][nibbles: 16]`, `(q - 8) * d`
pub(super) struct Q4_0;
/// `[d: f16][m: f16][nibbles: 16]`, `q * d + m`
pub(super) struct Q4_1;
/// `[d: f16][fifth bits: u32][nibbles: 16]`, `(q - 16) * d`
pub(super) struct Q5_0;
/// `[d: f16][m: f16][fifth bits: u32][nibbles: 16]`, `q * d + m`
pub(super) struct Q5_1;
/// `[d: f16][q: i8 * 32]`, `q * d`
pub(super) struct Q8_0;

impl Format for Q4_0 {
    const DTYPE: DType = DType::Q4_0;
    const SHARE: usize = 32;
    const MIN: bool = false;

    #[inline(always)]
    fn unpack(block: &[u8], q: &mut [i8; 256]) {
        nibbles(&block[2..18], 8, q);
    }

    #[inline(always)]
    fn scale(_block: &[u8], _s: usize, half: impl Fn(usize) -> f32) -> (f32, f32) {
        (half(0), 0.0)
    }
}

impl Format for Q4_1 {
    const DTYPE: DType = DType::Q4_1;
    const SHARE: usize = 32;
    const MIN: bool = true;

    #[inline(always)]
    fn unpack(block: &[u8], q: &mut [i8; 256]) {
        nibbles(&block[4..20], 0, q);
    }

    #[inline(always)]
    fn scale(_block: &[u8], _s: usize, half: impl Fn(usize) -> f32) -> (f32, f32) {
        (half(0), half(2))
    }
}

impl Format for Q5_0 {
    const DTYPE: DType = DType::Q5_0;
    const SHARE: usize = 32;
    const MIN: bool = false;

    #[inline(always)]
    fn unpack(block: &[u8], q: &mut [i8; 256]) {
        nibbles(&block[6..22], 0, q);
        fifth_bits(&block[2..6], 16, q);
    }

    #[inline(always)]
    fn scale(_block: &[u8], _s: usize, half: impl Fn(usize) -> f32) -> (f32, f32) {
        (half(0), 0.0)
    }
}

impl Format for Q5_1 {
    const DTYPE: DType = DType::Q5_1;
    const SHARE: usize = 32;
    const MIN: bool = true;

    #[inline(always)]
    fn unpack(block: &[u8], q: &mut [i8; 256]) {
        nibbles(&block[8..24], 0, q);
        fifth_bits(&block[4..8], 0, q);
    }

    #[inline(always)]
    fn scale(_block: &[u8], _s: usize, half: impl Fn(usize) -> f32) -> (f32, f32) {
        (half(0), half(2))
    }
}

impl Format for Q8_0 {
    const DTYPE: DType = DType::Q8_0;
    const SHARE: usize = 32;
    const MIN: bool = false;

    #[inline(always)]
    fn unpack(block: &[u8], q: &mut [i8; 256]) {
        for (q, &b) in q.iter_mut().zip(&block[2..34]) {
            *q = b as i8;
        }
    }

    #[inline(always)]
    fn scale(_block: &[u8], _s: usize, half: impl Fn(usize) -> f32) -> (f32, f32) {
        (half(0), 0.0)
    }
}

/// The nibbles of sixteen bytes, less `offset`.
#[inline(always)]
fn nibbles(bytes: &[u8], offset: i8, q: &mut [i8; 256]) {
    for j in 0..16 {
        q[j] = (bytes[j] & 15) as i8 - offset;
        q[j + 16] = (bytes[j] >> 4) as i8 - offset;
    }
}

/// Adds 16 where the element's bit is set, less `offset`.
#[inline(always)]
fn fifth_bits(bits: &[u8], offset: i8, q: &mut [i8; 256]) {
    for (j, q) in q[..32].iter_mut().enumerate() {
        *q += (((bits[j / 8] >> (j % 8)) & 1) << 4) as i8 - offset;
    }
}
