//! Zeroed memory aligned to cache lines.
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::device::DeviceError;

/// A cache line: a vector load from the start of a row never crosses one.
const ALIGN: usize = 64;

/// A plain number for which all-zero bytes are a value and no bytes are invalid.
///
/// # Safety
/// Implementors have no padding, no destructor, and are valid for every bit pattern.
pub(crate) unsafe trait Plain: Copy + Send + Sync + 'static {}
// SAFETY: primitive numbers.
unsafe impl Plain for f32 {}
// SAFETY: primitive numbers.
unsafe impl Plain for u16 {}
// SAFETY: primitive numbers.
unsafe impl Plain for u8 {}

/// A fixed slice of zeroed memory. Large ones take no physical memory until touched.
pub(crate) struct Buffer<T: Plain> {
    start: NonNull<T>,
    len: usize,
}

// SAFETY: the buffer owns its memory, as a Box<[T]> does, and T is Send and Sync.
unsafe impl<T: Plain> Send for Buffer<T> {}
// SAFETY: as above; shared access gives `&[T]` only.
unsafe impl<T: Plain> Sync for Buffer<T> {}

impl<T: Plain> Buffer<T> {
    /// `len` zeros; an error where the memory cannot be had.
    pub(crate) fn zeroed(len: usize, what: &'static str) -> Result<Self, DeviceError> {
        if len == 0 {
            return Ok(Self { start: NonNull::dangling(), len });
        }
        let Some(layout) = Self::layout(len) else {
            return Err(DeviceError::Memory { what, bytes: len.saturating_mul(size_of::<T>()) });
        };
        // SAFETY: the layout's size is not zero: len is not, and no Plain type is empty.
        let start = unsafe { alloc_zeroed(layout) };
        match NonNull::new(start.cast()) {
            Some(start) => Ok(Self { start, len }),
            None => Err(DeviceError::Memory { what, bytes: layout.size() }),
        }
    }

    fn layout(len: usize) -> Option<Layout> {
        Layout::array::<T>(len).ok()?.align_to(ALIGN).ok()
    }
}

impl<T: Plain> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.len > 0 {
            let layout = Self::layout(self.len).expect("it was allocated with this layout");
            // SAFETY: `zeroed` allocated it with this layout, and nothing else frees it.
            unsafe { dealloc(self.start.as_ptr().cast(), layout) }
        }
    }
}

impl<T: Plain> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `len` initialised elements that this buffer owns (dangling and 0 when empty).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroed_aligned_and_writable() {
        for len in [0, 1, 15, 1000] {
            let mut buffer = Buffer::<f32>::zeroed(len, "a test").unwrap();
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|&x| x == 0.0));
            assert!(len == 0 || buffer.as_ptr().addr().is_multiple_of(ALIGN));
            buffer.fill(2.0);
            assert_eq!(buffer.iter().sum::<f32>(), 2.0 * len as f32);
        }
    }

    #[test]
    fn what_cannot_be_had_is_an_error() {
        for len in [usize::MAX, isize::MAX as usize / 4, 1 << 60] {
            let error = Buffer::<f32>::zeroed(len, "the K/V cache").err().expect("more than any address space");
            assert!(error.to_string().contains("the K/V cache"), "{error}");
        }
    }
}
