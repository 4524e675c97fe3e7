//! Two kinds of buffer: [`Pages`], in large pages, for weights read again and again; [`Lines`], aligned to a cache
//! line, for vectors.
//!
//! Weights stream through the caches once for each token. In pages of 4 KiB every page boundary stops the
//! hardware's prefetching and costs an address lookup; in pages of 2 MiB nearly none does. The system is asked, not
//! told: where it refuses, this is ordinary memory.

use std::hint::black_box;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::allocation::try_zeroed_vec;
use bytemuck::{Pod, Zeroable};
use memmap2::MmapMut;

/// Size and alignment of a large page.
const LARGE: usize = 2 << 20;

/// A fixed number of values in large pages, zero at first.
#[derive(Debug)]
pub struct Pages<T> {
    bytes: MmapMut,
    /// Bytes before the first value.
    skip: usize,
    n: usize,
    values: PhantomData<T>,
}

impl<T: Pod> Pages<T> {
    /// `n` zeros; `None` if there is no memory for them.
    #[must_use]
    pub fn zeroed(n: usize) -> Option<Pages<T>> {
        let len = n.checked_mul(size_of::<T>())?.checked_add(LARGE)?;
        let bytes = MmapMut::map_anon(len).ok()?;
        // A refusal costs speed, nothing else.
        #[cfg(target_os = "linux")]
        let _ = bytes.advise(memmap2::Advice::HugePage);
        let skip = bytes.as_ptr().align_offset(LARGE).min(LARGE);
        Some(Pages { bytes, skip, n, values: PhantomData })
    }
}

impl<T: Pod> Deref for Pages<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        bytemuck::cast_slice(&self.bytes[self.skip..][..self.n * size_of::<T>()])
    }
}

impl<T: Pod> DerefMut for Pages<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.bytes[self.skip..][..self.n * size_of::<T>()])
    }
}

/// `n` zeros, in ordinary memory that comes from the system untouched; `None` if there is none.
#[must_use]
pub fn zeros<T: Zeroable>(n: usize) -> Option<Vec<T>> {
    try_zeroed_vec(n).ok()
}

/// Whether there is memory for `n` bytes now: asked before what would abort without it.
#[must_use]
pub fn has_room(n: usize) -> bool {
    // Memory that is taken for nothing might not be taken at all.
    black_box(zeros::<u8>(n)).is_some()
}

/// A cache line.
const LINE: usize = 64;

/// A buffer aligned to a cache line, so that reading it one line at a time never touches two at once.
#[derive(Debug, Default)]
pub struct Lines<T> {
    values: Vec<T>,
    /// Values before the first.
    skip: usize,
    n: usize,
}

impl<T: Pod> Lines<T> {
    /// `n` zeros, in memory that the system provides as it is first used; `None` if there is not enough.
    #[must_use]
    pub fn zeroed(n: usize) -> Option<Lines<T>> {
        const { assert!(LINE.is_multiple_of(size_of::<T>()), "values that fill lines") };
        let room = n.checked_add(LINE / size_of::<T>())?;
        let values = zeros::<T>(room)?;
        let skip = values.as_ptr().align_offset(LINE).min(LINE / size_of::<T>());
        Some(Lines { values, skip, n })
    }

    /// Sets the length. Contents are unspecified, or zeros if nothing was stored before.
    pub fn resize(&mut self, n: usize) {
        const { assert!(LINE.is_multiple_of(size_of::<T>()), "values that fill lines") };
        self.n = n;
        let room = n + LINE / size_of::<T>();
        if self.values.len() < room {
            self.values = vec![T::zeroed(); room];
            self.skip = self.values.as_ptr().align_offset(LINE).min(LINE / size_of::<T>());
        }
    }
}

impl<T> Deref for Lines<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.values[self.skip..][..self.n]
    }
}

impl<T> DerefMut for Lines<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.values[self.skip..][..self.n]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_begin_with_a_cache_line_and_keep_what_was_written() {
        let mut lines = Lines::<i8>::default();
        for n in [0, 1, 100, 63, 5000] {
            lines.resize(n);
            assert_eq!((lines.len(), lines.as_ptr() as usize % LINE * usize::from(n > 0)), (n, 0));
            lines.fill(7);
            assert!(lines.iter().all(|&v| v == 7));
        }
    }

    #[test]
    fn lines_of_zeros_begin_with_a_cache_line_and_may_be_refused() {
        for n in [0, 1, 1000, 1 << 20] {
            let lines = Lines::<u16>::zeroed(n).unwrap();
            assert_eq!((lines.len(), lines.as_ptr() as usize % LINE * usize::from(n > 0)), (n, 0));
            assert!(lines.iter().all(|&v| v == 0));
        }
        assert!(Lines::<u16>::zeroed(usize::MAX).is_none() && Lines::<u16>::zeroed(usize::MAX / 4).is_none());
    }

    #[test]
    fn values_start_at_zero_on_a_large_page_and_stay_as_written() {
        for n in [0, 1, 1000, LARGE + 3] {
            let mut pages = Pages::<u32>::zeroed(n).unwrap();
            assert_eq!((pages.len(), pages.as_ptr() as usize % LARGE), (n, 0));
            assert!(pages.iter().all(|&v| v == 0));
            pages.iter_mut().zip(7..).for_each(|(v, i)| *v = i);
            assert!(pages.iter().zip(7..).all(|(&v, i)| v == i));
        }
    }

    #[test]
    fn more_than_there_is_is_no_panic() {
        assert!(Pages::<u64>::zeroed(usize::MAX / 4).is_none());
        assert!(Pages::<u8>::zeroed(usize::MAX).is_none());
        assert!(zeros::<u8>(1 << 60).is_none() && zeros::<u64>(usize::MAX).is_none());
        assert!(has_room(1000) && !has_room(1 << 60));
    }
}
