//! Number formats of checkpoints: block layouts, and the dequantisation that gives them their meaning.
//!
//! Owns what the bytes of a row say. Does not know tensors, files or devices.
mod k_quants;
mod legacy;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::narrow::{bf16_to_f32, f16_to_f32};

/// How a tensor's elements are stored. Quantised formats are GGUF's, in blocks along the last dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, non_camel_case_types)] // the names are GGUF's own
pub enum DType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
}

impl DType {
    /// Elements a block.
    pub const fn block_len(self) -> usize {
        use DType::*;
        match self {
            F32 | F16 | BF16 => 1,
            Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 => 32,
            Q4_K | Q5_K | Q6_K => 256,
        }
    }

    /// Bytes a block.
    pub const fn block_bytes(self) -> usize {
        use DType::*;
        match self {
            F32 => 4,
            F16 | BF16 => 2,
            Q4_0 => 18,
            Q4_1 => 20,
            Q5_0 => 22,
            Q5_1 => 24,
            Q8_0 => 34,
            Q4_K => 144,
            Q5_K => 176,
            Q6_K => 210,
        }
    }

    /// Bytes of a row of `columns` elements; `None` where `columns` is not whole blocks or the size overflows.
    pub const fn row_bytes(self, columns: usize) -> Option<usize> {
        if !columns.is_multiple_of(self.block_len()) {
            return None;
        }
        (columns / self.block_len()).checked_mul(self.block_bytes())
    }

    /// The format that GGML numbers `id` (a GGUF tensor's type); `None` for those not supported.
    pub const fn from_ggml(id: u32) -> Option<Self> {
        use DType::*;
        Some(match id {
            0 => F32,
            1 => F16,
            2 => Q4_0,
            3 => Q4_1,
            6 => Q5_0,
            7 => Q5_1,
            8 => Q8_0,
            12 => Q4_K,
            13 => Q5_K,
            14 => Q6_K,
            30 => BF16,
            _ => return None,
        })
    }

    /// Its name, as GGUF spells it.
    pub const fn name(self) -> &'static str {
        use DType::*;
        match self {
            F32 => "F32",
            F16 => "F16",
            BF16 => "BF16",
            Q4_0 => "Q4_0",
            Q4_1 => "Q4_1",
            Q5_0 => "Q5_0",
            Q5_1 => "Q5_1",
            Q8_0 => "Q8_0",
            Q4_K => "Q4_K",
            Q5_K => "Q5_K",
            Q6_K => "Q6_K",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Applies a block's formula to each block of a row.
#[inline(always)]
fn blocks<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    out: &mut [f32],
    dequantize: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    for (block, y) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<LEN>().0) {
        dequantize(block, y);
    }
}

/// A little-endian half at a block's byte `at`.
#[inline(always)]
fn half_at(block: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// The values of one row: `bytes` is `dtype.row_bytes(out.len())` long. Exact: GGUF's own formula in f32.
///
/// # Panics
/// Where the lengths do not fit.
pub fn dequantize_row(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    dequantize_row_inline(dtype, bytes, out);
}

/// [`dequantize_row`] for inlining into a caller that is compiled for more vector instructions than the crate is.
#[inline(always)]
pub(crate) fn dequantize_row_inline(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(Some(bytes.len()), dtype.row_bytes(out.len()), "bytes of {} elements of {dtype}", out.len());
    match dtype {
        DType::F32 => {
            for (y, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *y = f32::from_le_bytes(*b);
            }
        }
        DType::F16 => {
            for (y, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *y = f16_to_f32(u16::from_le_bytes(*b));
            }
        }
        DType::BF16 => {
            for (y, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *y = bf16_to_f32(u16::from_le_bytes(*b));
            }
        }
        DType::Q4_0 => blocks(bytes, out, legacy::q4_0),
        DType::Q4_1 => blocks(bytes, out, legacy::q4_1),
        DType::Q5_0 => blocks(bytes, out, legacy::q5_0),
        DType::Q5_1 => blocks(bytes, out, legacy::q5_1),
        DType::Q8_0 => blocks(bytes, out, legacy::q8_0),
        DType::Q4_K => blocks(bytes, out, k_quants::q4_k),
        DType::Q5_K => blocks(bytes, out, k_quants::q5_k),
        DType::Q6_K => blocks(bytes, out, k_quants::q6_k),
    }
}
