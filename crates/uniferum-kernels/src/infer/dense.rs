//! The linear maps of a transformer in evaluation, for many rows at a time.
//!
//! Rows are cut into pieces that fit the second-level cache. A piece is packed as a narrow map
//! is, its rows standing for voxels, and runs through the kernels of the 1x1x1 convolutions.
//! Weights are packed in each call, by all threads: for as many rows as come here that is little,
//! and nothing has to be kept in step with weights that may change.

use std::ops::Range;

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::arena::{Buffer, Shared};
use super::format::{BLOCK, Bf16, F32, Format};
use super::pack;
use super::project::{Projection, plain, plain_many};
use super::spec::Precision;
use crate::error::invalid;
use crate::gelu::gelu;
use crate::host;
use crate::memory::zeros;
use crate::simd::{Isa, Lanes, Simd, lane_dispatch};

const OP: &str = "dense";

/// Rows of a piece, a multiple of what is multiplied at a time.
const ROWS: usize = 128;

/// Blocks of outputs that are multiplied together.
const TOGETHER: usize = 4;

/// Fewest rows that are worth packing a weight for.
const WORTH: usize = 64;

/// Weight `[N, K]` and bias `[N]` of a linear map.
#[derive(Debug, Clone, Copy)]
pub struct DenseLayer<'a> {
    /// `[N, K]`.
    pub weight: &'a Tensor,
    /// `[N]`.
    pub bias: &'a Tensor,
}

