//! Vectors of sixteen lanes: what matrix products and attention are written upon.
//!
//! A kernel is written once, for any [`Wide`], and compiled for each instruction set: AVX-512 has registers of sixteen
//! f32, AVX2 takes two, elsewhere the compiler makes what it can of arrays. Integer operations give the same everywhere;
//! sums of f32 may differ between sets in rounding, never between two runs of one.
use std::sync::atomic::{Ordering, compiler_fence};

use crate::narrow::{bf16_to_f32, f16_to_f32, f32_to_bf16};

/// A loop over at most twelve numbers that is unrolled, whatever its length: compilers leave long ones as they are, and what
/// an array of registers is indexed with must be known to keep it out of memory.
macro_rules! unrolled {
    ($i:ident in 0..$n:ident $body:block) => {{
        assert!($n <= 12, "a loop over at most twelve");
        $crate::cpu::simd::unrolled!(@ $i $n $body 0 1 2 3 4 5 6 7 8 9 10 11);
    }};
    (@ $i:ident $n:ident $body:block $($number:literal)*) => {
        $({
            let $i: usize = $number;
            if $i < $n $body
        })*
    };
}
pub(in crate::cpu) use unrolled;

/// Lanes of a vector.
pub(in crate::cpu) const WIDE: usize = 16;

/// An instruction set, sixteen lanes at a time. A value is the proof that the machine has it, which makes the methods safe.
pub(in crate::cpu) trait Wide: Copy + Send + Sync {
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen i32.
    type I: Copy;
    /// 64 bytes: sixteen groups of four, or sixteen pairs of bf16.
    type B: Copy;
    /// The same set, or what is left of it without BF16: two that differ in that alone share their integer kernels' code.
    type Integers: Wide;
    /// Sixteen sums of products of small numbers, not yet as wide as [`Wide::I`] where narrower ones are faster.
    type P: Copy;

    /// [`Wide::dot_bytes`] multiplies by `w + BYTE_OFFSET`, not by `w`.
    const BYTE_OFFSET: i32;
    /// [`Wide::dot_bf16`] is one instruction; elsewhere widening and two FMAs are faster, and exact.
    const BF16: bool;
    /// How many [`Wide::F`] registers hold at once: what a kernel keeps in its inner loop.
    const REGISTERS: usize;

    /// See [`Wide::Integers`].
    fn integers(self) -> Self::Integers;
    /// No instruction: what these were computed from is not needed after it, and what comes after it not before. Left alone,
    /// compilers load all that a loop's body needs as early as they can, compute late, and run out of registers.
    fn settle<const N: usize>(self, sums: &mut [Self::F; N]);
    /// The same for sums of integers, which compilers take in any order: each token's in one go, with all weights in registers.
    fn settle_integers<const N: usize>(self, sums: &mut [Self::I; N]);
    /// The same for narrow sums.
    fn settle_narrow<const N: usize>(self, sums: &mut [Self::P; N]);
    /// Asks for a cache line ahead of its use, into the second-level cache. Any address will do.
    fn prefetch(self, at: *const u8);
    /// The same for what is used shortly, and once: into the first-level cache where that measures faster.
    #[inline(always)]
    fn prefetch_near(self, at: *const u8) {
        self.prefetch(at);
    }
    /// Sixteen times `x`.
    fn splat(self, x: f32) -> Self::F;
    /// # Safety
    /// Sixteen f32 are readable.
    unsafe fn load(self, from: *const f32) -> Self::F;
    /// # Safety
    /// Sixteen f32 are writable.
    unsafe fn store(self, v: Self::F, to: *mut f32);
    /// Sixteen halves, widened.
    ///
    /// # Safety
    /// Sixteen u16 are readable.
    unsafe fn load_f16(self, from: *const u16) -> Self::F;
    /// Sixteen bf16, widened.
    ///
    /// # Safety
    /// Sixteen u16 are readable.
    unsafe fn load_bf16(self, from: *const u16) -> Self::F;
    /// As bf16, to nearest, ties to even.
    ///
    /// # Safety
    /// Sixteen u16 are writable.
    unsafe fn store_bf16(self, v: Self::F, to: *mut u16);
    /// `a + b`
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// The larger; `b` where `a` is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a - b`
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// To the nearest integer, ties to even.
    fn nearest(self, v: Self::F) -> Self::F;
    /// `a * 2^n` for integers `n` up to 127; subnormal or 0 where `n` is below -126. NaN stays NaN.
    fn times_power_of_two(self, a: Self::F, n: Self::F) -> Self::F;
    /// The largest lane; NaN lanes do not count.
    fn largest(self, v: Self::F) -> f32;
    /// The lanes' sum: halves added, then their halves, and so on.
    fn sum(self, v: Self::F) -> f32;
    /// Sixteen signed bytes, widened.
    ///
    /// # Safety
    /// Sixteen bytes are readable.
    unsafe fn load_i8(self, from: *const i8) -> Self::F;
    /// Sixteen rows of sixteen words of 32 bits, from byte `at` of each, into sixteen columns: row `i`'s word `j` goes to
    /// `to[j * stride + i]`.
    ///
    /// # Safety
    /// The rows are readable, and `to[15 * stride + 15]` and what is before it writable; words need no alignment.
    unsafe fn transpose(self, rows: &[*const u8; WIDE], at: usize, to: *mut u32, stride: usize);
    /// Sixteen pairs `(a[i], b[i])`.
    ///
    /// # Safety
    /// Sixteen u16 each are readable.
    unsafe fn zip(self, a: *const u16, b: *const u16) -> Self::B;
    /// # Safety
    /// 64 bytes are writable.
    unsafe fn store_bytes(self, v: Self::B, to: *mut u8);

