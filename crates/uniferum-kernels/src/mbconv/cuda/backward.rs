//! The backward pass on CUDA.

use candle_core::{DType, Result};

use super::{Block, MODULE, Saved};
use crate::batch_norm::cuda::{Norm, NormGradient, Rows, norm_back, norm_gradient, slope_sums};
use crate::cuda::{Arg, Buf, Grid, View, args};
use crate::depthwise::cuda as depthwise;
use crate::mbconv::plan::LayerPlaces;

impl Block<'_> {
    /// The gradient of the input; those of the parameters go to `grads`.
    pub(super) fn backward(&self, saved: Saved, dy: View, grads: View) -> Result<Buf> {
        let mut dwide = self.project(&saved, dy, grads)?;
        self.gate(&saved, &mut dwide, grads)?;
        let dx = self.gpu.uninit(self.dtype(), self.x.len)?;
        match (&self.places.expand, &saved.expand) {
            (Some(layer), Some(norm)) => self.expansion(layer, norm, &dwide, &dx, grads)?,
            _ => self.depthwise_alone(&dwide, &dx, grads)?,
        }
        if self.plan.residual {
            self.gpu.add(&dx, Arg::from(dy))?;
        }
        Ok(dx)
    }

    /// The gradients of a norm's parameters into their places.
    fn keep(
        &self,
        layer: &LayerPlaces,
        first: usize,
        own: &NormGradient,
        grads: View,
    ) -> Result<()> {
        self.gpu
            .copy_into(&own.gamma, grads, layer.gamma.start + first)?;
        self.gpu
            .copy_into(&own.beta, grads, layer.beta.start + first)
    }

    /// Through the projection; returns the gradient of the activated channels `[B, mid, voxels]`.
    fn project(&self, saved: &Saved, dy: View, grads: View) -> Result<Buf> {
        let (plan, gpu) = (self.plan, &self.gpu);
        let n = plan.geometry.out_voxels();
        let rows = self.rows_out(plan.c_out);
        let layer = &self.places.project;
        let norm = &saved.project;
        let dtype = self.dtype();
        let inputs = (Arg::from(dy), Arg::from(&saved.narrow), dtype);
        let (sums, _) = slope_sums(gpu, &rows, norm, inputs, false)?;
        let own = norm_gradient(gpu, &rows, norm, &sums, None)?;
        self.keep(layer, 0, &own, grads)?;
        let dnarrow = gpu.uninit(dtype, saved.narrow.len)?;
        norm_back(
            gpu,
            &rows,
            (norm, &own),
            inputs,
            false,
            None,
            Arg::from(&dnarrow),
        )?;

        let active = self.activated(&saved.depthwise, &saved.excite, &saved.wide)?;
        let left = |b: usize| dnarrow.at(b * plan.c_out * n);
        let right = |b: usize| active.at(b * plan.mid * n);
        let to = grads.at(layer.weight.start);
        self.outer_products((&left, plan.c_out), (&right, plan.mid), n, to)?;
        // The activated channels are needed no more: their gradient takes their place.
        let (_cast, w) = self.matrix(layer.weight.start, plan.c_out, plan.mid)?;
        let from = self.volumes(dnarrow.at(0), plan.c_out, n);
        let to = self.volumes(active.at(0), plan.mid, n);
        let sizes = [plan.mid, n, plan.c_out];
        gpu.gemm(w.t(), from, to, sizes, plan.batch, false)?;
        Ok(active)
    }

    /// Through the gate and the depthwise convolution's norm and activation, in place.
    fn gate(&self, saved: &Saved, dwide: &mut Buf, grads: View) -> Result<()> {
        let (plan, gpu) = (self.plan, &self.gpu);
        let rows = self.rows_out(plan.mid);
        let norm = &saved.depthwise;
        let inputs = (Arg::from(&*dwide), Arg::from(&saved.wide), self.dtype());
        let (sums, dgate) = slope_sums(gpu, &rows, norm, inputs, true)?;
        let dmean = self.excite_back(saved, &dgate, grads)?;
        let gate = Some((&saved.excite.gate, &dmean));
        let own = norm_gradient(gpu, &rows, norm, &sums, gate)?;
        self.keep(&self.places.depthwise, 0, &own, grads)?;
        let to = Arg::from(&*dwide);
        norm_back(gpu, &rows, (norm, &own), inputs, true, gate, to)
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
        let place = self.places.depthwise.weight.start;
        let sizes = self.sizes(self.plan.mid);
        let slope = (Arg::from(dwide), dwide.dtype);
        let dw = depthwise::grad_weight(&self.gpu, &sizes, self.input(), slope.0, None)?;
        self.gpu.copy_into(&dw, grads, place)?;
        let (w, to) = (self.weight(place), Arg::from(dx));
        depthwise::grad_input(&self.gpu, &sizes, slope, w, None, to)
    }

    /// The depthwise convolution and the expansion, a group of channels after the other.
    fn expansion(
        &self,
        layer: &LayerPlaces,
        norm: &Norm,
        dwide: &Buf,
        dx: &Buf,
        grads: View,
    ) -> Result<()> {
        let (plan, gpu, dtype) = (self.plan, &self.gpu, self.dtype());
        let (n, taps) = (plan.geometry.in_voxels(), plan.geometry.taps());
        for group in self.groups() {
            let (first, channels) = (group.start, group.len());
            let norm = norm.part(gpu, &group)?;
            let h = self.expanded(layer.weight.start, &group)?;
            let input = (Arg::from(&h), dtype);
            let sizes = self.sizes(channels);
            let slope = Arg::Ptr(dwide.at(first * plan.geometry.out_voxels()));
            let act = (&norm.scale, &norm.shift);
            let dw = depthwise::grad_weight(gpu, &sizes, input, slope, Some(act))?;
            let kernels = self.places.depthwise.weight.start + first * taps;
            gpu.copy_into(&dw, grads, kernels)?;
            // The gradient behind the activation's slope, of the norm's result.
            let dz = gpu.uninit(dtype, h.len)?;
            let behind = Some((input.0, act));
            let w = self.weight(kernels);
            depthwise::grad_input(gpu, &sizes, (slope, dtype), w, behind, Arg::from(&dz))?;
            self.expansion_norm(layer, first, &norm, (&h, &dz), grads)?;
            // `dz` is now the gradient of the expansion itself.
            let left = |b: usize| dz.at(b * channels * n);
            let right = |b: usize| self.x.at(b * plan.c_in * n);
            let weight = layer.weight.start + first * plan.c_in;
            let to = grads.at(weight);
            self.outer_products((&left, channels), (&right, plan.c_in), n, to)?;
            let (_cast, w) = self.matrix(weight, channels, plan.c_in)?;
            let from = self.volumes(dz.at(0), channels, n);
            let to = self.volumes(dx.at(0), plan.c_in, n);
            let sizes = [plan.c_in, n, channels];
            gpu.gemm(w.t(), from, to, sizes, plan.batch, first > 0)?;
        }
        Ok(())
    }

    /// Through the expansion's norm, in place over `dz`.
    fn expansion_norm(
        &self,
        layer: &LayerPlaces,
        first: usize,
        norm: &Norm,
        (h, dz): (&Buf, &Buf),
        grads: View,
    ) -> Result<()> {
        let rows: Rows = self.rows_in(norm.mean.len);
        let inputs = (Arg::from(dz), Arg::from(h), h.dtype);
        let (sums, _) = slope_sums(&self.gpu, &rows, norm, inputs, false)?;
        let own = norm_gradient(&self.gpu, &rows, norm, &sums, None)?;
        self.keep(layer, first, &own, grads)?;
        let to = Arg::from(dz);
        norm_back(&self.gpu, &rows, (norm, &own), inputs, false, None, to)
    }
}
