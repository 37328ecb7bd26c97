//! Sizes of kernels, strides and padding along the three spatial axes.

use std::ops::Range;

use crate::error::{Result, invalid};

/// Zero padding of the depth, height and width axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Padding3 {
    /// TensorFlow's `SAME`: the output has `ceil(input / stride)` voxels and the smaller
    /// half of the padding comes first. Computed for each axis from the input's size, so a
    /// strided convolution of an even size pads only at the end.
    Same,
    /// Voxels added before and after each axis.
    Explicit([[usize; 2]; 3]),
}

impl Padding3 {
    /// No padding (`VALID`).
    pub const NONE: Self = Self::Explicit([[0, 0]; 3]);

    /// The same number of voxels on both sides of every axis.
    pub const fn symmetric(voxels: usize) -> Self {
        Self::Explicit([[voxels, voxels]; 3])
    }
}

/// Stride, padding and groups of a 3-D convolution.
///
/// ```
/// use uniferum_kernels::{Conv3dConfig, Padding3};
/// let half = Conv3dConfig { stride: [2, 2, 2], padding: Padding3::Same, ..Default::default() };
/// assert_eq!(half.groups, 1);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Conv3dConfig {
    /// Step of the kernel along depth, height and width.
    pub stride: [usize; 3],
    /// Zero padding of the input.
    pub padding: Padding3,
    /// Number of groups into which the channels are split; each sees only its own.
    pub groups: usize,
}

impl Default for Conv3dConfig {
    /// Stride 1, no padding, one group.
    fn default() -> Self {
        Self {
            stride: [1; 3],
            padding: Padding3::NONE,
            groups: 1,
        }
    }
}

/// A kernel sliding over a volume: everything that a convolution's loops need to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) input: [usize; 3],
    pub(crate) output: [usize; 3],
    pub(crate) kernel: [usize; 3],
    pub(crate) stride: [usize; 3],
    /// Zeros before the first voxel of each axis.
    pub(crate) before: [usize; 3],
}

impl Geometry {
    pub(crate) fn new(
        op: &'static str,
        input: [usize; 3],
        kernel: [usize; 3],
        stride: [usize; 3],
        padding: Padding3,
    ) -> Result<Self> {
        for (what, expected, sizes) in [
            ("kernel", "sizes of at least 1", kernel),
            ("stride", "steps of at least 1", stride),
            ("input volume", "at least one voxel", input),
        ] {
            if sizes.contains(&0) {
                return Err(invalid(op, what, expected, format!("{sizes:?}")));
            }
        }
        let mut output = [0; 3];
        let mut before = [0; 3];
        for axis in 0..3 {
            let (n, k, s) = (input[axis], kernel[axis], stride[axis]);
            let padded = match padding {
                Padding3::Same => {
                    output[axis] = n.div_ceil(s);
                    let total = ((output[axis] - 1) * s + k).saturating_sub(n);
                    before[axis] = total / 2;
                    continue;
                }
                Padding3::Explicit(pads) => {
                    before[axis] = pads[axis][0];
                    n + pads[axis][0] + pads[axis][1]
                }
            };
            if padded < k {
                let expected = format!("a kernel of at most {padded} voxels along axis {axis}");
                return Err(invalid(op, "kernel", expected, k));
            }
            output[axis] = (padded - k) / s + 1;
        }
        Ok(Self {
            input,
            output,
            kernel,
            stride,
            before,
        })
    }

    pub(crate) fn is_pointwise(&self) -> bool {
        self.kernel == [1; 3] && self.stride == [1; 3] && self.input == self.output
    }

    pub(crate) fn in_voxels(&self) -> usize {
        self.input.iter().product()
    }

    pub(crate) fn out_voxels(&self) -> usize {
        self.output.iter().product()
    }

    pub(crate) fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// The outputs along `axis` for which kernel tap `tap` lies inside the input.
    pub(crate) fn valid_outputs(&self, axis: usize, tap: usize) -> Range<usize> {
        let (s, before) = (self.stride[axis], self.before[axis]);
        let first = before.saturating_sub(tap).div_ceil(s);
        let last = (self.input[axis] + before).saturating_sub(tap).div_ceil(s);
        first.min(self.output[axis])..last.min(self.output[axis])
    }

    /// The input position along `axis` that tap `tap` of output `out` reads, if inside.
    pub(crate) fn source(&self, axis: usize, out: usize, tap: usize) -> Option<usize> {
        let at = (out * self.stride[axis] + tap).checked_sub(self.before[axis])?;
        (at < self.input[axis]).then_some(at)
    }
}

/// Splits `[B, C, D, H, W]`.
pub(crate) fn dims5(
    op: &'static str,
    what: &'static str,
    dims: &[usize],
) -> Result<(usize, usize, [usize; 3])> {
    match *dims {
        [b, c, d, h, w] if b > 0 && c > 0 => Ok((b, c, [d, h, w])),
        _ => Err(invalid(
            op,
            what,
            "five dimensions [B, C, D, H, W], a batch and channels of at least 1",
            format!("{dims:?}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_padding_is_asymmetric_for_even_strided_sizes() {
        let g = Geometry::new("t", [8, 7, 1], [3, 3, 5], [2, 2, 1], Padding3::Same).unwrap();
        assert_eq!(g.output, [4, 4, 1]);
        assert_eq!(g.before, [0, 1, 2]);
    }

    #[test]
    fn valid_outputs_agree_with_sources() {
        for (n, k, s) in [
            (8, 3, 2),
            (7, 5, 2),
            (5, 5, 1),
            (2, 5, 3),
            (9, 1, 2),
            (4, 2, 3),
        ] {
            for padding in [Padding3::Same, Padding3::symmetric(2), Padding3::NONE] {
                let Ok(g) = Geometry::new("t", [n; 3], [k; 3], [s; 3], padding) else {
                    continue;
                };
                for tap in 0..k {
                    let range = g.valid_outputs(0, tap);
                    for out in 0..g.output[0] {
                        let inside = g.source(0, out, tap).is_some();
                        assert_eq!(inside, range.contains(&out), "{g:?} tap {tap} out {out}");
                    }
                }
            }
        }
    }

    #[test]
    fn too_large_a_kernel_is_an_error() {
        let error = Geometry::new("conv3d", [2; 3], [3; 3], [1; 3], Padding3::NONE).unwrap_err();
        assert!(error.to_string().contains("conv3d: kernel"), "{error}");
    }
}
