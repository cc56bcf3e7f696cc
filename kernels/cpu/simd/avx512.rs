//! AVX-512 with VNNI: Ice Lake, Sapphire Rapids, Zen 4 and later. BF16's dot product where there is one.
use std::arch::x86_64::*;

use super::avx2_wide::{define_settled, largest_bits, sum_bytes};
use super::wide::{WIDE, Wide, WideKernel};

/// The proof that the machine has AVX-512 F, BW, VL, DQ and VNNI, AVX2, FMA and F16C; where `BF16`, AVX512_BF16 too.
#[derive(Clone, Copy, Debug)]
pub(in crate::cpu) struct Avx512<const BF16: bool>(());

impl<const BF16: bool> Avx512<BF16> {
    /// The proof, where it holds.
    pub(super) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && (!BF16 || is_x86_feature_detected!("avx512bf16"));
        has.then_some(Self(()))
    }
}

/// Whether Intel made this processor, as cpuid's leaf 0 says.
pub(super) fn is_intel() -> bool {
    let leaf = __cpuid(0);
    [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
}

// SAFETY of all blocks below: `self` proves the instructions; pointers are readable or writable by the trait's contract.
impl<const HAS_BF16: bool> Wide for Avx512<HAS_BF16> {
    type F = __m512;
    type I = __m512i;
    type B = __m512i;
    type P = __m512i;
    type Integers = Avx512<false>;

    /// vpdpbusd takes one side unsigned.
    const BYTE_OFFSET: i32 = 128;
    const BF16: bool = HAS_BF16;
    const REGISTERS: usize = 32;

    #[inline(always)]
    fn integers(self) -> Avx512<false> {
        Avx512(())
    }
    #[inline(always)]
    fn settle<const N: usize>(self, sums: &mut [__m512; N]) {
        for sum in sums {
            // SAFETY: see above.
            *sum = unsafe { settled(*sum) };
        }
    }
    #[inline(always)]
    fn settle_integers<const N: usize>(self, sums: &mut [__m512i; N]) {
        for sum in sums {
            // SAFETY: see above; the types differ in name alone.
            *sum = unsafe { _mm512_castps_si512(settled(_mm512_castsi512_ps(*sum))) };
        }
    }
    #[inline(always)]
    fn settle_narrow<const N: usize>(self, sums: &mut [__m512i; N]) {
        self.settle_integers(sums);
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: see above; a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    #[inline(always)]
    fn prefetch_near(self, at: *const u8) {
        // SAFETY: see above; a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, v: __m512, to: *mut f32) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> __m512 {
        // SAFETY: see above.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, v: __m512, to: *mut u16) {
        // SAFETY: see above. Without the instruction, by arithmetic: add half of the last place, or just below at a tie
        // with an even result; NaN keeps its upper bits and a bit that marks it quiet.
        unsafe {
            let bits = _mm512_castps_si512(v);
            let upper = _mm512_srli_epi32::<16>(bits);
            let odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
            let carried = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let quiet = _mm512_or_si512(upper, _mm512_set1_epi32(0x40));
            let rounded = _mm512_mask_mov_epi32(_mm512_srli_epi32::<16>(carried), nan, quiet);
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(rounded));
        }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn nearest(self, v: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v) }
    }
    #[inline(always)]
    fn times_power_of_two(self, a: __m512, n: __m512) -> __m512 {
        // SAFETY: see above. The instruction makes subnormal results; below them, 0.
        unsafe { _mm512_scalef_ps(a, n) }
    }
    #[inline(always)]
    fn largest(self, v: __m512) -> f32 {
        // SAFETY: see above. NaN gives way to the second operand, at first negative infinity.
        unsafe {
            let v = _mm512_max_ps(v, _mm512_set1_ps(f32::NEG_INFINITY));
            let v = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        }
    }
    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        // SAFETY: see above.
        unsafe {
            let v = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn transpose(self, rows: &[*const u8; WIDE], at: usize, to: *mut u32, stride: usize) {
        // SAFETY: see above. Pairs of rows, pairs of those, then quarters of registers twice.
        unsafe {
            // Loops, not closures: those are functions of their own, which without the features inline no instruction.
            let mut v = [_mm512_setzero_si512(); 16];
            for i in 0..16 {
                v[i] = _mm512_loadu_si512(rows[i].add(at).cast());
            }
            // pairs[2 i + h]: words 4 q + 2 h and + 1 of rows 2 i and 2 i + 1, of each quarter q.
            let mut pairs = v;
            for i in 0..8 {
                pairs[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
                pairs[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
            }
            // fours[4 i + w]: word 4 q + w of rows 4 i to 4 i + 3, of each quarter q.
            let mut fours = v;
            for i in [0, 1, 4, 5, 8, 9, 12, 13] {
                let at = i / 4 * 4 + i % 2 * 2;
                fours[at] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
                fours[at + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
            }
            for word in 0..4 {
                let (a, b, c, d) = (fours[word], fours[4 + word], fours[8 + word], fours[12 + word]);
                let (even_low, odd_low) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
                let (even_high, odd_high) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
                let columns = [
                    _mm512_shuffle_i32x4::<0x88>(even_low, even_high),
                    _mm512_shuffle_i32x4::<0x88>(odd_low, odd_high),
                    _mm512_shuffle_i32x4::<0xdd>(even_low, even_high),
                    _mm512_shuffle_i32x4::<0xdd>(odd_low, odd_high),
                ];
                for (quarter, column) in columns.into_iter().enumerate() {
                    _mm512_storeu_si512(to.add((4 * quarter + word) * stride).cast(), column);
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn zip(self, a: *const u16, b: *const u16) -> __m512i {
        // SAFETY: see above.
        unsafe {
            let a = _mm512_cvtepu16_epi32(_mm256_loadu_si256(a.cast()));
            let b = _mm512_cvtepu16_epi32(_mm256_loadu_si256(b.cast()));
            _mm512_or_si512(a, _mm512_slli_epi32::<16>(b))
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, v: __m512i, to: *mut u8) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_si512(to.cast(), v) }
    }
    #[inline(always)]
    fn largest_magnitude(self, a: __m512, b: __m512) -> f32 {
        // SAFETY: see above.
        unsafe {
            let unsigned = _mm512_set1_epi32(0x7fff_ffff);
            let (a, b) = (_mm512_castps_si512(a), _mm512_castps_si512(b));
            let both = _mm512_max_epu32(_mm512_and_si512(a, unsigned), _mm512_and_si512(b, unsigned));
            largest_bits(_mm256_max_epu32(_mm512_castsi512_si256(both), _mm512_extracti64x4_epi64::<1>(both)))
        }
    }
    #[inline(always)]
    unsafe fn store_i8(self, v: __m512, to: *mut u8) -> i32 {
        // SAFETY: see above.
        unsafe {
            let q = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v));
            _mm_storeu_si128(to.cast(), q);
            sum_bytes(q)
        }
    }
    #[inline(always)]
    fn splat_i(self, x: i32) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    fn to_f32(self, v: __m512i) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_cvtepi32_ps(v) }
    }
    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    unsafe fn splat_4(self, from: *const u8) -> __m512i {
        // SAFETY: see above; read unaligned.
        unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    fn low_nibbles(self, v: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_and_si512(v, _mm512_set1_epi8(15)) }
    }
    #[inline(always)]
    fn high_nibbles(self, v: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_and_si512(_mm512_srli_epi16::<4>(v), _mm512_set1_epi8(15)) }
    }
    #[inline(always)]
    fn dot_small(self, acc: __m512i, u: __m512i, x: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_dpbusd_epi32(acc, u, x) }
    }
    #[inline(always)]
    fn start_narrow(self, acc: __m512i) -> __m512i {
        acc
    }
    #[inline(always)]
    fn dot_narrow(self, p: __m512i, u: __m512i, x: __m512i) -> __m512i {
        self.dot_small(p, u, x)
    }
    #[inline(always)]
    fn end_narrow(self, _acc: __m512i, p: __m512i) -> __m512i {
        p
    }
    #[inline(always)]
    fn dot_bytes(self, acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_dpbusd_epi32(acc, w, x) }
    }
    #[inline(always)]
    fn dot_bf16(self, acc: __m512, w: __m512i, x: __m512i) -> __m512 {
        if HAS_BF16 {
            // SAFETY: see above, and HAS_BF16 proves the instruction; the types differ in name alone.
            unsafe { dpbf16(acc, w, x) }
        } else {
            self.fma(self.odds(w), self.odds(x), self.fma(self.evens(w), self.evens(x), acc))
        }
    }
    #[inline(always)]
    fn evens(self, v: __m512i) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(v)) }
    }
    #[inline(always)]
    fn odds(self, v: __m512i) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32(0xffff_0000u32 as i32))) }
    }
    #[inline(always)]
    fn run<K: WideKernel>(self, kernel: K) -> K::Out {
        #[inline(never)] // a kernel within a kernel, which many share, is compiled once
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        fn plain<S: Wide, K: WideKernel>(isa: S, kernel: K) -> K::Out {
            kernel.run(isa)
        }
        #[inline(never)] // a kernel within a kernel, which many share, is compiled once
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c")]
        fn with_bf16<S: Wide, K: WideKernel>(isa: S, kernel: K) -> K::Out {
            kernel.run(isa)
        }
        // SAFETY: `self` proves the features that they are compiled for.
        unsafe { if HAS_BF16 { with_bf16(self, kernel) } else { plain(self, kernel) } }
    }
}

define_settled!(__m512, zmm_reg, "avx512f");

/// vdpbf16ps.
///
/// # Safety
/// The machine has AVX512_BF16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn dpbf16(acc: __m512, w: __m512i, x: __m512i) -> __m512 {
    // SAFETY: both types are 512 bits, whose meaning the instruction gives.
    unsafe {
        _mm512_dpbf16_ps(acc, std::mem::transmute::<__m512i, __m512bh>(w), std::mem::transmute::<__m512i, __m512bh>(x))
    }
}
