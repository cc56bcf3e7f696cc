//! Vectors as the machine at hand has them. A kernel is written once, for any [`Wide`], and compiled for each.
//!
//! Results of one instruction set are reproducible bit by bit; two sets may differ in rounding (fused or not).
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_wide;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
mod wide;

pub(super) use wide::{WIDE, Wide, WideKernel, unrolled};

/// Rows of scratch and activations start on cache lines: this many f32.
pub(super) const LINE: usize = 16;

/// A row of `width` elements, padded to whole cache lines. The padding is zero, so that kernels need no tails.
pub(super) const fn padded(width: usize) -> usize {
    width.next_multiple_of(LINE)
}

/// The instruction set to use.
#[derive(Clone, Copy, Debug)]
pub(super) enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(avx512::Avx512<true>),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512<false>),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    Portable(portable::Portable),
}

impl Level {
    /// The fastest that the machine has. Where Intel's processors have vdpbf16ps, one takes two cycles, in which four FMAs
    /// multiply twice as many pairs, widened (measured on Emerald Rapids: 85 GFLOP/s a core and 179); AMD's take one.
    pub(super) fn detect() -> Self {
        let all = Self::all();
        #[cfg(target_arch = "x86_64")]
        if let [Self::Avx512Bf16(_), plain, ..] = all[..]
            && avx512::is_intel()
        {
            return plain;
        }
        all[0]
    }

    /// All that the machine has, the best first.
    pub(super) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(avx512::Avx512::detect().map(Self::Avx512Bf16));
            all.extend(avx512::Avx512::detect().map(Self::Avx512));
            all.extend(avx2::Avx2::detect().map(Self::Avx2));
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
            Self::Avx512Bf16(_) => "AVX-512 with VNNI and BF16",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "AVX-512 with VNNI",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "AVX2",
            Self::Portable(_) => "portable",
        }
    }

    /// Whether the dot product of bf16 is an instruction: then activations are worth rounding to it.
    pub(super) fn has_bf16(self) -> bool {
        struct Asked;
        impl WideKernel for Asked {
            type Out = bool;
            #[inline(always)]
            fn run<S: Wide>(self, _: S) -> bool {
                S::BF16
            }
        }
        self.run(Asked)
    }

    /// Runs a kernel.
    #[inline]
    pub(super) fn run<K: WideKernel>(self, kernel: K) -> K::Out {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16(isa) => isa.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(isa) => isa.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(isa) => isa.run(kernel),
            Self::Portable(isa) => isa.run(kernel),
        }
    }
}
