//! Randomness as a pure function of a seed and of what it is for.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What a stream of random numbers is used for; streams do not influence each other, so that a
/// patient stays the same on another scanner and with another finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Findings = 1,
    Patient = 2,
    LungTree = 3,
    Disease = 4,
    Outcome = 5,
    Scanner = 6,
    Texture = 7,
    Noise = 8,
    Cohort = 9,
}

/// A generator for one purpose.
pub(crate) fn stream(seed: u64, stream: Stream) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(key(seed, stream as u64))
}

/// A seed of its own for the `index`-th thing of one purpose.
pub(crate) fn key(seed: u64, index: u64) -> u64 {
    mix(seed ^ mix(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// The finaliser of SplitMix64: every input bit changes half of the output bits.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A nearly normal number of mean 0 and deviation 1 from a counter: four uniform numbers added.
pub(crate) fn normal_at(key: u64, counter: u64) -> f32 {
    let bits = mix(key ^ counter);
    let sum = (bits & 0xffff) + ((bits >> 16) & 0xffff) + ((bits >> 32) & 0xffff) + (bits >> 48);
    // The sum has mean 2·65535 and variance 4·65536²/12.
    (sum as f32 - 131_070.0) * (1.732_050_8 / 65_536.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_noise_is_standard() {
        let n = 200_000;
        let (mut sum, mut squares) = (0.0f64, 0.0f64);
        for i in 0..n {
            let x = f64::from(normal_at(7, i));
            sum += x;
            squares += x * x;
        }
        let mean = sum / n as f64;
        assert!(mean.abs() < 0.01, "{mean}");
        assert!((squares / n as f64 - 1.0).abs() < 0.02);
    }

    #[test]
    fn streams_differ() {
        use rand::Rng;
        let a: u64 = stream(1, Stream::Patient).random();
        let b: u64 = stream(1, Stream::Scanner).random();
        let c: u64 = stream(2, Stream::Patient).random();
        assert!(a != b && a != c && b != c);
        assert_eq!(a, stream(1, Stream::Patient).random::<u64>());
    }
}
