//! The forward pass on CUDA.

use candle_core::{DType, Result};

use super::{Block, Excite, MODULE, Saved};
use crate::batch_norm::cuda::{Norm, NormMaker, NormView, norm_of, normalise, row_means};
use crate::cuda::{Arg, Buf, Grid, args};
use crate::depthwise::cuda as depthwise;
use crate::mbconv::plan::LayerPlaces;

impl Block<'_> {
    /// The output, what backward needs, and the statistics of each norm in order.
    pub(super) fn forward(&self, constants: Option<&[Buf]>) -> Result<(Buf, Saved, Vec<Buf>)> {
        let (plan, gpu) = (self.plan, self.gpu);
        let first = usize::from(plan.expands);
        let constants = |layer: usize| constants.map(|c| &c[layer]);
        let (wide, expand, of_expand) = match &self.places.expand {
            Some(layer) => {
                let (wide, norm, own) = self.expand_and_convolve(layer, constants(0))?;
                (wide, Some(norm), own)
            }
            None => (self.convolved()?, None, None),
        };
        let input = (Arg::from(&wide), wide.dtype);
        let rows = self.rows_out(plan.mid);
        let affine = self.affine(&self.places.depthwise, 0);
        let known = constants(first);
        let (depthwise, of_depthwise) = norm_of(gpu, &rows, known, input, affine, plan.eps)?;
        let means = row_means(gpu, &rows, Some(depthwise.view()), input)?;
        let excite = self.excite(means)?;

        let narrow = {
            let active = self.activated(depthwise.view(), &excite, &wide)?;
            self.projected(&active)?
        };
        let input = (Arg::from(&narrow), narrow.dtype);
        let rows = self.rows_out(plan.c_out);
        let affine = self.affine(&self.places.project, 0);
        let known = constants(first + 1);
        let (project, of_project) = norm_of(gpu, &rows, known, input, affine, plan.eps)?;
        let y = gpu.uninit(self.dtype(), narrow.len)?;
        let residual = if plan.residual {
            Arg::from(self.x.values)
        } else {
            Arg::NULL
        };
        let extra = (Arg::NULL, residual);
        normalise(gpu, &rows, project.view(), input, false, extra, &y)?;
        let saved = Saved {
            expand,
            depthwise,
            project,
            excite,
            outputs: plan.expands.then_some((wide, narrow)),
        };
        let made = [of_expand, of_depthwise, of_project].into_iter().flatten();
        Ok((y, saved, made.collect()))
    }

    /// The depthwise convolution of a block without expansion.
    pub(super) fn convolved(&self) -> Result<Buf> {
        let plan = self.plan;
        let wide = self
            .gpu
            .uninit(self.dtype(), plan.mid * plan.out_columns())?;
        let w = self.weight(self.places.depthwise.weight.start);
        let norm = self.x.norm.map(NormView::silu);
        let (sizes, to) = (self.sizes(plan.mid), Arg::from(&wide));
        depthwise::forward(self.gpu, &sizes, self.input(), w, Arg::NULL, norm, to)?;
        Ok(wide)
    }

    /// Expansion, its norm, and the depthwise convolution, a group of channels after the other: the
    /// convolution's output, the norm, and the statistics where they are the batch's.
    fn expand_and_convolve(
        &self,
        layer: &LayerPlaces,
        constants: Option<&Buf>,
    ) -> Result<(Buf, Norm, Option<Buf>)> {
        let (plan, gpu) = (self.plan, self.gpu);
        let wide = gpu.uninit(self.dtype(), plan.mid * plan.out_columns())?;
        let maker = NormMaker::new(gpu, &self.rows_in(plan.mid), constants, plan.eps)?;
        for group in self.groups() {
            let h = self.expanded(layer.weight.start, &group)?;
            let input = (Arg::from(&h), h.dtype);
            let rows = self.rows_in(group.len());
            let affine = self.affine(layer, group.start);
            let norm = maker.prepare(&group, &rows, input, affine)?;
            let kernels = self.places.depthwise.weight.start;
            let w = self.weight(kernels + group.start * plan.geometry.taps());
            let y = Arg::Ptr(wide.at(group.start * plan.geometry.out_voxels()));
            let sizes = self.sizes(group.len());
            depthwise::forward(gpu, &sizes, input, w, Arg::NULL, Some(norm.silu()), y)?;
        }
        let (norm, own) = maker.finish();
        Ok((wide, norm, own))
    }

    /// The gate of the channels' means `[B, mid]`.
    fn excite(&self, mean: Buf) -> Result<Excite> {
        let (plan, places) = (self.plan, &self.places);
        let hidden = self.gpu.uninit(DType::F32, plan.batch * plan.squeezed)?;
        let gate = self.gpu.uninit(DType::F32, plan.batch * plan.mid)?;
        let list = args![
            &mean,
            self.weight(places.w_reduce.start),
            self.weight(places.b_reduce.start),
            self.weight(places.w_excite.start),
            self.weight(places.b_excite.start),
            &hidden,
            &gate,
            plan.mid as i32,
            plan.squeezed as i32
        ];
        self.gpu
            .launch(&MODULE, "excite_forward", self.excite_grid(), list)?;
        Ok(Excite { mean, hidden, gate })
    }

    pub(super) fn excite_grid(&self) -> Grid {
        Grid {
            blocks: self.plan.batch,
            threads: 256,
            shared: self.plan.squeezed.max(1) * 4,
        }
    }

    /// The activated, weighted channels `[B, mid, voxels]`.
    pub(super) fn activated(&self, norm: NormView, excite: &Excite, wide: &Buf) -> Result<Buf> {
        let active = self.gpu.uninit(wide.dtype, wide.len)?;
        let rows = self.rows_out(self.plan.mid);
        let input = (Arg::from(wide), wide.dtype);
        let extra = (Arg::from(&excite.gate), Arg::NULL);
        normalise(self.gpu, &rows, norm, input, true, extra, &active)?;
        Ok(active)
    }

    /// The projection of the activated channels before its norm, `[B, c_out, voxels]`.
    pub(super) fn projected(&self, active: &Buf) -> Result<Buf> {
        let (plan, n) = (self.plan, self.plan.geometry.out_voxels());
        let narrow = self
            .gpu
            .uninit(self.dtype(), plan.c_out * plan.out_columns())?;
        let w = self
            .weights
            .matrix(self.places.project.weight.start, plan.mid);
        let from = self.volumes(active.at(0), plan.mid, n);
        let to = self.volumes(narrow.at(0), plan.c_out, n);
        let sizes = [plan.c_out, n, plan.mid];
        self.gpu.gemm(w, from, to, sizes, plan.batch, false)?;
        Ok(narrow)
    }
}
