//! A matrix of floats in memory: whose tiles [`super::floats`] packs and multiplies.
use std::ops::Range;

use super::floats::{Elements, Inputs, Multiply};
use super::packed::{Prepared, Sink, TILE};
use crate::cpu::simd::{Wide, WideKernel};
use crate::cpu::workers::Workers;
use crate::device::DeviceError;
use crate::host::{Buffer, PartView, Pool, Shared};

/// A matrix, packed.
pub(super) struct Float {
    elements: Elements,
    inputs: Inputs,
    columns: usize,
    data: Buffer<u8>,
}

impl Float {
    /// Packs what is stored; quantised formats become f32. `exact`: activations are not rounded.
    pub(super) fn pack(
        part: &PartView<'_>,
        exact: bool,
        pool: &mut Pool,
        workers: &mut Workers,
    ) -> Result<Self, DeviceError> {
        let (dtype, rows, columns) = (part.dtype, part.rows, part.columns);
        let elements = Elements::of(dtype);
        let inputs = Inputs::of(elements, workers.level.has_bf16(), exact);
        let tile_bytes = elements.tile_bytes(columns);
        let tiles = rows.div_ceil(TILE);
        let mut data = pool.zeroed(tiles.saturating_mul(tile_bytes), "weights")?;
        let shared = Shared::new(&mut data);
        workers.run(tiles, |_, tile| {
            // SAFETY: each tile is one task's.
            let out = unsafe { shared.part(tile * tile_bytes, tile_bytes) };
            let first = tile * TILE;
            let stored: Vec<&[u8]> = (first..(first + TILE).min(rows)).map(|row| part.row(row)).collect();
            elements.pack(dtype, &stored, columns, out);
        });
        Ok(Self { elements, inputs, columns, data })
    }

    /// What activations it meets.
    pub(super) fn inputs(&self) -> Inputs {
        self.inputs
    }

    /// Bytes a tile.
    pub(super) fn tile_bytes(&self) -> usize {
        self.elements.tile_bytes(self.columns)
    }

    /// One row's values.
    pub(super) fn row(&self, row: usize, out: &mut [f32]) {
        let tile = &self.data[row / TILE * self.tile_bytes()..][..self.tile_bytes()];
        self.elements.read_row(tile, row % TILE, out);
    }

    /// See [`super::packed::Multiply`].
    #[inline(always)]
    pub(super) fn multiply<S: Wide, K: Sink>(
        &self,
        isa: S,
        x: Prepared<'_>,
        tiles: Range<usize>,
        tokens: Range<usize>,
        sink: &K,
    ) {
        let Self { elements, inputs, columns, .. } = *self;
        let (w, Prepared { bytes: x, stride }) = (&self.data[..], x);
        Multiply { elements, inputs, columns, w, x, stride, tiles, tokens, sink }.run(isa);
    }
}
