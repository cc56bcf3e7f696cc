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
    #[should_panic(expected = "60 + 5 of 64")]
    fn bounds_are_checked() {
        let mut values = vec![0; 64];
        // SAFETY: the only part.
        unsafe { Shared::new(&mut values).part(60, 5) };
    }
}
