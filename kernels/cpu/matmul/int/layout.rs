//! How each quantised format lies in a tile.
#![allow(non_camel_case_types)] // the names are GGUF's own
use super::{BLOCK, TILE};
use crate::cpu::matmul::packed::Integers;
use crate::cpu::simd::Wide;
use crate::dtype::DType;
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
    /// Columns that share a scale, of a block.
    const SHARE: usize = BLOCK;
    /// Blocks that share a scale.
    const SPAN: usize = 1;
    /// Blocks that lie together: their integers, then their numbers.
    const UNIT: usize = 1;

    /// Bytes of a block's integers.
    const INTEGERS: usize = if Self::NIBBLES { TILE * BLOCK / 2 } else { TILE * BLOCK };
    /// Bytes of sixteen scales or minima.
    const NUMBERS: usize = if Self::F32 { 4 * TILE } else { 2 * TILE };
    /// Bytes of a unit: integers, scales, minima.
    const UNIT_BYTES: usize = Self::UNIT * Self::INTEGERS
        + Self::NUMBERS * (Self::UNIT / Self::SPAN * (BLOCK / Self::SHARE) + if Self::MIN { 1 } else { 0 });

    /// The unit's sixteen numbers `at`: scales of each span or share, then minima.
    ///
    /// # Safety
    /// `unit` is a whole unit.
    #[inline(always)]
    unsafe fn numbers<S: Wide>(isa: S, unit: *const u8, at: usize) -> S::F {
        // SAFETY: within the unit, by contract.
        unsafe {
            let from = unit.add(Self::UNIT * Self::INTEGERS + at * Self::NUMBERS);
            if Self::F32 { isa.load(from.cast()) } else { isa.load_f16(from.cast()) }
        }
    }

    /// One of [`Layout::numbers`].
    #[inline(always)]
    fn number(unit: &[u8], at: usize, row: usize) -> f32 {
        let from = &unit[Self::UNIT * Self::INTEGERS + at * Self::NUMBERS..][..Self::NUMBERS];
        match Self::F32 {
            true => f32::from_ne_bytes(from.as_chunks().0[row]),
            false => f16_to_f32(u16::from_ne_bytes(from.as_chunks().0[row])),
        }
    }

    /// Sets one of [`Layout::numbers`]; an f16 was one in the file, so that nothing is rounded.
    #[inline(always)]
    fn put_number(unit: &mut [u8], at: usize, row: usize, x: f32) {
        let to = &mut unit[Self::UNIT * Self::INTEGERS + at * Self::NUMBERS..][..Self::NUMBERS];
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

/// `d q`, with a scale for 128 columns: a quarter of Q8_0's work besides products less, and 4 % of its bytes. Sixteen rows by 256
/// columns are 65 cache lines.
pub(super) struct Int8;
impl Layout for Int8 {
    const STEPS: usize = 0;
    const SPAN: usize = 4;
    const UNIT: usize = 8;
}

/// What a quantised matrix's tiles hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cpu::matmul) enum Format {
    /// A format of files.
    Stored(DType),
    /// [`Int8`]: made of floats, in rows of whole units.
    Int8,
}

impl Format {
    /// What floats in rows of so many columns become; `None` where that is none.
    pub(in crate::cpu::matmul) fn of_floats(integers: Integers, columns: usize) -> Option<Self> {
        let format = match integers {
            Integers::Int8 if columns.is_multiple_of(Int8::UNIT * BLOCK) => Self::Int8,
            Integers::Int8 => Self::Stored(DType::Q8_0),
            Integers::Int4 => Self::Stored(DType::Q4_0),
        };
        columns.is_multiple_of(BLOCK).then_some(format)
    }
}

/// An expression for the layout of a format.
macro_rules! by_layout {
    ($format:expr, $L:ident => $body:expr) => {{
        macro_rules! of {
            ($name:ident) => {{
                type $L = $crate::cpu::matmul::int::layout::$name;
                $body
            }};
        }
        match $format {
            Format::Int8 => of!(Int8),
            Format::Stored(DType::Q4_0) => of!(Q4_0),
            Format::Stored(DType::Q4_1) => of!(Q4_1),
            Format::Stored(DType::Q5_0) => of!(Q5_0),
            Format::Stored(DType::Q5_1) => of!(Q5_1),
            Format::Stored(DType::Q8_0) => of!(Q8_0),
            Format::Stored(DType::Q4_K) => of!(Q4_K),
            Format::Stored(DType::Q5_K) => of!(Q5_K),
            Format::Stored(DType::Q6_K) => of!(Q6_K),
            Format::Stored(DType::F32 | DType::F16 | DType::BF16) => unreachable!("floats are not packed as integers"),
        }
    }};
}
pub(super) use by_layout;