/// Linear maps one after the other, with [`gelu_erf`](crate::gelu_erf) between them, without a
/// graph: what [`linear`](crate::linear) gives, faster for many rows, and much faster in
/// [`Precision::Bf16`] on processors with AVX512-BF16.
///
/// In bf16 inputs and weights are rounded, sums stay in single precision. A few rows, and rows on a
/// GPU, are always computed in single precision, by [`linear`](crate::linear).
///
/// # Shapes
/// `x` `[..., K]`; the result is `[..., N]` with the last layer's `N`.
///
/// # Errors
/// When the shapes do not fit together or there is no layer, or for tensors that are not `f32`.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use uniferum_kernels::infer::{DenseLayer, Precision, dense};
/// # fn main() -> candle_core::Result<()> {
/// let ones = |dims: &[usize]| Tensor::ones(dims, DType::F32, &Device::Cpu);
/// let (x, weight, bias) = (ones(&[100, 8])?, ones(&[3, 8])?, ones(&[3])?);
/// let layer = DenseLayer { weight: &weight, bias: &bias };
/// let y = dense(&x, &[layer], Precision::Bf16)?;
/// assert_eq!(y.to_vec2::<f32>()?, vec![vec![9.0; 3]; 100]);
/// # Ok(()) }
/// ```
pub fn dense(x: &Tensor, layers: &[DenseLayer<'_>], precision: Precision) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    let mut width = dims.pop().unwrap_or(0);
    let inputs = width;
    for layer in layers {
        let (n, k) = layer.weight.dims2()?;
        if k != width || k == 0 || n == 0 || layer.bias.dims() != [n] {
            let got = format!("weight [{n}, {k}], bias {:?}", layer.bias.dims());
            return Err(invalid(OP, "layer", format!("[N, {width}], [N]"), got).into());
        }
        width = n;
    }
    if layers.is_empty() {
        return Err(invalid(OP, "layers", "at least one", 0).into());
    }
    let rows = x.elem_count() / inputs;
    if rows < WORTH || !x.device().is_cpu() {
        return plainly(x, layers);
    }
    dims.push(width);
    let x = x.contiguous()?;
    let y = match precision {
        Precision::F32 => run::<F32>(&x, layers, rows, width)?,
        Precision::Bf16 => run::<Bf16>(&x, layers, rows, width)?,
    };
    Ok(host::tensor(y, dims))
}

/// By the differentiable operations.
fn plainly(x: &Tensor, layers: &[DenseLayer<'_>]) -> Result<Tensor> {
    let mut x = x.detach();
    for (i, layer) in layers.iter().enumerate() {
        if i > 0 {
            x = crate::gelu_erf(&x)?;
        }
        x = crate::linear(&x, &layer.weight.detach(), &layer.bias.detach())?;
    }
    Ok(x)
}

/// A layer in the order in which the kernels read it.
struct Packed {
    inputs: usize,
    outputs: usize,
    weight: Buffer,
    bias: Vec<f32>,
}

fn run<F: Format>(
    x: &Tensor,
    layers: &[DenseLayer<'_>],
    rows: usize,
    width: usize,
) -> Result<Vec<f32>> {
    let isa = Isa::new(Simd::detect());
    let pack = |layer: &DenseLayer<'_>| {
        let (outputs, inputs) = layer.weight.dims2()?;
        let weight = host::with_f32(OP, [&layer.weight.contiguous()?], |[w]| {
            pack_matrix::<F>(isa, w, outputs, inputs)
        })?;
        let bias = host::with_f32(OP, [&layer.bias.contiguous()?], |[b]| pack::padded(b))?;
        Ok(Packed {
            inputs,
            outputs,
            weight,
            bias,
        })
    };
    let layers: Vec<Packed> = layers.iter().map(pack).collect::<Result<_>>()?;
    host::with_f32(OP, [x], |[x]| {
        let inputs = layers[0].inputs;
        let mut y = zeros(rows * width);
        // Pieces of nearly the same size, so that no thread waits for a last one.
        let share = rows.div_ceil(rows.div_ceil(ROWS)).next_multiple_of(16);
        y.par_chunks_mut(share * width)
            .zip(x.par_chunks(share * inputs))
            .for_each_init(Piece::default, |piece, (y, x)| {
                piece.run::<F>(isa, &layers, x, y);
            });
        y
    })
}

/// A thread's buffers for some rows.
#[derive(Default)]
struct Piece {
    /// Two maps in turns.
    maps: [Buffer; 2],
    /// Some blocks of outputs, `[block][row][lane]`.
    blocks: Vec<f32>,
}

impl Piece {
    fn run<F: Format>(&mut self, isa: Isa, layers: &[Packed], x: &[f32], y: &mut [f32]) {
        let rows = x.len() / layers[0].inputs;
        self.blocks.resize(TOGETHER * rows * BLOCK, 0.0);
        self.load::<F>(isa, x, layers[0].inputs, rows);
        for (i, layer) in layers.iter().enumerate() {
            let last = i + 1 == layers.len();
            let next = layer.outputs.div_ceil(BLOCK) * rows * F::WORDS;
            self.maps[1].reserve(next);
            let blocks = layer.outputs.div_ceil(BLOCK);
            for first in (0..blocks).step_by(TOGETHER) {
                let group = first..blocks.min(first + TOGETHER);
                self.multiply::<F>(isa, layer, group.clone(), rows);
                for (block, pre) in group.zip(self.blocks.chunks_exact_mut(rows * BLOCK)) {
                    if last {
                        store(pre, y, layer.outputs, block);
                        continue;
                    }
                    gelu_in_place(isa.simd(), pre);
                    // SAFETY: the map has room for this block of `rows` voxels.
                    unsafe {
                        let to = self.maps[1].as_mut_ptr().add(block * rows * F::WORDS);
                        pack_rows::<F>(isa, pre.as_ptr(), BLOCK, rows, to);
                    }
                }
            }
            self.maps.swap(0, 1);
        }
    }

    /// Packs rows of `x`.
    fn load<F: Format>(&mut self, isa: Isa, x: &[f32], inputs: usize, rows: usize) {
        self.maps[0].reserve(inputs.div_ceil(BLOCK) * rows * F::WORDS);
        for block in 0..inputs.div_ceil(BLOCK) {
            let start = block * BLOCK;
            // SAFETY: the map has room for this block; whole blocks are read inside the rows,
            // and the last one from a copy.
            unsafe {
                let to = self.maps[0].as_mut_ptr().add(block * rows * F::WORDS);
                if start + BLOCK <= inputs {
                    pack_rows::<F>(isa, x.as_ptr().add(start), inputs, rows, to);
                    continue;
                }
                self.blocks.fill(0.0);
                let copies = self.blocks.chunks_exact_mut(BLOCK);
                for (copy, row) in copies.zip(x.chunks_exact(inputs)) {
                    copy[..inputs - start].copy_from_slice(&row[start..]);
                }
                pack_rows::<F>(isa, self.blocks.as_ptr(), BLOCK, rows, to);
            }
        }
    }

    /// Some blocks of outputs of all rows, into `blocks`.
    fn multiply<F: Format>(&mut self, isa: Isa, layer: &Packed, group: Range<usize>, rows: usize) {
        let words = pack::words::<F>(layer.inputs);
        let next = words * BLOCK;
        // SAFETY: map, weights and biases fill whole blocks, and `blocks` holds all rows.
        unsafe {
            let call = |block: usize, out: *mut f32| Projection {
                x: self.maps[0].as_ptr(),
                block_stride: rows * F::WORDS,
                inputs: words,
                weight: layer.weight.as_ptr().add(block * next),
                bias: layer.bias.as_ptr().add(block * BLOCK),
                voxels: rows,
                residual: std::ptr::null(),
                products: std::ptr::null(),
                out: out.cast(),
            };
            let out = self.blocks.as_mut_ptr();
            if !(F::PACK == 2 && isa.tiles()) {
                return plain_many::<F>(isa, &call(group.start, out), next, group.len());
            }
            for (i, block) in group.enumerate() {
                plain::<F>(isa, &call(block, out.add(i * rows * BLOCK)));
            }
        }
    }
}

/// Puts one block of outputs where the result has it.
fn store(from: &[f32], y: &mut [f32], width: usize, block: usize) {
    let columns = block * BLOCK..width.min((block + 1) * BLOCK);
    for (y, from) in y.chunks_exact_mut(width).zip(from.as_chunks::<BLOCK>().0) {
        y[columns.clone()].copy_from_slice(&from[..columns.len()]);
    }
}

fn gelu_in_place(simd: Simd, x: &mut [f32]) {
    const STEP: usize = 512;
    let mut copy = [0.0; STEP];
    for x in x.chunks_mut(STEP) {
        let copy = &mut copy[..x.len()];
        copy.copy_from_slice(x);
        gelu(simd, x, copy);
    }
}

lane_dispatch! {
    /// Packs sixteen numbers of each of `rows` rows, which begin `stride` numbers apart.
    ///
    /// # Safety
    /// The numbers must be readable, and `out` have room for `rows` voxels.
    unsafe fn pack_rows[F: Format](x: *const f32, stride: usize, rows: usize, out: *mut u32)
        = pack_rows_body;
}

#[inline(always)]
unsafe fn pack_rows_body<L: Lanes, F: Format>(
    x: *const f32,
    stride: usize,
    rows: usize,
    out: *mut u32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        for row in 0..rows {
            F::store::<L>(out.add(row * F::WORDS), L::load(x.add(row * stride)));
        }
    }
}

/// As [`pack::matrix`], by all threads.
fn pack_matrix<F: Format>(isa: Isa, weight: &[f32], outputs: usize, inputs: usize) -> Buffer {
    let words = pack::words::<F>(inputs);
    let blocks = outputs.div_ceil(BLOCK);
    let mut buffer = Buffer::default();
    buffer.reserve(blocks * words * BLOCK);
    let out = Shared::new(buffer.as_mut_ptr());
    (0..blocks).into_par_iter().for_each(|block| {
        let outputs = block * BLOCK..outputs.min((block + 1) * BLOCK);
        let mut tile = [[0.0; BLOCK]; BLOCK];
        for start in (0..inputs).step_by(BLOCK) {
            let here = BLOCK.min(inputs - start);
            if here < BLOCK {
                tile = [[0.0; BLOCK]; BLOCK];
            }
            for (lane, o) in outputs.clone().enumerate() {
                let row = &weight[o * inputs + start..][..here];
                row.iter().zip(&mut tile).for_each(|(w, t)| t[lane] = *w);
            }
            let first = block * words + start / F::PACK;
            // SAFETY: these words belong to this block, which is this task's alone.
            unsafe {
                let to = out.get().add(first * BLOCK);
                pack_tile::<F>(isa, &tile, here.div_ceil(F::PACK), to);
            }
        }
    });
    buffer
}

lane_dispatch! {
    /// Packs the first `words` words of sixteen inputs `[input][output]`.
    ///
    /// # Safety
    /// `out` must have room for them.
    unsafe fn pack_tile[F: Format](tile: &[[f32; BLOCK]; BLOCK], words: usize, out: *mut u32)
        = pack_tile_body;
}

#[inline(always)]
unsafe fn pack_tile_body<L: Lanes, F: Format>(
    tile: &[[f32; BLOCK]; BLOCK],
    words: usize,
    out: *mut u32,
) {
    // SAFETY: the caller's promise; a tile has an even number of rows.
    unsafe {
        for word in 0..words {
            let row = |i: usize| L::load(tile[(word * F::PACK + i) % BLOCK].as_ptr());
            let packed = F::pack::<L>([row(0), row(F::PACK - 1)]);
            L::store_words(out.add(word * BLOCK), packed);
        }
    }
}
