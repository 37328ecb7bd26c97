//! Pooling over windows of a volume.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use crate::error::invalid;
use crate::geometry::{Geometry, Padding3, dims5};
use crate::host;

/// Maximum over windows, without padding, with backward (the first maximum of a window gets
/// the gradient).
///
/// # Shapes
/// `[B, C, D, H, W]` to `[B, C, (D - K) / S + 1, ..]`; voxels beyond the last whole window are
/// ignored.
///
/// # Errors
/// When a window is larger than the volume or a size is 0, or for a tensor that is not `f32`.
pub fn max_pool3d(x: &Tensor, kernel: [usize; 3], stride: [usize; 3]) -> Result<Tensor> {
    let windows = Windows::sliding("max_pool3d", x, kernel, stride)?;
    apply(
        x,
        Pool {
            windows,
            kind: Kind::Max,
        },
    )
}

/// Mean over windows, without padding, with backward.
///
/// # Shapes
/// `[B, C, D, H, W]` to `[B, C, (D - K) / S + 1, ..]`; voxels beyond the last whole window are
/// ignored.
///
/// # Errors
/// When a window is larger than the volume or a size is 0, or for a tensor that is not `f32`.
pub fn avg_pool3d(x: &Tensor, kernel: [usize; 3], stride: [usize; 3]) -> Result<Tensor> {
    let windows = Windows::sliding("avg_pool3d", x, kernel, stride)?;
    apply(
        x,
        Pool {
            windows,
            kind: Kind::Mean,
        },
    )
}

/// Mean over windows that split each axis into `output` nearly equal, possibly overlapping
/// parts, with backward: output `i` covers `floor(i n / output)..ceil((i + 1) n / output)`.
///
/// # Shapes
/// `[B, C, D, H, W]` to `[B, C, output[0], output[1], output[2]]`.
///
/// # Errors
/// When a size is 0, or for a tensor that is not `f32`.
pub fn adaptive_avg_pool3d(x: &Tensor, output: [usize; 3]) -> Result<Tensor> {
    const OP: &str = "adaptive_avg_pool3d";
    let (_, _, input) = dims5(OP, "input shape", x.dims())?;
    if output.contains(&0) || input.contains(&0) {
        let got = format!("{input:?} to {output:?}");
        return Err(invalid(OP, "sizes", "at least one voxel", got).into());
    }
    let axes = std::array::from_fn(|a| {
        let (n, m) = (input[a], output[a]);
        (0..m)
            .map(|i| i * n / m..((i + 1) * n).div_ceil(m))
            .collect()
    });
    apply(
        x,
        Pool {
            windows: Windows {
                op: OP,
                input,
                axes,
            },
            kind: Kind::Mean,
        },
    )
}

/// Mean over the whole volume, with backward.
///
/// # Shapes
/// `[B, C, D, H, W]` to `[B, C, 1, 1, 1]`.
///
/// # Errors
/// When the volume is empty, or for a tensor that is not `f32`.
pub fn global_avg_pool3d(x: &Tensor) -> Result<Tensor> {
    adaptive_avg_pool3d(x, [1; 3])
}

fn apply(x: &Tensor, pool: Pool) -> Result<Tensor> {
    on_cuda!(x => cuda::pool(x, pool));
    x.contiguous()?.apply_op1(pool)
}

/// The input ranges that each output covers, axis by axis.
#[derive(Debug, Clone)]
struct Windows {
    op: &'static str,
    input: [usize; 3],
    axes: [Vec<Range<usize>>; 3],
}

impl Windows {
    fn sliding(
        op: &'static str,
        x: &Tensor,
        kernel: [usize; 3],
        stride: [usize; 3],
    ) -> Result<Self> {
        let (_, _, input) = dims5(op, "input shape", x.dims())?;
        let g = Geometry::new(op, input, kernel, stride, Padding3::NONE)?;
        let axes = std::array::from_fn(|a| {
            (0..g.output[a])
                .map(|i| i * stride[a]..i * stride[a] + kernel[a])
                .collect()
        });
        Ok(Self { op, input, axes })
    }

    fn output(&self) -> [usize; 3] {
        std::array::from_fn(|a| self.axes[a].len())
    }

    fn in_voxels(&self) -> usize {
        self.input.iter().product()
    }

    fn out_voxels(&self) -> usize {
        self.output().iter().product()
    }

    /// Whether no voxel is in two windows; they are in order.
    #[cfg(feature = "cuda")]
    fn are_disjoint(&self) -> bool {
        let of =
            |axis: &Vec<Range<usize>>| axis.windows(2).all(|pair| pair[0].end <= pair[1].start);
        self.axes.iter().all(of)
    }

    fn is_global(&self) -> bool {
        (0..3).all(|a| self.axes[a].len() == 1 && self.axes[a][0] == (0..self.input[a]))
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Max,
    Mean,
}

struct Pool {
    windows: Windows,
    kind: Kind,
}

impl CustomOp1 for Pool {
    fn name(&self) -> &'static str {
        self.windows.op
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = host::f32_slice(self.windows.op, x, layout)?;
        let (b, c, _) = dims5(self.windows.op, "input shape", layout.dims())?;
        let [d, h, w] = self.windows.output();
        Ok((
            CpuStorage::F32(cpu::forward(self, x)),
            (b, c, d, h, w).into(),
        ))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        host::gradient(self.windows.op, x, [x, &dy.contiguous()?], |[x, dy]| {
            cpu::backward(self, x, dy)
        })
    }
}
