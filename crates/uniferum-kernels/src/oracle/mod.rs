//! Naive double-precision versions of the operations, which the tests compare with.
//!
//! Written for the eye: loops and formulas only, no shared code with the kernels.

mod conv;

pub use conv::*;