    /// `2^x` for `x` up to 126, 0 where `x` is below -150; relative error 1e-4 of degree 3, 3e-6 of 4, 2e-7 of 5.
    #[inline(always)]
    fn exp2<const DEGREE: usize>(self, x: Self::F) -> Self::F {
        #[allow(clippy::approx_constant)] // close to ln 2, on purpose
        // c[0] f + c[1] f² + … + 1, the least relative error for |f| <= 1/2 of each degree.
        let c: &[f32] = match DEGREE {
            3 => &[0.693_282_9, 0.242_211, 0.055_008_937],
            4 => &[0.693_124_2, 0.240_241, 0.055_906_43, 0.009_582_854],
            5 => &[0.693_147, 0.240_222_42, 0.055_507_336, 0.009_671_513, 0.001_326_472_7],
            _ => panic!("degrees 3 to 5"),
        };
        let n = self.nearest(x);
        let f = self.sub(x, n);
        let mut p = self.splat(c[DEGREE - 1]);
        for c in c[..DEGREE - 1].iter().rev() {
            p = self.fma(p, f, self.splat(*c));
        }
        self.times_power_of_two(self.fma(p, f, self.splat(1.0)), n)
    }

    /// The largest magnitude; infinity or NaN where a lane is that.
    fn largest_magnitude(self, a: Self::F, b: Self::F) -> f32;
    /// Rounded to signed bytes, ties to even; gives their sum. Lanes are within -127 to 127, or the bytes mean nothing.
    ///
    /// # Safety
    /// Sixteen bytes are writable.
    unsafe fn store_i8(self, v: Self::F, to: *mut u8) -> i32;

    /// Sixteen times `x`.
    fn splat_i(self, x: i32) -> Self::I;
    /// As f32, to nearest.
    fn to_f32(self, v: Self::I) -> Self::F;

    /// # Safety
    /// 64 bytes are readable.
    unsafe fn load_bytes(self, from: *const u8) -> Self::B;
    /// Sixteen times four bytes.
    ///
    /// # Safety
    /// Four bytes are readable.
    unsafe fn splat_4(self, from: *const u8) -> Self::B;
    /// Each byte's lower four bits.
    fn low_nibbles(self, v: Self::B) -> Self::B;
    /// Each byte's upper four bits.
    fn high_nibbles(self, v: Self::B) -> Self::B;
    /// `acc + u[0] x[0] + … + u[3] x[3]` of each group, where `u` is 0 to 127 and `x` is signed, -127 to 127.
    fn dot_small(self, acc: Self::I, u: Self::B, x: Self::B) -> Self::I;
    /// Starts a narrow sum that [`Wide::end_narrow`] adds to `acc`.
    fn start_narrow(self, acc: Self::I) -> Self::P;
    /// `p + u[0] x[0] + … + u[3] x[3]` of each group; `x` is -127 to 127, and from start to end the largest `u` of each
    /// step sum to 127 or less.
    fn dot_narrow(self, p: Self::P, u: Self::B, x: Self::B) -> Self::P;
    /// `acc + p`, where `p` was started from `acc`.
    fn end_narrow(self, acc: Self::I, p: Self::P) -> Self::I;
    /// `acc + (w[0] + BYTE_OFFSET) x[0] + …` of each group; both signed, `x` -127 to 127. `w` is stored with `BYTE_OFFSET` added, modulo 256.
    fn dot_bytes(self, acc: Self::I, w: Self::B, x: Self::B) -> Self::I;
    /// `acc + w[0] x[0] + w[1] x[1]` of each pair of bf16; rounding is the set's own.
    fn dot_bf16(self, acc: Self::F, w: Self::B, x: Self::B) -> Self::F;
    /// The first of each pair of bf16.
    fn evens(self, v: Self::B) -> Self::F;
    /// The second of each pair of bf16.
    fn odds(self, v: Self::B) -> Self::F;

