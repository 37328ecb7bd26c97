//! The forward pass on CUDA.

use candle_core::{DType, Result, Tensor};

use super::{Block, Excite, MODULE, Saved, Statistics};
use crate::batch_norm::cuda::{Norm, normalise, prepare, row_means, statistics};
use crate::cuda::{Arg, Buf, Grid, args};
use crate::depthwise::cuda as depthwise;
use crate::mbconv::plan::LayerPlaces;

impl Block<'_> {
    /// The output, what backward needs, and the statistics of each norm in order.
    pub(super) fn forward(
        &self,
        running: Option<&[(Tensor, Tensor)]>,
    ) -> Result<(Buf, Saved, Vec<Statistics>)> {
        let plan = self.plan;
        let mut made = Vec::new();
        let first = usize::from(plan.expands);
        let known = |layer: usize| running.map(|r| &r[layer]);

        let wide = self
            .gpu
            .uninit(self.dtype(), plan.mid * plan.out_columns())?;
        let expand = self.widen(known(0), &wide, &mut made)?;
        let input = (Arg::from(&wide), wide.dtype);
        let rows = self.rows_out(plan.mid);
        let of_wide = || statistics(&self.gpu, &rows, input);
        let layer = &self.places.depthwise;
        let count = plan.out_columns();
        let depthwise = self.norm(layer, known(first), count, of_wide, &mut made)?;
        let excite = self.excite(row_means(&self.gpu, &rows, Some(&depthwise), input)?)?;

        let narrow = self.narrow(&depthwise, &excite, &wide)?;
        let input = (Arg::from(&narrow), narrow.dtype);
        let rows = self.rows_out(plan.c_out);
        let of_narrow = || statistics(&self.gpu, &rows, input);
        let layer = &self.places.project;
        let project = self.norm(layer, known(first + 1), count, of_narrow, &mut made)?;
        let y = self.gpu.uninit(self.dtype(), narrow.len)?;
        let residual = if plan.residual {
            Arg::from(self.x)
        } else {
            Arg::NULL
        };
        let extra = (Arg::NULL, residual);
        normalise(&self.gpu, &rows, &project, input, false, extra, &y)?;
        let saved = Saved {
            expand,
            depthwise,
            project,
            excite,
            wide,
            narrow,
        };
        Ok((y, saved, made))
    }

    /// A layer's norm, by known statistics or those of its input.
    fn norm(
        &self,
        layer: &LayerPlaces,
        known: Option<&(Tensor, Tensor)>,
        count: usize,
        own: impl FnOnce() -> Result<Statistics>,
        made: &mut Vec<Statistics>,
    ) -> Result<Norm> {
        let affine = (
            self.weight(layer.gamma.start),
            self.weight(layer.beta.start),
        );
        let eps = self.plan.eps;
        if let Some((mean, var)) = known {
            let mean = self.gpu.copy(&self.gpu.read_f32(mean)?)?;
            let var = self.gpu.read_f32(var)?;
            return prepare(&self.gpu, mean, Arg::from(&var), affine, eps, 0);
        }
        let (mean, var) = own()?;
        let copy = self.gpu.copy_buf(&mean)?;
        let norm = prepare(&self.gpu, copy, Arg::from(&var), affine, eps, count)?;
        made.push((mean, var));
        Ok(norm)
    }

    /// Expansion, its norm, and the depthwise convolution into `wide`, a group of channels after
    /// the other.
    fn widen(
        &self,
        known: Option<&(Tensor, Tensor)>,
        wide: &Buf,
        made: &mut Vec<Statistics>,
    ) -> Result<Option<Norm>> {
        let (plan, gpu) = (self.plan, &self.gpu);
        let kernels = self.places.depthwise.weight.start;
        let none = Arg::NULL;
        let Some(layer) = &self.places.expand else {
            let w = self.weight(kernels);
            let sizes = self.sizes(plan.mid);
            let (x, y) = (self.input(), Arg::from(wide));
            depthwise::forward(gpu, &sizes, x, w, none, None, y)?;
            return Ok(None);
        };
        let groups = self.groups();
        let mut norms = Vec::with_capacity(groups.len());
        let mut own = Vec::with_capacity(groups.len());
        for group in &groups {
            let h = self.expanded(layer.weight.start, group)?;
            let input = (Arg::from(&h), h.dtype);
            let at = |place: &std::ops::Range<usize>| place.start + group.start;
            let part = LayerPlaces {
                weight: layer.weight.clone(),
                gamma: at(&layer.gamma)..layer.gamma.end,
                beta: at(&layer.beta)..layer.beta.end,
            };
            let known = known.map(|(mean, var)| {
                let part = |t: &Tensor| t.narrow(0, group.start, group.len())?.copy();
                Ok::<_, candle_core::Error>((part(mean)?, part(var)?))
            });
            let known = known.transpose()?;
            let rows = self.rows_in(group.len());
            let of_h = || statistics(gpu, &rows, input);
            let count = plan.in_columns();
            let norm = self.norm(&part, known.as_ref(), count, of_h, &mut own)?;
            let w = self.weight(kernels + group.start * plan.geometry.taps());
            let y = Arg::Ptr(wide.at(group.start * plan.geometry.out_voxels()));
            let sizes = self.sizes(group.len());
            let act = Some((&norm.scale, &norm.shift));
            depthwise::forward(gpu, &sizes, input, w, none, act, y)?;
            norms.push(norm);
        }
        if !own.is_empty() {
            let (means, vars): (Vec<_>, Vec<_>) = own.into_iter().unzip();
            made.push((gpu.concat(means)?, gpu.concat(vars)?));
        }
        Norm::concat(gpu, norms).map(Some)
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
    pub(super) fn activated(&self, norm: &Norm, excite: &Excite, wide: &Buf) -> Result<Buf> {
        let active = self.gpu.uninit(wide.dtype, wide.len)?;
        let rows = self.rows_out(self.plan.mid);
        let input = (Arg::from(wide), wide.dtype);
        let extra = (Arg::from(&excite.gate), Arg::NULL);
        normalise(&self.gpu, &rows, norm, input, true, extra, &active)?;
        Ok(active)
    }

    /// The projection before its norm, `[B, c_out, voxels]`.
    fn narrow(&self, norm: &Norm, excite: &Excite, wide: &Buf) -> Result<Buf> {
        let (plan, n) = (self.plan, self.plan.geometry.out_voxels());
        let active = self.activated(norm, excite, wide)?;
        let narrow = self
            .gpu
            .uninit(self.dtype(), plan.c_out * plan.out_columns())?;
        let at = self.places.project.weight.start;
        let (_cast, w) = self.matrix(at, plan.c_out, plan.mid)?;
        let from = self.volumes(active.at(0), plan.mid, n);
        let to = self.volumes(narrow.at(0), plan.c_out, n);
        let sizes = [plan.c_out, n, plan.mid];
        self.gpu.gemm(w, from, to, sizes, plan.batch, false)?;
        Ok(narrow)
    }
}
