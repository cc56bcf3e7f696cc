//! What a packed matrix is to the driver: tiles of sixteen rows, activations in the form that its kernel reads, a sink
//! for its sums. Knows the kinds of matrix there are; not what becomes of a product.
//!
//! A kernel's contract: one order of summation an output value, whatever the tokens and tiles beside it.
use std::ops::Range;

use super::float::Float;
use super::floats::{self, Inputs};
use super::int::{Format, Int};
use crate::cpu::simd::{WIDE, Wide, WideKernel};
use crate::cpu::workers::Workers;
use crate::device::DeviceError;
use crate::dtype::DType;
use crate::host::{PartView, Pool};

/// Output rows of a tile, one a lane. A matrix is padded with rows of zeros to whole tiles.
pub(in crate::cpu) const TILE: usize = WIDE;

/// Takes the sums of a product.
pub(in crate::cpu) trait Sink {
    /// Asks memory for where the sums of a tile will go.
    fn ask<S: Wide>(&self, isa: S, tokens: Range<usize>, tile: usize);
    /// The product's rows `TILE * tile ..`, of each token `step` after the one before; those past the matrix's last are to be
    /// dropped.
    fn put<S: Wide>(&self, isa: S, tokens: Range<usize>, tile: usize, sums: &[[f32; TILE]], step: usize);
}

/// How a kernel wants its activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Blocks of 32 bytes with a scale and sums: what quantised weights multiply.
    Int8,
    /// As they are, or rounded to bf16.
    Float(Inputs),
}

impl Form {
    /// Bytes of one token's prepared activations: whole cache lines.
    pub(super) fn bytes(self, columns: usize) -> usize {
        match self {
            Self::Int8 => Int::prepared_bytes(columns),
            Self::Float(inputs) => inputs.bytes(columns),
        }
    }

    /// One token's activations, into [`Form::bytes`] of memory.
    #[inline(always)]
    pub(super) fn prepare<S: Wide>(self, isa: S, x: &[f32], out: &mut [u8]) {
        match self {
            Self::Int8 => Int::prepare(isa, x, out),
            Self::Float(inputs) => floats::Prepare { inputs, x, out }.run(isa),
        }
    }
}

/// Prepared activations of some tokens, in one form.
#[derive(Clone, Copy)]
pub(super) struct Prepared<'a> {
    /// From the first token's on.
    pub bytes: &'a [u8],
    /// Bytes from a token to the next.
    pub stride: usize,
}

impl Prepared<'_> {
    /// Where the tokens' bytes start.
    ///
    /// # Panics
    /// Where some of the tokens' `len` bytes are not there.
    #[inline(always)]
    pub(super) fn start(&self, tokens: &Range<usize>, len: usize) -> *const u8 {
        if tokens.is_empty() {
            return self.bytes.as_ptr();
        }
        assert!(len <= self.stride && self.bytes.len() >= (tokens.end - 1) * self.stride + len);
        self.bytes[tokens.start * self.stride..].as_ptr()
    }
}

/// One matrix, packed.
pub(super) enum Packed {
    /// Small integers with scales, multiplied with activations of eight bits.
    Int(Int),
    /// Floats.
    Float(Float),
}

/// How weights are kept, and so what they are multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// As they are stored, and multiplied the fastest way: quantised ones with activations of eight bits, bf16 ones with
    /// bf16 where that is an instruction.
    Stored,
    /// Their values, multiplied with f32. Quantised weights are widened to f32, eight times the memory of four bits.
    Exact,
    /// Float matrices quantised, where their rows are whole blocks of 32; the rest as stored.
    Quantised(Integers),
}

/// What floats are quantised to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Integers {
    /// Signed bytes. A row's 128 columns share a scale where rows are whole 256s; otherwise it is GGUF's Q8_0, 32.
    Int8,
    /// GGUF's Q4_0.
    Int4,
}

/// What packing takes besides a matrix.
pub(in crate::cpu) struct Packing<'a> {
    /// How weights are kept.
    pub keep: Keep,
    /// Where.
    pub pool: &'a mut Pool,
    /// Who packs them.
    pub workers: &'a mut Workers,
}

impl Packed {
    /// Packs what a checkpoint has.
    pub(super) fn new(part: &PartView<'_>, packing: &mut Packing<'_>) -> Result<Self, DeviceError> {
        let Packing { keep, pool, workers } = packing;
        let float = matches!(part.dtype, DType::F32 | DType::F16 | DType::BF16);
        let format = match *keep {
            Keep::Stored | Keep::Quantised(_) if !float => Some(Format::Stored(part.dtype)),
            Keep::Quantised(integers) => Format::of_floats(integers, part.columns),
            Keep::Stored | Keep::Exact => None,
        };
        match format {
            Some(format) => Ok(Self::Int(Int::pack(part, format, pool, workers)?)),
            None => Ok(Self::Float(Float::pack(part, *keep == Keep::Exact, pool, workers)?)),
        }
    }

    /// What its activations are.
    pub(super) fn form(&self) -> Form {
        match self {
            Self::Int(_) => Form::Int8,
            Self::Float(float) => Form::Float(float.inputs()),
        }
    }

    /// One row's values, as many as the matrix has columns.
    pub(super) fn row(&self, row: usize, out: &mut [f32]) {
        match self {
            Self::Int(int) => int.row(row, out),
            Self::Float(float) => float.row(row, out),
        }
    }

    /// Bytes a tile.
    pub(super) fn tile_bytes(&self) -> usize {
        match self {
            Self::Int(int) => int.tile_bytes(),
            Self::Float(float) => float.tile_bytes(),
        }
    }
}

/// Some tiles times some tokens.
pub(super) struct Multiply<'a, K: Sink> {
    /// The matrix.
    pub w: &'a Packed,
    /// In its form.
    pub x: Prepared<'a>,
    /// Of the matrix.
    pub tiles: Range<usize>,
    /// Of `x`.
    pub tokens: Range<usize>,
    /// Where sums go.
    pub sink: &'a K,
}

impl<K: Sink> WideKernel for Multiply<'_, K> {
    type Out = ();

    #[inline(always)]
    fn run<S: Wide>(self, isa: S) {
        let Self { w, x, tiles, tokens, sink } = self;
        match w {
            Packed::Int(w) => w.multiply(isa, x, tiles, tokens, sink),
            Packed::Float(w) => w.multiply(isa, x, tiles, tokens, sink),
        }
    }
}
