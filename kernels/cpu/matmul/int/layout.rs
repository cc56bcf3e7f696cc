//! How each quantised format lies in a tile.
#![allow(non_camel_case_types)] // the names are GGUF's own
use super::{BLOCK, TILE};
use crate::cpu::simd::Wide;
use crate::narrow::{f16_to_f32, f32_to_f16};

/// A format's integers, zero, scales and minima. See the page of [`super`].
pub(super) trait Layout {
    /// Four bits an integer; otherwise a byte.
    const NIBBLES: bool = false;
    /// Groups of four columns that a narrow sum takes ([`Wide::dot_narrow`]); 0 for signed bytes, which take none.
    const STEPS: usize;
    /// What is subtracted from an unsigned integer.
    const ZERO: i32 = 0;
    /// Whether there is a minimum.
    const MIN: bool = false;
    /// Scales and minima are f32; otherwise f16.
    const F32: bool = false;
    /// Columns that share a scale.
    const SHARE: usize = BLOCK;

    /// Bytes of a block's integers.
    const INTEGERS: usize = if Self::NIBBLES { TILE * BLOCK / 2 } else { TILE * BLOCK };
    /// Bytes of sixteen scales or minima.
    const NUMBERS: usize = if Self::F32 { 4 * TILE } else { 2 * TILE };
    /// Bytes of a block: integers, the shares' scales, minima.
    const BLOCK_BYTES: usize = Self::INTEGERS + Self::NUMBERS * (BLOCK / Self::SHARE + if Self::MIN { 1 } else { 0 });

    /// The block's sixteen numbers `at`: scales of each share, then minima.
    ///
    /// # Safety
    /// `block` is a whole block.
    #[inline(always)]
    unsafe fn numbers<S: Wide>(isa: S, block: *const u8, at: usize) -> S::F {
        // SAFETY: within the block, by contract.
        unsafe {
            let from = block.add(Self::INTEGERS + at * Self::NUMBERS);
            if Self::F32 { isa.load(from.cast()) } else { isa.load_f16(from.cast()) }
        }
    }

    /// One of [`Layout::numbers`].
    #[inline(always)]
    fn number(block: &[u8], at: usize, row: usize) -> f32 {
        let from = &block[Self::INTEGERS + at * Self::NUMBERS..][..Self::NUMBERS];
        match Self::F32 {
            true => f32::from_ne_bytes(from.as_chunks().0[row]),
            false => f16_to_f32(u16::from_ne_bytes(from.as_chunks().0[row])),
        }
    }

    /// Sets one of [`Layout::numbers`]; an f16 was one in the file, so that nothing is rounded.
    #[inline(always)]
    fn put_number(block: &mut [u8], at: usize, row: usize, x: f32) {
        let to = &mut block[Self::INTEGERS + at * Self::NUMBERS..][..Self::NUMBERS];
        match Self::F32 {
            true => to.as_chunks_mut().0[row] = x.to_ne_bytes(),
            false => to.as_chunks_mut().0[row] = f32_to_f16(x).to_ne_bytes(),
        }
    }
}

/// `d (q - 8)`
pub(super) struct Q4_0;
impl Layout for Q4_0 {
    const NIBBLES: bool = true;
    const STEPS: usize = 8;
    const ZERO: i32 = 8;
}
/// `d q + m`
pub(super) struct Q4_1;
impl Layout for Q4_1 {
    const NIBBLES: bool = true;
    const STEPS: usize = 8;
    const MIN: bool = true;
}
/// `d (q - 16)`
pub(super) struct Q5_0;
impl Layout for Q5_0 {
    const STEPS: usize = 4;
    const ZERO: i32 = 16;
}
/// `d q + m`
pub(super) struct Q5_1;
impl Layout for Q5_1 {
    const STEPS: usize = 4;
    const MIN: bool = true;
}
/// `d q`
pub(super) struct Q8_0;
impl Layout for Q8_0 {
    const STEPS: usize = 0;
}
/// `d q + m`
pub(super) struct Q4_K;
impl Layout for Q4_K {
    const NIBBLES: bool = true;
    const STEPS: usize = 8;
    const MIN: bool = true;
    const F32: bool = true;
}
/// `d q + m`
pub(super) struct Q5_K;
impl Layout for Q5_K {
    const STEPS: usize = 4;
    const MIN: bool = true;
    const F32: bool = true;
}
/// `d (q - 32)`
pub(super) struct Q6_K;
impl Layout for Q6_K {
    const STEPS: usize = 2;
    const ZERO: i32 = 32;
    const F32: bool = true;
    const SHARE: usize = 16;
}

/// An expression for the layout of a quantised format.
macro_rules! by_layout {
    ($dtype:expr, $L:ident => $body:expr) => {{
        macro_rules! of {
            ($name:ident) => {{
                type $L = $crate::cpu::matmul::int::layout::$name;
                $body
            }};
        }
        match $dtype {
            DType::Q4_0 => of!(Q4_0),
            DType::Q4_1 => of!(Q4_1),
            DType::Q5_0 => of!(Q5_0),
            DType::Q5_1 => of!(Q5_1),
            DType::Q8_0 => of!(Q8_0),
            DType::Q4_K => of!(Q4_K),
            DType::Q5_K => of!(Q5_K),
            DType::Q6_K => of!(Q6_K),
            DType::F32 | DType::F16 | DType::BF16 => unreachable!("floats are not packed as integers"),
        }
    }};
}
pub(super) use by_layout;
