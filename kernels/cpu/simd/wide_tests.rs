//! Every operation of every set on random input, against plain arithmetic.
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::super::Level;
use super::*;

fn kept<S: Wide>(isa: S, v: S::F) -> [f32; WIDE] {
    let mut out = [0.0; WIDE];
    // SAFETY: sixteen f32.
    unsafe { isa.store(v, out.as_mut_ptr()) };
    out
}

/// What the operations gave.
#[derive(Debug, PartialEq)]
struct Results {
    exact: Vec<[f32; WIDE]>,
    sums: Vec<[f32; WIDE]>,
    bf16: [u16; WIDE],
}

struct Operations<'a> {
    f: &'a [[f32; WIDE]; 3],
    halves: &'a [u16; WIDE],
    bytes: &'a [u8; 64],
    small: &'a [u8; 64],
    x: &'a [i8; 64],
    pairs: &'a [[u8; 64]; 2],
}

impl WideKernel for Operations<'_> {
    type Out = Results;

    #[inline(always)]
    fn run<S: Wide>(self, isa: S) -> Results {
        let kept = |v: S::F| kept(isa, v);
        let signed: [u8; 64] = self.bytes.map(|b| (i32::from(b as i8) + S::BYTE_OFFSET) as u8);
        let sum_x: [i32; WIDE] =
            std::array::from_fn(|i| self.x[4 * i..4 * i + 4].iter().map(|x| i32::from(*x)).sum::<i32>());
        let mut bf16 = [0; WIDE];
        // SAFETY: each array holds what is read or written.
        unsafe {
            let [a, b, c] = [0, 1, 2].map(|i| isa.load(self.f[i].as_ptr()));
            let (bytes, small) = (isa.load_bytes(signed.as_ptr()), isa.load_bytes(self.small.as_ptr()));
            let x = isa.load_bytes(self.x.as_ptr().cast());
            let [p, q] = [0, 1].map(|i| isa.load_bytes(self.pairs[i].as_ptr()));
            isa.store_bf16(a, bf16.as_mut_ptr());
            let mut of_bytes = kept(isa.to_f32(isa.dot_bytes(isa.splat_i(5), bytes, x)));
            of_bytes.iter_mut().zip(sum_x).for_each(|(y, s)| *y -= (S::BYTE_OFFSET * s) as f32);
            let four = isa.splat_4(self.x[3..].as_ptr().cast());
            Results {
                exact: vec![
                    kept(isa.add(a, b)),
                    kept(isa.mul(a, b)),
                    kept(isa.max(a, b)),
                    kept(isa.sub(a, b)),
                    kept(isa.nearest(isa.mul(a, isa.splat(2.5)))),
                    kept(isa.times_power_of_two(b, isa.nearest(isa.mul(c, isa.splat(40.0))))),
                    kept(isa.splat(isa.largest(a))),
                    kept(isa.splat(isa.sum(isa.nearest(isa.mul(b, isa.splat(50.0)))))),
                    kept(isa.load_i8(self.x.as_ptr())),
                    kept(isa.splat(2.5)),
                    kept(isa.load_f16(self.halves.as_ptr())),
                    kept(isa.load_bf16(self.halves.as_ptr())),
                    kept(isa.to_f32(isa.dot_small(isa.splat_i(-3), small, x))),
                    of_bytes,
                    kept(isa.to_f32(isa.dot_small(isa.splat_i(0), small, four))),
                    kept(isa.to_f32(isa.dot_small(isa.splat_i(0), isa.low_nibbles(small), x))),
                    kept(isa.to_f32(isa.dot_small(isa.splat_i(0), isa.high_nibbles(small), x))),
                    kept(isa.evens(p)),
                    kept(isa.odds(p)),
                ],
                sums: vec![kept(isa.fma(a, b, c)), kept(isa.dot_bf16(c, p, q))],
                bf16,
            }
        }
    }
}

#[test]
fn every_set_computes_what_plain_arithmetic_does() {
    let mut random = SmallRng::seed_from_u64(7);
    for round in 0..50 {
        let mut f: [[f32; WIDE]; 3] = std::array::from_fn(|_| std::array::from_fn(|_| random.random_range(-2.0..2.0)));
        // Ties and NaN of the rounding to bf16.
        f[0][0] = f32::from_bits(0x3f80_8000);
        f[0][1] = f32::from_bits(0x3f81_8000);
        let halves = std::array::from_fn(|_| crate::narrow::f32_to_f16(random.random_range(-9.0..9.0)));
        let mut bytes: [u8; 64] = std::array::from_fn(|_| random.random());
        let mut small: [u8; 64] = std::array::from_fn(|_| random.random_range(0..128));
        let mut x: [i8; 64] = std::array::from_fn(|_| random.random_range(-127..=127));
        if round == 0 {
            // The largest sums.
            (bytes, small, x) = ([128; 64], [127; 64], [127; 64]);
        }
        let pair = |random: &mut SmallRng| {
            let values: [u16; 32] = std::array::from_fn(|_| f32_to_bf16(random.random_range(-2.0..2.0)));
            std::array::from_fn(|i| values[i / 2].to_le_bytes()[i % 2])
        };
        let pairs = [pair(&mut random), pair(&mut random)];
        let operations = || Operations { f: &f, halves: &halves, bytes: &bytes, small: &small, x: &x, pairs: &pairs };
        let expected = Level::portable().run(operations());
        let signed = |u: &[u8; 64], i: usize| -> i32 {
            (4 * i..4 * i + 4).map(|at| i32::from(u[at] as i8) * i32::from(x[at])).sum()
        };
        for i in 0..WIDE {
            assert_eq!(expected.exact[12][i], (signed(&small, i) - 3) as f32);
            assert_eq!(expected.exact[13][i], (signed(&bytes, i) + 5) as f32);
        }
        for level in Level::all() {
            let got = level.run(operations());
            assert_eq!((&got.exact, got.bf16), (&expected.exact, expected.bf16), "{}", level.name());
            for (got, expected) in got.sums.as_flattened().iter().zip(expected.sums.as_flattened()) {
                assert!((got - expected).abs() < 1e-5, "{}: {got}, {expected}", level.name());
            }
        }
    }
}

