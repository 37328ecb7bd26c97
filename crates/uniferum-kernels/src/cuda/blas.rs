//! Matrix products by cuBLAS.

use std::ffi::c_void;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::cublas::{result, sys};
use candle_core::{DType, Result};

use super::{Buf, Gpu, View};

/// Terms of a sum for each sample, below which outer products of all samples are computed at once.
///
/// Small ones fill a device only together. Of many terms a few samples are better taken one after the
/// other: cuBLAS divides the sum of one product among multiprocessors, but not those of a batch. Some
/// 5 ns a term of a batch stand against some 10 µs a product.
const ALONE: usize = 2048;

/// A row-major matrix of each sample, or its transpose.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mat {
    ptr: u64,
    dtype: DType,
    /// Elements from one row to the next as they lie in memory.
    row: usize,
    /// Elements from one sample to the next; 0 for one matrix shared by all.
    sample: usize,
    transposed: bool,
}

impl Mat {
    /// A matrix at an address, its rows `row` and its samples `sample` elements apart.
    pub(crate) fn new(ptr: u64, dtype: DType, row: usize, sample: usize) -> Self {
        Self {
            ptr,
            dtype,
            row,
            sample,
            transposed: false,
        }
    }

    /// The matrix of one sample.
    fn of(self, sample: usize) -> Self {
        Self {
            ptr: self.ptr + (sample * self.sample * self.dtype.size_in_bytes()) as u64,
            ..self
        }
    }

    pub(crate) fn t(self) -> Self {
        Self {
            transposed: !self.transposed,
            ..self
        }
    }

    fn operation(&self) -> sys::cublasOperation_t {
        if self.transposed {
            sys::cublasOperation_t::CUBLAS_OP_T
        } else {
            sys::cublasOperation_t::CUBLAS_OP_N
        }
    }

    fn kind(&self) -> sys::cudaDataType {
        match self.dtype {
            DType::BF16 => sys::cudaDataType::CUDA_R_16BF,
            _ => sys::cudaDataType::CUDA_R_32F,
        }
    }
}

/// Parameters as they are, of `f32`, and in the type of the activations, as products take them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weights {
    pub(crate) exact: View,
    rounded: View,
}

impl Weights {
    /// `rounded` is of [`Gpu::rounded`].
    pub(crate) fn new(exact: View, rounded: Option<&Buf>) -> Self {
        Self {
            exact,
            rounded: rounded.map_or(exact, View::from),
        }
    }

    /// The matrix of rows of `row` columns that begins at element `at`.
    pub(crate) fn matrix(&self, at: usize, row: usize) -> Mat {
        Mat::new(self.rounded.at(at), self.rounded.dtype, row, 0)
    }
}

impl Gpu {
    /// Parameters in the type of the activations, where that is another one.
    pub(crate) fn rounded(&self, exact: View, dtype: DType) -> Result<Option<Buf>> {
        let other = dtype != DType::F32;
        other.then(|| self.cast(exact, dtype)).transpose()
    }

    /// `a bᵀ`, of `[m, k]` and `[n, k]`, summed over samples into `to` `[m, n]` of `f32`.
    pub(crate) fn outer_products(
        &self,
        a: Mat,
        b: Mat,
        to: View,
        [m, n, k]: [usize; 3],
        samples: usize,
    ) -> Result<()> {
        if samples > 1 && k <= ALONE * samples {
            let each = self.uninit(DType::F32, samples * m * n)?;
            let own = Mat::new(each.at(0), DType::F32, n, m * n);
            self.gemm(a, b.t(), own, [m, n, k], samples, false)?;
            return self.column_sums(View::from(&each), to);
        }
        let to = Mat::new(to.at(0), DType::F32, n, 0);
        for sample in 0..samples {
            let (a, b) = (a.of(sample), b.of(sample));
            self.gemm(a, b.t(), to, [m, n, k], 1, sample > 0)?;
        }
        Ok(())
    }

    /// `c = a b`, or `c += a b` when `add`, for each of `samples`; `a` is `[m, k]`, `b`
    /// `[k, n]`, `c` `[m, n]` and not transposed. Sums are of `f32`.
    pub(crate) fn gemm(
        &self,
        a: Mat,
        b: Mat,
        c: Mat,
        [m, n, k]: [usize; 3],
        samples: usize,
        add: bool,
    ) -> Result<()> {
        if m == 0 || n == 0 || samples == 0 {
            return Ok(());
        }
        let (alpha, beta) = (1.0f32, if add { 1.0f32 } else { 0.0 });
        let number = |v: &f32| std::ptr::from_ref(v).cast::<c_void>();
        let blas = self.device.cublas_handle();
        // cuBLAS is column-major: it sees every matrix transposed, so that it is asked for
        // `cᵀ = bᵀ aᵀ`.
        //
        // SAFETY: the handle lives as long as the device; the callers, all in this crate, name
        // matrices of that size within arrays that live, and tests cover each of them.
        unsafe {
            result::gemm_strided_batched_ex(
                *blas.handle(),
                b.operation(),
                a.operation(),
                n as i32,
                m as i32,
                k as i32,
                number(&alpha),
                b.ptr as *const c_void,
                b.kind(),
                b.row as i32,
                b.sample as i64,
                a.ptr as *const c_void,
                a.kind(),
                a.row as i32,
                a.sample as i64,
                number(&beta),
                c.ptr as *mut c_void,
                c.kind(),
                c.row as i32,
                c.sample as i64,
                samples as i32,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .w()?;
        Ok(())
    }
}
