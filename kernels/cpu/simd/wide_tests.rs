//! Every operation of every set on random input, against plain arithmetic.
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::super::Level;
use super::*;

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
        let kept = |v: S::F| {
            let mut out = [0.0; WIDE];
            // SAFETY: sixteen f32.
            unsafe { isa.store(v, out.as_mut_ptr()) };
            out
        };
        let signed: [u8; 64] = self.bytes.map(|b| S::stored_byte(b as i8));
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
        let expected = Level::portable().run_wide(operations());
        let signed = |u: &[u8; 64], i: usize| -> i32 {
            (4 * i..4 * i + 4).map(|at| i32::from(u[at] as i8) * i32::from(x[at])).sum()
        };
        for i in 0..WIDE {
            assert_eq!(expected.exact[6][i], (signed(&small, i) - 3) as f32);
            assert_eq!(expected.exact[7][i], (signed(&bytes, i) + 5) as f32);
        }
        for level in Level::all() {
            let got = level.run_wide(operations());
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
        assert!(level.run_wide(Nan).iter().all(|b| bf16_to_f32(*b).is_nan()), "{}", level.name());
    }
}
