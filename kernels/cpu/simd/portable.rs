//! Arrays of eight, for a compiler to vectorise with what the target always has.
use super::{Isa, Kernel, LANES};
use crate::dtype::{Plain, Widen};

/// Every machine has it.
#[derive(Clone, Copy, Debug)]
pub(in crate::cpu) struct Portable;

impl Widen for Portable {
    #[inline(always)]
    fn half(self, h: u16) -> f32 {
        Plain.half(h)
    }

    #[inline(always)]
    fn halves(self, h: &[u8; 16], out: &mut [f32; LANES]) {
        Plain.halves(h, out);
    }

    #[inline(always)]
    fn times(self, q: &[i8; LANES], d: f32, out: &mut [f32; LANES]) {
        Plain.times(q, d, out);
    }

    #[inline(always)]
    fn times_plus(self, q: &[i8; LANES], d: f32, m: f32, out: &mut [f32; LANES]) {
        Plain.times_plus(q, d, m, out);
    }
}

impl Isa for Portable {
    type V = [f32; LANES];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        // SAFETY: eight f32 are readable, by contract; an array of f32 needs f32's alignment only.
        unsafe { from.cast::<[f32; LANES]>().read() }
    }

    #[inline(always)]
    fn store(self, v: Self::V, to: &mut [f32; LANES]) {
        *to = v;
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Fused where that is an instruction; elsewhere `mul_add` would be a call.
        let fused = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
        std::array::from_fn(|i| if fused { a[i].mul_add(b[i], c[i]) } else { a[i] * b[i] + c[i] })
    }

    #[inline(always)]
    fn sums(self, v: [Self::V; 4]) -> [f32; 4] {
        v.map(|v| ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7])))
    }

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Out {
        kernel.run(self)
    }
}
