//! Memory that is reused from call to call.

use std::sync::Mutex;

use super::format::BLOCK;

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; BLOCK]);

/// Words that start at a cache line.
#[derive(Default)]
pub(super) struct Buffer {
    lines: Vec<Line>,
}

impl Buffer {
    pub(super) fn from_fn(words: usize, f: impl Fn(usize) -> u32) -> Self {
        let lines = (0..words.div_ceil(BLOCK))
            .map(|line| Line(std::array::from_fn(|i| f(line * BLOCK + i))))
            .collect();
        Self { lines }
    }

    /// Makes room for that many words. What they hold is unspecified.
    pub(super) fn reserve(&mut self, words: usize) {
        let lines = words.div_ceil(BLOCK);
        if lines > self.lines.len() {
            // Not grown in place: the old contents need not be copied.
            self.lines = Vec::new();
            self.lines = vec![Line([0; BLOCK]); lines];
        }
    }

    pub(super) fn len(&self) -> usize {
        self.lines.len() * BLOCK
    }

    pub(super) fn bytes(&self) -> usize {
        self.len() * size_of::<u32>()
    }

    pub(super) fn as_ptr(&self) -> *const u32 {
        self.lines.as_ptr().cast()
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut u32 {
        self.lines.as_mut_ptr().cast()
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} words)", self.len())
    }
}

/// A pointer that may cross threads; whoever uses it promises disjoint elements.
#[derive(Debug)]
pub(super) struct Shared<T>(*mut T);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

// SAFETY: the pointer is only used in `unsafe` blocks that name disjoint elements.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(super) fn new(pointer: *mut T) -> Self {
        Self(pointer)
    }

    pub(super) fn get(self) -> *mut T {
        self.0
    }
}

/// The working memory of one call at a time.
///
/// It grows to what the largest volume needs and stays so: later calls with volumes no
/// larger allocate nothing.
#[derive(Debug, Default)]
pub struct Arena {
    /// Narrow maps between blocks, two in turns.
    pub(super) maps: [Buffer; 2],
    /// The depthwise convolutions' results.
    pub(super) wide: Buffer,
    /// Projection weights times the gates.
    pub(super) gated: Buffer,
    /// Sums of the wide maps: `[part of the volume][channel]`.
    pub(super) sums: Vec<f64>,
    pub(super) hidden: Vec<f32>,
    pub(super) gates: Vec<f32>,
    /// One for each thread.
    pub(super) scratch: Vec<Mutex<Buffer>>,
}

impl Arena {
    /// An arena without memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let buffers = [&self.maps[0], &self.maps[1], &self.wide, &self.gated];
        let scratch = self.scratch.iter().map(|b| lock(b).bytes());
        let vectors =
            8 * self.sums.capacity() + 4 * (self.hidden.capacity() + self.gates.capacity());
        buffers.iter().map(|b| b.bytes()).sum::<usize>() + scratch.sum::<usize>() + vectors
    }

    pub(super) fn reserve_scratch(&mut self, threads: usize, words: usize) {
        if self.scratch.len() < threads {
            self.scratch.resize_with(threads, Mutex::default);
        }
        for buffer in &self.scratch {
            lock(buffer).reserve(words);
        }
    }
}

/// Locks; scratch memory has no state that a panic could spoil.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
