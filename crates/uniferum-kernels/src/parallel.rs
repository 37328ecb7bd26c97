//! Small helpers over rayon.

use std::ops::Range;

use rayon::prelude::*;

/// A raw pointer that may cross threads; whoever dereferences it promises disjointness.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut(*mut f32);

// SAFETY: the pointer is only dereferenced in `unsafe` blocks that name disjoint elements.
unsafe impl Send for SharedMut {}
// SAFETY: as above.
unsafe impl Sync for SharedMut {}

impl SharedMut {
    pub(crate) fn new(data: &mut [f32]) -> Self {
        Self(data.as_mut_ptr())
    }

    /// The pointer to element `at`.
    ///
    /// # Safety
    /// `at` must lie inside the slice that `self` was made from, which must still be alive.
    pub(crate) unsafe fn at(self, at: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(at) }
    }
}

/// The `part`th of `parts` nearly equal ranges that cover `0..n`.
pub(crate) fn part(n: usize, part: usize, parts: usize) -> Range<usize> {
    n * part / parts..n * (part + 1) / parts
}

/// Sums of `len` elements that tasks accumulate side by side: `f(task, sums)` for each task.
///
/// Tasks are dealt to a fixed number of lanes, so the result does not depend on scheduling
/// for a given number of threads.
pub(crate) fn accumulate(
    len: usize,
    tasks: usize,
    f: impl Fn(usize, &mut [f32]) + Sync,
) -> Vec<f32> {
    accumulate_init(len, tasks, || (), |(), task, sums| f(task, sums))
}

/// As [`accumulate`], with something of `init` that a lane's tasks use one after the other.
pub(crate) fn accumulate_init<S>(
    len: usize,
    tasks: usize,
    init: impl Fn() -> S + Sync,
    f: impl Fn(&mut S, usize, &mut [f32]) + Sync,
) -> Vec<f32> {
    let lanes = (2 * rayon::current_num_threads()).min(tasks).max(1);
    let partial: Vec<Vec<f32>> = (0..lanes)
        .into_par_iter()
        .map(|lane| {
            let (mut own, mut sums) = (init(), vec![0.0; len]);
            part(tasks, lane, lanes).for_each(|task| f(&mut own, task, &mut sums));
            sums
        })
        .collect();
    let mut partial = partial.into_iter();
    let mut total = partial.next().unwrap_or_else(|| vec![0.0; len]);
    for sums in partial {
        total.iter_mut().zip(&sums).for_each(|(t, s)| *t += s);
    }
    total
}
