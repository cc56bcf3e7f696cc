//! A slice that threads write at once, each its own part.
use std::marker::PhantomData;

/// `&mut [T]`, handed to a team of threads: bounds are checked, that parts are disjoint is for its users to say.
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a `&mut [T]` whose parts are handed out by an unsafe method; its contract keeps them disjoint.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// Takes the slice for as long as it is shared.
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), owner: PhantomData }
    }

    /// The elements `at .. at + len`.
    ///
    /// # Safety
    /// While the result lives, nobody else holds a part that overlaps it.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // the contract above is what makes it sound
    pub(crate) unsafe fn part(&self, at: usize, len: usize) -> &mut [T] {
        assert!(len <= self.len && at <= self.len - len, "{at} + {len} of {}", self.len);
        // SAFETY: within the slice, as just checked; exclusive by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}

impl<T> Shared<'_, T> {
    /// Where an element is, or would be: for prefetches.
    #[inline(always)]
    pub(crate) fn address(&self, at: usize) -> *const T {
        self.start.wrapping_add(at)
    }

    /// `count` parts of `len` elements, the first at `at`, each `stride` after the one before.
    ///
    /// # Safety
    /// While any of them lives, nobody else holds a part that overlaps it.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // the contract above is what makes it sound
    pub(crate) unsafe fn strided(
        &self,
        at: usize,
        len: usize,
        stride: usize,
        count: usize,
    ) -> impl Iterator<Item = &mut [T]> {
        assert!(len <= stride, "parts of {len} every {stride} overlap");
        let end = count.checked_sub(1).map_or(at, |last| at + last * stride + len);
        assert!(end <= self.len, "{at} … {end} of {}", self.len);
        // SAFETY: within the slice, as just checked; apart from each other, and exclusive by this function's contract.
        (0..count).map(move |i| unsafe { std::slice::from_raw_parts_mut(self.start.add(at + i * stride), len) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_write_their_parts() {
        let mut values = vec![0; 64];
        let shared = Shared::new(&mut values);
        std::thread::scope(|scope| {
            for i in 0..4 {
                let shared = &shared;
                // SAFETY: the parts 16 i .. 16 i + 16 are disjoint.
                scope.spawn(move || unsafe { shared.part(16 * i, 16) }.fill(i));
            }
        });
        assert!(values.iter().enumerate().all(|(at, &v)| v == at / 16));
    }

    #[test]
    fn parts_may_lie_between_others() {
        let mut values = vec![0; 12];
        let shared = Shared::new(&mut values);
        for i in 0..2 {
            // SAFETY: even parts, then odd ones.
            unsafe { shared.strided(2 * i, 2, 4, 3) }.for_each(|part| part.fill(i + 1));
        }
        assert_eq!(values, [1, 1, 2, 2, 1, 1, 2, 2, 1, 1, 2, 2]);
    }

    #[test]
    #[should_panic(expected = "13 of 12")]
    fn bounds_of_all_parts_are_checked() {
        let mut values = vec![0; 12];
        let shared = Shared::new(&mut values);
        // SAFETY: the only parts.
        let _ = unsafe { shared.strided(3, 2, 4, 3) }.count();
    }

    #[test]
    #[should_panic(expected = "60 + 5 of 64")]
    fn bounds_are_checked() {
        let mut values = vec![0; 64];
        // SAFETY: the only part.
        unsafe { Shared::new(&mut values).part(60, 5) };
    }
}
