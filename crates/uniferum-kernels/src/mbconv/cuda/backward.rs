//! The backward pass on CUDA.

use std::ops::Range;

use candle_core::{DType, Result};

use super::{Block, MODULE, Saved};
use crate::batch_norm::cuda::{NormView, norm_back, norm_backward, norm_gradient, slope_sums};
use crate::cuda::{Arg, Buf, Grid, View, args};
use crate::depthwise::cuda as depthwise;
use crate::mbconv::plan::LayerPlaces;

impl Block<'_> {
    /// The gradient of the input; those of the parameters go to `grads`.
    pub(super) fn backward(&self, mut saved: Saved, dy: View, grads: View) -> Result<Buf> {
        let (wide, narrow) = match saved.outputs.take() {
            Some((wide, narrow)) => (wide, Some(narrow)),
            None => (self.convolved()?, None),
        };
        let mut dwide = self.project(&saved, &wide, narrow, dy, grads)?;
        self.gate(&saved, &wide, &mut dwide, grads)?;
        drop(wide);
        let dx = self.gpu.uninit(self.dtype(), self.x.values.len)?;
        match (&self.places.expand, &saved.expand) {
            (Some(layer), Some(norm)) => {
                for group in self.groups() {
                    let norm = norm.part(&group);
                    self.expansion(layer, &group, norm, &dwide, &dx, grads)?;
                }
            }
            _ => self.depthwise_alone(&dwide, &dx, grads)?,
        }
        if self.plan.residual {
            self.gpu.add(&dx, Arg::from(dy))?;
        }
        Ok(dx)
    }

    /// Through the projection; returns the gradient of the activated channels `[B, mid, voxels]`.
    fn project(
        &self,
        saved: &Saved,
        wide: &Buf,
        narrow: Option<Buf>,
        dy: View,
        grads: View,
    ) -> Result<Buf> {
        let (plan, gpu) = (self.plan, self.gpu);
        let n = plan.geometry.out_voxels();
        let rows = self.rows_out(plan.c_out);
        let layer = &self.places.project;
        let active = self.activated(saved.depthwise.view(), &saved.excite, wide)?;
        let narrow = narrow.map_or_else(|| self.projected(&active), Ok)?;
        let inputs = (Arg::from(dy), Arg::from(&narrow), narrow.dtype);
        let parameters = (grads.part(&layer.gamma), grads.part(&layer.beta));
        let norm = saved.project.view();
        // The gradient takes the place of what it is the gradient of, here and below.
        let (over, dnarrow) = (Some(Arg::from(&narrow)), &narrow);
        norm_backward(gpu, &rows, norm, inputs, false, parameters, over)?;

        let from = self.volumes(dnarrow.at(0), plan.c_out, n);
        let over = self.volumes(active.at(0), plan.mid, n);
        let (to, sizes) = (grads.part(&layer.weight), [plan.c_out, plan.mid, n]);
        gpu.outer_products(from, over, to, sizes, plan.batch)?;
        let w = self.weights.matrix(layer.weight.start, plan.mid);
        let sizes = [plan.mid, n, plan.c_out];
        gpu.gemm(w.t(), from, over, sizes, plan.batch, false)?;
        Ok(active)
    }

    /// Through the gate and the depthwise convolution's norm and activation, in place.
    fn gate(&self, saved: &Saved, wide: &Buf, dwide: &mut Buf, grads: View) -> Result<()> {
        let (plan, gpu) = (self.plan, self.gpu);
        let rows = self.rows_out(plan.mid);
        let norm = saved.depthwise.view();
        let inputs = (Arg::from(&*dwide), Arg::from(wide), self.dtype());
        let (sums, dgate) = slope_sums(gpu, &rows, norm, inputs, true)?;
        let dmean = self.excite_back(saved, &dgate, grads)?;
        let gate = Some((&saved.excite.gate, &dmean));
        let layer = &self.places.depthwise;
        let parameters = (grads.part(&layer.gamma), grads.part(&layer.beta));
        let through = norm_gradient(gpu, &rows, norm, &sums, gate, parameters)?;
        let to = Arg::from(&*dwide);
        norm_back(gpu, &rows, (norm, &through), inputs, true, gate, to)
    }

    /// From the gate's gradient to the means'.
    fn excite_back(&self, saved: &Saved, dgate: &Buf, grads: View) -> Result<Buf> {
        let (plan, places, excite) = (self.plan, &self.places, &saved.excite);
        let (mid, squeezed) = (plan.mid as i32, plan.squeezed as i32);
        let new = |n: usize| self.gpu.uninit(DType::F32, plan.batch * n);
        let (dlogit, dhidden, dmean) = (new(plan.mid)?, new(plan.squeezed)?, new(plan.mid)?);
        let list = args![
            &excite.hidden,
            &excite.gate,
            dgate,
            self.weight(places.w_reduce.start),
            self.weight(places.w_excite.start),
            &dlogit,
            &dhidden,
            &dmean,
            mid,
            squeezed
        ];
        let grid = self.excite_grid();
        self.gpu.launch(&MODULE, "excite_backward", grid, list)?;
        let at = |place: &std::ops::Range<usize>| Arg::Ptr(grads.at(place.start));
        let list = args![
            &excite.mean,
            &excite.hidden,
            &dlogit,
            &dhidden,
            at(&places.w_reduce),
            at(&places.b_reduce),
            at(&places.w_excite),
            at(&places.b_excite),
            plan.batch as i32,
            mid,
            squeezed
        ];
        let grid = Grid::flat(plan.mid * plan.squeezed);
        self.gpu.launch(&MODULE, "excite_parameters", grid, list)?;
        Ok(dmean)
    }

    /// The depthwise convolution of a block without expansion.
    fn depthwise_alone(&self, dwide: &Buf, dx: &Buf, grads: View) -> Result<()> {
        let place = &self.places.depthwise.weight;
        let sizes = self.sizes(self.plan.mid);
        let slope = (Arg::from(dwide), dwide.dtype);
        let norm = self.x.norm.map(NormView::silu);
        let (input, to) = (self.input(), grads.part(place));
        depthwise::grad_weight(self.gpu, &sizes, input, slope.0, norm, to)?;
        let (w, to) = (self.weight(place.start), Arg::from(dx));
        let behind = norm.map(|norm| (input.0, norm));
        depthwise::grad_input(self.gpu, &sizes, slope, w, behind, to)
    }

    /// The depthwise convolution and the expansion of a group of channels.
    fn expansion(
        &self,
        layer: &LayerPlaces,
        group: &Range<usize>,
        norm: NormView,
        dwide: &Buf,
        dx: &Buf,
        grads: View,
    ) -> Result<()> {
        let (plan, gpu, dtype) = (self.plan, self.gpu, self.dtype());
        let (n, taps) = (plan.geometry.in_voxels(), plan.geometry.taps());
        let (first, channels) = (group.start, group.len());
        let h = self.expanded(layer.weight.start, group)?;
        let input = (Arg::from(&h), dtype);
        let sizes = self.sizes(channels);
        let slope = Arg::Ptr(dwide.at(first * plan.geometry.out_voxels()));
        let kernels = self.places.depthwise.weight.start + first * taps;
        let to = grads.part(&(kernels..kernels + channels * taps));
        depthwise::grad_weight(gpu, &sizes, input, slope, Some(norm.silu()), to)?;
        // The gradient behind the activation's slope, of the norm's result.
        let dz = gpu.uninit(dtype, h.len)?;
        let behind = Some((input.0, norm.silu()));
        let w = self.weight(kernels);
        depthwise::grad_input(gpu, &sizes, (slope, dtype), w, behind, Arg::from(&dz))?;
        let of_group =
            |place: &Range<usize>| grads.part(&(place.start + first..place.start + group.end));
        let parameters = (of_group(&layer.gamma), of_group(&layer.beta));
        let (rows, to) = (self.rows_in(channels), Arg::from(&dz));
        norm_backward(
            gpu,
            &rows,
            norm,
            (to, input.0, dtype),
            false,
            parameters,
            Some(to),
        )?;
        // `dz` is now the gradient of the expansion itself.
        let from = self.volumes(dz.at(0), channels, n);
        let x = self.volumes(self.x.values.at(0), plan.c_in, n);
        let weight = layer.weight.start + first * plan.c_in;
        let to = grads.part(&(weight..weight + channels * plan.c_in));
        gpu.outer_products(from, x, to, [channels, plan.c_in, n], plan.batch)?;
        let w = self.weights.matrix(weight, plan.c_in);
        let to = self.volumes(dx.at(0), plan.c_in, n);
        let sizes = [plan.c_in, n, channels];
        gpu.gemm(w.t(), from, to, sizes, plan.batch, first > 0)
    }
}
