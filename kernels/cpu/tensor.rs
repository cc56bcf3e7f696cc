//! Activations as this device keeps them.
use super::simd::{LINE, padded};
use crate::device::DeviceError;
use crate::host::Buffer;

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
        // An odd number of lines: columns of rows 4 KiB apart would drive each other out of the first-level cache.
        let stride = ((padded(width) / LINE) | 1) * LINE;
        let len = tokens.checked_mul(stride).ok_or(DeviceError::Memory { what: WHAT, bytes: usize::MAX })?;
        Ok(Self { width, stride, values: Buffer::zeroed(len, WHAT)? })
    }

    /// One token's, without the padding.
    #[inline(always)]
    pub(super) fn row(&self, token: usize) -> &[f32] {
        &self.values[token * self.stride..][..self.width]
    }
}
