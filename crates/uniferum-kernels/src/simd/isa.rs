//! The instruction sets that kernels over [`Lanes`](super::Lanes) are compiled for.

use super::Simd;
use crate::infer::amx;

/// An instruction set that this processor has: a [`Simd`] and what comes on top of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Isa {
    simd: Simd,
    bf16: bool,
    tiles: bool,
}

impl Isa {
    /// The set of that name with all its extensions that this processor has, or the best one
    /// that there is when it has none of it.
    pub(crate) fn new(simd: Simd) -> Self {
        if !simd.is_available() {
            return Self::new(Simd::detect());
        }
        let bf16 = simd.has_bf16();
        // A set that was asked for by name comes without what that name does not say.
        let by_name = std::env::var_os("UNIFERUM_SIMD").is_some();
        Self {
            simd,
            bf16,
            tiles: bf16 && !by_name && amx::is_available(),
        }
    }

    pub(crate) fn simd(self) -> Simd {
        self.simd
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) fn bf16(self) -> bool {
        self.bf16
    }

    /// Whether products of bf16 words can be left to the matrix unit.
    pub(crate) fn tiles(self) -> bool {
        self.tiles
    }

    /// Every set, with and without its extensions.
    #[cfg(test)]
    pub(crate) fn all_available() -> Vec<Self> {
        let with = Simd::available().into_iter().map(Self::new);
        let without = |bf16, isa| Self {
            bf16,
            tiles: false,
            ..isa
        };
        with.flat_map(|isa| [without(false, isa), without(isa.bf16, isa), isa])
            .collect()
    }
}

/// Compiles one body over [`Lanes`](crate::simd::Lanes) for each instruction set.
///
/// `lane_dispatch! { unsafe fn name[P: Bound](args…) -> R = body; }` makes
/// `unsafe fn name<P: Bound>(isa: Isa, args…) -> R`, where `body` is an `#[inline(always)]`
/// function generic over the lanes first and `P` second (or over the lanes alone, for an
/// empty list). An [`Isa`](crate::simd::Isa) is only made for sets that are present.
macro_rules! lane_dispatch {
    ($(#[$meta:meta])* $vis:vis unsafe fn $name:ident[$($p:ident: $bound:path)?]($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident;) => {
        $(#[$meta])*
        $vis unsafe fn $name$(<$p: $bound>)?(isa: $crate::simd::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
            unsafe fn avx512_bf16$(<$p: $bound>)?($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function has the features; the caller vouches for the rest.
                unsafe { $body::<$crate::simd::Avx512Bf16, $($p)?>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            unsafe fn avx512$(<$p: $bound>)?($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function has the features; the caller vouches for the rest.
                unsafe { $body::<$crate::simd::Avx512, $($p)?>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn avx2$(<$p: $bound>)?($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function has the features; the caller vouches for the rest.
                unsafe { $body::<$crate::simd::Avx2, $($p)?>($($arg),*) }
            }
            // SAFETY: an `Isa` exists only for sets that the processor has; the caller
            // vouches for the rest.
            unsafe {
                match isa.simd() {
                    #[cfg(target_arch = "x86_64")]
                    $crate::simd::Simd::Avx512 if isa.bf16() => avx512_bf16$(::<$p>)?($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::simd::Simd::Avx512 => avx512$(::<$p>)?($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::simd::Simd::Avx2 => avx2$(::<$p>)?($($arg),*),
                    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
                    $crate::simd::Simd::Neon => $body::<$crate::simd::Neon, $($p)?>($($arg),*),
                    _ => $body::<$crate::simd::Scalar, $($p)?>($($arg),*),
                }
            }
        }
    };
}
pub(crate) use lane_dispatch;
