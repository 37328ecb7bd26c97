//! Sizes of a block and the order of its parameters in one flat array.

use std::ops::Range;

use crate::geometry::Geometry;

/// A block with all its sizes known.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) batch: usize,
    pub(super) c_in: usize,
    /// Channels between expansion and projection.
    pub(super) mid: usize,
    pub(super) c_out: usize,
    /// Channels inside squeeze-and-excitation.
    pub(super) squeezed: usize,
    pub(super) expands: bool,
    pub(super) residual: bool,
    /// The depthwise convolution.
    pub(super) geometry: Geometry,
    pub(super) eps: f64,
}

impl Plan {
    /// Voxels of all samples before the depthwise convolution.
    pub(super) fn in_columns(&self) -> usize {
        self.batch * self.geometry.in_voxels()
    }

    /// Voxels of all samples after it.
    pub(super) fn out_columns(&self) -> usize {
        self.batch * self.geometry.out_voxels()
    }

    /// Where each parameter lies in the flat array.
    pub(super) fn places(&self) -> Places {
        let mut end = 0;
        let mut next = |n: usize| {
            end += n;
            end - n..end
        };
        let (mid, out, s) = (self.mid, self.c_out, self.squeezed);
        let mut layer = |weight: usize, channels: usize| LayerPlaces {
            weight: next(weight),
            gamma: next(channels),
            beta: next(channels),
        };
        let expand = self.expands.then(|| layer(mid * self.c_in, mid));
        let depthwise = layer(mid * self.geometry.taps(), mid);
        let project = layer(out * mid, out);
        Places {
            expand,
            depthwise,
            project,
            w_reduce: next(s * mid),
            b_reduce: next(s),
            w_excite: next(mid * s),
            b_excite: next(mid),
        }
    }
}

/// Where a convolution's weight and its norm's scale and shift lie.
#[derive(Debug, Clone)]
pub(super) struct LayerPlaces {
    pub(super) weight: Range<usize>,
    pub(super) gamma: Range<usize>,
    pub(super) beta: Range<usize>,
}

/// Where all parameters lie.
#[derive(Debug, Clone)]
pub(super) struct Places {
    pub(super) expand: Option<LayerPlaces>,
    pub(super) depthwise: LayerPlaces,
    pub(super) project: LayerPlaces,
    pub(super) w_reduce: Range<usize>,
    pub(super) b_reduce: Range<usize>,
    pub(super) w_excite: Range<usize>,
    pub(super) b_excite: Range<usize>,
}
