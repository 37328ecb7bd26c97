//! Products of bf16 words by AMX, the matrix unit of Intel's processors since 2023.
//!
//! A tile of the unit takes the maps as they lie in memory: sixteen voxels with eight words each are
//! the rows of the left matrix, eight words of weights of sixteen outputs those of the right one. Four
//! such products run side by side, so that one hides the latency of the others.
//!
//! The compiler's stable intrinsics do not cover the unit, so that it is spoken to in assembly; the
//! system gives a process its registers on request.

use std::mem::MaybeUninit;

use super::format::BLOCK;
use crate::simd::Isa;

/// Voxels of a tile.
pub(super) const ROWS: usize = 16;
/// Tiles that are multiplied side by side.
pub(super) const TILES: usize = 4;
/// Voxels that all tiles hold.
pub(super) const VOXELS: usize = TILES * ROWS;
/// Words of a voxel's block of channels.
const WORDS: usize = BLOCK / 2;

/// Sums `[voxel][output]` of the tiles; only those of voxels that were multiplied are there to be read.
#[repr(C, align(64))]
pub(super) struct Sums(MaybeUninit<[f32; VOXELS * BLOCK]>);

impl Sums {
    pub(super) fn new() -> Self {
        Self(MaybeUninit::uninit())
    }

    pub(super) fn as_ptr(&self) -> *const f32 {
        self.0.as_ptr().cast()
    }

    fn as_mut_ptr(&mut self) -> *mut f32 {
        self.0.as_mut_ptr().cast()
    }
}

/// The two matrices of a product, apart from where the voxels lie.
#[derive(Clone, Copy)]
#[cfg_attr(
    not(all(target_arch = "x86_64", target_os = "linux")),
    allow(dead_code, reason = "nothing multiplies them there")
)]
pub(super) struct Factors {
    /// Words from one block of input channels to the next.
    pub(super) block_stride: usize,
    /// Words of the input channels.
    pub(super) inputs: usize,
    /// Weights `[input word][output]`.
    pub(super) weight: *const u32,
}

/// Multiplies `voxels` (at least one, at most [`VOXELS`]) neighbouring voxels from `x` on.
///
/// # Safety
/// `isa` must have tiles; the voxels and weights must be readable.
pub(super) unsafe fn neighbours(
    isa: Isa,
    x: *const u32,
    voxels: usize,
    factors: &Factors,
    sums: &mut Sums,
) {
    // The last tile overlaps the one before it rather than reach beyond the end.
    let last = voxels.saturating_sub(ROWS);
    let first = std::array::from_fn(|tile| (tile * ROWS).min(last));
    // SAFETY: the tiles lie inside the voxels and inside the sums.
    unsafe {
        let x = first.map(|voxel: usize| x.add(voxel * WORDS));
        let out = first.map(|voxel| sums.as_mut_ptr().add(voxel * BLOCK));
        multiply(isa, x, voxels.min(ROWS), factors, out);
    }
}

