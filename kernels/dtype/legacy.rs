//! GGUF's formats of 32 elements a block: one scale (and one minimum) a block. Byte `j` of a block's nibbles holds
//! element `j` low and element `j + 16` high.
use super::half_at;

const LEN: usize = 32;

/// `[d: f16][nibbles: 16]`, `(q - 8) * d`
#[inline(always)]
pub(super) fn q4_0(block: &[u8; 18], y: &mut [f32; LEN]) {
    let d = half_at(block, 0);
    for j in 0..LEN / 2 {
        let q = block[2 + j];
        y[j] = (i32::from(q & 15) - 8) as f32 * d;
        y[j + 16] = (i32::from(q >> 4) - 8) as f32 * d;
    }
}

/// `[d: f16][m: f16][nibbles: 16]`, `q * d + m`
#[inline(always)]
pub(super) fn q4_1(block: &[u8; 20], y: &mut [f32; LEN]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for j in 0..LEN / 2 {
        let q = block[4 + j];
        y[j] = f32::from(q & 15) * d + m;
        y[j + 16] = f32::from(q >> 4) * d + m;
    }
}

/// `[d: f16][fifth bits: u32][nibbles: 16]`, `(q - 16) * d`
#[inline(always)]
pub(super) fn q5_0(block: &[u8; 22], y: &mut [f32; LEN]) {
    let d = half_at(block, 0);
    let q = five_bits([block[2], block[3], block[4], block[5]], &block[6..]);
    for (y, q) in y.iter_mut().zip(q) {
        *y = (q - 16) as f32 * d;
    }
}

/// `[d: f16][m: f16][fifth bits: u32][nibbles: 16]`, `q * d + m`
#[inline(always)]
pub(super) fn q5_1(block: &[u8; 24], y: &mut [f32; LEN]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    let q = five_bits([block[4], block[5], block[6], block[7]], &block[8..]);
    for (y, q) in y.iter_mut().zip(q) {
        *y = q as f32 * d + m;
    }
}

/// `[d: f16][q: i8 * 32]`, `q * d`
#[inline(always)]
pub(super) fn q8_0(block: &[u8; 34], y: &mut [f32; LEN]) {
    let d = half_at(block, 0);
    for (y, &q) in y.iter_mut().zip(&block[2..]) {
        *y = f32::from(q as i8) * d;
    }
}

/// Element `j`'s fifth bit is bit `j` of `high`.
#[inline(always)]
fn five_bits(high: [u8; 4], nibbles: &[u8]) -> [i32; LEN] {
    let high = u32::from_le_bytes(high);
    let mut q = [0; LEN];
    for j in 0..LEN / 2 {
        q[j] = i32::from(nibbles[j] & 15) | (((high >> j) & 1) << 4) as i32;
        q[j + 16] = i32::from(nibbles[j] >> 4) | (((high >> (j + 16)) & 1) << 4) as i32;
    }
    q
}
