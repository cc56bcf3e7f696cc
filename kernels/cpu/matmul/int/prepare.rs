//! Activations of eight bits: blocks of 32, each with its own scale.
use super::BLOCK;
use crate::cpu::simd::Wide;

/// Bytes of a block: integers, then five numbers.
pub(super) const RECORD: usize = BLOCK + 20;
/// Where a block's scale is.
pub(super) const SCALE: usize = 32;
/// Where scale times the sum of the integers is: what minima multiply.
pub(super) const SCALED_SUM: usize = 36;
/// Where -8 times the sum of the integers is: what a zero takes from a sum of products.
pub(super) const ZERO_SUM: usize = 40;
/// Where -128 times the sum of the integers is: what the offset of bytes takes, ready to be in all lanes at once.
pub(super) const BYTE_SUM: usize = 44;
/// Where -32 times the sum of the first sixteen is.
pub(super) const ZERO_SUM_FIRST: usize = 48;

/// The least magnitude that is worth a scale: below, a block is zeros.
const LEAST: f32 = 1e-30;

/// Quantises whole blocks. A block that holds an infinity or NaN has a scale that is none.
#[inline(always)]
pub(super) fn quantise<S: Wide>(isa: S, x: &[f32], out: &mut [u8]) {
    for (x, out) in x.as_chunks::<BLOCK>().0.iter().zip(out.as_chunks_mut::<RECORD>().0) {
        // SAFETY: twice sixteen f32.
        let (a, b) = unsafe { (isa.load(x.as_ptr()), isa.load(x[16..].as_ptr())) };
        let largest = isa.largest_magnitude(a, b);
        let scale = largest / 127.0;
        let inverse = isa.splat(if largest >= LEAST { 127.0 / largest } else { 0.0 });
        // SAFETY: twice sixteen bytes.
        let (first, second) = unsafe {
            let to = out.as_mut_ptr();
            (isa.store_i8(isa.mul(a, inverse), to), isa.store_i8(isa.mul(b, inverse), to.add(16)))
        };
        let sum = first + second;
        out[SCALE..][..4].copy_from_slice(&scale.to_ne_bytes());
        out[SCALED_SUM..][..4].copy_from_slice(&(scale * sum as f32).to_ne_bytes());
        out[ZERO_SUM..][..4].copy_from_slice(&(-8 * sum).to_ne_bytes());
        out[BYTE_SUM..][..4].copy_from_slice(&(-128 * sum).to_ne_bytes());
        out[ZERO_SUM_FIRST..][..4].copy_from_slice(&(-32 * first).to_ne_bytes());
    }
}
