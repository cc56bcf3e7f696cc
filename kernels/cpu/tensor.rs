//! Activations as this device keeps them, and their rounding to the format of computation.
use super::simd::padded;
use crate::device::DeviceError;
use crate::dtype::DType;
use crate::host::Buffer;
use crate::narrow::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};

/// Activations, `[tokens, width]` in f32, rows padded with zeros to whole cache lines.
pub struct Tensor {
    pub(super) width: usize,
    pub(super) stride: usize,
    pub(super) values: Buffer<f32>,
}

impl Tensor {
    /// Zeros.
    pub(super) fn zeroed(tokens: usize, width: usize) -> Result<Self, DeviceError> {
        const WHAT: &str = "activations";
        let stride = padded(width);
        let len = tokens.checked_mul(stride).ok_or(DeviceError::Memory { what: WHAT, bytes: usize::MAX })?;
        Ok(Self { width, stride, values: Buffer::zeroed(len, WHAT)? })
    }

    /// One token's, without the padding.
    #[inline(always)]
    pub(super) fn row(&self, token: usize) -> &[f32] {
        &self.values[token * self.stride..][..self.width]
    }
}

/// Rounds to what `dtype` can hold.
#[inline(always)]
pub(super) fn round(dtype: DType, values: &mut [f32]) {
    match dtype {
        DType::F16 => values.iter_mut().for_each(|x| *x = f16_to_f32(f32_to_f16(*x))),
        DType::BF16 => values.iter_mut().for_each(|x| *x = bf16_to_f32(f32_to_bf16(*x))),
        _ => {}
    }
}
