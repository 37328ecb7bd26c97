//! Inference of 3-D EfficientNets, and of transformers' linear maps, on the CPU.
//!
//! [`Network`] takes weights into which batch normalisation has been folded, packs them
//! once, and then maps images to features without further allocation.
//!
//! # How it works
//!
//! * Maps are stored in blocks of sixteen channels, so that every loop's innermost step is
//!   sixteen channels of one voxel: one AVX-512 register, two of AVX2, four of NEON. No size
//!   of the volume is too small or too odd for full vectors.
//! * A block's expansion and depthwise convolution run as one, a few planes at a time, so
//!   that the sixfold wider activations between them stay in the cache. The first block's
//!   expansion is the stem, whose result never exists as a whole.
//! * The means for squeeze-and-excitation are summed as the convolution writes its results;
//!   the gates scale the projection's weights, which costs nothing per voxel.
//! * Bias, SiLU and residual are applied while the sums are still in registers.
//! * In bf16 a machine word holds two input channels, or two neighbouring rows for the
//!   depthwise convolution, and AVX512-BF16 multiplies and adds both at once. Where the processor
//!   has AMX, that computes the products.
//!
//! # Example
//!
//! ```
//! use uniferum_kernels::infer::{Affine, Arena, Head, MbConv, Network, Precision, Stem};
//!
//! # fn main() -> uniferum_kernels::Result<()> {
//! let affine = |outputs: usize, inputs: usize| Affine {
//!     weight: vec![0.1; outputs * inputs],
//!     bias: vec![0.0; outputs],
//! };
//! let stem = Stem { inputs: 1, outputs: 8, conv: affine(8, 27) };
//! let block = MbConv {
//!     inputs: 8,
//!     middle: 8,
//!     squeezed: 2,
//!     outputs: 16,
//!     kernel: 3,
//!     stride: 1,
//!     skip: false,
//!     expand: None,
//!     depthwise: affine(8, 27),
//!     squeeze: affine(2, 8),
//!     excite: affine(8, 2),
//!     project: affine(16, 8),
//! };
//! let head = Head { inputs: 16, outputs: 32, conv: affine(32, 16) };
//! let network = Network::new(&stem, &[block], &head, Precision::F32)?;
//!
//! let sides = [8, 6, 4];
//! assert_eq!(network.grid(sides)?, [4, 3, 2]);
//! let (image, mut features) = (vec![0.5; 8 * 6 * 4], vec![0.0; 32 * 4 * 3 * 2]);
//! network.run(&mut Arena::new(), &image, sides, &mut features)?;
//! assert!(features.iter().all(|f| *f > 0.0));
//! # Ok(()) }
//! ```

pub(crate) mod amx;
mod arena;
mod block;
mod dense;
mod depthwise;
mod format;
mod network;
mod pack;
mod project;
mod rows;
mod shape;
mod spec;
mod stem;
mod wide;

pub use arena::Arena;
pub use dense::{DenseLayer, dense};
pub use network::Network;
pub use spec::{Affine, Head, MbConv, Precision, Stem};
