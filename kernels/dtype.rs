//! Number formats of checkpoints: block layouts, and the dequantisation that gives them their meaning.
//!
//! Owns what the bytes of a row say. Does not know tensors, files or devices.
mod k_quants;
mod legacy;
mod quantize;
#[cfg(test)]
mod tests;

use std::fmt;

pub(crate) use quantize::{quantize_row, to_int8};

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
    /// Every format.
    pub(crate) const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
    ];

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
        DType::Q4_0 => blocks::<legacy::Q4_0>(bytes, out),
        DType::Q4_1 => blocks::<legacy::Q4_1>(bytes, out),
        DType::Q5_0 => blocks::<legacy::Q5_0>(bytes, out),
        DType::Q5_1 => blocks::<legacy::Q5_1>(bytes, out),
        DType::Q8_0 => blocks::<legacy::Q8_0>(bytes, out),
        DType::Q4_K => blocks::<k_quants::Q4_K>(bytes, out),
        DType::Q5_K => blocks::<k_quants::Q5_K>(bytes, out),
        DType::Q6_K => blocks::<k_quants::Q6_K>(bytes, out),
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

/// The half at a byte of a block.
fn half(block: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// Every block of a row.
fn blocks<F: Format>(bytes: &[u8], out: &mut [f32]) {
    let mut q = [0; 256];
    let (len, size) = (F::DTYPE.block_len(), F::DTYPE.block_bytes());
    for (block, y) in bytes.chunks_exact(size).zip(out.chunks_exact_mut(len)) {
        F::unpack(block, &mut q);
        for (s, (y, q)) in y.chunks_exact_mut(F::SHARE).zip(q.chunks_exact(F::SHARE)).enumerate() {
            let (d, m) = F::scale(block, s, |at| half(block, at));
            match F::MIN {
                true => y.iter_mut().zip(q).for_each(|(y, &q)| *y = f32::from(q) * d + m),
                false => y.iter_mut().zip(q).for_each(|(y, &q)| *y = f32::from(q) * d),
            }
        }
    }
}

/// A block taken apart: `q * scale + minimum`, element by element.
pub(crate) struct Block {
    /// Small integers, as many as the block is long.
    pub q: [i8; 256],
    /// Scale and minimum of each share of the block.
    pub scales: [(f32, f32); 16],
}

impl Block {
    /// Takes a block of a quantised format apart.
    #[inline(always)]
    pub(crate) fn unpack(&mut self, dtype: DType, block: &[u8]) {
        match dtype {
            DType::F32 | DType::F16 | DType::BF16 => panic!("{dtype} has no blocks"),
            DType::Q4_0 => self.take::<legacy::Q4_0>(block),
            DType::Q4_1 => self.take::<legacy::Q4_1>(block),
            DType::Q5_0 => self.take::<legacy::Q5_0>(block),
            DType::Q5_1 => self.take::<legacy::Q5_1>(block),
            DType::Q8_0 => self.take::<legacy::Q8_0>(block),
            DType::Q4_K => self.take::<k_quants::Q4_K>(block),
            DType::Q5_K => self.take::<k_quants::Q5_K>(block),
            DType::Q6_K => self.take::<k_quants::Q6_K>(block),
        }
    }

    #[inline(always)]
    fn take<F: Format>(&mut self, block: &[u8]) {
        F::unpack(block, &mut self.q);
        for s in 0..F::DTYPE.block_len() / F::SHARE {
            self.scales[s] = F::scale(block, s, |at| half(block, at));
        }
    }
}
