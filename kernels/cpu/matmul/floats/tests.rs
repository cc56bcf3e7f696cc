//! Packed products against sums in f64, on every instruction set, and their bits whatever is computed beside them.
use std::cell::RefCell;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::cpu::simd::Level;
use crate::host::Buffer;
use crate::narrow::{f32_to_bf16, f32_to_f16};

/// `[tokens][tiles * 16]`, and how often each tile was put.
struct Table {
    tiles: usize,
    values: RefCell<Vec<f32>>,
    puts: RefCell<Vec<usize>>,
}

impl Table {
    fn new(tokens: usize, tiles: usize) -> Self {
        let values = RefCell::new(vec![f32::NAN; tokens * tiles * TILE]);
        Self { tiles, values, puts: RefCell::new(vec![0; tokens * tiles]) }
    }
}

impl Sink for Table {
    fn ask<S: Wide>(&self, _: S, _: Range<usize>, _: usize) {}
    fn put<S: Wide>(&self, _: S, tokens: Range<usize>, tile: usize, sums: &[[f32; TILE]], step: usize) {
        for (token, sums) in tokens.zip(sums.iter().step_by(step)) {
            let at = token * self.tiles + tile;
            self.puts.borrow_mut()[at] += 1;
            self.values.borrow_mut()[at * TILE..][..TILE].copy_from_slice(sums);
        }
    }
}

/// A packed matrix, and what its elements are.
struct Matrix {
    elements: Elements,
    columns: usize,
    tiles: usize,
    data: Buffer<u8>,
    values: Vec<f32>,
}

impl Matrix {
    fn random(random: &mut SmallRng, dtype: DType, rows: usize, columns: usize) -> Self {
        let row_bytes = dtype.row_bytes(columns).unwrap();
        let bytes: Vec<u8> = match dtype {
            DType::F32 => (0..rows * columns).flat_map(|_| random.random_range(-1f32..1.0).to_le_bytes()).collect(),
            DType::F16 => {
                (0..rows * columns).flat_map(|_| f32_to_f16(random.random_range(-1.0..1.0)).to_le_bytes()).collect()
            }
            DType::BF16 => {
                (0..rows * columns).flat_map(|_| f32_to_bf16(random.random_range(-1.0..1.0)).to_le_bytes()).collect()
            }
            // Small bytes keep the halves that start a block finite and small.
            _ => (0..rows * row_bytes).map(|_| random.random_range(0..32)).collect(),
        };
        let mut values = vec![0.0; rows * columns];
        let stored: Vec<&[u8]> = bytes.chunks_exact(row_bytes).collect();
        values.chunks_exact_mut(columns).zip(&stored).for_each(|(out, row)| dequantize_row(dtype, row, out));
        let elements = Elements::of(dtype);
        let (tiles, tile_bytes) = (rows.div_ceil(TILE), elements.tile_bytes(columns));
        let mut data = Buffer::zeroed(tiles * tile_bytes, "a test").unwrap();
        for (tile, rows) in data.chunks_exact_mut(tile_bytes).zip(stored.chunks(TILE)) {
            elements.pack(dtype, rows, columns, tile);
        }
        Self { elements, columns, tiles, data, values }
    }

    fn prepare(&self, level: Level, inputs: Inputs, x: &[f32]) -> Buffer<u8> {
        let (tokens, bytes) = (x.len() / self.columns, inputs.bytes(self.columns));
        let mut out = Buffer::zeroed(tokens * bytes, "a test").unwrap();
        for (x, out) in x.chunks_exact(self.columns).zip(out.chunks_exact_mut(bytes)) {
            out.fill(0xff); // not a number, where it is not written
            level.run(Prepare { inputs, x, out });
        }
        out
    }

    fn multiply(&self, level: Level, inputs: Inputs, x: &[u8], tiles: Range<usize>, tokens: Range<usize>, out: &Table) {
        let Self { elements, columns, data, .. } = self;
        let (elements, columns) = (*elements, *columns);
        let stride = inputs.bytes(columns);
        level.run(Multiply { elements, inputs, columns, w: data, x, stride, tiles, tokens, sink: out });
    }

    /// All tiles times all tokens.
    fn product(&self, level: Level, inputs: Inputs, x: &[u8]) -> Vec<f32> {
        let tokens = x.len() / inputs.bytes(self.columns);
        let out = Table::new(tokens, self.tiles);
        self.multiply(level, inputs, x, 0..self.tiles, 0..tokens, &out);
        assert!(out.puts.into_inner().iter().all(|&puts| puts == 1));
        out.values.into_inner()
    }
}

fn inputs_of(dtype: DType) -> &'static [Inputs] {
    if dtype == DType::BF16 { &[Inputs::F32, Inputs::Bf16] } else { &[Inputs::F32] }
}

fn floats(random: &mut SmallRng, len: usize) -> Vec<f32> {
    (0..len).map(|_| random.random_range(-1.0..1.0)).collect()
}

const FORMATS: [(DType, &[usize]); 6] = [
    (DType::BF16, &[1, 2, 7, 16, 33, 130]),
    (DType::F16, &[1, 3, 15, 64, 101]),
    (DType::F32, &[1, 3, 15, 64, 101]),
    (DType::Q4_1, &[32, 96]),
    (DType::Q8_0, &[64]),
    (DType::Q6_K, &[256]),
];

