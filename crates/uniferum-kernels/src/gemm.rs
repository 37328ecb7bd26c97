//! Matrix products over borrowed, strided matrices.

use gemm::Parallelism;

/// Numbers that matrices are made of.
pub(crate) trait Number: Copy + 'static {
    const ONE: Self;
}

impl Number for f32 {
    const ONE: Self = 1.0;
}

impl Number for f64 {
    const ONE: Self = 1.0;
}

/// A strided view of a matrix inside a slice.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a, T = f32> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, T> Mat<'a, T> {
    /// A row-major matrix whose rows start `row_stride` elements apart.
    pub(crate) fn rows(data: &'a [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        Self {
            data,
            rows,
            cols,
            row_stride,
            col_stride: 1,
        }
    }

    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    fn span(&self) -> usize {
        span(self.rows, self.cols, self.row_stride, self.col_stride)
    }
}

/// Elements from the first to the last of a strided matrix.
fn span(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> usize {
    if rows == 0 || cols == 0 {
        0
    } else {
        (rows - 1) * row_stride + (cols - 1) * col_stride + 1
    }
}

/// `dst = a b`, or `dst += a b` when `add`; `dst` is row-major, its rows `dst_stride` apart.
pub(crate) fn gemm<T: Number>(
    a: Mat<'_, T>,
    b: Mat<'_, T>,
    dst: &mut [T],
    dst_stride: usize,
    add: bool,
    parallel: bool,
) {
    assert!(dst.len() >= span(a.rows, b.cols, dst_stride, 1));
    // SAFETY: `dst` is borrowed mutably and, as just checked, holds the whole product.
    unsafe { gemm_into(a, b, dst.as_mut_ptr(), dst_stride, add, parallel) }
}

/// As [`gemm`], into memory of which other threads may hold other columns.
///
/// # Safety
/// `dst` must be valid for reads and writes at `i * dst_stride + j` for every row `i` of `a`
/// and column `j` of `b`, and nobody else may access those elements meanwhile.
pub(crate) unsafe fn gemm_into<T: Number>(
    a: Mat<'_, T>,
    b: Mat<'_, T>,
    dst: *mut T,
    dst_stride: usize,
    add: bool,
    parallel: bool,
) {
    assert_eq!(a.cols, b.rows);
    assert!(a.data.len() >= a.span() && b.data.len() >= b.span());
    let parallelism = if parallel {
        Parallelism::Rayon(0)
    } else {
        Parallelism::None
    };
    // SAFETY: the spans of `a` and `b` were just checked against their slices; the caller
    // vouches for `dst`.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            dst,
            1,
            dst_stride as isize,
            add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            T::ONE,
            T::ONE,
            false,
            false,
            false,
            parallelism,
        );
    }
}