#[test]
fn nan_stays_nan_as_bf16() {
    struct Nan;
    impl WideKernel for Nan {
        type Out = [u16; WIDE];
        #[inline(always)]
        fn run<S: Wide>(self, isa: S) -> [u16; WIDE] {
            let mut out = [0; WIDE];
            // SAFETY: sixteen u16.
            unsafe { isa.store_bf16(isa.splat(f32::from_bits(0x7f80_0001)), out.as_mut_ptr()) };
            out
        }
    }
    for level in Level::all() {
        assert!(level.run(Nan).iter().all(|b| bf16_to_f32(*b).is_nan()), "{}", level.name());
    }
}

#[test]
fn rows_become_columns_and_pairs_are_zipped() {
    const STRIDE: usize = 21;
    struct Turn<'a>(&'a [[u32; WIDE]; WIDE]);
    impl WideKernel for Turn<'_> {
        type Out = (Vec<u32>, [u32; WIDE]);
        #[inline(always)]
        fn run<S: Wide>(self, isa: S) -> Self::Out {
            let (mut turned, mut zipped) = (vec![7; WIDE * STRIDE], [0; WIDE]);
            let rows = self.0.each_ref().map(|row| row.as_ptr());
            // An odd address, and as many bytes further on.
            let bytes = rows.map(|row| row.cast::<u8>().wrapping_sub(5));
            // SAFETY: sixteen rows of sixteen; `turned` has sixteen of STRIDE; a row is 32 halves.
            unsafe {
                isa.transpose(&bytes, 5, turned.as_mut_ptr(), STRIDE);
                isa.store_bytes(isa.zip(rows[3].cast(), rows[8].cast()), zipped.as_mut_ptr().cast());
            }
            (turned, zipped)
        }
    }
    let mut random = SmallRng::seed_from_u64(1);
    let rows: [[u32; WIDE]; WIDE] = std::array::from_fn(|_| std::array::from_fn(|_| random.random()));
    for level in Level::all() {
        let (turned, zipped) = level.run(Turn(&rows));
        for (at, word) in turned.iter().enumerate() {
            let expected = rows.get(at % STRIDE).map_or(7, |row| row[at / STRIDE]);
            assert_eq!(*word, expected, "{} at {at}", level.name());
        }
        for (i, word) in zipped.iter().enumerate() {
            let half = |row: usize| (rows[row][i / 2] >> (16 * (i % 2))) & 0xffff;
            assert_eq!(*word, half(3) | (half(8) << 16), "{} at {i}", level.name());
        }
    }
}

/// `2^x` of three degrees.
struct Powers(f32);

impl WideKernel for Powers {
    type Out = [f32; 3];
    #[inline(always)]
    fn run<S: Wide>(self, isa: S) -> [f32; 3] {
        let x = isa.splat(self.0);
        [isa.exp2::<3>(x), isa.exp2::<4>(x), isa.exp2::<5>(x)].map(|v| kept(isa, v)[9])
    }
}

#[test]
fn powers_of_two_are_as_close_as_said() {
    for level in Level::all() {
        for i in -125_000..=126_000 {
            let x = i as f32 * 1e-3;
            let expected = f64::from(x).exp2();
            for (got, within) in level.run(Powers(x)).into_iter().zip([1.1e-4, 3e-6, 2.5e-7]) {
                let error = (f64::from(got) - expected).abs() / expected;
                assert!(error < within, "{}: 2^{x} is off by {error}", level.name());
            }
        }
        assert_eq!(level.run(Powers(0.0)), [1.0; 3]);
        for x in [-150.6, -1e4, -1e30, f32::MIN] {
            assert_eq!(level.run(Powers(x)), [0.0; 3], "{}: {x}", level.name());
        }
        assert!(level.run(Powers(f32::NAN)).iter().all(|x| x.is_nan()), "{}", level.name());
    }
}

#[test]
fn nan_is_never_the_largest() {
    struct Largest([f32; WIDE]);
    impl WideKernel for Largest {
        type Out = f32;
        #[inline(always)]
        fn run<S: Wide>(self, isa: S) -> f32 {
            // SAFETY: sixteen f32.
            isa.largest(unsafe { isa.load(self.0.as_ptr()) })
        }
    }
    for level in Level::all() {
        for at in 0..WIDE {
            let mut lanes: [f32; WIDE] = std::array::from_fn(|i| -(i as f32));
            lanes[at] = f32::NAN;
            assert_eq!(level.run(Largest(lanes)), if at == 0 { -1.0 } else { 0.0 }, "{}", level.name());
        }
        assert_eq!(level.run(Largest([f32::NAN; WIDE])), f32::NEG_INFINITY, "{}", level.name());
    }
}
