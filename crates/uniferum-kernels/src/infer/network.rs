//! The whole network over one volume after the other.

use rayon::prelude::*;

use super::arena::{Arena, Shared, lock};
use super::block::{Layer, PackedBlock};
use super::format::{BLOCK, Bf16, F32, Format};
use super::pack;
use super::project::{Projection, head};
use super::shape::WideShape;
use super::spec::{Head, MbConv, Precision, Stem};
use super::stem::{self, Image, PackedStem};
use super::wide::{Source, wide};
use crate::error::{Result, invalid};
use crate::simd::{Isa, Simd};

const OP: &str = "inference network";

/// A 3-D EfficientNet whose weights are packed for inference on the CPU.
///
/// See the [module](super) for what makes it fast, and for an example.
#[derive(Debug)]
pub struct Network {
    isa: Isa,
    precision: Precision,
    stem: PackedStem,
    blocks: Vec<PackedBlock>,
    head: Layer,
    head_inputs: usize,
    head_outputs: usize,
}

impl Network {
    /// Packs weights for the best instruction set that there is.
    ///
    /// # Errors
    /// When numbers of channels and weights do not fit together, or a kernel or stride has
    /// no implementation.
    pub fn new(stem: &Stem, blocks: &[MbConv], head: &Head, precision: Precision) -> Result<Self> {
        Self::with_simd(stem, blocks, head, precision, Simd::detect())
    }