    /// Runs a kernel compiled for this set.
    fn run<K: WideKernel>(self, kernel: K) -> K::Out;
}

/// Code to compile for every instruction set. `run` is `#[inline(always)]`, and so is all it calls.
pub(in crate::cpu) trait WideKernel {
    /// What it gives.
    type Out;
    /// The code.
    fn run<S: Wide>(self, isa: S) -> Self::Out;
}

/// Arrays, which the compiler vectorises as it can.
impl Wide for super::portable::Portable {
    type F = [f32; WIDE];
    type I = [i32; WIDE];
    type B = [u8; 4 * WIDE];
    type P = [i32; WIDE];
    type Integers = Self;

    const BYTE_OFFSET: i32 = 0;
    const BF16: bool = false;
    /// Registers of four lanes: 32 on Arm, 16 elsewhere.
    const REGISTERS: usize = if cfg!(target_arch = "aarch64") { 8 } else { 4 };

    #[inline(always)]
    fn integers(self) -> Self {
        self
    }
    #[inline(always)]
    fn settle<const N: usize>(self, _: &mut [Self::F; N]) {
        compiler_fence(Ordering::SeqCst);
    }
    #[inline(always)]
    fn settle_integers<const N: usize>(self, _: &mut [Self::I; N]) {}
    #[inline(always)]
    fn settle_narrow<const N: usize>(self, _: &mut [Self::P; N]) {}
    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; WIDE]
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::F {
        // SAFETY: readable, by contract; arrays of f32 have its alignment.
        unsafe { *from.cast() }
    }
    #[inline(always)]
    unsafe fn store(self, v: Self::F, to: *mut f32) {
        // SAFETY: writable, by contract.
        unsafe { *to.cast() = v }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> Self::F {
        // SAFETY: readable, by contract.
        unsafe { *from.cast::<[u16; WIDE]>() }.map(f16_to_f32)
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> Self::F {
        // SAFETY: readable, by contract.
        unsafe { *from.cast::<[u16; WIDE]>() }.map(bf16_to_f32)
    }
    #[inline(always)]
    unsafe fn store_bf16(self, v: Self::F, to: *mut u16) {
        // SAFETY: writable, by contract.
        unsafe { *to.cast() = v.map(f32_to_bf16) }
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // Not fused: without the instruction, fusing is a call.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn nearest(self, v: Self::F) -> Self::F {
        // Adding 1.5 * 2^23 leaves no bits for a fraction; what is too large for that is an integer already.
        const ROUND: f32 = 12_582_912.0;
        v.map(|x| if x.abs() < 4_194_304.0 { (x + ROUND) - ROUND } else { x })
    }
    #[inline(always)]
    fn times_power_of_two(self, a: Self::F, n: Self::F) -> Self::F {
        // Comparisons rather than `max`, and a conversion that saturates: NaN must end as NaN, through `a`.
        let power = |n: f32| f32::from_bits(((if n > -127.0 { n } else { -127.0 }) as i32 + 127).cast_unsigned() << 23);
        std::array::from_fn(|i| a[i] * power(n[i]))
    }
    #[inline(always)]
    fn largest(self, v: Self::F) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, |best, x| if x > best { x } else { best })
    }
    #[inline(always)]
    fn sum(self, v: Self::F) -> f32 {
        let half: [f32; 8] = std::array::from_fn(|i| v[i] + v[8 + i]);
        let quarter: [f32; 4] = std::array::from_fn(|i| half[i] + half[4 + i]);
        (quarter[0] + quarter[2]) + (quarter[1] + quarter[3])
    }
    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> Self::F {
        // SAFETY: readable, by contract.
        unsafe { *from.cast::<[i8; WIDE]>() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn transpose(self, rows: &[*const u8; WIDE], at: usize, to: *mut u32, stride: usize) {
        for (i, row) in rows.iter().enumerate() {
            for j in 0..WIDE {
                // SAFETY: readable and writable, by contract.
                unsafe { to.add(j * stride + i).write_unaligned(row.add(at + 4 * j).cast::<u32>().read_unaligned()) }
            }
        }
    }
    #[inline(always)]
    unsafe fn zip(self, a: *const u16, b: *const u16) -> Self::B {
        let mut pairs = [0; 4 * WIDE];
        for (i, pair) in pairs.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            // SAFETY: readable, by contract.
            let (a, b) = unsafe { (a.add(i).read_unaligned(), b.add(i).read_unaligned()) };
            *pair = (u32::from(a) | (u32::from(b) << 16)).to_le_bytes();
        }
        pairs
    }
    #[inline(always)]
    unsafe fn store_bytes(self, v: Self::B, to: *mut u8) {
        // SAFETY: writable, by contract.
        unsafe { *to.cast() = v }
    }
    #[inline(always)]
    fn largest_magnitude(self, a: Self::F, b: Self::F) -> f32 {
        // As integers, magnitudes are ordered, infinity and NaN above all.
        let of = |v: Self::F| v.into_iter().fold(0, |largest, x| (x.to_bits() & 0x7fff_ffff).max(largest));
        f32::from_bits(of(a).max(of(b)))
    }
    #[inline(always)]
    unsafe fn store_i8(self, v: Self::F, to: *mut u8) -> i32 {
        // Adding 1.5 · 2^23 rounds to an integer, ties to even, and leaves it in the low bits.
        const ROUND: f32 = 12_582_912.0;
        let q = v.map(|x| (x + ROUND).to_bits() as u8);
        // SAFETY: writable, by contract.
        unsafe { *to.cast() = q };
        q.into_iter().fold(0, |sum, q| sum + i32::from(q as i8))
    }
    #[inline(always)]
    fn splat_i(self, x: i32) -> Self::I {
        [x; WIDE]
    }
    #[inline(always)]
    fn to_f32(self, v: Self::I) -> Self::F {
        v.map(|x| x as f32)
    }
    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> Self::B {
        // SAFETY: readable, by contract.
        unsafe { *from.cast() }
    }
    #[inline(always)]
    unsafe fn splat_4(self, from: *const u8) -> Self::B {
        // SAFETY: readable, by contract.
        let four = unsafe { *from.cast::<[u8; 4]>() };
        std::array::from_fn(|i| four[i % 4])
    }
    #[inline(always)]
    fn low_nibbles(self, v: Self::B) -> Self::B {
        v.map(|b| b & 15)
    }
    #[inline(always)]
    fn high_nibbles(self, v: Self::B) -> Self::B {
        v.map(|b| b >> 4)
    }
    #[inline(always)]
    fn dot_small(self, acc: Self::I, u: Self::B, x: Self::B) -> Self::I {
        self.dot_bytes(acc, u, x)
    }
    #[inline(always)]
    fn start_narrow(self, acc: Self::I) -> Self::P {
        acc
    }
    #[inline(always)]
    fn dot_narrow(self, p: Self::P, u: Self::B, x: Self::B) -> Self::P {
        self.dot_bytes(p, u, x)
    }
    #[inline(always)]
    fn end_narrow(self, _acc: Self::I, p: Self::P) -> Self::I {
        p
    }
    #[inline(always)]
    fn dot_bytes(self, acc: Self::I, w: Self::B, x: Self::B) -> Self::I {
        let product = |at: usize| i32::from(w[at] as i8) * i32::from(x[at] as i8);
        std::array::from_fn(|i| acc[i] + product(4 * i) + product(4 * i + 1) + product(4 * i + 2) + product(4 * i + 3))
    }
    #[inline(always)]
    fn dot_bf16(self, acc: Self::F, w: Self::B, x: Self::B) -> Self::F {
        self.fma(self.odds(w), self.odds(x), self.fma(self.evens(w), self.evens(x), acc))
    }
    #[inline(always)]
    fn evens(self, v: Self::B) -> Self::F {
        std::array::from_fn(|i| bf16_to_f32(u16::from_le_bytes([v[4 * i], v[4 * i + 1]])))
    }
    #[inline(always)]
    fn odds(self, v: Self::B) -> Self::F {
        std::array::from_fn(|i| bf16_to_f32(u16::from_le_bytes([v[4 * i + 2], v[4 * i + 3]])))
    }
    #[inline(always)]
    fn run<K: WideKernel>(self, kernel: K) -> K::Out {
        kernel.run(self)
    }
}

#[cfg(test)]
#[path = "wide_tests.rs"]
mod tests;
