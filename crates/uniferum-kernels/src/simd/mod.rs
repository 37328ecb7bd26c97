//! Which vector instructions the kernels use, chosen once at run time.

mod isa;
mod lanes;
mod slices;

use std::sync::OnceLock;

use crate::error::{Result, invalid};

#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
pub(crate) use lanes::Neon;
#[cfg(target_arch = "x86_64")]
pub(crate) use lanes::{Avx2, Avx512, Avx512Bf16};

pub(crate) use isa::{Isa, lane_dispatch};
pub(crate) use lanes::{Lanes, Scalar};
pub(crate) use slices::*;

/// A set of vector instructions for which kernels exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Simd {
    /// Portable Rust, as the compiler's baseline target vectorises it.
    Scalar,
    /// AArch64 Advanced SIMD.
    Neon,
    /// x86-64 AVX2 with FMA.
    Avx2,
    /// x86-64 AVX-512 F, BW, DQ and VL.
    Avx512,
}

impl Simd {
    /// The best set that this processor has, or the one that the environment variable
    /// `UNIFERUM_SIMD` (`scalar`, `neon`, `avx2` or `avx512`) asks for where it is present.
    ///
    /// A name that cannot be followed is told on standard error, once, and the best set used;
    /// programs that would rather stop ask [`requested`](Self::requested) first.
    pub fn detect() -> Self {
        static DETECTED: OnceLock<Simd> = OnceLock::new();
        *DETECTED.get_or_init(|| {
            let available = Self::available();
            let best = *available.last().unwrap_or(&Simd::Scalar);
            match Self::requested() {
                Ok(requested) => requested.unwrap_or(best),
                Err(error) => {
                    eprintln!("{error}; using {}", best.name());
                    best
                }
            }
        })
    }

    /// The set that `UNIFERUM_SIMD` asks for; `None` when it is not set.
    ///
    /// # Errors
    /// When it names no set, or one that this processor has not.
    pub fn requested() -> Result<Option<Self>> {
        match std::env::var_os("UNIFERUM_SIMD") {
            None => Ok(None),
            Some(name) => Self::named(&name.to_string_lossy()).map(Some),
        }
    }

    fn named(name: &str) -> Result<Self> {
        let available = Self::available();
        let found = available.iter().copied().find(|s| s.name() == name);
        found.ok_or_else(|| {
            let names: Vec<_> = available.iter().map(|s| s.name()).collect();
            let expected = format!("one that this processor has ({})", names.join(", "));
            invalid(
                "UNIFERUM_SIMD",
                "instruction set",
                expected,
                format!("{name:?}"),
            )
        })
    }

    /// Every set that this processor has, the plainest first.
    pub fn available() -> Vec<Self> {
        let all = [Simd::Scalar, Simd::Neon, Simd::Avx2, Simd::Avx512];
        all.into_iter().filter(|simd| simd.is_available()).collect()
    }

    /// Whether this processor has the set.
    pub fn is_available(self) -> bool {
        match self {
            Simd::Scalar => true,
            Simd::Neon => cfg!(all(target_arch = "aarch64", target_feature = "neon")),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512 => {
                Simd::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Simd::Avx2 | Simd::Avx512 => false,
        }
    }

    /// Whether the set has a dot product of bf16 pairs here (AVX512-BF16), which doubles the
    /// speed of arithmetic in that format.
    pub fn has_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            self == Simd::Avx512 && self.is_available() && is_x86_feature_detected!("avx512bf16")
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            false
        }
    }

    /// The name as `UNIFERUM_SIMD` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Simd::Scalar => "scalar",
            Simd::Neon => "neon",
            Simd::Avx2 => "avx2",
            Simd::Avx512 => "avx512",
        }
    }
}

/// Compiles one body for each instruction set and dispatches on a [`Simd`] value.
///
/// `multiversion! { fn name(args…) -> R = body; }` makes `fn name(simd: Simd, args…) -> R`,
/// where `body` is an `#[inline(always)]` function generic over `const FMA: bool` that the
/// compiler vectorises anew in each copy.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident;) => {
        $(#[$meta])*
        $vis fn $name(simd: $crate::simd::Simd, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                $body::<true>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                $body::<true>($($arg),*)
            }
            match simd {
                // SAFETY: the guard has just checked that the processor has these features.
                #[cfg(target_arch = "x86_64")]
                set @ $crate::simd::Simd::Avx512 if set.is_available() => unsafe { avx512($($arg),*) },
                // SAFETY: the guard has just checked that the processor has these features.
                #[cfg(target_arch = "x86_64")]
                set @ $crate::simd::Simd::Avx2 if set.is_available() => unsafe { avx2($($arg),*) },
                #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
                $crate::simd::Simd::Neon => $body::<true>($($arg),*),
                _ => $body::<false>($($arg),*),
            }
        }
    };
}
pub(crate) use multiversion;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_named_or_refused() {
        assert_eq!(Simd::named("scalar").unwrap(), Simd::Scalar);
        for name in ["", "AVX2", "avx1024"] {
            let message = Simd::named(name).unwrap_err().to_string();
            assert!(
                message.contains("UNIFERUM_SIMD") && message.contains("scalar"),
                "{message}"
            );
        }
    }
}
