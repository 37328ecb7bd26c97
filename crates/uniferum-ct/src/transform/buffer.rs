//! The smoothed field of a sample, kept for the next one.
//!
//! It is the largest array of the augmentation (72 MB), and the first touch of fresh memory costs about as
//! much as what is then written to it.

use std::sync::Mutex;

use ndarray::Array3;

/// Buffers that nobody uses at the moment.
static KEPT: Mutex<Vec<Vec<u16>>> = Mutex::new(Vec::new());
/// More samples at a time make their own.
const MOST: usize = 4;

/// An array of this shape with any content, for [`give_back`] when it is done with.
pub(super) fn take(shape: [usize; 3]) -> Array3<u16> {
    let kept = KEPT.lock().ok().and_then(|mut kept| kept.pop());
    let mut cells = kept.unwrap_or_default();
    let len = shape.iter().product();
    if cells.capacity() < len {
        cells = vec![0; len];
    }
    cells.resize(len, 0);
    Array3::from_shape_vec(shape, cells).expect("as many cells as the shape has")
}

/// Keeps the array's memory for the next sample.
pub(super) fn give_back(array: Array3<u16>) {
    if let Ok(mut kept) = KEPT.lock()
        && kept.len() < MOST
    {
        kept.push(array.into_raw_vec_and_offset().0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_in_any_shape() {
        let first = take([4, 5, 6]);
        assert_eq!(first.dim(), (4, 5, 6));
        give_back(first);
        for shape in [[2, 3, 1], [7, 8, 9], [4, 5, 6]] {
            let mut next = take(shape);
            assert_eq!(next.shape(), shape);
            next.fill(9);
            give_back(next);
        }
    }
}
