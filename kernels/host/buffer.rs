//! Zeroed memory aligned to cache lines.
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::device::DeviceError;

/// A cache line: a vector load from the start of a row never crosses one.
const LINE: usize = 64;
/// A large page. Buffers that fill one start on one.
const HUGE: usize = 2 << 20;

/// A plain number for which all-zero bytes are a value and no bytes are invalid.
///
/// # Safety
/// Implementors have no padding, no destructor, and are valid for every bit pattern.
pub(crate) unsafe trait Plain: Copy + Send + Sync + 'static {}
// SAFETY: primitive numbers.
unsafe impl Plain for f32 {}
// SAFETY: primitive numbers.
unsafe impl Plain for u32 {}
// SAFETY: primitive numbers.
unsafe impl Plain for u16 {}
// SAFETY: primitive numbers.
unsafe impl Plain for u8 {}
// SAFETY: primitive numbers.
unsafe impl Plain for usize {}

/// A fixed slice of zeroed memory. Large ones take no physical memory until touched: so the allocator is asked for the
/// alignment that it gives anyway, and for more bytes; a larger alignment it would serve by writing the zeros itself.
pub(crate) struct Buffer<T: Plain> {
    /// What the allocator gave.
    memory: NonNull<u8>,
    /// The first line, or large page, within.
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
        let Some(layout) = Self::layout(len) else {
            return Err(DeviceError::Memory { what, bytes: len.saturating_mul(size_of::<T>()) });
        };
        // SAFETY: the layout's size is not zero: it has an alignment to spare.
        let Some(memory) = NonNull::new(unsafe { alloc_zeroed(layout) }) else {
            return Err(DeviceError::Memory { what, bytes: layout.size() });
        };
        let bytes = len * size_of::<T>();
        let skip = memory.as_ptr().align_offset(Self::align(bytes));
        assert!(skip < Self::align(bytes));
        // SAFETY: fewer bytes than the alignment that the layout has to spare.
        let start = unsafe { memory.add(skip) };
        ask_for_huge_pages(start, bytes);
        Ok(Self { memory, start: start.cast(), len })
    }

    fn align(bytes: usize) -> usize {
        if bytes < HUGE { LINE } else { HUGE }
    }

    fn layout(len: usize) -> Option<Layout> {
        let bytes = len.checked_mul(size_of::<T>())?;
        Layout::from_size_align(bytes.checked_add(Self::align(bytes))?, align_of::<T>()).ok()
    }
}

/// Asks for large pages from `start` on, as many as `bytes` fill: memory that is read from end to end in each step then
/// costs few page walks, and hardware that fetches ahead is not stopped every 4 KiB. A wish: the system may not grant it.
fn ask_for_huge_pages(start: NonNull<u8>, bytes: usize) {
    #[cfg(target_os = "linux")]
    if bytes >= HUGE {
        // SAFETY: within the allocation, from a page's start; the advice changes no content.
        unsafe { libc::madvise(start.as_ptr().cast(), bytes / HUGE * HUGE, libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, bytes);
}

impl<T: Plain> Drop for Buffer<T> {
    fn drop(&mut self) {
        let layout = Self::layout(self.len).expect("it was allocated with this layout");
        // SAFETY: `zeroed` allocated it with this layout, and nothing else frees it.
        unsafe { dealloc(self.memory.as_ptr(), layout) }
    }
}

impl<T: Plain> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `len` initialised elements that this buffer owns, aligned to a line.
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
        for len in [0, 1, 15, 1000, HUGE / 4 - 1, HUGE / 4, HUGE] {
            let mut buffer = Buffer::<f32>::zeroed(len, "a test").unwrap();
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|&x| x == 0.0));
            assert!(buffer.as_ptr().addr().is_multiple_of(if 4 * len < HUGE { LINE } else { HUGE }));
            buffer.fill(2.0);
            assert_eq!(buffer.iter().sum::<f32>(), 2.0 * len as f32); // exact: powers of two, and small numbers
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
