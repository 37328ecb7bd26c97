//! Random numbers that depend on nothing but a seed and a place: the same mask in forward, in a
//! recomputed forward, and in backward, on any number of threads.

/// 32 random bits for the element `index` of the stream `seed` (two rounds of a splitmix64 finaliser).
#[inline(always)]
pub(crate) fn bits(seed: u64, index: u64) -> u32 {
    let mut z = seed.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 32) as u32
}

/// Which elements a dropout of probability `p` keeps, and what the kept ones are multiplied by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    seed: u64,
    threshold: u32,
    pub(crate) scale: f32,
}

impl Keep {
    /// `p` must be in `[0, 1)`.
    pub(crate) fn new(p: f32, seed: u64) -> Self {
        // Seeds are often small and consecutive: spread them over the whole range.
        let seed = u64::from(bits(seed, 1)) << 32 | u64::from(bits(seed, 2));
        let threshold = (f64::from(p) * 4_294_967_296.0) as u32;
        Self {
            seed,
            threshold,
            scale: 1.0 / (1.0 - p),
        }
    }

    /// Seed of the stream that the mask is drawn from.
    #[cfg(feature = "cuda")]
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// Elements whose bits are below it are dropped.
    #[cfg(feature = "cuda")]
    pub(crate) fn threshold(&self) -> u32 {
        self.threshold
    }

    /// The factor of element `index`: 0 or `scale`.
    #[inline(always)]
    pub(crate) fn factor(&self, index: usize) -> f32 {
        if bits(self.seed, index as u64) >= self.threshold {
            self.scale
        } else {
            0.0
        }
    }
}
