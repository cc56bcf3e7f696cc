//! Half-precision conversions that a vectorising compiler can inline: the `half` crate's own detect the CPU at each call.

/// IEEE binary16 to f32, exact.
#[inline(always)]
pub(crate) fn f16_to_f32(h: u16) -> f32 {
    let magnitude = u32::from(h & 0x7fff) << 13;
    // Moving the exponent field by a multiplication rescales subnormals too.
    let scaled = f32::from_bits(magnitude) * f32::from_bits((254 - 15) << 23);
    let bits = if h & 0x7c00 == 0x7c00 { magnitude | 0x7f80_0000 } else { scaled.to_bits() };
    f32::from_bits(bits | (u32::from(h & 0x8000) << 16))
}

/// bfloat16 to f32, exact.
#[inline(always)]
pub(crate) fn bf16_to_f32(h: u16) -> f32 {
    f32::from_bits(u32::from(h) << 16)
}

/// f32 to bfloat16, to nearest, ties to even; NaN stays NaN.
#[inline(always)]
pub(crate) fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1))) >> 16;
    (if x.is_nan() { (bits >> 16) | 0x40 } else { rounded }) as u16
}

/// f32 to IEEE binary16, to nearest, ties to even; too large becomes infinite; NaN stays NaN.
#[inline(always)]
pub(crate) fn f32_to_f16(x: f32) -> u16 {
    let sign = (x.to_bits() >> 16) & 0x8000;
    let magnitude = x.to_bits() & 0x7fff_ffff;
    // Normal: move the exponent field and round off 13 bits; a carry walks into the exponent, up to infinity.
    let normal = (magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + ((magnitude >> 13) & 1))) >> 13;
    // Subnormal: adding 0.5 makes the FPU round at 2^-24, the last place of a subnormal half.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits() - 0.5f32.to_bits();
    let h = if magnitude > 0x7f80_0000 {
        0x7e00
    } else if magnitude >= 0x4780_0000 {
        0x7c00
    } else if magnitude < 0x3880_0000 {
        subnormal
    } else {
        normal
    };
    (h | sign) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_widens_as_the_half_crate_widens_it_and_comes_back() {
        for h in 0..=u16::MAX {
            let (f, b) = (half::f16::from_bits(h), half::bf16::from_bits(h));
            if f.is_nan() {
                assert!(f16_to_f32(h).is_nan());
                assert!(half::f16::from_bits(f32_to_f16(f16_to_f32(h))).is_nan());
            } else {
                assert_eq!(f16_to_f32(h).to_bits(), f32::from(f).to_bits(), "{h:#x}");
                assert_eq!(f32_to_f16(f16_to_f32(h)), h);
            }
            if b.is_nan() {
                assert!(bf16_to_f32(h).is_nan());
                assert!(half::bf16::from_bits(f32_to_bf16(bf16_to_f32(h))).is_nan());
            } else {
                assert_eq!(bf16_to_f32(h).to_bits(), f32::from(b).to_bits(), "{h:#x}");
                assert_eq!(f32_to_bf16(bf16_to_f32(h)), h);
            }
        }
    }

    #[test]
    fn narrowing_rounds_as_the_half_crate_rounds() {
        // A stride coprime to powers of two visits every exponent, and ties, at 2^20 places.
        for i in 0..1u32 << 20 {
            for bits in [i.wrapping_mul(4099), i << 12, (i << 12) | 0x1000, (i << 12) | 0xfff] {
                let x = f32::from_bits(bits);
                if !x.is_nan() {
                    assert_eq!(f32_to_f16(x), half::f16::from_f32(x).to_bits(), "{bits:#x}");
                    assert_eq!(f32_to_bf16(x), half::bf16::from_f32(x).to_bits(), "{bits:#x}");
                }
            }
        }
    }
}
