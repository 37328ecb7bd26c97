//! How activations and weights lie in memory.
//!
//! Everything is measured in 32-bit *words*. A map of `C` channels is cut into blocks of
//! sixteen channels; a block holds its voxels one after the other, each with its sixteen
//! channels side by side: sixteen words in `f32`, eight in bf16.
//!
//! ```text
//! map     [block][voxel][word]              word = 1 channel (f32) or 2 (bf16)
//! matrix  [block of outputs][word of inputs][output]
//! lines   [row / PACK][column][channel]     word = 1 row (f32) or 2 rows (bf16)
//! ```
//!
//! *Lines* are the wide activations between expansion and depthwise convolution. In bf16
//! they pair neighbouring rows, because the processor multiplies and adds pairs: three taps
//! along the height cost two such operations, five cost three.

use crate::simd::Lanes;

/// Channels in a block.
pub(super) const BLOCK: usize = 16;

/// A storage format of activations and weights; sums are always in single precision.
pub(super) trait Format: Send + Sync + 'static {
    /// Numbers in a word.
    const PACK: usize;
    /// Words of one voxel's block of channels.
    const WORDS: usize = BLOCK / Self::PACK;

    /// `acc + x * w`, over both halves of the words in bf16.
    ///
    /// # Safety
    /// As for [`Lanes`], here and below.
    unsafe fn mul_add<L: Lanes>(acc: L::F, x: L::W, w: L::W) -> L::F;
    /// The sixteen channels of a voxel.
    unsafe fn load<L: Lanes>(from: *const u32) -> L::F;
    /// Writes the sixteen channels of a voxel.
    unsafe fn store<L: Lanes>(to: *mut u32, v: L::F);
    /// As [`store`](Self::store) past the caches.
    unsafe fn stream<L: Lanes>(to: *mut u32, v: L::F);
    /// Writes two rows of lines, which start `stride` words apart.
    unsafe fn store_rows<L: Lanes>(to: *mut u32, stride: usize, rows: [L::F; 2]);
    /// The activation function, as exactly as the format can hold it.
    unsafe fn silu<L: Lanes>(v: L::F) -> L::F;
    /// Weights of input `i`, or of inputs `2 i` and `2 i + 1`, from consecutive rows.
    unsafe fn pack<L: Lanes>(rows: [L::F; 2]) -> L::W;
}

/// Single precision.
pub(super) struct F32;

/// Brain floating point, half the size with the range of single precision.
pub(super) struct Bf16;

// SAFETY of all unsafe blocks in both: the caller's promise.
impl Format for F32 {
    const PACK: usize = 1;

    #[inline(always)]
    unsafe fn mul_add<L: Lanes>(acc: L::F, x: L::W, w: L::W) -> L::F {
        // SAFETY: see above.
        unsafe { L::mul_add(L::floats(x), L::floats(w), acc) }
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const u32) -> L::F {
        // SAFETY: see above.
        unsafe { L::load(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store<L: Lanes>(to: *mut u32, v: L::F) {
        // SAFETY: see above.
        unsafe { L::store(to.cast(), v) }
    }

    #[inline(always)]
    unsafe fn stream<L: Lanes>(to: *mut u32, v: L::F) {
        // SAFETY: see above.
        unsafe { L::stream(to.cast(), v) }
    }

    #[inline(always)]
    unsafe fn store_rows<L: Lanes>(to: *mut u32, stride: usize, rows: [L::F; 2]) {
        // SAFETY: see above.
        unsafe {
            L::store(to.cast(), rows[0]);
            L::store(to.add(stride).cast(), rows[1]);
        }
    }

    #[inline(always)]
    unsafe fn silu<L: Lanes>(v: L::F) -> L::F {
        // SAFETY: see above.
        unsafe { L::silu(v) }
    }

    #[inline(always)]
    unsafe fn pack<L: Lanes>(rows: [L::F; 2]) -> L::W {
        // SAFETY: see above.
        unsafe { L::words(rows[0]) }
    }
}

impl Format for Bf16 {
    const PACK: usize = 2;

    #[inline(always)]
    unsafe fn mul_add<L: Lanes>(acc: L::F, x: L::W, w: L::W) -> L::F {
        // SAFETY: see above.
        unsafe { L::dot(acc, x, w) }
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const u32) -> L::F {
        // SAFETY: see above.
        unsafe { L::load_bf16(from) }
    }

    #[inline(always)]
    unsafe fn store<L: Lanes>(to: *mut u32, v: L::F) {
        // SAFETY: see above.
        unsafe { L::store_bf16(to, v) }
    }

    #[inline(always)]
    unsafe fn stream<L: Lanes>(to: *mut u32, v: L::F) {
        // SAFETY: see above.
        unsafe { L::stream_bf16(to, v) }
    }

    #[inline(always)]
    unsafe fn store_rows<L: Lanes>(to: *mut u32, _stride: usize, rows: [L::F; 2]) {
        // SAFETY: see above.
        unsafe { L::store_words(to, L::pair(rows[0], rows[1])) }
    }

    #[inline(always)]
    unsafe fn silu<L: Lanes>(v: L::F) -> L::F {
        // SAFETY: see above.
        unsafe { L::silu_short(v) }
    }

    #[inline(always)]
    unsafe fn pack<L: Lanes>(rows: [L::F; 2]) -> L::W {
        // SAFETY: see above.
        unsafe { L::pair(rows[0], rows[1]) }
    }
}
