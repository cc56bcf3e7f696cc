//! Sixteen lanes as two registers of AVX2.
use std::arch::x86_64::*;

use super::avx2::Avx2;
use super::wide::{WIDE, Wide, WideKernel};

/// Two registers.
type Two<T> = [T; 2];

/// `a * 2^n`. NaN as `n` becomes -127 (max gives its second operand); `a` is NaN then as well, and stays so.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn times_power_of_two(a: __m256, n: __m256) -> __m256 {
    // SAFETY: by contract.
    unsafe {
        let n = _mm256_cvtps_epi32(_mm256_max_ps(n, _mm256_set1_ps(-127.0)));
        let power = _mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127)));
        _mm256_mul_ps(a, _mm256_castsi256_ps(power))
    }
}

/// Defines `settled` for the registers of a set: see [`Wide::settle`].
macro_rules! define_settled {
    ($vector:ty, $register:ident, $feature:tt) => {
        /// The same value, which the compiler takes for another.
        ///
        /// # Safety
        /// The machine has the set.
        #[inline]
        #[target_feature(enable = $feature)]
        #[cfg_attr(miri, allow(unused_mut))]
        unsafe fn settled(mut v: $vector) -> $vector {
            // SAFETY: no instruction. It is said to touch memory, so that loads stay on their side of it.
            #[cfg(not(miri))]
            unsafe {
                std::arch::asm!("/* {} */", inout($register) v, options(nostack, preserves_flags));
            }
            v
        }
    };
}
pub(super) use define_settled;

define_settled!(__m256, ymm_reg, "avx2");

// SAFETY of all blocks below: `self` proves AVX2, FMA and F16C; pointers are readable or writable by the trait's contract.
impl Wide for Avx2 {
    type F = Two<__m256>;
    type I = Two<__m256i>;
    type B = Two<__m256i>;
    type P = Two<__m256i>;
    type Integers = Self;

    const BYTE_OFFSET: i32 = 0;
    const BF16: bool = false;
    const REGISTERS: usize = 8;