/// Multiplies `columns` (at least one, at most half of [`VOXELS`]) voxels of each of two rows; the
/// second row's sums begin in the middle.
///
/// # Safety
/// As for [`neighbours`].
pub(super) unsafe fn two_rows(
    isa: Isa,
    x: [*const u32; 2],
    columns: usize,
    factors: &Factors,
    sums: &mut Sums,
) {
    let second = ROWS.min(columns.saturating_sub(ROWS));
    let tiles = [(0, 0), (0, second), (1, 0), (1, second)];
    // SAFETY: the tiles lie inside the rows and inside the sums.
    unsafe {
        let from = tiles.map(|(side, column): (usize, usize)| x[side].add(column * WORDS));
        let out = tiles.map(|(side, column)| {
            let voxel = side * (VOXELS / 2) + column;
            sums.as_mut_ptr().add(voxel * BLOCK)
        });
        multiply(isa, from, columns.min(ROWS), factors, out);
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
unsafe fn multiply(
    _isa: Isa,
    _x: [*const u32; TILES],
    _rows: usize,
    _factors: &Factors,
    _out: [*mut f32; TILES],
) {
    unreachable!("no instruction set here has tiles");
}

/// Shapes of the eight tile registers, as the unit reads them.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
impl Shapes {
    /// Registers 0 to 3: sums; 4 and 5: voxels and weights of eight words; 6 and 7: the same of the
    /// `rest` words at the end.
    fn new(rows: usize, rest: usize) -> Self {
        let mut shapes = Self {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        let whole = 4 * BLOCK as u16;
        shapes.row_bytes[..8].fill(whole);
        shapes.row_bytes[4] = whole / 2;
        shapes.row_bytes[6] = 4 * rest as u16;
        shapes.rows[..8].fill(rows as u8);
        shapes.rows[5] = WORDS as u8;
        shapes.rows[7] = rest as u8;
        if rest == 0 {
            (shapes.row_bytes[6], shapes.rows[6]) = (0, 0);
            (shapes.row_bytes[7], shapes.rows[7]) = (0, 0);
        }
        shapes
    }
}

/// Multiplies `rows` voxels from each of four places.
///
/// # Safety
/// As for [`neighbours`]; every place of `out` must have room for `rows` times sixteen sums.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
unsafe fn multiply(
    isa: Isa,
    x: [*const u32; TILES],
    rows: usize,
    factors: &Factors,
    out: [*mut f32; TILES],
) {
    debug_assert!(isa.tiles());
    let rest = factors.inputs % WORDS;
    let shapes = Shapes::new(rows, rest);
    let [x0, x1, x2, x3] = x;
    // SAFETY: the caller's promise; the registers are given back before anything else may use them.
    unsafe {
        std::arch::asm!(
            "ldtilecfg [{t}]",
            "mov {t:e}, 64",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "test {whole}, {whole}",
            "jz 3f",
            "2:",
            "tileloadd tmm5, [{w} + {t}]",
            "tileloadd tmm4, [{x0} + {voxel}]",
            "tdpbf16ps tmm0, tmm4, tmm5",
            "tileloadd tmm4, [{x1} + {voxel}]",
            "tdpbf16ps tmm1, tmm4, tmm5",
            "tileloadd tmm4, [{x2} + {voxel}]",
            "tdpbf16ps tmm2, tmm4, tmm5",
            "tileloadd tmm4, [{x3} + {voxel}]",
            "tdpbf16ps tmm3, tmm4, tmm5",
            "add {x0}, {block}",
            "add {x1}, {block}",
            "add {x2}, {block}",
            "add {x3}, {block}",
            "add {w}, 512",
            "dec {whole}",
            "jnz 2b",
            "3:",
            "test {rest}, {rest}",
            "jz 4f",
            "tileloadd tmm7, [{w} + {t}]",
            "tileloadd tmm6, [{x0} + {voxel}]",
            "tdpbf16ps tmm0, tmm6, tmm7",
            "tileloadd tmm6, [{x1} + {voxel}]",
            "tdpbf16ps tmm1, tmm6, tmm7",
            "tileloadd tmm6, [{x2} + {voxel}]",
            "tdpbf16ps tmm2, tmm6, tmm7",
            "tileloadd tmm6, [{x3} + {voxel}]",
            "tdpbf16ps tmm3, tmm6, tmm7",
            "4:",
            "mov {x0}, [{out}]",
            "mov {x1}, [{out} + 8]",
            "mov {x2}, [{out} + 16]",
            "mov {x3}, [{out} + 24]",
            "tilestored [{x0} + {t}], tmm0",
            "tilestored [{x1} + {t}], tmm1",
            "tilestored [{x2} + {t}], tmm2",
            "tilestored [{x3} + {t}], tmm3",
            "tilerelease",
            t = inout(reg) &raw const shapes => _,
            voxel = in(reg) 4 * WORDS,
            block = in(reg) 4 * factors.block_stride,
            whole = inout(reg) factors.inputs / WORDS => _,
            rest = in(reg) rest,
            w = inout(reg) factors.weight => _,
            x0 = inout(reg) x0 => _,
            x1 = inout(reg) x1 => _,
            x2 = inout(reg) x2 => _,
            x3 = inout(reg) x3 => _,
            out = in(reg) out.as_ptr(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// Whether this processor has the unit for bf16 and the system lets this process use it.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) fn is_available() -> bool {
    use std::sync::OnceLock;
    /// `arch_prctl`'s request for registers that are not there from the start, and those of the tiles.
    const REQUEST: libc::c_ulong = 0x1023;
    const TILE_DATA: libc::c_ulong = 18;
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        // SAFETY: every processor with AVX-512 tells its features at leaf 7.
        #[allow(unused_unsafe, reason = "safe since Rust 1.94")]
        let features = unsafe { std::arch::x86_64::__cpuid_count(7, 0) }.edx;
        let (bf16, tile) = (features >> 22 & 1 == 1, features >> 24 & 1 == 1);
        // SAFETY: the call touches no memory of ours.
        bf16 && tile && unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) } == 0
    })
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(crate) fn is_available() -> bool {
    false
}
