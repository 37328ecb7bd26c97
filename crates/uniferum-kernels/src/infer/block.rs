//! A packed block: weights, gates, and the narrow half.

use rayon::prelude::*;

use super::arena::{Arena, Buffer, Shared};
use super::format::{BLOCK, Format};
use super::pack;
use super::project::{Projection, gate, project};
use super::shape::NarrowShape;
use super::spec::{Affine, MbConv};
use crate::simd::Isa;

/// Packed weights, and biases that fill whole blocks.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) weight: Buffer,
    pub(super) bias: Vec<f32>,
}

#[derive(Debug)]
pub(super) struct PackedBlock {
    pub(super) inputs: usize,
    pub(super) middle: usize,
    pub(super) outputs: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) skip: bool,
    pub(super) expand: Option<Layer>,
    pub(super) depthwise: Layer,
    squeeze: Affine,
    excite: Affine,
    /// In single precision: the gates change with every image.
    project: Affine,
}

impl PackedBlock {
    pub(super) fn new<F: Format>(block: &MbConv) -> Self {
        let (inputs, middle, outputs) = (block.inputs, block.middle, block.outputs);
        let expand = block.expand.as_ref().map(|layer| Layer {
            weight: pack::matrix::<F>(&layer.weight, middle, inputs),
            bias: pack::padded(&layer.bias),
        });
        Self {
            inputs,
            middle,
            outputs,
            kernel: block.kernel,
            stride: block.stride,
            skip: block.skip,
            expand,
            depthwise: Layer {
                weight: pack::depthwise::<F>(&block.depthwise.weight, middle, block.kernel),
                bias: pack::padded(&block.depthwise.bias),
            },
            squeeze: turned(&block.squeeze, block.squeezed, middle),
            excite: turned(&block.excite, middle, block.squeezed),
            project: Affine {
                weight: pack::transposed(&block.project.weight, outputs, middle),
                bias: pack::padded(&block.project.bias),
            },
        }
    }

    pub(super) fn squeezed(&self) -> usize {
        self.squeeze.bias.len()
    }

    /// Words of one block of outputs of the gated projection.
    fn projection_words<F: Format>(&self) -> usize {
        pack::words::<F>(self.middle) * BLOCK
    }

    /// Words of the gated projection.
    pub(super) fn gated_words<F: Format>(&self) -> usize {
        self.outputs.div_ceil(BLOCK) * self.projection_words::<F>()
    }

    /// The gates from the sums `[place][channel]` over all voxels, and from them the
    /// projection of this image.
    pub(super) fn gate<F: Format>(
        &self,
        isa: Isa,
        arena: &mut Arena,
        places: usize,
        voxels: usize,
    ) {
        let stride = self.middle.next_multiple_of(BLOCK);
        let hidden = &mut arena.hidden;
        hidden.clear();
        hidden.extend_from_slice(&self.squeeze.bias);
        for c in 0..self.middle {
            let sum: f64 = (0..places).map(|p| arena.sums[p * stride + c]).sum();
            let mean = (sum / voxels as f64) as f32;
            add_scaled(hidden, &self.squeeze.weight[c * self.squeezed()..], mean);
        }
        let gates = &mut arena.gates;
        gates.clear();
        gates.extend_from_slice(&self.excite.bias);
        for (j, h) in hidden.iter().enumerate() {
            let h = h * sigmoid(*h);
            add_scaled(gates, &self.excite.weight[j * self.middle..], h);
        }
        gates.iter_mut().for_each(|g| *g = sigmoid(*g));
        // The packed rows come in twos.
        gates.resize(self.middle.next_multiple_of(2), 0.0);
        self.scale::<F>(isa, gates, &mut arena.gated);
    }

    fn scale<F: Format>(&self, isa: Isa, gates: &[f32], gated: &mut Buffer) {
        let out = Shared::new(gated.as_mut_ptr());
        let rows = gates.len() * BLOCK;
        let words = self.projection_words::<F>();
        let blocks = self.project.weight.par_chunks_exact(rows).enumerate();
        blocks
            .with_min_len(1 + (1 << 14) / rows)
            .for_each(|(i, weight)| {
                // SAFETY: `gated` has a packed matrix for each block of outputs, of which this
                // task writes its own; the weights have a row for each gate.
                unsafe {
                    let out = out.get().add(i * words);
                    gate::<F>(isa, weight.as_ptr(), gates.as_ptr(), self.middle, out);
                }
            });
    }

    /// The projection of the wide map, with the residual.
    ///
    /// # Safety
    /// `wide` and `gated` must hold this block's results for `voxels` voxels, `out` room
    /// for them, and `residual`, if there is one, the block's input.
    pub(super) unsafe fn narrow<F: Format>(
        &self,
        isa: Isa,
        wide: Shared<u32>,
        gated: &Buffer,
        residual: Option<Shared<u32>>,
        out: Shared<u32>,
        voxels: usize,
    ) {
        let threads = rayon::current_num_threads();
        let shape = NarrowShape::new::<F>(voxels, self.middle, self.outputs, threads);
        let words = self.projection_words::<F>();
        (0..shape.pieces()).into_par_iter().for_each(|index| {
            let [range, blocks] = shape.piece(index);
            for block in blocks {
                let at = (block * voxels + range.start) * F::WORDS;
                // SAFETY: this piece's voxels and outputs are nobody else's.
                unsafe {
                    let residual =
                        residual.map_or(std::ptr::null(), |r| r.get().add(at).cast_const());
                    let call = Projection {
                        x: wide.get().add(range.start * F::WORDS),
                        block_stride: voxels * F::WORDS,
                        inputs: pack::words::<F>(self.middle),
                        weight: gated.as_ptr().add(block * words),
                        bias: self.project.bias.as_ptr().add(block * BLOCK),
                        voxels: range.len(),
                        residual,
                        out: out.get().add(at),
                        products: std::ptr::null(),
                    };
                    project::<F>(isa, &call);
                }
            }
        });
    }
}

/// A matrix `[outputs, inputs]` as `[inputs, outputs]`.
fn turned(layer: &Affine, outputs: usize, inputs: usize) -> Affine {
    let weight = (0..inputs * outputs)
        .map(|i| layer.weight[i % outputs * inputs + i / outputs])
        .collect();
    Affine {
        weight,
        bias: layer.bias.clone(),
    }
}

fn add_scaled(y: &mut [f32], x: &[f32], scale: f32) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += x * scale);
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
