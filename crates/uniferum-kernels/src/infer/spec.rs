//! What a network is made of, before its weights are packed.

use super::depthwise::MAX_KERNEL;
use super::stem;
use crate::error::{Result, invalid};

const OP: &str = "inference network";

/// The format of weights and activations in memory; sums are always in single precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits with the range of 32: half the memory traffic everywhere, and twice the
    /// arithmetic where the processor has AVX512-BF16.
    Bf16,
}

/// A convolution with whatever normalisation follows it folded in.
#[derive(Debug, Clone, PartialEq)]
pub struct Affine {
    /// Weights, output channels first, as convolutions have them.
    pub weight: Vec<f32>,
    /// One for each output channel.
    pub bias: Vec<f32>,
}

/// A 3x3x3 convolution of stride 2 with `SAME` padding, then SiLU.
#[derive(Debug, Clone, PartialEq)]
pub struct Stem {
    /// Channels of the image.
    pub inputs: usize,
    /// Channels of the result.
    pub outputs: usize,
    /// Weights `[outputs, inputs, 3, 3, 3]`.
    pub conv: Affine,
}

/// An inverted-residual block: expansion, depthwise convolution (`SAME` padding),
/// squeeze-and-excitation, projection; SiLU after the first two.
#[derive(Debug, Clone, PartialEq)]
pub struct MbConv {
    /// Channels that come in.
    pub inputs: usize,
    /// Channels inside.
    pub middle: usize,
    /// Channels of the squeeze-and-excitation bottleneck.
    pub squeezed: usize,
    /// Channels that go out.
    pub outputs: usize,
    /// Side of the depthwise kernel, 3 or 5.
    pub kernel: usize,
    /// Stride of the depthwise convolution, 1 or 2.
    pub stride: usize,
    /// Whether the input is added to the output.
    pub skip: bool,
    /// Weights `[middle, inputs]`; without them `middle` equals `inputs`.
    pub expand: Option<Affine>,
    /// Weights `[middle, kernel, kernel, kernel]`.
    pub depthwise: Affine,
    /// Weights `[squeezed, middle]`.
    pub squeeze: Affine,
    /// Weights `[middle, squeezed]`.
    pub excite: Affine,
    /// Weights `[outputs, middle]`.
    pub project: Affine,
}

/// A 1x1x1 convolution, then SiLU.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// Channels that come in.
    pub inputs: usize,
    /// Channels of the feature map.
    pub outputs: usize,
    /// Weights `[outputs, inputs]`.
    pub conv: Affine,
}

impl Affine {
    fn check(&self, what: &'static str, outputs: usize, inputs: usize) -> Result<()> {
        let want = (outputs * inputs, outputs);
        let got = (self.weight.len(), self.bias.len());
        if got == want && outputs > 0 && inputs > 0 {
            return Ok(());
        }
        let say = |(w, b): (usize, usize)| format!("{w} weights and {b} biases");
        Err(invalid(OP, what, say(want), say(got)))
    }
}

impl Stem {
    pub(super) fn check(&self) -> Result<()> {
        let taps = stem::KERNEL.pow(3);
        self.conv.check("stem", self.outputs, self.inputs * taps)
    }
}

impl MbConv {
    pub(super) fn check(&self, inputs: usize) -> Result<()> {
        expect("input channels of a block", inputs, self.inputs)?;
        if !(self.kernel == 3 || self.kernel == MAX_KERNEL) {
            return Err(invalid(OP, "depthwise kernel", "3 or 5", self.kernel));
        }
        if !(self.stride == 1 || self.stride == 2) {
            return Err(invalid(OP, "depthwise stride", "1 or 2", self.stride));
        }
        let (middle, squeezed) = (self.middle, self.squeezed);
        match &self.expand {
            Some(expand) => expand.check("expansion", middle, self.inputs)?,
            None => expect("channels without expansion", self.inputs, middle)?,
        }
        if self.skip {
            expect("channels with a residual", self.inputs, self.outputs)?;
            expect("stride with a residual", 1, self.stride)?;
        }
        let taps = self.kernel.pow(3);
        self.depthwise
            .check("depthwise convolution", middle, taps)?;
        self.squeeze.check("squeeze", squeezed, middle)?;
        self.excite.check("excitation", middle, squeezed)?;
        self.project.check("projection", self.outputs, middle)
    }
}

impl Head {
    pub(super) fn check(&self, inputs: usize) -> Result<()> {
        expect("input channels of the head", inputs, self.inputs)?;
        self.conv.check("head", self.outputs, self.inputs)
    }
}

fn expect(what: &'static str, want: usize, got: usize) -> Result<()> {
    if want == got {
        return Ok(());
    }
    Err(invalid(OP, what, want, got))
}