#[test]
fn products_are_sums_of_products() {
    let random = &mut SmallRng::seed_from_u64(1);
    for (dtype, widths) in FORMATS {
        for &columns in widths {
            for (rows, tokens) in [(1, 1), (16, 2), (17, 3), (40, 5), (100, 7), (81, 13), (33, 27)] {
                let w = Matrix::random(random, dtype, rows, columns);
                let x = floats(random, tokens * columns);
                for level in Level::all() {
                    for &inputs in inputs_of(dtype) {
                        let out = w.product(level, inputs, &w.prepare(level, inputs, &x));
                        w.check(&x, inputs, rows, &out, &format!("{dtype} {inputs:?} by {}", level.name()));
                    }
                }
            }
        }
    }
}

impl Matrix {
    fn check(&self, x: &[f32], inputs: Inputs, rows: usize, out: &[f32], what: &str) {
        let columns = self.columns;
        for (token, (x, out)) in x.chunks_exact(columns).zip(out.chunks_exact(self.tiles * TILE)).enumerate() {
            for (row, &got) in out.iter().enumerate() {
                let (mut exact, mut size) = (0.0, 0.0);
                for (k, &x) in x.iter().enumerate().take(if row < rows { columns } else { 0 }) {
                    let x = if inputs == Inputs::Bf16 { bf16_to_f32(f32_to_bf16(x)) } else { x };
                    let product = f64::from(x) * f64::from(self.values[row * columns + k]);
                    (exact, size) = (exact + product, size + product.abs());
                }
                let error = (f64::from(got) - exact).abs();
                assert!(error <= 1e-6 * size, "{what}, K={columns}, token {token}, row {row}: {got}, {exact}");
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_what_else_is_computed() {
    let random = &mut SmallRng::seed_from_u64(2);
    for (dtype, columns) in [(DType::BF16, 67), (DType::F16, 50), (DType::F32, 45)] {
        let w = Matrix::random(random, dtype, 7 * TILE - 3, columns);
        let x = floats(random, 40 * columns);
        for level in Level::all() {
            for &inputs in inputs_of(dtype) {
                let prepared = w.prepare(level, inputs, &x);
                let all = w.product(level, inputs, &prepared);
                let bytes = inputs.bytes(columns);
                for tokens in 1..=40 {
                    let first = random.random_range(0..=40 - tokens);
                    let some = w.product(level, inputs, &prepared[first * bytes..][..tokens * bytes]);
                    let expected = &all[first * w.tiles * TILE..][..some.len()];
                    assert!(some.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{tokens} tokens");
                }
                // Any partition of tiles and tokens.
                let out = Table::new(40, w.tiles);
                let (tile, token) = (random.random_range(0..=w.tiles), random.random_range(0..=40));
                for tiles in [0..tile, tile..w.tiles] {
                    for tokens in [0..token, token..40] {
                        w.multiply(level, inputs, &prepared, tiles.clone(), tokens, &out);
                    }
                }
                let parts = out.values.into_inner();
                assert!(parts.iter().zip(&all).all(|(a, b)| a.to_bits() == b.to_bits()), "{tile}, {token}");
            }
        }
    }
}

#[test]
fn long_batches_go_in_chunks_of_the_same_bits() {
    let random = &mut SmallRng::seed_from_u64(3);
    let columns = 4096;
    let tokens = 2 * TOKENS_BYTES / Inputs::F32.bytes(columns) + 5;
    let w = Matrix::random(random, DType::F32, 20, columns);
    let x = floats(random, tokens * columns);
    for level in Level::all() {
        let prepared = w.prepare(level, Inputs::F32, &x);
        let all = w.product(level, Inputs::F32, &prepared);
        for (x, expected) in prepared.chunks_exact(Inputs::F32.bytes(columns)).zip(all.chunks_exact(2 * TILE)) {
            assert_eq!(w.product(level, Inputs::F32, x), expected);
        }
    }
}

#[test]
fn rows_are_read_back() {
    let random = &mut SmallRng::seed_from_u64(4);
    for (dtype, widths) in FORMATS {
        for &columns in widths {
            let w = Matrix::random(random, dtype, 19, columns);
            let mut out = vec![f32::NAN; columns];
            for (row, expected) in w.values.chunks_exact(columns).enumerate() {
                let bytes = w.elements.tile_bytes(columns);
                w.elements.read_row(&w.data[row / TILE * bytes..][..bytes], row % TILE, &mut out);
                assert_eq!(out, expected, "{dtype}, K={columns}, row {row}");
            }
        }
    }
}

#[test]
fn tokens_fill_all_sets_of_the_cache() {
    for columns in [1, 2, 31, 576, 1024, 2048, 3072] {
        for inputs in [Inputs::Bf16, Inputs::F32] {
            let bytes = inputs.bytes(columns);
            assert!(bytes.is_multiple_of(LINE) && (bytes / LINE) % 2 == 1);
            assert!(bytes >= columns * if inputs == Inputs::F32 { 4 } else { 2 });
        }
    }
}
