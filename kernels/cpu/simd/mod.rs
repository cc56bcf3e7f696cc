//! Vectors of eight f32 as the machine at hand has them. A kernel is written once, for any [`Isa`], and compiled for each.
//!
//! Results of one instruction set are reproducible bit by bit; two sets may differ in rounding (fused or not).
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
#[allow(dead_code)]
mod avx2_wide;
#[cfg(target_arch = "x86_64")]
#[allow(dead_code)]
mod avx512;
mod dot;
mod portable;
#[allow(dead_code)] // until matmul and attention use all of it
mod wide;

pub(super) use dot::Panel;
#[allow(unused_imports)]
pub(super) use wide::{WIDE, Wide, WideKernel};

use crate::dtype::Widen;

/// Elements a vector.
pub(super) const LANES: usize = 8;

/// Rows of scratch and activations start on cache lines: this many f32.
pub(super) const LINE: usize = 16;

/// A row of `width` elements, padded to whole cache lines. The padding is zero, so that kernels need no tails.
pub(super) const fn padded(width: usize) -> usize {
    width.next_multiple_of(LINE)
}

/// An instruction set. A value is the proof that the machine has it, which makes the methods safe.
pub(super) trait Isa: Widen + Send + Sync {
    /// Eight f32.
    type V: Copy;

    /// Eight times `x`.
    fn splat(self, x: f32) -> Self::V;
    /// # Safety
    /// Eight f32 are readable at `from`.
    unsafe fn load(self, from: *const f32) -> Self::V;
    /// Into an array.
    fn store(self, v: Self::V, to: &mut [f32; LANES]);
    /// `a * b + c`
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The sums of four vectors' lanes, `((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7))` each.
    fn sums(self, v: [Self::V; 4]) -> [f32; 4];
    /// Runs a kernel compiled for this set.
    fn run<K: Kernel>(self, kernel: K) -> K::Out;
}

/// Code to compile for every instruction set. `run` is `#[inline(always)]`, and so is all it calls.
pub(super) trait Kernel {
    /// What it gives.
    type Out;
    /// The code.
    fn run<S: Isa>(self, isa: S) -> Self::Out;
}

/// The instruction set to use. AVX-512 comes with AVX2, which runs the kernels of eight lanes there.
#[derive(Clone, Copy, Debug)]
pub(super) enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(avx512::Avx512<true>, avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512<false>, avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    Portable(portable::Portable),
}

impl Level {
    /// The best that the machine has.
    pub(super) fn detect() -> Self {
        Self::all().swap_remove(0)
    }

    /// All that the machine has, the best first.
    pub(super) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        if let Some(avx2) = avx2::Avx2::detect() {
            all.extend(avx512::Avx512::detect().map(|avx512| Self::Avx512Bf16(avx512, avx2)));
            all.extend(avx512::Avx512::detect().map(|avx512| Self::Avx512(avx512, avx2)));
            all.push(Self::Avx2(avx2));
        }
        all.push(Self::portable());
        all
    }

    /// What every machine has.
    pub(super) fn portable() -> Self {
        Self::Portable(portable::Portable)
    }

    /// For the start-up line.
    pub(super) fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16(..) => "AVX-512 with VNNI and BF16",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(..) => "AVX-512 with VNNI",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "AVX2",
            Self::Portable(_) => "portable",
        }
    }

    /// Whether the dot product of bf16 is an instruction: then activations are worth rounding to it.
    #[allow(dead_code)] // until the driver asks
    pub(super) fn has_bf16(self) -> bool {
        struct Asked;
        impl WideKernel for Asked {
            type Out = bool;
            #[inline(always)]
            fn run<S: Wide>(self, _: S) -> bool {
                S::BF16
            }
        }
        self.run_wide(Asked)
    }

    /// Runs a kernel of eight lanes.
    #[inline]
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Out {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16(_, isa) | Self::Avx512(_, isa) | Self::Avx2(isa) => Isa::run(isa, kernel),
            Self::Portable(isa) => Isa::run(isa, kernel),
        }
    }

    /// Runs a kernel of sixteen lanes.
    #[inline]
    pub(super) fn run_wide<K: WideKernel>(self, kernel: K) -> K::Out {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16(isa, _) => isa.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(isa, _) => isa.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(isa) => Wide::run(isa, kernel),
            Self::Portable(isa) => Wide::run(isa, kernel),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::{DType, Plain, dequantize_row_by};
    use crate::golden;

    struct Rows<'a>(DType, &'a [u8], &'a mut [f32]);

    impl Kernel for Rows<'_> {
        type Out = ();
        #[inline(always)]
        fn run<S: Isa>(self, isa: S) {
            dequantize_row_by(isa, self.0, self.1, self.2);
        }
    }

    #[test]
    fn every_set_widens_every_format_to_the_same_bits() {
        for pair in golden::records(golden::QUANT).chunks(2) {
            let ((name, raw), (_, expected)) = (pair[0], pair[1]);
            let dtype = (0..64).filter_map(DType::from_ggml).find(|d| d.name() == name).unwrap();
            let mut plain = vec![0.0; expected.len() / 4];
            dequantize_row_by(Plain, dtype, raw, &mut plain);
            for level in Level::all() {
                let mut got = vec![f32::NAN; plain.len()];
                level.run(Rows(dtype, raw, &mut got));
                let same = got.iter().zip(&plain).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{name} by {}", level.name());
            }
        }
    }

    struct Arithmetic<'a>(&'a [f32; 32]);

    impl Kernel for Arithmetic<'_> {
        type Out = ([f32; LANES], [f32; 4]);
        #[inline(always)]
        fn run<S: Isa>(self, isa: S) -> Self::Out {
            // SAFETY: 32 f32 are readable: four times eight.
            let v = [0, 1, 2, 3].map(|i| unsafe { isa.load(self.0[8 * i..].as_ptr()) });
            let mut out = [0.0; LANES];
            isa.store(isa.fma(v[0], isa.splat(2.0), v[3]), &mut out);
            (out, isa.sums(v))
        }
    }

    #[test]
    fn every_set_computes_the_same_of_small_integers() {
        let x: [f32; 32] = std::array::from_fn(|i| (i * i % 37) as f32);
        for level in Level::all() {
            let (out, sums) = level.run(Arithmetic(&x));
            assert_eq!(out, std::array::from_fn(|i| 2.0 * x[i] + x[24 + i]), "{}", level.name());
            assert_eq!(sums, std::array::from_fn(|i| x[8 * i..8 * i + 8].iter().sum()), "{}", level.name());
        }
    }
}
