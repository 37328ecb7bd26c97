//! Large arrays: huge pages, and reuse of what only lives inside a step.
//!
//! A training step makes and drops gigabytes of arrays. Fresh from the system each page of them
//! costs a fault, which together took a quarter of a step.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

/// Elements from which an array is worth keeping, or worth huge pages: 1 MiB.
const LARGE: usize = 1 << 18;

/// Elements of one task when an array is copied.
const CHUNK: usize = 1 << 16;

/// `n` zeros, on huge pages where the system has them and the array is large.
pub(crate) fn zeros(n: usize) -> Vec<f32> {
    let data = vec![0.0; n];
    if n >= LARGE {
        advise(data.as_ptr().cast(), size_of_val(&data[..]));
    }
    data
}

/// The system's allocator, which asks for huge pages for every large array.
///
/// For programs that make volumes of hundreds of megabytes: each small page of them costs a fault, a fifth of
/// the time in which a scan is prepared. Memory is taken as before; only Linux is asked.
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: uniferum_kernels::HugePages = uniferum_kernels::HugePages;
///
/// let volume = vec![0.0f32; 512 * 512 * 40];
/// assert_eq!(volume[512 * 512 * 40 - 1], 0.0);
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct HugePages;

impl HugePages {
    /// Bytes from which an array is worth huge pages: some of them.
    const LARGE: usize = 8 << 20;

    fn advised(start: *mut u8, len: usize) -> *mut u8 {
        if len >= Self::LARGE && !start.is_null() {
            advise(start, len);
        }
        start
    }
}

// SAFETY: every call is the system allocator's own; advice changes no memory.
unsafe impl GlobalAlloc for HugePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        Self::advised(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        Self::advised(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises; the memory is the system allocator's.
        unsafe { System.dealloc(start, layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as the caller promises; the memory is the system allocator's.
        Self::advised(unsafe { System.realloc(start, layout, size) }, size)
    }
}

/// A copy made by all threads.
pub(crate) fn copied(from: &[f32]) -> Vec<f32> {
    let mut to = zeros(from.len());
    copy(&mut to, from);
    to
}

fn copy(to: &mut [f32], from: &[f32]) {
    to.par_chunks_mut(CHUNK)
        .zip(from.par_chunks(CHUNK))
        .for_each(|(to, from)| to.copy_from_slice(from));
}

/// Asks for huge pages for `len` bytes; nothing is lost where the system refuses.
#[cfg(all(target_os = "linux", not(miri)))]
fn advise(start: *const u8, len: usize) {
    const PAGE: usize = 4096;
    let first = (start as usize).next_multiple_of(PAGE);
    let past = (start as usize + len) / PAGE * PAGE;
    if first < past {
        // SAFETY: whole pages inside memory that this process owns; the advice changes neither
        // their contents nor who may access them.
        unsafe { libc::madvise(first as *mut _, past - first, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
fn advise(_start: *const u8, _len: usize) {}

/// An array whose memory is kept for the next one of about its size.
///
/// Its contents are whatever the last user left.
pub(crate) struct Scratch {
    data: Vec<f32>,
    len: usize,
}

impl Scratch {
    pub(crate) fn new(n: usize) -> Self {
        let data = if n < LARGE {
            zeros(n)
        } else {
            pool().take(n).unwrap_or_else(|| zeros(n))
        };
        Self { data, len: n }
    }

    /// A copy.
    pub(crate) fn of(from: &[f32]) -> Self {
        let mut scratch = Self::new(from.len());
        copy(&mut scratch, from);
        scratch
    }

    pub(crate) fn zeroed(n: usize) -> Self {
        let mut scratch = Self::new(n);
        scratch.fill(0.0);
        scratch
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.data[..self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[..self.len]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        if data.len() >= LARGE {
            pool().give(data);
        }
    }
}

/// Gives memory that training keeps between steps back to the system.
///
/// It is never more than what one step had in use at a time. Evaluation of the encoder calls
/// this by itself.
pub fn release_memory() {
    let idle = std::mem::take(&mut pool().idle);
    drop(idle);
}

/// Arrays that nobody uses at present.
struct Pool {
    idle: Vec<Vec<f32>>,
    /// Elements in use, and the most that ever were.
    used: usize,
    most: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool {
    idle: Vec::new(),
    used: 0,
    most: 0,
});

/// A panic elsewhere leaves the pool whole.
fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// The smallest idle array of `n` to `2 n` elements. Without one there may be no more idle
    /// memory than keeps the whole below its peak.
    fn take(&mut self, n: usize) -> Option<Vec<f32>> {
        let fits = |data: &Vec<f32>| (n..=2 * n).contains(&data.len());
        let best = (0..self.idle.len())
            .filter(|i| fits(&self.idle[*i]))
            .min_by_key(|i| self.idle[*i].len());
        let found = best.map(|i| self.idle.swap_remove(i));
        self.used += found.as_ref().map_or(n, Vec::len);
        self.most = self.most.max(self.used);
        if found.is_none() {
            self.shrink();
        }
        found
    }

    fn give(&mut self, data: Vec<f32>) {
        self.used = self.used.saturating_sub(data.len());
        self.idle.push(data);
        self.shrink();
    }

    /// Drops idle arrays, the oldest first.
    fn shrink(&mut self) {
        let mut idle: usize = self.idle.iter().map(Vec::len).sum();
        while self.used + idle > self.most && !self.idle.is_empty() {
            idle -= self.idle.remove(0).len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_memory_is_found_again_and_bounded() {
        let mut pool = Pool {
            idle: Vec::new(),
            used: 0,
            most: 0,
        };
        let sizes = |pool: &Pool| pool.idle.iter().map(Vec::len).collect::<Vec<_>>();
        assert!(pool.take(100).is_none() && pool.take(60).is_none());
        pool.give(vec![0.0; 100]);
        pool.give(vec![0.0; 60]);
        assert_eq!(sizes(&pool), [100, 60]);
        // The best fit, and none that would be half empty.
        assert_eq!(pool.take(55).map(|d| d.len()), Some(60));
        assert!(pool.take(40).is_none());
        assert!(pool.used + sizes(&pool).iter().sum::<usize>() <= pool.most);
        pool.give(vec![0.0; 60]);
        pool.give(vec![0.0; 40]);
        assert!(sizes(&pool).iter().sum::<usize>() <= 160);
        assert_eq!(pool.used, 0);
    }

    #[test]
    fn arrays_have_the_asked_size_whatever_lies_beneath() {
        let n = LARGE + 5;
        let mut first = Scratch::new(n);
        first.fill(1.0);
        drop(first);
        assert_eq!(Scratch::new(n - 3).len(), n - 3);
        assert!(Scratch::zeroed(n - 3).iter().all(|v| *v == 0.0));
        assert_eq!(copied(&[1.0, 2.0]), [1.0, 2.0]);
        release_memory();
        assert!(zeros(n).iter().all(|v| *v == 0.0));
    }
}