    #[inline(always)]
    fn integers(self) -> Self {
        self
    }
    #[inline(always)]
    fn settle<const N: usize>(self, sums: &mut [Self::F; N]) {
        for half in sums.as_flattened_mut() {
            // SAFETY: see above.
            *half = unsafe { settled(*half) };
        }
    }
    #[inline(always)]
    fn settle_integers<const N: usize>(self, sums: &mut [Self::I; N]) {
        for half in sums.as_flattened_mut() {
            // SAFETY: see above.
            *half = unsafe { here(*half) };
        }
    }
    /// Nothing: [`Wide::dot_narrow`] leaves no other order.
    #[inline(always)]
    fn settle_narrow<const N: usize>(self, _: &mut [Self::P; N]) {}
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: see above; a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        // SAFETY: see above.
        [unsafe { _mm256_set1_ps(x) }; 2]
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::F {
        // SAFETY: see above.
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
    }
    #[inline(always)]
    unsafe fn store(self, v: Self::F, to: *mut f32) {
        // SAFETY: see above.
        unsafe {
            _mm256_storeu_ps(to, v[0]);
            _mm256_storeu_ps(to.add(8), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> Self::F {
        // SAFETY: see above.
        unsafe { [_mm256_cvtph_ps(_mm_loadu_si128(from.cast())), _mm256_cvtph_ps(_mm_loadu_si128(from.add(8).cast()))] }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> Self::F {
        // SAFETY: see above.
        unsafe { [widen_bf16(_mm_loadu_si128(from.cast())), widen_bf16(_mm_loadu_si128(from.add(8).cast()))] }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, v: Self::F, to: *mut u16) {
        // SAFETY: see above. By arithmetic, as `narrow::f32_to_bf16`.
        unsafe {
            // packus works within halves of a register: put the quarters in order afterwards.
            let packed = _mm256_packus_epi32(round_bf16(v[0]), round_bf16(v[1]));
            _mm256_storeu_si256(to.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(packed));
        }
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: see above.
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: see above.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: see above.
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // SAFETY: see above.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: see above.
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn nearest(self, v: Self::F) -> Self::F {
        // SAFETY: see above.
        unsafe {
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
            [_mm256_round_ps::<NEAREST>(v[0]), _mm256_round_ps::<NEAREST>(v[1])]
        }
    }
    #[inline(always)]
    fn times_power_of_two(self, a: Self::F, n: Self::F) -> Self::F {
        // SAFETY: see above.
        unsafe { [times_power_of_two(a[0], n[0]), times_power_of_two(a[1], n[1])] }
    }
    #[inline(always)]
    fn largest(self, v: Self::F) -> f32 {
        // SAFETY: see above. Of each pair NaN gives way to the second operand, at first negative infinity.
        unsafe {
            let least = _mm256_set1_ps(f32::NEG_INFINITY);
            let v = _mm256_max_ps(v[0], _mm256_max_ps(v[1], least));
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        }
    }
    #[inline(always)]
    fn sum(self, v: Self::F) -> f32 {
        // SAFETY: see above.
        unsafe {
            let v = _mm256_add_ps(v[0], v[1]);
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> Self::F {
        // SAFETY: see above.
        unsafe {
            let (low, high) = (_mm_loadl_epi64(from.cast()), _mm_loadl_epi64(from.add(8).cast()));
            [_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(low)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high))]
        }
    }
    #[inline(always)]
    unsafe fn transpose(self, rows: &[*const u8; WIDE], at: usize, to: *mut u32, stride: usize) {
        for quarter in 0..4 {
            let (row, word) = (quarter / 2 * 8, quarter % 2 * 8);
            // SAFETY: see above: eight rows of eight words, a quarter of what is readable and writable.
            unsafe {
                // Loops, not closures: those are functions of their own, which without the features inline no instruction.
                let mut v = [_mm256_setzero_ps(); 8];
                for i in 0..8 {
                    v[i] = _mm256_loadu_ps(rows[row + i].add(at + 4 * word).cast());
                }
                // pairs[2 i + h]: words 4 q + 2 h and + 1 of rows 2 i and 2 i + 1, of each half q.
                let mut pairs = v;
                for i in 0..4 {
                    pairs[2 * i] = _mm256_unpacklo_ps(v[2 * i], v[2 * i + 1]);
                    pairs[2 * i + 1] = _mm256_unpackhi_ps(v[2 * i], v[2 * i + 1]);
                }
                // fours[4 i + w]: word 4 q + w of rows 4 i to 4 i + 3, of each half q.
                let mut fours = v;
                for i in [0, 1, 4, 5] {
                    let at = i / 4 * 4 + i % 2 * 2;
                    fours[at] = _mm256_shuffle_ps::<0b01_00_01_00>(pairs[i], pairs[i + 2]);
                    fours[at + 1] = _mm256_shuffle_ps::<0b11_10_11_10>(pairs[i], pairs[i + 2]);
                }
                for i in 0..4 {
                    let to = to.add((word + i) * stride + row);
                    let (low, high) = (fours[i], fours[4 + i]);
                    _mm256_storeu_ps(to.cast(), _mm256_permute2f128_ps::<0x20>(low, high));
                    _mm256_storeu_ps(to.add(4 * stride).cast(), _mm256_permute2f128_ps::<0x31>(low, high));
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn zip(self, a: *const u16, b: *const u16) -> Self::B {
        // SAFETY: see above.
        unsafe {
            let (a, b) = (_mm256_loadu_si256(a.cast()), _mm256_loadu_si256(b.cast()));
            // Pairs 0 to 3 and 8 to 11, then 4 to 7 and 12 to 15.
            let (low, high) = (_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b));
            [_mm256_permute2x128_si256::<0x20>(low, high), _mm256_permute2x128_si256::<0x31>(low, high)]
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, v: Self::B, to: *mut u8) {
        // SAFETY: see above.
        unsafe {
            _mm256_storeu_si256(to.cast(), v[0]);
            _mm256_storeu_si256(to.add(32).cast(), v[1]);
        }
    }
    #[inline(always)]
    fn largest_magnitude(self, a: Self::F, b: Self::F) -> f32 {
        // SAFETY: see above.
        unsafe {
            let first = _mm256_max_epu32(magnitude(a[0]), magnitude(a[1]));
            let second = _mm256_max_epu32(magnitude(b[0]), magnitude(b[1]));
            largest_bits(_mm256_max_epu32(first, second))
        }
    }
    #[inline(always)]
    unsafe fn store_i8(self, v: Self::F, to: *mut u8) -> i32 {
        // SAFETY: see above.
        unsafe {
            // Packing works within halves of a register: put the quarters in order between.
            let packed = _mm256_packs_epi32(_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1]));
            let ordered = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
            let q = _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256::<1>(ordered));
            _mm_storeu_si128(to.cast(), q);
            sum_bytes(q)
        }
    }
    #[inline(always)]
    fn splat_i(self, x: i32) -> Self::I {
        // SAFETY: see above.
        [unsafe { _mm256_set1_epi32(x) }; 2]
    }
    #[inline(always)]
    fn to_f32(self, v: Self::I) -> Self::F {
        // SAFETY: see above.
        unsafe { [_mm256_cvtepi32_ps(v[0]), _mm256_cvtepi32_ps(v[1])] }
    }
    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> Self::B {
        // SAFETY: see above.
        unsafe { [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())] }
    }
    #[inline(always)]
    unsafe fn splat_4(self, from: *const u8) -> Self::B {
        // SAFETY: see above; read unaligned.
        unsafe { [_mm256_set1_epi32(from.cast::<i32>().read_unaligned()); 2] }
    }
    #[inline(always)]
    fn low_nibbles(self, v: Self::B) -> Self::B {
        // SAFETY: see above.
        unsafe { [_mm256_and_si256(v[0], _mm256_set1_epi8(15)), _mm256_and_si256(v[1], _mm256_set1_epi8(15))] }
    }
    #[inline(always)]
    fn high_nibbles(self, v: Self::B) -> Self::B {
        // SAFETY: see above.
        unsafe {
            let mask = _mm256_set1_epi8(15);
            [_mm256_and_si256(_mm256_srli_epi16::<4>(v[0]), mask), _mm256_and_si256(_mm256_srli_epi16::<4>(v[1]), mask)]
        }
    }
    #[inline(always)]
    fn dot_small(self, acc: Self::I, u: Self::B, x: Self::B) -> Self::I {
        // SAFETY: see above. Pairs sum in i16: 2 · 127 · 127 fits.
        unsafe {
            [add_pairs(acc[0], _mm256_maddubs_epi16(u[0], x[0])), add_pairs(acc[1], _mm256_maddubs_epi16(u[1], x[1]))]
        }
    }
    #[inline(always)]
    fn start_narrow(self, _acc: Self::I) -> Self::P {
        // SAFETY: see above.
        [unsafe { _mm256_setzero_si256() }; 2]
    }
    #[inline(always)]
    fn dot_narrow(self, p: Self::P, u: Self::B, x: Self::B) -> Self::P {
        // SAFETY: see above. Sums of pairs stay in i16 to the end: 2 · 127 · 127 fits.
        unsafe {
            [
                here(_mm256_add_epi16(p[0], _mm256_maddubs_epi16(u[0], x[0]))),
                here(_mm256_add_epi16(p[1], _mm256_maddubs_epi16(u[1], x[1]))),
            ]
        }
    }
    #[inline(always)]
    fn end_narrow(self, acc: Self::I, p: Self::P) -> Self::I {
        // SAFETY: see above.
        unsafe { [add_pairs(acc[0], p[0]), add_pairs(acc[1], p[1])] }
    }
    #[inline(always)]
    fn dot_bytes(self, acc: Self::I, w: Self::B, x: Self::B) -> Self::I {
        // SAFETY: see above. |w| · (x with w's sign); pairs sum in i16: 2 · 128 · 127 fits.
        unsafe {
            [
                add_pairs(acc[0], _mm256_maddubs_epi16(_mm256_abs_epi8(w[0]), _mm256_sign_epi8(x[0], w[0]))),
                add_pairs(acc[1], _mm256_maddubs_epi16(_mm256_abs_epi8(w[1]), _mm256_sign_epi8(x[1], w[1]))),
            ]
        }
    }
    #[inline(always)]
    fn dot_bf16(self, acc: Self::F, w: Self::B, x: Self::B) -> Self::F {
        self.fma(self.odds(w), self.odds(x), self.fma(self.evens(w), self.evens(x), acc))
    }
    #[inline(always)]
    fn evens(self, v: Self::B) -> Self::F {
        // SAFETY: see above.
        unsafe {
            [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(v[0])), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(v[1]))]
        }
    }
    #[inline(always)]
    fn odds(self, v: Self::B) -> Self::F {
        // SAFETY: see above.
        unsafe {
            let upper = _mm256_set1_epi32(0xffff_0000u32 as i32);
            [_mm256_castsi256_ps(_mm256_and_si256(v[0], upper)), _mm256_castsi256_ps(_mm256_and_si256(v[1], upper))]
        }
    }
    #[inline(always)]
    fn run<K: WideKernel>(self, kernel: K) -> K::Out {
        #[inline(never)] // a kernel within a kernel, which many share, is compiled once
        #[target_feature(enable = "avx2,fma,f16c")]
        fn compiled<K: WideKernel>(isa: Avx2, kernel: K) -> K::Out {
            kernel.run(isa)
        }
        // SAFETY: `self` proves the features that `compiled` is compiled for.
        unsafe { compiled(self, kernel) }
    }
}

/// No instruction. Compilers see that sums of integers may be taken in any order, take each token's in one go, and so
/// need all weights of a block at once, more than there are registers: this says to compute the sum here.
#[inline]
#[target_feature(enable = "avx2")]
fn here(v: __m256i) -> __m256i {
    #[cfg(not(miri))]
    {
        let mut v = v;
        // SAFETY: it does nothing.
        unsafe { std::arch::asm!("/* {0} */", inout(ymm_reg) v, options(nomem, nostack, preserves_flags)) };
        v
    }
    #[cfg(miri)]
    v
}

/// The largest of eight integers that are bits of positive f32, as that f32.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn largest_bits(v: __m256i) -> f32 {
    let four = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let two = _mm_max_epu32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
    let one = _mm_max_epu32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two));
    f32::from_bits(_mm_cvtsi128_si32(one) as u32)
}

