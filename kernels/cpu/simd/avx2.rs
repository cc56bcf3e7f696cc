//! AVX2 with FMA and F16C: x86-64-v3, every server and desktop since 2015 or so.
use std::arch::x86_64::*;

use super::{Isa, Kernel, LANES};
use crate::dtype::Widen;

/// The proof that the machine has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub(in crate::cpu) struct Avx2(());

impl Avx2 {
    /// The proof, where it holds.
    pub(super) fn detect() -> Option<Self> {
        let has =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        has.then_some(Self(()))
    }
}

impl Avx2 {
    /// Eight small integers as f32.
    #[inline(always)]
    fn integers(self, q: &[i8; LANES]) -> __m256 {
        // SAFETY: `self` proves AVX2; eight bytes are readable.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(q.as_ptr().cast()))) }
    }
}

impl Widen for Avx2 {
    #[inline(always)]
    fn half(self, h: u16) -> f32 {
        // SAFETY: `self` proves F16C.
        unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(h)))) }
    }

    #[inline(always)]
    fn halves(self, h: &[u8; 16], out: &mut [f32; LANES]) {
        // SAFETY: `self` proves F16C; sixteen bytes are readable.
        self.store(unsafe { _mm256_cvtph_ps(_mm_loadu_si128(h.as_ptr().cast())) }, out);
    }

    #[inline(always)]
    fn times(self, q: &[i8; LANES], d: f32, out: &mut [f32; LANES]) {
        // SAFETY: `self` proves AVX2.
        self.store(unsafe { _mm256_mul_ps(self.integers(q), self.splat(d)) }, out);
    }

    #[inline(always)]
    fn times_plus(self, q: &[i8; LANES], d: f32, m: f32, out: &mut [f32; LANES]) {
        // Not fused: a weight is what its format says, to the bit.
        // SAFETY: `self` proves AVX2.
        self.store(unsafe { _mm256_add_ps(_mm256_mul_ps(self.integers(q), self.splat(d)), self.splat(m)) }, out);
    }
}

impl Isa for Avx2 {
    type V = __m256;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: `self` proves AVX2.
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        // SAFETY: `self` proves AVX2; eight f32 are readable, by contract.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    fn store(self, v: __m256, to: &mut [f32; LANES]) {
        // SAFETY: `self` proves AVX2; the array holds eight.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), v) }
    }

    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: `self` proves FMA.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn sums(self, v: [__m256; 4]) -> [f32; 4] {
        let mut out = [0.0; 4];
        // SAFETY: `self` proves AVX2; `out` holds the four that are stored.
        unsafe {
            // Within each half of a register: sums of neighbours, then of neighbours' sums, the four vectors side by side.
            let pairs = (_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
            let fours = _mm256_hadd_ps(pairs.0, pairs.1);
            let sums = _mm_add_ps(_mm256_castps256_ps128(fours), _mm256_extractf128_ps::<1>(fours));
            _mm_storeu_ps(out.as_mut_ptr(), sums);
        }
        out
    }

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Out {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn compiled<K: Kernel>(isa: Avx2, kernel: K) -> K::Out {
            kernel.run(isa)
        }
        // SAFETY: `self` proves the features that `compiled` is compiled for.
        unsafe { compiled(self, kernel) }
    }
}
