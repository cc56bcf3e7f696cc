//! Products held to f64 arithmetic on the very integers that were multiplied; the integers held to what they stand for.
use std::sync::Mutex;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::prepare::{RECORD, SCALE};
use super::*;
use crate::cpu::simd::Level;
use crate::cpu::tests::Stored;
use crate::device::Shard;
use crate::dtype::dequantize_row;
use crate::host;

const FORMATS: [DType; 8] =
    [DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0, DType::Q4_K, DType::Q5_K, DType::Q6_K];

struct Quantise<'a>(&'a [f32], &'a mut [u8]);

impl WideKernel for Quantise<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Wide>(self, isa: S) {
        Int::prepare(isa, self.0, self.1);
    }
}

/// Prepared by `level`, and the values that it stands for.
fn prepared(level: Level, x: &[f32]) -> (Vec<u8>, Vec<f64>) {
    let mut bytes = vec![0; Int::prepared_bytes(x.len())];
    level.run(Quantise(x, &mut bytes));
    let records = bytes.as_chunks::<RECORD>().0.iter().take(x.len() / BLOCK);
    let values = records.flat_map(|record| {
        let scale = f64::from(f32::from_ne_bytes(record[SCALE..][..4].try_into().unwrap()));
        record[..BLOCK].iter().map(move |q| f64::from(*q as i8) * scale)
    });
    let values = values.collect();
    (bytes, values)
}

#[test]
fn activations_are_within_half_a_step_and_the_same_on_every_set() {
    let mut random = SmallRng::seed_from_u64(3);
    let mut x: Vec<f32> = (0..10 * BLOCK).map(|_| random.random_range(-3.0..3.0)).collect();
    x[BLOCK..2 * BLOCK].fill(0.0);
    x[2 * BLOCK..3 * BLOCK].fill(1e-38);
    x[3 * BLOCK + 5] = -1e30;
    let (expected, values) = prepared(Level::portable(), &x);
    for (x, values) in x.as_chunks::<BLOCK>().0.iter().zip(values.as_chunks::<BLOCK>().0) {
        let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        for (x, value) in x.iter().zip(values) {
            assert!((f64::from(*x) - value).abs() <= f64::from(largest) * 0.501 / 127.0 + 1e-30, "{x} as {value}");
        }
    }
    for level in Level::all() {
        assert_eq!(prepared(level, &x).0, expected, "{}", level.name());
    }
    for bad in [f32::NAN, f32::INFINITY] {
        x[BLOCK] = bad;
        for level in Level::all() {
            let (_, values) = prepared(level, &x);
            assert!(values[BLOCK..2 * BLOCK].iter().any(|x| !x.is_finite()), "{bad} by {}", level.name());
            assert!(values[2 * BLOCK..].iter().all(|x| x.is_finite()));
        }
    }
}

/// Of 128 columns that share a scale of half precision.
fn within_half_a_step(exact: &[f32], quantised: &[f32]) {
    for (exact, quantised) in exact.chunks(128).zip(quantised.chunks(128)) {
        let largest = exact.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        for (x, y) in exact.iter().zip(quantised) {
            assert!((x - y).abs() <= largest * (0.5 / 127.0 + 1e-3), "{x} became {y}, the largest is {largest}");
        }
    }
}

/// Keeps `[token][row]`.
struct Kept(Mutex<Vec<[f32; TILE]>>, usize);

impl Sink for Kept {
    #[inline(always)]
    fn ask<S: Wide>(&self, _: S, _: Range<usize>, _: usize) {}
    #[inline(always)]
    fn put<S: Wide>(&self, _: S, tokens: Range<usize>, tile: usize, sums: &[[f32; TILE]], step: usize) {
        for (token, sums) in tokens.zip(sums.iter().step_by(step)) {
            let kept = &mut self.0.lock().unwrap()[token * self.1 + tile];
            assert!(kept[0].is_nan(), "token {token} of tile {tile} comes twice");
            *kept = *sums;
        }
    }
}

struct Product<'a> {
    w: &'a Int,
    x: Prepared<'a>,
    tokens: Range<usize>,
    kept: &'a Kept,
}

impl WideKernel for Product<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Wide>(self, isa: S) {
        self.w.multiply(isa, self.x, 0..self.kept.1, self.tokens, self.kept);
    }
}

#[test]
fn products_of_every_format_and_shape_are_those_of_the_integers() {
    let mut random = SmallRng::seed_from_u64(17);
    let formats = FORMATS.map(Format::Stored).into_iter().chain([Format::Int8]);
    for (format, level) in formats.flat_map(|format| Level::all().into_iter().map(move |level| (format, level))) {
        let (rows, dtype, columns) = match format {
            Format::Stored(dtype) => (21, dtype, dtype.block_len() * if dtype.block_len() == 32 { 5 } else { 2 }),
            Format::Int8 => (21, DType::BF16, 512),
        };
        let stored = Stored::random(&mut random, dtype, &[rows, columns]);
        let parts = host::views(&[stored.view()], Shard::Whole).unwrap();
        let mut workers = Workers::new(2, level).unwrap();
        let w = Int::pack(&parts[0], format, &mut Pool::default(), &mut workers).unwrap();
        let values: Vec<Vec<f32>> = (0..rows)
            .map(|row| {
                let (mut exact, mut unpacked) = (vec![0.0; columns], vec![f32::NAN; columns]);
                dequantize_row(dtype, parts[0].row(row), &mut exact);
                w.row(row, &mut unpacked);
                match format {
                    Format::Stored(_) => assert_eq!(exact, unpacked, "row {row} of {dtype}"),
                    Format::Int8 => within_half_a_step(&exact, &unpacked),
                }
                unpacked
            })
            .collect();
        const TOKENS: usize = 23;
        let x: Vec<f32> = (0..TOKENS * columns).map(|_| random.random_range(-1.0..1.0)).collect();
        let prepared: Vec<_> = x.chunks(columns).map(|x| prepared(level, x)).collect();
        let bytes: Vec<u8> = prepared.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let kept = Kept(Mutex::new(vec![[f32::NAN; TILE]; TOKENS * 2]), 2);
        let x = Prepared { bytes: &bytes, stride: Int::prepared_bytes(columns) };
        level.run(Product { w: &w, x, tokens: 0..TOKENS, kept: &kept });
        let all = kept.0.lock().unwrap().clone();
        for (token, (_, x)) in prepared.iter().enumerate() {
            for (row, w) in values.iter().enumerate() {
                let terms = w.iter().zip(x).map(|(w, x)| f64::from(*w) * x);
                let (exact, size) = terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()));
                let got = f64::from(all[token * 2 + row / TILE][row % TILE]);
                assert!((got - exact).abs() <= 1e-6 * size, "{format:?} {token} {row}: {got}, {exact} of {size}");
            }
        }
        // Any other tokens beside it, the same bits.
        for tokens in [0..1, 3..5, 7..10, 2..9, 4..23, 8..23] {
            kept.0.lock().unwrap().fill([f32::NAN; TILE]);
            level.run(Product { w: &w, x, tokens: tokens.clone(), kept: &kept });
            assert_eq!(kept.0.lock().unwrap()[2 * tokens.start..2 * tokens.end], all[2 * tokens.start..2 * tokens.end]);
        }
    }
}