    /// As [`new`](Self::new), for a given instruction set if the processor has it.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn with_simd(
        stem: &Stem,
        blocks: &[MbConv],
        head: &Head,
        precision: Precision,
        simd: Simd,
    ) -> Result<Self> {
        stem.check()?;
        if blocks.is_empty() {
            return Err(invalid(OP, "blocks", "at least one", 0));
        }
        let mut channels = stem.outputs;
        for block in blocks {
            block.check(channels)?;
            channels = block.outputs;
        }
        head.check(channels)?;
        let isa = Isa::new(simd);
        Ok(match precision {
            Precision::F32 => Self::pack::<F32>(isa, stem, blocks, head, precision),
            Precision::Bf16 => Self::pack::<Bf16>(isa, stem, blocks, head, precision),
        })
    }

    fn pack<F: Format>(
        isa: Isa,
        stem: &Stem,
        blocks: &[MbConv],
        head: &Head,
        precision: Precision,
    ) -> Self {
        Self {
            isa,
            precision,
            stem: PackedStem::new::<F>(stem),
            blocks: blocks.iter().map(PackedBlock::new::<F>).collect(),
            head: Layer {
                weight: pack::matrix::<F>(&head.conv.weight, head.outputs, head.inputs),
                bias: pack::padded(&head.conv.bias),
            },
            head_inputs: head.inputs,
            head_outputs: head.outputs,
        }
    }

    /// The format of weights and activations.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The instruction set that the kernels use.
    pub fn simd(&self) -> Simd {
        self.isa.simd()
    }

    /// Channels of an image.
    pub fn in_channels(&self) -> usize {
        self.stem.inputs
    }

    /// Channels of the feature map.
    pub fn out_channels(&self) -> usize {
        self.head_outputs
    }

    /// Sides of the feature map of an image with the given sides.
    ///
    /// # Errors
    /// When a side is zero.
    pub fn grid(&self, image: [usize; 3]) -> Result<[usize; 3]> {
        let first = stem::geometry(image)?.output;
        let halve =
            |sides: [usize; 3], block: &PackedBlock| sides.map(|n| n.div_ceil(block.stride));
        Ok(self.blocks.iter().fold(first, halve))
    }

    /// The feature map of one image.
    ///
    /// # Shapes
    /// `image` is `[in_channels, D, H, W]` with `sides = [D, H, W]`, `features`
    /// `[out_channels, D', H', W']` with the sides that [`grid`](Self::grid) tells.
    ///
    /// # Errors
    /// When a side is zero or a slice is not as long as its shape tells.
    pub fn run(
        &self,
        arena: &mut Arena,
        image: &[f32],
        sides: [usize; 3],
        features: &mut [f32],
    ) -> Result<()> {
        let grid = self.grid(sides)?;
        let length = |what, slice: &[f32], channels: usize, [d, h, w]: [usize; 3]| {
            let want = channels * d * h * w;
            if slice.len() == want {
                return Ok(());
            }
            Err(invalid(OP, what, want, slice.len()))
        };
        length("elements of the image", image, self.in_channels(), sides)?;
        length(
            "elements of the features",
            features,
            self.out_channels(),
            grid,
        )?;
        // One entry into the pool for all that follows.
        rayon::scope(|_| match self.precision {
            Precision::F32 => self.run_as::<F32>(arena, image, sides, features),
            Precision::Bf16 => self.run_as::<Bf16>(arena, image, sides, features),
        })
    }

    fn run_as<F: Format>(
        &self,
        arena: &mut Arena,
        image: &[f32],
        sides: [usize; 3],
        features: &mut [f32],
    ) -> Result<()> {
        let first = stem::geometry(sides)?;
        self.reserve::<F>(arena, first.output, features.len() / self.head_outputs)?;
        let image = Image {
            voxels: image,
            geometry: first,
            channels: self.stem.inputs,
        };
        let mut input = first.output;
        let mut at = 0;
        if !self.stem_is_fused() {
            let map = Shared::new(arena.maps[at].as_mut_ptr());
            // SAFETY: `reserve` has made room for the map and the image rows.
            unsafe { stem::stem_map::<F>(self.isa, &self.stem, &image, map, &arena.scratch) };
        }
        for (i, block) in self.blocks.iter().enumerate() {
            let shape = self.shape::<F>(i, input)?;
            let [here, other] = [at, 1 - at].map(|i| Shared::new(arena.maps[i].as_mut_ptr()));
            let source = match i {
                0 if self.stem_is_fused() => Source::Stem(&self.stem, image),
                _ => Source::Map(here),
            };
            let voxels = shape.geometry.out_voxels();
            let wide_map = Shared::new(arena.wide.as_mut_ptr());
            let sums = Shared::new(arena.sums.as_mut_ptr());
            // SAFETY: `reserve` has made room for every block's shape.
            unsafe {
                wide::<F>(
                    self.isa,
                    block,
                    &shape,
                    source,
                    wide_map,
                    sums,
                    &arena.scratch,
                )
            };
            block.gate::<F>(self.isa, arena, shape.places(), voxels);
            let (residual, out) = if block.skip {
                (Some(here), here)
            } else {
                (None, other)
            };
            // SAFETY: as above. In place each voxel is read before it is written.
            unsafe { block.narrow::<F>(self.isa, wide_map, &arena.gated, residual, out, voxels) };
            at = if block.skip { at } else { 1 - at };
            input = shape.geometry.output;
        }
        self.head::<F>(arena, at, features);
        Ok(())
    }

    /// Whether the stem's result goes into the first block's convolution and nowhere else.
    fn stem_is_fused(&self) -> bool {
        let first = &self.blocks[0];
        first.expand.is_none() && !first.skip
    }

    fn shape<F: Format>(&self, index: usize, input: [usize; 3]) -> Result<WideShape> {
        let block = &self.blocks[index];
        let image = (index == 0 && self.stem_is_fused()).then_some(self.stem.inputs);
        let threads = rayon::current_num_threads();
        WideShape::new::<F>(
            input,
            block.kernel,
            block.stride,
            block.middle,
            image,
            threads,
        )
    }

    /// Makes room for all blocks of an image.
    fn reserve<F: Format>(
        &self,
        arena: &mut Arena,
        mut input: [usize; 3],
        head_voxels: usize,
    ) -> Result<()> {
        let mut at = 0;
        let mut scratch = head_voxels * BLOCK;
        if !self.stem_is_fused() {
            let voxels: usize = input.iter().product();
            arena.maps[at].reserve(self.stem.bias.len() / BLOCK * voxels * F::WORDS);
            scratch = scratch.max(stem::map_scratch_words::<F>(self.stem.inputs, input));
        }
        for (i, block) in self.blocks.iter().enumerate() {
            let shape = self.shape::<F>(i, input)?;
            at = if block.skip { at } else { 1 - at };
            let map = block.outputs.div_ceil(BLOCK) * shape.geometry.out_voxels() * F::WORDS;
            arena.maps[at].reserve(map);
            arena.wide.reserve(shape.out_words::<F>());
            arena.gated.reserve(block.gated_words::<F>());
            let sums = shape.places() * shape.blocks * BLOCK;
            arena.sums.resize(sums.max(arena.sums.len()), 0.0);
            arena.hidden.clear();
            arena.hidden.reserve(block.squeezed());
            arena.gates.clear();
            arena.gates.reserve(block.middle + 1);
            scratch = scratch.max(shape.scratch_words());
            input = shape.geometry.output;
        }
        arena.reserve_scratch(rayon::current_num_threads(), scratch);
        Ok(())
    }

    fn head<F: Format>(&self, arena: &Arena, at: usize, features: &mut [f32]) {
        let voxels = features.len() / self.head_outputs;
        let map = Shared::new(arena.maps[at].as_ptr().cast_mut());
        let inputs = pack::words::<F>(self.head_inputs);
        let blocks = features.par_chunks_mut(BLOCK * voxels).enumerate();
        blocks.for_each(|(block, features)| {
            let thread = rayon::current_thread_index().unwrap_or(0) % arena.scratch.len();
            let mut buffer = lock(&arena.scratch[thread]);
            // SAFETY: the map holds the last block's result, the buffer has room for one
            // block of the features, weights and biases fill whole blocks.
            let rows = unsafe {
                let call = Projection {
                    x: map.get().cast_const(),
                    block_stride: voxels * F::WORDS,
                    inputs,
                    weight: self.head.weight.as_ptr().add(block * inputs * BLOCK),
                    bias: self.head.bias.as_ptr().add(block * BLOCK),
                    voxels,
                    residual: std::ptr::null(),
                    out: buffer.as_mut_ptr(),
                    products: std::ptr::null(),
                };
                head::<F>(self.isa, &call);
                std::slice::from_raw_parts(buffer.as_ptr().cast::<f32>(), voxels * BLOCK)
            };
            for (channel, features) in features.chunks_mut(voxels).enumerate() {
                let values = rows[channel..].iter().step_by(BLOCK);
                features.iter_mut().zip(values).for_each(|(f, v)| *f = *v);
            }
        });
    }
}
