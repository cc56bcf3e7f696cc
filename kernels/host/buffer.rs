//! Zeroed memory aligned to cache lines: a buffer of its own, or one of several in a pool.
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::device::DeviceError;

/// A cache line: a vector load from the start of a row never crosses one.
const LINE: usize = 64;
/// What the allocator gives anyway; more than any [`Plain`] type asks for.
const LEAST_ALIGN: usize = 8;
/// A large page. Buffers that fill one start on one.
pub(super) const HUGE: usize = 2 << 20;

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

/// Memory as the allocator gave it, zeroed. Large memory takes no physical one until touched: so the allocator is asked for the
/// alignment that it gives anyway, and for more bytes; a larger alignment it would serve by writing the zeros itself.
struct Chunk {
    memory: NonNull<u8>,
    layout: Layout,
    /// The first line, or large page, within.
    start: NonNull<u8>,
}

// SAFETY: a chunk owns its memory, and gives no access to it by itself.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Chunk {
    /// `bytes` zeros, aligned to a line, or a large page if they fill one; an error where the memory cannot be had.
    fn zeroed(bytes: usize, what: &'static str) -> Result<Self, DeviceError> {
        let align = if bytes < HUGE { LINE } else { HUGE };
        let layout = bytes.checked_add(align).and_then(|size| Layout::from_size_align(size, LEAST_ALIGN).ok());
        let layout = layout.ok_or(DeviceError::Memory { what, bytes })?;
        // SAFETY: the layout's size is not zero: it has an alignment to spare.
        let Some(memory) = NonNull::new(unsafe { alloc_zeroed(layout) }) else {
            return Err(DeviceError::Memory { what, bytes: layout.size() });
        };
        let skip = memory.as_ptr().align_offset(align);
        assert!(skip < align);
        // SAFETY: fewer bytes than the alignment that the layout has to spare.
        let start = unsafe { memory.add(skip) };
        ask_for_huge_pages(start, bytes);
        Ok(Self { memory, layout, start })
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: `zeroed` allocated it with this layout, and nothing else frees it.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) }
    }
}

/// A fixed slice of zeroed memory.
pub(crate) struct Buffer<T: Plain> {
    /// Where the slice lies; no other buffer has the same part of it.
    _chunk: Arc<Chunk>,
    start: NonNull<T>,
    len: usize,
}

// SAFETY: the buffer owns its part of the memory, as a Box<[T]> does, and T is Send and Sync.
unsafe impl<T: Plain> Send for Buffer<T> {}
// SAFETY: as above; shared access gives `&[T]` only.
unsafe impl<T: Plain> Sync for Buffer<T> {}

impl<T: Plain> Buffer<T> {
    /// `len` zeros; an error where the memory cannot be had.
    pub(crate) fn zeroed(len: usize, what: &'static str) -> Result<Self, DeviceError> {
        let chunk = Chunk::zeroed(Self::bytes(len, what)?, what)?;
        Ok(Self { start: chunk.start.cast(), _chunk: Arc::new(chunk), len })
    }

    fn bytes(len: usize, what: &'static str) -> Result<usize, DeviceError> {
        len.checked_mul(size_of::<T>()).ok_or(DeviceError::Memory { what, bytes: usize::MAX })
    }

    /// The memory that it lies in, where that is whole large pages from its start on.
    pub(super) fn memory(&self) -> Option<Memory> {
        let memory = Memory { _chunk: Arc::clone(&self._chunk), start: self.start.cast(), bytes: size_of_val(&**self) };
        (memory.bytes >= HUGE && memory.start.addr().get().is_multiple_of(HUGE)).then_some(memory)
    }
}

/// A buffer's memory, without access to what is in it, and kept from being freed.
pub(super) struct Memory {
    _chunk: Arc<Chunk>,
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it owns a share of the memory, and reads or writes none of it.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Has the system back the large pages that have some of `part` now, as the first write to them would. False where it
    /// cannot: Linux alone can, since 5.14.
    pub(super) fn populate(&self, part: Range<usize>) -> bool {
        let part = part.start / HUGE * HUGE..part.end.next_multiple_of(HUGE).min(self.bytes);
        assert!(part.start <= part.end, "{part:?} of {} bytes", self.bytes);
        #[cfg(target_os = "linux")]
        {
            let start = self.start.as_ptr().wrapping_add(part.start).cast();
            // SAFETY: from a page's start to the buffer's end at most; the advice changes no content, whoever reads or
            // writes it meanwhile.
            unsafe { libc::madvise(start, part.len(), libc::MADV_POPULATE_WRITE) == 0 }
        }
        #[cfg(not(target_os = "linux"))]
        false
    }
}

