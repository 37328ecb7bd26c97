//! The linear map of a transformer on CUDA.

use candle_core::{DType, Result, Tensor};

use super::{Gpu, Mat, View, Weights, record3};

/// [`linear`](crate::linear) on CUDA: one product for all rows, and one for each gradient.
pub(crate) fn linear(
    op: &'static str,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
) -> Result<Tensor> {
    let (x, weight, bias) = (x.contiguous()?, weight.contiguous()?, bias.contiguous()?);
    let (n, k) = weight.dims2()?;
    let gpu = Gpu::of(op, &x)?;
    let y = {
        let (xs, w, b) = (gpu.read(&x)?, gpu.read_f32(&weight)?, gpu.read_f32(&bias)?);
        let rows = xs.len / k;
        let y = gpu.uninit(xs.dtype, rows * n)?;
        let rounded = gpu.rounded(View::from(&w), xs.dtype)?;
        let w = Weights::new(View::from(&w), rounded.as_ref()).matrix(0, k);
        let from = Mat::new(xs.at(0), xs.dtype, k, 0);
        let to = Mat::new(y.at(0), y.dtype, n, 0);
        gpu.gemm(from, w.t(), to, [rows, n, k], 1, false)?;
        gpu.add_bias(&y, View::from(&b), 1)?;
        y
    };
    let mut dims = x.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = n;
    }
    record3(
        op,
        y,
        dims,
        [&x, &weight, &bias],
        move |[x, weight, bias], dy| {
            let gpu = Gpu::of(op, dy)?;
            let (xs, w, dys) = (gpu.read(x)?, gpu.read_f32(weight)?, gpu.read(dy)?);
            let rows = xs.len / k;
            let slope = Mat::new(dys.at(0), dys.dtype, n, 0);
            let dx = || {
                let dx = gpu.uninit(xs.dtype, xs.len)?;
                let rounded = gpu.rounded(View::from(&w), xs.dtype)?;
                let w = Weights::new(View::from(&w), rounded.as_ref()).matrix(0, k);
                let to = Mat::new(dx.at(0), dx.dtype, k, 0);
                gpu.gemm(slope, w, to, [rows, k, n], 1, false)?;
                Result::Ok(dx.tensor(x.shape()))
            };
            let dw = || {
                let dw = gpu.uninit(DType::F32, n * k)?;
                let from = Mat::new(xs.at(0), xs.dtype, k, 0);
                let to = Mat::new(dw.at(0), DType::F32, k, 0);
                gpu.gemm(slope.t(), from, to, [n, k, rows], 1, false)?;
                Result::Ok(dw.tensor(weight.shape()))
            };
            let db = || {
                let db = gpu.uninit(DType::F32, n)?;
                gpu.column_sums(View::from(&dys), View::from(&db))?;
                Result::Ok(db.tensor(bias.shape()))
            };
            Ok([
                x.track_op().then(dx).transpose()?,
                weight.track_op().then(dw).transpose()?,
                bias.track_op().then(db).transpose()?,
            ])
        },
    )
}
