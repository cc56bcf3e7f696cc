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

/// The values of one row: `bytes` is `dtype.row_bytes(out.len())` long. Exact: GGUF's own formula in f32.
///
/// # Panics
/// Where the lengths do not fit.
pub fn dequantize_row(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    dequantize_row_by(Plain, dtype, bytes, out);
}

/// How small numbers become f32, eight at a time: by arithmetic here, by instructions where a device has them.
pub(crate) trait Widen: Copy {
    /// IEEE binary16.
    fn half(self, h: u16) -> f32;
    /// Eight little-endian halves.
    fn halves(self, h: &[u8; 16], out: &mut [f32; 8]);
    /// `q * d`
    fn times(self, q: &[i8; 8], d: f32, out: &mut [f32; 8]);
    /// `q * d + m`, rounded twice.
    fn times_plus(self, q: &[i8; 8], d: f32, m: f32, out: &mut [f32; 8]);
}

/// By arithmetic.
#[derive(Clone, Copy)]
pub(crate) struct Plain;

impl Widen for Plain {
    #[inline(always)]
    fn half(self, h: u16) -> f32 {
        f16_to_f32(h)
    }

    #[inline(always)]
    fn halves(self, h: &[u8; 16], out: &mut [f32; 8]) {
        for (y, h) in out.iter_mut().zip(h.as_chunks::<2>().0) {
            *y = f16_to_f32(u16::from_le_bytes(*h));
        }
    }

    #[inline(always)]
    fn times(self, q: &[i8; 8], d: f32, out: &mut [f32; 8]) {
        out.iter_mut().zip(q).for_each(|(y, &q)| *y = f32::from(q) * d);
    }

    #[inline(always)]
    fn times_plus(self, q: &[i8; 8], d: f32, m: f32, out: &mut [f32; 8]) {
        out.iter_mut().zip(q).for_each(|(y, &q)| *y = f32::from(q) * d + m);
    }
}

/// A quantised format: blocks of small integers, and for every few of them a scale and perhaps a minimum.
trait Format {
    /// The format.
    const DTYPE: DType;
    /// Elements that share a scale.
    const SHARE: usize;
    /// Whether there is a minimum to add.
    const MIN: bool;
    /// The integers of a block, into the first of `q`.
    fn unpack(block: &[u8], q: &mut [i8; 256]);
    /// Scale and minimum of the block's share `s`; `half` reads the half at a byte of the block.
    fn scale(block: &[u8], s: usize, half: impl Fn(usize) -> f32) -> (f32, f32);
}

/// [`dequantize_row`] for inlining into a caller that is compiled for more vector instructions than the crate is.
#[inline(always)]
pub(crate) fn dequantize_row_by<W: Widen>(widen: W, dtype: DType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(Some(bytes.len()), dtype.row_bytes(out.len()), "bytes of {} elements of {dtype}", out.len());
    match dtype {
        DType::F32 => {
            for (y, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *y = f32::from_le_bytes(*b);
            }
        }
        DType::F16 => {
            let (eights, rest) = out.as_chunks_mut::<8>();
            let (halves, rest_bytes) = bytes.as_chunks::<16>();
            eights.iter_mut().zip(halves).for_each(|(y, h)| widen.halves(h, y));
            for (y, b) in rest.iter_mut().zip(rest_bytes.as_chunks::<2>().0) {
                *y = widen.half(u16::from_le_bytes(*b));
            }
        }
        DType::BF16 => {
            for (y, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *y = bf16_to_f32(u16::from_le_bytes(*b));
            }
        }
        DType::Q4_0 => blocks::<legacy::Q4_0, W>(widen, bytes, out),
        DType::Q4_1 => blocks::<legacy::Q4_1, W>(widen, bytes, out),
        DType::Q5_0 => blocks::<legacy::Q5_0, W>(widen, bytes, out),
        DType::Q5_1 => blocks::<legacy::Q5_1, W>(widen, bytes, out),
        DType::Q8_0 => blocks::<legacy::Q8_0, W>(widen, bytes, out),
        DType::Q4_K => blocks::<k_quants::Q4_K, W>(widen, bytes, out),
        DType::Q5_K => blocks::<k_quants::Q5_K, W>(widen, bytes, out),
        DType::Q6_K => blocks::<k_quants::Q6_K, W>(widen, bytes, out),
    }
}

/// Every block of a row. In two stages, since integers unpack sixteen or more at a time, and widen by eight.
#[inline(always)]
fn blocks<F: Format, W: Widen>(widen: W, bytes: &[u8], out: &mut [f32]) {
    let mut q = [0; 256];
    let (len, size) = (F::DTYPE.block_len(), F::DTYPE.block_bytes());
    for (block, y) in bytes.chunks_exact(size).zip(out.chunks_exact_mut(len)) {
        F::unpack(block, &mut q);
        let half = |at: usize| widen.half(u16::from_le_bytes([block[at], block[at + 1]]));
        for (s, (y, q)) in y.chunks_exact_mut(F::SHARE).zip(q.chunks_exact(F::SHARE)).enumerate() {
            let (d, m) = F::scale(block, s, half);
            for (y, q) in y.as_chunks_mut::<8>().0.iter_mut().zip(q.as_chunks::<8>().0) {
                match F::MIN {
                    true => widen.times_plus(q, d, m, y),
                    false => widen.times(q, d, y),
                }
            }
        }
    }
}