/// Memory for buffers that are read one after the other and stay: it puts them close together on large pages. A buffer alone has
/// large pages only for whole multiples of their size, and weights of many models are smaller than one.
#[derive(Default)]
pub(crate) struct Pool {
    chunk: Option<Arc<Chunk>>,
    /// The part of the chunk that no buffer has.
    free: Range<usize>,
}

impl Pool {
    /// Bytes that are asked for at once, at least. Larger than what glibc ever takes from its heap, where zeros are written.
    const CHUNK: usize = 34 << 20;

    /// As [`Buffer::zeroed`].
    pub(crate) fn zeroed<T: Plain>(&mut self, len: usize, what: &'static str) -> Result<Buffer<T>, DeviceError> {
        let bytes = Buffer::<T>::bytes(len, what)?;
        let chunk = match &self.chunk {
            Some(chunk) if bytes <= self.free.len() => Arc::clone(chunk),
            _ => {
                let size = bytes.max(Self::CHUNK).checked_next_multiple_of(HUGE);
                let size = size.ok_or(DeviceError::Memory { what, bytes })?;
                let chunk = Arc::new(Chunk::zeroed(size, what)?);
                self.free = 0..size;
                self.chunk.insert(chunk).clone()
            }
        };
        // SAFETY: the free part is within the chunk.
        let start = unsafe { chunk.start.add(self.free.start) };
        self.free.start = (self.free.start + bytes).next_multiple_of(LINE).min(self.free.end);
        Ok(Buffer { start: start.cast(), _chunk: chunk, len })
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
    use std::io::{Read, Seek, SeekFrom};

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
    fn memory_that_is_populated_is_there_and_says_what_it_said() {
        // More than glibc ever takes from its heap, where somebody may have written.
        const LAST: usize = 17 * HUGE;
        let mut buffer = Buffer::<u8>::zeroed(LAST + 5, "a test").unwrap();
        (buffer[3 * HUGE], buffer[LAST + 4]) = (3, 4);
        let memory = buffer.memory().expect("it fills large pages");
        if memory.populate(HUGE + 1..6 * HUGE - 1) && memory.populate(LAST..LAST + 5) {
            assert!((HUGE..6 * HUGE).step_by(4096).all(|at| is_present(&buffer[at]) != Some(false)));
        }
        assert_ne!(is_present(&buffer[6 * HUGE]), Some(true), "nobody asked for it");
        drop(memory);
        assert_eq!((buffer[3 * HUGE], buffer[LAST + 4]), (3, 4));
        assert_eq!(buffer.iter().map(|&x| usize::from(x)).sum::<usize>(), 7);
        assert!(Buffer::<u8>::zeroed(HUGE - 1, "a test").unwrap().memory().is_none());
    }

    /// Whether the system has memory for it, as proc_pid_pagemap(5) says where pages are of 4 KiB.
    fn is_present(byte: &u8) -> Option<bool> {
        const PAGE: u64 = 4096;
        let mut entry = [0; 8];
        let mut file = std::fs::File::open("/proc/self/pagemap").ok().filter(|_| cfg!(target_arch = "x86_64"))?;
        file.seek(SeekFrom::Start((&raw const *byte).addr() as u64 / PAGE * 8)).ok()?;
        file.read_exact(&mut entry).ok()?;
        Some(u64::from_ne_bytes(entry) >> 63 == 1)
    }

    #[test]
    fn buffers_of_a_pool_are_apart_and_outlive_it() {
        let mut pool = Pool::default();
        let lens = [1, 100, HUGE, 0, 7, Pool::CHUNK, 3, Pool::CHUNK - HUGE, 4096, 5];
        let mut buffers: Vec<Buffer<u8>> = lens.iter().map(|&len| pool.zeroed(len, "a test").unwrap()).collect();
        drop(pool);
        for (i, buffer) in buffers.iter_mut().enumerate() {
            assert!(buffer.iter().all(|&x| x == 0) && buffer.as_ptr().addr().is_multiple_of(LINE));
            buffer.fill(i as u8 + 1);
        }
        for (i, buffer) in buffers.iter().enumerate() {
            assert!(buffer.len() == lens[i] && buffer.iter().all(|&x| x == i as u8 + 1));
        }
        assert!(Pool::default().zeroed::<f32>(usize::MAX / 8, "weights").is_err());
    }

    #[test]
    fn what_cannot_be_had_is_an_error() {
        for len in [usize::MAX, isize::MAX as usize / 4, 1 << 60] {
            let error = Buffer::<f32>::zeroed(len, "the K/V cache").err().expect("more than any address space");
            assert!(error.to_string().contains("the K/V cache"), "{error}");
        }
    }
}
