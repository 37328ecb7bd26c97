//! A scan from its stored voxels to the model's array on a GPU: one copy, one resampling.
//!
//! What is computed is decided elsewhere and comes as tables: weights along each axis, or turned
//! places with a smoothing. The host's memory for copies is page-locked and bounded; copies and
//! resampling have a stream of their own, so that they go on while another stream computes.

#[cfg(not(feature = "cuda"))]
mod absent;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
mod table;

use candle_core::{Device, Result, Tensor};

#[cfg(not(feature = "cuda"))]
use self::absent::Inner;
#[cfg(feature = "cuda")]
use self::cuda::Inner;
use crate::error::invalid;

const OP: &str = "augment";

/// Weights of the inputs of each output along one axis: those of output `k` are
/// `weights[offsets[k]..offsets[k + 1]]`, for the inputs from `starts[k]` on.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Taps {
    /// The first input of each output.
    pub starts: Vec<usize>,
    /// Where the weights of each output begin, and the end of the last's.
    pub offsets: Vec<usize>,
    /// The weights.
    pub weights: Vec<f32>,
}

/// How each output is made of a volume's voxels. What lies outside the volume is air, 0 after
/// scaling, or no label.
#[derive(Debug, Clone, PartialEq)]
pub enum Resampling {
    /// The sum over the product of three axes' weights. Of a mask: the voxel at the first taps.
    Straight([Taps; 3]),
    /// The trilinear sample of the smoothed field at a turned place. Of a mask: the nearest voxel.
    Turned(TurnedResampling),
}

/// Output `(x, y, z)` lies at `middle + rotation (x, y, z)`, clamped to the samples of the smoothed
/// field; `(x, y, z)` are places about the middle.
#[derive(Debug, Clone, PartialEq)]
pub struct TurnedResampling {
    /// For each output along each axis: place about the middle, and weight.
    pub outputs: [Vec<(f32, f32)>; 3],
    /// From places about the middle to offsets of the source.
    pub rotation: [[f32; 3]; 3],
    /// The middle of the field, counted in samples of the smoothed field.
    pub middle: [f32; 3],
    /// Smoothing weights along each axis: sample `i` of the smoothed field begins at voxel
    /// `i - len / 2` of the field, whose edge repeats; even kernels give one sample more. Not used
    /// for masks.
    pub kernels: [Vec<f32>; 3],
    /// Voxels of the field, which is the volume with air around it.
    pub field: [usize; 3],
    /// The voxel of the volume at the field's first; negative where the field begins with air.
    pub offset: [isize; 3],
}

/// What is added to each output.
///
/// Noise is a stream of ChaCha8 for each plane of the first axis, two of whose words become two
/// normal numbers; which words and how is said in `augment.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Noise {
    /// Key of the streams.
    pub key: [u32; 8],
    /// Standard deviation; 0 for no noise.
    pub std: f32,
    /// Offset of all outputs.
    pub offset: f32,
}

/// A volume on the host, its last axis contiguous.
#[derive(Debug, Clone, Copy)]
pub struct Voxels<'a, T> {
    /// The voxels.
    pub data: &'a [T],
    /// Their number along each axis.
    pub shape: [usize; 3],
}

/// How a mask becomes a target: pooled by its maximum to `patch` cells a side of a token, and cut
/// into tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patches {
    /// Tokens along each axis.
    pub tokens: [usize; 3],
    /// Cells along each side of a token.
    pub patch: usize,
    /// Voxels along each side of a cell.
    pub pool: usize,
}

impl Patches {
    /// Tokens and cells of a token.
    pub fn shape(&self) -> [usize; 2] {
        [self.tokens.iter().product(), self.patch.pow(3)]
    }
}

/// Brings scans to a GPU and resamples them there.
#[derive(Debug)]
pub struct Augmenter(Inner);

impl Augmenter {
    /// For tensors of a GPU, with up to `buffers` scans on their way at a time; `None` for the CPU.
    ///
    /// # Errors
    /// For no buffer at all, or when the GPU refuses another stream.
    pub fn of(device: &Device, buffers: usize) -> Result<Option<Self>> {
        if buffers == 0 {
            return Err(invalid(OP, "buffers", "at least 1", buffers).into());
        }
        Ok(Inner::of(device, buffers)?.map(Self))
    }

    /// The model's array of a scan; ready when this returns.
    ///
    /// # Shapes
    /// `[1, 1, X, Y, Z]` of `f32`, as many as the resampling has outputs.
    ///
    /// # Units
    /// HU in, `HU / 2000 + 0.5` out.
    ///
    /// # Errors
    /// When the resampling does not fit the volume, or for lack of memory.
    pub fn image(
        &self,
        volume: Voxels<'_, i16>,
        resampling: &Resampling,
        noise: &Noise,
    ) -> Result<Tensor> {
        self.0.image(volume, resampling, noise)
    }

    /// Targets of a mask, one for each set of `labels`: 1 where a cell holds a voxel of the set.
    ///
    /// # Shapes
    /// `[labels.len(), L, P]` of `f32`, see [`Patches::shape`].
    ///
    /// # Errors
    /// As [`image`](Self::image), and when outputs and patches are not of one size.
    pub fn mask(
        &self,
        mask: Voxels<'_, u8>,
        resampling: &Resampling,
        labels: &[[bool; 256]],
        patches: Patches,
    ) -> Result<Tensor> {
        self.0.mask(mask, resampling, labels, patches)
    }
}