/// The sum of sixteen signed bytes.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sum_bytes(q: __m128i) -> i32 {
    // psadbw sums unsigned bytes, eight and eight: each is 128 more than the signed one.
    let sums = _mm_sad_epu8(_mm_xor_si128(q, _mm_set1_epi8(-128)), _mm_setzero_si128());
    _mm_cvtsi128_si32(sums) + _mm_extract_epi32::<2>(sums) - 16 * 128
}

// Helpers of two halves are functions, not closures: a closure is compiled without the set's instructions, and each of them
// is a call then.

/// Eight bf16, widened.
#[inline]
#[target_feature(enable = "avx2")]
fn widen_bf16(v: __m128i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(v)))
}

/// To bf16, in the lower half of each word.
#[inline]
#[target_feature(enable = "avx2")]
fn round_bf16(v: __m256) -> __m256i {
    let bits = _mm256_castps_si256(v);
    let upper = _mm256_srli_epi32::<16>(bits);
    let odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    let carried = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
    let quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
    _mm256_blendv_epi8(_mm256_srli_epi32::<16>(carried), quiet, nan)
}

/// `acc` and the sums of pairs of i16.
#[inline]
#[target_feature(enable = "avx2")]
fn add_pairs(acc: __m256i, pairs: __m256i) -> __m256i {
    _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
}

/// The bits without their sign.
#[inline]
#[target_feature(enable = "avx2")]
fn magnitude(v: __m256) -> __m256i {
    _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7fff_ffff))
}
